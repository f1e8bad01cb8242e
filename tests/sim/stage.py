"""What makes a story repeatable: everything happens on one thread, in an order and with mishaps drawn from the seed.

The database is a real SQLite file and its statements are the real ones; only the threads between it and the event loop
are gone, because their order is nobody's to choose. Instead a call gives way to other tasks when the dice say so.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from unittest.mock import patch

from dujiang.kit import sqlite as kit_sqlite
from dujiang.kit.clock import EPOCH, ManualClock


class Dice:
    """One seed, one stream per concern."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, name: str) -> random.Random:
        """Return the stream of a concern."""
        return random.Random(f"{self.seed}/{name}")


class HeldClock:
    """What a process takes for the time: as `SystemClock` does, it stands still while the wall clock is set back."""

    def __init__(self, wall: ManualClock) -> None:
        self._wall = wall
        self._latest = EPOCH

    def now(self) -> datetime:
        """Return the wall clock's time, or the latest time said when that is later."""
        self._latest = max(self._latest, self._wall.now())
        return self._latest

    def monotonic_s(self) -> float:
        """Return the seconds that have passed."""
        return self._wall.monotonic_s()

    async def sleep(self, seconds: float) -> None:
        """Refuse: nothing in a tick may wait for time to pass."""
        raise AssertionError(f"a tick waits for {seconds} s")

    def forget(self) -> None:
        """Begin anew, as another process does: the wall clock may be behind what the last one said."""
        self._latest = EPOCH


class Mishaps:
    """What goes wrong between the platform and its database, and who goes first."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.busy = self.refused = self.unheard = self.full = 0.0
        """Chances: of the write lock being elsewhere, of a commit not made, of one made whose answer is lost, of one
        that finds the disk full."""
        self.yields = 0.12
        self.counted: dict[str, int] = {}

    def calm(self) -> None:
        """End them all; tasks still meet in any order."""
        self.busy = self.refused = self.unheard = self.full = 0.0

    def strikes(self, what: str, chance: float) -> bool:
        """Say whether one happens now."""
        if chance and self._dice.random() < chance:
            self.counted[what] = self.counted.get(what, 0) + 1
            return True
        return False

    def turns(self) -> int:
        """Say how often others go first, mostly not at all."""
        return 0 if self._dice.random() >= self.yields else 1 + int(self._dice.random() * 3)


class StageDriver(kit_sqlite._Closing):
    """The SQLite connection below it, for what is asked of that directly."""

    mishaps: Mishaps
    is_locked_out = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        """Run a statement; find the write lock elsewhere now and then, and still there at the second try."""
        if sql.startswith("BEGIN IMMEDIATE") and self.mishaps.strikes("busy", self.mishaps.busy):
            self.is_locked_out = True
            raise sqlite3.OperationalError("database is locked")
        return super().execute(sql, *args)


class StageConnection(kit_sqlite.LoopConnection):
    """An SQLite connection without a thread."""

    mishaps: Mishaps

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        await self.give_way()
        name = fn.__name__
        if name == "commit":
            return self._commit(fn)
        if name == "execute" and args[0].startswith("BEGIN IMMEDIATE"):
            self._begin()
        return fn(*args, **kwargs)

    async def give_way(self) -> None:
        """Let others go first when the dice say so."""
        for _ in range(self.mishaps.turns()):
            await asyncio.sleep(0)

    def _begin(self) -> None:
        driver = self._connection
        assert isinstance(driver, StageDriver)
        if driver.is_locked_out or self.mishaps.strikes("busy", self.mishaps.busy):
            driver.is_locked_out = False
            raise sqlite3.OperationalError("database is locked")

    def _commit(self, fn: Callable[[], Any]) -> None:
        mishaps = self.mishaps
        if mishaps.strikes("refused", mishaps.refused):
            raise sqlite3.OperationalError("database is locked")
        if mishaps.strikes("full", mishaps.full):
            raise sqlite3.OperationalError("database or disk is full")
        fn()
        if mishaps.strikes("unheard", mishaps.unheard):
            raise sqlite3.OperationalError("disk I/O error")

    async def _connect(self) -> StageConnection:
        if self._connection is None:
            self._connection = self._connector()
        return self

    def __await__(self) -> Any:
        return self._connect().__await__()

    def stop(self) -> None:
        """Close at once."""
        self._running = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class InPlace(ThreadPoolExecutor):
    """Runs what is meant for a thread at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it; return what has ended."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def on_stage(mishaps: Mishaps) -> Iterator[None]:
    """Have every database that is opened meanwhile run on this stage."""

    def connect(path: str, *, timeout: float, isolation_level: None, **options: Any) -> StageConnection:
        def open_it() -> sqlite3.Connection:
            driver = sqlite3.connect(
                path, timeout=timeout, isolation_level=isolation_level, factory=StageDriver, **options
            )
            driver.mishaps = mishaps
            return driver

        connection = StageConnection(open_it, 64)
        connection.mishaps = mishaps
        return connection

    # Under the name of the real one, so that statements take the same short way as they do there.
    with patch.object(kit_sqlite, "connect", connect), patch.object(kit_sqlite, "LoopConnection", StageConnection):
        yield
