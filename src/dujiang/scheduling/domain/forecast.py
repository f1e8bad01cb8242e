"""A plan of the future: when waiting jobs start if nothing else is submitted and all goes as far as is known.

Virtual time goes from end to end: what ends gives back what it held, `plan` says what starts, and what starts ends in
turn. Ends are known from time limits; where others like a job suggest that it ends sooner, that is believed, and
everything after it is marked as expected. What has neither a limit nor an expectation never ends here. What is stopped
for others ends within its grace, and everything after it is marked likewise.

Each step costs a plan, so their number is bounded. Where there are more ends than steps they are taken in groups, the
first ones alone and each group larger than the one before by one factor: a start that is near or reserved is told
exactly, one that is far between two moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from dujiang.engines.contract import RankPlacement
from dujiang.scheduling.domain.decide import Round, Start
from dujiang.scheduling.domain.plan import Plan, decided, plan
from dujiang.scheduling.domain.preempt import Preemption
from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.snapshot import Holding, Snapshot
from dujiang.scheduling.domain.stops import StopWhy

HORIZON_S: Final = 30 * 86_400.0
"""Nobody believes a plan for longer."""
MOST_STEPS: Final = 64
LEAST_STEPS: Final = 4
_ROWS: Final = 500_000
"""Of work that one answer may take, all its steps together; a plan takes some 5 microseconds a row."""
_GRACE: Final = timedelta(seconds=30)
"""What work that is stopped is taken to need for saving itself; the default of a specification."""
_FOR_OTHERS: Final = frozenset({StopWhy.PREEMPTED, StopWhy.RECLAIMED})
_JOB_ROWS: Final = 10
"""What a running or waiting job costs a plan, in devices."""


class Unknown(StrEnum):
    """Why no start can be told."""

    ENDS = "UnknownEnds"
    """Not even when everything of known end has ended would there be room."""
    HORIZON = "Horizon"
    """It lies too far ahead."""
    STEPS = "Steps"
    """Too many others end and start before."""


@dataclass(frozen=True, slots=True)
class Expected:
    """When and where a job starts."""

    job_id: str
    at: datetime | None
    """None when it cannot be told; the time of the plan when it starts at once."""
    after: datetime | None = None
    """It did not start yet then, and ends between the two were passed at once; None when `at` is exact."""
    is_certain: bool = True
    """No guess was used: it starts by `at` when all that is known to wait and run takes the whole of its limit."""
    start: Start | None = None
    """Its place."""
    unknown: Unknown | None = None
    """Why it cannot be told."""


def forecast(
    snapshot: Snapshot, now: datetime, *, job_id: str | None = None, horizon_s: float = HORIZON_S,
    most_steps: int | None = None, outcome: tuple[Round, Preemption] | None = None,
) -> dict[str, Expected]:  # fmt: skip
    """Return when each waiting job starts, or one of them.

    Args:
        snapshot: the moment from which to go on.
        now: its time.
        job_id: the only job wanted: those behind it are left out of account, and nothing is done once it starts.
        horizon_s: how far to look.
        most_steps: how many plans to make; None is as many as `steps_for` the snapshot.
        outcome: what `decided` says of the snapshot, where that is known already.

    Cost: at most that many plans.
    """
    steps = steps_for(snapshot) if most_steps is None else max(1, most_steps)
    future = _Future(snapshot, now)
    first, preemption = outcome or decided(snapshot, now)
    done = Plan(tuple(first.starts), (), snapshot.version, tuple(preemption.stops), first.keeping.slots)
    if job_id is not None and job_id not in future.dependents:
        future.leave(_before(first, job_id), job_id)
        future.look_at(reservation.at for reservation in first.reservations.values() if reservation.at is not None)
    found: dict[str, Expected] = {}
    unknown = Unknown.STEPS
    while True:
        found |= future.carry_out(done)
        if not (future.requests or future.dependents) or job_id in found:
            break
        steps -= 1
        if not steps:
            break
        if not future.go_on(steps):
            unknown = Unknown.ENDS
            break
        if (future.now - now).total_seconds() > horizon_s:
            unknown = Unknown.HORIZON
            break
        done = plan(future.snapshot(), future.now, telling=False)
    left = [*future.requests, *future.dependents]
    found |= {one: Expected(one, None, is_certain=False, unknown=unknown) for one in left}
    return found if job_id is None else {one: told for one, told in found.items() if one == job_id}


def steps_for(snapshot: Snapshot) -> int:
    """Return how many plans of such a snapshot one answer may cost: 64 of a small one, 4 of the largest."""
    jobs = len(snapshot.holdings) + len(snapshot.requests)
    rows = snapshot.fleet.device_count + snapshot.fleet.node_count + _JOB_ROWS * jobs
    return max(LEAST_STEPS, min(MOST_STEPS, _ROWS // max(rows, 1)))


def _before(first: Round, job_id: str) -> set[str]:
    """Return what waits before a job, and what starts."""
    waiting = [left.request.job_id for left in first.waiting]
    ahead = waiting[: waiting.index(job_id)] if job_id in waiting else []
    return {*ahead, *(start.job_id for start in first.starts)}


class _Future:
    """The pool at a moment to come."""

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        self._first, self.now = snapshot, now
        self._was: datetime | None = None
        self.requests = {request.job_id: request for request in snapshot.requests}
        self.dependents = {one.request.job_id: one for one in snapshot.dependents}
        self._holdings = list(snapshot.holdings)
        self._ends: list[tuple[datetime, bool] | None] = [_end(each, now) for each in snapshot.holdings]
        self._node = snapshot.node_free.copy()
        self._milli, self._memory = snapshot.device_milli.copy(), snapshot.device_memory.copy()
        self._is_certain, self._rules, self._slots = True, snapshot.rules, snapshot.slots
        self._factor, self._grouped = 0.0, 0
        self._marks: list[datetime] = []

    def leave(self, kept: set[str], job_id: str) -> None:
        """Forget what waits behind a job, but for what a place is kept for."""
        self.requests = {
            one: each for one, each in self.requests.items() if one in kept or one == job_id or each.deadline
        }  # fmt: skip
        runs = {held.job_id for held in self._holdings}
        while True:  # what waits for what is left out here would come too soon
            there = {*runs, *self.requests, *self.dependents}
            left = {one: each for one, each in self.dependents.items() if there.issuperset(each.after)}
            if len(left) == len(self.dependents):
                return
            self.dependents = left

    def look_at(self, moments: Iterable[datetime]) -> None:
        """Let no group of ends reach over these."""
        self._marks = sorted(moments)

    def snapshot(self) -> Snapshot:
        """Return it for a plan."""
        return replace(
            self._first, node_free=self._node, device_milli=self._milli, device_memory=self._memory,
            holdings=tuple(self._holdings), requests=tuple(self.requests.values()), rules=self._rules,
            slots=self._slots, dependents=tuple(self.dependents.values()),
        )  # fmt: skip

    def carry_out(self, done: Plan) -> dict[str, Expected]:
        """Start what a plan starts, and stop what it stops for that; what was stopped does not come back here."""
        found: dict[str, Expected] = {}
        self._slots = done.slots
        for start in done.starts:
            request = self.requests.pop(start.job_id, None)
            if request is None:  # it stands behind the one that is asked for
                continue
            if start.rent is not None and self._rules.burst is not None:
                self._rules = replace(self._rules, burst=self._rules.burst.spent(start.rent.total))
            held = begun(request, start, self.now)
            self._move(held.cluster, held.ranks, -1)
            self._holdings.append(held)
            self._ends.append(_end(held, self.now))
            found[start.job_id] = Expected(start.job_id, self.now, self._was, self._is_certain, start)
        gone = {stop.job_id for stop in done.stops if stop.why in _FOR_OTHERS and stop.for_job in self.requests}
        for at, held in enumerate(self._holdings):
            if held.job_id in gone and not held.is_stopping:
                self._holdings[at] = stopped = replace(held, is_stopping=True, ends_at=self.now + _GRACE)
                self._ends[at] = (stopped.ends_at or self.now, False)
        return found

    def go_on(self, steps: int) -> bool:
        """Go to the next moment at which something may start; False when there is none.

        Args:
            steps: how many there are left, this one counted in; the last passes all moments that are left.
        """
        moments = sorted({end[0] for end in self._ends if end} | set(self._changes()))
        if not moments:
            return False
        if moments[0] > self.now:  # else it should have ended by now: as if it did
            passed = self._passed(len(moments), steps)
            mark = next((mark for mark in self._marks if self.now < mark < moments[passed - 1]), moments[passed - 1])
            self._was = self.now if mark > moments[0] else None
            self.now = mark
        kept = [(held, end) for held, end in zip(self._holdings, self._ends, strict=True) if not self._ended(held, end)]
        self._holdings, self._ends = [held for held, _ in kept], [end for _, end in kept]
        self._take_part()
        return True

    def _take_part(self) -> None:
        """Let those wait for room whose dependencies have ended: all end as they should, as far as is known here."""
        there = {*(held.job_id for held in self._holdings), *self.requests, *self.dependents} if self.dependents else ()
        ready = [
            each for each in self.dependents.values() if each.is_known and not any(on in there for on in each.after)
        ]
        for each in ready:
            del self.dependents[each.request.job_id]
            self.requests[each.request.job_id] = each.request

    def _passed(self, ahead: int, steps: int) -> int:
        """Return how many moments to pass in this step: 1 while there are steps for all, else ever more."""
        if ahead <= steps or steps == 1:
            return 1 if ahead <= steps else ahead
        self._factor = self._factor or ahead ** (1 / steps)
        self._grouped += 1
        group = math.ceil(self._factor**self._grouped) - math.ceil(self._factor ** (self._grouped - 1))
        return max(1, min(ahead, group))

    def _ended(self, held: Holding, end: tuple[datetime, bool] | None) -> bool:
        if end is None or end[0] > self.now:
            return False
        self._move(held.cluster, held.ranks, 1)
        self._is_certain = self._is_certain and end[1]
        return True

    def _changes(self) -> Iterable[datetime]:
        """Yield the moments to come at which something changes though nothing ends."""
        burst = self._rules.burst
        for request in self.requests.values():
            if request.not_before is not None and request.not_before > self.now:
                yield request.not_before
            if burst is not None and (due := request.submitted_at + timedelta(seconds=burst.after_s)) > self.now:
                yield due
            if (moves_up := request.moves_up_at) is not None and moves_up > self.now:
                yield moves_up
        yield from (slot.at for slot in self._slots if slot.at > self.now)
        for window in self._first.windows:
            yield from (at for at in (window.begins_at, window.ends_at) if at > self.now)

    def _move(self, cluster: str, ranks: Sequence[RankPlacement], sign: int) -> None:
        """Take what ranks hold (-1), or give it back (1)."""
        fleet = self._first.fleet
        for rank in ranks:
            node = fleet.node_at.get((cluster, rank.node))
            if node is None:
                continue
            for row, amount in enumerate((rank.cpu_milli, rank.memory_bytes, rank.disk_bytes)):
                self._node[row, node] += sign * amount
            for share in rank.devices:
                device = fleet.device_at.get((node, share.name))
                if device is not None:
                    self._milli[device] += sign * share.gpu_milli
                    self._memory[device] += sign * share.memory_bytes


def begun(request: Request, start: Start, at: datetime) -> Holding:
    """Return what a job holds once it has started."""
    limit_s, expected_s = request.runs_at_most_s, request.expected_s
    assert request.weight is not None
    return Holding(
        job_id=start.job_id, project_id=start.project_id, cluster=start.cluster, ranks=start.ranks, started_at=at,
        ends_at=None if limit_s is None else at + timedelta(seconds=limit_s),
        expected_end=None if expected_s is None else at + timedelta(seconds=expected_s), queue=request.queue,
        task_class=request.task_class, weight=request.weight, apart=request.where.apart, ranks_min=request.ranks_min,
        ranks_max=None if request.ranks_min is None else request.ranks, had_device_s=request.had_device_s,
    )  # fmt: skip


def _end(held: Holding, now: datetime) -> tuple[datetime, bool] | None:
    """Return when it ends, and whether that is its limit; None when nothing tells.

    An expectation that has passed was wrong and says nothing more.
    """
    guess = held.expected_end if held.expected_end is not None and held.expected_end > now else None
    if guess is not None and (held.ends_at is None or guess < held.ends_at):
        return guess, False
    return None if held.ends_at is None else (held.ends_at, True)
