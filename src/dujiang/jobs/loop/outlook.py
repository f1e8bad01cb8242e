"""The snapshot of what runs and waits now: what the start loop plans on, and what everyone who asks is told from.

Nobody else makes one, so what is explained, saved or tried out is what the scheduler sees.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import group_store, live_store, store
from dujiang.jobs.domain import Job, request_of
from dujiang.jobs.expecting import Expectations, left_s
from dujiang.jobs.loop.abouts import Abouts
from dujiang.jobs.loop.dependents import dependents_of
from dujiang.jobs.loop.served import Served
from dujiang.kit.db import Tx
from dujiang.pool.domain import Allocation, LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import About, Dependent, Request, Snapshot, Snapshots, holdings_of_ledger
from dujiang.scheduling.domain.expected import Expectation
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.service import SchedulingService
from dujiang.scheduling.spending import Spending

_BUDGET: Final = timedelta(hours=1)
"""Over which what stops cost is counted."""


class Outlook:
    """Makes snapshots of the live state; remembers what does not change between two looks. For one user at a time."""

    def __init__(self, *, pool: PoolService, scheduling: SchedulingService) -> None:
        self._pool, self._scheduling = pool, scheduling
        self._expectations, self._abouts, self._snapshots = Expectations(), Abouts(), Snapshots()
        self._spending, self._served = Spending(pool), Served(pool)
        self._requests: dict[str, tuple[tuple[int, int | None, bool], Request]] = {}
        self._held: dict[str, Request] = {}

    async def look(self, tx: Tx) -> Snapshot:
        """Return the snapshot of this moment."""
        return await self.snapshot(tx, await self.waiting(tx))

    async def waiting(self, tx: Tx) -> list[Request]:
        """Return what waits; requests are kept between looks, since little changes them.

        That is the number of attempts, the end of a retry's pause, and whether work was stopped for it.
        """
        rows = await store.waiting_ids(tx)
        marks = {job_id: (attempt, not_before, promised) for job_id, attempt, not_before, promised in rows}
        known = {job_id: one for job_id, one in self._requests.items() if marks.get(job_id) == one[0]}
        fresh = await store.read_jobs(tx, marks.keys() - known.keys())
        if fresh:
            await self._expectations.catch_up(tx)
        known |= {
            job.id: (marks[job.id], replace(self.request(job), is_promised=marks[job.id][2])) for job in fresh.values()
        }
        self._requests = known
        return [request for _, request in known.values()]

    async def snapshot(self, tx: Tx, requests: Sequence[Request]) -> Snapshot:
        """Return the snapshot in which these wait."""
        view = await self._pool.placeable(tx)
        rows = await self._pool.allocations(tx, LedgerFilter(live=True))
        inventory = await self._pool.inventory(tx)
        about = await self._abouts.of(tx, {row.share.key for row in rows})
        if self._scheduling.settings.turn_device_s:
            requests, about = await self._with_service(tx, requests, about)
        queues = await self._scheduling.queues(tx)
        shares = await self._scheduling.shares(tx, queues, rows, {request.project_id for request in requests})
        holdings = holdings_of_ledger(inventory, rows, about)
        seen = {*(held.job_id for held in holdings), *(request.job_id for request in requests)}
        return self._snapshots.take(
            view, holdings=holdings, requests=requests, dependents=await self._dependents(tx, seen),
            quotas=await self._scheduling.quotas(tx), windows=await self._pool.windows(tx),
            queues=queues, shares=shares, rules=await self._rules(tx, rows, about),
            slots=self._scheduling.kept_slots,
        )  # fmt: skip

    async def _dependents(self, tx: Tx, seen: Collection[str]) -> list[Dependent]:
        """Return the jobs that wait for others to end; what is asked of them is kept between looks."""
        edges = await group_store.all_open(tx)
        ids = {edge.job_id for edge in edges}
        self._held = {job_id: one for job_id, one in self._held.items() if job_id in ids}
        fresh = await store.read_jobs(tx, ids - self._held.keys()) if ids else {}
        if fresh:
            await self._expectations.catch_up(tx)
        self._held |= {job.id: self.request(job) for job in fresh.values() if not job.has_ended}
        arrays = sorted({edge.on_id for edge in edges if group_store.is_array(edge.on_id)})
        tasks = {one: [task for _, task in await group_store.live_tasks(tx, one)] for one in arrays}
        return dependents_of(self._held, edges, tasks, seen)

    async def _with_service(
        self, tx: Tx, requests: Sequence[Request], about: Mapping[AttemptKey, About]
    ) -> tuple[list[Request], dict[AttemptKey, About]]:
        """Return the same with what earlier attempts had."""
        marks = {request.job_id: self._requests[request.job_id][0][0] for request in requests
                 if request.job_id in self._requests}  # fmt: skip
        had = await self._served.of(tx, marks | {key.job_id: key.number - 1 for key in about})
        waiting = [
            replace(one, had_device_s=had.get(one.job_id, 0.0)) if one.job_id in had else one for one in requests
        ]
        return waiting, {
            key: replace(one, had_device_s=had[key.job_id]) if key.job_id in had else one for key, one in about.items()
        }

    async def _rules(self, tx: Tx, rows: Sequence[Allocation], about: Mapping[AttemptKey, About]) -> Rules:
        """Return what a plan may do; what stops and rents have cost is only asked where it is limited."""
        settings, burst, lost_device_s = self._scheduling.settings, None, 0.0
        if settings.burst.on:
            burst = self._scheduling.burst_policy(await self._spending.today(tx, rows, about))
        if settings.most_lost_device_s is not None:
            lost_device_s = await live_store.lost_device_s(tx, tx.now - _BUDGET)
        return settings.rules(lost_device_s=lost_device_s, burst=burst)

    def request(self, job: Job) -> Request:
        """Return a job as the scheduler sees it, with what is known of run times by now."""
        expected = self.expect(job)
        return request_of(job, expected_s=None if expected is None else left_s(job, expected.seconds))

    def expect(self, job: Job) -> Expectation | None:
        """Return how long a job is expected to run."""
        return self._expectations.expect(job)

    @property
    def waits(self) -> frozenset[str]:
        """Return the jobs that waited when last looked at."""
        return frozenset(self._requests)

    @property
    def has_elastic(self) -> bool:
        """Say whether any of what ran at the last look could go on with another number of ranks."""
        return self._abouts.has_elastic
