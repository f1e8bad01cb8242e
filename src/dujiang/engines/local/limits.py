"""Holds one rank to its CPU, memory and processes: a limit group where the engine found one writable, else rlimits.

What is available was found by the engine (`discovery`) and arrives here as a `LimitPlan`. Where there are no groups:
- memory is held by RLIMIT_DATA, per process, not per rank. Not by RLIMIT_AS: programs map far more address space than
  they use (a CUDA context maps hundreds of GiB), and would fail though they use little.
- CPU is held by binding to as many cores as the share rounds up to.
- processes are held by RLIMIT_NPROC, which counts those of the whole user and does not bind root.
Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PERIOD_US = 100_000
_SMALLEST_QUOTA_US = 1_000


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """Which limits this machine offers, and under which folders groups are made."""

    by: str
    """`cgroup-v2`, `cgroup-v1` or `rlimits`."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Controller (`memory`, `cpu`, `pids`) to the folder in which groups are made; the same folder thrice in v2."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the different parent folders, in a fixed order."""
        return tuple(sorted(set(self.parents.values())))


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank may use; 0 is no limit."""

    cpu_milli: int
    memory_bytes: int
    processes: int


class Group:
    """The limits of one rank. Made by the supervisor, joined by the rank before it runs anything."""

    def __init__(self, plan: LimitPlan, name: str, share: Share) -> None:
        self._plan, self._share, self._name = plan, share, name
        self.folders = tuple(f"{folder}/{name}" for folder in plan.folders)
        self._of = {controller: f"{parent}/{name}" for controller, parent in plan.parents.items()}

    def make(self) -> None:
        """Create the group and write its limits.

        Raises:
            OSError: the limits are not writable.
        """
        for folder in self.folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o755)
        for controller, settings in self._settings().items():
            if controller in self._of:
                for file, value in settings:
                    write(f"{self._of[controller]}/{file}", value)
        if "memory" in self._of:  # without this the kernel would swap instead of saying that memory is over
            with contextlib.suppress(OSError):
                self._forbid_swap()

    def join(self) -> None:
        """Put the calling process under the limits; everything it starts inherits them."""
        for folder in self.folders:
            write(f"{folder}/cgroup.procs", "0")
        if "memory" not in self._of and self._share.memory_bytes:
            limit_soft_and_hard(resource.RLIMIT_DATA, self._share.memory_bytes)
        if "cpu" not in self._of and self._share.cpu_milli:
            os.sched_setaffinity(0, choose_cores(sorted(os.sched_getaffinity(0)), self._share.cpu_milli, self._name))
        if "pids" not in self._of and self._share.processes and os.getuid() != 0:
            limit_soft_and_hard(resource.RLIMIT_NPROC, processes_of_user() + self._share.processes)

    def members(self) -> list[int]:
        """Return the processes in the group, empty without one."""
        for folder in self.folders[:1]:
            with contextlib.suppress(OSError):
                return [int(pid) for pid in read(f"{folder}/cgroup.procs").split()]
        return []

    def stop_growth(self) -> None:
        """Let the group's processes start nothing more, so that killing them comes to an end."""
        if "pids" in self._of:
            with contextlib.suppress(OSError):
                write(f"{self._of['pids']}/pids.max", "0")

    def oom_kills(self) -> int:
        """Return how many of the group's processes the kernel killed at its memory limit."""
        return self._counter("memory", {"cgroup-v1": "memory.oom_control", "cgroup-v2": "memory.events"}, "oom_kill")

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory the group ever held, None where nothing counts it."""
        file = {"cgroup-v1": "memory.max_usage_in_bytes", "cgroup-v2": "memory.peak"}.get(self._plan.by)
        if file is None or "memory" not in self._of:
            return None
        with contextlib.suppress(OSError, ValueError):
            return int(read(f"{self._of['memory']}/{file}"))
        return None

    def cpu_s(self) -> float | None:
        """Return the processor time that the group has used, None where nothing counts it."""
        if "cpu" not in self._of:
            return None
        if self._plan.by == "cgroup-v2":
            used_us = self._counter("cpu", {"cgroup-v2": "cpu.stat"}, "usage_usec")
            return used_us / 1e6 if used_us else None
        with contextlib.suppress(OSError, ValueError):  # the two controllers of version 1 mostly stand together
            return int(read(f"{self._of['cpu']}/cpuacct.usage")) / 1e9
        return None

    def counters(self) -> list[str]:
        """Return what the group counted, one readable line each, with the file it stands in."""
        lines: list[str] = []
        if self._share.memory_bytes and (kills := self.oom_kills()):
            peak = self.peak_memory_bytes()
            lines.append(
                f"{self._name}: oom_kill {kills}, peak {peak} of {self._share.memory_bytes} bytes allowed"
                f" ({self._of['memory']})"
            )
        refused = self._counter("pids", {"cgroup-v1": "pids.events", "cgroup-v2": "pids.events"}, "max")
        if refused:
            lines.append(f"{self._name}: {refused} forks refused at {self._share.processes} processes (pids.events)")
        throttled = self._counter("cpu", {"cgroup-v1": "cpu.stat", "cgroup-v2": "cpu.stat"}, "nr_throttled")
        if throttled:
            lines.append(f"{self._name}: throttled in {throttled} periods of {PERIOD_US // 1000} ms (cpu.stat)")
        return lines

    def remove(self) -> bool:
        """Remove the group; False while something is still in it."""
        removed = [remove_group(folder) for folder in self.folders]
        return all(removed)

    def _settings(self) -> dict[str, list[tuple[str, str]]]:
        share, settings = self._share, dict[str, list[tuple[str, str]]]()
        second = self._plan.by == "cgroup-v2"
        if share.memory_bytes:
            settings["memory"] = [("memory.max" if second else "memory.limit_in_bytes", str(share.memory_bytes))]
        if share.cpu_milli:
            quota = max(_SMALLEST_QUOTA_US, share.cpu_milli * PERIOD_US // 1000)
            settings["cpu"] = (
                [("cpu.max", f"{quota} {PERIOD_US}")]
                if second
                else [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
            )
        if share.processes:
            settings["pids"] = [("pids.max", str(share.processes))]
        return settings

    def _forbid_swap(self) -> None:
        if self._plan.by == "cgroup-v2":
            write(f"{self._of['memory']}/memory.swap.max", "0")
        elif self._share.memory_bytes:
            write(f"{self._of['memory']}/memory.memsw.limit_in_bytes", str(self._share.memory_bytes))

    def _counter(self, controller: str, files: Mapping[str, str], word: str) -> int:
        if controller not in self._of or self._plan.by not in files:
            return 0
        with contextlib.suppress(OSError):
            for line in read(f"{self._of[controller]}/{files[self._plan.by]}").splitlines():
                name, _, value = line.partition(" ")
                if name == word:
                    return int(value)
        return 0


def choose_cores(allowed: Sequence[int], cpu_milli: int, name: str) -> set[int]:
    """Return the cores for a share without a quota: as many as it rounds up to, spread over the machine by name."""
    count = min(len(allowed), max(1, -(-cpu_milli // 1000)))
    first = sum(name.encode()) % len(allowed)
    return {allowed[(first + nth) % len(allowed)] for nth in range(count)}


def limit_soft_and_hard(which: int, value: int) -> None:
    """Lower an rlimit for good; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (lowest, lowest))


def processes_of_user() -> int:
    """Return how many threads this user has running, which is what RLIMIT_NPROC counts."""
    count, uid = 0, os.getuid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{entry}/task"))
    return count


def remove_group(folder: str, patience_s: float = 0.2) -> bool:
    """Remove a limit group's folder; the kernel may need a moment after the last process went. False when in use."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        else:
            return True


def read(path: str) -> str:
    """Return the text of a small kernel file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
    finally:
        os.close(fd)


def write(path: str, value: str) -> None:
    """Write a value to a kernel file in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
