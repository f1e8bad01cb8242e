"""Transactions on SQLite (WAL) and PostgreSQL, with the journal written in the same one.

One request, one handled event or one applied step is one `transaction()`, committed here and nowhere else. No
transaction stays open across an engine or network call.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Executable, event
from sqlalchemy.engine import CursorResult
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from dujiang.kit import journal, sqlite
from dujiang.kit.clock import Clock
from dujiang.kit.errors import Conflict, DujiangError, Invalid, StorageFull, Unavailable
from dujiang.kit.tables import metadata

MEMORY = "sqlite+aiosqlite:///:memory:"
_TABLES_LOCK: Final = 0x64756A69  # "duji"
_TABLES_WAIT_S: Final = 60


class Tx:
    """One open transaction: run statements, and say what happened."""

    def __init__(self, connection: AsyncConnection, *, now: datetime, actor: str, cause: str) -> None:
        self.connection, self.now, self.actor, self.cause = connection, now, actor, cause
        self._events: list[journal.Event] = []
        self._afterwards: list[Callable[[], None]] = []

    async def execute(
        self, statement: Executable, rows: Sequence[dict[str, Any]] | dict[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement, with the values of its parameters, or one statement for many rows.

        A statement that runs often is built once and takes parameters: building one costs more than running it.
        """
        if rows is None:
            return await self.connection.execute(statement)
        return await self.connection.execute(statement, rows)

    def emit(self, *events: journal.Event) -> None:
        """Add to the journal what this transaction makes true."""
        self._events.extend(events)

    @property
    def has_events(self) -> bool:
        """Whether this transaction will leave a record in the journal."""
        return bool(self._events)

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is committed (to wake a loop, say); not at all when it is rolled back."""
        self._afterwards.append(call)


class Database:
    """The platform's database."""

    def __init__(
        self, url: str, *, clock: Clock, journal_key: bytes, durable: bool = True, busy_timeout_s: float = 5.0
    ) -> None:
        """Take the address.

        Args:
            url: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...`; a memory database is shared by all users.
            clock: where transactions get their time from.
            journal_key: the key of the journal's hash chain.
            durable: flush each commit to the disk (SQLite `synchronous=FULL`); without it a crash of the machine, not
                of the process, can lose the last commits.
            busy_timeout_s: how long to wait for another program that holds an SQLite file locked.
        """
        self.url, self._clock, self._key, self._durable = url, clock, journal_key, durable
        self._busy_s = busy_timeout_s
        self.is_sqlite = url.startswith("sqlite")
        self._shared = url == MEMORY
        self._turn = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._engine = self._create_engine()
        self._directs = sqlite.Directs(busy_timeout_s) if self.is_sqlite else None

    async def create_all(self) -> None:
        """Create the tables without migrations, for simulation and tests."""
        async with self._turn, self._engine.begin() as connection:  # not within another's transaction in memory
            await connection.run_sync(metadata.create_all)

    async def close(self) -> None:
        """Give the connections back."""
        if self._directs is not None:
            await self._directs.close()
        await self._engine.dispose()

    def on_commit(self, listener: Callable[[], None]) -> None:
        """Call this after every commit of this process that wrote to the journal."""
        self._listeners.append(listener)

    @asynccontextmanager
    async def transaction(self, *, actor: str = "platform", cause: str = "") -> AsyncIterator[Tx]:
        """Open a transaction that writes; committed at the end of the block, rolled back by any exception.

        Raises:
            Conflict: a uniqueness or reference was violated.
            Unavailable, StorageFull: the database is away, locked or full.
        """
        if self.is_sqlite:  # one writer at a time is SQLite's rule; queue here in order rather than by busy-waiting
            async with self._turn:
                tx = await self._run_begin(actor, cause)
                async with _closing(tx, self._finish):
                    yield tx
        else:
            tx = await self._run_begin(actor, cause)
            async with _closing(tx, self._finish):
                yield tx
        for call in tx._afterwards:
            call()
        if tx._events:
            for listener in self._listeners:
                listener()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        """Open a transaction that only reads, on one consistent view."""
        if self._shared:
            async with self.transaction() as tx:
                yield tx
            return
        with _translated(connecting=True):
            connection = await self._connect()
        tx = Tx(connection, now=self._clock.now(), actor="", cause="")
        try:
            with _translated():
                if isinstance(connection, sqlite.Direct):
                    await connection.begin_reading()
                elif self.is_sqlite:
                    await connection.exec_driver_sql("BEGIN")
                else:
                    await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                yield tx
        finally:
            await asyncio.shield(self._end(connection, rollback=True))

    @asynccontextmanager
    async def changing_tables(self) -> AsyncIterator[AsyncConnection]:
        """Open the transaction in which tables are made or changed; of several processes one is in here at a time.

        SQLite changes a table by copying it, so references are not followed in here and checked at the end.

        Raises:
            Conflict: a reference points nowhere at the end.
            Unavailable, StorageFull: the database is away, locked or full.
        """
        with _translated(connecting=True):
            connection = await self._engine.connect()
        with _translated():
            try:
                if not self.is_sqlite:
                    await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")
                    yield connection
                    await connection.commit()
                    return
                async with self._turn:
                    await connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                    await connection.exec_driver_sql(f"PRAGMA busy_timeout={_TABLES_WAIT_S * 1000}")
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
                    yield connection
                    lost = (await connection.exec_driver_sql("PRAGMA foreign_key_check")).all()
                    if lost:
                        raise Conflict(
                            f"After the change {len(lost)} rows refer to rows that are gone; nothing is changed."
                        )
                    await connection.commit()
            finally:
                await asyncio.shield(self._end_changing(connection))

    async def _end_changing(self, connection: AsyncConnection) -> None:
        try:
            await connection.rollback()
            if self.is_sqlite:
                await connection.exec_driver_sql("PRAGMA foreign_keys=ON")
                await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(self._busy_s * 1000)}")
        finally:
            await connection.close()

    async def verify_journal(self, noted: Mapping[int, str] | None = None) -> tuple[int, list[journal.Break]]:
        """Walk the journal's hash chain; see `journal.verify`."""
        async with self.reading() as tx:
            return await journal.verify(tx.connection, self._key, noted=noted)

    async def _connect(self) -> AsyncConnection:
        return await self._directs.get(self._engine) if self._directs is not None else await self._engine.connect()

    async def _run_begin(self, actor: str, cause: str) -> Tx:
        with _translated(connecting=True):
            connection = await self._connect()
        with _translated():
            try:
                if isinstance(connection, sqlite.Direct):
                    await connection.begin_writing()
                elif self.is_sqlite:
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")
            except BaseException:
                await asyncio.shield(self._end(connection, rollback=True))
                raise
        return Tx(connection, now=self._clock.now(), actor=actor, cause=cause)

    async def _finish(self, tx: Tx, error: BaseException | None) -> None:
        try:
            if error is None:
                if tx._events:
                    await journal.append(
                        tx.connection, self._key, tx._events, at=tx.now, actor=tx.actor, cause=tx.cause
                    )
                await tx.connection.commit()
        except BaseException:
            await self._undo(tx.connection)
            raise
        finally:
            await asyncio.shield(self._end(tx.connection, rollback=error is not None))

    async def _undo(self, connection: AsyncConnection) -> None:
        await connection.rollback()
        if self.is_sqlite and not isinstance(connection, sqlite.Direct):
            # SQLite keeps the transaction of a failed commit open, with the write lock; SQLAlchemy takes it for over
            # and sends nothing. (A full disk, a violated deferred reference.)
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.rollback()

    async def _end(self, connection: AsyncConnection, *, rollback: bool) -> None:
        try:
            if rollback:
                with suppress(Exception):  # the connection is gone, then the rollback has happened
                    await connection.rollback()
        finally:
            if self._directs is not None:
                await self._directs.give_back(connection)
            else:
                await connection.close()

    def _create_engine(self) -> AsyncEngine:
        if not self.is_sqlite:
            return create_async_engine(self.url, pool_size=10, max_overflow=10, pool_timeout=10, pool_pre_ping=True)
        # Every transaction ends by our own commit or rollback, so the pool need not roll back once more.
        options: dict[str, Any] = {"pool_reset_on_return": None}
        options |= {"poolclass": StaticPool} if self._shared else {"pool_size": 8, "pool_timeout": 10}
        connecting = {"timeout": self._busy_s, "isolation_level": None, "async_creator_fn": sqlite.connect}
        engine = create_async_engine(self.url, connect_args=connecting, **options)
        event.listen(engine.sync_engine, "connect", self._on_connect)
        return engine

    def _on_connect(self, connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        if not self._shared:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={int(self._busy_s * 1000)}")
        cursor.execute("PRAGMA cache_size=-16000")
        cursor.close()


@asynccontextmanager
async def _closing(tx: Tx, finish: Callable[[Tx, BaseException | None], Any]) -> AsyncIterator[None]:
    try:
        with _translated():
            yield
    except BaseException as error:
        await finish(tx, error)
        raise
    with _translated():
        await finish(tx, None)


class _translated:
    """Turn what the drivers raise into the platform's words."""

    def __init__(self, *, connecting: bool = False) -> None:
        self._connecting = connecting

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        told = translate(error, connecting=self._connecting)
        if told is not None:
            raise told from error


def translate(error: BaseException | None, *, connecting: bool = False) -> DujiangError | None:
    """Return the platform's word for a database error, or None for anything else.

    Args:
        error: what was raised.
        connecting: it was raised while a connection was opened, where drivers raise whatever the network gives them.
    """
    if isinstance(error, PoolTimeout):
        return Unavailable("All database connections are in use; try again in a moment.")
    if _unfit(error):
        return Invalid("A value is beyond what the database can hold: a number too large or characters that are none.")
    if isinstance(error, DBAPIError):
        return _translate_driver(error, str(error.orig).strip() or type(error.orig).__name__)
    if connecting and isinstance(error, Exception) and not isinstance(error, DujiangError):
        return Unavailable(f"The database cannot be reached ({str(error)[:200]}); check its address and that it runs.")
    return None


def _translate_driver(error: DBAPIError, text: str) -> DujiangError | None:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    lower = text.lower()
    if isinstance(error, IntegrityError):
        return Conflict("The same object exists already, or what it refers to is gone.", constraint=text[:200])
    if state == "53100" or "is full" in lower or "no space" in lower:
        return StorageFull("The disk of the database is full; free some space, nothing was lost.")
    if state.startswith("22") or "invalid input for query argument" in lower:
        return Invalid("A value is beyond what the database can hold: a number too large or characters that are none.")
    busy = (
        state[:2] in ("08", "40", "53", "57") or state == "55P03"
    )  # connection, serialization, resources, shutdown, lock
    away = isinstance(error.orig, sqlite3.OperationalError) and any(
        word in lower for word in ("locked", "unable to open", "disk i/o", "readonly")
    )
    if busy or away or error.connection_invalidated or "connection" in lower:
        return Unavailable(f"The database cannot answer now ({text.splitlines()[0][:200]}); try again.")
    return None


def _unfit(error: BaseException | None) -> bool:
    if isinstance(error, OverflowError):
        return "SQLite" in str(error)
    return isinstance(error, UnicodeEncodeError) and "surrogate" in error.reason
