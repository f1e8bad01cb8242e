"""Reads /proc: who descends from whom, who catches which signal, who carries an attempt's mark.

Decides nothing. A process that goes away while it is read is left out. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

MARK = "DUJIANG_ATTEMPT_KEY"
"""Set in every process of an attempt to `HOMEMARK/JOB.NUMBER`, and inherited by what it starts."""

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started or adopted and that still exist, the dead unreaped too."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(int(number) for number in file.read().split())
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}/task"):  # the kernel was built without these files
            return [child for child in pids() if parent(child) == pid]
    except ProcessLookupError:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """Return everything below a process, parents before their children."""
    found, waiting = [], [pid]
    while waiting:
        below = children(waiting.pop(0))
        found.extend(below)
        waiting.extend(below)
    return found


def parent(pid: int) -> int:
    """Return the parent's number, 0 when the process is gone."""
    return int(status(pid).get("PPid", 0))


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status, empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def cpu_s(pids_: Iterable[int]) -> float:
    """Return the processor time of processes and of those that they waited for."""
    ticks = 0
    for pid in pids_:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_A_SECOND


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is not just waiting to be reaped."""
    return status(pid).get("State", "Z")[0] not in "ZX"


def catches(pid: int, number: int) -> bool:
    """Say whether a process has a handler of its own for a signal."""
    return bool(int(status(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)


def name(pid: int) -> str:
    """Return the short name of a process, empty when it is gone."""
    return status(pid).get("Name", "")


def pids() -> list[int]:
    """Return every process that can be seen."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def marked(home_mark: str) -> Iterator[tuple[int, str]]:
    """Yield process number and attempt key of every live process that carries a mark of this home."""
    wanted = f"{MARK}={home_mark}/".encode()
    for pid in pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
        except OSError:
            continue
        for entry in environ.split(b"\0"):
            if entry.startswith(wanted) and is_alive(pid):
                yield pid, entry[len(wanted) :].decode(errors="replace")
                break


def receivers(leader: int, number: int) -> list[int]:
    """Return who is to get a signal that is meant for the program which runs under a rank's first process.

    That first process is often only a shell that waits. So the tree is walked from the top, and whoever has a handler
    for the signal gets it, and nobody below them. When nobody has one, the first process gets it.
    """
    found, waiting = [], [leader]
    while waiting:
        pid = waiting.pop(0)
        if catches(pid, number):
            found.append(pid)
        else:
            waiting.extend(children(pid))
    return found or [leader]
