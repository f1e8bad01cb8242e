"""An SQLite connection for the event loop: short statements run at once, what may wait runs on the connection's thread.

`aiosqlite` hands every call (open a cursor, execute, fetch, close it) to a thread and back, four round trips of some
70 µs for a statement that takes 10. Here those run in place, and the thread is kept for what can wait for another
program or for the disk: taking the write lock, commit, many rows at once. Measured on two cores: a transaction with one
record takes 0.5 ms instead of 1.5.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiosqlite

_SHORT: Final = frozenset({"cursor", "execute", "fetchone", "fetchmany", "fetchall", "rollback"})
_WAITING: Final = ("BEGIN IMMEDIATE", "PRAGMA", "VACUUM", "ANALYZE", "REINDEX", "CREATE", "DROP", "ALTER")
_BETWEEN_YIELDS: Final = 16


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

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.scans or self._in_order or not self._running or self._connection is None or not _is_short(fn, args):
            try:
                return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
            except asyncio.CancelledError:
                self._in_order = True
                raise
        self._since_yield += 1
        if self._since_yield >= _BETWEEN_YIELDS:
            self._since_yield = 0
            await asyncio.sleep(0)
        return fn(*args, **kwargs)


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
