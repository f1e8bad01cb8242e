"""What is free at moments to come beside what is kept for promised deadlines, and what that leaves to others now.

A level is the pool at the moment at which something kept begins: what has ended by its limit until then is free, what
is kept at that moment is taken. Between two such moments only more gets free. So what starts now leaves everything
that is kept alone when there is room for it now and on every level that begins before it is over.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from dujiang.scheduling.domain.caps import over, plus
from dujiang.scheduling.domain.find import placements
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.request import Request, Shape
from dujiang.scheduling.domain.reserve import Releases, turns
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.snapshot import UNLIMITED, Amounts, Holding, Snapshot


@dataclass(frozen=True, slots=True)
class Kept:
    """A slot as positions in the fleet."""

    request: Request
    at: datetime
    """When it begins; not before the time of the plan."""
    until: datetime
    fit: Fit
    option: int

    def is_on(self, at: datetime) -> bool:
        """Say whether it takes its place at a moment."""
        return self.at <= at < self.until

    @property
    def job_id(self) -> str:
        """Return whose it is."""
        return self.request.job_id

    @property
    def total(self) -> Amounts:
        """Return what quotas count."""
        ask, ranks = self.fit.ask, len(self.fit.spots)
        return ranks * ask.gpu_milli, ranks * ask.cpu_milli, ranks * ask.memory_bytes


@dataclass(slots=True)
class Level:
    """The pool at one moment to come."""

    at: datetime
    room: Room
    usage: dict[str, Amounts]
    """What projects hold then; of those that have a quota."""
    queues: QueueRound
    snapshot: Snapshot

    def take(self, kept: Kept) -> None:
        """Let what is kept have its place."""
        self.room.take(kept.fit)
        self.count(kept, 1)

    def give(self, kept: Kept) -> None:
        """Take the place of what is kept back. O(nodes + devices)."""
        ask, room = kept.fit.ask, self.room
        for spot in kept.fit.spots:
            room.node[:, spot.node] += (ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)
            for device in spot.devices:
                room.milli[device] += kept.fit.device_milli
                room.memory[device] += kept.fit.device_bytes
        room.recount()
        self.count(kept, -1)

    def begin(self, holding: Holding, fit: Fit) -> None:
        """Count what is started now, and still runs then."""
        self.room.take(fit)
        self.use(holding.project_id, holding.total())
        self.queues.take(holding.project_id, holding.queue, holding.cluster, holding.ranks)

    def use(self, project_id: str, amounts: Amounts) -> None:
        """Count that a project holds so much more."""
        if project_id in self.snapshot.quotas:
            self.usage[project_id] = plus(self.usage.get(project_id, (0, 0, 0)), amounts)

    def lets(self, request: Request, shape: Shape) -> frozenset[int] | None:
        """Return the places that a job's queue closes to it then; None when its project or queue may not have it."""
        ask, ranks = shape.ask, shape.ranks
        total = ranks * ask.gpu_milli, ranks * ask.cpu_milli, ranks * ask.memory_bytes
        limits = self.snapshot.quotas.get(request.project_id, UNLIMITED).limits()
        if over(limits, self.usage.get(request.project_id, (0, 0, 0)), total) is not None:
            return None
        look = self.queues.look(request.project_id, request.queue, ask, ranks)
        return None if look.lack is not None else look.options

    def count(self, kept: Kept, sign: int) -> None:
        """Count what is kept as held by its project and queue (1), or no more (-1)."""
        project, queue = kept.request.project_id, kept.request.queue
        a, b, c = kept.total
        self.use(project, (sign * a, sign * b, sign * c))
        if self.queues.tree:
            fleet = self.snapshot.fleet
            move = self.queues.take if sign > 0 else self.queues.release
            move(project, queue, fleet.clusters[kept.fit.cluster].name, placements(fleet, kept.fit))


class Levels:
    """The levels of what is kept, in order of time."""

    def __init__(self, snapshot: Snapshot, now: datetime, room: Room, releases: Releases, queues: QueueRound) -> None:
        """Take what is there now; nothing is kept yet."""
        self._snapshot, self._now, self._room, self._releases, self._queues = snapshot, now, room, releases, queues
        self._order = [at for at in releases.order() if releases.holdings[at].ends_at is not None]
        self._ends = [releases.holdings[at].ends_at or now for at in self._order]
        self._usage = {one: held for one, held in snapshot.usage().items() if one in snapshot.quotas}
        self.kept: dict[str, Kept] = {}
        self.levels: list[Level] = []

    def at(self, moment: datetime) -> Level:
        """Return the pool at a moment, with what is kept then, as a level of its own."""
        ended = self._order[: bisect_right(self._ends, moment)]
        s, held = self._snapshot, self._releases.holdings
        room = self._releases.after(self._room, turns(ended, of=self._releases.count()), len(ended))
        queues = self._queues.after([held[number] for number in ended] if s.queues else ())
        level = Level(moment, room, dict(self._usage), queues, s)
        for number in ended if s.quotas else ():
            a, b, c = held[number].total()
            level.use(held[number].project_id, (-a, -b, -c))
        for one in self.kept.values():
            if one.is_on(moment):
                level.take(one)
        return level

    def over(self, kept_at: datetime, until: datetime) -> list[Level]:
        """Return the levels of a time: that of its beginning, as it would be, and those within."""
        return [self.at(kept_at), *(level for level in self.levels if kept_at < level.at < until)]

    def put(self, kept: Kept) -> None:
        """Keep a place that is free for the whole of its time."""
        for level in self.levels:
            if kept.is_on(level.at):
                level.take(kept)
        level = self.at(kept.at)
        level.take(kept)
        self.kept[kept.job_id] = kept
        self.levels.insert(bisect_right([one.at for one in self.levels], kept.at), level)

    def remove(self, job_id: str) -> bool:
        """Keep nothing for a job any more; False when nothing was."""
        kept = self.kept.pop(job_id, None)
        if kept is None:
            return False
        others = Counter(one.at for one in self.kept.values())
        levels: list[Level] = []
        for level in self.levels:
            if kept.is_on(level.at):
                level.give(kept)
            if others[level.at] > sum(one.at == level.at for one in levels):
                levels.append(level)
        self.levels = levels
        return True

    def begin(self, holding: Holding, fit: Fit) -> None:
        """Count what is started now on the levels on which it still runs."""
        for level in self.levels[: self.count(holding.ends_at)]:
            level.begin(holding, fit)

    def count(self, end: datetime | None) -> int:
        """Return how many levels begin before a moment; all for None."""
        return len(self.levels) if end is None else bisect_left([one.at for one in self.levels], end)

    def lowered(self, room: Room, count: int, without: Kept | None = None) -> Room:
        """Return what is free in a room and on the first so many levels.

        Args:
            room: what is free now.
            count: of levels.
            without: what is kept for the job itself.
        """
        found = Room(room.fleet, room.node.copy(), room.milli.copy(), room.memory.copy(), room.typical)
        for level in self.levels[:count]:
            free = level.room
            if without is not None and without.is_on(level.at):
                free = _given(free, without.fit)
            np.minimum(found.node, free.node, out=found.node)
            np.minimum(found.milli, free.milli, out=found.milli)
            np.minimum(found.memory, free.memory, out=found.memory)
        found.recount()
        return found


def holds(room: Room, fit: Fit) -> bool:
    """Say whether there is room for a fit where it lies."""
    ask = fit.ask
    nodes = Counter(spot.node for spot in fit.spots)
    devices = Counter(device for spot in fit.spots for device in spot.devices)
    return all(
        room.node[0, node] >= ranks * ask.cpu_milli and room.node[1, node] >= ranks * ask.memory_bytes
        and room.node[2, node] >= ranks * ask.disk_bytes for node, ranks in nodes.items()
    ) and all(
        room.milli[device] >= shares * fit.device_milli and room.memory[device] >= shares * fit.device_bytes
        for device, shares in devices.items()
    )  # fmt: skip


def lowest(levels: Sequence[Level]) -> Room:
    """Return what is free on all of some levels, a room of its own."""
    first = levels[0].room.copy(typical=None)
    for level in levels[1:]:
        np.minimum(first.node, level.room.node, out=first.node)
        np.minimum(first.milli, level.room.milli, out=first.milli)
        np.minimum(first.memory, level.room.memory, out=first.memory)
    first.recount()
    return first


def _given(room: Room, fit: Fit) -> Room:
    """Return a room in which a fit is given back."""
    found = room.copy(typical=None)
    for spot in fit.spots:
        found.node[:, spot.node] += (fit.ask.cpu_milli, fit.ask.memory_bytes, fit.ask.disk_bytes)
        for device in spot.devices:
            found.milli[device] += fit.device_milli
            found.memory[device] += fit.device_bytes
    return found
