"""What follows the end of an attempt: its state, its cause, and whether another attempt follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dujiang.engines.contract import End, Observation
from dujiang.jobs.diagnosis import Blame, Diagnosis
from dujiang.jobs.domain.job import Attempt, Job, JobState
from dujiang.jobs.spec import Cause

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
    End.LOST: JobState.NODE_FAIL,
    End.NODE_LOST: JobState.NODE_FAIL,
}
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
    if job.cancel_at is not None:
        # Whatever ended it, someone asked for its end: it is not run again.
        return Verdict(state, None, retry=False, avoid=job.avoid)
    cause = _cause(state, found)
    avoid = _avoided(job, attempt, found)
    if cause is Cause.PREEMPTION:
        again = cause in job.spec.retry.on
        return Verdict(state, cause, retry=again, counts=False, not_before=now if again else None, avoid=job.avoid)
    hopeless = found.retryable is False and cause in (Cause.INFRASTRUCTURE, Cause.UNKNOWN)
    again = not hopeless and job.spec.retry.allows(cause, job.retries)
    pause = timedelta(seconds=pause_s(job.retries))
    return Verdict(state, cause, retry=again, not_before=now + pause if again else None, avoid=avoid)


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
