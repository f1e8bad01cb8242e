"""A newer Slurm, 24.11 of Debian trixie, in a folder of its own that is cached outside the repository.

Its programs, and the jobs that they start, run in that folder by `chroot`, in a mount namespace that ends with the
cluster: so nothing of it is mixed with this machine's own Slurm, and nothing stays mounted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.slurm.cluster import Cluster, MissingSlurm

SUITE = "trixie"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurmrestd", "slurm-wlm-basic-plugins", "slurm-wlm-jwt-plugin",
            "python3")  # fmt: skip
CLIENTS = ("sbatch", "squeue", "scontrol", "scancel", "sacct", "srun", "sinfo")
WITHIN_S = 900.0


def install() -> Path:
    """Return the folder with the newer Slurm, made by debootstrap where it is missing.

    Raises:
        MissingSlurm: not possible here.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().resolve() / "dujiang" / "parts"
    root = cache / f"slurm-{SUITE}"
    if root.exists():
        return root
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingSlurm("the newer Slurm needs root and debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f"slurm-{SUITE}-", dir=cache))
    making.chmod(0o755)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    steps = [["apt-get", "install", "-y", "-qq", "--no-install-recommends", "debootstrap"]]
    if shutil.which("debootstrap"):
        steps = []
    steps.append(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(making)])
    for words in steps:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)
        if done.returncode:
            shutil.rmtree(making, ignore_errors=True)
            raise MissingSlurm(f"{words[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    making.rename(root)
    return root


class NewerCluster(Cluster):
    """A cluster of the newer Slurm."""

    rest_plugins = ("-s", "openapi/slurmctld", "-d", "v0.0.40,v0.0.41,v0.0.42")
    cgroups = "CgroupPlugin=disabled\n"

    def __init__(self, folder: Path, root: Path, *, shards: int = 0) -> None:
        super().__init__(folder, shards=shards)
        self.root, self.commands = root, folder / "bin"
        self._holder: subprocess.Popen[bytes] | None = None

    def _write(self) -> None:
        super()._write()
        shared = tempfile.gettempdir()
        mounts = "; ".join(
            f"mkdir -p {self.root}{path} && mount --rbind {path} {self.root}{path}"
            for path in (shared, "/dev", "/proc", "/sys")
        )
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"set -e; {mounts}; exec sleep infinity"]
        self._holder = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.commands.mkdir()
        for name in CLIENTS:
            wrapper = self.commands / name
            wrapper.write_text(f'#!/bin/sh\nexec {" ".join(self._line(name))} "$@"\n')
            wrapper.chmod(0o755)
        self.wait("the mounts", self._is_mounted)

    def _is_mounted(self) -> bool:
        assert self._holder is not None
        assert self._holder.poll() is None, "the folder of the newer Slurm cannot be used"
        return subprocess.run(self._line("test", "-e", "/sys/kernel"), check=False).returncode == 0

    def _line(self, program: str, *words: str, user: str = "") -> list[str]:
        if program == "munged":
            return super()._line(program, *words, user=user)
        assert self._holder is not None
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "chroot"]
        as_user = [f"--userspec={user}:nogroup", "--groups="] if user else []
        return [*inside, *as_user, str(self.root), program, *words]

    def _stop_all(self) -> None:
        try:
            super()._stop_all()
        finally:
            if self._holder is not None:
                self._holder.kill()
                self._holder.wait()
