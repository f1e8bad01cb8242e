"""Deadlines at submission: refused, or told, when they cannot be promised. `scheduling.domain.deadlines` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy import text

from dujiang.jobs import group_store
from dujiang.jobs.domain import Edge, Job, request_of
from dujiang.jobs.events import JobDeadlineUnsure
from dujiang.jobs.loop.dependents import dependents_of, needed
from dujiang.jobs.loop.outlook import Outlook
from dujiang.kit.db import Tx
from dujiang.scheduling.domain import Dependent, Request, Snapshot
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

    async def check(self, tx: Tx, jobs: Sequence[Job], edges: Sequence[Edge] = ()) -> None:
        """Let deadlines pass that can be promised together, and as the settings say, others with an event each.

        Two submissions at once do not both get the same room: the second waits until the first is written.

        Args:
            tx: the transaction.
            jobs: of one submission, not written yet.
            edges: what they have to wait for.

        Raises:
            DeadlineNotPromised: at least one cannot; says what could be.
        """
        asked = [request_of(job) for job in jobs if job.spec.deadline is not None and not job.has_ended]
        if not asked or self._settings.deadlines == "off":
            return
        if tx.connection.dialect.name == "postgresql":
            await tx.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": _LOCK})
        async with self._looking:
            snapshot, after = await self._with(tx, await self._outlook.look(tx), jobs, edges, asked)
            found = await asyncio.to_thread(promise, snapshot, tx.now, asked, after)
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

    async def _with(
        self, tx: Tx, snapshot: Snapshot, jobs: Sequence[Job], edges: Sequence[Edge], asked: Sequence[Request]
    ) -> tuple[Snapshot, dict[str, Dependent]]:
        """Return the snapshot with what is submitted too and these wait for, and what they wait for, by job."""
        if not edges:
            return snapshot, {}
        due = {one.job_id: one for one in asked}
        beside = {job.id: request_of(job) for job in needed(jobs, edges, due) if job.id not in due}
        tasks: dict[str, list[str]] = {}
        for array in {edge.on_id for edge in edges if group_store.is_array(edge.on_id)}:
            tasks[array] = [task for _, task in await group_store.live_tasks(tx, array)]
            tasks[array] += [job.id for job in jobs if job.array_id == array]
        held = {edge.job_id for edge in edges}
        free = [request for job_id, request in beside.items() if job_id not in held]
        seen = {one.job_id for one in snapshot.holdings} | {one.job_id for one in (*snapshot.requests, *free)}
        seen |= {*due, *(one.request.job_id for one in snapshot.dependents)}
        found = {one.request.job_id: one for one in dependents_of(due | beside, edges, tasks, seen)}
        with_them = replace(
            snapshot, requests=(*snapshot.requests, *free),
            dependents=(*snapshot.dependents, *(one for job_id, one in found.items() if job_id not in due)),
        )  # fmt: skip
        return with_them, {job_id: one for job_id, one in found.items() if job_id in due}


def refusal(request: Request, found: Promise) -> DeadlineNotPromised:
    """Return the error that refuses a deadline."""
    assert request.deadline is not None
    earliest = None if found.earliest is None else found.earliest.isoformat()
    return DeadlineNotPromised(
        found.sentence(request.deadline), deadline=request.deadline.isoformat(), earliest=earliest,
        endangered=list(found.endangered[:_TOLD]),
    )  # fmt: skip
