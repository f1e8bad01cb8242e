"""The table of what was found last about moves of running work: one row, put in the place of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Integer, Table, delete, insert, select

from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros, metadata

_ONLY: Final = 1
move_advice = Table(
    "move_advice",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcMicros, nullable=False),
    Column("document", Json, nullable=False),
)


async def put(tx: Tx, document: Mapping[str, Any]) -> None:
    """Write down what was found now."""
    await tx.execute(delete(move_advice))
    await tx.execute(insert(move_advice), [{"id": _ONLY, "at": tx.now, "document": dict(document)}])


async def get(tx: Tx) -> tuple[datetime, dict[str, Any]] | None:
    """Return when it was looked last, and what was found; None before the first look."""
    row = (await tx.execute(select(move_advice))).first()
    return None if row is None else (row.at, row.document)
