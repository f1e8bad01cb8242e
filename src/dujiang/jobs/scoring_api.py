"""Routes of how jobs are judged: exemption from what follows idleness, and how well run times were told."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BeforeValidator, Field
from starlette.responses import Response

from dujiang.jobs import expecting
from dujiang.jobs.domain import NoSuchJob
from dujiang.jobs.exempting import exempt
from dujiang.jobs.service import JobService
from dujiang.kit.db import Tx
from dujiang.kit.http import Model, as_written
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Operator = Annotated[Caller, Depends(needs(Permission.POOL_OPERATE))]
Reader = Annotated[Caller, Depends(needs(Permission.QUEUE_READ))]
LONGEST_REASON = 500


class ExemptIn(Model):
    """Until when a job counts as busy, and why."""

    until: Annotated[AwareDatetime, BeforeValidator(as_written)] | None
    """With its zone. Null takes an exemption back."""
    reason: Annotated[str, Field(max_length=LONGEST_REASON)] = ""


class ExemptOut(Model):
    """The exemption of a job."""

    job_id: str
    until: AwareDatetime | None
    reason: str


class AccuracyOut(Model):
    """How far expected run times were from real ones; times in seconds."""

    jobs: int
    mean_ratio: float
    """Of expected to real: above 1 was too long."""
    median_ratio: float
    within_factor_2: float
    """The part of jobs that ran between half and twice as long as expected."""
    closeness: float
    """The mean of the smaller of both to the larger; 1 is exact."""
    mean_error_s: float
    p90_error_s: float


class GroupAccuracyOut(AccuracyOut):
    """The same of some of the jobs."""

    name: str


class AccuracyReportOut(Model):
    """How well run times were told, of jobs that completed."""

    since: AwareDatetime
    overall: AccuracyOut | None
    """Null when there was nothing to compare."""
    projects: list[GroupAccuracyOut]
    """By project, those with most jobs first."""
    groups: list[GroupAccuracyOut]
    """By what the jobs had in common with those by which they were told."""


def router(jobs: JobService, tenancy: Tenancy) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])
    _exempt(routes, jobs)
    _accuracy(routes, tenancy)
    return routes


def _exempt(routes: APIRouter, jobs: JobService) -> None:
    @routes.post("/jobs/{job_id}/exempt", response_model=ExemptOut)
    async def exempt_job(caller: Operator, job_id: str, body: ExemptIn) -> Response:
        """Have a job count as busy until a time, whatever it uses; without one, no longer."""

        async def make(tx: Tx) -> dict[str, Any]:
            job = await jobs.find_job(tx, job_id)
            if job is None or not caller.may(Permission.JOB_READ, job.project_id):
                raise NoSuchJob(job_id)
            changed = await exempt(tx, job.id, until=body.until, reason=body.reason)
            return {"job_id": changed.id, "until": changed.exempt_until, "reason": changed.exempt_reason}

        return await caller.once(make, status_code=200)


def _accuracy(routes: APIRouter, tenancy: Tenancy) -> None:
    @routes.get("/runtimes/accuracy")
    async def show_accuracy(
        caller: Reader,
        days: Annotated[float, Query(gt=0, le=3660, description="Of jobs that completed in the last days.")] = 30.0,
        project: Annotated[str | None, Query(max_length=63, description="Name or id of a project.")] = None,
    ) -> AccuracyReportOut:
        """Compare how long jobs were expected to run with how long they ran."""
        reach = caller.reach(Permission.QUEUE_READ)
        async with caller.reading() as tx:
            ids = None if reach is None else sorted(reach)
            if project is not None:
                ids = [(await tenancy.project_for(tx, caller.principal, project, Permission.QUEUE_READ)).id]
            found = await expecting.report(tx, days=days, project_ids=ids)
            wanted = {name for name, _ in found.by_project}
            known = await tenancy.projects(tx, ids=wanted, archived=True, limit=len(wanted) or 1)
        names = {one.id: one.name for one in known}
        return AccuracyReportOut(
            since=found.since,
            overall=None if found.overall is None else AccuracyOut(**asdict(found.overall)),
            projects=[GroupAccuracyOut(name=names.get(name, name), **asdict(one)) for name, one in found.by_project],
            groups=[GroupAccuracyOut(name=name, **asdict(one)) for name, one in found.by_group],
        )
