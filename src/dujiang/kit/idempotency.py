"""A POST repeated with the same `Idempotency-Key` takes effect once and is answered alike.

The key's row, the effect and the stored answer are one transaction: either all of them are there or none is. The row
goes in first, so a second call with the key waits for the first one's end (on its row lock in PostgreSQL, on the one
writer in SQLite) and then replays its answer. A call that failed leaves no row: it may be tried again.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Final

from sqlalchemy import Column, Index, Integer, String, Table, Text, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.tables import UtcMicros, metadata

KEPT_FOR: Final = timedelta(hours=24)
MAX_KEY: Final = 200

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(MAX_KEY), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("at", UtcMicros, nullable=False),
    Column("status", Integer, nullable=True),
    Column("answer", Text, nullable=True),
    Index(None, "at"),
)


class BadIdempotencyKey(Invalid):
    """The header is empty, too long or holds unprintable characters."""

    code: ClassVar[str] = "bad_idempotency_key"


class IdempotencyKeyReused(Invalid):
    """The key came with another request before."""

    code: ClassVar[str] = "idempotency_key_reused"
    title: ClassVar[str] = "The idempotency key was used for another request"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to the first call with a key."""

    status: int
    body: str


def check_key(key: str) -> str:
    """Return the key if it is one.

    Raises:
        BadIdempotencyKey: empty, longer than 200 characters or not printable ASCII.
    """
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise BadIdempotencyKey(
            f"An Idempotency-Key has 1 to {MAX_KEY} printable ASCII characters; a UUID is a good one."
        )
    return key


def fingerprint(secret: bytes, method: str, target: str, body: bytes) -> str:
    """Return what tells two requests apart; keyed, as a bare hash of a body with a password in it could be guessed."""
    mac = hmac.new(secret, f"{method} {target}\n".encode("utf-8", "replace"), hashlib.sha256)
    mac.update(body)
    return mac.hexdigest()


async def claim(tx: Tx, *, owner: str, key: str, print_: str) -> Answer | None:
    """Take the key for this request, in the transaction of its effect.

    Args:
        tx: the transaction; `keep` must be called in it before its end when this returns None.
        owner: whose key it is: different users may choose the same.
        key: the header's value, checked.
        print_: `fingerprint` of the request.

    Returns:
        The answer given before, or None when this call is the first and shall go on.

    Raises:
        IdempotencyKeyReused: the key came with another request.
    """
    row = {"owner": owner, "key": key, "fingerprint": print_, "at": tx.now, "status": None, "answer": None}
    dialect: Any = sqlite if tx.connection.dialect.name == "sqlite" else postgresql
    taken = await tx.execute(dialect.insert(idempotency_keys).values(**row).on_conflict_do_nothing())
    if taken.rowcount == 1:
        return None
    table = idempotency_keys.c
    found = (await tx.execute(select(idempotency_keys).where(table.owner == owner, table.key == key))).one()
    if found.fingerprint != print_:
        raise IdempotencyKeyReused(
            "This Idempotency-Key came with another request in the last 24 hours; use a new key for a new request."
        )
    return Answer(found.status, found.answer)


async def keep(tx: Tx, *, owner: str, key: str, answer: Answer) -> None:
    """Store the answer beside the claimed key."""
    table = idempotency_keys.c
    await tx.execute(
        update(idempotency_keys)
        .where(table.owner == owner, table.key == key)
        .values(status=answer.status, answer=answer.body)
    )


async def prune(tx: Tx, *, older_than: timedelta = KEPT_FOR, limit: int = 10_000) -> int:
    """Forget some `limit` keys older than a day, the oldest first, and return how many; called by a loop."""
    at = idempotency_keys.c.at
    old = (await tx.execute(select(at).where(at < tx.now - older_than).order_by(at).limit(limit))).scalars().all()
    if not old:
        return 0
    gone = await tx.execute(delete(idempotency_keys).where(at <= old[-1]))
    return gone.rowcount
