"""Gives places: asks the scheduler what may start now, and writes it down in one transaction.

It decides nothing: `scheduling.plan` does. Starts and their allocations are refused together when the pool has moved
since the snapshot, and the next tick decides anew. What is written here is made true by `running`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from datetime import datetime, timedelta

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import Attempt, Job, JobState, Waiting, request_of
from dujiang.jobs.settings import JobSettings
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Stale
from dujiang.kit.loop import TickReport
from dujiang.pool.domain import Grant, LedgerFilter, NodeClosed, OverAllocated
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import ADVICE, Plan, Request, Snapshot, Snapshots, Start, Wait, holdings_of_ledger, plan
from dujiang.scheduling.service import SchedulingService


class StartLoop:
    """Plans and commits starts."""

    def __init__(
        self, *, db: Database, pool: PoolService, scheduling: SchedulingService, clock: Clock, settings: JobSettings,
        wake: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Take what it works with; `wake` is called when there is something new to run."""
        self._db, self._pool, self._scheduling, self._clock, self._settings = db, pool, scheduling, clock, settings
        self._wake = wake
        self._snapshots = Snapshots()
        self._requests: dict[str, tuple[tuple[int, int | None], Request]] = {}
        self._told: dict[str, tuple[str, float]] = {}
        self._told_at_s = -settings.told_every_s
        self._limits: dict[AttemptKey, timedelta | None] = {}

    async def tick(self) -> TickReport:
        """Start what may start; note why the rest waits."""
        async with self._db.reading() as tx:
            requests = await self._waiting(tx)
            if not requests:
                self._told.clear()
                return TickReport()
            snapshot = await self._snapshot(tx, requests)
            now = tx.now
        telling = self._clock.monotonic_s() - self._told_at_s >= self._settings.told_every_s
        planned = plan(snapshot, now, telling=telling)
        started = stale = 0
        if planned.starts:
            try:
                started = await self._commit(planned)
            except (Stale, OverAllocated, NodeClosed):
                stale = 1  # the pool has moved: decide again on what is there now
        if started:
            self._wake()
        told = await self._tell(planned.waits, now) if telling and not stale else 0
        report = {"start": started, "stale": stale, "tell": told}
        return TickReport({name: count for name, count in report.items() if count}, again=bool(stale))

    def earliest(self) -> datetime | None:
        """Return when the next retry's pause ends, of those looked at last."""
        times = [one.not_before for _, one in self._requests.values() if one.not_before is not None]
        return min(times, default=None)

    # -- look ------------------------------------------------------------------------------------------------------

    async def _waiting(self, tx: Tx) -> list[Request]:
        """Return what waits; requests are kept between ticks, since only their number of attempts changes them."""
        rows = await store.waiting_ids(tx)
        marks = {job_id: (attempt, not_before) for job_id, attempt, not_before in rows}
        known = {job_id: one for job_id, one in self._requests.items() if marks.get(job_id) == one[0]}
        fresh = await store.read_jobs(tx, marks.keys() - known.keys())
        known |= {job.id: (marks[job.id], request_of(job)) for job in fresh.values()}
        self._requests = known
        return [request for _, request in known.values()]

    async def _snapshot(self, tx: Tx, requests: Sequence[Request]) -> Snapshot:
        view = await self._pool.placeable(tx)
        rows = await self._pool.allocations(tx, LedgerFilter(live=True))
        inventory = await self._pool.inventory(tx)
        ends = await self._ends(tx, {row.share.key for row in rows}) if rows else {}
        return self._snapshots.take(
            view, holdings=holdings_of_ledger(inventory, rows, ends), requests=requests,
            quotas=await self._scheduling.quotas(tx),
        )  # fmt: skip

    async def _ends(self, tx: Tx, running: Set[AttemptKey]) -> dict[AttemptKey, datetime]:
        """Return when running attempts are sure to be over: those with a time limit."""
        self._limits = {key: limit for key, limit in self._limits.items() if key in running}
        if fresh := running - self._limits.keys():
            jobs = await store.read_jobs(tx, {key.job_id for key in fresh})
            self._limits |= {key: _most(jobs[key.job_id]) for key in fresh}
        if not any(self._limits.values()):
            return {}
        ends: dict[AttemptKey, datetime] = {}
        for attempt in await store.live_attempts(tx):
            if limit := self._limits.get(attempt.key):
                ends[attempt.key] = (attempt.started_at or tx.now) + limit
        return ends

    # -- write -----------------------------------------------------------------------------------------------------

    async def _commit(self, planned: Plan) -> int:
        starts = {start.job_id: start for start in planned.starts}
        async with self._db.transaction(cause="start") as tx:
            jobs = await store.lock_jobs(tx, starts)
            fit = [job for job in jobs.values() if job.waits and job.cancel_at is None]
            if not fit:
                return 0
            grants = [_grant(job, starts[job.id]) for job in fit]
            await self._pool.allocate_many(tx, grants, planned.version)
            attempts = [_attempt(job, starts[job.id], tx.now) for job in fit]
            await store.insert_attempts(tx, attempts)
            await store.update_jobs(tx, [_placed(job) for job in fit])
        return len(fit)

    async def _tell(self, waits: Sequence[Wait], now: datetime) -> int:
        """Write why jobs wait: at once when the reason is another, else when the stored figures are old."""
        at_s = self._told_at_s = self._clock.monotonic_s()
        self._told = {job_id: told for job_id, told in self._told.items() if job_id in self._requests}
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


def _most(job: Job) -> timedelta | None:
    """Return how long one attempt can take at most."""
    limit_s = job.spec.time_limit_s
    return None if limit_s is None else timedelta(seconds=limit_s + job.spec.grace_s)


def _grant(job: Job, start: Start) -> Grant:
    return Grant(AttemptKey(job.id, job.attempt + 1), job.project_id, start.cluster, start.ranks)


def _attempt(job: Job, start: Start, now: datetime) -> Attempt:
    return Attempt(
        job_id=job.id, number=job.attempt + 1, project_id=job.project_id, state=JobState.PENDING, reason="Starting",
        cluster=start.cluster, ranks=start.ranks, created_at=now, resume_from=job.resume_from,
    )  # fmt: skip


def _placed(job: Job) -> Job:
    return replace(
        job, attempt=job.attempt + 1, reason="Starting", sentence="It has its place and is being started.", waits=False,
        not_before=None, waiting=None,
    )  # fmt: skip


def _waiting_of(wait: Wait, now: datetime) -> Waiting:
    return Waiting(
        reason=str(wait.reason), detail=wait.sentence, at=now, blocking=wait.blocking_job or wait.blocking_project,
        earliest=wait.earliest, suggestion=wait.change.sentence if wait.change else "", advice=ADVICE[wait.reason],
    )  # fmt: skip
