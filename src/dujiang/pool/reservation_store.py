"""The table of reservations, and the statements over it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Index, String, Table, Text, delete, insert, or_, select, update

from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros, metadata
from dujiang.pool.domain.reservations import Reservation, ReservationState

reservations = Table(
    "reservations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("cluster", String(253), nullable=False),
    Column("nodes", Json, nullable=False),
    Column("begins_at", UtcMicros, nullable=False),
    Column("ends_at", UtcMicros, nullable=False),
    Column("projects", Json, nullable=False),
    Column("reason", Text, nullable=False),
    Column("made_by", String(128), nullable=False),
    Column("made_at", UtcMicros, nullable=False),
    Column("state", String(16), nullable=False),
    Index("ix_reservations_ends_at", "ends_at"),
)
_C = reservations.c


async def read_open(tx: Tx, now: datetime) -> list[Reservation]:
    """Return those that end after a moment, in order of name."""
    query = select(reservations).where(_C.ends_at > now).order_by(_C.name)
    return [_reservation(row) for row in await tx.execute(query)]


async def read_all(tx: Tx) -> list[Reservation]:
    """Return all of them, in order of name."""
    return [_reservation(row) for row in await tx.execute(select(reservations).order_by(_C.name))]


async def read_turning(tx: Tx, now: datetime) -> list[Reservation]:
    """Return those that stand elsewhere by the clock than is written."""
    begun = (_C.state == ReservationState.PLANNED.value) & (_C.begins_at <= now)
    over = (_C.state != ReservationState.ENDED.value) & (_C.ends_at <= now)
    query = select(reservations).where(or_(begun, over)).order_by(_C.name)
    return [_reservation(row) for row in await tx.execute(query)]


async def find(tx: Tx, name_or_id: str) -> Reservation | None:
    """Return the one of that name or identifier."""
    query = select(reservations).where(or_(_C.name == name_or_id, _C.id == name_or_id))
    row = (await tx.execute(query)).first()
    return _reservation(row) if row else None


async def save(tx: Tx, row: Reservation, *, is_new: bool) -> None:
    """Write one."""
    if is_new:
        await tx.execute(insert(reservations).values(asdict(row)))
    else:
        await tx.execute(update(reservations).where(_C.id == row.id).values(asdict(row)))


async def drop(tx: Tx, id: str) -> None:
    """Remove one."""
    await tx.execute(delete(reservations).where(_C.id == id))


def _reservation(row: Any) -> Reservation:
    values = dict(row._mapping)
    values["nodes"], values["projects"] = tuple(row.nodes), tuple(row.projects)
    values["state"] = ReservationState(row.state)
    return Reservation(**values)
