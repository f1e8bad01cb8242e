"""The tables of schedules and their runs, and their statements: rows in, values out.

A run's key is the schedule and the time at which it was due: whoever writes it first submits the work, in the same
transaction, so that a time is seen to once by any number of processes, whenever one of them is killed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Boolean, Column, Float, Index, String, Table, Text, UniqueConstraint, delete, or_, select
from sqlalchemy import update as update_of
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.jobs.domain.schedules import Outcome, Overlap, Run, Schedule
from dujiang.jobs.store import spec_of
from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros, metadata

schedules = Table(
    "schedules",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("project_id", String(40), nullable=False),
    Column("name", String(63), nullable=False),
    Column("cron", String(100), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("secrets", Json, nullable=False),
    Column("overlap", String(8), nullable=False),
    Column("catch_up_s", Float(53), nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("looked_at", UtcMicros, nullable=False),
    Column("next_at", UtcMicros, nullable=True),
    Column("paused_at", UtcMicros, nullable=True),
    UniqueConstraint("project_id", "name"),
    Index("ix_schedules_next", "next_at"),
)
schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("schedule_id", String(40), primary_key=True),
    Column("due_at", UtcMicros, primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("work_id", String(40), nullable=False),
    Column("by_hand", Boolean, nullable=False),
    Column("sentence", Text, nullable=False),
)
_S, _R = schedules.c, schedule_runs.c
_SHOWN = tuple(column for column in schedules.c if column.name != "secrets")


async def add(tx: Tx, made: Schedule, secrets: Mapping[str, str]) -> bool:
    """Write a new schedule; say whether its name was free in its project."""
    row = {
        "id": made.id, "project_id": made.project_id, "name": made.name, "cron": made.cron, "time_zone": made.time_zone,
        "spec": orjson.dumps(made.spec.document()).decode(), "secrets": dict(secrets), "overlap": str(made.overlap),
        "catch_up_s": made.catch_up_s, "created_by": made.created_by, "created_at": made.created_at,
        "looked_at": made.looked_at, "next_at": made.next_at, "paused_at": made.paused_at,
    }  # fmt: skip
    return (await tx.execute(_dialect(tx).insert(schedules).values(**row).on_conflict_do_nothing())).rowcount == 1


async def lock(tx: Tx, schedule_id: str) -> Schedule | None:
    """Return a schedule as it is now, theirs for this transaction."""
    row = (await tx.execute(select(*_SHOWN).where(_S.id == schedule_id).with_for_update())).first()
    return None if row is None else _schedule(row)


async def secrets_of(tx: Tx, schedule_id: str) -> dict[str, str]:
    """Return the secrets of a schedule."""
    found: dict[str, str] = (await tx.execute(select(_S.secrets).where(_S.id == schedule_id))).scalar_one()
    return found


async def save(tx: Tx, changed: Schedule) -> None:
    """Write back what can change of a schedule, locked before."""
    moving = {"looked_at": changed.looked_at, "next_at": changed.next_at, "paused_at": changed.paused_at}
    await tx.execute(update_of(schedules).where(_S.id == changed.id).values(**moving))


async def drop(tx: Tx, schedule_id: str) -> None:
    """Remove a schedule and its runs."""
    await tx.execute(delete(schedule_runs).where(_R.schedule_id == schedule_id))
    await tx.execute(delete(schedules).where(_S.id == schedule_id))


async def find(
    tx: Tx, *, project_ids: Collection[str] | None, ref: str | None = None, before: str | None = None, limit: int
) -> list[Schedule]:
    """Return schedules, the newest first: of an id or a name when one is given, from behind an identifier on."""
    query = select(*_SHOWN).order_by(_S.id.desc()).limit(limit)
    if project_ids is not None:
        query = query.where(_S.project_id.in_(project_ids))
    if ref is not None:
        query = query.where(or_(_S.id == ref, _S.name == ref))
    if before is not None:
        query = query.where(_S.id < before)
    return [_schedule(row) for row in await tx.execute(query)]


async def due(tx: Tx, now: datetime, *, limit: int) -> list[str]:
    """Return the schedules to look at: due, or last looked at in what is the future now, the clock being set back."""
    is_due = or_(_S.next_at <= now, _S.looked_at > now)
    query = select(_S.id).where(_S.paused_at.is_(None), is_due).order_by(_S.next_at, _S.id).limit(limit)
    return [row.id for row in await tx.execute(query)]


async def add_run(tx: Tx, run: Run) -> bool:
    """Write a run; say whether that time had not been seen to before."""
    row = {
        "schedule_id": run.schedule_id, "due_at": run.due_at, "outcome": str(run.outcome), "work_id": run.work_id,
        "by_hand": run.by_hand, "sentence": run.sentence,
    }  # fmt: skip
    return (await tx.execute(_dialect(tx).insert(schedule_runs).values(**row).on_conflict_do_nothing())).rowcount == 1


async def set_work(tx: Tx, run: Run) -> None:
    """Note what a run submitted."""
    this = (_R.schedule_id == run.schedule_id, _R.due_at == run.due_at)
    await tx.execute(update_of(schedule_runs).where(*this).values(work_id=run.work_id))


async def runs(tx: Tx, schedule_id: str, *, limit: int) -> list[Run]:
    """Return the runs of a schedule, the latest first."""
    query = select(schedule_runs).where(_R.schedule_id == schedule_id).order_by(_R.due_at.desc()).limit(limit)
    return [
        Run(row.schedule_id, row.due_at, Outcome(row.outcome), row.work_id, row.by_hand, row.sentence)
        for row in await tx.execute(query)
    ]


async def prune_runs(tx: Tx, schedule_id: str, *, keep: int) -> None:
    """Remove all but the latest runs of a schedule."""
    query = select(_R.due_at).where(_R.schedule_id == schedule_id).order_by(_R.due_at.desc()).offset(keep).limit(1)
    oldest = (await tx.execute(query)).scalar()
    if oldest is not None:
        await tx.execute(delete(schedule_runs).where(_R.schedule_id == schedule_id, _R.due_at <= oldest))


def _schedule(row: Any) -> Schedule:
    return Schedule(
        id=row.id, project_id=row.project_id, name=row.name, cron=row.cron, time_zone=row.time_zone,
        spec=spec_of(row.spec), overlap=Overlap(row.overlap), catch_up_s=row.catch_up_s, created_by=row.created_by,
        created_at=row.created_at, looked_at=row.looked_at, next_at=row.next_at, paused_at=row.paused_at,
    )  # fmt: skip


def _dialect(tx: Tx) -> Any:
    return sqlite if tx.connection.dialect.name == "sqlite" else postgresql
