"""Jobs as other contexts ask for them: telemetry wants to know where one belongs, health what happened to it."""

from __future__ import annotations

from dujiang.health.api import SeenJob
from dujiang.health.explain import AttemptView, JobView, WaitView
from dujiang.jobs.domain import Attempt, Held, Job
from dujiang.jobs.service import JobService
from dujiang.kit.db import Tx
from dujiang.telemetry.api import JobPlace


async def placed(jobs: JobService, tx: Tx, job_id: str) -> JobPlace | None:
    """Return where a job belongs."""
    job = await jobs.find_job(tx, job_id)
    return None if job is None else JobPlace(job.project_id, job.attempt)


async def explained(jobs: JobService, tx: Tx, job_id: str) -> SeenJob | None:
    """Return what an explanation needs to know of a job."""
    job = await jobs.find_job(tx, job_id)
    if job is None:
        return None
    attempts = (await jobs.attempts(tx, [job_id]))[job_id]
    (job,) = await jobs.as_told(tx, [job], {job_id: attempts})
    view = _view(job, attempts, await jobs.position(tx, job))
    return SeenJob(job.project_id, view, waits=job.waits and job.held is not Held.ARRAY_LIMIT)


def _view(job: Job, attempts: list[Attempt], position: int | None) -> JobView:
    wait = None
    if job.waits and job.waiting is not None:
        told = job.waiting
        wait = WaitView(told.reason, told.detail, told.blocking, position, told.suggestion, told.advice, told.earliest)
    return JobView(
        id=job.id, name=job.name, state=str(job.state), reason=job.reason, is_final=job.has_ended,
        since=job.finished_at or (attempts[-1].started_at if attempts and not job.waits else None) or job.queued_at,
        attempts=tuple(_attempt(attempt) for attempt in attempts), wait=wait, retry_limit=job.spec.retry.limit,
        resumes_from=job.resume_from or "", sentence=job.sentence,
    )  # fmt: skip


def _attempt(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt.number, str(attempt.state), attempt.node, attempt.started_at, attempt.finished_at, attempt.diagnosis,
        others=len({rank.node for rank in attempt.ranks} - {attempt.node}),
    )  # fmt: skip
