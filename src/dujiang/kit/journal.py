"""The append-only log of everything that happened: audit trail, outbox and live stream in one.

An event is written in the transaction of the fact itself. Each record carries a keyed hash over the one before, so a
changed, removed or inserted row is found by whoever holds the key. Subscribers read behind a cursor that moves in the
same transaction as what they do, so each event takes effect once (`kit.outbox`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, Self

import orjson
from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from dujiang.kit.clock import from_micros, to_micros
from dujiang.kit.tables import metadata

journal = Table(
    "journal",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("cause", String(128), nullable=False),
    Column("type", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("project_id", String(64), nullable=True),
    Column("payload", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("ix_journal_subject", "subject", "seq"),
    Index("ix_journal_project", "project_id", "seq"),
    Index("ix_journal_actor", "actor", "seq"),
    Index("ix_journal_at", "at"),
)
head = Table(
    "journal_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

GENESIS = "0" * 64
_LOCK_HEAD = select(head.c.seq, head.c.hash).with_for_update()
_MOVE_HEAD = update(head).values(seq=bindparam("seq"), hash=bindparam("hash"))
_LATEST = select(head.c.seq)
_APPEND = insert(journal)
_TYPES: dict[str, type[Event]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened. A context derives its own in `events.py`: past tense, ids and facts, no more."""

    subject: str
    """Identifier of what it happened to."""
    project_id: str | None = None
    """The tenant who may see it; None is for the platform's own people."""

    kind: ClassVar[str] = "Event"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A slotted dataclass is made twice; the later one is the real one.
        super(Event, cls).__init_subclass__(**kwargs)
        cls.kind = cls.__name__
        _TYPES[cls.__name__] = cls

    def payload(self) -> dict[str, Any]:
        """Return the facts beside subject and project, as JSON values."""
        facts = asdict(self)
        del facts["subject"], facts["project_id"]
        return facts

    @classmethod
    def decode(cls, subject: str, project_id: str | None, payload: dict[str, Any]) -> Self:
        """Return the event again; members that a newer version wrote and this one does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(subject=subject, project_id=project_id, **{k: v for k, v in payload.items() if k in known})


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the journal."""

    seq: int
    at: datetime
    actor: str
    cause: str
    type: str
    subject: str
    project_id: str | None
    payload: dict[str, Any]
    hash: str

    def event(self) -> Event | None:
        """Return the typed event, or None for a type that no code here knows (any more)."""
        cls = _TYPES.get(self.type)
        return cls.decode(self.subject, self.project_id, self.payload) if cls else None


@dataclass(frozen=True, slots=True)
class Break:
    """Where the chain does not hold."""

    seq: int
    why: str


async def append(
    connection: AsyncConnection, key: bytes, events: Sequence[Event], *, at: datetime, actor: str, cause: str
) -> int:
    """Write events at the end of the chain, in the caller's transaction; return the last sequence number.

    The head row is locked, so on PostgreSQL writers queue here for the end of their transactions.
    """
    seq, chain = await _lock_head(connection)
    rows = []
    for event in events:
        seq += 1
        record = {
            "seq": seq, "at": to_micros(at), "actor": actor, "cause": cause, "type": event.kind,
            "subject": event.subject, "project_id": event.project_id,
            "payload": orjson.dumps(event.payload(), option=orjson.OPT_SORT_KEYS).decode(),
        }  # fmt: skip
        chain = _digest(key, chain, record)
        rows.append({**record, "hash": chain})
    await connection.execute(_APPEND, rows)
    await connection.execute(_MOVE_HEAD, {"seq": seq, "hash": chain})
    return seq


async def read(
    connection: AsyncConnection, *, after: int = 0, limit: int = 500, subject: str | None = None,
    project_ids: Sequence[str] | None = None, types: Sequence[str] | None = None, actor: str | None = None,
    since: datetime | None = None, until: datetime | None = None, before: int | None = None,
    newest_first: bool = False,
) -> list[Record]:  # fmt: skip
    """Return records after (and before) a sequence number, oldest first unless asked; filters are joined by AND.

    `since` is taken in, `until` is left out.
    """
    columns = journal.c
    query = select(journal).where(columns.seq > after)
    query = query.order_by(columns.seq.desc() if newest_first else columns.seq).limit(limit)
    if before is not None:
        query = query.where(columns.seq < before)
    if subject is not None:
        query = query.where(columns.subject == subject)
    if project_ids is not None:
        query = query.where(columns.project_id.in_(project_ids))
    if types is not None:
        query = query.where(columns.type.in_(types))
    if actor is not None:
        query = query.where(columns.actor == actor)
    if since is not None:
        query = query.where(columns.at >= to_micros(since))
    if until is not None:
        query = query.where(columns.at < to_micros(until))
    return [_record(row) for row in await connection.execute(query)]


async def latest_seq(connection: AsyncConnection) -> int:
    """Return the sequence number of the newest record, 0 when there is none."""
    return (await connection.execute(_LATEST)).scalar() or 0


async def latest(connection: AsyncConnection) -> tuple[int, str]:
    """Return the number and hash of the newest record: who keeps them elsewhere can tell a journal cut back."""
    row = (await connection.execute(select(head.c.seq, head.c.hash))).first()
    return (row.seq, row.hash) if row else (0, GENESIS)


async def verify(
    connection: AsyncConnection, key: bytes, *, noted: Mapping[int, str] | None = None, page: int = 5000
) -> tuple[int, list[Break]]:
    """Walk the whole chain.

    Args:
        connection: on one consistent view.
        key: the chain's key.
        noted: hashes by sequence number as `latest` gave them before. A tail cut off together with its head row is a
            journal that is whole and too short, and only such a note tells.
        page: records fetched at once.

    Returns:
        How many records were read, and where the chain breaks: a changed row, a gap, a row too many, a cut tail.
    """
    breaks: list[Break] = []
    missing = dict(noted or {})
    seq, chain = 0, GENESIS
    async for row in _raw(connection, page):
        if row["seq"] != seq + 1:
            breaks.append(Break(row["seq"], f"record {seq + 1} is missing" if row["seq"] > seq + 1 else "out of order"))
        seq = row["seq"]
        expected = _digest(key, chain, row)
        if not hmac.compare_digest(expected, row["hash"]):
            breaks.append(
                Break(seq, "the record does not match its hash: it, or one before it, was changed or removed")
            )
        if (note := missing.pop(seq, None)) is not None and note != row["hash"]:
            breaks.append(Break(seq, "the record has not the hash that was noted"))
        chain = row["hash"]  # go on from what is stored, so one change is reported once
    end = (await connection.execute(select(head.c.seq, head.c.hash))).first()
    if (end.seq, end.hash) != (seq, chain) if end else seq != 0:
        breaks.append(Break(seq + 1, f"the journal ends at {seq}, its head says {end.seq if end else 0}"))
    breaks += [Break(one, "a record with the hash that was noted is missing") for one in sorted(missing) if one > 0]
    return seq, breaks


async def _lock_head(connection: AsyncConnection) -> tuple[int, str]:
    row = (await connection.execute(_LOCK_HEAD)).first()
    if row is None:  # the first record of all; on PostgreSQL two transactions may both be that, and one waits here
        dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
        await connection.execute(dialect.insert(head).values(id=1, seq=0, hash=GENESIS).on_conflict_do_nothing())
        row = (await connection.execute(_LOCK_HEAD)).one()
    return row.seq, row.hash


async def _raw(connection: AsyncConnection, page: int) -> AsyncIterator[dict[str, Any]]:
    after = -(2**62)  # a forged row may carry any number
    while rows := (
        await connection.execute(select(journal).where(journal.c.seq > after).order_by(journal.c.seq).limit(page))
    ).all():
        for row in rows:
            yield dict(row._mapping)
        after = rows[-1].seq


def _digest(key: bytes, chain: str, record: dict[str, Any]) -> str:
    names = ("seq", "at", "actor", "cause", "type", "subject", "project_id", "payload")
    body = orjson.dumps([chain, *(record[name] for name in names)])
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def _record(row: Any) -> Record:
    return Record(
        row.seq, from_micros(row.at), row.actor, row.cause, row.type, row.subject, row.project_id,
        orjson.loads(row.payload), row.hash,
    )  # fmt: skip
