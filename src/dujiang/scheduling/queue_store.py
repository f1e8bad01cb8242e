"""The table of the queues: one row with the whole document, as it was set last."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Integer, String, Table, delete, insert, select

from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros, metadata

queue_trees = Table(
    "queue_trees",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("stamp", String(64), nullable=False),
    Column("document", Json, nullable=False),
    Column("set_at", UtcMicros, nullable=False),
)
_ONLY = 1
_STAMP = select(queue_trees.c.stamp).where(queue_trees.c.id == _ONLY)
_DOCUMENT = select(queue_trees.c.document).where(queue_trees.c.id == _ONLY)
_DELETE = delete(queue_trees).where(queue_trees.c.id == _ONLY)
_INSERT = insert(queue_trees)


async def read_stamp(tx: Tx) -> str:
    """Return what tells one document from another; empty when none was set."""
    return (await tx.execute(_STAMP)).scalar() or ""


async def read_document(tx: Tx) -> dict[str, Any]:
    """Return the document; `read_stamp` says whether there is one."""
    document: dict[str, Any] = (await tx.execute(_DOCUMENT)).scalar_one()
    return document


async def write_document(tx: Tx, stamp: str, document: dict[str, Any]) -> None:
    """Put a document in the place of the one before."""
    await tx.execute(_DELETE)
    await tx.execute(_INSERT, {"id": _ONLY, "stamp": stamp, "document": document, "set_at": tx.now})
