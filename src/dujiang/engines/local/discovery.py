"""Finds out, by trying, which limits this machine lets the platform set, and what of the machine work may use.

Limit groups are looked for under the platform's own group first, so that whatever holds the platform holds its jobs
too, then at the top of the hierarchy. What is not writable is said in one sentence each, for `dujiang doctor`.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from dujiang.engines.contract import Isolation
from dujiang.engines.local.limits import LimitPlan, read, remove_group, write

CONTROLLERS = ("memory", "cpu", "pids")
_PROBE = "dujiang-probe"


@dataclass(frozen=True, slots=True)
class Found:
    """Which limits there are, how well they hold, and what is missing."""

    plan: LimitPlan
    isolation: Isolation
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where the kernel's limit groups are mounted, and where this process stands in them."""

    v2: str | None
    v1: dict[str, str]
    own: dict[str, str]
    """Controller, or `` for v2, to the path of this process's group within that mount."""


def find_limits(mark: str, *, allow_groups: bool = True, mounts: Mounts | None = None) -> Found:
    """Return the best limits this process may set; makes the parent folder `dujiang-MARK` where it can."""
    if not allow_groups:
        return _rlimits(("limit groups are switched off in the settings",))
    mounts = mounts or read_mounts()
    missing: list[str] = []
    second = _try_v2(mounts, mark, missing)
    if second:
        return Found(LimitPlan("cgroup-v2", dict.fromkeys(CONTROLLERS, second)), Isolation.ENFORCED)
    parents = {controller: parent for controller in CONTROLLERS if (parent := _try_v1(mounts, controller, mark))}
    if "memory" in parents:
        lacking = [controller for controller in CONTROLLERS if controller not in parents]
        missing += [f"the {name} limit group is not writable: {name} is held less strictly" for name in lacking]
        isolation = Isolation.ENFORCED if "cpu" in parents else Isolation.MEMORY_ONLY
        return Found(LimitPlan("cgroup-v1", parents), isolation, tuple(missing))
    for parent in parents.values():
        remove_group(parent)
    return _rlimits((*missing, "no writable limit group (cgroup) for memory: run as root or with a delegated group"))


def read_mounts() -> Mounts:
    """Return the mounted hierarchies of limit groups and this process's place in each."""
    second, first = None, dict[str, str]()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            second = where
        elif kind == "cgroup":
            first |= dict.fromkeys(set(options.split(",")) & set(CONTROLLERS), where)
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own |= dict.fromkeys(names.split(","), path)
    return Mounts(second, first, own)


def _rlimits(missing: tuple[str, ...]) -> Found:
    return Found(
        LimitPlan("rlimits"),
        Isolation.COUNTED_ONLY,
        (*missing, "memory is held per process (RLIMIT_DATA) and CPU by binding to cores, neither per job"),
    )


def _places(mount: str, own: str) -> list[str]:
    return list(dict.fromkeys(os.path.normpath(place) for place in (mount + "/" + own, mount)))


def _try_v1(mounts: Mounts, controller: str, mark: str) -> str | None:
    if controller not in mounts.v1:
        return None
    for place in _places(mounts.v1[controller], mounts.own.get(controller, "/")):
        parent = f"{place}/dujiang-{mark}"
        try:
            os.makedirs(f"{parent}/{_PROBE}", exist_ok=True)
            holds = os.path.exists(f"{parent}/{_PROBE}/cgroup.procs")
            remove_group(f"{parent}/{_PROBE}")
        except OSError:
            continue
        if holds:
            return parent
    return None


def _try_v2(mounts: Mounts, mark: str, missing: list[str]) -> str | None:
    """Make the parent in v2, where a group with processes in it can hand no controller down (except the top one)."""
    if mounts.v2 is None:
        return None
    for place in _places(mounts.v2, mounts.own.get("", "/")):
        with contextlib.suppress(OSError):
            offered = set(read(f"{place}/cgroup.controllers").split())
            if not offered.issuperset(CONTROLLERS):
                continue
            if not _hand_down(place) and not (_step_aside(place) and _hand_down(place)):
                missing.append(f"the limit group {place} holds other processes, so its controllers cannot be used")
                continue
            parent = f"{place}/dujiang-{mark}"
            os.makedirs(parent, exist_ok=True)
            if _hand_down(parent):
                return parent
    return None


def _hand_down(group: str) -> bool:
    try:
        write(f"{group}/cgroup.subtree_control", " ".join(f"+{controller}" for controller in CONTROLLERS))
    except OSError:
        return False
    return set(read(f"{group}/cgroup.subtree_control").split()).issuperset(CONTROLLERS)


def _step_aside(group: str) -> bool:
    """Move this process into a leaf of its own group; undone when others stay behind in it."""
    leaf = f"{group}/dujiang-platform"
    try:
        os.makedirs(leaf, exist_ok=True)
        write(f"{leaf}/cgroup.procs", str(os.getpid()))
        if not read(f"{group}/cgroup.procs").split():
            return True
        write(f"{group}/cgroup.procs", str(os.getpid()))
    except OSError:
        pass
    remove_group(leaf)
    return False
