"""What the routes of jobs take and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from dujiang.jobs.domain import TERMINAL, Array, Attempt, Job, JobState, Tally
from dujiang.jobs.spec import MOST_TASKS
from dujiang.kit.http import Model

MOST_AT_ONCE = 5000


class SubmitIn(Model):
    """A job to run."""

    spec: dict[str, Any]
    """As published in `docs/job.schema.json`; secrets as values."""


class BatchIn(Model):
    """Jobs to run, all or none."""

    specs: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_AT_ONCE)]


class CancelIn(Model):
    """Nothing need be said."""


class ArrayCancelIn(Model):
    """Which tasks; all of them when nothing is said."""

    indices: Annotated[str | None, Field(min_length=1, max_length=4096)] = None
    """Such as `0-9,15,20-30:2`."""


class DiagnosisOut(Model):
    """Why an attempt ended, in short; `/explain` has all of it."""

    cause: str
    blame: str
    sentence: str
    advice: str
    confidence: float


class AttemptOut(Model):
    """One run of a job."""

    number: int
    state: JobState
    reason: str
    cluster: str
    node: str
    """Of the first rank."""
    nodes: list[str]
    """Of each rank."""
    exit_code: int | None
    signal: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    endpoints: list[str]
    limits_by: str
    resume_from: str | None
    stop_reason: str
    """Why the platform asked it to stop; empty when it did not."""
    stop_sentence: str
    diagnosis: DiagnosisOut | None


class WaitingOut(Model):
    """Why a job has no place yet."""

    reason: str
    detail: str
    at: datetime
    blocking: str
    earliest: datetime | None
    suggestion: str
    advice: str


class UseOut(Model):
    """What a running job did with what it holds, when last looked at."""

    at: datetime
    attempt: int
    mean: float | None
    """0 to 1; null when too little was measured."""
    samples: int
    window_s: float
    of: str
    """`devices`, or `cpu` for a job without."""
    idle_since: datetime | None
    told_at: datetime | None
    """When its owner was told that it is idle."""
    stop_at: datetime | None
    """When what it leaves idle is taken back, unless it works until then."""
    sentence: str


class JobOut(Model):
    """A job with its attempts."""

    id: str
    name: str
    project: str
    project_id: str
    kind: str
    state: JobState
    reason: str
    sentence: str
    submitted_by: str
    """Name of the user."""
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    signal: int | None
    retries: int
    cancel_at: datetime | None
    checkpoint: str | None
    """The last good checkpoint known."""
    endpoints: list[str]
    """Where a running job listens."""
    labels: dict[str, str]
    array_id: str | None
    """The array that it is a task of."""
    array_index: int | None
    spec: dict[str, Any]
    waiting: WaitingOut | None
    weight_milli: int
    """Thousandths; within the band of the class, as last scored by use."""
    expected_s: float | None
    """How long it was expected to run when it first got its place."""
    use: UseOut | None
    exempt_until: datetime | None
    """Until then it counts as busy, whatever it uses."""
    attempts: list[AttemptOut]


class ArrayOut(Model):
    """An array: its tasks as one. Each is a job of its own, listed by `GET /v1/jobs?array=`."""

    id: str
    name: str
    project: str
    project_id: str
    kind: str
    state: JobState
    """RUNNING or PENDING while a task is; then COMPLETED when all are, the one other state that tasks ended in, or
    FAILED when they are several."""
    reason: str
    """For which most of the tasks wait that have no place."""
    sentence: str
    submitted_by: str
    """Name of the user."""
    created_at: datetime
    started_at: datetime | None
    """Of the first task."""
    finished_at: datetime | None
    """Of the last task."""
    size: Annotated[int, Field(ge=1, le=MOST_TASKS)]
    at_once: int | None
    """How many tasks may be at work at the same time; null is all."""
    states: dict[JobState, int]
    """How many tasks are in each state."""
    reasons: dict[str, int]
    """Of the tasks that have no place yet, how many wait for each reason."""
    spec: dict[str, Any]


class BatchOut(Model):
    """The jobs and arrays of a batch, in order."""

    items: list[JobOut | ArrayOut]


class QueuedOut(Model):
    """A job that waits."""

    position: int
    """Among all that wait, 1 is considered first."""
    id: str
    name: str
    project: str
    project_id: str
    reason: str
    detail: str
    earliest_start: datetime | None
    created_at: datetime
    queued_at: datetime
    spec: dict[str, Any]


def job_json(job: Job, attempts: Sequence[Attempt], *, projects: Mapping[str, str], users: Mapping[str, str]) -> Any:
    """Return a job as JSON values, in the form of `JobOut`; long listings skip the model, which costs more than it."""
    last = attempts[-1] if attempts else None
    return {
        "id": job.id, "name": job.name, "project": projects.get(job.project_id, job.project_id),
        "project_id": job.project_id, "kind": job.spec.kind, "state": job.state, "reason": job.reason,
        "sentence": job.sentence, "submitted_by": users.get(job.submitted_by, job.submitted_by),
        "created_at": job.created_at, "queued_at": job.queued_at, "started_at": job.started_at,
        "finished_at": job.finished_at, "exit_code": job.exit_code, "signal": job.signal, "retries": job.retries,
        "cancel_at": job.cancel_at, "checkpoint": job.resume_from,
        "endpoints": list(last.endpoints) if last and last.state is JobState.RUNNING else [],
        "labels": dict(job.labels), "array_id": job.array_id, "array_index": job.array_index,
        "spec": job.spec.document(),
        "waiting": job.waiting and {**job.waiting.to_json(), "at": job.waiting.at, "earliest": job.waiting.earliest},
        "weight_milli": job.live_weight_milli, "expected_s": job.expected_s, "use": job.use and asdict(job.use),
        "exempt_until": job.exempt_until,
        "attempts": [_attempt_json(attempt) for attempt in attempts],
    }  # fmt: skip


def array_json(array: Array, tally: Tally, *, projects: Mapping[str, str], users: Mapping[str, str]) -> Any:
    """Return an array as JSON values, in the form of `ArrayOut`."""
    over = sum(count for state, count in tally.states.items() if state in TERMINAL)
    reasons = tally.reasons
    return {
        "id": array.id, "name": array.name, "project": projects.get(array.project_id, array.project_id),
        "project_id": array.project_id, "kind": array.spec.kind, "state": tally.state,
        "reason": max(reasons, key=lambda reason: (reasons[reason], reason), default=""),
        "sentence": f"{over} of {array.size} tasks have ended.",
        "submitted_by": users.get(array.submitted_by, array.submitted_by), "created_at": array.created_at,
        "started_at": tally.started_at, "finished_at": tally.finished_at, "size": array.size, "at_once": array.at_once,
        "states": {str(state): count for state, count in tally.states.items()}, "reasons": dict(reasons),
        "spec": array.spec.document(),
    }  # fmt: skip


def queued_json(position: int, job: Job, *, projects: Mapping[str, str]) -> Any:
    """Return a waiting job as JSON values, in the form of `QueuedOut`."""
    return {
        "position": position, "id": job.id, "name": job.name,
        "project": projects.get(job.project_id, job.project_id), "project_id": job.project_id, "reason": job.reason,
        "detail": job.waiting.detail if job.waiting else job.sentence,
        "earliest_start": job.waiting.earliest if job.waiting else job.not_before, "created_at": job.created_at,
        "queued_at": job.queued_at, "spec": job.spec.document(),
    }  # fmt: skip


def _attempt_json(attempt: Attempt) -> Any:
    found = attempt.diagnosis
    return {
        "number": attempt.number, "state": attempt.state, "reason": attempt.reason, "cluster": attempt.cluster,
        "node": attempt.node, "nodes": [rank.node for rank in attempt.ranks], "exit_code": attempt.exit_code,
        "signal": attempt.signal, "created_at": attempt.created_at, "started_at": attempt.started_at,
        "finished_at": attempt.finished_at, "endpoints": list(attempt.endpoints), "limits_by": attempt.limits_by,
        "resume_from": attempt.resume_from, "stop_reason": attempt.stop_reason,
        "stop_sentence": attempt.stop_sentence,
        "diagnosis": found and {
            "cause": found.cause, "blame": found.blame, "sentence": found.sentence, "advice": found.advice,
            "confidence": found.confidence,
        },
    }  # fmt: skip
