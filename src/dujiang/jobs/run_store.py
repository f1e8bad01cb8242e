"""The table of how long jobs ran that have ended, and what they were expected to: what expectations are learned from.

One short row for each job that ran, so that learning anew after a restart reads no specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, bindparam, insert, select

from dujiang.kit.db import Tx
from dujiang.kit.tables import UtcMicros, metadata
from dujiang.scheduling.domain.expected import Likeness

runs = Table(
    "job_runs",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("job_id", String(40), nullable=False),
    Column("project_id", String(40), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("stem", String(128), nullable=False),
    Column("shape", String(128), nullable=False),
    Column("ran_s", Float(53), nullable=False),
    Column("is_whole", Boolean, nullable=False),
    Column("finished_at", UtcMicros, nullable=False),
    Column("expected_s", Float(53), nullable=True),
    Column("expected_by", String(32), nullable=False),
    Index("ix_job_runs_project", "project_id", "finished_at"),
    Index("ix_job_runs_finished", "finished_at"),
)


@dataclass(frozen=True, slots=True)
class RunRow:
    """One job that ran and has ended."""

    job_id: str
    who: Likeness
    ran_s: float
    is_whole: bool
    """It completed; else it would have run at least so long."""
    finished_at: datetime
    expected_s: float | None = None
    """What was expected when it first got its place."""
    expected_by: str = ""
    seq: int = 0


async def insert_runs(tx: Tx, rows: Sequence[RunRow]) -> None:
    """Write down jobs that have ended."""
    if rows:
        await tx.execute(insert(runs), [_values(row) for row in rows])


async def newest(tx: Tx, limit: int) -> list[RunRow]:
    """Return the runs that were written last, in the order in which they were written."""
    found = [_row(row) for row in await tx.execute(_NEWEST, {"most": limit})]
    return found[::-1]


async def after(tx: Tx, seq: int, limit: int) -> list[RunRow]:
    """Return the runs behind a number, in the order in which they were written."""
    return [_row(row) for row in await tx.execute(_AFTER, {"seq_": seq, "most": limit})]


async def since(tx: Tx, at: datetime, project_ids: Sequence[str] | None, limit: int) -> list[RunRow]:
    """Return runs that completed after a moment and of which something was expected, the newest first."""
    query = select(runs).where(
        runs.c.finished_at >= at, runs.c.is_whole.is_(True), runs.c.expected_s.is_not(None)
    )  # fmt: skip
    if project_ids is not None:
        query = query.where(runs.c.project_id.in_(project_ids))
    return [_row(row) for row in await tx.execute(query.order_by(runs.c.finished_at.desc()).limit(limit))]


_NEWEST = select(runs).order_by(runs.c.seq.desc()).limit(bindparam("most"))
_AFTER = select(runs).where(runs.c.seq > bindparam("seq_")).order_by(runs.c.seq).limit(bindparam("most"))


def _values(row: RunRow) -> dict[str, Any]:
    who = row.who
    return {
        "job_id": row.job_id, "project_id": who.project, "user_id": who.user, "stem": who.name, "shape": who.shape,
        "ran_s": row.ran_s, "is_whole": row.is_whole, "finished_at": row.finished_at, "expected_s": row.expected_s,
        "expected_by": row.expected_by,
    }  # fmt: skip


def _row(row: Any) -> RunRow:
    return RunRow(
        row.job_id, Likeness(row.project_id, row.user_id, row.stem, row.shape), row.ran_s, row.is_whole,
        row.finished_at, row.expected_s, row.expected_by, row.seq,
    )  # fmt: skip
