"""The tables of arrays and of dependencies between jobs, and their statements.

A row of `job_dependencies` is open until what it waits for has ended. What reads or closes rows of an array or changes
its tasks' turns holds the array's own row (`lock_arrays`), so that two ends at the same time see one another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    BindParameter,
    Boolean,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    exists,
    func,
    insert,
    select,
    text,
    true,
    update,
)

from dujiang.jobs import store
from dujiang.jobs.domain import TERMINAL, Array, Edge, Held, Job, JobState, Standing, Tally, standing_of
from dujiang.jobs.spec import When
from dujiang.jobs.store import JobFilter, jobs, spec_of
from dujiang.kit.db import Tx
from dujiang.kit.tables import UtcMicros, metadata

_CHUNK = 5000
_LIVE = sorted(frozenset(JobState) - TERMINAL)
_BAD = sorted(TERMINAL - {JobState.COMPLETED})

job_arrays = Table(
    "job_arrays",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project_id", String(40), nullable=False),
    Column("name", String(128), nullable=False),
    Column("spec", Text, nullable=False),
    Column("submitted_by", String(64), nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("size", Integer, nullable=False),
    Column("at_once", Integer, nullable=True),
    Index("ix_job_arrays_project", "project_id", "id"),
    Index("ix_job_arrays_name", "name", "id"),
)
job_dependencies = Table(
    "job_dependencies",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("on_id", String(40), primary_key=True),
    Column("condition", String(8), nullable=False),
    Column("is_open", Boolean, nullable=False),
)
_OPEN = job_dependencies.c.is_open.is_(true())
Index("ix_job_dependencies_on", job_dependencies.c.on_id, sqlite_where=_OPEN, postgresql_where=text("is_open"))


# -- dependencies --------------------------------------------------------------------------------------------------


async def insert_edges(tx: Tx, edges: Sequence[Edge]) -> None:
    """Write what new jobs wait for."""
    if edges:
        rows = [
            {"job_id": one.job_id, "on_id": one.on_id, "condition": str(one.when), "is_open": True} for one in edges
        ]
        await tx.execute(insert(job_dependencies), rows)


async def close_edges(tx: Tx, on_ids: Iterable[str]) -> list[Edge]:
    """Close what is open on these jobs and arrays, which have ended; return it, by job and what it waited for."""
    edges: list[Edge] = []
    for chunk in _chunks(sorted(set(on_ids))):
        rows = (await tx.execute(_WAITERS, {"ids": chunk})).all()
        if rows:
            await tx.execute(_CLOSE, {"of_ids": chunk})
            edges += [Edge(row.job_id, row.on_id, When(row.condition)) for row in rows]
    return sorted(edges, key=lambda edge: (edge.job_id, edge.on_id))


async def drop_edges(tx: Tx, job_ids: Iterable[str]) -> None:
    """Close what these jobs wait for: they have ended."""
    for chunk in _chunks(sorted(set(job_ids))):
        await tx.execute(_DROP, {"of_ids": chunk})


async def open_edges(tx: Tx, job_ids: Iterable[str]) -> dict[str, tuple[Edge, int]]:
    """Return the first open dependency of each job and how many there are besides; jobs without any are left out."""
    found: dict[str, tuple[Edge, int]] = {}
    for chunk in _chunks(sorted(set(job_ids))):
        for row in await tx.execute(_FIRST_OPEN, {"ids": chunk}):
            found[row.job_id] = Edge(row.job_id, row.on_id, When(row.condition)), row.many - 1
    return found


async def named(tx: Tx, project_id: str, name: str, *, limit: int) -> list[str]:
    """Return the newest jobs and arrays of a name in a project; tasks go by their array."""
    found: list[str] = []
    for table, alone in ((jobs, (jobs.c.array_id.is_(None),)), (job_arrays, ())):
        of_name = (table.c.project_id == project_id, table.c.name == name, *alone)
        query = select(table.c.id).where(*of_name).order_by(table.c.id.desc()).limit(limit)
        found += [row.id for row in await tx.execute(query)]
    return sorted(found, key=lambda ident: ident.partition("_")[2], reverse=True)[:limit]


async def hold(tx: Tx, ids: Collection[str], project_ids: Collection[str] | None) -> dict[str, Standing]:
    """Return where these jobs and arrays of those projects stand; they stay so until the end of the transaction.

    Args:
        tx: the transaction.
        ids: of jobs and arrays; unknown ones are left out.
        project_ids: None is every project.
    """
    arrays = await read_arrays(tx, [one for one in ids if is_array(one)], lock=True)
    found = await lock_jobs(tx, [one for one in ids if not is_array(one)])
    standing = {one.id: standing_of(one) for one in found.values() if _within(one.project_id, project_ids)}
    for array in arrays.values():
        if _within(array.project_id, project_ids):
            standing[array.id] = await standing_of_array(tx, array)
    return standing


def _within(project_id: str, project_ids: Collection[str] | None) -> bool:
    return project_ids is None or project_id in project_ids


async def standings(tx: Tx, ids: Collection[str]) -> dict[str, Standing]:
    """Return where jobs and arrays stand that others wait for; unknown ones are left out."""
    found = {
        job.id: standing_of(job)
        for job in (await store.read_jobs(tx, [one for one in ids if not is_array(one)])).values()
    }
    for array in (await read_arrays(tx, [one for one in ids if is_array(one)])).values():
        found[array.id] = await standing_of_array(tx, array)
    return found


# -- arrays --------------------------------------------------------------------------------------------------------


def is_array(ident: str) -> bool:
    """Say whether an identifier is that of an array."""
    return ident.startswith("arr_")


async def insert_arrays(tx: Tx, made: Sequence[Array]) -> None:
    """Write new arrays; their tasks are jobs."""
    if made:
        await tx.execute(insert(job_arrays), [_array_row(array) for array in made])


async def read_arrays(tx: Tx, ids: Iterable[str], *, lock: bool = False) -> dict[str, Array]:
    """Return these arrays; unknown ones are left out."""
    found: dict[str, Array] = {}
    for chunk in _chunks(sorted(set(ids))):
        for row in await tx.execute(_LOCK_ARRAYS if lock else _ARRAYS, {"ids": chunk}):
            found[row.id] = _array(row)
    return found


async def lock_jobs(tx: Tx, job_ids: Iterable[str]) -> dict[str, Job]:
    """Return these jobs as they are now, theirs for this transaction with their arrays, which come first.

    For whoever may end them; see `jobs.following`. Where one writes at a time, an array need not be held.
    """
    ids = sorted(set(job_ids))
    if tx.connection.dialect.name != "sqlite":
        for chunk in _chunks(ids):
            await tx.execute(_LOCK_ARRAYS_OF, {"ids": chunk})
    return await store.lock_jobs(tx, ids)


async def find_arrays(tx: Tx, wanted: JobFilter, *, before: str | None, limit: int) -> list[Array]:
    """Return arrays with a task as wanted, the newest first, from behind an identifier on."""
    c = job_arrays.c
    query = select(job_arrays).order_by(c.id.desc()).limit(limit)
    if wanted.project_ids is not None:
        query = query.where(c.project_id.in_(wanted.project_ids))
    if wanted.name is not None:
        query = query.where(c.name == wanted.name)
    if wanted.states is not None:
        query = query.where(_has_task(list(wanted.states)))
    if wanted.live is not None:
        live = _has_task(_LIVE)
        query = query.where(live if wanted.live else ~live)
    if before is not None:
        query = query.where(c.id < before)
    return [_array(row) for row in await tx.execute(query)]


async def tallies(tx: Tx, ids: Sequence[str]) -> dict[str, Tally]:
    """Return where the tasks of arrays stand."""
    rows: dict[str, list[Any]] = {ident: [] for ident in ids}
    for chunk in _chunks(ids):
        for row in await tx.execute(_TALLIES, {"ids": chunk}):
            rows[row.array_id].append(row)
    return {ident: _tally(found) for ident, found in rows.items()}


async def standing_of_array(tx: Tx, array: Array) -> Standing:
    """Return where an array stands that others wait for: it has ended with its last task, and is ok when all are."""
    if (await tx.execute(_ANY_TASK, {"of_id": array.id, "states": _LIVE})).first() is not None:
        return Standing(array.id, array.name, False, str(JobState.RUNNING))
    bad = (await tx.execute(_ANY_TASK, {"of_id": array.id, "states": _BAD})).first()
    return Standing(array.id, array.name, True, str(JobState.COMPLETED if bad is None else bad.state))


async def all_open(tx: Tx) -> list[Edge]:
    """Return every open dependency, by job, for checks of all of them."""
    query = select(_D.job_id, _D.on_id, _D.condition).where(_OPEN).order_by(_D.job_id, _D.on_id)
    return [Edge(row.job_id, row.on_id, When(row.condition)) for row in await tx.execute(query)]


async def all_held(tx: Tx) -> list[tuple[str, Held, str | None]]:
    """Return (job, why, its array) of every job that is held, in order, for checks of all of them."""
    query = select(jobs.c.id, jobs.c.held, jobs.c.array_id).where(jobs.c.held.is_not(None)).order_by(jobs.c.id)
    return [(row.id, Held(row.held), row.array_id) for row in await tx.execute(query)]


async def live_among(tx: Tx, ids: Collection[str]) -> list[str]:
    """Return which of these jobs and arrays have not ended, in order."""
    alone = [one for one in ids if not is_array(one)]
    found = [job.id for job in (await store.read_jobs(tx, alone)).values() if not job.has_ended]
    arrays = sorted(set(ids) - set(alone))
    found += [one for one in arrays if (await tx.execute(_ANY_TASK, {"of_id": one, "states": _LIVE})).first()]
    return sorted(found)


async def live_tasks(tx: Tx, array_id: str) -> list[tuple[int, str]]:
    """Return (index, job) of the tasks that have not ended, by index."""
    return [(row.array_index, row.id) for row in await tx.execute(_LIVE_TASKS, {"of_id": array_id})]


async def at_work(tx: Tx, array_id: str) -> int:
    """Return how many tasks run, or wait for nothing but a place."""
    return int((await tx.execute(_AT_WORK, {"of_id": array_id})).scalar_one())


async def next_tasks(tx: Tx, array_id: str, most: int) -> list[str]:
    """Return the tasks whose turn is next."""
    return [row.id for row in await tx.execute(_NEXT, {"of_id": array_id, "most": most})]


# -- statements ----------------------------------------------------------------------------------------------------

_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_OF_IDS: BindParameter[Any] = bindparam("of_ids", expanding=True)
_OF_ID: BindParameter[Any] = bindparam("of_id")
_D = job_dependencies.c
_WAITERS = select(_D.job_id, _D.on_id, _D.condition).where(_D.on_id.in_(_IDS), _OPEN)
_CLOSE = update(job_dependencies).where(_D.on_id.in_(_OF_IDS), _OPEN).values(is_open=False)
_DROP = update(job_dependencies).where(_D.job_id.in_(_OF_IDS), _OPEN).values(is_open=False)
_FIRST = (
    select(_D.job_id, func.min(_D.on_id).label("on_id"), func.count().label("many"))
    .where(_D.job_id.in_(_IDS), _OPEN)
    .group_by(_D.job_id)
    .subquery()
)
_FIRST_OPEN = select(_FIRST.c.job_id, _FIRST.c.on_id, _FIRST.c.many, _D.condition).join_from(
    _FIRST, job_dependencies, (_D.job_id == _FIRST.c.job_id) & (_D.on_id == _FIRST.c.on_id)
)
_ARRAYS = select(job_arrays).where(job_arrays.c.id.in_(_IDS)).order_by(job_arrays.c.id)
_LOCK_ARRAYS = _ARRAYS.with_for_update()
_LOCK_ARRAYS_OF = (
    select(job_arrays.c.id)
    .where(job_arrays.c.id.in_(select(jobs.c.array_id).where(jobs.c.id.in_(_IDS), jobs.c.array_id.is_not(None))))
    .order_by(job_arrays.c.id)
    .with_for_update()
)
_OF_ARRAY = jobs.c.array_id == _OF_ID
_ANY_TASK = select(jobs.c.state).where(_OF_ARRAY, jobs.c.state.in_(bindparam("states", expanding=True))).limit(1)
_LIVE_TASKS = (
    select(jobs.c.array_index, jobs.c.id).where(_OF_ARRAY, jobs.c.state.in_(_LIVE)).order_by(jobs.c.array_index)
)
_AT_WORK = select(func.count()).where(_OF_ARRAY, jobs.c.state.in_(_LIVE), jobs.c.held.is_(None))
_NEXT = (
    select(jobs.c.id)
    .where(_OF_ARRAY, jobs.c.state == str(JobState.PENDING), jobs.c.held == str(Held.ARRAY_LIMIT))
    .order_by(jobs.c.array_index)
    .limit(bindparam("most"))
)
_TALLIES = (
    select(
        jobs.c.array_id, jobs.c.state, jobs.c.waits, jobs.c.reason, func.count().label("many"),
        func.min(jobs.c.started_at).label("started_at"), func.max(jobs.c.finished_at).label("finished_at"),
    )
    .where(jobs.c.array_id.in_(_IDS))
    .group_by(jobs.c.array_id, jobs.c.state, jobs.c.waits, jobs.c.reason)
)  # fmt: skip


def _has_task(states: Sequence[JobState]) -> Any:
    return exists().where(jobs.c.array_id == job_arrays.c.id, jobs.c.state.in_([str(state) for state in states]))


def _tally(rows: Sequence[Any]) -> Tally:
    states: dict[JobState, int] = {}
    reasons: dict[str, int] = {}
    for row in rows:
        state = JobState(row.state)
        states[state] = states.get(state, 0) + row.many
        if row.waits:
            reasons[row.reason] = reasons.get(row.reason, 0) + row.many
    ended = all(state in TERMINAL for state in states)
    return Tally(
        dict(sorted(states.items())), dict(sorted(reasons.items())),
        min((row.started_at for row in rows if row.started_at is not None), default=None),
        max((row.finished_at for row in rows if row.finished_at is not None), default=None) if ended else None,
    )  # fmt: skip


def _array_row(array: Array) -> dict[str, Any]:
    return {
        "id": array.id, "project_id": array.project_id, "name": array.name,
        "spec": orjson.dumps(array.spec.document()).decode(), "submitted_by": array.submitted_by,
        "created_at": array.created_at, "size": array.size, "at_once": array.at_once,
    }  # fmt: skip


def _array(row: Any) -> Array:
    return Array(
        id=row.id, project_id=row.project_id, name=row.name, spec=spec_of(row.spec), submitted_by=row.submitted_by,
        created_at=row.created_at, size=row.size, at_once=row.at_once,
    )  # fmt: skip


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
