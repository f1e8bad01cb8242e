"""Has a job count as busy until a date, whatever it uses: an operator's word against what was measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import ClassVar, Final

from dujiang.jobs import store
from dujiang.jobs.domain import Job, JobEndedAlready, NoSuchJob
from dujiang.jobs.events import JobExempted
from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid

LONGEST: Final = timedelta(days=366)


class BadExemption(Invalid):
    """A date that has passed, or that is too far away."""

    code: ClassVar[str] = "bad_exemption"
    title: ClassVar[str] = "A job cannot be exempted until then"


async def exempt(tx: Tx, job_id: str, *, until: datetime | None, reason: str) -> Job:
    """Exempt a job from what follows idleness, or no longer where there is no date. The journal says who did.

    Raises:
        NoSuchJob: there is none.
        JobEndedAlready: it has ended.
        BadExemption: the date has passed, or is more than a year away.
    """
    job = (await store.lock_jobs(tx, [job_id])).get(job_id)
    if job is None:
        raise NoSuchJob(job_id)
    if job.has_ended:
        raise JobEndedAlready(f"The job is {job.state} already; nothing is taken from it.", state=str(job.state))
    if until is not None and not tx.now < until <= tx.now + LONGEST:
        raise BadExemption(f"Give a time after now and within {LONGEST.days} days; {until.isoformat()} is not.")
    if (until, reason if until else "") == (job.exempt_until, job.exempt_reason):
        return job
    changed = replace(job, exempt_until=until, exempt_reason=reason if until is not None else "")
    await store.update_jobs(tx, [changed])
    told = until.isoformat() if until is not None else None
    tx.emit(JobExempted(subject=job.id, project_id=job.project_id, until=told, reason=reason))
    return changed
