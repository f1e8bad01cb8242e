"""The door to jobs: submit, cancel, look. What follows by itself is for the loops.

Functions take the transaction first, and never commit. Who may do what is decided by the caller (`tenancy.access`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import group_store, naming, store
from dujiang.jobs.domain import (
    Array,
    Attempt,
    Edge,
    Job,
    JobEndedAlready,
    JobState,
    NoSuchArray,
    NoSuchAttempt,
    NoSuchJob,
    Standing,
    Tally,
    await_turn,
    depend,
    ended_event,
    standing_of,
    told_refused,
    unanswered,
)
from dujiang.jobs.domain.asking import request_of
from dujiang.jobs.events import JobCancelAsked, JobSubmitted
from dujiang.jobs.following import follow
from dujiang.jobs.promising import Promises
from dujiang.jobs.settings import JobSettings
from dujiang.jobs.spec import MOST_TASKS, After, JobSpec, Problem, SpecInvalid, When, lateness, upwards
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
        self, *, ids: Ids, pool: PoolService, scheduling: SchedulingService, settings: JobSettings | None = None,
        promises: Promises | None = None,
    ) -> None:  # fmt: skip
        """Take what it works with; without `promises` no deadline is refused."""
        self._ids, self._pool, self._scheduling, self._promises = ids, pool, scheduling, promises
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
        """Take a single job; see `submit_many`."""
        assert spec.array is None, "an array is taken by submit_many"
        (job,) = await self.submit_many(tx, [spec], project_ids=[project_id], submitted_by=submitted_by, labels=labels)
        assert isinstance(job, Job), "what is no array is a job"
        return job

    async def submit_many(
        self, tx: Tx, specs: Sequence[JobSpec], *, project_ids: Sequence[str], submitted_by: str,
        labels: Mapping[str, str] | None = None, reach: Collection[str] | None = (),
    ) -> list[Job | Array]:  # fmt: skip
        """Take jobs and arrays, all or none.

        Args:
            tx: the transaction.
            specs: with every secret as a value.
            project_ids: of each.
            submitted_by: user id.
            labels: further labels of all of them, over their own.
            reach: further projects whose jobs may be waited for; None is every project.

        Raises:
            SpecInvalid: a secret or the working folder still refers to the submitter's machine, or a dependency names
                no job that may be waited for.
            ImpossibleRequest: the pool, the quota or the queue could never hold one; says what it could.
            BadAsk, WeightOutsideBand: what one asks for means nothing.
            QueueNotOpen: one names a queue that it may not be counted in.
            DeadlineNotPromised: one cannot be over by its deadline, or makes another late that was promised.
        """
        fleet = self._snapshots.fleet(await self._pool.placeable(tx))
        quotas, queues = await self._scheduling.quotas(tx), await self._scheduling.queues(tx)
        _check_number(specs)
        others = await naming.others(tx, specs, project_ids, reach)
        new = _New()
        possible: set[object] = set()
        for number, (spec, project_id) in enumerate(zip(specs, project_ids, strict=True)):
            check_submitted(spec)
            _check_deadline(spec, tx.now)
            queues.check_named(project_id, spec.queue or "")
            on = _found(others, spec, project_id, number if len(specs) > 1 else None)
            spec = replace(spec, after=tuple(After(one.id, when) for when, one in on))
            jobs = self._make(tx, spec, project_id, submitted_by, labels or {}, new)
            request = request_of(jobs[0])
            asked = replace(request, job_id="", submitted_at=tx.now)
            if asked not in possible:  # many jobs are alike
                burst = self._scheduling.burst_policy()
                check_possible(fleet, request, quotas.get(project_id), queues, burst=burst)
                possible.add(asked)
            others.add(project_id, new.take(jobs, on, spec.secret_values, tx.now))
        if self._promises is not None:
            await self._promises.check(tx, new.jobs, new.edges)
        if new.jobs:
            await group_store.insert_arrays(tx, new.arrays)
            await store.insert_jobs(tx, new.jobs, new.secrets)
            await group_store.insert_edges(tx, new.edges)
        tx.emit(*(_submitted(job) for job in new.jobs))
        tx.emit(*(ended_event(job) for job in new.jobs if job.has_ended))
        self._wake(tx)
        return new.works

    async def draft(self, tx: Tx, spec: JobSpec, *, project_id: str, submitted_by: str) -> Job:
        """Return the job that a specification would become, checked as in `submit_many` and not taken.

        Of an array it is one task. What it has to wait for is left out of account.
        """
        fleet, quotas = self._snapshots.fleet(await self._pool.placeable(tx)), await self._scheduling.quotas(tx)
        check_submitted(spec)
        _check_deadline(spec, tx.now)
        queues = await self._scheduling.queues(tx)
        queues.check_named(project_id, spec.queue or "")
        job = self._new(tx, spec, project_id, submitted_by, {})
        burst = self._scheduling.burst_policy()
        check_possible(fleet, request_of(job), quotas.get(project_id), queues, burst=burst)
        return job

    async def named_queues(self, tx: Tx) -> dict[str, str]:
        """Return the queues that running jobs name, by job."""
        return await store.named_queues(tx)

    async def cancel(self, tx: Tx, job_id: str, *, reason: str = CANCELLED) -> Job:
        """Ask for a job's end. One that waits ends at once; one that has a place ends when its engine has stopped it.

        Asking again changes nothing.

        Raises:
            NoSuchJob: there is none.
            JobEndedAlready: it has ended.
        """
        job = (await group_store.lock_jobs(tx, [job_id])).get(job_id)
        if job is None:
            raise NoSuchJob(job_id)
        if job.has_ended:
            raise JobEndedAlready(f"The job is {job.state} already; there is nothing to stop.", state=str(job.state))
        (job,) = await self._stop(tx, [job], reason)
        return job

    async def cancel_array(
        self, tx: Tx, array_id: str, indices: Collection[int] | None = None, *, reason: str = CANCELLED
    ) -> list[Job]:
        """Ask for the end of the tasks of an array, or of those with these indices; return those it was asked of.

        Raises:
            NoSuchArray: there is none.
            JobEndedAlready: all of these have ended.
        """
        await self.array(tx, array_id)
        wanted = [ident for n, ident in await group_store.live_tasks(tx, array_id) if indices is None or n in indices]
        found = await group_store.lock_jobs(tx, wanted)
        live = [job for job in found.values() if not job.has_ended]
        if not live:
            raise JobEndedAlready("None of these tasks runs or waits; there is nothing to stop.")
        return await self._stop(tx, live, reason)

    async def _stop(self, tx: Tx, jobs: Sequence[Job], reason: str) -> list[Job]:
        """Ask for the end of jobs that have not ended, each locked with its array."""
        fresh = [job for job in jobs if job.cancel_at is None]
        tx.emit(*(JobCancelAsked(subject=job.id, project_id=job.project_id, reason=reason) for job in fresh))
        stopped = {job.id: _cancelled(job, reason, tx.now) for job in fresh}
        ended = [job for job in stopped.values() if job.has_ended]
        await store.update_jobs(tx, list(stopped.values()))
        await store.drop_secrets(tx, [job.id for job in ended if job.spec.secrets])
        await group_store.drop_edges(tx, [job.id for job in ended if job.spec.after])
        tx.emit(*(ended_event(job) for job in ended))
        if await follow(tx, ended) or len(ended) < len(stopped):
            self._wake(tx)
        return [stopped.get(job.id, job) for job in jobs]

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
        """Return jobs, the newest first, from behind an identifier on.

        Raises:
            UnknownCluster: they are to be of one that is not there.
        """
        if wanted.cluster is not None:
            await self._pool.must_know(tx, wanted.cluster)
        return await store.find_jobs(tx, wanted, before=before, limit=limit)

    async def on_node(self, tx: Tx, node: str) -> list[str]:
        """Return the jobs that hold something on a node now; by its name, its identifier or `CLUSTER/NAME`.

        Raises:
            UnknownNode, AmbiguousNode: none, or several.
        """
        found = await self._pool.node(tx, node)
        return sorted({key.job_id for key in await self._pool.attempts_on(tx, [found.id])})

    async def jobs_of(self, tx: Tx, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return these jobs by identifier; unknown ones are left out."""
        return await store.read_jobs(tx, job_ids)

    async def array(self, tx: Tx, array_id: str) -> Array:
        """Return an array.

        Raises:
            NoSuchArray: there is none.
        """
        found = await self.find_array(tx, array_id)
        if found is None:
            raise NoSuchArray(array_id)
        return found

    async def find_array(self, tx: Tx, array_id: str) -> Array | None:
        """Return an array, or None."""
        return (await group_store.read_arrays(tx, [array_id])).get(array_id)

    async def arrays(self, tx: Tx, wanted: JobFilter, *, before: str | None = None, limit: int = 500) -> list[Array]:
        """Return arrays that have a task as wanted, the newest first, from behind an identifier on."""
        return await group_store.find_arrays(tx, wanted, before=before, limit=limit)

    async def tallies(self, tx: Tx, array_ids: Sequence[str]) -> dict[str, Tally]:
        """Return where the tasks of arrays stand, by array."""
        return await group_store.tallies(tx, array_ids)

    async def attempts(self, tx: Tx, job_ids: Sequence[str]) -> dict[str, list[Attempt]]:
        """Return the attempts of jobs in order of number; jobs without any have an empty list."""
        found = await store.attempts_of(tx, job_ids)
        return {job_id: found.get(job_id, []) for job_id in job_ids}

    async def as_told(self, tx: Tx, jobs: Sequence[Job], attempts: Mapping[str, Sequence[Attempt]]) -> list[Job]:
        """Return jobs as they are told: at work on a cluster that does not answer, or turned away again and again."""
        jobs = [told_refused(job, attempts[job.id]) if job.waits else job for job in jobs]
        last = {
            job.id: attempts[job.id][-1] for job in jobs if not job.has_ended and not job.waits and attempts[job.id]
        }
        if not last:
            return jobs
        silent = {one.name: one for one in await self._pool.clusters(tx) if not one.reachable}
        told: list[Job] = []
        for job in jobs:
            attempt = last.get(job.id)
            cluster = silent.get(attempt.cluster) if attempt else None
            if attempt is not None and cluster is not None:
                job = unanswered(job, attempt, cluster, removed=self._pool.is_removed(cluster))
            told.append(job)
        return told

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
        """Return the jobs that wait for a place, with their positions, in the order they are considered.

        Those that are held wait for something else, and are not among them.
        """
        ranked = list(enumerate(await store.waiting_jobs(tx), 1))
        return [(n, job) for n, job in ranked if project_ids is None or job.project_id in project_ids]

    async def position(self, tx: Tx, job: Job) -> int | None:
        """Return where a waiting job stands, 1 is the first; None for one that does not wait for a place."""
        return await store.position_of(tx, job) if job.waits and job.held is None else None

    async def live_keys(self, tx: Tx) -> list[AttemptKey]:
        """Return the attempts that have not ended, in order."""
        return [attempt.key for attempt in await store.live_attempts(tx)]

    async def count_by_state(self, tx: Tx) -> dict[str, int]:
        """Return how many jobs there are in each state that is not an end."""
        return await store.count_by_state(tx)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _make(
        self, tx: Tx, spec: JobSpec, project_id: str, submitted_by: str, labels: Mapping[str, str], new: _New
    ) -> list[Job]:
        """Return the new jobs of a specification: one, or the tasks of its array, which is noted."""
        job = self._new(tx, spec, project_id, submitted_by, labels)
        if spec.array is None:
            return [job]
        array = Array(
            self._ids.new("arr"), project_id, spec.name, spec, submitted_by, tx.now, spec.array.size, spec.array.at_once
        )
        new.arrays.append(array)
        tasks = []
        for index in spec.array.numbers:
            ident = self._ids.new("job")
            task = replace(
                job, id=ident, array_id=array.id, array_index=index, checkpoint_dir=self._folder(spec, ident, index)
            )
            tasks.append(task)
        return tasks

    def _new(self, tx: Tx, spec: JobSpec, project_id: str, submitted_by: str, labels: Mapping[str, str]) -> Job:
        ident = self._ids.new("job")
        return Job(
            id=ident, project_id=project_id, name=spec.name, spec=spec, state=JobState.PENDING, reason="Queued",
            sentence="", submitted_by=submitted_by, created_at=tx.now, queued_at=tx.now,
            checkpoint_dir=self._folder(spec, ident), labels={**spec.labels, **labels},
        )  # fmt: skip

    def _folder(self, spec: JobSpec, ident: str, index: int | None = None) -> str:
        """Return where a job saves itself; tasks that name one folder get one each within it."""
        if spec.checkpoint is None:
            return ""
        if spec.checkpoint.path is None:
            return f"{self._settings.checkpoint_root}/{ident}"
        return spec.checkpoint.path if index is None else f"{spec.checkpoint.path.rstrip('/')}/{index}"

    def _wake(self, tx: Tx) -> None:
        for wake in self._wakers:
            tx.afterwards(wake)


@dataclass(slots=True)
class _New:
    """What a submission makes."""

    works: list[Job | Array] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    def take(
        self, made: Sequence[Job], on: Sequence[tuple[When, Standing]], secrets: dict[str, str], now: datetime
    ) -> Standing:
        """Note the jobs of one specification as what they wait for leaves them; return where they stand together."""
        array = self.arrays[-1] if made[0].array_id is not None else None
        left = len(made) if array is None or array.at_once is None else array.at_once
        for job in made:
            job, edges = depend(job, on, now=now)
            if job.held is None and not job.has_ended:
                if left <= 0 and array is not None and array.at_once is not None:
                    job = await_turn(job, array.at_once, now=now)
                left -= 1
            self.jobs.append(job)
            self.edges += edges
            if secrets and not job.has_ended:
                self.secrets[job.id] = secrets
        last = self.jobs[-1]
        self.works.append(last if array is None else array)
        return standing_of(last) if array is None else replace(standing_of(last), id=array.id)


def _found(others: naming.Others, spec: JobSpec, project_id: str, number: int | None) -> list[tuple[When, Standing]]:
    try:
        return others.of(spec, project_id)
    except SpecInvalid as error:
        if number is None:
            raise
        raise SpecInvalid([replace(one, path=f"specs[{number}].{one.path}") for one in error.problems]) from error


def _cancelled(job: Job, reason: str, now: datetime) -> Job:
    """Return a job as a wish for its end leaves it: over when it has no place, else on its way."""
    asked = replace(job, cancel_at=now, cancel_reason=reason)
    if not job.waits:
        return replace(asked, reason="Cancelling", sentence="It was asked to stop.")
    return replace(
        asked, state=JobState.CANCELLED, reason=reason, sentence="It was cancelled while it waited.", waits=False,
        held=None, finished_at=now, waiting=None, not_before=None,
    )  # fmt: skip


def _check_deadline(spec: JobSpec, now: datetime) -> None:
    if spec.deadline is not None and (why := lateness(spec.deadline, spec.time_limit_s or 0, now)):
        raise SpecInvalid([Problem("deadline", why, "Give a later one, or a shorter time_limit.")])


def _check_number(specs: Sequence[JobSpec]) -> None:
    """Refuse more jobs than one transaction should write."""
    count = sum(spec.array.size if spec.array else 1 for spec in specs)
    if count > MOST_TASKS:
        message = f"{count} jobs and tasks of arrays are submitted together; at most {MOST_TASKS} are taken."
        raise SpecInvalid([Problem("", message, "Submit them in several parts.")])


def check_submitted(spec: JobSpec) -> None:
    """Refuse what can be read, as of earlier jobs, and is not to be submitted anew.

    Raises:
        SpecInvalid: the working folder is relative; or a range of indices begins with its greater end, which reads as
            if its tasks counted down.
    """
    if spec.workdir is not None and not spec.workdir.startswith("/"):
        message = "A relative path says nothing on the platform's machines."
        instead = "Write a path that begins with a slash, or submit with `dujiang submit`, which fills it in."
        raise SpecInvalid([Problem("workdir", message, instead)])
    if spec.array is not None and (near := upwards(spec.array.indices)) != spec.array.indices:
        message = f'"{spec.array.indices[:100]}" has a range from the greater to the smaller index.'
        raise SpecInvalid([Problem("array", message, f"Write {near[:100]}.")])


def _submitted(job: Job) -> JobSubmitted:
    return JobSubmitted(
        subject=job.id, project_id=job.project_id, name=job.name, kind_=str(job.spec.kind),
        task_class=str(job.spec.job_class), weight_milli=job.spec.weight_milli, submitted_by=job.submitted_by,
    )  # fmt: skip


__all__ = ["CANCELLED", "JobFilter", "JobService"]
