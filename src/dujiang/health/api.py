"""The route behind `dujiang explain JOB`."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Final, Protocol

from fastapi import APIRouter, Depends, Query

from dujiang.health.explain import JobView, explain
from dujiang.health.schemas import ExplanationOut, explanation_out
from dujiang.health.waits import held_view, wait_view
from dujiang.kit.db import Tx
from dujiang.kit.errors import NotFound, Unavailable
from dujiang.scheduling.domain.explaining import Answer
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

_Reader = Annotated[Caller, Depends(needs(Permission.JOB_READ))]
_OLD_S: Final = 2.0
"""An answer is told with its age from then on."""
_MOST_PROJECTS: Final = 20
"""Other projects of the caller that are tried for one job."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job to explain, and whose it is."""

    project_id: str
    view: JobView
    waits: bool = False
    """It waits for the scheduler, or for other jobs to end."""


class FindJob(Protocol):
    """Says what is known of a job; made from the service of `jobs`."""

    def __call__(self, tx: Tx, job_id: str) -> Awaitable[SeenJob | None]:
        """Return the job by its identifier, or None when there is none."""
        ...


class AskScheduler(Protocol):
    """Asks the scheduler about a job that waits, as of now; made from `jobs.looking`."""

    def __call__(
        self, job_id: str, *, widely: bool, projects: Sequence[tuple[str, str]]
    ) -> Awaitable[Answer | None]:  # fmt: skip
        """Return why it waits and when it starts; None for one that waits no longer."""
        ...


def router(find_job: FindJob, ask: AskScheduler, tenancy: Tenancy) -> APIRouter:
    """Return the route that explains jobs."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])

    @routes.get("/jobs/{job_id}/explain")
    async def explain_job(
        caller: _Reader,
        job_id: str,
        all: Annotated[bool, Query(description="Also what else would start it now; takes longer.")] = False,
    ) -> ExplanationOut:
        """Explain why a job waits, what it does, or why it failed: in plain words, with the evidence and what to do."""
        async with caller.reading() as tx:
            seen = await find_job(tx, job_id)
            if seen is None or not caller.may(Permission.JOB_READ, seen.project_id):
                raise NotFound("There is no such job; `dujiang ps --all` lists those you can see.", job=job_id[:64])
            projects = await _others(tx, tenancy, caller, seen.project_id) if all and seen.waits else []
            now = tx.now
        view = seen.view
        if seen.waits:
            view = await _fresh(ask, view, now, widely=all, projects=projects)
        return explanation_out(explain(view, now))

    return routes


async def _fresh(
    ask: AskScheduler, view: JobView, now: datetime, *, widely: bool, projects: Sequence[tuple[str, str]]
) -> JobView:
    """Return a job with what the scheduler says of it now; with what it said last when it cannot be asked."""
    try:
        answer = await ask(view.id, widely=widely, projects=projects)
    except Unavailable:
        return view
    if answer is None:
        return view
    wait = wait_view(answer) if not answer.is_held or view.wait is None else held_view(view.wait, answer)
    age_s = 0.0 if answer.at is None else (now - answer.at).total_seconds()
    if age_s >= _OLD_S:
        wait = replace(wait, detail=f"{wait.detail} That is from the plan of {age_s:.0f} s ago.")
    return replace(view, wait=wait, reason=wait.reason or view.reason)


async def _others(tx: Tx, tenancy: Tenancy, caller: Caller, project_id: str) -> list[tuple[str, str]]:
    """Return the other projects that the caller may submit in."""
    found = await tenancy.projects(tx, ids=caller.reach(Permission.JOB_SUBMIT), limit=_MOST_PROJECTS + 1)
    return [(one.id, one.name) for one in found if one.id != project_id][:_MOST_PROJECTS]
