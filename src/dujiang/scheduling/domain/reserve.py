"""When the first job that waits for room will have it, and what must stay free for it until then.

The rule (EASY, Lifka 1995, with unknown ends): running jobs are let end in the order of their known ends, then those of
unknown end by when they started. The job gets the best place at the first moment it fits: its target. What starts
meanwhile must either leave the target free, or be over by that moment; where the moment is unknown, only the former.

Why nobody starves: what starts later either does not touch the target or is gone before it is needed, and stands last
in the order of unknown ends. So the set of jobs waited for never grows, each of them ends some day, and nobody
overtakes the head on its target. The next in line then becomes the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from dujiang.scheduling.domain.fleet import BoolArray, Fleet
from dujiang.scheduling.domain.request import Shape
from dujiang.scheduling.domain.room import Fit, Room, find
from dujiang.scheduling.domain.snapshot import Holding

_FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A prepared start."""

    at: datetime | None
    """When it fits at the latest; None when it waits for jobs of unknown end."""
    awaited: str
    """The last job that must end before."""
    late: Room
    """What may be taken without touching the target, also by jobs that never end."""


def release_order(holding: Holding) -> tuple[datetime, datetime, str]:
    """Return the sort key in which running jobs are let end: known ends first, then the longest running."""
    return holding.ends_at or _FAR, holding.started_at, holding.job_id


def reserve(
    room: Room, holdings: Sequence[Holding], shape: Shape, allowed: BoolArray, now: datetime
) -> Reservation | None:
    """Return the reservation of a shape that does not fit now; None when it would not fit even if all jobs ended.

    Args:
        room: what is free now.
        holdings: everything that runs, also what was started in this very plan.
        shape: what to reserve for.
        allowed: (n) nodes that it may use.
        now: no reserved start is before this.

    Cost: O(log(holdings)) placements.
    """
    ordered = sorted(holdings, key=release_order)
    releases = _Releases(room.fleet, ordered)
    low, high = 0, len(ordered)  # it does not fit after `low` releases, and does after `high`
    best = _try(releases.after(room, high), shape, allowed)
    if best is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        better = _try(releases.after(room, middle), shape, allowed)
        low, high, best = (low, middle, better) if better else (middle, high, best)
    after, fit = best
    last = ordered[high - 1]
    after.take(fit)
    late = Room(
        room.fleet, np.minimum(room.node, after.node), np.minimum(room.milli, after.milli),
        np.minimum(room.memory, after.memory),
    )  # fmt: skip
    return Reservation(max(now, last.ends_at) if last.ends_at else None, last.job_id, late)


def _try(room: Room, shape: Shape, allowed: BoolArray) -> tuple[Room, Fit] | None:
    fit = find(room, shape, allowed)
    return None if fit is None else (room, fit)


class _Releases:
    """What running jobs give back, as columns in the order of release."""

    def __init__(self, fleet: Fleet, ordered: Sequence[Holding]) -> None:
        nodes: list[tuple[int, int, int, int, int]] = []
        devices: list[tuple[int, int, int, int]] = []
        for order, holding in enumerate(ordered):
            for rank in holding.ranks:
                node = fleet.node_at.get((holding.cluster, rank.node))
                if node is None:
                    continue
                nodes.append((order, node, rank.cpu_milli, rank.memory_bytes, rank.disk_bytes))
                for share in rank.devices:
                    device = fleet.device_at.get((node, share.name))
                    if device is not None and fleet.device_open[device]:
                        devices.append((order, device, share.gpu_milli, share.memory_bytes))
        self._nodes = np.array(nodes, dtype=np.int64).reshape(-1, 5).T
        self._devices = np.array(devices, dtype=np.int64).reshape(-1, 4).T

    def after(self, room: Room, count: int) -> Room:
        """Return the room once the first `count` jobs have ended."""
        freed = room.copy()
        at = int(np.searchsorted(self._nodes[0], count))
        for row in range(3):
            np.add.at(freed.node[row], self._nodes[1, :at], self._nodes[2 + row, :at])
        at = int(np.searchsorted(self._devices[0], count))
        np.add.at(freed.milli, self._devices[1, :at], self._devices[2, :at])
        np.add.at(freed.memory, self._devices[1, :at], self._devices[3, :at])
        freed.recount()
        return freed
