"""The tables of job metrics and their statements: points, a summary of each series, and where each source was read to.

A point's key is job, attempt, name and step: reading a line again writes the same row again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros, metadata
from dujiang.telemetry.domain import LONGEST_NAME, value_of

points = Table(
    "metric_points",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("name", String(LONGEST_NAME), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Float(53), nullable=True),
    Column("special", String(4), nullable=True),
    Column("at", UtcMicros, nullable=False),
)
series = Table(
    "metric_series",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("name", String(LONGEST_NAME), primary_key=True),
    Column("points", Integer, nullable=False),
    Column("specials", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("last_value", Float(53), nullable=True),
    Column("last_special", String(4), nullable=True),
    Column("last_at", UtcMicros, nullable=False),
)
cursors = Table(
    "metric_cursors",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("source", String(512), primary_key=True),
    Column("state", Json, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A point as it is stored."""

    attempt: int
    step: int
    value: float
    """May be NaN or infinite."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Series:
    """What is known of one metric in one attempt without reading its points."""

    name: str
    attempt: int
    points: int
    """At most so many are stored; exact once the series was thinned."""
    specials: int
    """How many NaN and infinite values were recorded."""
    first_step: int
    last_step: int
    last_value: float
    last_at: datetime


async def upsert(tx: Tx, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by primary key; what is there is replaced."""
    if not rows:
        return
    dialect: Any = sqlite if tx.connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(table)
    rest = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    statement = insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest)
    await tx.execute(statement, [dict(row) for row in rows])


async def all_series(tx: Tx, job_id: str, attempt: int | None = None) -> list[Series]:
    """Return the summaries of a job, by name and attempt."""
    query = select(series).where(series.c.job_id == job_id).order_by(series.c.name, series.c.attempt)
    if attempt is not None:
        query = query.where(series.c.attempt == attempt)
    return [
        Series(
            row.name, row.attempt, row.points, row.specials, row.first_step, row.last_step,
            value_of(row.last_value, row.last_special), row.last_at,
        )
        for row in await tx.execute(query)
    ]  # fmt: skip


async def read_points(tx: Tx, job_id: str, name: str, attempt: int, *, before: int | None = None) -> list[Stored]:
    """Return one attempt's points of a metric by step, all or those before a step."""
    query = select(points).where(points.c.job_id == job_id, points.c.attempt == attempt, points.c.name == name)
    if before is not None:
        query = query.where(points.c.step < before)
    return [
        Stored(row.attempt, row.step, value_of(row.value, row.special), row.at)
        for row in await tx.execute(query.order_by(points.c.step))
    ]


async def steps_of(tx: Tx, job_id: str, attempt: int, name: str) -> list[int]:
    """Return the stored steps of a series, ascending."""
    where = (points.c.job_id == job_id, points.c.attempt == attempt, points.c.name == name)
    return list((await tx.execute(select(points.c.step).where(*where).order_by(points.c.step))).scalars())


async def count_of(tx: Tx, job_id: str, attempt: int, name: str) -> int:
    """Return how many points a series has."""
    where = (points.c.job_id == job_id, points.c.attempt == attempt, points.c.name == name)
    return int((await tx.execute(select(func.count()).where(*where))).scalar_one())


async def drop_steps(tx: Tx, job_id: str, attempt: int, name: str, steps: Sequence[int]) -> None:
    """Remove points of a series."""
    if steps:
        where = (points.c.job_id == job_id, points.c.attempt == attempt, points.c.name == name)
        statement = delete(points).where(*where, points.c.step == bindparam("gone"))
        await tx.execute(statement, [{"gone": step} for step in steps])


async def cursor_of(tx: Tx, job_id: str, attempt: int, source: str) -> dict[str, Any] | None:
    """Return the stored state of a source's reader."""
    query = select(cursors.c.state).where(
        cursors.c.job_id == job_id, cursors.c.attempt == attempt, cursors.c.source == source
    )
    state: dict[str, Any] | None = (await tx.execute(query)).scalar()
    return state


async def cursors_of(tx: Tx, job_id: str, attempt: int) -> dict[str, dict[str, Any]]:
    """Return the states of every source of an attempt."""
    query = select(cursors.c.source, cursors.c.state).where(cursors.c.job_id == job_id, cursors.c.attempt == attempt)
    return {row.source: row.state for row in await tx.execute(query)}
