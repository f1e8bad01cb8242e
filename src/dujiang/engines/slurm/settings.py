"""What can be set about a Slurm cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """A Slurm cluster, `[clusters.NAME.slurm]`: how it is reached and where attempts keep their files.

    Times are plain numbers of seconds here, sizes of bytes.
    """

    work_dir: str
    """Absolute folder that this machine and every node see under the same path. Output, exit codes and requests are
    files there, so it must outlive a node."""
    partition: str = ""
    """Where jobs go, and which nodes are shown; empty takes the cluster's default and shows every node."""
    account: str = ""
    """Of Slurm's accounting; empty takes the user's default."""
    qos: str = ""
    """Of Slurm's accounting; empty takes the user's default."""
    reservation: str = ""
    """In which jobs run: nodes outside it are closed to them. Nodes of other reservations are closed in any case, from
    their beginning to their end."""
    placement: Literal["pinned", "delegated"] = "pinned"
    """Whether jobs run exactly on the nodes that the platform chose, or Slurm has the last word among nodes that have
    the same features and devices. The ledger keeps what it chose."""
    sbatch_options: tuple[str, ...] = ()
    """Further options of every `sbatch`, such as `--exclude=old7`."""
    commands: str = ""
    """Folder of `sbatch`, `squeue`, `scontrol` and `scancel`; empty looks in PATH."""
    conf: str = ""
    """Path of slurm.conf (SLURM_CONF); empty leaves it to Slurm."""
    ssh: str = ""
    """`user@login-node`: run the commands there, without a password (`ssh -o BatchMode=yes`). The work folder must be
    mounted here all the same."""
    rest_url: str = ""
    """Of slurmrestd, `http://HOST:PORT`, `https://...` or `unix:/path`: what it can do is asked of it instead of the
    commands, which may then be missing here. Empty asks by commands alone."""
    rest_user: str = ""
    """Name in Slurm of the user that the platform runs as; empty takes the name here. Another user's jobs could not
    read what the platform writes into the work folder."""
    rest_token_file: str = ""
    """Holds a token of that user (`scontrol token`), readable by the platform's user alone; read again when it is
    another, so that something else can renew it."""
    rest_key_file: str = ""
    """The cluster's own key (jwt_hs256.key), with which short tokens are made here. Whoever reads it is root on the
    cluster: prefer a token."""
    rest_version: str = "auto"
    """Of its API, such as `v0.0.42`; `auto` takes the newest that it serves of those known here."""
    python: str = "python3"
    """Python 3.10 or newer on the nodes; it runs what watches over an attempt there."""
    shell: str = "/bin/sh"
    """Runs `setup` and `run` of jobs."""
    images: Literal["auto", "pyxis", "apptainer", "singularity", "none"] = "auto"
    """What runs jobs with an image on the nodes. `auto` takes pyxis where `srun` knows `--container-image`, else
    Apptainer or Singularity where the machine of `srun` has it; name it where only the nodes do."""
    container_options: tuple[str, ...] = ()
    """Further options of `apptainer exec`, or with pyxis of `srun`, such as `--container-remap-root`."""
    container_mounts: tuple[str, ...] = ()
    """Further folders of the nodes that images show under the same paths, such as where data sets lie."""
    allow_root: bool = False
    """Whether a platform that runs as root may submit; its jobs are then root's on every node."""
    run_as: Mapping[str, str] = field(default_factory=dict)
    """Users of Unix as whom projects' jobs run, such as `{vision = "alice", "*" = "guests"}`; `*` is for all projects
    that are not named. Empty runs all jobs as the platform's own user; else a project without a user is refused."""
    run_as_command: tuple[str, ...] = ("sudo", "-n", "-u", "{user}", "--")
    """What is put before `sbatch` and `scancel` of such a job; `{user}` stands for the user. Over REST tokens do it."""
    fractions: Literal["refuse", "whole", "shard", "mps"] = "refuse"
    """What becomes of a share of a device: refused; given a whole device in Slurm while only the share is counted here;
    or asked for as GRES `shard` or `mps`, which Slurm counts; with `mps` jobs are told their parts for
    NVIDIA's MPS."""
    vendor: str = "nvidia"
    """Of the cluster's accelerators: Slurm does not say."""
    device_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory by type of GRES, such as `{h100 = 85899345920}`: Slurm does not say. Without it a job that asks for device
    memory fits nowhere."""
    count_others: bool = True
    """Whether what Slurm gives to others is taken off what its nodes offer."""
    poll_s: float = 2.0
    """How old an answer of `squeue` may be. Too little loads the controller, too much notices ends late that left no
    file."""
    command_timeout_s: float = 30.0
    """How long a command may take before the cluster counts as unreachable."""
    facts_lag_s: float = 10.0
    """How long the end of a job may be known to Slurm before its file is seen here. Too little takes a slow shared
    folder for a lost attempt."""
    watch_s: float = 0.3
    """How often files of running attempts are looked at for news."""
    use_every_s: float = 30.0
    """How often a running attempt writes down what it uses. Too little loads the shared folder."""

    @property
    def shared_as(self) -> str:
        """Return the GRES by which Slurm counts shares of a device; empty where it gives whole ones."""
        return self.fractions if self.fractions in ("shard", "mps") else ""
