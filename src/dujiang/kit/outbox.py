"""Delivers what the journal holds to those who subscribed, each event with effect exactly once.

A subscription reads behind a cursor of its own. A batch of events is handled in one transaction in which the cursor
moves too, so an effect on the database and the knowledge that it happened are kept or lost together; what a handler
does elsewhere (a wake-up, say) belongs in `tx.afterwards`. An event whose handler raises stops its own subscription
right there, with all before it done; it is tried again and never passed over. The others go on. Over events of other
types the stored cursor moves with the next one handled, or when it is a batch behind.

`Outbox.tick` serves them all, for a simulation or one loop; `Outbox.loops` gives each a loop of its own, so that the
backoff of one that fails does not make the others late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import BigInteger, Column, String, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.kit import journal, log
from dujiang.kit.db import Database, Tx, translate
from dujiang.kit.errors import DujiangError
from dujiang.kit.loop import Loop, TickReport
from dujiang.kit.tables import metadata

outbox_cursors = Table(
    "outbox_cursors",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

_SPAN: Final = 10_000  # records that one transaction looks at, subscribed to or not

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Who hears what."""

    name: str
    """Its cursor's name, never changed: under another it would hear everything anew."""
    types: frozenset[str]
    """Kinds of events; the others are passed over."""
    handle: Callable[[Tx, journal.Record], Awaitable[None]]
    """What to do with one event, in the transaction in which the cursor moves."""
    from_now: bool = False
    """A new subscription hears what comes after its first tick rather than everything since the beginning."""


@dataclass(frozen=True, slots=True)
class _Scanned:
    """Nothing for the subscription lies between its stored cursor and there."""

    cursor: int
    upto: int


class _Stopped(Exception):
    """A handler raised at this event, after it had handled some of the batch."""

    def __init__(self, record: journal.Record, cause: Exception, handled: int) -> None:
        super().__init__(record.seq)
        self.record, self.cause, self.handled = record, cause, handled


class Outbox:
    """All subscriptions of the platform."""

    def __init__(self, db: Database, subscriptions: Iterable[Subscription], *, batch: int = 200) -> None:
        """Take who hears what; a batch is the most events of one transaction.

        Raises:
            ValueError: two subscriptions have one name.
        """
        self._db, self._batch = db, batch
        self._subscriptions = tuple(subscriptions)
        self._scanned: dict[str, _Scanned] = {}
        self._loops: list[Loop] = []
        if len({one.name for one in self._subscriptions}) < len(self._subscriptions):
            raise ValueError("two subscriptions have the same name")

    def loops(self, *, every_s: float = 1.0, rest_s: float = 0.0, backoff_max_s: float = 30.0) -> list[Loop]:
        """Return one loop for each subscription, `outbox.NAME`; `wake` wakes them."""
        self._loops = [
            Loop(
                f"outbox.{one.name}",
                partial(self._serve, [one]),
                every_s=every_s,
                rest_s=rest_s,
                backoff_max_s=backoff_max_s,
            )
            for one in self._subscriptions
        ]
        return self._loops

    def wake(self) -> None:
        """Let the loops look sooner; made for `Database.on_commit`."""
        for loop in self._loops:
            loop.wake()

    async def tick(self) -> TickReport:
        """Hand one batch to each subscription that is behind."""
        return await self._serve(self._subscriptions)

    async def lag(self) -> dict[str, int]:
        """Return how many records of the journal each subscription has not looked at, by name."""
        async with self._db.reading() as tx:
            latest, cursors = await journal.latest_seq(tx.connection), await _cursors(tx)
        return {one.name: latest - self._position(one, cursors.get(one.name, 0)) for one in self._subscriptions}

    async def _serve(self, subscriptions: Iterable[Subscription]) -> TickReport:
        steps: dict[str, int] = {}
        failed: list[str] = []
        again = False
        for one in await self._behind(subscriptions):
            done, more, error = await self._deliver(one)
            again |= more
            if done:
                steps[one.name] = done
            if error:
                failed.append(error)
        return TickReport(steps, again and not failed, " ".join(failed))

    async def _behind(self, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        """Return those with something to write: an event to handle, or a cursor to move."""
        behind = []
        async with self._db.reading() as tx:
            latest, cursors = await journal.latest_seq(tx.connection), await _cursors(tx)
            for one in subscriptions:
                stored = cursors.get(one.name)
                if stored is None or await self._awaits(tx, one, stored, latest):
                    behind.append(one)
        return behind

    async def _awaits(self, tx: Tx, one: Subscription, stored: int, latest: int) -> bool:
        after = self._position(one, stored)
        upto = min(latest, after + _SPAN)
        if after >= latest:
            return False
        types = sorted(one.types)
        if upto - stored >= self._batch or await journal.read(
            tx.connection, after=after, before=upto + 1, types=types, limit=1
        ):
            return True
        # Kept in memory, as a write for every commit of others would cost more than the look itself.
        self._scanned[one.name] = _Scanned(stored, upto)
        return False

    async def _deliver(self, one: Subscription) -> tuple[int, bool, str]:
        """Handle the next batch; return how many events were handled, whether more may wait, and what went wrong."""
        try:
            return *await self._handle(one), ""
        except _Stopped as stopped:
            first = stopped
        except Exception as error:  # the database itself
            log.failure(_log, "events not delivered", error, subscription=one.name)
            return 0, False, f"{one.name}: {log.reason(error)}"
        done = 0
        if first.handled:  # what came before the event was rolled back with it
            with suppress(_Stopped, DujiangError):  # the next tick is told
                done, _ = await self._handle(one, before=first.record.seq)
        record, cause = first.record, first.cause
        log.failure(_log, "event not handled", cause, subscription=one.name, seq=record.seq, type=record.type)
        return done, False, f"{one.name} stands at event {record.seq} ({record.type}): {log.reason(cause)}"

    async def _handle(self, one: Subscription, *, before: int | None = None) -> tuple[int, bool]:
        """Handle a batch (the part before a number) and move the cursor, in one transaction.

        Returns:
            How many events were handled, and whether there may be more.

        Raises:
            _Stopped: the handler raised; all of it is rolled back.
        """
        async with self._db.transaction(cause=f"outbox:{one.name}") as tx:
            stored = await self._lock_cursor(tx, one)
            latest = await journal.latest_seq(tx.connection)
            after = self._position(one, stored)
            end = min(latest, after + _SPAN) + 1 if before is None else before
            records = await journal.read(
                tx.connection, after=after, before=end, types=sorted(one.types), limit=self._batch
            )
            for handled, record in enumerate(records):
                try:
                    await one.handle(tx, record)
                except Exception as error:
                    raise _Stopped(record, translate(error) or error, handled) from error
            upto = records[-1].seq if len(records) == self._batch else max(after, end - 1)
            await tx.execute(update(outbox_cursors).where(outbox_cursors.c.name == one.name).values(seq=upto))
            return len(records), upto < latest or tx.has_events

    def _position(self, one: Subscription, stored: int) -> int:
        scanned = self._scanned.get(one.name)
        return scanned.upto if scanned is not None and scanned.cursor == stored else stored

    async def _lock_cursor(self, tx: Tx, one: Subscription) -> int:
        query = select(outbox_cursors.c.seq).where(outbox_cursors.c.name == one.name).with_for_update()
        stored = (await tx.execute(query)).scalar_one_or_none()
        if stored is None:
            start = await journal.latest_seq(tx.connection) if one.from_now else 0
            dialect: Any = sqlite if tx.connection.dialect.name == "sqlite" else postgresql
            new = dialect.insert(outbox_cursors).values(name=one.name, seq=start).on_conflict_do_nothing()
            await tx.execute(new)
            stored = (await tx.execute(query)).scalar_one()
        return int(stored)


async def _cursors(tx: Tx) -> dict[str, int]:
    return {row.name: row.seq for row in await tx.execute(select(outbox_cursors))}
