"""An SQLite connection for the event loop: short statements run at once, what may wait runs on the connection's thread.

`aiosqlite` hands every call (open a cursor, execute, fetch, close it) to a thread and back, four round trips of some
70 µs for a statement that takes 10. Here those run in place, and the thread is kept for what can wait for another
program or for the disk: taking the write lock, commit, many rows at once. Measured on two cores: a transaction with one
record takes 0.5 ms instead of 1.5.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import aiosqlite
from sqlalchemy import Connection, CursorResult, Executable, NullPool, create_engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_SHORT: Final = frozenset({"cursor", "execute", "fetchone", "fetchmany", "fetchall", "rollback"})
_WAITING: Final = ("BEGIN IMMEDIATE", "PRAGMA", "VACUUM", "ANALYZE", "REINDEX", "CREATE", "DROP", "ALTER")
_BETWEEN_YIELDS: Final = 16
_MANY: Final = 200
"""Rows of one statement beyond which it is not short."""
_KEPT: Final = 6


class LoopConnection(aiosqlite.Connection):
    """Runs short statements in place; yields to other tasks every few of them."""

    scans = False
    """Set for a reader of many rows: then everything runs on the thread."""
    _since_yield = 0
    _in_order = False  # a cancelled call may still be on the thread: what follows must not overtake it
    _stopping: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        """Let the thread end; the future says when."""
        self._stopping = super().stop()
        return self._stopping

    async def _connect(self) -> aiosqlite.Connection:
        try:
            return await super()._connect()
        except sqlite3.Error:
            if self._stopping is not None:
                await self._stopping  # the thread answers to this loop, which may be closed a moment later
            raise

    @property
    def is_open(self) -> bool:
        """Whether it can still be asked anything."""
        return self._running and self._connection is not None

    @property
    def is_free(self) -> bool:
        """Whether what is short may run in place now."""
        return self.is_open and not (self.scans or self._in_order)

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.is_free or not _is_short(fn, args):
            try:
                return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
            except asyncio.CancelledError:
                self._in_order = True
                raise
        await self.give_way()
        return fn(*args, **kwargs)

    async def give_way(self) -> None:
        """Let other tasks have a turn, every few calls."""
        self._since_yield += 1
        if self._since_yield >= _BETWEEN_YIELDS:
            self._since_yield = 0
            await asyncio.sleep(0)


class Direct:
    """An `AsyncConnection` that runs short statements without the asynchronous driver beneath it.

    SQLAlchemy's asynchronous layer costs five times what the statement does: a greenlet, a cursor and its adapters for
    each. So a second, synchronous SQLAlchemy connection stands on the same SQLite connection; what begins, commits or
    may wait still goes the other way. Measured: a transaction that reads once takes 0.1 ms of CPU instead of 0.5.
    """

    def __init__(self, connection: AsyncConnection, driver: LoopConnection, beside: Connection, busy_ms: int) -> None:
        self.inner, self._driver, self._beside, self._busy_ms = connection, driver, beside, busy_ms
        self._raw: sqlite3.Connection = driver._conn
        self.dialect = connection.dialect

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to SQLAlchemy's own."""
        return getattr(self.inner, name)

    async def execute(
        self, statement: Executable, rows: Sequence[dict[str, Any]] | dict[str, Any] | None = None
    ) -> CursorResult[Any]:
        """Run a statement, with the values of its parameters, or one statement for many rows."""
        if not self._driver.is_free or (rows is not None and len(rows) > _MANY):
            return await self.inner.execute(statement, rows)
        await self._driver.give_way()
        return self._beside.execute(statement, rows)

    async def begin_reading(self) -> None:
        """Begin a transaction that only reads."""
        if self._driver.is_free:
            self._raw.execute("BEGIN")
        else:
            await self.inner.exec_driver_sql("BEGIN")

    async def begin_writing(self) -> None:
        """Begin a transaction that writes: at once when the write lock is free, else wait for it on the thread."""
        if not (self._driver.is_free and self._took_lock()):
            await self.inner.exec_driver_sql("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        """Commit, on the thread, for it waits for the disk."""
        if self.inner.get_transaction() is not None:
            await self.inner.commit()
            return
        try:
            await self._driver.commit()
        except sqlite3.Error as error:
            raise DBAPIError.instance("COMMIT", None, error, sqlite3.Error, dialect=self.dialect) from error

    def _took_lock(self) -> bool:
        self._raw.execute("PRAGMA busy_timeout=0")
        try:
            self._raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # another program has it; what else it may be is said by the next try
            return False
        finally:
            self._raw.execute(f"PRAGMA busy_timeout={self._busy_ms}")
        return True

    async def rollback(self) -> None:
        """Undo what is open, whoever began it. SQLite keeps the transaction of a failed commit open, too."""
        if self.inner.get_transaction() is not None:
            await self.inner.rollback()
        if self._driver.is_free:
            if self._raw.in_transaction:
                self._raw.rollback()
        elif self._driver.is_open:  # SQLAlchemy closes the connection of a cancelled call, which rolls it back
            await self._driver.rollback()

    @property
    def is_sound(self) -> bool:
        """Whether it may be used again without a look at it."""
        return self._driver.is_free and not self._raw.in_transaction


class Directs:
    """Makes them, and keeps those that are not in use."""

    def __init__(self, busy_s: float) -> None:
        """Take how long to wait for another program that holds the file."""
        self._busy_ms = int(busy_s * 1000)
        self._next: sqlite3.Connection | None = None
        self._engine = create_engine("sqlite://", creator=self._take, poolclass=NullPool, pool_reset_on_return=None)
        self._beside: WeakKeyDictionary[LoopConnection, Connection] = WeakKeyDictionary()
        self._idle: list[Direct] = []
        self._waiting = 0

    async def get(self, engine: AsyncEngine) -> AsyncConnection:
        """Return a connection of this engine; one for the simulation's driver goes all the way."""
        if self._idle:
            return cast(AsyncConnection, self._idle.pop())
        self._waiting += 1
        try:
            connection = await engine.connect()
        finally:
            self._waiting -= 1
        driver = (await connection.get_raw_connection()).driver_connection
        if type(driver) is not LoopConnection:
            return connection
        beside = self._beside.get(driver)
        if beside is None:
            self._next = driver._conn
            beside = self._beside[driver] = self._engine.connect()
        return cast(AsyncConnection, Direct(connection, driver, beside, self._busy_ms))

    async def give_back(self, connection: AsyncConnection | Direct) -> None:
        """Take a connection back whose transaction has ended."""
        is_fit = isinstance(connection, Direct) and connection.is_sound
        if is_fit and not self._waiting and len(self._idle) < _KEPT:  # who waits, waits at the pool
            assert isinstance(connection, Direct)
            self._idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Let go of all."""
        while self._idle:
            await self._idle.pop().inner.close()
        for beside in list(self._beside.values()):
            with suppress(SQLAlchemyError):  # what a cancelled call was on is closed before
                beside.close()
        self._beside.clear()

    def _take(self) -> sqlite3.Connection:
        assert self._next is not None
        return self._next


class _Closing(sqlite3.Connection):
    """Gives its lock back when it is closed.

    Python closes with `sqlite3_close_v2`, which keeps the connection, its open transaction and the write lock for as
    long as any statement of it lives; the traceback of a cancelled call keeps one alive until the garbage is collected.
    """

    def close(self) -> None:
        """Roll back what is open, then close."""
        with suppress(sqlite3.Error):  # closed before
            self.rollback()
        super().close()


def connect(path: str, *, timeout: float, isolation_level: None, **options: Any) -> LoopConnection:
    """Return a connection to be awaited; used as SQLAlchemy's `async_creator_fn`."""

    def open_it() -> sqlite3.Connection:
        options["check_same_thread"] = False
        return sqlite3.connect(path, timeout=timeout, isolation_level=isolation_level, factory=_Closing, **options)

    connection = LoopConnection(open_it, 64)
    connection._thread.daemon = True  # as SQLAlchemy does: a connection left open must not keep the process
    return connection


def _is_short(fn: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    name = fn.__name__
    if name == "execute":
        return not args[0].lstrip().startswith(_WAITING)
    return name in _SHORT or (name == "close" and isinstance(getattr(fn, "__self__", None), sqlite3.Cursor))
