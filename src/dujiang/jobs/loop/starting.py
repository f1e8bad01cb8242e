"""Gives places: asks the scheduler what may start now and what has to stop for it, and writes both down at once.

It decides nothing: `scheduling.plan` does. Starts, their allocations and stops are refused together when the pool has
moved since the snapshot, and the next tick decides anew. What is written here is made true by `running`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import BEING_STARTED, Attempt, Job, JobState, Waiting
from dujiang.jobs.events import JobBurst, JobDeadlineAtRisk
from dujiang.jobs.expecting import left_s
from dujiang.jobs.loop.outlook import Outlook
from dujiang.jobs.loop.stopping import ask_stops
from dujiang.jobs.settings import JobSettings
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Stale
from dujiang.kit.loop import TickReport
from dujiang.pool.domain import Grant, NodeClosed, OverAllocated
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import Plan, Request, Snapshot, Start, Wait, plan
from dujiang.scheduling.domain.expected import Expectation
from dujiang.scheduling.domain.explaining import Explainer, in_the_way
from dujiang.scheduling.domain.renting import Rent
from dujiang.scheduling.domain.slots import Risk
from dujiang.scheduling.service import SchedulingService


class Planner(Protocol):
    """What decides; `scheduling.plan`, unless a test puts something in front of it."""

    def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        """Return what to do now."""
        ...


class StartLoop:
    """Plans and commits starts, and stops for their sake."""

    def __init__(
        self, *, db: Database, pool: PoolService, scheduling: SchedulingService, clock: Clock, settings: JobSettings,
        wake: Callable[[], None] = lambda: None, planner: Planner = plan,
    ) -> None:  # fmt: skip
        """Take what it works with; `wake` is called when there is something new to run, or to stop."""
        self._db, self._pool, self._clock, self._settings = db, pool, clock, settings
        self._wake, self._plan = wake, planner
        self._scheduling = scheduling
        self._outlook = Outlook(pool=pool, scheduling=scheduling)
        self._told: dict[str, tuple[str, float]] = {}
        self._told_at_s = -settings.told_every_s
        self._resized_at_s = -settings.resize_s
        self._at_risk: frozenset[str] = frozenset()

    async def tick(self) -> TickReport:
        """Start what may start, ask to stop what has to; note why the rest waits."""
        async with self._db.reading() as tx:
            requests = await self._outlook.waiting(tx)
            if not requests and not self._may_resize():
                self._told.clear()
                self._scheduling.last_plan = None
                return TickReport()
            snapshot = await self._outlook.snapshot(tx, requests)
            now = tx.now
        telling = self._clock.monotonic_s() - self._told_at_s >= self._settings.told_every_s
        planned = self._plan(snapshot, now, telling=telling)
        done: Counter[str] = Counter()
        if planned.starts or planned.stops:
            try:
                done = await self._commit(planned)
            except (Stale, OverAllocated, NodeClosed):
                done["stale"] = 1  # the pool has moved: decide again on what is there now
        if not done["stale"]:
            self._scheduling.kept_slots = planned.slots
            self._scheduling.last_plan = Explainer(snapshot, now, planned.outcome)
            done["risk"] = await self._warn(planned.risks, [*requests, *(one.request for one in snapshot.dependents)])
        if done["start"] or done["stop"]:
            self._wake()
        if telling and not done["stale"]:
            done["tell"] = await self._tell(planned.waits, now)
        return TickReport({name: count for name, count in done.items() if count}, again=bool(done["stale"]))

    def _may_resize(self) -> bool:
        """Say whether running elastic work is due for a look though nothing waits."""
        at_s = self._clock.monotonic_s()
        if at_s - self._resized_at_s < self._settings.resize_s:
            return False
        is_first, self._resized_at_s = self._resized_at_s < 0, at_s
        return is_first or self._outlook.has_elastic  # at first nothing is known of what runs

    # -- write -----------------------------------------------------------------------------------------------------

    async def _commit(self, planned: Plan) -> Counter[str]:
        starts = {start.job_id: start for start in planned.starts}
        async with self._db.transaction(cause="start") as tx:
            jobs = await store.lock_jobs(tx, starts.keys() | {stop.job_id for stop in planned.stops})
            fit = [job for job_id, job in jobs.items() if job_id in starts and job.waits and job.cancel_at is None]
            if fit:
                await self._start(tx, fit, starts, planned.version)
            elif planned.stops and await self._pool.version(tx) != planned.version:
                raise Stale("The pool has changed since these stops were decided; decide again.")
            stopped = await ask_stops(tx, planned.stops, jobs)
        return Counter(start=len(fit), stop=len(stopped))

    async def _start(self, tx: Tx, fit: Sequence[Job], starts: Mapping[str, Start], version: int) -> None:
        await self._pool.allocate_many(tx, [_grant(job, starts[job.id]) for job in fit], version)
        expected = {job.id: self._outlook.expect(job) for job in fit}
        attempts = [_attempt(job, starts[job.id], expected[job.id], tx.now) for job in fit]
        await store.insert_attempts(tx, attempts)
        burst = self._scheduling.settings.burst
        tx.emit(*(
            _burst(job, starts[job.id], rent, burst.budget_per_day, tx.now)
            for job in fit if (rent := starts[job.id].rent) is not None
        ))  # fmt: skip
        await store.update_jobs(tx, [_placed(job, expected[job.id]) for job in fit])

    async def _warn(self, risks: Sequence[Risk], requests: Sequence[Request]) -> int:
        """Tell the jobs whose promised deadline has come to be at risk since the last look."""
        due = {one.job_id: one for one in requests}
        news = [risk for risk in risks if risk.job_id not in self._at_risk]
        if news:
            async with self._db.transaction(cause="start") as tx:
                tx.emit(*(_at_risk(due[risk.job_id], risk) for risk in news))
        self._at_risk = frozenset(risk.job_id for risk in risks)
        return len(news)

    async def _tell(self, waits: Sequence[Wait], now: datetime) -> int:
        """Write why jobs wait: at once when the reason is another, else when the stored figures are old."""
        at_s = self._told_at_s = self._clock.monotonic_s()
        waiting = self._outlook.waits
        self._told = {job_id: told for job_id, told in self._told.items() if job_id in waiting}
        news: dict[str, Waiting] = {}
        for wait in waits:
            reason, told_s = self._told.get(wait.job_id, ("", 0.0))
            if reason == wait.reason and at_s - told_s < self._settings.waits_retold_s:
                continue
            if len(news) >= self._settings.most_retold:
                break
            news[wait.job_id] = _waiting_of(wait, now)
        if news:
            async with self._db.transaction(cause="start") as tx:
                await store.update_waiting(tx, news)
            self._told |= {job_id: (one.reason, at_s) for job_id, one in news.items()}
        return len(news)


def _grant(job: Job, start: Start) -> Grant:
    return Grant(AttemptKey(job.id, job.attempt + 1), job.project_id, start.cluster, start.ranks)


def _attempt(job: Job, start: Start, expected: Expectation | None, now: datetime) -> Attempt:
    return Attempt(
        job_id=job.id, number=job.attempt + 1, project_id=job.project_id, state=JobState.PENDING, reason="Starting",
        cluster=start.cluster, ranks=start.ranks, created_at=now, resume_from=job.resume_from,
        expected_s=None if expected is None else left_s(job, expected.seconds),
    )  # fmt: skip


def _at_risk(request: Request, risk: Risk) -> JobDeadlineAtRisk:
    assert request.deadline is not None
    return JobDeadlineAtRisk(
        subject=request.job_id, project_id=request.project_id, deadline=request.deadline.isoformat(),
        sentence=risk.sentence,
    )  # fmt: skip


def _burst(job: Job, start: Start, rent: Rent, budget: Decimal, now: datetime) -> JobBurst:
    return JobBurst(
        subject=job.id, project_id=job.project_id, attempt=job.attempt + 1, cluster=start.cluster,
        cost=f"{rent.total:f}", per_hour=f"{rent.per_hour:f}", currency=rent.currency,
        waited_s=round((now - job.created_at).total_seconds(), 3), budget_per_day=f"{budget:f}",
        budget_left=f"{rent.left:f}",
    )  # fmt: skip


def _placed(job: Job, expected: Expectation | None) -> Job:
    if job.attempt == 0 and expected is not None:
        job = replace(job, expected_s=expected.seconds, expected_by=str(expected.alike))
    return replace(
        job, attempt=job.attempt + 1, reason="Starting", sentence=BEING_STARTED, waits=False,
        not_before=None, waiting=None,
    )  # fmt: skip


def _waiting_of(wait: Wait, now: datetime) -> Waiting:
    return Waiting(
        reason=str(wait.reason), detail=wait.sentence, at=now, blocking=in_the_way(wait),
        earliest=wait.earliest, suggestion=wait.change.sentence if wait.change else "", advice=wait.advice,
    )  # fmt: skip
