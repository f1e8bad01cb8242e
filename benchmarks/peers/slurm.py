"""The peer: Slurm on one node, tuned to start and end many short jobs: jobs start at once, nothing is accounted.

Three daemons of a scratch folder (munge, slurmctld, slurmd) on loopback ports, each started and stopped by its process
number. `config_overrides` lets the node offer more CPUs than the machine has.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from _bench import Missing, free_port, need_programs, stop

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurm-wlm-basic-plugins")
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONFIG = """\
ClusterName=bench
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=300
MaxJobCount=20000
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,default_queue_depth=1000,bf_interval=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={slurmd_port} CPUs={cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=512000
PartitionName=all Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A cluster of one node; a context manager."""

    def __init__(self, folder: Path, *, cpus: int) -> None:
        """Install what is missing.

        Raises:
            Missing: Slurm cannot be had here.
        """
        need_programs(PROGRAMS, PACKAGES)
        self._folder, self._cpus = folder, cpus
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self._script = folder / "true.sh"
        self.version = subprocess.run(
            [str(_path("slurmctld")), "-V"], capture_output=True, text=True, check=True
        ).stdout.strip()

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop()

    def submit(self) -> None:
        """Submit one job of `true`."""
        self._client("sbatch", "-n1", "--mem=64", "-o", "/dev/null", str(self._script))

    def submit_array(self, count: int) -> None:
        """Submit that many in one call."""
        self._client("sbatch", "-n1", "--mem=64", "-o", "/dev/null", f"--array=1-{count}", str(self._script))

    def has_jobs(self) -> bool:
        """Say whether anything waits or runs."""
        return bool(self._client("squeue", "-h", "-o", "%i", "-t", "PENDING,RUNNING,COMPLETING").strip())

    def check_all_completed(self, count: int) -> None:
        """Say so and stop when fewer have completed than were submitted since the last check."""
        file = self._folder / "completed"
        time.sleep(0.5)
        done = file.read_text().count("JobState=COMPLETED") if file.exists() else 0
        if done != count:
            raise SystemExit(f"Slurm completed {done} of {count} jobs; {self._folder}/slurmctld.log says more.")
        file.write_text("")

    def _start(self) -> None:
        for name in ("munge", "state", "spool"):
            (self._folder / name).mkdir()
        self._folder.chmod(0o755)
        (self._folder / "munge").chmod(0o711)
        key = self._folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._script.write_text("#!/bin/sh\ntrue\n")
        (self._folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=self._folder, user=getpass.getuser(), cpus=self._cpus, ctld_port=free_port(),
                slurmd_port=free_port(),
            )
        )  # fmt: skip
        (self._folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        munge = self._folder / "munge"
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={key}",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._wait("munge", lambda: (munge / "socket").exists())
        conf = str(self._folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-f", conf)
        self._daemon("slurmd", "-D", "-N", "n1", "-f", conf)
        self._wait("the node", lambda: self._client("sinfo", "-h", "-o", "%T", check=False).strip() == "idle")

    def _daemon(self, name: str, *words: str) -> None:
        with (self._folder / f"{name}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    [str(_path(name)), *words], env=self._env, stdout=output, stderr=output, start_new_session=True
                )
            )

    def _wait(self, what: str, is_so: object, patience_s: float = 30) -> None:
        assert callable(is_so)
        deadline = time.monotonic() + patience_s
        while not is_so():
            ended = [one for one in self._daemons if one.poll() is not None]
            if ended or time.monotonic() > deadline:
                said = "".join(path.read_text()[-600:] for path in sorted(self._folder.glob("*.out")))
                raise Missing(f"{what} of Slurm did not come up: {said.strip()}")
            time.sleep(0.1)

    def _client(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [str(_path(words[0])), *words[1:]], env=self._env, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise SystemExit(f"{words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _stop(self) -> None:
        for daemon in reversed(self._daemons):
            stop(daemon)


def _path(name: str) -> Path:
    found = shutil.which(name, path=SBIN)
    if found is None:
        raise Missing(f"{name} is not there.")
    return Path(found)
