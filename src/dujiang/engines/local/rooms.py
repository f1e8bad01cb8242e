"""The containers of an attempt with an image: made by a runtime, entered by the attempt's own processes.

The runtime's container only waits. A process of the attempt is forked by the supervisor like any other, put under its
limits, and joins the container's mount namespace before it starts its program there: so it stays the supervisor's own
child, with its exact exit status and signals, its limits and its output, and dies with the supervisor. Secrets are in
its environment and nowhere else. Nothing that the runtime started is among the attempt's processes.

An image is an environment, not a wall: what runs in it has the rights of the platform's user, as without an image.
Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from dujiang.engines.local import containers
from dujiang.engines.local.containers import Plan, Runtime
from dujiang.engines.local.home import Home, read_whole, remove, write_whole
from dujiang.engines.local.linux import die_with_parent, set_namespace
from dujiang.engines.local.ranks import LaunchFailure

_ANSWERS_WITHIN_S = 30.0
_STARTS_WITHIN_S = 10.0
_LONGEST_COMPLAINT = 1500
Call = Callable[[list[str], str, Mapping[str, str]], int | None]
"""Runs a command with its output appended to a file; returns the exit status, None when the attempt is to stop."""


class Rooms:
    """The containers of one attempt, one for each rank."""

    def __init__(self, home: Home, key: str, launch: Mapping[str, Any]) -> None:
        self._home, self._key, self._launch = home, key, launch
        self._image: str = launch["image"]["reference"]
        self._runtime = Runtime.of(launch["image"]["runtime"])
        self._holds: list[int] = []
        self._made: dict[int, Plan] = {}
        self._inside: dict[int, list[tuple[int, int]]] = {}
        """By rank: descriptors of namespaces with what they are, in the order to join them."""
        self._environments: dict[int, dict[str, str]] = {}
        self._supervisor = os.getpid()

    @property
    def folder(self) -> str:
        """Return the folder of the attempt that can be seen inside."""
        return f"{self._home.folder(self._key)}/room"

    def make(self, call: Call) -> bool:
        """Fetch the image where it is missing and make the containers; False when the attempt is to stop meanwhile.

        Raises:
            LaunchFailure: not to be had; with the runtime's own words.
        """
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        os.makedirs(self._home.rooms, mode=0o700, exist_ok=True)
        if not self._is_here() and not self._fetch(call):
            return False
        return all(self._make(rank, call) for rank in self._launch["ranks"])

    def environment(self, rank: int) -> dict[str, str]:
        """Return what the image sets, and what of the machine goes with it."""
        return containers.image_environment(os.environ, self._environments[rank])

    def enter(self, rank: int) -> None:
        """Make the calling process see the rank's container as its file system.

        Raises:
            OSError: not allowed.
        """
        for fd, kind in self._inside[rank]:
            set_namespace(fd, kind)
        die_with_parent(signal.SIGKILL)  # a change of rights takes that back
        if os.getppid() != self._supervisor:
            os._exit(127)

    def close(self) -> list[str]:
        """Remove the containers; return what could not be removed, with why."""
        for fd in (*self._holds, *(fd for entries in self._inside.values() for fd, _ in entries)):
            os.close(fd)
        self._holds, self._inside = [], {}
        told = [discard(self._home, plan.name) for plan in self._made.values()]
        self._made = {}
        return [one for one in told if one]

    # -- the image ----------------------------------------------------------------------------------------------------

    def _is_here(self) -> bool:
        status, said = run(containers.is_here(self._runtime, self._image), self._runtime.env)
        return status == 0 and bool(said.strip())

    def _fetch(self, call: Call) -> bool:
        output = self._home.output(self._key, 0)
        progress = f"{self._home.folder(self._key)}/image.log" if self._runtime.name == "containerd" else output
        _append(output, f"[dujiang] fetching the image {self._image} with {self._runtime.name}\n")
        begin = _size(progress)
        status = call(containers.fetch(self._runtime, self._image), progress, self._runtime.env)
        if status:
            raise LaunchFailure(f"the image {self._image} cannot be had: {self._told(progress, begin, status)}")
        return status == 0

    # -- containers ---------------------------------------------------------------------------------------------------

    def _make(self, rank: Mapping[str, Any], call: Call) -> bool:
        number, log = int(rank["rank"]), f"{self._home.folder(self._key)}/room-{rank['rank']}.log"
        plan = self._plan(rank)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(plan.hold, 0o600)
        # Read and write, so that it opens at once; never handed on, so that it closes with this process.
        self._holds.append(os.open(plan.hold, os.O_RDWR | os.O_CLOEXEC))
        record = {"key": self._key, "runtime": self._launch["image"]["runtime"]}
        write_whole(f"{self._home.rooms}/{plan.name}", record)
        self._made[number] = plan
        status = call(containers.make(self._runtime, plan, _cdi() if plan.devices else ""), log, self._runtime.env)
        if status:
            told = self._told(log, 0, status)
            raise LaunchFailure(f"{self._runtime.name} cannot make a container of {self._image}: {told}")
        if status is None:
            return False
        self._open(number, plan)
        return True

    def _plan(self, rank: Mapping[str, Any]) -> Plan:
        inputs = [str(wanted["path"]) for wanted in self._launch["inputs"]]
        there = [path for path in inputs if os.path.isabs(path) and os.path.exists(path)]
        name = containers.container_name(self._launch["mark"], self._key, int(rank["rank"]))
        return Plan(
            name=name,
            image=self._image,
            hold=f"{self.folder}/hold-{rank['rank']}",
            mounts=containers.mounted(
                self._launch, [self.folder, self._home.output_dir(self._key), *self._launch["image"]["mounts"]], there
            ),
            devices=tuple((str(device["name"]), int(device["index"])) for device in rank["devices"]),
            pid_file=f"{self._home.folder(self._key)}/room-{rank['rank']}.pid",
        )

    def _open(self, number: int, plan: Plan) -> None:
        pid = self._pid(plan)
        if not _is_waiting(pid, plan.hold):
            raise LaunchFailure(f"the container of {self._image} was over at once: it needs {containers.SHELL}")
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                pairs = (entry.partition(b"=") for entry in file.read().split(b"\0") if entry)
                self._environments[number] = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
            wanted = [("user", _NEW_USER), ("mnt", _NEW_MOUNTS)]
            others = [one for one in wanted if one[0] == "mnt" or _is_other(pid, one[0])]
            self._inside[number] = [
                (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in others
            ]
        except OSError as error:
            raise LaunchFailure(
                f"the container of {self._image} cannot be entered ({error.strerror}): the platform must be root, or "
                "the one whose podman it is"
            ) from error

    def _pid(self, plan: Plan) -> int:
        asked = containers.ask_pid(self._runtime, plan)
        if asked:
            _, said = run(asked, self._runtime.env)
        else:
            said = _tail(plan.pid_file, 0)
        words = said.split()
        if not words or not words[0].isdigit() or words[0] == "0":
            raise LaunchFailure(
                f"the container of {self._image} was over at once ({said.strip()[:200]}): it needs {containers.SHELL}"
            )
        return int(words[0])

    def _told(self, path: str, begin: int, status: int) -> str:
        lines = [line.strip() for line in _tail(path, begin).splitlines() if line.strip()]
        return " / ".join(lines[-4:])[-_LONGEST_COMPLAINT:] or f"{self._runtime.words[0]} ended with {status}"


_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000


def discard(home: Home, name: str) -> str:
    """Remove a container that was written down; returns why it could not be, empty when it is gone."""
    record = read_whole(f"{home.rooms}/{name}")
    if record is None:
        return ""
    runtime, told = Runtime.of(record["runtime"]), ""
    for words in containers.removals(runtime, name):
        status, said = run(words, runtime.env)
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while status and containers.is_going(said) and time.monotonic() < deadline:
            time.sleep(0.05)
            status, said = run(words, runtime.env)
        told = "" if status == 0 or containers.is_gone(said) else said.strip()[-300:] or f"status {status}"
    if told:
        return f"the container {name} could not be removed: {told}"
    remove(f"{home.rooms}/{name}")
    return ""


def sweep(home: Home, is_watched: Callable[[str], bool]) -> list[str]:
    """Remove the containers of attempts that nobody watches over; returns what could not be removed."""
    with contextlib.suppress(FileNotFoundError):
        names = sorted(name for name in os.listdir(home.rooms) if not name.endswith(".tmp"))
        left = [name for name in names if not is_watched(str((read_whole(f"{home.rooms}/{name}") or {}).get("key")))]
        return [told for name in left if (told := discard(home, name))]
    return []


def run(words: list[str], env: Mapping[str, str], within_s: float = _ANSWERS_WITHIN_S) -> tuple[int, str]:
    """Run a command that answers soon; returns its exit status and what it printed."""
    import subprocess  # heavy, and few attempts have an image: not for every supervisor to carry

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def unblock() -> None:  # in the supervisor, which has one thread
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    try:
        done = subprocess.run(
            words, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=within_s, cwd="/", start_new_session=True,
            preexec_fn=unblock if blocked else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"{words[0]} did not answer within {within_s:g} s"
    except OSError as error:
        return 127, f"{words[0]}: {error.strerror}"
    return done.returncode, done.stdout.decode(errors="replace")


def _is_waiting(pid: int, hold: str) -> bool:
    """Wait until the container's process is the shell that waits: until then it has not the image's environment."""
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if os.fsencode(hold) in file.read().split(b"\0"):
                    return True
        except OSError:
            return False
        time.sleep(0.005)
    return False


def _is_other(pid: int, namespace: str) -> bool:
    return os.stat(f"/proc/{pid}/ns/{namespace}").st_ino != os.stat(f"/proc/self/ns/{namespace}").st_ino


def _cdi() -> str:
    """Return what the machine's CDI specifications say, all in one."""
    found: list[str] = []
    for folder in ("/etc/cdi", "/var/run/cdi"):
        with contextlib.suppress(OSError):
            found += [_tail(f"{folder}/{name}", 0, 1 << 22) for name in sorted(os.listdir(folder))]
    return "\n".join(found)


def _append(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
        file.write(text)


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0


def _tail(path: str, begin: int, most: int = 65536) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(begin, os.fstat(file.fileno()).st_size - most))
        return file.read(most).decode(errors="replace")
    return ""
