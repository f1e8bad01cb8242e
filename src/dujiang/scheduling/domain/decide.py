"""One round through the queue: what starts, and on what grounds everything else does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dujiang.engines.contract import RankPlacement
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.reasons import NOTHING, Reason, Shortage
from dujiang.scheduling.domain.request import Request, Shape
from dujiang.scheduling.domain.reserve import Reservation, reserve
from dujiang.scheduling.domain.room import Room, find, placements
from dujiang.scheduling.domain.snapshot import COUNTED, UNLIMITED, Amounts, Holding, Snapshot
from dujiang.scheduling.domain.walls import Walls


@dataclass(frozen=True, slots=True)
class Start:
    """One job to start, all its ranks at once."""

    job_id: str
    project_id: str
    cluster: str
    ranks: tuple[RankPlacement, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Quota kept for a job."""

    job_id: str
    amounts: Amounts
    at: datetime | None
    """When it fits at the latest; None when unknown."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that was not started, as it was judged at its turn."""

    request: Request
    shape: Shape
    reason: Reason
    """RESOURCES stands for PRIORITY too: what would have fitted at first is told apart when it is told."""
    in_gap: bool = False
    """It could use what is kept for the head: there was no head yet, or it will be over in time."""
    lack: Shortage = NOTHING
    kept: Kept | None = None
    """Quota that was kept for another job of the project."""


@dataclass(slots=True)
class Round:
    """The state of one round: as many passes through the queue as start something. `run` fills it, then it is read."""

    snapshot: Snapshot
    now: datetime
    starts: list[Start] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    head: str = ""
    """The job that has the reservation."""
    reservation: Reservation | None = None
    before: Room = field(init=False)
    """What was free at first."""
    room: Room = field(init=False)
    """What is free, the reservation left out of account."""
    grounds: Grounds = field(init=False)
    usage: dict[str, Amounts] = field(init=False)
    _holdings: list[Holding] = field(init=False)
    _kept: dict[str, Kept] = field(default_factory=dict)
    _walls: tuple[Walls, Walls] = field(default_factory=lambda: (Walls(), Walls()))
    """Shapes that do not fit beside the reservation, and shapes that do not fit at all."""
    _fits_room: dict[Shape, tuple[int, bool]] = field(default_factory=dict)
    _started_beside: bool = False
    """Something was started in this pass after something else was kept for a job before it."""

    def __post_init__(self) -> None:
        """Lay out the rooms."""
        s = self.snapshot
        self.before = Room(s.fleet, s.node_free, s.device_milli, s.device_memory)
        self.room = self.before.copy()
        self.grounds = Grounds(s.fleet)
        self.usage = s.usage()
        self._holdings = list(s.holdings)

    def run(self) -> None:
        """Go through the queue until a pass changes nothing.

        What starts beside a reservation may let the reserved job end up elsewhere, and so make room for others: without
        another look, the very next plan would start those.
        """
        waiting = sorted(self.snapshot.requests, key=Request.order)
        while waiting:
            self._begin_pass()
            for request in waiting:
                left = self._decide(request)
                if left is not None:
                    self.waiting.append(left)
            if not self._started_beside:
                break
            waiting = [left.request for left in self.waiting]

    def _begin_pass(self) -> None:
        self.waiting, self.head, self.reservation, self._started_beside = [], "", None, False
        self._kept, self._walls, self._fits_room = {}, (Walls(), self._walls[True]), {}

    def is_over_by(self, request: Request, at: datetime | None) -> bool:
        """Say whether a job started now is sure to be over by then."""
        if at is None or request.runs_at_most_s is None:
            return False
        return self.now + timedelta(seconds=request.runs_at_most_s) <= at

    def _decide(self, request: Request) -> Waiting | None:
        shape = request.shape
        if request.not_before is not None and request.not_before > self.now:
            return Waiting(request, shape, Reason.BACKOFF)
        ground = self.grounds.of(shape)
        if ground.reason is not None:
            return Waiting(request, shape, ground.reason, lack=ground.shortage)
        over_quota = self._check_quota(request, shape)
        if over_quota is not None:
            return over_quota
        reservation = self.reservation
        in_gap = reservation is None or self.is_over_by(request, reservation.at)
        room = self.room if reservation is None or in_gap else reservation.late
        fit = None if self._walls[in_gap].stop(shape) else find(room, shape, ground.allowed)
        if fit is None:
            return self._wait(request, shape, in_gap=in_gap)
        self._start(request, placements(self.snapshot.fleet, fit), self.snapshot.fleet.clusters[fit.cluster].name)
        self.room.take(fit)
        self._started_beside = self._started_beside or reservation is not None or bool(self._kept)
        if reservation is not None and in_gap:
            reservation.late.lower_to(self.room, fit)
        elif reservation is not None:
            reservation.late.take(fit)
        return None

    def _start(self, request: Request, ranks: tuple[RankPlacement, ...], cluster: str) -> None:
        self.starts.append(Start(request.job_id, request.project_id, cluster, ranks))
        ends = None if request.runs_at_most_s is None else self.now + timedelta(seconds=request.runs_at_most_s)
        self._holdings.append(Holding(request.job_id, request.project_id, cluster, ranks, self.now, ends))
        self.usage[request.project_id] = plus(self.used(request.project_id), request.total())

    def used(self, project_id: str) -> Amounts:
        """Return what a project holds by now."""
        return self.usage.get(project_id, (0, 0, 0))

    def _wait(self, request: Request, shape: Shape, *, in_gap: bool) -> Waiting:
        self._walls[in_gap].add(shape)
        is_kept = self.reservation is not None and not in_gap and self._would_fit(shape)
        reason = Reason.RESERVED if is_kept else Reason.RESOURCES
        if self.reservation is None:
            allowed = self.grounds.of(shape).allowed
            self.reservation = reserve(self.room, self._holdings, shape, allowed, self.now)
            if self.reservation is not None:
                self.head = request.job_id
                # Its project must not use up the quota that it will need.
                self._kept.setdefault(request.project_id, Kept(request.job_id, request.total(), None))
        return Waiting(request, shape, reason, in_gap)

    def _would_fit(self, shape: Shape) -> bool:
        """Say whether it would fit now but for the reservation."""
        known = self._fits_room.get(shape)
        if known is None or known[0] != len(self.starts):
            fits = not self._walls[True].stop(shape)
            if fits and find(self.room, shape, self.grounds.of(shape).allowed) is None:
                self._walls[True].add(shape)
                fits = False
            known = self._fits_room[shape] = (len(self.starts), fits)
        return known[1]

    def _check_quota(self, request: Request, shape: Shape) -> Waiting | None:
        limits = self.snapshot.quotas.get(request.project_id, UNLIMITED).limits()
        if limits == (None, None, None):
            return None
        used, total = self.used(request.project_id), request.total()
        kept = self._kept.get(request.project_id)
        lack = over(limits, used, total)
        if lack is not None:
            if kept is None and over(limits, (0, 0, 0), total) is None:
                at = self._quota_free_at(request.project_id, limits, total)
                self._kept[request.project_id] = Kept(request.job_id, total, at)
            return Waiting(request, shape, Reason.QUOTA_EXCEEDED, lack=lack, kept=kept)
        if kept is None or self.is_over_by(request, kept.at):
            return None
        lack = over(limits, plus(used, kept.amounts), total)
        return None if lack is None else Waiting(request, shape, Reason.QUOTA_RESERVED, lack=lack, kept=kept)

    def _quota_free_at(self, project_id: str, limits: tuple[int | None, ...], total: Amounts) -> datetime | None:
        """Return when enough jobs of a project of known end have ended for one more to fit its quota."""
        used = self.used(project_id)
        ends = [(h.ends_at, h.job_id, h.total()) for h in self._holdings if h.project_id == project_id and h.ends_at]
        for at, _, freed in sorted(ends):
            used = used[0] - freed[0], used[1] - freed[1], used[2] - freed[2]
            if over(limits, used, total) is None:
                return max(at, self.now)
        return None


def plus(a: Amounts, b: Amounts) -> Amounts:
    """Return the sum of two amounts."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def over(limits: tuple[int | None, ...], used: Amounts, more: Amounts) -> Shortage | None:
    """Return the first limit that one more would exceed; None when it fits. What asks for none of it never does."""
    for name, limit, held, wanted in zip(COUNTED, limits, used, more, strict=True):
        if limit is not None and wanted and held + wanted > limit:
            return Shortage(name, wanted, max(limit - held, 0))
    return None
