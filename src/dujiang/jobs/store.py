"""The tables of jobs and attempts and their statements: rows in, values out.

What changes a row reads it again in the same transaction, locked (`lock_jobs`, `lock_attempts`; jobs before attempts,
each in order), so a decision is made on what is there and not on what was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    text,
    true,
    type_coerce,
    update,
)

from dujiang.engines.contract import AttemptKey, DeviceShare, RankPlacement
from dujiang.jobs.diagnosis import Diagnosis
from dujiang.jobs.domain.job import TERMINAL, Attempt, Held, Job, JobState, Use, Waiting
from dujiang.jobs.spec import JobSpec, read
from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.tables import Json, UtcMicros, metadata

_CHUNK = 5000
_LIVE = sorted(frozenset(JobState) - TERMINAL)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project_id", String(40), nullable=False),
    Column("name", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("weight_milli", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("sentence", Text, nullable=False),
    Column("submitted_by", String(64), nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("queued_at", UtcMicros, nullable=False),
    Column("started_at", UtcMicros, nullable=True),
    Column("finished_at", UtcMicros, nullable=True),
    Column("exit_code", Integer, nullable=True),
    Column("signal", Integer, nullable=True),
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("ran_s", Float(53), nullable=False),
    Column("expected_s", Float(53), nullable=True),
    Column("expected_by", String(32), nullable=False),
    Column("ranks_most", Integer, nullable=True),
    Column("use", Json, nullable=True),
    Column("exempt_until", UtcMicros, nullable=True),
    Column("exempt_reason", Text, nullable=False),
    Column("waits", Boolean, nullable=False),
    Column("held", String(16), nullable=True),
    Column("array_id", String(40), nullable=True),
    Column("array_index", Integer, nullable=True),
    Column("not_before", UtcMicros, nullable=True),
    Column("cancel_at", UtcMicros, nullable=True),
    Column("cancel_reason", String(64), nullable=False),
    Column("checkpoint_dir", Text, nullable=False),
    Column("resume_from", Text, nullable=True),
    Column("avoid", Json, nullable=False),
    Column("labels", Json, nullable=False),
    Column("waiting", Json, nullable=True),
    Index("ix_jobs_state", "state", "id"),
    Index("ix_jobs_project", "project_id", "id"),
    Index("ix_jobs_name", "name", "project_id", "id"),
    Index("ix_jobs_array", "array_id", "state", "held", "array_index"),
)
_CONSIDERED = (jobs.c.waits.is_(true()), jobs.c.held.is_(None))
"""What the scheduler looks at. Those that are held are many at times, and cost nothing in an index without them."""
Index("ix_jobs_waiting", jobs.c.id, sqlite_where=and_(*_CONSIDERED), postgresql_where=text("waits AND held IS NULL"))
attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("project_id", String(40), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("cluster", String(128), nullable=False),
    Column("ranks", Json, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("started_at", UtcMicros, nullable=True),
    Column("finished_at", UtcMicros, nullable=True),
    Column("exit_code", Integer, nullable=True),
    Column("signal", Integer, nullable=True),
    Column("host", String(255), nullable=False),
    Column("ports", Json, nullable=False),
    Column("output_dir", Text, nullable=False),
    Column("workdir", Text, nullable=False),
    Column("limits_by", String(64), nullable=False),
    Column("facts", Json, nullable=False),
    Column("diagnosis", Json, nullable=True),
    Column("resume_from", Text, nullable=True),
    Column("stop_reason", String(64), nullable=False),
    Column("stop_sentence", Text, nullable=False),
    Column("stop_for", String(40), nullable=False),
    Column("stop_asked_at", UtcMicros, nullable=True),
    Column("stop_lost_device_s", Float(53), nullable=False),
    Column("saved_at", UtcMicros, nullable=True),
    Column("expected_s", Float(53), nullable=True),
    Column("figures_complete", Boolean, nullable=False),
    Index("ix_attempts_state", "state"),
    Index("ix_attempts_figures", "figures_complete", "job_id"),
)
Index(
    "ix_attempts_stopped", attempts.c.stop_asked_at, sqlite_where=attempts.c.stop_asked_at.is_not(None),
    postgresql_where=attempts.c.stop_asked_at.is_not(None),
)  # fmt: skip
Index(
    "ix_attempts_stop_for", attempts.c.stop_for, attempts.c.stop_asked_at, sqlite_where=attempts.c.stop_for != "",
    postgresql_where=text("stop_for <> ''"),
)  # fmt: skip
job_secrets = Table(
    "job_secrets",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("secrets", Json, nullable=False),
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs; None of a member means any."""

    project_ids: Sequence[str] | None = None
    states: Sequence[JobState] | None = None
    name: str | None = None
    live: bool | None = None
    """Those that have not ended, or those that have."""
    array_id: str | None = None
    """Tasks of this array."""
    array_index: int | None = None
    in_arrays: bool = True
    """Tasks of arrays too."""
    ids: Sequence[str] | None = None
    cluster: str | None = None
    """Whose newest attempt is, or was, on this cluster; with `live`, only while that attempt has not ended."""


# -- jobs ----------------------------------------------------------------------------------------------------------


async def insert_jobs(tx: Tx, made: Sequence[Job], secrets: Mapping[str, Mapping[str, str]]) -> None:
    """Write new jobs, and the secrets of those that have some."""
    documents: dict[int, str] = {}  # the tasks of an array share one specification
    for job in made:
        if id(job.spec) not in documents:
            documents[id(job.spec)] = orjson.dumps(job.spec.document()).decode()
    await tx.execute(insert(jobs), [_job_row(job) | {"spec": documents[id(job.spec)]} for job in made])
    rows = [{"job_id": job.id, "secrets": dict(secrets[job.id])} for job in made if secrets.get(job.id)]
    if rows:
        await tx.execute(insert(job_secrets), rows)


async def read_job(tx: Tx, job_id: str) -> Job | None:
    """Return a job."""
    row = (await tx.execute(_JOBS, {"ids": [job_id]})).first()
    return _job(row) if row is not None else None


async def lock_jobs(tx: Tx, job_ids: Iterable[str]) -> dict[str, Job]:
    """Return these jobs as they are now, theirs for this transaction; unknown ones are left out."""
    return {job.id: job async for job in _by_ids(tx, job_ids, lock=True)}


async def read_jobs(tx: Tx, job_ids: Iterable[str]) -> dict[str, Job]:
    """Return these jobs; unknown ones are left out."""
    return {job.id: job async for job in _by_ids(tx, job_ids, lock=False)}


async def read_alike(tx: Tx, job_ids: Iterable[str]) -> dict[str, Job]:
    """Return these jobs as the scheduler wants to know them: with specifications that lack names and texts.

    Most jobs ask for what others ask for, and those that are alike are read once: the first look at 10,000 running jobs
    after a restart takes 2.1 s of the processor, and took 6.3 s when each was read (`make bench B=observe`).
    """
    found: dict[str, Job] = {}
    for chunk in _chunks(sorted(set(job_ids))):
        for row in await tx.execute(_JOBS, {"ids": chunk}):
            found[row.id] = _job(row, _spec_without_texts(row.spec))
    return found


async def _by_ids(tx: Tx, job_ids: Iterable[str], *, lock: bool) -> Any:
    for chunk in _chunks(sorted(set(job_ids))):
        for row in await tx.execute(_LOCK_JOBS if lock else _JOBS, {"ids": chunk}):
            yield _job(row)


async def find_jobs(tx: Tx, wanted: JobFilter, *, before: str | None, limit: int) -> list[Job]:
    """Return jobs, the newest first, from behind an identifier on."""
    query = select(jobs).where(*_conditions(wanted)).order_by(jobs.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(jobs.c.id < before)
    return [_job(row) for row in await tx.execute(query)]


async def count_by_state(tx: Tx) -> dict[str, int]:
    """Return how many jobs there are in each state that is not an end."""
    query = select(jobs.c.state, func.count().label("jobs")).where(jobs.c.state.in_(_LIVE)).group_by(jobs.c.state)
    return {row.state: int(row.jobs) for row in await tx.execute(query)}


async def named_queues(tx: Tx) -> dict[str, str]:
    """Return the queues that running jobs name, by job."""
    named = {row.id: orjson.loads(row.spec).get("queue") for row in await tx.execute(_NAMING)}
    return {job_id: queue for job_id, queue in named.items() if queue}


async def waiting_ids(tx: Tx) -> list[tuple[str, int, int | None, bool]]:
    """Return (id, attempt, not_before in microseconds, whether work was stopped for it) of the jobs that wait.

    Work counts that was stopped for it since it last began to wait. Held jobs are left out.
    """
    rows: Any = await tx.execute(_WAITING_IDS)
    return [(job_id, attempt, not_before, bool(promised)) for job_id, attempt, not_before, promised in rows]


async def waiting_jobs(tx: Tx, project_ids: Sequence[str] | None = None) -> list[Job]:
    """Return the jobs that wait for a place, in the order in which they are considered; held ones are left out."""
    query = select(jobs).where(*_CONSIDERED)
    if project_ids is not None:
        query = query.where(jobs.c.project_id.in_(project_ids))
    order = (jobs.c.weight_milli.desc(), jobs.c.created_at, jobs.c.id)
    return [_job(row) for row in await tx.execute(query.order_by(*order))]


async def position_of(tx: Tx, job: Job) -> int:
    """Return where a waiting job stands, 1 is the first."""
    c = jobs.c
    alike = c.weight_milli == job.live_weight_milli
    ahead = or_(
        c.weight_milli > job.live_weight_milli,
        alike & (c.created_at < job.created_at),
        alike & (c.created_at == job.created_at) & (c.id < job.id),
    )
    query = select(func.count()).where(*_CONSIDERED, ahead)
    return int((await tx.execute(query)).scalar_one()) + 1


async def update_jobs(tx: Tx, changed: Sequence[Job]) -> None:
    """Write back what can change of these jobs, each locked before."""
    if changed:
        await tx.execute(_UPDATE_JOB, [{"of_id": job.id} | _changing(job) for job in changed])


async def update_waiting(tx: Tx, told: Mapping[str, Waiting]) -> None:
    """Note why jobs wait; those that no longer do are passed over."""
    if told:
        rows = [
            {"of_id": job_id, "reason_": one.reason, "sentence_": one.detail, "waiting_": one.to_json()}
            for job_id, one in sorted(told.items())
        ]
        await tx.execute(_UPDATE_WAITING, rows)


async def secrets_of(tx: Tx, job_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the secrets of jobs that have some."""
    found: dict[str, dict[str, str]] = {}
    for chunk in _chunks(sorted(set(job_ids))):
        for row in await tx.execute(select(job_secrets).where(job_secrets.c.job_id.in_(chunk))):
            found[row.job_id] = row.secrets
    return found


async def drop_secrets(tx: Tx, job_ids: Sequence[str]) -> None:
    """Remove the secrets of jobs that have ended."""
    for chunk in _chunks(job_ids):
        await tx.execute(delete(job_secrets).where(job_secrets.c.job_id.in_(chunk)))


# -- attempts ------------------------------------------------------------------------------------------------------


async def insert_attempts(tx: Tx, made: Sequence[Attempt]) -> None:
    """Write new attempts."""
    await tx.execute(insert(attempts), [_attempt_row(attempt) for attempt in made])


async def live_attempts(tx: Tx, cluster: str | None = None) -> list[Attempt]:
    """Return the attempts that have not ended, of one cluster or of all, in order."""
    if cluster is None:
        return [_attempt(row) for row in await tx.execute(_LIVE_ATTEMPTS)]
    return [_attempt(row) for row in await tx.execute(_LIVE_ATTEMPTS_OF, {"cluster": cluster})]


async def live_marks(tx: Tx, cluster: str) -> list[tuple[str, int, str, int | None, str]]:
    """Return (job, number, state, start in microseconds, why it is to stop) of a cluster's attempts that live.

    In order; what a look at them goes by. Rows are only read whole (`read_attempts`) where one of these has changed:
    with their places they cost ten times as much.
    """
    rows: Any = await tx.execute(_LIVE_MARKS, {"cluster": cluster})
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


async def read_attempts(tx: Tx, keys: Iterable[AttemptKey]) -> dict[AttemptKey, Attempt]:
    """Return these attempts; unknown ones are left out."""
    wanted = set(keys)
    found: dict[AttemptKey, Attempt] = {}
    for chunk in _chunks(sorted({key.job_id for key in wanted})):
        for row in await tx.execute(_ATTEMPTS, {"ids": chunk}):
            if (key := AttemptKey(row.job_id, row.number)) in wanted:
                found[key] = _attempt(row)
    return found


async def clusters_of_live(tx: Tx) -> list[str]:
    """Return the clusters that have attempts which have not ended, in order."""
    return [row.cluster for row in await tx.execute(_CLUSTERS_OF_LIVE)]


async def cancelled_among(tx: Tx, job_ids: Iterable[str]) -> dict[str, str]:
    """Return the reason for each of these jobs that someone asked to stop."""
    found: dict[str, str] = {}
    for chunk in _chunks(sorted(set(job_ids))):
        found.update({row.id: row.cancel_reason for row in await tx.execute(_CANCELLED, {"ids": chunk})})
    return found


async def lock_attempts(tx: Tx, keys: Iterable[AttemptKey]) -> dict[AttemptKey, Attempt]:
    """Return these attempts as they are now, theirs for this transaction; lock their jobs first."""
    wanted = set(keys)
    found: dict[AttemptKey, Attempt] = {}
    for chunk in _chunks(sorted({key.job_id for key in wanted})):
        for row in await tx.execute(_LOCK_ATTEMPTS, {"ids": chunk}):
            if AttemptKey(row.job_id, row.number) in wanted:
                found[AttemptKey(row.job_id, row.number)] = _attempt(row)
    return found


async def attempts_of(tx: Tx, job_ids: Iterable[str]) -> dict[str, list[Attempt]]:
    """Return the attempts of these jobs in order of number; jobs without any are left out."""
    found: dict[str, list[Attempt]] = {}
    for chunk in _chunks(sorted(set(job_ids))):
        for row in await tx.execute(_ATTEMPTS, {"ids": chunk}):
            found.setdefault(row.job_id, []).append(_attempt(row))
    return found


async def update_attempts(tx: Tx, changed: Sequence[Attempt]) -> None:
    """Write back what can change of these attempts, each locked before."""
    if changed:
        rows = [{"of_job": one.job_id, "of_number": one.number} | _moving(one) for one in changed]
        await tx.execute(_UPDATE_ATTEMPT, rows)


async def unread_attempts(tx: Tx, cluster: str, limit: int) -> list[Attempt]:
    """Return attempts of a cluster whose figures have not been read to the end, the oldest first."""
    return [_attempt(row) for row in await tx.execute(_UNREAD, {"cluster": cluster, "most": limit})]


async def mark_read(tx: Tx, keys: Sequence[AttemptKey]) -> None:
    """Note that everything these attempts reported has been read."""
    if keys:
        await tx.execute(_MARK_READ, [{"of_job": key.job_id, "of_number": key.number} for key in keys])


async def states_of_attempts(tx: Tx, keys: Iterable[AttemptKey]) -> dict[AttemptKey, JobState]:
    """Return the states of these attempts; unknown ones are left out."""
    wanted = set(keys)
    found: dict[AttemptKey, JobState] = {}
    for chunk in _chunks(sorted({key.job_id for key in wanted})):
        for row in await tx.execute(_STATES, {"ids": chunk}):
            key = AttemptKey(row.job_id, row.number)
            if key in wanted:
                found[key] = JobState(row.state)
    return found


async def facts_of_all(tx: Tx) -> list[Any]:
    """Return (id, state, attempt, waits, finished) of every job, in order, for checks of all of them."""
    c = jobs.c
    return list(await tx.execute(select(c.id, c.state, c.attempt, c.waits, c.finished_at).order_by(c.id)))


async def states_of_all_attempts(tx: Tx) -> dict[str, list[tuple[int, str]]]:
    """Return (number, state) of every attempt by job, in order, for checks of all of them."""
    c = attempts.c
    found: dict[str, list[tuple[int, str]]] = {}
    for row in await tx.execute(select(c.job_id, c.number, c.state).order_by(c.job_id, c.number)):
        found.setdefault(row.job_id, []).append((row.number, row.state))
    return found


# -- rows ----------------------------------------------------------------------------------------------------------

_CHANGING = (
    "state", "reason", "sentence", "queued_at", "started_at", "finished_at", "exit_code", "signal", "attempt",
    "retries", "waits", "held", "not_before", "cancel_at", "cancel_reason", "resume_from", "avoid", "waiting", "ran_s",
    "expected_s", "expected_by",
    "weight_milli", "ranks_most", "use", "exempt_until", "exempt_reason",
)  # fmt: skip
_MOVING = (
    "state", "reason", "started_at", "finished_at", "exit_code", "signal", "host", "ports", "output_dir", "workdir",
    "limits_by", "facts", "diagnosis", "stop_reason", "stop_sentence", "stop_for", "stop_asked_at",
    "stop_lost_device_s", "figures_complete",
)  # fmt: skip


def _set(table: Table, names: Iterable[str]) -> dict[str, Any]:
    return {name: bindparam(f"{name}_", type_=table.c[name].type) for name in names}


_UPDATE_JOB = update(jobs).where(jobs.c.id == bindparam("of_id")).values(_set(jobs, _CHANGING))
_UPDATE_WAITING = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_id"), jobs.c.waits.is_(true()))
    .values(_set(jobs, ("reason", "sentence", "waiting")))
)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_JOBS = select(jobs).where(jobs.c.id.in_(_IDS)).order_by(jobs.c.id)
_LOCK_JOBS = _JOBS.with_for_update()
_STOPPED_FOR = exists().where(
    attempts.c.stop_for != "", attempts.c.stop_for == jobs.c.id, attempts.c.stop_asked_at >= jobs.c.queued_at
)
_WAITING_IDS = select(jobs.c.id, jobs.c.attempt, jobs.c.not_before, _STOPPED_FOR.label("promised")).where(*_CONSIDERED)
_NAMING = select(jobs.c.id, jobs.c.spec).where(
    jobs.c.state.in_(_LIVE), jobs.c.waits.is_(false()), jobs.c.spec.contains('"queue":"', autoescape=True)
)
_CANCELLED = select(jobs.c.id, jobs.c.cancel_reason).where(jobs.c.id.in_(_IDS), jobs.c.cancel_at.is_not(None))
_IN_ORDER = select(attempts).order_by(attempts.c.job_id, attempts.c.number)
_LIVE_ATTEMPTS = _IN_ORDER.where(attempts.c.state.in_(_LIVE))
_LIVE_ATTEMPTS_OF = _LIVE_ATTEMPTS.where(attempts.c.cluster == bindparam("cluster"))
_LIVE_MARKS = (
    select(
        attempts.c.job_id, attempts.c.number, attempts.c.state, type_coerce(attempts.c.started_at, BigInteger),
        attempts.c.stop_reason,
    )
    .where(attempts.c.state.in_(_LIVE), attempts.c.cluster == bindparam("cluster"))
    .order_by(attempts.c.job_id, attempts.c.number)
)  # fmt: skip
_CLUSTERS_OF_LIVE = (
    select(attempts.c.cluster).where(attempts.c.state.in_(_LIVE)).distinct().order_by(attempts.c.cluster)
)
_ATTEMPTS = _IN_ORDER.where(attempts.c.job_id.in_(_IDS))
_LOCK_ATTEMPTS = _ATTEMPTS.with_for_update()
_STATES = select(attempts.c.job_id, attempts.c.number, attempts.c.state).where(attempts.c.job_id.in_(_IDS))
_UNREAD = _IN_ORDER.where(
    attempts.c.cluster == bindparam("cluster"), attempts.c.figures_complete.is_(False),
    attempts.c.started_at.is_not(None),
).limit(bindparam("most"))  # fmt: skip
_THIS = (attempts.c.job_id == bindparam("of_job"), attempts.c.number == bindparam("of_number"))
_UPDATE_ATTEMPT = update(attempts).where(*_THIS).values(_set(attempts, _MOVING))
_MARK_READ = update(attempts).where(*_THIS).values(figures_complete=True)


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    c = jobs.c
    conditions: list[ColumnElement[bool]] = []
    for column, among in ((c.project_id, wanted.project_ids), (c.state, wanted.states), (c.id, wanted.ids)):
        if among is not None:
            conditions.append(column.in_(among))
    for column, one in ((c.name, wanted.name), (c.array_id, wanted.array_id), (c.array_index, wanted.array_index)):
        if one is not None:
            conditions.append(column == one)
    if not wanted.in_arrays:
        conditions.append(c.array_id.is_(None))
    if wanted.live is not None:
        conditions.append(c.state.in_(_LIVE) if wanted.live else c.state.not_in(_LIVE))
    if wanted.cluster is not None:
        conditions.append(_newest_on(wanted.cluster, live=bool(wanted.live)))
    return conditions


def _newest_on(cluster: str, *, live: bool) -> ColumnElement[bool]:
    of_job = attempts.alias()
    newest = select(func.max(of_job.c.number)).where(of_job.c.job_id == attempts.c.job_id).scalar_subquery()
    there = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.cluster == cluster, attempts.c.number == newest)
    return there.where(attempts.c.state.in_(_LIVE)) if live else there


def _changing(job: Job) -> dict[str, Any]:
    values = {f"{name}_": getattr(job, name) for name in _CHANGING}
    return values | {
        "state_": str(job.state), "avoid_": [list(place) for place in job.avoid],
        "held_": None if job.held is None else str(job.held),
        "waiting_": job.waiting.to_json() if job.waiting else None, "use_": job.use.to_json() if job.use else None,
        "weight_milli_": job.live_weight_milli,
    }  # fmt: skip


def _job_row(job: Job) -> dict[str, Any]:
    row = {name.removesuffix("_"): value for name, value in _changing(job).items()}
    return row | {
        "id": job.id, "project_id": job.project_id, "name": job.name, "kind": str(job.spec.kind),
        "submitted_by": job.submitted_by,
        "created_at": job.created_at, "checkpoint_dir": job.checkpoint_dir, "labels": dict(job.labels),
        "array_id": job.array_id, "array_index": job.array_index,
    }  # fmt: skip


@lru_cache(4096)
def spec_of(document: str) -> JobSpec:
    """Return the specification of a stored document; reading one costs more than a query."""
    return read(orjson.loads(document))


_TEXTS = ("setup", "env", "secrets", "params", "labels", "workdir")
"""What no place and no right of a job hangs on."""


def _spec_without_texts(document: str) -> JobSpec:
    fields = orjson.loads(document)
    bare = {name: value for name, value in fields.items() if name not in _TEXTS} | {"name": "job", "run": "true"}
    try:
        return spec_of(orjson.dumps(bare).decode())
    except Invalid:  # something in it refers to what was left out
        return spec_of(document)


def _job(row: Any, read_already: JobSpec | None = None) -> Job:
    spec = read_already or spec_of(row.spec)
    return Job(
        id=row.id, project_id=row.project_id, name=row.name, spec=spec,
        state=JobState(row.state), reason=row.reason, sentence=row.sentence, submitted_by=row.submitted_by,
        created_at=row.created_at, queued_at=row.queued_at, started_at=row.started_at, finished_at=row.finished_at,
        exit_code=row.exit_code, signal=row.signal, attempt=row.attempt, retries=row.retries, waits=row.waits,
        not_before=row.not_before, cancel_at=row.cancel_at, cancel_reason=row.cancel_reason,
        checkpoint_dir=row.checkpoint_dir, resume_from=row.resume_from,
        avoid=tuple((cluster, node) for cluster, node in row.avoid), labels=row.labels,
        held=Held(row.held) if row.held else None, array_id=row.array_id, array_index=row.array_index,
        waiting=Waiting.from_json(row.waiting) if row.waiting else None, ran_s=row.ran_s,
        expected_s=row.expected_s, expected_by=row.expected_by,
        weight_milli=None if row.weight_milli == spec.weight_milli else row.weight_milli, ranks_most=row.ranks_most,
        use=Use.from_json(row.use) if row.use else None, exempt_until=row.exempt_until, exempt_reason=row.exempt_reason,
    )  # fmt: skip


def _moving(attempt: Attempt) -> dict[str, Any]:
    values = {f"{name}_": getattr(attempt, name) for name in _MOVING}
    return values | {
        "state_": str(attempt.state), "ports_": list(attempt.ports), "facts_": dict(attempt.facts),
        "diagnosis_": attempt.diagnosis.to_json() if attempt.diagnosis else None,
    }  # fmt: skip


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    row = {name.removesuffix("_"): value for name, value in _moving(attempt).items()}
    return row | {
        "job_id": attempt.job_id, "number": attempt.number, "project_id": attempt.project_id,
        "cluster": attempt.cluster, "ranks": [asdict(rank) for rank in attempt.ranks],
        "created_at": attempt.created_at, "resume_from": attempt.resume_from, "saved_at": attempt.saved_at,
        "expected_s": attempt.expected_s,
    }  # fmt: skip


def _attempt(row: Any) -> Attempt:
    return Attempt(
        job_id=row.job_id, number=row.number, project_id=row.project_id, state=JobState(row.state), reason=row.reason,
        cluster=row.cluster, ranks=tuple(_rank(rank) for rank in row.ranks), created_at=row.created_at,
        started_at=row.started_at, finished_at=row.finished_at, exit_code=row.exit_code, signal=row.signal,
        host=row.host, ports=tuple(row.ports), output_dir=row.output_dir, workdir=row.workdir,
        limits_by=row.limits_by, facts=row.facts,
        diagnosis=Diagnosis.from_json(row.diagnosis) if row.diagnosis else None, resume_from=row.resume_from,
        stop_reason=row.stop_reason, stop_sentence=row.stop_sentence, stop_for=row.stop_for,
        stop_asked_at=row.stop_asked_at, stop_lost_device_s=row.stop_lost_device_s,
        saved_at=row.saved_at, expected_s=row.expected_s, figures_complete=row.figures_complete,
    )  # fmt: skip


def _rank(row: Mapping[str, Any]) -> RankPlacement:
    return RankPlacement(**{**row, "devices": tuple(DeviceShare(**share) for share in row["devices"])})


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
