"""The route behind `dujiang explain JOB`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends

from dujiang.health.explain import Explanation, JobView, Topic, explain
from dujiang.jobs.diagnosis import Blame
from dujiang.kit.db import Tx
from dujiang.kit.errors import NotFound
from dujiang.kit.http import Model
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission

_Reader = Annotated[Caller, Depends(needs(Permission.JOB_READ))]


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job to explain, and whose it is."""

    project_id: str
    view: JobView


class FindJob(Protocol):
    """Says what is known of a job; made from the service of `jobs`."""

    def __call__(self, tx: Tx, job_id: str) -> Awaitable[SeenJob | None]:
        """Return the job by its identifier, or None when there is none."""
        ...


class ExhibitOut(Model):
    """One line that supports the answer, exactly as it was read."""

    source: str
    line: str
    where: str


class ExplanationOut(Model):
    """Why a job waits, or why it failed."""

    job_id: str
    topic: Topic
    headline: str
    why: list[str]
    cause: str
    blame: Blame | None
    confidence: float | None
    evidence: list[ExhibitOut]
    platform: list[str]
    advice: list[str]
    weighed: list[str]
    history: list[str]
    text: str
    """All of it as text for a terminal."""


def router(find_job: FindJob) -> APIRouter:
    """Return the route that explains jobs."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])

    @routes.get("/jobs/{job_id}/explain")
    async def explain_job(caller: _Reader, job_id: str) -> ExplanationOut:
        """Explain why a job waits, what it does, or why it failed: in plain words, with the evidence and what to do."""
        async with caller.reading() as tx:
            seen = await find_job(tx, job_id)
            if seen is None or not caller.may(Permission.JOB_READ, seen.project_id):
                raise NotFound("There is no such job; `dujiang ps --all` lists those you can see.", job=job_id[:64])
            return _out(explain(seen.view, tx.now))

    return routes


def _out(told: Explanation) -> ExplanationOut:
    return ExplanationOut(
        job_id=told.job_id, topic=told.topic, headline=told.headline, why=list(told.why), cause=told.cause,
        blame=told.blame, confidence=told.confidence,
        evidence=[ExhibitOut(source=one.source, line=one.line, where=one.where) for one in told.evidence],
        platform=list(told.platform), advice=list(told.advice), weighed=list(told.weighed), history=list(told.history),
        text=told.text,
    )  # fmt: skip
