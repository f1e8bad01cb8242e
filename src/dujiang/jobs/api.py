"""Routes of jobs: submit, list, show, cancel, follow; and the queue."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from dujiang.engines.contract import AttemptKey, Engine, EngineUnavailable
from dujiang.jobs.domain import TERMINAL, Array, Job, JobState, NoSuchArray, NoSuchJob
from dujiang.jobs.schemas import (
    ArrayCancelIn,
    ArrayOut,
    BatchIn,
    BatchOut,
    CancelIn,
    JobOut,
    QueuedOut,
    SubmitIn,
    array_json,
    job_json,
    queued_json,
)
from dujiang.jobs.service import JobFilter, JobService
from dujiang.jobs.spec import MOST_TASKS, JobSpec, Problem, SpecInvalid, parse_indices, read
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.follow import follow, last_seen
from dujiang.kit.http import INT64_MAX, Page, Paged, ServerEvent
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Project
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.JOB_READ))]
Submitter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]
Canceller = Annotated[Caller, Depends(needs(Permission.JOB_CANCEL))]
QueueReader = Annotated[Caller, Depends(needs(Permission.QUEUE_READ))]
ProjectRef = Annotated[str | None, Query(max_length=63, description="Name or id of a project.")]
Offset = Annotated[int, Query(ge=0, le=INT64_MAX, description="Byte of the output from which to give it.")]
LOOK_EVERY_S = 0.2


def router(
    jobs: JobService, tenancy: Tenancy, *, db: Database, clusters: Mapping[str, Engine], clock: Clock
) -> APIRouter:
    """Return the routes of jobs."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])
    _submit(routes, jobs, tenancy)
    _look(routes, jobs, tenancy)
    _cancel(routes, jobs, tenancy)
    _arrays(routes, jobs, tenancy)
    _follow(routes, jobs, _Outputs(jobs, db, clusters, clock), db, clock)
    _queue(routes, jobs, tenancy)
    return routes


def _submit(routes: APIRouter, jobs: JobService, tenancy: Tenancy) -> None:
    async def submit(tx: Tx, caller: Caller, specs: Sequence[JobSpec]) -> list[dict[str, Any]]:
        who, projects = caller.principal, dict[str | None, Project]()
        for spec in specs:
            if spec.project not in projects:
                projects[spec.project] = await tenancy.project_for(
                    tx, who, spec.project, Permission.JOB_SUBMIT, active=True
                )
        project_ids = [projects[spec.project].id for spec in specs]
        made = await jobs.submit_many(
            tx, specs, project_ids=project_ids, submitted_by=who.user_id, reach=caller.reach(Permission.JOB_READ)
        )
        return await _works_json(tx, jobs, tenancy, made)

    @routes.post("/jobs", status_code=201, response_model=JobOut | ArrayOut)
    async def submit_job(caller: Submitter, body: SubmitIn) -> Response:
        """Submit a job or an array; refused at once when the pool could never hold it."""
        spec = read(body.spec)

        async def make(tx: Tx) -> dict[str, Any]:
            return (await submit(tx, caller, [spec]))[0]

        return await caller.once(make)

    @routes.post("/jobs/batch", status_code=201, response_model=BatchOut)
    async def submit_jobs(caller: Submitter, body: BatchIn) -> Response:
        """Submit jobs and arrays, all or none; they come back in order."""
        specs = _read_all(body.specs)

        async def make(tx: Tx) -> dict[str, Any]:
            return {"items": await submit(tx, caller, specs)}

        return await caller.once(make)


def _read_all(documents: Sequence[Mapping[str, Any]]) -> list[JobSpec]:
    """Return the specifications of a batch.

    Raises:
        SpecInvalid: with the problems of all of them, each with the number of its document.
    """
    specs: list[JobSpec] = []
    problems: list[Problem] = []
    for number, document in enumerate(documents):
        try:
            specs.append(read(document))
        except SpecInvalid as error:
            problems += [replace(one, path=f"specs[{number}].{one.path}".rstrip(".")) for one in error.problems]
    if problems:
        raise SpecInvalid(problems)
    return specs


def _look(routes: APIRouter, jobs: JobService, tenancy: Tenancy) -> None:
    @routes.get("/jobs", response_model=Page[JobOut | ArrayOut])
    async def list_jobs(
        caller: Reader,
        paging: Paged,
        project: ProjectRef = None,
        name: Annotated[str | None, Query(max_length=63, description="Jobs of this name.")] = None,
        state: Annotated[list[JobState] | None, Query(max_length=16, description="In any of these.")] = None,
        all: Annotated[bool, Query(description="Those that have ended too.")] = False,
        array: Annotated[str | None, Query(max_length=40, description="Tasks of this array.")] = None,
        index: Annotated[int | None, Query(ge=0, lt=MOST_TASKS, description="The task of this index.")] = None,
        arrays: Annotated[bool, Query(description="Each array as one item, in place of its tasks.")] = False,
        node: Annotated[str | None, Query(max_length=253, description="That hold something on this node now.")] = None,
        cluster: Annotated[
            str | None, Query(max_length=253, description="Of the node; alone, of a job's newest attempt.")
        ] = None,
    ) -> Response:
        """List jobs, the newest first; those that have not ended, unless `all` or a `state` is given.

        With a node or a cluster, tasks are listed one by one.
        """
        after = paging.after(str)
        reach = caller.reach(Permission.JOB_READ)
        async with caller.reading() as tx:
            ids = None if reach is None else sorted(reach)
            if project is not None:
                ids = [(await tenancy.project_for(tx, caller.principal, project, Permission.JOB_READ)).id]
            live = None if all or state else True
            there = None if node is None else await jobs.on_node(tx, f"{cluster}/{node}" if cluster else node)
            wanted = JobFilter(
                project_ids=ids, states=state, name=name, live=live, array_id=array, array_index=index,
                in_arrays=not arrays or (array or node or cluster) is not None, ids=there,
                cluster=cluster if node is None else None,
            )  # fmt: skip
            before = after[0] if after else None
            found: list[Job | Array] = [*await jobs.jobs(tx, wanted, before=_of("job", before), limit=paging.limit + 1)]
            if not wanted.in_arrays:
                found += await jobs.arrays(tx, wanted, before=_of("arr", before), limit=paging.limit + 1)
                found.sort(key=_made, reverse=True)
            kept, next_cursor = paging.page(found[: paging.limit + 1], lambda one: [_made(one)])
            return _json({"items": await _works_json(tx, jobs, tenancy, kept), "next_cursor": next_cursor})

    @routes.get("/jobs/{job_id}", response_model=JobOut)
    async def show_job(caller: Reader, job_id: str) -> Response:
        """Show a job with its attempts."""
        async with caller.reading() as tx:
            job = await _seen(tx, jobs, caller, job_id)
            return _json((await _jobs_json(tx, jobs, tenancy, [job]))[0])


def _cancel(routes: APIRouter, jobs: JobService, tenancy: Tenancy) -> None:
    @routes.post("/jobs/{job_id}/cancel", response_model=JobOut)
    async def cancel_job(caller: Canceller, job_id: str, body: CancelIn | None = None) -> Response:
        """Ask for a job's end: its save signal, its grace, then the kill of whatever is left. Asking again is quiet."""

        async def make(tx: Tx) -> dict[str, Any]:
            job = await _seen(tx, jobs, caller, job_id)
            caller.require(Permission.JOB_CANCEL, job.project_id)
            job = await jobs.cancel(tx, job.id)
            return (await _jobs_json(tx, jobs, tenancy, [job]))[0]

        return await caller.once(make, status_code=200)


def _arrays(routes: APIRouter, jobs: JobService, tenancy: Tenancy) -> None:
    @routes.get("/arrays/{array_id}", response_model=ArrayOut)
    async def show_array(caller: Reader, array_id: str) -> Response:
        """Show an array: how many of its tasks are in which state, and for what they wait."""
        async with caller.reading() as tx:
            array = await _seen_array(tx, jobs, caller, array_id)
            return _json((await _works_json(tx, jobs, tenancy, [array]))[0])

    @routes.post("/arrays/{array_id}/cancel", response_model=ArrayOut)
    async def cancel_array(caller: Canceller, array_id: str, body: ArrayCancelIn | None = None) -> Response:
        """Ask for the end of the tasks of an array, or of some; as `POST /v1/jobs/{job_id}/cancel` does for one."""
        indices = None if body is None or body.indices is None else frozenset(parse_indices(body.indices))

        async def make(tx: Tx) -> dict[str, Any]:
            array = await _seen_array(tx, jobs, caller, array_id)
            caller.require(Permission.JOB_CANCEL, array.project_id)
            await jobs.cancel_array(tx, array.id, indices)
            return (await _works_json(tx, jobs, tenancy, [array]))[0]

        return await caller.once(make, status_code=200)


def _follow(routes: APIRouter, jobs: JobService, outputs: _Outputs, db: Database, clock: Clock) -> None:
    @routes.get(
        "/jobs/{job_id}/logs",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}, "text/event-stream": {}}}},
    )
    async def show_logs(
        caller: Reader,
        job_id: str,
        attempt: Annotated[int | None, Query(ge=1, le=1_000_000, description="Of this one; else the latest.")] = None,
        rank: Annotated[int, Query(ge=0, le=100_000, description="Of this process of a job of several nodes.")] = 0,
        offset: Offset = 0,
        follow: Annotated[bool, Query(description="Go on until the attempt has ended.")] = False,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Give what an attempt printed, byte for byte; as `text/event-stream`, pieces whose id is the next offset."""
        async with caller.reading() as tx:
            job = await _seen(tx, jobs, caller, job_id)
            await jobs.attempt(tx, job, attempt, rank)
        accepts_events = "text/event-stream" in caller.request.headers.get("accept", "")
        start = last_seen(last_event_id, offset) or 0
        pieces = outputs.pieces(job.id, attempt, rank, start, follow=follow, closing=caller.closing.is_set)
        if not follow:
            pieces = await _begun(pieces)  # an engine that is away is told as such, before the answer has begun
        if accepts_events:
            return caller.stream(_as_events(pieces))
        return StreamingResponse(_as_bytes(pieces), media_type="text/plain; charset=utf-8")

    @routes.get(
        "/jobs/{job_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def follow_job(
        caller: Reader,
        job_id: str,
        after: Annotated[int, Query(ge=0, le=INT64_MAX, description="Number of the last record known.")] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Stream what happens to a job, from its submission to its end."""
        async with caller.reading() as tx:
            job = await _seen(tx, jobs, caller, job_id)
        start = last_seen(last_event_id, after)
        events = follow(
            db, clock, after=start, subject=job.id, live=not job.has_ended,
            is_last=lambda record: record.type == "JobEnded",
        )  # fmt: skip
        return caller.stream(events)


def _queue(routes: APIRouter, jobs: JobService, tenancy: Tenancy) -> None:
    @routes.get("/queue", response_model=Page[QueuedOut])
    async def show_queue(caller: QueueReader, paging: Paged, project: ProjectRef = None) -> Response:
        """List what waits, in the order in which it is considered, and why it waits."""
        after = paging.after(int)
        reach = caller.reach(Permission.QUEUE_READ)
        async with caller.reading() as tx:
            ids = None if reach is None else sorted(reach)
            if project is not None:
                ids = [(await tenancy.project_for(tx, caller.principal, project, Permission.QUEUE_READ)).id]
            rows = [(n, job) for n, job in await jobs.queue(tx, ids) if after is None or n > after[0]]
            kept, next_cursor = paging.page(rows, lambda row: [row[0]])
            projects = await _project_names(tx, tenancy, [job for _, job in kept])
        items = [queued_json(n, job, projects=projects) for n, job in kept]
        return _json({"items": items, "next_cursor": next_cursor})


class _Outputs:
    """Gives the output of attempts in pieces, for as long as there may be more."""

    def __init__(self, jobs: JobService, db: Database, clusters: Mapping[str, Engine], clock: Clock) -> None:
        self._jobs, self._db, self._clusters, self._clock = jobs, db, clusters, clock

    async def pieces(
        self, job_id: str, number: int | None, rank: int, offset: int, *, follow: bool, closing: Any
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """Yield (next offset, bytes); with follow, until the attempt has ended, or the job without one."""
        at = offset
        while True:
            async with self._db.reading() as tx:  # looked at first: what is written before the end is still read below
                job = await self._jobs.job(tx, job_id)
                attempt = await self._jobs.attempt(tx, job, number)
            if attempt is not None and (engine := self._clusters.get(attempt.cluster)) is not None:
                number = attempt.number
                try:
                    async for chunk in engine.logs(AttemptKey(job_id, number), rank=rank, offset=at):
                        at = chunk.offset + len(chunk.data)
                        yield at, chunk.data
                except EngineUnavailable:
                    if not follow:
                        raise
                    await self._clock.sleep(LOOK_EVERY_S)
                    if closing():
                        return
                    continue
            is_over = attempt.state in TERMINAL if attempt is not None else job.has_ended
            if is_over or not follow or closing():
                return
            await self._clock.sleep(LOOK_EVERY_S)


async def _begun(pieces: AsyncGenerator[tuple[int, bytes]]) -> AsyncGenerator[tuple[int, bytes]]:
    """Return the same pieces, the first of which has been got."""
    first = await anext(pieces, None)

    async def all_of_them() -> AsyncGenerator[tuple[int, bytes]]:
        async with aclosing(pieces):
            if first is not None:
                yield first
            async for piece in pieces:
                yield piece

    return all_of_them()


async def _as_bytes(pieces: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    async for _, data in pieces:
        yield data


async def _as_events(pieces: AsyncIterator[tuple[int, bytes]]) -> AsyncIterator[ServerEvent]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    at = 0
    async for at, data in pieces:
        text = decoder.decode(data)
        if text:  # a character that is cut is held back, and its bytes are asked for again
            yield ServerEvent(text, event="log", id=str(at - len(decoder.getstate()[0])))
    if rest := decoder.decode(b"", final=True):
        yield ServerEvent(rest, event="log", id=str(at))


async def _seen(tx: Tx, jobs: JobService, caller: Caller, job_id: str) -> Job:
    """Return a job that the caller may know of.

    Raises:
        NoSuchJob: there is none, or it is another tenant's.
    """
    job = await jobs.find_job(tx, job_id)
    if job is None or not caller.may(Permission.JOB_READ, job.project_id):
        raise NoSuchJob(job_id)
    return job


async def _seen_array(tx: Tx, jobs: JobService, caller: Caller, array_id: str) -> Array:
    """Return an array that the caller may know of.

    Raises:
        NoSuchArray: there is none, or it is another tenant's.
    """
    array = await jobs.find_array(tx, array_id)
    if array is None or not caller.may(Permission.JOB_READ, array.project_id):
        raise NoSuchArray(array_id)
    return array


def _made(one: Job | Array) -> str:
    """Return by what jobs and arrays sort together: their identifiers without what kind they are."""
    return one.id.partition("_")[2]


def _of(kind: str, made: str | None) -> str | None:
    return None if made is None else f"{kind}_{made}"


async def _works_json(tx: Tx, jobs: JobService, tenancy: Tenancy, found: Sequence[Job | Array]) -> list[dict[str, Any]]:
    alone = [one for one in found if isinstance(one, Job)]
    arrays = [one for one in found if isinstance(one, Array)]
    made = {one["id"]: one for one in await _jobs_json(tx, jobs, tenancy, alone)}
    if arrays:
        tallies = await jobs.tallies(tx, [array.id for array in arrays])
        projects = await _project_names(tx, tenancy, arrays)
        users = await tenancy.names(tx, {array.submitted_by for array in arrays})
        made |= {one.id: array_json(one, tallies[one.id], projects=projects, users=users) for one in arrays}
    return [made[one.id] for one in found]


async def _jobs_json(tx: Tx, jobs: JobService, tenancy: Tenancy, found: Sequence[Job]) -> list[dict[str, Any]]:
    attempts = await jobs.attempts(tx, [job.id for job in found])
    projects = await _project_names(tx, tenancy, found)
    users = await tenancy.names(tx, {job.submitted_by for job in found})
    found = await jobs.as_told(tx, found, attempts)
    return [job_json(job, attempts[job.id], projects=projects, users=users) for job in found]


async def _project_names(tx: Tx, tenancy: Tenancy, found: Sequence[Job | Array]) -> dict[str, str]:
    ids = {job.project_id for job in found}
    return {one.id: one.name for one in await tenancy.projects(tx, ids=ids, archived=True, limit=len(ids) or 1)}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_UTC_Z), media_type="application/json")
