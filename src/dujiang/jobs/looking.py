"""Questions about what runs and waits now, answered from the snapshot that the start loop would plan on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from dujiang.jobs.domain import Job
from dujiang.jobs.loop.outlook import Outlook
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.scheduling.domain import Request
from dujiang.scheduling.domain.explaining import Answer, Explainer
from dujiang.scheduling.service import SchedulingService

_KEPT: Final = timedelta(seconds=1)
"""For how long one look answers everyone: a person sees no difference, and a hundred who ask cost one."""
_KEPT_LARGE: Final = timedelta(seconds=10)
"""For how long the start loop's last plan answers where a new look and plan take seconds; told with its age."""
T = TypeVar("T")


class Live:
    """Answers questions about the live state, one at a time and beside the event loop: a plan of a large pool costs."""

    def __init__(self, *, db: Database, clock: Clock, outlook: Outlook, scheduling: SchedulingService) -> None:
        self._db, self._clock, self._outlook, self._scheduling = db, clock, outlook, scheduling
        self._looking, self._working = asyncio.Lock(), asyncio.Lock()
        self._seen: Explainer | None = None

    async def look(self) -> Explainer:
        """Return what is there now, with its time."""
        async with self._looking:
            async with self._db.reading() as tx:
                self._seen = Explainer(await self._outlook.look(tx), tx.now)
            return self._seen

    async def seen(self, job_id: str) -> Explainer:
        """Return what was there a moment ago, if the job was there.

        The start loop has just planned on the same state: that is told from, so that nobody waits for a plan.
        """
        now, planned = self._clock.now(), self._scheduling.last_plan
        for kept in (planned, self._seen):
            if kept is None or not (job_id in kept.requests or job_id in kept.dependents):
                continue
            if now - kept.now > (_KEPT_LARGE if kept is planned and not kept.is_small else _KEPT):
                continue
            if kept is not planned or not kept.starts(job_id):  # else it is being started, or could not be
                return kept
        return await self.look()

    async def explain(
        self, job_id: str, *, widely: bool = False, projects: Sequence[tuple[str, str]] = ()
    ) -> Answer | None:
        """Return why a job waits and when it starts; None for one that waits neither for room nor for other jobs.

        Args:
            job_id: the job.
            widely: also what else would start it, and when it starts where telling that takes seconds.
            projects: others that it may be submitted in, as (id, name).
        """
        explainer = await self.seen(job_id)
        return await self.work(
            lambda: explainer.answer(
                job_id, expecting=widely or explainer.is_small, widely=widely, projects=projects
            )
        )  # fmt: skip

    def request(self, job: Job) -> Request:
        """Return a job that was not submitted as the scheduler would see it."""
        return self._outlook.request(job)

    async def work(self, what: Callable[[], T]) -> T:
        """Return what a computation gives, made when the one before is done."""
        async with self._working:
            return await asyncio.to_thread(what)
