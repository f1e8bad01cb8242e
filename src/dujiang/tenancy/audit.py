"""The audit trail: the journal as an auditor reads it, and the proof that it is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dujiang.kit import journal
from dujiang.kit.db import Database, Tx
from dujiang.kit.journal import Break, Record
from dujiang.tenancy import store


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the trail; what is None does not narrow it."""

    actor: str | None = None
    """As the journal names it (`user:usr_...`, `platform`), or a user's name or id."""
    subject: str | None = None
    types: Sequence[str] | None = None
    project_id: str | None = None
    since: datetime | None = None
    """Taken in."""
    until: datetime | None = None
    """Left out."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a walk over the whole chain found."""

    records: int
    breaks: list[Break]
    seq: int
    """Number of the newest record; keep it with the hash somewhere else, and give both to the next walk."""
    hash: str

    @property
    def holds(self) -> bool:
        """Whether nothing was changed, removed or inserted."""
        return not self.breaks


class Audit:
    """Reads the trail and proves it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def trail(
        self, tx: Tx, question: Question, *, edge: int | None, limit: int, newest_first: bool = True
    ) -> tuple[list[Record], dict[str, str]]:
        """Return records beyond the edge (a sequence number), and the names of the users who acted, by actor."""
        records = await journal.read(
            tx.connection,
            after=0 if newest_first or edge is None else edge,
            before=edge if newest_first else None,
            newest_first=newest_first,
            limit=limit,
            actor=await self._actor(tx, question.actor),
            subject=question.subject,
            types=question.types,
            project_ids=None if question.project_id is None else [question.project_id],
            since=question.since,
            until=question.until,
        )
        ids = {record.actor.removeprefix("user:") for record in records if record.actor.startswith("user:")}
        names = await store.names(tx, ids) if ids else {}
        return records, {f"user:{user_id}": name for user_id, name in names.items()}

    async def prove(self, noted: Mapping[int, str] | None = None) -> Proof:
        """Walk the chain on one consistent view; about 150,000 records a second on one core.

        Args:
            noted: hashes by number that an earlier proof gave; they find a tail that was cut off together with its end.
        """
        records, breaks = await self._db.verify_journal(noted)
        async with self._db.reading() as tx:
            seq, chain = await journal.latest(tx.connection)
        return Proof(records, breaks, seq, chain)

    async def _actor(self, tx: Tx, ref: str | None) -> str | None:
        if ref is None or ":" in ref:
            return ref
        user = await store.user(tx, ref)
        return f"user:{user.id}" if user else ref
