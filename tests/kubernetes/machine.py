"""What stands for one machine of a test cluster: process numbers and mounts of its own, and processes in them.

A machine is held by one small process that reads from a pipe. When the pipe closes, because the machine is switched off
or because the tests died, the kernel ends every process of the machine and undoes its mounts: nothing is left over.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PACKAGES = {
    "containerd": "containerd", "ctr": "containerd", "runc": "runc", "busybox": "busybox-static", "ip": "iproute2",
}  # fmt: skip
CNI_PACKAGE, CNI_FOLDERS = "containernetworking-plugins", (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
HELD = "set -e; {mounts}echo up; read -r _ || true"
CGROUPS = "dujiang-test-"


class MissingMachine(Exception):
    """What a machine needs is not here and cannot be installed; the sentence says why."""


def install(*, containers: bool) -> None:
    """Install Debian's containerd and what it needs, where it is missing.

    Args:
        containers: whether they are wanted at all.

    Raises:
        MissingMachine: not possible here.
    """
    if os.geteuid() != 0:
        raise MissingMachine("only root can give processes a machine of their own, and run containers in it")
    packages = {package for name, package in PACKAGES.items() if not shutil.which(name, path=SEARCHED)}
    if cni_folder() is None:
        packages.add(CNI_PACKAGE)
    if not containers or not packages:
        return
    wanted = " ".join(sorted(packages))
    if shutil.which("apt-get") is None:
        raise MissingMachine(f"not installed, and there is no apt: {wanted}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *sorted(packages)]):
        done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingMachine(f"apt-get {words[0]} failed ({wanted}): {(done.stderr or done.stdout).strip()[-300:]}")


def cni_folder() -> Path | None:
    """Return where the plugins for networks of containers lie."""
    return next((path for path in CNI_FOLDERS if (path / "ptp").exists() and (path / "loopback").exists()), None)


class Machine:
    """One machine: boots, runs programs by name, loses its power."""

    def __init__(
        self, name: str, folder: Path, *, binds: Iterable[str] = (), scratch: Iterable[str] = (),
        shown: Mapping[str, Path] | None = None, link: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Say what is its own.

        Args:
            name: of the machine.
            folder: keeps what its disk keeps, and what its programs print.
            binds: folders of this system that are the machine's own, kept when its power goes.
            scratch: folders of this system that are the machine's own, and empty whenever it boots.
            shown: files or folders that the machine sees in place of those of this system.
            link: name and address of a network interface of this system that is there while the machine has power.
        """
        self.name, self.folder = name, folder
        self._binds, self._scratch, self._shown, self._link = tuple(binds), tuple(scratch), shown or {}, link
        self._holder: subprocess.Popen[bytes] | None = None
        self._inside = 0
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._words: dict[str, Sequence[str]] = {}

    @property
    def is_up(self) -> bool:
        """Whether it has power."""
        return self._holder is not None

    def boot(self) -> None:
        """Give it power; no program runs yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mounts = ""
        for place in self._binds:
            own = self.folder / "disk" / place.strip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            Path(place).mkdir(parents=True, exist_ok=True)
            mounts += f"mount --bind '{own}' '{place}'; "
        for place in self._scratch:
            Path(place).mkdir(parents=True, exist_ok=True)
            mounts += f"mount -t tmpfs -o mode=755 tmpfs '{place}'; "
        for place, source in self._shown.items():
            mounts += f"mount --bind '{source}' '{place}'; "
        words = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "slave", "--mount-proc"]
        if self._link:
            words.append("--net")  # of its holder alone: the interface has its other end in there, and goes with it
        script = HELD.format(mounts=mounts)
        self._holder = subprocess.Popen(
            [path_of("unshare"), *words, "--", "bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != b"up\n":
            self.power_off()
            raise MissingMachine(f"{self.name} does not boot: no namespaces or mounts are allowed here")
        self._inside = _child_of(self._holder)
        if self._link:
            self._make_link(*self._link)

    def power_off(self) -> None:
        """Take its power away: no program of it can still say or do anything."""
        if self._holder is None:
            return
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        self._holder.stdout.close()
        for program in self._programs.values():
            program.kill()
            program.wait()
        self._holder = None
        self._programs.clear()

    def start(self, name: str, words: Sequence[str] | None = None) -> None:
        """Start a program that stays; without words as it was started before."""
        assert name not in self._programs or self._programs[name].poll() is not None, f"{name} runs already"
        self._words[name] = words = words or self._words[name]
        with (self.folder / f"{name}.out").open("ab") as output:
            self._programs[name] = subprocess.Popen(
                self._enter(words), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a program and wait for its end, at most 20 s; then it is killed."""
        program = self._programs.pop(name)
        for signalled in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, IndexError):
                if program.poll() is None:
                    os.kill(_child_of(program), signalled)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(20)
                return
        program.kill()
        program.wait()

    def signal(self, name: str, number: int) -> None:
        """Send a running program a signal, as SIGSTOP for one that hangs."""
        os.kill(_child_of(self._programs[name]), number)

    def ended(self) -> dict[str, int]:
        """Return the programs that ended by themselves, with their exit status."""
        return {name: program.returncode for name, program in self._programs.items() if program.poll() is not None}

    def run(self, *words: str, stdin: bytes | None = None, within_s: float = 120) -> str:
        """Run a program to its end; returns what it prints.

        Raises:
            AssertionError: it failed.
        """
        done = subprocess.run(self._enter(words), input=stdin, capture_output=True, timeout=within_s, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise AssertionError(f"{self.name}: {' '.join(words)}: {said}")
        return done.stdout.decode()

    def last_words(self, characters: int = 1200) -> str:
        """Return the end of what each program printed."""
        return "\n".join(f"-- {path}\n{_end_of(path, characters)}" for path in sorted(self.folder.glob("*.out")))

    def _make_link(self, name: str, address: str) -> None:
        other_end = ["peer", "name", "end", "netns", str(self._inside)]
        for words in (
            ["link", "add", name, "type", "veth", *other_end],
            ["addr", "add", f"{address}/32", "dev", name],
            ["link", "set", name, "up"],
        ):
            done = subprocess.run([path_of("ip"), *words], capture_output=True, text=True, check=False)
            if done.returncode:
                self.power_off()
                raise MissingMachine(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def _enter(self, words: Sequence[str]) -> list[str]:
        assert self._holder is not None, f"{self.name} has no power"
        return [path_of("nsenter"), f"--target={self._inside}", "--mount", "--pid", "--", path_of(words[0]), *words[1:]]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the system gives to clients: a restart finds them free."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def network_of(port: int) -> str:
    """Return the first three numbers of addresses that go with a port of `free_ports`, and with no other."""
    return f"10.{128 + (port >> 8)}.{port & 255}"


def path_of(name: str) -> str:
    """Return where a program lies.

    Raises:
        MissingMachine: it is not there.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise MissingMachine(f"{name} is not there")
    return found


def cgroup_mounts() -> list[tuple[Path, str]]:
    """Return each hierarchy of control groups: where it is, and its kind."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [(Path(words[1]), words[2]) for words in lines if words[2] in {"cgroup", "cgroup2"}]


def make_cgroup(name: str) -> None:
    """Make a control group of this name in every hierarchy, as a kubelet wants it."""
    for mount, kind in cgroup_mounts():
        group = mount / name
        group.mkdir(exist_ok=True)
        if kind == "cgroup2" and mount == Path("/sys/fs/cgroup"):
            offered = (mount / "cgroup.controllers").read_text().split()
            for place in (mount, group):
                (place / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in offered))
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if kind == "cgroup" and (group / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((mount / setting).read_text())


def remove_cgroups(prefix: str, within_s: float = 10) -> None:
    """Remove all control groups whose name begins so; their processes are gone or about to be."""
    deadline = time.monotonic() + within_s
    while left := [path for mount, _ in cgroup_mounts() for path in mount.glob(f"{prefix}*")]:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        if time.monotonic() > deadline:
            raise AssertionError(f"control groups are left over: {left}")
        time.sleep(0.05)


def remove_stale_cgroups() -> None:
    """Remove control groups of test runs that died."""
    for mount, _ in cgroup_mounts():
        for path in mount.glob(f"{CGROUPS}*"):
            owner = path.name.removeprefix(CGROUPS).partition("-")[0]
            if not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(AssertionError):
                    remove_cgroups(path.name, 0)


def _child_of(process: subprocess.Popen[bytes]) -> int:
    """Return the process that `unshare` or `nsenter` made; it may take a moment to be there."""
    deadline = time.monotonic() + 5
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            return int(children[0])
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    raise ProcessLookupError(process.pid)


def _end_of(path: Path, characters: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - characters))
        return file.read().decode(errors="replace").strip()
