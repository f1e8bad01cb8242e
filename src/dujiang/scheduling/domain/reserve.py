"""When a job that waits for room will have it, and what must stay free for it until then.

The rule (EASY, Lifka 1995, with unknown ends): running jobs are let end in the order of their known ends, then those of
unknown end by when they started. The job gets the best place at the first moment it fits: its target. What starts
meanwhile must either leave the target free, or be over by that moment. Where the moment is unknown, what is known of
others like those waited for tells when to expect it (Tsafrir, Etsion and Feitelson 2007); where that says nothing
either, everything has to leave the target free. What fills the gap is judged by its own limit, never by a guess.

Why nobody starves: what starts later either does not touch the target or is gone before it is needed, and stands last
in the order of unknown ends. So the set of jobs waited for never grows but by what is sure to end, each of them ends
some day, and then the moment is known and moves no more: a guess that was wrong costs at most one filler's limit. The
next in line then becomes the head. With more than one reservation the targets do not touch one another (the
conservative kind, Mu'alem and Feitelson 2001, to the depth that is set).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.fleet import BoolArray, Fleet, IntArray
from dujiang.scheduling.domain.request import Shape
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.snapshot import Holding

_FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A prepared start."""

    job_id: str
    at: datetime | None
    """When it fits at the latest; None when it waits for jobs of unknown end."""
    expected: datetime | None
    """When it is expected to fit, where that is unknown; None when nothing is known of what it waits for."""
    awaited: str
    """The last job that must end before."""
    target: Fit
    """Where it will be."""

    @property
    def gap_ends(self) -> datetime | None:
        """By when what uses the target meanwhile has to be over; None: nothing may use it."""
        return self.at or self.expected


def release_order(holding: Holding) -> tuple[datetime, datetime, str]:
    """Return the sort key in which running jobs are let end: known ends first, then the longest running."""
    return holding.ends_at or _FAR, holding.started_at, holding.job_id


class Releases:
    """What running jobs give back when they end, as arrays made once a round."""

    def __init__(self, fleet: Fleet, holdings: Sequence[Holding]) -> None:
        """Look every place up. O(what is held)."""
        self._fleet = fleet
        self._holdings: list[Holding] = []
        self._nodes = np.empty((5, 0), dtype=np.int64)
        self._devices = np.empty((4, 0), dtype=np.int64)
        self._new: list[Holding] = list(holdings)

    @property
    def holdings(self) -> Sequence[Holding]:
        """Return all of them; their places in it are their numbers."""
        self._settle()
        return self._holdings

    def add(self, holding: Holding) -> None:
        """Add a job that was started."""
        self._new.append(holding)

    def order(self) -> list[int]:
        """Return the numbers of the holdings in the order in which they are let end."""
        self._settle()
        ends = ((release_order(holding), at) for at, holding in enumerate(self._holdings))
        return [at for _, at in sorted(ends)]

    def after(self, room: Room, turn: IntArray, count: int) -> Room:
        """Return the room once those have ended whose turn is before `count`; places in it are chosen by best fit.

        Args:
            room: as it is now.
            turn: (holdings) when each is let end; what never ends has a turn beyond all.
            count: how many turns.
        """
        self._settle()
        freed = room.copy(typical=None)
        ended = self._nodes[:, turn[self._nodes[0]] < count]
        for row in range(3):
            np.add.at(freed.node[row], ended[1], ended[2 + row])
        given = self._devices[:, turn[self._devices[0]] < count]
        np.add.at(freed.milli, given[1], given[2])
        np.add.at(freed.memory, given[1], given[3])
        freed.recount()
        return freed

    def on(self, nodes: Sequence[int]) -> list[int]:
        """Return the numbers of the holdings that have anything on these nodes, rising."""
        self._settle()
        here = np.isin(self._nodes[1], nodes)
        numbers: list[int] = np.unique(self._nodes[0, here]).tolist()
        return numbers

    def count(self) -> int:
        """Return how many jobs there are."""
        return len(self._holdings) + len(self._new)

    def given(
        self, number: int, nodes: Container[int], devices: Container[int]
    ) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
        """Return what one job gives back on some nodes (cpu_milli, memory, disk) and devices (gpu_milli, memory)."""
        self._settle()
        found: list[dict[int, tuple[int, ...]]] = []
        for rows, places in ((self._nodes, nodes), (self._devices, devices)):
            first, end = np.searchsorted(rows[0], (number, number + 1))
            mine: dict[int, tuple[int, ...]] = {}
            for _, place, *amounts in rows[:, first:end].T.tolist():
                if place in places:
                    before = mine.get(place, (0,) * len(amounts))
                    mine[place] = tuple(a + b for a, b in zip(before, amounts, strict=True))
            found.append(mine)
        return found[0], found[1]

    def _settle(self) -> None:
        if not self._new:
            return
        fleet, nodes, devices = self._fleet, list[tuple[int, ...]](), list[tuple[int, ...]]()
        for number, holding in enumerate(self._new, start=len(self._holdings)):
            for rank in holding.ranks:
                node = fleet.node_at.get((holding.cluster, rank.node))
                if node is None:  # gone from the inventory with whatever ran there
                    continue
                nodes.append((number, node, rank.cpu_milli, rank.memory_bytes, rank.disk_bytes))
                for share in rank.devices:
                    device = fleet.device_at.get((node, share.name))
                    if device is not None and fleet.device_open[device]:
                        devices.append((number, device, share.gpu_milli, share.memory_bytes))
        self._nodes = np.hstack([self._nodes, np.array(nodes, dtype=np.int64).reshape(-1, 5).T])
        self._devices = np.hstack([self._devices, np.array(devices, dtype=np.int64).reshape(-1, 4).T])
        self._holdings += self._new
        self._new = []


def reserve(
    room: Room,
    releases: Releases,
    job_id: str,
    shape: Shape,
    allowed: BoolArray,
    now: datetime,
    closed: frozenset[int] = frozenset(),
    targets: Sequence[Fit] = (),
) -> tuple[Reservation, Room] | None:
    """Return the reservation of a shape that does not fit now, and what may be taken without touching its target.

    None when it would not fit even if all jobs ended.

    Args:
        room: what is free now.
        releases: everything that runs, also what was started in this very plan.
        job_id: whose it is.
        shape: what to reserve for.
        allowed: (n) nodes that it may use.
        now: no reserved start is before this.
        closed: as for `find`.
        targets: of reservations before this one: not to be touched.

    Cost: O(log(holdings)) placements.
    """
    ordered = releases.order()
    turn = turns(ordered)
    low, high = 0, len(ordered)  # it does not fit after `low` releases, and does after `high`
    best = _try(releases.after(room, turn, high), shape, allowed, closed, targets)
    if best is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        better = _try(releases.after(room, turn, middle), shape, allowed, closed, targets)
        low, high, best = (low, middle, better) if better else (middle, high, best)
    after, fit = best
    last = releases.holdings[ordered[high - 1]]
    after.take(fit)
    late = Room(
        room.fleet, np.minimum(room.node, after.node), np.minimum(room.milli, after.milli),
        np.minimum(room.memory, after.memory), room.typical,
    )  # fmt: skip
    at = max(now, last.ends_at) if last.ends_at else None
    expected = None if at else _expected([releases.holdings[number] for number in ordered[:high]], now)
    return Reservation(job_id, at, expected, last.job_id, fit), late


def _expected(awaited: Sequence[Holding], now: datetime) -> datetime | None:
    """Return when all of them will have ended by what is known of others like them; None where one tells nothing.

    A guess that has passed is none: whoever made it corrects it.
    """
    ends = [holding.ends_at or holding.expected_end for holding in awaited]
    last = max((end for end in ends if end is not None), default=None)
    return None if None in ends or last is None or last <= now else last


def turns(order: Sequence[int], *, of: int | None = None) -> IntArray:
    """Return the turn of each holding from the order in which they end; those left out of it never end.

    Args:
        order: numbers of holdings.
        of: how many holdings there are, when some are left out.
    """
    turn = np.full(len(order) if of is None else of, np.iinfo(np.int64).max)
    turn[np.asarray(order, dtype=np.int64)] = np.arange(len(order))
    return turn


def _try(
    room: Room, shape: Shape, allowed: BoolArray, closed: frozenset[int], targets: Sequence[Fit]
) -> tuple[Room, Fit] | None:  # fmt: skip
    for target in targets:
        room.take(target)
    fit = find(room, shape, allowed, closed=closed)
    return None if fit is None else (room, fit)
