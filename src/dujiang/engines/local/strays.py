"""Finds and ends what an attempt left behind when its supervisor was killed: by its limit group, and by its mark.

The mark is a variable in the environment that everything the attempt starts inherits. Without limit groups, a process
that both wiped its environment and outlived its supervisor is not found.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dujiang.engines.local import procfs
from dujiang.engines.local.limits import read, remove_group, write


@dataclass(frozen=True, slots=True)
class Stray:
    """A live process of an attempt that nobody watches over."""

    pid: int
    key: str
    name: str


def find(mark: str, parents: Sequence[str], is_watched: Callable[[str], bool]) -> list[Stray]:
    """Return every process of this home's attempts that has no live supervisor. Cost: one look at every process."""
    found = {pid: key for pid, key in procfs.marked(mark) if not is_watched(key)}
    for folder, key in _groups(parents):
        if not is_watched(key):
            found |= {pid: key for pid in _members(folder) if procfs.is_alive(pid)}
    return [Stray(pid, key, procfs.name(pid)) for pid, key in sorted(found.items())]


def sweep(
    mark: str, parents: Sequence[str], is_watched: Callable[[str], bool], *, patience_s: float = 5.0
) -> tuple[list[Stray], bool]:
    """Kill all strays and remove their limit groups; returns who was killed, and whether all of them are gone."""
    killed: dict[int, Stray] = {}
    deadline = time.monotonic() + patience_s
    for folder, key in _groups(parents):
        if not is_watched(key):
            with contextlib.suppress(OSError):
                write(f"{folder}/pids.max", "0")
    while strays := find(mark, parents, is_watched):
        for stray in strays:
            killed[stray.pid] = stray
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stray.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return list(killed.values()), False
        time.sleep(0.005)
    for folder, key in list(_groups(parents)):
        if not is_watched(key):
            remove_group(folder)
    return list(killed.values()), True


def _groups(parents: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yield the folder of each rank's limit group with the attempt's key; groups are named JOB.NUMBER.RANK."""
    for parent in parents:
        with contextlib.suppress(OSError):
            for entry in sorted(os.scandir(parent), key=lambda entry: entry.name):
                key, _, rank = entry.name.rpartition(".")
                if entry.is_dir(follow_symlinks=False) and rank.isdigit() and "." in key:
                    yield entry.path, key


def _members(folder: str) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in read(f"{folder}/cgroup.procs").split()]
    return []
