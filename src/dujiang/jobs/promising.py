"""Deadlines at submission: refused, or told, when they cannot be promised. `scheduling.domain.deadlines` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sqlalchemy import text

from dujiang.jobs.events import JobDeadlineUnsure
from dujiang.jobs.loop.outlook import Outlook
from dujiang.kit.db import Tx
from dujiang.scheduling.domain import Request
from dujiang.scheduling.domain.deadlines import DeadlineNotPromised, Promise, promise
from dujiang.scheduling.service import SchedulingService

_LOCK: Final = 3_052_026
"""PostgreSQL's name for: somebody looks at what can be promised. SQLite has one writer at a time anyhow."""

_TOLD: Final = 20
"""Jobs that are named."""


class Promises:
    """Says what can be promised on the state that a transaction sees."""

    def __init__(self, *, outlook: Outlook, scheduling: SchedulingService) -> None:
        """Take an outlook of its own: one is for one user at a time."""
        self._outlook, self._settings = outlook, scheduling.settings
        self._looking = asyncio.Lock()

    async def check(self, tx: Tx, requests: Sequence[Request]) -> None:
        """Let deadlines pass that can be promised together, and as the settings say, others with an event each.

        Two submissions at once do not both get the same room: the second waits until the first is written.

        Raises:
            DeadlineNotPromised: at least one cannot; says what could be.
        """
        asked = [one for one in requests if one.deadline is not None]
        if not asked or self._settings.deadlines == "off":
            return
        if tx.connection.dialect.name == "postgresql":
            await tx.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": _LOCK})
        async with self._looking:
            snapshot = await self._outlook.look(tx)
            found = await asyncio.to_thread(promise, snapshot, tx.now, asked)
        if found.is_kept:
            return
        unsure = [one for one in asked if one.job_id in found.late] or asked
        if self._settings.deadlines == "refuse":
            raise refusal(unsure[0], found)
        earliest = None if found.earliest is None else found.earliest.isoformat()
        for one in unsure:
            assert one.deadline is not None
            tx.emit(
                JobDeadlineUnsure(
                    subject=one.job_id, project_id=one.project_id, deadline=one.deadline.isoformat(),
                    earliest=earliest, endangered=found.endangered[:_TOLD],
                    sentence=found.sentence(one.deadline),
                )
            )  # fmt: skip


def refusal(request: Request, found: Promise) -> DeadlineNotPromised:
    """Return the error that refuses a deadline."""
    assert request.deadline is not None
    earliest = None if found.earliest is None else found.earliest.isoformat()
    return DeadlineNotPromised(
        found.sentence(request.deadline), deadline=request.deadline.isoformat(), earliest=earliest,
        endangered=list(found.endangered[:_TOLD]),
    )  # fmt: skip
