"""Container runtimes of a scratch folder: podman with its own storage, containerd and Docker with their own daemons."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.containers.images import PYTHON, write_bare, write_python

PROGRAMS = ("podman", "runc", "containerd", "ctr", "dockerd", "docker", "busybox")
PACKAGES = ("podman", "crun", "runc", "containerd", "docker.io", "iptables", "busybox-static")
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
WITHIN_S = 60.0
CONTAINERD = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/socket"
"""


class MissingRuntime(Exception):
    """The runtimes are not here and cannot be installed; the sentence says why."""


def install() -> None:
    """Install Debian's runtimes where they are missing; nothing is started.

    Raises:
        MissingRuntime: not possible here.
    """
    if os.geteuid() != 0:
        raise MissingRuntime("only root may enter containers and start their daemons")
    if all(shutil.which(name, path=SEARCHED) for name in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise MissingRuntime(f"no container runtimes, and no apt to install them: {' '.join(PACKAGES)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(words, env=quiet, capture_output=True, text=True, timeout=400, check=False)
        if done.returncode:
            raise MissingRuntime(f"`{' '.join(words)}` failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")


class Daemon:
    """A program that serves until it is told to end, by its number."""

    def __init__(self, words: list[str], log: Path, answers: Callable[[], bool]) -> None:
        with log.open("ab") as said:
            self._process = subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)
        deadline = time.monotonic() + WITHIN_S
        while not answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise MissingRuntime(f"{words[0]} does not serve: {log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


class Store:
    """One runtime with the tests' images in it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self._daemons: list[Daemon] = []
        self.options: tuple[str, ...] = ()
        """What the engine's setting `container_options` is to hold."""

    def __enter__(self) -> Store:
        self._folder.mkdir(parents=True)
        {"podman": self._podman, "containerd": self._containerd, "docker": self._docker}[self.name]()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for daemon in reversed(self._daemons):
            daemon.stop()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(f"{self._folder}/"):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *words: str) -> str:
        """Return what the runtime's command says."""
        command = {"podman": "podman", "containerd": "ctr", "docker": "docker"}[self.name]
        done = subprocess.run(
            [command, *self.options, *words], capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
        assert done.returncode == 0, f"{command} {' '.join(words)}: {done.stderr}"
        return done.stdout

    def containers(self) -> list[str]:
        """Return the containers that there are, running or not."""
        if self.name == "containerd":
            return [*self.run("containers", "ls", "-q").split(), *self.run("tasks", "ls", "-q").split()]
        return self.run("ps", "--all", "--format", "{{.Names}}").split()

    def _load(self) -> None:
        words = ("images", "import") if self.name == "containerd" else ("load", "--input")
        for write in (write_python, write_bare):
            archive = self._folder / "image.tar"
            write(archive)
            self.run(*words, str(archive))
            archive.unlink()

    def _podman(self) -> None:
        storage = ("--root", f"{self._folder}/storage", "--runroot", f"{self._folder}/run")
        self.options = storage
        self._load()
        for name in ("crun", "runc"):  # crun refuses machines whose limit groups are of both versions
            self.options = (*storage, "--runtime", name)
            words = ["podman", *self.options, "run", "--rm", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
            if subprocess.run([*words, PYTHON, "/bin/true"], capture_output=True, check=False).returncode == 0:
                return
        raise MissingRuntime("podman runs nothing here, neither with crun nor with runc")

    def _containerd(self) -> None:
        self.options = ("--address", f"{self._folder}/socket")
        (self._folder / "config.toml").write_text(CONTAINERD.format(folder=self._folder))
        words = ["containerd", "--config", f"{self._folder}/config.toml"]
        self._daemons.append(Daemon(words, self._folder / "log", lambda: self._answers("version")))
        self._load()

    def _docker(self) -> None:
        self.options = ("--host", f"unix://{self._folder}/socket")
        words = [
            "dockerd", "--data-root", f"{self._folder}/data", "--exec-root", f"{self._folder}/exec", "--bridge", "none",
            "--iptables=false", "--ip6tables=false", "--host", f"unix://{self._folder}/socket",
            "--pidfile", f"{self._folder}/pid",
        ]  # fmt: skip
        self._daemons.append(Daemon(words, self._folder / "log", lambda: self._answers("info")))
        self._load()

    def _answers(self, word: str) -> bool:
        command = {"containerd": "ctr", "docker": "docker"}[self.name]
        done = subprocess.run([command, *self.options, word], capture_output=True, timeout=WITHIN_S, check=False)
        return done.returncode == 0 and b"ERROR" not in done.stdout
