"""Submits what schedules want at their times: each time once, however often this is killed or run twice.

The run's row, its work and the schedule's next time are one transaction.
"""

from __future__ import annotations

from collections import Counter

from dujiang.jobs.schedules import ScheduleService
from dujiang.kit import log
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from dujiang.kit.loop import TickReport

MOST = 100
_logger = log.get(__name__)


class ScheduleLoop:
    """Sees to the schedules that are due."""

    def __init__(self, *, db: Database, schedules: ScheduleService, most: int = MOST) -> None:
        """Take what it works with; `most` is how many schedules one tick looks at."""
        self._db, self._schedules, self._most = db, schedules, most

    async def tick(self) -> TickReport:
        """See to what is due; what cannot be submitted is noted with its reason, and the next time is awaited."""
        async with self._db.reading() as tx:
            ids = await self._schedules.due(tx, limit=self._most)
        done: Counter[str] = Counter()
        for ident in ids:
            done[await self._see_to(ident)] += 1
        return TickReport({name: count for name, count in sorted(done.items()) if name}, again=len(ids) == self._most)

    async def _see_to(self, ident: str) -> str:
        try:
            async with self._db.transaction(cause="schedule") as tx:
                run = await self._schedules.see_to(tx, ident)
        except DujiangError as error:
            if error.retryable or error.http_status >= 500:
                raise
            _logger.warning("what a schedule wants cannot be submitted", schedule=ident, why=error.sentence)
            async with self._db.transaction(cause="schedule") as tx:
                run = await self._schedules.refuse(tx, ident, error.sentence)
        return str(run.outcome) if run is not None else ""
