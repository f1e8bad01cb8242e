"""What follows the end of an attempt: its state, its cause, and whether another attempt follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dujiang.engines.contract import End, Observation
from dujiang.jobs.diagnosis import Blame, Diagnosis
from dujiang.jobs.domain.job import ATTEMPT_STATES, JOB_STATES, Attempt, Job, JobState
from dujiang.jobs.events import JobEnded, JobRetried, JobStarted
from dujiang.jobs.spec import Cause
from dujiang.scheduling.domain import StopWhy

FIRST_PAUSE_S: Final = 0.0
"""A first retry starts at once: most faults are of one moment or one node, and that node is avoided."""
PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 300.0
MOST_AVOIDED: Final = 16

_STATES: Final = {
    End.SIGNALED: JobState.FAILED,
    End.OUT_OF_MEMORY: JobState.OUT_OF_MEMORY,
    End.TIME_LIMIT: JobState.TIMEOUT,
    End.SETUP_FAILED: JobState.FAILED,
    End.LAUNCH_FAILED: JobState.FAILED,
    End.REFUSED: JobState.FAILED,
    End.NODE_REFUSED: JobState.FAILED,
    End.LOST: JobState.NODE_FAIL,
    End.NODE_LOST: JobState.NODE_FAIL,
    End.PREEMPTED: JobState.PREEMPTED,
}
_SAID_BY_PLAN: Final = frozenset(map(str, StopWhy))
"""Reasons of stops that say more than the cause of the end."""
_MEMORY_CAUSES: Final = frozenset({"HostOutOfMemory", "GpuOutOfMemory"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an attempt that has ended, and of its job."""

    state: JobState
    """Of the attempt, and of the job when it is not run again."""
    cause: Cause | None
    """None for success and for what someone asked for."""
    retry: bool
    counts: bool = True
    """Whether the retry counts towards the limit."""
    not_before: datetime | None = None
    avoid: tuple[tuple[str, str], ...] = ()
    """The job's list of places to avoid from now on."""


def judge(job: Job, attempt: Attempt, seen: Observation, found: Diagnosis, *, now: datetime) -> Verdict:
    """Decide what follows an end.

    Args:
        job: as it stands.
        attempt: the one that ended.
        seen: how it ended.
        found: why.
        now: a retry's pause counts from here.
    """
    state = _state(attempt, seen)
    if state is JobState.COMPLETED:
        return Verdict(state, None, retry=False, avoid=job.avoid)
    if job.cancel_at is not None:  # whatever ended it, someone had asked for its end
        return Verdict(JobState.CANCELLED, None, retry=False, avoid=job.avoid)
    cause = _cause(state, found)
    avoid = _avoided(job, attempt, found)
    if cause is Cause.PREEMPTION:
        again = cause in job.spec.retry.on
        return Verdict(state, cause, retry=again, counts=False, not_before=now if again else None, avoid=job.avoid)
    if seen.end is End.NODE_REFUSED:  # it was overtaken: its place was closed or gone before it was asked for
        # Nothing of it ran, so no policy is asked; each pause is longer, and spans a look at what is open now.
        pause = timedelta(seconds=pause_s(attempt.number))
        return Verdict(state, Cause.INFRASTRUCTURE, retry=True, counts=False, not_before=now + pause, avoid=job.avoid)
    if seen.end is End.REFUSED:
        return Verdict(state, cause, retry=False, avoid=job.avoid)
    hopeless = found.retryable is False and cause in (Cause.INFRASTRUCTURE, Cause.UNKNOWN)
    again = not hopeless and job.spec.retry.allows(cause, job.retries)
    pause = timedelta(seconds=pause_s(job.retries))
    return Verdict(state, cause, retry=again, not_before=now + pause if again else None, avoid=avoid)


def conclude(
    job: Job, attempt: Attempt, seen: Observation, found: Diagnosis, *, now: datetime, checkpoint: str | None
) -> tuple[Job, Attempt, JobEnded | JobRetried]:
    """Return the job and its attempt after an end, and the event that tells it.

    Args:
        job: as it stands; begun, when its attempt has.
        attempt: the one that ended.
        seen: how.
        found: why.
        now: the time.
        checkpoint: the last good one there is; None keeps what the job knows.
    """
    verdict = judge(job, attempt, seen, found, now=now)
    ATTEMPT_STATES.check(f"attempt {attempt.key}", attempt.state, verdict.state)
    finished_at = max(min(seen.finished_at or now, now), attempt.started_at or attempt.created_at)
    reason = job.cancel_reason if verdict.state is JobState.CANCELLED and job.cancel_reason else found.cause
    is_said = verdict.state is JobState.PREEMPTED and attempt.stop_reason in _SAID_BY_PLAN
    if is_said:
        reason = attempt.stop_reason
    after = replace(
        attempt, state=verdict.state, reason=reason, finished_at=finished_at, exit_code=seen.exit_code,
        signal=seen.signal, diagnosis=found, facts={**attempt.facts, **seen.facts},
        output_dir=seen.output_dir or attempt.output_dir, workdir=seen.workdir or attempt.workdir,
        figures_complete=attempt.started_at is None,
    )  # fmt: skip
    resume_from = checkpoint or job.resume_from
    ran_s = (finished_at - attempt.started_at).total_seconds() if attempt.started_at else 0.0
    job = replace(job, ran_s=round(job.ran_s + ran_s, 6))
    if verdict.retry:
        if job.state is not JobState.PENDING:  # one that never began waits on
            JOB_STATES.check(job.id, job.state, JobState.PENDING)
        waits = replace(
            job, state=JobState.PENDING, reason=reason if is_said else "Retrying",
            sentence=f"Attempt {attempt.number}: {found.sentence}", waits=True, queued_at=now,
            not_before=verdict.not_before, retries=job.retries + verdict.counts, resume_from=resume_from,
            avoid=verdict.avoid, waiting=None,
        )  # fmt: skip
        told = JobRetried(
            subject=job.id, project_id=job.project_id, attempt=attempt.number, state=str(verdict.state), reason=reason,
            exit_code=seen.exit_code, signal=seen.signal, resume_from=resume_from,
        )  # fmt: skip
        return waits, after, told
    JOB_STATES.check(job.id, job.state, verdict.state)
    ended = replace(
        job, state=verdict.state, reason=reason, sentence=found.sentence, waits=False, finished_at=finished_at,
        exit_code=seen.exit_code, signal=seen.signal, not_before=None, resume_from=resume_from, avoid=verdict.avoid,
        waiting=None,
    )  # fmt: skip
    return ended, after, ended_event(ended)


def ended_event(job: Job) -> JobEnded:
    """Return the event of a job that has ended."""
    assert job.has_ended, "only an end is told as one"
    return JobEnded(
        subject=job.id, project_id=job.project_id, attempt=job.attempt, state=str(job.state), reason=job.reason,
        exit_code=job.exit_code, signal=job.signal,
    )  # fmt: skip


def begin(job: Job, attempt: Attempt, seen: Observation, *, now: datetime) -> tuple[Job, Attempt, JobStarted]:
    """Return the job and its attempt once its first process was seen, and the event that tells it."""
    ATTEMPT_STATES.check(f"attempt {attempt.key}", attempt.state, JobState.RUNNING)
    JOB_STATES.check(job.id, job.state, JobState.RUNNING)
    started_at = max(min(seen.started_at or now, now), attempt.created_at)
    runs = replace(
        attempt, state=JobState.RUNNING, reason="Started", started_at=started_at, host=seen.host, ports=seen.ports,
        output_dir=seen.output_dir, workdir=seen.workdir, limits_by=seen.limits_by,
    )  # fmt: skip
    if job.cancel_at is None and not attempt.stop_reason:
        job = replace(job, reason="Started", sentence="")
    job = replace(job, state=JobState.RUNNING, started_at=job.started_at or started_at)
    told = JobStarted(
        subject=job.id, project_id=job.project_id, attempt=attempt.number, cluster=attempt.cluster, node=attempt.node
    )
    return job, runs, told


def pause_s(retries: int) -> float:
    """Return how long a retry waits when so many came before it: 0, 2, 4, 8 ... up to 300 s."""
    return FIRST_PAUSE_S if retries == 0 else min(PAUSE_S * 2.0 ** min(retries - 1, 16), LONGEST_PAUSE_S)


def _state(attempt: Attempt, seen: Observation) -> JobState:
    match seen.end:
        case End.EXITED:
            return JobState.COMPLETED if seen.exit_code == 0 else JobState.FAILED
        case End.STOPPED:
            return JobState.CANCELLED if attempt.stop_reason in ("", "Cancelled") else JobState.PREEMPTED
        case None:
            return JobState.NODE_FAIL
        case end:
            return _STATES[end]


def _cause(state: JobState, found: Diagnosis) -> Cause:
    if state is JobState.PREEMPTED:
        return Cause.PREEMPTION
    if state is JobState.TIMEOUT:
        return Cause.TIME_LIMIT
    if state is JobState.OUT_OF_MEMORY or found.cause in _MEMORY_CAUSES:
        return Cause.OUT_OF_MEMORY
    match found.blame:
        case Blame.INFRASTRUCTURE | Blame.PLATFORM:
            return Cause.INFRASTRUCTURE
        case Blame.USER:
            return Cause.USER
        case Blame.UNKNOWN:
            return Cause.UNKNOWN


def _avoided(job: Job, attempt: Attempt, found: Diagnosis) -> tuple[tuple[str, str], ...]:
    """Return the places to avoid: what broke a node's worth of work may well be the node."""
    if found.blame is not Blame.INFRASTRUCTURE or found.scope not in ("node", "gpu"):
        return job.avoid
    places = tuple(sorted({(attempt.cluster, rank.node) for rank in attempt.ranks}))
    kept = tuple(place for place in job.avoid if place not in places)
    return (kept + places)[-MOST_AVOIDED:]
