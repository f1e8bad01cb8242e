"""Keeps promised deadlines: what starts now, of whatever class, leaves each of them the place that it needs. Pure.

For each waiting job whose deadline was promised a slot is kept: a place, as late as the deadline allows, so that the
order of the queue holds until then. Nothing is started, and nothing stopped for, that would still be there when a slot
begins and leaves it no room; a job starts by its slot whatever stands before it, or sooner when it is its turn.

Why a promise holds: a slot that was found stays free, since what starts leaves it alone, what runs ends by its limit,
and what ends sooner only gives more. So the slots of the last plan are kept as they are as long as they are good. They
are looked for anew when a node is lost, a reservation, taint or quota is in the way, or work runs past its limit;
where none is left, the deadline is at risk, and the plan says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from dujiang.scheduling.domain.find import find, placements
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.levels import Kept, Level, Levels, holds, lowest
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.request import Request, Shape, shape_of, with_ranks
from dujiang.scheduling.domain.reserve import Releases, turns
from dujiang.scheduling.domain.room import Fit, Room, Spot
from dujiang.scheduling.domain.slots import Risk, Slot
from dujiang.scheduling.domain.snapshot import Holding, Snapshot

_SPARE: Final = timedelta(minutes=1)
"""How much sooner than it must a slot begins where it can: starting takes a moment. At most a twentieth of its time."""


class Keeping:
    """What one round keeps for promised deadlines."""

    def __init__(
        self, snapshot: Snapshot, now: datetime, *, room: Room, releases: Releases, queues: QueueRound, grounds: Grounds
    ) -> None:
        """Keep the slots of the snapshot that are good, and find others for jobs without one."""
        self._snapshot, self._now, self._grounds, self._releases = snapshot, now, grounds, releases
        self.risks: dict[str, Risk] = {}
        self._rooms: dict[tuple[int, bool], Room] = {}
        waiting = [*snapshot.requests, *_dependents(snapshot)] if snapshot.rules.keeps_deadlines else []
        wanted = [one for one in waiting if _is_promised(one)]
        self._wanted = {one.job_id: one for one in wanted}
        self.projects = {one.project_id for one in wanted}
        """Those of the jobs whose deadline was promised, whether a place could be kept or not."""
        self._held_back = {one.request.job_id for one in snapshot.dependents}
        if wanted:
            self._given = room, queues
            self._levels = self._arranged(sorted(wanted, key=lambda one: (one.deadline, one.submitted_at, one.job_id)))
            self.risks = {one.job_id: self._risk(one) for one in wanted if one.job_id not in self._levels.kept}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Return what is kept, to be handed to the next plan."""
        fleet = self._snapshot.fleet
        return tuple(
            Slot(one.job_id, one.at, fleet.clusters[one.fit.cluster].name, placements(fleet, one.fit), one.option)
            for one in self.kept
        )  # fmt: skip

    @property
    def kept(self) -> list[Kept]:
        """Return what is kept, in the order in which it begins."""
        return sorted(self._levels.kept.values(), key=lambda one: (one.at, one.job_id)) if self._wanted else []

    def due(self, room: Room) -> list[Kept]:
        """Return what has to start now, and has its place."""
        due = [one for one in self.kept if one.at <= self._now and one.job_id not in self._held_back]
        return [one for one in due if holds(room, one.fit)]

    def count(self, request: Request) -> int:
        """Return how many levels a job that starts now still runs on."""
        return self._levels.count(_end(request, self._now)) if self._wanted else 0

    def lowered(self, base: Room, request: Request, *, in_gap: bool) -> Room:
        """Return what a job may use of a room: of what is kept, also for itself, nothing that it would run into.

        Args:
            base: what is free now.
            request: the job.
            in_gap: tells which of the two rooms of a round this is.
        """
        count = self.count(request)
        if not count:
            return base
        if (count, in_gap) not in self._rooms:
            self._rooms[count, in_gap] = self._levels.lowered(base, count)
        return self._rooms[count, in_gap]

    def own_place(self, request: Request, shape: Shape, base: Room) -> Fit | None:
        """Return the place that is kept for a job, when it may have it now already."""
        own = self._levels.kept.get(request.job_id) if self._wanted else None
        if own is None or own.fit.ask != shape.ask or len(own.fit.spots) != shape.ranks or not holds(base, own.fit):
            return None
        before = self._levels.levels[: self.count(request)]
        free = all(own.is_on(level.at) or holds(level.room, own.fit) for level in before)
        return own.fit if free else None

    def closed(self, request: Request, shape: Shape) -> frozenset[int]:
        """Return the places that a job's queue closes to it for what is kept."""
        found: frozenset[int] = frozenset()
        for level in self._counted(request):
            found |= self._lets(level, request, shape) or frozenset()
        return found

    def quota_for(self, request: Request, shape: Shape) -> str:
        """Return for whose deadline the quota of a job's project or queue is kept from it; empty when it is not."""
        for level in self._counted(request):
            if self._lets(level, request, shape) is None:
                return self._begins(level)
        return ""

    def place_for(self, request: Request, shape: Shape, base: Room, closed: frozenset[int]) -> str:
        """Return for whose deadline the place is kept that a job would have in a room; empty when there is none."""
        allowed = self._grounds.of(shape).allowed
        if not self.count(request) or find(base, shape, allowed, closed=closed) is None:
            return ""
        low, high = 0, self.count(request)
        while high - low > 1:
            middle = (low + high) // 2
            free = find(self._levels.lowered(base, middle), shape, allowed, closed=closed) is not None
            low, high = (middle, high) if free else (low, middle)
        return self._begins(self._levels.levels[high - 1])

    def begins(self, job_id: str) -> datetime | None:
        """Return when what is kept for a job begins."""
        kept = self._levels.kept.get(job_id) if self._wanted else None
        return None if kept is None else kept.at

    def targets(self, request: Request) -> list[Fit]:
        """Return the places that are kept for others than a job."""
        return [one.fit for one in self.kept if one.job_id != request.job_id]

    def after(self, room: Room, request: Request, ended: Sequence[int]) -> Room:
        """Return what a job may use of a room in which running work has ended, beside what is kept for others.

        Args:
            room: as it is then.
            request: the job.
            ended: numbers of the holdings that are stopped for it.
        """
        count = self.count(request)
        if not count:
            return room
        before, own = self._levels.levels[:count], self._levels.kept.get(request.job_id)
        low = self._levels.lowered(self._grounds.empty, count, own)
        last, held = before[-1].at, self._releases.holdings
        gone = [number for number in ended if (end := held[number].ends_at) is None or end > last]
        if gone:
            low = self._releases.after(low, turns(gone, of=self._releases.count()), len(gone))
        low.lower(room)
        return low

    def begin(self, holding: Holding, fit: Fit, now_free: Room, late: Room | None) -> bool:
        """Let a job start; True when something had been kept for it, so that there may be more for others now.

        Args:
            holding: what it holds.
            fit: its place.
            now_free: what is free after it.
            late: the same beside prepared starts.
        """
        if not self._wanted:
            return False
        had = self._levels.remove(holding.job_id)
        self._levels.begin(holding, fit)
        if had:
            self.forget()
        for (count, in_gap), room in self._rooms.items():
            base = now_free if in_gap or late is None else late
            room.lower_to(base, fit)
            for level in self._levels.levels[:count]:
                room.lower_to(level.room, fit)
        return had

    def forget(self) -> None:
        """Work out anew what others may use: more may be free than was, or less where it was not told."""
        self._rooms.clear()

    # -- find ------------------------------------------------------------------------------------------------------

    def _arranged(self, wanted: list[Request]) -> Levels:
        """Return what is kept: slots that there were first; all anew where that leaves out fewer."""
        best = self._filled(wanted, self._snapshot.slots)
        for order in (wanted, wanted[::-1]):
            if len(best.kept) < len(wanted):
                other = self._filled(order, ())
                # Not in place of another: who was promised first stays.
                if best.kept.keys() < other.kept.keys():
                    best = other
        return best

    def _filled(self, wanted: Iterable[Request], known: Sequence[Slot]) -> Levels:
        levels = Levels(self._snapshot, self._now, self._given[0], self._releases, self._given[1])
        for slot in sorted(known, key=lambda one: (one.at, one.job_id)):
            request = self._wanted.get(slot.job_id)
            kept = None if request is None else self._of_slot(request, slot)
            if kept is not None and self._is_good(kept, levels):
                levels.put(kept)
        for request in reversed(list(wanted)):  # the latest first: it leaves the others the time before
            if request.job_id not in levels.kept and (found := self._find(request, levels)) is not None:
                levels.put(found)
        return levels

    def _of_slot(self, request: Request, slot: Slot) -> Kept | None:
        """Return a slot of the last plan as it is now; None when it is none any more."""
        fleet = self._snapshot.fleet
        spots: list[Spot] = []
        for rank in slot.ranks:
            node = fleet.node_at.get((slot.cluster, rank.node))
            devices = [None if node is None else fleet.device_at.get((node, share.name)) for share in rank.devices]
            if node is None or None in devices:
                return None
            spots.append(Spot(node, tuple(device for device in devices if device is not None)))
        if slot.option >= len(request.shapes) or not spots:
            return None
        shares = slot.ranks[0].devices
        milli, memory = (shares[0].gpu_milli, shares[0].memory_bytes) if shares else (0, 0)
        cluster, at = int(fleet.node_cluster[spots[0].node]), max(slot.at, self._now)
        fit = Fit(cluster, tuple(spots), request.shapes[slot.option].ask, milli, memory)
        return Kept(request, at, at + _takes(request), fit, slot.option)

    def _is_good(self, kept: Kept, levels: Levels) -> bool:
        """Say whether a job may have that place at that time, and is over by its deadline with it."""
        request, fleet = kept.request, self._snapshot.fleet
        if kept.at < _earliest(request, self._now) or request.deadline is None or kept.until > request.deadline:
            return False
        shape = self._shape(request, kept.option, kept.at)
        if len(kept.fit.spots) != shape.ranks:
            return False
        ground = self._grounds.of(shape)
        devices = [device for spot in kept.fit.spots for device in spot.devices]
        if ground.reason is not None or not all(ground.allowed[spot.node] for spot in kept.fit.spots):
            return False
        if not all(fleet.device_open[devices]):
            return False
        return all(
            holds(level.room, kept.fit) and level.lets(request, shape) is not None
            for level in levels.over(kept.at, kept.until)
        )  # fmt: skip

    def _find(self, request: Request, levels: Levels) -> Kept | None:
        """Return the latest place with which a job is over by its deadline."""
        assert request.deadline is not None
        takes, must = _takes(request), request.deadline - _takes(request)
        spare = must - min(_SPARE, takes / 20)
        begins = {one.at - takes for one in levels.kept.values()}
        begins |= {window.begins_at - takes for window in self._snapshot.windows}
        begins |= {must, spare, _earliest(request, self._now)}
        able = [at for at in begins if _earliest(request, self._now) <= at <= must]
        for at in sorted(able, key=lambda one: (one > spare, -one.timestamp())):
            for option in range(len(request.shapes)):
                shape = self._shape(request, option, at)
                ground, there = self._grounds.of(shape), levels.over(at, at + takes)
                lets = [level.lets(request, shape) for level in there]
                if ground.reason is not None or None in lets:
                    continue
                closed = frozenset[int]().union(*(one for one in lets if one is not None))
                fit = find(lowest(there), shape, ground.allowed, closed=closed, tightest=True)
                if fit is not None:
                    return Kept(request, at, at + takes, fit, option)
        return None

    def _shape(self, request: Request, option: int, at: datetime) -> Shape:
        """Return the least that will do of an alternative, off the nodes of windows that it would run into."""
        shape, until = request.shapes[option], at + _takes(request)
        shape = with_ranks(shape, request.ranks_min or shape.ranks)
        barred = tuple(
            number for number, window in enumerate(self._grounds.windows)
            if request.project_id not in window.projects and at < window.ends_at and window.begins_at < until
        )  # fmt: skip
        return shape_of(shape.ask, shape.ranks, shape.where, shape.avoid, barred) if barred else shape

    def _risk(self, request: Request) -> Risk:
        """Say why nothing can be kept for a job."""
        assert request.deadline is not None
        due = f"Its deadline {request.deadline:%Y-%m-%d %H:%M:%S} UTC is at risk"
        if request.deadline - _takes(request) < _earliest(request, self._now):
            return Risk(request.job_id, f"{due}: even if it started now it could take longer than that.")
        shape = self._shape(request, 0, _earliest(request, self._now))
        ground = self._grounds.of(shape)
        if ground.window is not None:
            return Risk(request.job_id, f"{due}: {ground.window.name} keeps the nodes that it fits on until after it.")
        if ground.reason is not None:
            return Risk(request.job_id, f"{due}: nodes that it fits on are closed or gone; they have to come back.")
        levels = Levels(self._snapshot, self._now, self._given[0], self._releases, self._given[1])
        if self._find(request, levels) is not None:
            return Risk(request.job_id, f"{due}: what is left is kept for other deadlines that were promised before.")
        last = levels.at(request.deadline - _takes(request))
        if last.lets(request, shape) is None:
            return Risk(request.job_id, f"{due}: the quota of its project or queue does not let it start in time.")
        why = "on the nodes that are left, running work may hold the room that it needs until too late"
        return Risk(request.job_id, f"{due}: {why}. Bring closed nodes back, or cancel what runs there.")

    # -- what is counted -------------------------------------------------------------------------------------------

    def _counted(self, request: Request) -> Sequence[Level]:
        """Return the levels on which a job's quotas have to be asked too."""
        s = self._snapshot
        if not self._wanted or not (s.queues or request.project_id in s.quotas):
            return ()
        return self._levels.levels[: self.count(request)]

    def _lets(self, level: Level, request: Request, shape: Shape) -> frozenset[int] | None:
        """Return what a level lets a job have, what is kept for itself left out of account."""
        own = self._levels.kept.get(request.job_id)
        if own is None or not own.is_on(level.at):
            return level.lets(request, shape)
        level.count(own, -1)
        found = level.lets(request, shape)
        level.count(own, 1)
        return found

    def _begins(self, level: Level) -> str:
        """Return whose slot begins at a level."""
        return next((one.job_id for one in self.kept if one.at == level.at), "")


def _dependents(snapshot: Snapshot) -> Iterable[Request]:
    """Yield the jobs that wait for others to end, as ones that wait until those have that run now."""
    if not snapshot.dependents:
        return
    ends = {held.job_id: held.ends_at for held in snapshot.holdings}
    for one in snapshot.dependents:
        known = [end for on in one.after if (end := ends.get(on)) is not None]
        yield replace(one.request, not_before=max(known, default=None))


def _is_promised(request: Request) -> bool:
    return request.deadline is not None and request.runs_at_most_s is not None and request.is_admitted


def _takes(request: Request) -> timedelta:
    return timedelta(seconds=request.runs_at_most_s or 0.0)


def _end(request: Request, now: datetime) -> datetime | None:
    return None if request.runs_at_most_s is None else now + _takes(request)


def _earliest(request: Request, now: datetime) -> datetime:
    return now if request.not_before is None else max(now, request.not_before)
