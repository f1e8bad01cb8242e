"""Routes of schedules: create, list, show, pause, resume, run, delete."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from dujiang.jobs.domain.schedules import (
    DEFAULT_CATCH_UP_S,
    LEAST_CATCH_UP_S,
    MOST_CATCH_UP_S,
    Outcome,
    Overlap,
    Run,
    Schedule,
)
from dujiang.jobs.schedules import ScheduleService
from dujiang.jobs.spec import read
from dujiang.kit.db import Tx
from dujiang.kit.http import Model, Page, Paged
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.JOB_READ))]
Submitter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]
ProjectRef = Annotated[str | None, Query(max_length=63, description="Name or id of a project.")]
SHOWN_RUNS = 20


class ScheduleIn(Model):
    """Work to submit again and again."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]
    """Unique in the project."""
    cron: Annotated[str, Field(min_length=1, max_length=100)]
    """Minute, hour, day, month, weekday: `0 3 * * *`."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """In which the expression is meant: `Asia/Shanghai`."""
    spec: dict[str, Any]
    """As published in `docs/job.schema.json`; secrets as values."""
    overlap: Overlap = Overlap.SKIP
    """When a run is due and the one before has not ended: let both run, skip the one that is due, or replace the one
    before."""
    catch_up_s: Annotated[float, Field(ge=LEAST_CATCH_UP_S, le=MOST_CATCH_UP_S)] = DEFAULT_CATCH_UP_S
    """How late a run may still begin, after a time in which the platform did not run. Of several that were missed only
    the latest runs."""


class RunOut(Model):
    """A time at which a schedule was due, or at which someone ran it."""

    due_at: datetime
    outcome: Outcome
    work_id: str
    """The job or array; empty when none was submitted."""
    by_hand: bool
    sentence: str


class ScheduleOut(Model):
    """Work, and when it is submitted."""

    id: str
    name: str
    project: str
    project_id: str
    cron: str
    time_zone: str
    overlap: Overlap
    catch_up_s: float
    created_by: str
    """Name of the user in whose name it runs."""
    created_at: datetime
    paused_at: datetime | None
    next_at: datetime | None
    spec: dict[str, Any]
    runs: list[RunOut]
    """The latest first."""


def router(schedules: ScheduleService, tenancy: Tenancy) -> APIRouter:
    """Return the routes of schedules."""
    routes = APIRouter(prefix="/v1", tags=["schedules"])
    where = _Where(schedules, tenancy)
    _create(routes, schedules, where)
    _look(routes, schedules, where)
    _change(routes, schedules, where)
    return routes


def _create(routes: APIRouter, schedules: ScheduleService, where: _Where) -> None:
    @routes.post("/schedules", status_code=201, response_model=ScheduleOut)
    async def create_schedule(caller: Submitter, body: ScheduleIn) -> Response:
        """Have work submitted again and again, in the name of who creates it."""
        spec = read(body.spec, default_name=body.name)

        async def make(tx: Tx) -> ScheduleOut:
            project = await where.tenancy.project_for(
                tx, caller.principal, spec.project, Permission.JOB_SUBMIT, active=True
            )
            made = await schedules.create(
                tx, body.name, spec, project_id=project.id, by=caller.principal.user_id, cron=body.cron,
                time_zone=body.time_zone, overlap=body.overlap, catch_up_s=body.catch_up_s,
            )  # fmt: skip
            return await where.out(tx, made)

        return await caller.once(make)


def _look(routes: APIRouter, schedules: ScheduleService, where: _Where) -> None:
    @routes.get("/schedules")
    async def list_schedules(caller: Reader, paging: Paged, project: ProjectRef = None) -> Page[ScheduleOut]:
        """List schedules, the newest first, each with its latest run."""
        after = paging.after(str)
        async with caller.reading() as tx:
            ids = await where.projects(tx, caller, project)
            found = await schedules.schedules(tx, ids, before=after[0] if after else None, limit=paging.limit + 1)
            kept, next_cursor = paging.page(found, lambda one: [one.id])
            items = [await where.out(tx, one, runs=1) for one in kept]
        return Page(items=items, next_cursor=next_cursor)

    @routes.get("/schedules/{schedule}")
    async def show_schedule(caller: Reader, schedule: str, project: ProjectRef = None) -> ScheduleOut:
        """Show a schedule by name or id, with its latest runs."""
        async with caller.reading() as tx:
            return await where.out(tx, await where.schedule(tx, caller, schedule, project), runs=SHOWN_RUNS)


def _change(routes: APIRouter, schedules: ScheduleService, where: _Where) -> None:
    async def found(tx: Tx, caller: Caller, ref: str, project: str | None) -> Schedule:
        one = await where.schedule(tx, caller, ref, project)
        caller.require(Permission.JOB_SUBMIT, one.project_id)
        return one

    @routes.post("/schedules/{schedule}/pause", response_model=ScheduleOut)
    async def pause_schedule(caller: Submitter, schedule: str, project: ProjectRef = None) -> Response:
        """Let a schedule submit nothing more; what runs goes on. Asking again is quiet."""

        async def make(tx: Tx) -> ScheduleOut:
            one = await found(tx, caller, schedule, project)
            return await where.out(tx, await schedules.pause(tx, one.id))

        return await caller.once(make, status_code=200)

    @routes.post("/schedules/{schedule}/resume", response_model=ScheduleOut)
    async def resume_schedule(caller: Submitter, schedule: str, project: ProjectRef = None) -> Response:
        """Let a schedule go on with its next time; what was due meanwhile is not made up for. Asking again is quiet."""

        async def make(tx: Tx) -> ScheduleOut:
            one = await found(tx, caller, schedule, project)
            return await where.out(tx, await schedules.resume(tx, one.id))

        return await caller.once(make, status_code=200)

    @routes.post("/schedules/{schedule}/run", status_code=201, response_model=RunOut)
    async def run_schedule(caller: Submitter, schedule: str, project: ProjectRef = None) -> Response:
        """Submit the work of a schedule at once, in the name of who asks; its own times stay as they are."""

        async def make(tx: Tx) -> RunOut:
            one = await found(tx, caller, schedule, project)
            return _run_out(await schedules.run_now(tx, one.id, caller.principal))

        return await caller.once(make)

    @routes.delete("/schedules/{schedule}", status_code=204)
    async def delete_schedule(caller: Submitter, schedule: str, project: ProjectRef = None) -> None:
        """Remove a schedule; what it submitted goes on."""
        async with caller.transaction() as tx:
            await schedules.delete(tx, (await found(tx, caller, schedule, project)).id)


class _Where:
    """Finds what a caller means, as far as they may know of it."""

    def __init__(self, schedules: ScheduleService, tenancy: Tenancy) -> None:
        self._schedules, self.tenancy = schedules, tenancy

    async def projects(self, tx: Tx, caller: Caller, project: str | None) -> Collection[str] | None:
        """Return the projects to look in; None is every project."""
        if project is None:
            return caller.reach(Permission.JOB_READ)
        return [(await self.tenancy.project_for(tx, caller.principal, project, Permission.JOB_READ)).id]

    async def schedule(self, tx: Tx, caller: Caller, ref: str, project: str | None) -> Schedule:
        """Return a schedule by name or id."""
        ids = await self.projects(tx, caller, project)
        return await self._schedules.schedule(tx, ref, ids, own=caller.principal.project_ids)

    async def out(self, tx: Tx, one: Schedule, *, runs: int = 0) -> ScheduleOut:
        """Return a schedule as it is shown."""
        latest: Sequence[Run] = await self._schedules.runs(tx, one.id, limit=runs) if runs else ()
        project = await self.tenancy.project(tx, one.project_id)
        names = await self.tenancy.names(tx, [one.created_by])
        return ScheduleOut(
            id=one.id, name=one.name, project=project.name, project_id=one.project_id, cron=one.cron,
            time_zone=one.time_zone, overlap=one.overlap, catch_up_s=one.catch_up_s,
            created_by=names.get(one.created_by, one.created_by), created_at=one.created_at, paused_at=one.paused_at,
            next_at=one.next_at, spec=one.spec.document(), runs=[_run_out(run) for run in latest],
        )  # fmt: skip


def _run_out(run: Run) -> RunOut:
    return RunOut(
        due_at=run.due_at, outcome=run.outcome, work_id=run.work_id, by_hand=run.by_hand, sentence=run.sentence
    )
