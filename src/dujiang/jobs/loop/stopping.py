"""Writes down that running work is to stop for other work; `running` makes it true, also after a restart.

Who is stopped is decided elsewhere: by `scheduling.plan`, or by use (`rescoring`). Here each is looked at once more, on
its rows as they are: what has ended, is stopping already or was cancelled meanwhile is left alone, and so is a job that
does not want to be run again after it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import TERMINAL, Attempt, Job
from dujiang.jobs.events import AttemptStopAsked
from dujiang.jobs.spec import Cause
from dujiang.kit.db import Tx
from dujiang.scheduling.domain import Stop, StopWhy

STOPPING = "Stopping"


async def ask_stops(tx: Tx, stops: Sequence[Stop], jobs: Mapping[str, Job]) -> list[Stop]:
    """Ask for attempts to stop, with an event for each; return those that were asked.

    Args:
        tx: the transaction.
        stops: what to stop, one for each job.
        jobs: those of the stops, locked in this transaction.
    """
    by_key = {AttemptKey(one.job_id, jobs[one.job_id].attempt): one for one in stops if one.job_id in jobs}
    attempts = await store.lock_attempts(tx, by_key)
    fit = {key: by_key[key] for key in sorted(attempts) if can_stop(jobs[key.job_id], attempts[key], by_key[key])}
    told = [
        replace(
            attempts[key],
            stop_reason=str(one.why),
            stop_sentence=one.sentence,
            stop_for=one.for_job,
            stop_asked_at=tx.now,
            stop_lost_device_s=round(one.lost_device_s, 3),
        )
        for key, one in fit.items()
    ]
    await store.update_attempts(tx, told)
    await store.update_jobs(
        tx, [replace(jobs[one.job_id], reason=STOPPING, sentence=one.sentence) for one in fit.values()]
    )
    tx.emit(*(stop_asked(attempt, lost_device_s=fit[attempt.key].lost_device_s) for attempt in told))
    return list(fit.values())


def can_stop(job: Job, attempt: Attempt, stop: Stop) -> bool:
    """Say whether an attempt may still be stopped for that."""
    if job.has_ended or job.waits or job.cancel_at is not None or attempt.state in TERMINAL or attempt.stop_reason:
        return False
    return stop.why is StopWhy.IDLE or Cause.PREEMPTION in job.spec.retry.on


def stop_asked(attempt: Attempt, *, lost_device_s: float = 0.0) -> AttemptStopAsked:
    """Return the event of a stop that was asked for."""
    return AttemptStopAsked(
        subject=attempt.job_id, project_id=attempt.project_id, attempt=attempt.number, reason=attempt.stop_reason,
        for_job=attempt.stop_for, sentence=attempt.stop_sentence, lost_device_s=round(lost_device_s, 3),
    )  # fmt: skip
