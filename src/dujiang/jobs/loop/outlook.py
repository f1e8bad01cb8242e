"""The snapshot of what runs and waits now: what the start loop plans on, and what everyone who asks is told from.

Nobody else makes one, so what is explained, saved or tried out is what the scheduler sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dujiang.jobs import store
from dujiang.jobs.domain import Job, request_of
from dujiang.jobs.expecting import Expectations, left_s
from dujiang.jobs.loop.abouts import Abouts
from dujiang.kit.db import Tx
from dujiang.pool.domain import LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import Request, Snapshot, Snapshots, holdings_of_ledger
from dujiang.scheduling.domain.expected import Expectation
from dujiang.scheduling.service import SchedulingService


class Outlook:
    """Makes snapshots of the live state; remembers what does not change between two looks. For one user at a time."""

    def __init__(self, *, pool: PoolService, scheduling: SchedulingService) -> None:
        self._pool, self._scheduling = pool, scheduling
        self._expectations, self._abouts, self._snapshots = Expectations(), Abouts(), Snapshots()
        self._requests: dict[str, tuple[tuple[int, int | None], Request]] = {}

    async def look(self, tx: Tx) -> Snapshot:
        """Return the snapshot of this moment."""
        return await self.snapshot(tx, await self.waiting(tx))

    async def waiting(self, tx: Tx) -> list[Request]:
        """Return what waits; requests are kept between looks, since only their number of attempts changes them."""
        rows = await store.waiting_ids(tx)
        marks = {job_id: (attempt, not_before) for job_id, attempt, not_before in rows}
        known = {job_id: one for job_id, one in self._requests.items() if marks.get(job_id) == one[0]}
        fresh = await store.read_jobs(tx, marks.keys() - known.keys())
        if fresh:
            await self._expectations.catch_up(tx)
        known |= {job.id: (marks[job.id], self.request(job)) for job in fresh.values()}
        self._requests = known
        return [request for _, request in known.values()]

    async def snapshot(self, tx: Tx, requests: Sequence[Request]) -> Snapshot:
        """Return the snapshot in which these wait."""
        view = await self._pool.placeable(tx)
        rows = await self._pool.allocations(tx, LedgerFilter(live=True))
        inventory = await self._pool.inventory(tx)
        about = await self._abouts.of(tx, {row.share.key for row in rows})
        queues = await self._scheduling.queues(tx)
        shares = await self._scheduling.shares(tx, queues, rows, {request.project_id for request in requests})
        return self._snapshots.take(
            view, holdings=holdings_of_ledger(inventory, rows, about), requests=requests,
            quotas=await self._scheduling.quotas(tx), windows=await self._pool.windows(tx),
            queues=queues, shares=shares,
        )  # fmt: skip

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

    def earliest(self) -> datetime | None:
        """Return when the next retry's pause ends, of those looked at last."""
        times = [one.not_before for _, one in self._requests.values() if one.not_before is not None]
        return min(times, default=None)
