"""The door to jobs: submit, cancel, look. What follows by itself is for the loops.

Functions take the transaction first, and never commit. Who may do what is decided by the caller (`tenancy.access`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.domain import Attempt, Job, JobEndedAlready, JobState, NoSuchAttempt, NoSuchJob, ended_event
from dujiang.jobs.domain.asking import request_of
from dujiang.jobs.events import JobCancelAsked, JobSubmitted
from dujiang.jobs.settings import JobSettings
from dujiang.jobs.spec import JobSpec, Problem, SpecInvalid
from dujiang.jobs.store import JobFilter
from dujiang.kit.db import Tx
from dujiang.kit.ids import Ids
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import Snapshots, check_possible
from dujiang.scheduling.service import SchedulingService

CANCELLED = "Cancelled"


class JobService:
    """Use cases of jobs."""

    def __init__(
        self, *, ids: Ids, pool: PoolService, scheduling: SchedulingService, settings: JobSettings | None = None
    ) -> None:
        self._ids, self._pool, self._scheduling = ids, pool, scheduling
        self._settings = settings or JobSettings()
        self._snapshots = Snapshots()
        self._wakers: list[Callable[[], None]] = []

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call this after every commit that gives the loops something to do."""
        self._wakers.append(wake)

    # -- change ----------------------------------------------------------------------------------------------------

    async def submit(
        self, tx: Tx, spec: JobSpec, *, project_id: str, submitted_by: str, labels: Mapping[str, str] | None = None
    ) -> Job:
        """Take a job; see `submit_many`."""
        (job,) = await self.submit_many(tx, [spec], project_ids=[project_id], submitted_by=submitted_by, labels=labels)
        return job

    async def submit_many(
        self, tx: Tx, specs: Sequence[JobSpec], *, project_ids: Sequence[str], submitted_by: str,
        labels: Mapping[str, str] | None = None,
    ) -> list[Job]:  # fmt: skip
        """Take jobs, all or none.

        Args:
            tx: the transaction.
            specs: with every secret as a value.
            project_ids: of each.
            submitted_by: user id.
            labels: further labels of all of them, over their own.

        Raises:
            SpecInvalid: a secret or the working folder still refers to the submitter's machine.
            ImpossibleRequest: the pool or the quota could never hold one; says what it could.
            BadAsk, WeightOutsideBand: what one asks for means nothing.
        """
        fleet = self._snapshots.fleet(await self._pool.placeable(tx))
        quotas = await self._scheduling.quotas(tx)
        made: list[Job] = []
        secrets: dict[str, dict[str, str]] = {}
        possible: set[object] = set()
        for spec, project_id in zip(specs, project_ids, strict=True):
            _check_workdir(spec)
            job = self._new(tx, spec, project_id, submitted_by, labels or {})
            request = request_of(job)
            if (asked := (request.shape, project_id)) not in possible:  # many jobs are alike
                check_possible(fleet, request, quotas.get(project_id))
                possible.add(asked)
            secrets[job.id] = spec.secret_values
            made.append(job)
        if made:
            await store.insert_jobs(tx, made, secrets)
        tx.emit(*(_submitted(job) for job in made))
        self._wake(tx)
        return made

    async def cancel(self, tx: Tx, job_id: str, *, reason: str = CANCELLED) -> Job:
        """Ask for a job's end. One that waits ends at once; one that has a place ends when its engine has stopped it.

        Asking again changes nothing.

        Raises:
            NoSuchJob: there is none.
            JobEndedAlready: it has ended.
        """
        job = (await store.lock_jobs(tx, [job_id])).get(job_id)
        if job is None:
            raise NoSuchJob(job_id)
        if job.has_ended:
            raise JobEndedAlready(f"The job is {job.state} already; there is nothing to stop.", state=str(job.state))
        if job.cancel_at is not None:
            return job
        tx.emit(JobCancelAsked(subject=job.id, project_id=job.project_id, reason=reason))
        if job.waits:
            ended = replace(
                job, state=JobState.CANCELLED, reason=reason, sentence="It was cancelled while it waited.", waits=False,
                finished_at=tx.now, cancel_at=tx.now, cancel_reason=reason, waiting=None, not_before=None,
            )  # fmt: skip
            await store.update_jobs(tx, [ended])
            await store.drop_secrets(tx, [job.id])
            tx.emit(ended_event(ended))
            return ended
        asked = replace(job, reason="Cancelling", sentence="It was asked to stop.", cancel_at=tx.now,
                        cancel_reason=reason)  # fmt: skip
        await store.update_jobs(tx, [asked])
        self._wake(tx)
        return asked

    # -- look ------------------------------------------------------------------------------------------------------

    async def job(self, tx: Tx, job_id: str) -> Job:
        """Return a job.

        Raises:
            NoSuchJob: there is none.
        """
        found = await store.read_job(tx, job_id)
        if found is None:
            raise NoSuchJob(job_id)
        return found

    async def find_job(self, tx: Tx, job_id: str) -> Job | None:
        """Return a job, or None."""
        return await store.read_job(tx, job_id)

    async def jobs(self, tx: Tx, wanted: JobFilter, *, before: str | None = None, limit: int = 500) -> list[Job]:
        """Return jobs, the newest first, from behind an identifier on."""
        return await store.find_jobs(tx, wanted, before=before, limit=limit)

    async def jobs_of(self, tx: Tx, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return these jobs by identifier; unknown ones are left out."""
        return await store.read_jobs(tx, job_ids)

    async def attempts(self, tx: Tx, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
        """Return the attempts of jobs in order of number; jobs without any have an empty list."""
        found = await store.attempts_of(tx, job_ids)
        return {job_id: found.get(job_id, []) for job_id in job_ids}

    async def attempt(self, tx: Tx, job: Job, number: int | None, rank: int = 0) -> Attempt | None:
        """Return an attempt of a job, the latest when no number is given; None while it has none.

        Raises:
            NoSuchAttempt: none of that number, or it has no such rank.
        """
        attempts = (await store.attempts_of(tx, [job.id])).get(job.id, [])
        found = next((one for one in reversed(attempts) if number in (None, one.number)), None)
        if found is None and number is not None:
            raise NoSuchAttempt(f"The job has had {len(attempts)} attempts; there is no attempt {number}.")
        if found is not None and rank >= len(found.ranks):
            raise NoSuchAttempt(f"The attempt has {len(found.ranks)} ranks, counted from 0; there is no rank {rank}.")
        return found

    async def queue(self, tx: Tx, project_ids: Sequence[str] | None = None) -> list[tuple[int, Job]]:
        """Return the jobs that wait, with their positions among all that wait, in the order they are considered."""
        ranked = list(enumerate(await store.waiting_jobs(tx), 1))
        return [(n, job) for n, job in ranked if project_ids is None or job.project_id in project_ids]

    async def position(self, tx: Tx, job: Job) -> int | None:
        """Return where a waiting job stands, 1 is the first; None for one that does not wait."""
        return await store.position_of(tx, job) if job.waits else None

    async def live_keys(self, tx: Tx) -> list[AttemptKey]:
        """Return the attempts that have not ended, in order."""
        return [attempt.key for attempt in await store.live_attempts(tx)]

    async def count_by_state(self, tx: Tx) -> dict[str, int]:
        """Return how many jobs there are in each state that is not an end."""
        return await store.count_by_state(tx)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _new(self, tx: Tx, spec: JobSpec, project_id: str, submitted_by: str, labels: Mapping[str, str]) -> Job:
        ident = self._ids.new("job")
        folder = (spec.checkpoint.path or f"{self._settings.checkpoint_root}/{ident}") if spec.checkpoint else ""
        return Job(
            id=ident, project_id=project_id, name=spec.name, spec=spec, state=JobState.PENDING, reason="Queued",
            sentence="", submitted_by=submitted_by, created_at=tx.now, queued_at=tx.now, checkpoint_dir=folder,
            labels={**spec.labels, **labels},
        )  # fmt: skip

    def _wake(self, tx: Tx) -> None:
        for wake in self._wakers:
            tx.afterwards(wake)


def _check_workdir(spec: JobSpec) -> None:
    if spec.workdir is not None and not spec.workdir.startswith("/"):
        message = "A relative path says nothing on the platform's machines."
        instead = "Write a path that begins with a slash, or submit with `dujiang submit`, which fills it in."
        raise SpecInvalid([Problem("workdir", message, instead)])


def _submitted(job: Job) -> JobSubmitted:
    return JobSubmitted(
        subject=job.id, project_id=job.project_id, name=job.name, kind_=str(job.spec.kind),
        task_class=str(job.spec.job_class), weight_milli=job.spec.weight_milli, submitted_by=job.submitted_by,
    )  # fmt: skip


__all__ = ["CANCELLED", "JobFilter", "JobService"]
