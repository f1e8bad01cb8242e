"""One round through the queue: what starts, and on what grounds everything else does not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from dujiang.engines.contract import RankPlacement
from dujiang.scheduling.domain.caps import Caps, Kept
from dujiang.scheduling.domain.find import find, placements
from dujiang.scheduling.domain.fragments import Typical, counted
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.keeping import Keeping
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.queue_usage import QueueLack
from dujiang.scheduling.domain.reasons import NOTHING, Reason, Shortage
from dujiang.scheduling.domain.renting import Rent
from dujiang.scheduling.domain.request import Request, Shape, apart_of, shape_of
from dujiang.scheduling.domain.reserve import Releases, Reservation, reserve
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.slots import Risk
from dujiang.scheduling.domain.snapshot import Holding, Snapshot, Window
from dujiang.scheduling.domain.turns import age_s, weight_at, width
from dujiang.scheduling.domain.walls import Walls


@dataclass(frozen=True, slots=True)
class Start:
    """One job to start, all its ranks at once."""

    job_id: str
    project_id: str
    cluster: str
    ranks: tuple[RankPlacement, ...]
    rent: Rent | None = None
    """What it is estimated to cost; of a start on a rented cluster that the job did not name."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that was not started, as it was judged at its turn."""

    request: Request
    shape: Shape
    """What it would rather have, or the first of its alternatives that the pool could ever give."""
    reason: Reason
    """RESOURCES stands for PRIORITY too: what would have fitted at first is told apart when it is told."""
    in_gap: bool = False
    """It could use what is kept for others: nothing was kept yet, or it will be over in time."""
    lack: Shortage = NOTHING
    kept: Kept | None = None
    """Quota that was kept for another job of the project."""
    window: Window | None = None
    queue_lack: QueueLack | None = None
    due: str = ""
    """The job with a promised deadline for which its place or quota is kept."""
    held_for: str = ""
    """With RESERVED: the job for which its place is kept: `due`, or the last before it whose start is prepared."""


@dataclass(slots=True)
class Round:
    """The state of one round: as many passes through the queue as start something. `run` fills it, then it is read."""

    snapshot: Snapshot
    now: datetime
    starts: list[Start] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    """By the job that has it, in the order in which they were made."""
    late: Room | None = None
    """What may be taken without touching what is reserved, also by jobs that never end; None: nothing is."""
    before: Room = field(init=False)
    """What was free at first."""
    room: Room = field(init=False)
    """What is free, reservations left out of account."""
    grounds: Grounds = field(init=False)
    caps: Caps = field(init=False)
    queues: QueueRound = field(init=False)
    releases: Releases = field(init=False)
    keeping: Keeping = field(init=False)
    """What is kept for promised deadlines."""
    windows: tuple[Window, ...] = field(init=False)
    holdings: list[Holding] = field(init=False)
    """Everything that runs, what was started in this round last."""
    _walls: tuple[Walls, Walls] = field(default_factory=lambda: (Walls(), Walls()))
    """Shapes that do not fit beside the reservations, and shapes that do not fit at all."""
    _fits_room: dict[Shape, tuple[int, bool]] = field(default_factory=dict)
    _started_beside: bool = False
    """Something was started in this pass after something else was kept for a job before it."""
    curbed: set[str] = field(default_factory=set)
    """Projects of which a job got less for want of quota, fewer ranks or an alternative: of more it would take more."""
    _is_stopping: bool = field(init=False)
    """Something is being stopped for jobs that wait: their starts are prepared too, so that nobody takes the room."""
    gap_ends: datetime | None = None
    """The first moment at which a reserved start may be; None when one may be any time."""
    held_back: dict[str, str] = field(default_factory=dict)
    """By job: for whom room or quota was kept from it in an earlier pass of this round."""
    due_starts: int = 0
    """How many of the starts were made first, whatever stood before them: they could wait no longer."""

    def __post_init__(self) -> None:
        """Lay out the rooms."""
        s = self.snapshot
        self.windows = tuple(sorted(s.windows, key=lambda one: (one.begins_at, one.name)))
        typical = Typical(counted(s.requests, s.holdings))
        self.before = Room(s.fleet, s.node_free, s.device_milli, s.device_memory, typical)
        self.room = self.before.copy(typical)
        self.grounds = Grounds(s.fleet, self.windows)
        self.caps = Caps(s, self.now)
        self.queues = QueueRound.begin(s.queues, s.fleet, s.holdings)
        self.releases = Releases(s.fleet, s.holdings)
        self.holdings = list(s.holdings)
        self._is_stopping = any(holding.is_stopping for holding in s.holdings)
        for holding in s.holdings:
            self._occupy(self.grounds, holding)
        self.keeping = Keeping(
            s, self.now, room=self.before, releases=self.releases, queues=self.queues, grounds=self.grounds
        )

    @property
    def risks(self) -> tuple[Risk, ...]:
        """Return promised deadlines that are at risk, by job."""
        return tuple(risk for _, risk in sorted(self.keeping.risks.items()))

    def run(self) -> None:
        """Go through the queue until a pass changes nothing.

        What starts beside a reservation may let the reserved job end up elsewhere, and so make room for others: without
        another look, the very next plan would start those.
        """
        self._start_due()
        begun = {start.job_id for start in self.starts}
        waiting = sorted((one for one in self.snapshot.requests if one.job_id not in begun), key=self.order)
        while waiting:
            self._begin_pass()
            for request in waiting:
                left = self._decide(request)
                if left is not None:
                    self.waiting.append(left)
            if not self._started_beside:
                break
            for left in self.waiting:
                if kept_for := left.held_for or (left.kept.job_id if left.kept else ""):
                    self.held_back[left.request.job_id] = kept_for
            waiting = [left.request for left in self.waiting]

    def order(self, request: Request) -> tuple[float, datetime, datetime, str]:
        """Return the sort key of the queue: its weight is adjusted by what its project, and it itself, has had."""
        share, turns = self.snapshot.shares.get(request.project_id), self.snapshot.rules.turns
        weight = request.weight
        assert weight is not None
        if share is not None:
            weight = share.weight(request.task_class, weight)
        if turns is not None:
            weight = weight_at(weight, request.task_class, self.level_of(request))
        return request.order(self.now, weight)

    def level_of(self, job: Request | Holding) -> int:
        """Return the level of what waits or runs where work takes turns, 0 the first; 0 where it does not."""
        turns = self.snapshot.rules.turns
        if turns is None:
            return 0
        if isinstance(job, Request):
            gpu, cpu, _ = job.total()
            return turns.level(job.had_device_s, width(gpu, cpu), age_s(job.submitted_at, self.now), job.expected_s)
        gpu, cpu, _ = job.total()
        wide, ran_s = width(gpu, cpu), age_s(job.started_at, self.now)
        since = job.started_at if job.request is None else job.request.submitted_at
        expected_s = None if job.expected_end is None else (job.expected_end - job.started_at).total_seconds()
        return turns.level(job.had_device_s + ran_s * wide, wide, age_s(since, self.now), expected_s)

    def is_over_by(self, request: Request, at: datetime | None) -> bool:
        """Say whether a job started now is sure to be over by then."""
        if at is None or request.runs_at_most_s is None:
            return False
        return self.now + timedelta(seconds=request.runs_at_most_s) <= at

    def may_fill_gap(self, request: Request, over_by: datetime | None = None) -> bool:
        """Say whether a job may use what is reserved: nothing is, or it will be over in time.

        Args:
            request: the job.
            over_by: suppose that it will be over by then.
        """
        if self.late is None or self.is_over_by(request, self.gap_ends):
            return True
        return over_by is not None and self.gap_ends is not None and over_by <= self.gap_ends

    def shapes(self, request: Request) -> tuple[Shape, ...]:
        """Return what decides where a job fits, windows counted in, one shape for each alternative."""
        barred = self.barred(request)
        if not barred:
            return request.shapes
        return tuple(shape_of(s.ask, s.ranks, s.where, s.avoid, barred) for s in request.shapes)

    def barred(self, request: Request, over_by: datetime | None = None) -> tuple[int, ...]:
        """Return the windows whose nodes a job may not use: it could still run when they begin.

        Args:
            request: the job.
            over_by: suppose that it will be over by then.
        """
        if not self.windows:
            return ()
        return tuple(
            number for number, window in enumerate(self.windows)
            if window.ends_at > self.now and request.project_id not in window.projects
            and not self.is_over_by(request, window.begins_at) and not (over_by and over_by <= window.begins_at)
        )  # fmt: skip

    def _start_due(self) -> None:
        """Start what can wait no longer for its deadline, on the place that was kept for it."""
        for kept in self.keeping.due(self.room):
            request, ask = kept.request, kept.fit.ask
            over = self.caps.check(request, kept.total, self.holdings, self.is_over_by)
            look = self.queues.look(request.project_id, request.queue, ask, len(kept.fit.spots))
            if over is None and look.lack is None:
                self.start(request, kept.fit, in_gap=True)
        self.due_starts = len(self.starts)

    def _begin_pass(self) -> None:
        self.waiting, self.reservations, self.late, self.gap_ends = [], {}, None, None
        self.caps.begin_pass()
        self.queues.begin_pass()
        self._started_beside = False
        self._walls, self._fits_room = (Walls(), self._walls[True]), {}
        self.keeping.forget()

    def _decide(self, request: Request) -> Waiting | None:
        """Start a job with the first of its alternatives that fits; else say why it waits."""
        if request.not_before is not None and request.not_before > self.now:
            return Waiting(request, request.shape, Reason.BACKOFF)
        main: Waiting | None = None
        for shape in self.shapes(request):
            left = self._try(request, shape)
            if left is None:
                if main is not None and main.reason in (Reason.QUOTA_EXCEEDED, Reason.QUOTA_RESERVED):
                    self.curbed.add(request.project_id)
                return None
            if main is None or _hope(left) > _hope(main):
                main = left
        assert main is not None
        if main.reason is Reason.RESOURCES or (main.due and main.reason is Reason.RESERVED):
            self._reserve(request, main.shape)
        elif main.reason is Reason.QUEUE_QUOTA and main.queue_lack is not None:
            ask = main.shape.ask
            self.queues.keep(request.job_id, request.project_id, request.queue, ask, main.shape.ranks, main.queue_lack)
        return main

    def _try(self, request: Request, shape: Shape) -> Waiting | None:
        """Start a job in this shape, or say why not."""
        least = request.ranks_min or shape.ranks
        small = shape if least == shape.ranks else _with_ranks(shape, least)
        ground = self.grounds.of(small)
        if ground.reason is not None:
            return Waiting(request, small, ground.reason, lack=ground.shortage, window=ground.window)
        over = self._over_quota(request, small)
        if over is not None:
            return over
        in_gap = self.may_fill_gap(request)
        base = self.base(in_gap=in_gap)
        if self._walls[in_gap].stop(small):
            return self._no_room(request, small, in_gap=in_gap)
        room, closed = self.keeping.lowered(base, request, in_gap=in_gap), self.closed(request, small)
        # By best fit, as when the stops were decided that it was promised the room of.
        fit = find(room, small, ground.allowed, closed=closed, tightest=request.is_promised)
        if fit is None and room is not base:
            fit = self.keeping.own_place(request, small, base)
        elif fit is None and not closed:
            self._walls[in_gap].add(small)
        elif fit is not None and least < shape.ranks:
            fit = self._grown(request, shape, least, room) or fit
        if fit is None:
            return self._no_room(request, small, in_gap=in_gap)
        self.start(request, fit, in_gap=in_gap)
        return None

    def base(self, *, in_gap: bool) -> Room:
        """Return what is free now to a job that may use what is reserved, or to one that may not."""
        return self.room if self.late is None or in_gap else self.late

    def _over_quota(self, request: Request, shape: Shape) -> Waiting | None:
        ask, ranks = shape.ask, shape.ranks
        total = ask.gpu_milli * ranks, ask.cpu_milli * ranks, ask.memory_bytes * ranks
        over = self.caps.check(request, total, self.holdings, self.is_over_by)
        if over is not None:
            return Waiting(request, shape, over.reason, lack=over.lack, kept=over.kept)
        look = self.queues.look(request.project_id, request.queue, ask, ranks)
        if look.lack is None:
            due = self.keeping.quota_for(request, shape)
            return (
                Waiting(request, shape, Reason.QUOTA_RESERVED, kept=Kept(due, (0, 0, 0), None), due=due)
                if due
                else None
            )
        kept = Kept(look.kept_for, (0, 0, 0), None) if look.kept_for else None
        return Waiting(request, shape, Reason.QUEUE_QUOTA, queue_lack=look.lack, kept=kept)

    def closed(self, request: Request, shape: Shape) -> frozenset[int]:
        """Return the places where a job's queue cannot have so much, as `find` numbers them."""
        now = self.queues.look(request.project_id, request.queue, shape.ask, shape.ranks).options
        return now | self.keeping.closed(request, shape)

    def _grown(self, request: Request, shape: Shape, least: int, room: Room) -> Fit | None:
        """Return the best place for as many ranks of an elastic job as fit and may be."""
        ask = shape.ask
        one = (ask.gpu_milli, ask.cpu_milli, ask.memory_bytes)
        most = max(least, self.caps.most_ranks(request, one, shape.ranks))
        if most < shape.ranks:
            self.curbed.add(request.project_id)
        most = self.queues.most_ranks(request.project_id, request.queue, ask, least, most)
        while most > least and self.keeping.quota_for(request, _with_ranks(shape, most)):
            most -= 1
        shape = _with_ranks(shape, most)
        allowed = self.grounds.of(shape).allowed
        return find(room, shape, allowed, least=least, closed=self.closed(request, shape))

    def _no_room(self, request: Request, shape: Shape, *, in_gap: bool) -> Waiting:
        is_kept = self.late is not None and not in_gap and self._would_fit(request, shape)
        due = self.keeping.place_for(request, shape, self.base(in_gap=in_gap), self.closed(request, shape))
        held_for = due or (next(reversed(self.reservations)) if is_kept else "")
        return Waiting(
            request, shape, Reason.RESERVED if held_for else Reason.RESOURCES, in_gap, due=due, held_for=held_for
        )  # fmt: skip

    def start(self, request: Request, fit: Fit, *, in_gap: bool, rent: Rent | None = None) -> None:
        """Let a job have its place.

        Args:
            request: the job.
            fit: its place.
            in_gap: it may use what is reserved.
            rent: what the place costs, when the job did not name its rented cluster.
        """
        fleet = self.snapshot.fleet
        ranks, cluster = placements(fleet, fit), fleet.clusters[fit.cluster].name
        self.starts.append(Start(request.job_id, request.project_id, cluster, ranks, rent))
        ends = None if request.runs_at_most_s is None else self.now + timedelta(seconds=request.runs_at_most_s)
        holding = Holding(
            request.job_id, request.project_id, cluster, ranks, self.now, ends, apart=request.where.apart,
            expected_end=None if request.expected_s is None else self.now + timedelta(seconds=request.expected_s),
            queue=request.queue, task_class=request.task_class, had_device_s=request.had_device_s,
        )  # fmt: skip
        self.holdings.append(holding)
        self.releases.add(holding)
        self.caps.take(request.project_id, holding.total())
        self.queues.take(request.project_id, request.queue, cluster, ranks)
        self._occupy(self.grounds, holding)
        self.room.take(fit)
        had_kept = self.keeping.begins(request.job_id) is not None
        self._started_beside = (
            self._started_beside or self.late is not None or self.caps.keeps_any or self.queues.keeps_any or had_kept
        )
        if self.late is not None and in_gap:
            self.late.lower_to(self.room, fit)
        elif self.late is not None:
            self.late.take(fit)
        self.keeping.begin(holding, fit, self.room, self.late)

    def grounds_before(self, starts: int = 0) -> Grounds:
        """Return the grounds as they were at first, or after so many starts."""
        grounds = Grounds(self.snapshot.fleet, self.windows)
        for holding in self.holdings[: len(self.snapshot.holdings) + starts]:
            self._occupy(grounds, holding)
        return grounds

    def _occupy(self, grounds: Grounds, holding: Holding) -> None:
        if not holding.apart:
            return
        at = self.snapshot.fleet.node_at
        nodes = (at.get((holding.cluster, rank.node)) for rank in holding.ranks)
        grounds.occupy(apart_of(holding.project_id, holding.apart), (node for node in nodes if node is not None))

    def _reserve(self, request: Request, shape: Shape) -> None:
        """Prepare the start of a job that waits for room, if it is near enough to the front."""
        rules = self.snapshot.rules
        most = rules.reservations + (rules.most_stops_for if rules.reservations and self._is_stopping else 0)
        if len(self.reservations) >= most:
            return
        allowed, closed = self.grounds.of(shape).allowed, self.closed(request, shape)
        targets, kept = [one.target for one in self.reservations.values()], self.keeping.targets(request)
        made = reserve(self.room, self.releases, request.job_id, shape, allowed, self.now, closed, [*targets, *kept])
        if made is None and kept and find(self.room, shape, allowed, closed=closed) is None:
            made = reserve(self.room, self.releases, request.job_id, shape, allowed, self.now, closed, targets)
            if made is not None:  # what is kept for deadlines may keep it waiting beyond that
                made = replace(made[0], at=None, expected=made[0].gap_ends), made[1]
        if made is None:
            return
        reservation, late = made
        if self.late is not None:
            late.lower(self.late)
        is_first = self.late is None
        self.reservations[request.job_id] = reservation
        self.late = late
        self.keeping.forget()
        ends = [one.gap_ends for one in self.reservations.values()]
        self.gap_ends = None if None in ends else min(at for at in ends if at)
        if is_first:
            self.caps.keep(request)  # its project must not use up the quota that it will need

    def _would_fit(self, request: Request, shape: Shape) -> bool:
        """Say whether it would fit now but for the reservations."""
        closed = self.closed(request, shape)
        known = None if closed else self._fits_room.get(shape)
        if known is None or known[0] != len(self.starts):
            fits = not self._walls[True].stop(shape)
            if fits and find(self.room, shape, self.grounds.of(shape).allowed, closed=closed) is None:
                fits = False
                if not closed:
                    self._walls[True].add(shape)
            known = (len(self.starts), fits)
            if not closed:
                self._fits_room[shape] = known
        return known[1]


_HOPELESS: Final = (
    Reason.NO_MATCHING_DEVICE, Reason.NO_IMAGES, Reason.TOO_LARGE, Reason.TAINTED, Reason.NODE_UNAVAILABLE,
    Reason.WINDOW,
)  # fmt: skip
"""Reasons that waiting for others does not mend, the most hopeless first."""


def _hope(waiting: Waiting) -> int:
    """Return how near a job is to a start with this alternative."""
    return _HOPELESS.index(waiting.reason) if waiting.reason in _HOPELESS else len(_HOPELESS)


def _with_ranks(shape: Shape, ranks: int) -> Shape:
    return shape_of(shape.ask, ranks, shape.where, shape.avoid, shape.barred)
