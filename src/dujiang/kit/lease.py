"""Which process runs the loops: a row in the database that its holder keeps fresh.

Safety does not rest on wall clocks, which differ between machines and step. The holder trusts its lease for
`HELD * lease_s` after the start of its last renewal, by its own monotonic clock, and stops what it does then. Another
process takes a lease only after it has watched the row stay as it is for longer than that, by its own monotonic clock:
for `WATCHED * lease_s` when the row's time has run out as well, for `lease_s` when it has not (the clock was set back).
A lease that was given up, or that carries the taker's own name, is taken at once. All processes use one `lease_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Column, String, Table, select, update
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.tables import UtcMicros, metadata

RENEWED: Final = 1 / 6
"""Part of the lease between two renewals."""
HELD: Final = 1 / 2
"""Part of the lease for which a holder goes on without a renewal."""
WATCHED: Final = 0.6
"""Part of the lease for which a taker must have seen no renewal; the difference is time to stop what is running."""

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("until", UtcMicros, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The row as it was first seen like this, and when by the monotonic clock."""

    term: int
    beat: int
    since_s: float


class Lease:
    """One process's side of a lease. `term` counts the takings, `beat` the renewals."""

    def __init__(self, db: Database, name: str, holder: str, *, clock: Clock, lease_s: float) -> None:
        """Take the lease's name and who asks.

        Args:
            db: where the row is.
            name: of the lease.
            holder: name of this process. Where something else makes sure that there is only one process (a lock on the
                home directory, say), a name that stays the same over restarts lets the next one go on without a wait.
            clock: time.
            lease_s: how long a silent holder keeps others out. Too short, and a slow disk costs the lease; too long,
                and the loops stand still for that long after a crash.
        """
        self._db, self._name, self._holder, self._clock, self._lease_s = db, name, holder, clock, lease_s
        self._term = 0
        self._deadline_s = 0.0
        self._seen: _Seen | None = None
        self._late: set[asyncio.Future[bool]] = set()

    @property
    def remaining_s(self) -> float:
        """Seconds for which this process may go on without a renewal; 0 when it does not hold the lease."""
        return max(0.0, self._deadline_s - self._clock.monotonic_s()) if self._term else 0.0

    async def take(self) -> bool:
        """Take the lease if it is free; say whether this process holds it now.

        Raises:
            Unavailable: the database is away.
        """
        asked_s = self._clock.monotonic_s()
        async with self._db.reading() as tx:
            row = await self._row(tx)
        if row is not None and not self._is_free(row, asked_s):
            return False
        asked_s = self._clock.monotonic_s()
        async with self._db.transaction(cause="lease") as tx:
            term = await self._write_taken(tx, row)
        self._term, self._deadline_s = term, asked_s + HELD * self._lease_s
        return term > 0

    async def renew(self) -> bool:
        """Make the lease fresh; say whether this process still holds it."""
        asked_s = self._clock.monotonic_s()
        async with self._db.transaction(cause="lease") as tx:
            until = tx.now + timedelta(seconds=self._lease_s)
            changed = await tx.execute(self._update_own().values(until=until, beat=leases.c.beat + 1))
        if changed.rowcount != 1:
            self._term = 0
            return False
        self._deadline_s = asked_s + HELD * self._lease_s
        return True

    async def release(self) -> None:
        """Give the lease up if this process holds it, so that the next one need not wait."""
        if not self._term:
            return
        try:
            async with self._db.transaction(cause="lease") as tx:
                await tx.execute(self._update_own().values(holder="", until=tx.now, beat=leases.c.beat + 1))
        finally:
            self._term = 0

    async def keep(self) -> None:
        """Renew the lease as long as that succeeds; return, no later than `remaining_s` runs out, when it is lost."""
        every_s = RENEWED * self._lease_s
        wait_s = every_s
        while True:
            await self._clock.sleep(min(wait_s, self.remaining_s))
            wait_s = every_s
            try:
                kept = await self._renew_in_time()
            except Exception as error:  # the database may be back before the lease runs out
                left_s = round(self.remaining_s, 3)
                log.failure(_log, "lease not renewed", error, lease=self._name, remaining_s=left_s)
                kept, wait_s = True, every_s / 4
            if not kept or self.remaining_s <= 0:
                self._term = 0
                return

    async def _renew_in_time(self) -> bool:
        renewal = asyncio.ensure_future(self.renew())
        try:
            await first_of(self._clock, self.remaining_s, lambda: asyncio.wait({renewal}))
        finally:
            if not renewal.done():  # not waited for: what this process runs must stop now
                renewal.cancel()
                self._late.add(renewal)
                renewal.add_done_callback(self._forget)
        return renewal.result() if renewal.done() else False

    def _forget(self, renewal: asyncio.Future[bool]) -> None:
        self._late.discard(renewal)
        if not renewal.cancelled():
            renewal.exception()  # looked at, so that asyncio does not report it

    async def _row(self, tx: Tx) -> Any:
        return (await tx.execute(select(leases).where(leases.c.name == self._name))).first()

    def _is_free(self, row: Any, now_s: float) -> bool:
        if row.holder in ("", self._holder):
            return True
        if self._seen is None or (self._seen.term, self._seen.beat) != (row.term, row.beat):
            self._seen = _Seen(row.term, row.beat, now_s)
        still_s = now_s - self._seen.since_s
        ran_out = row.until <= self._clock.now()
        return still_s >= (WATCHED if ran_out else 1.0) * self._lease_s

    async def _write_taken(self, tx: Tx, row: Any) -> int:
        """Write this process in and return the term; 0 when the row is no longer what was read."""
        until = tx.now + timedelta(seconds=self._lease_s)
        if row is None:
            dialect: Any = sqlite if tx.connection.dialect.name == "sqlite" else postgresql
            first = {"name": self._name, "holder": self._holder, "until": until, "term": 1, "beat": 1}
            changed = await tx.execute(dialect.insert(leases).values(**first).on_conflict_do_nothing())
            return 1 if changed.rowcount == 1 else 0
        as_read = (leases.c.name == self._name, leases.c.term == row.term, leases.c.beat == row.beat)
        new = {"holder": self._holder, "until": until, "term": row.term + 1, "beat": row.beat + 1}
        changed = await tx.execute(update(leases).where(*as_read).values(**new))
        return row.term + 1 if changed.rowcount == 1 else 0

    def _update_own(self) -> Any:
        own = (leases.c.name == self._name, leases.c.holder == self._holder, leases.c.term == self._term)
        return update(leases).where(*own)


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, bool]) -> bool:
    """Return what the work returns, or False when it has not ended after that many seconds; it is cancelled then."""
    task = asyncio.ensure_future(work)
    try:
        await first_of(clock, seconds, lambda: asyncio.wait({task}))
        return task.result() if task.done() else False
    finally:
        await cancel([task])


async def first_of(clock: Clock, seconds: float, *others: Callable[[], Awaitable[Any]]) -> None:
    """Wait until one of the others has ended, or for that many seconds of the clock."""
    tasks = [asyncio.ensure_future(other()) for other in (lambda: clock.sleep(seconds), *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(tasks)


async def cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
