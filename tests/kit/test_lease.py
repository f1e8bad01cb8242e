"""Never two holders at once, whatever the clocks do; and no longer without one than promised."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import Unavailable
from dujiang.kit.lease import HELD, RENEWED, WATCHED, Lease, leases
from tests.kit.clocks import SteppedClock, until

LEASE_S = 10.0


class Side:
    """A process with its own clock, on the database of another."""

    def __init__(self, url: str, holder: str) -> None:
        self.clock = ManualClock()
        self.database = Database(url, clock=self.clock, journal_key=b"k", durable=False)
        self.lease = Lease(self.database, "loops", holder, clock=self.clock, lease_s=LEASE_S)

    @property
    def holds(self) -> bool:
        return self.lease.remaining_s > 0


@pytest.fixture
async def sides(database: Database):
    both = Side(database.url, "first"), Side(database.url, "second")
    yield both
    for side in both:
        await side.database.close()


def advance(sides: tuple[Side, Side], seconds: float) -> None:
    for side in sides:
        side.clock.advance(seconds)


async def test_a_free_lease_is_taken_and_another_waits(sides: tuple[Side, Side]) -> None:
    first, second = sides
    assert await first.lease.take()
    assert first.lease.remaining_s == HELD * LEASE_S
    assert not await second.lease.take()
    assert not second.holds


async def test_a_lease_given_up_is_taken_at_once(sides: tuple[Side, Side]) -> None:
    first, second = sides
    await first.lease.take()
    await first.lease.release()
    assert not first.holds
    assert await second.lease.take()
    assert not await first.lease.renew()  # it is not the first's any more
    await first.lease.release()
    assert await second.lease.renew()


async def test_a_silent_holder_stops_before_another_begins(sides: tuple[Side, Side]) -> None:
    first, second = sides
    await first.lease.take()
    taken_at = None
    for tenth in range(1, 130):
        advance(sides, 0.1)
        if await second.lease.take():
            taken_at = tenth / 10
            break
        if tenth != 10 * HELD * LEASE_S:  # at the moment itself rounding decides
            assert first.holds == (tenth < 10 * HELD * LEASE_S)
    assert taken_at == pytest.approx(LEASE_S, abs=0.11)
    assert not await first.lease.renew()


async def test_a_holder_that_renews_is_never_robbed(sides: tuple[Side, Side]) -> None:
    first, second = sides
    await first.lease.take()
    for _ in range(40):
        advance(sides, 2.0)
        assert await first.lease.renew()
        assert not await second.lease.take()


async def test_a_taker_whose_clock_is_ahead_robs_nobody(sides: tuple[Side, Side]) -> None:
    first, second = sides
    second.clock.step(3600)
    await first.lease.take()
    for _ in range(40):
        advance(sides, 2.0)
        assert await first.lease.renew()
        assert not await second.lease.take()
    advance(sides, WATCHED * LEASE_S)
    assert not first.holds
    assert await second.lease.take()  # and once the first is silent it does not wait for the time of the row


async def test_a_taker_whose_clock_is_behind_waits_no_longer_than_the_lease(sides: tuple[Side, Side]) -> None:
    first, second = sides
    await first.lease.take()
    second.clock.step(-86400)
    assert not await second.lease.take()
    advance(sides, LEASE_S - 0.1)
    assert not await second.lease.take()
    advance(sides, 0.2)
    assert await second.lease.take()


async def test_the_same_name_takes_its_own_lease_at_once(sides: tuple[Side, Side]) -> None:
    first, _ = sides
    await first.lease.take()
    again = Side(first.database.url, "first")
    try:
        assert await again.lease.take()
        assert not await first.lease.renew()  # so a holder still alive under the name is told
    finally:
        await again.database.close()


async def test_of_many_that_take_at_once_one_holds(database: Database, clock: ManualClock) -> None:
    takers = [Lease(database, "loops", f"p{n}", clock=clock, lease_s=LEASE_S) for n in range(8)]
    assert sum(await asyncio.gather(*(taker.take() for taker in takers))) == 1


async def test_a_row_that_is_gone_is_a_lease_lost(sides: tuple[Side, Side]) -> None:
    first, _ = sides
    await first.lease.take()
    async with first.database.transaction() as tx:
        await tx.execute(delete(leases))
    assert not await first.lease.renew()
    assert not first.holds


async def test_keep_renews_and_ends_when_the_lease_is_lost(database: Database) -> None:
    clock = SteppedClock()
    lease = Lease(database, "loops", "me", clock=clock, lease_s=LEASE_S)
    await lease.take()
    keeping = asyncio.create_task(lease.keep())
    async with asyncio.timeout(10):
        for renewals in range(1, 6):
            await clock.run(RENEWED * LEASE_S, step_s=RENEWED * LEASE_S)
            while await _beats(database) < 1 + renewals:
                assert not keeping.done()
            await until(lambda: lease.remaining_s > (HELD - RENEWED / 2) * LEASE_S)
        async with database.transaction() as tx:
            await tx.execute(update(leases).values(holder="other", term=leases.c.term + 1))
        await clock.run(RENEWED * LEASE_S, step_s=RENEWED * LEASE_S)
        await keeping
    assert lease.remaining_s == 0


@pytest.mark.parametrize("busy_timeout_s", [0.01, 2.0])
async def test_keep_ends_in_time_when_the_database_is_away(tmp_path: Path, busy_timeout_s: float) -> None:
    """Also while a renewal is still waiting for the database."""
    clock = SteppedClock()
    url = f"sqlite+aiosqlite:///{tmp_path / 'away.db'}"
    database = Database(url, clock=clock, journal_key=b"k", busy_timeout_s=busy_timeout_s)
    await database.create_all()
    lease = Lease(database, "loops", "me", clock=clock, lease_s=LEASE_S)
    await lease.take()
    other = sqlite3.connect(tmp_path / "away.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        keeping = asyncio.create_task(lease.keep())
        await clock.run(HELD * LEASE_S - 0.25)
        assert not keeping.done()
        await clock.run(0.5)
        assert keeping.done()
        assert lease.remaining_s == 0
    finally:
        other.execute("ROLLBACK")
        other.close()
    for _ in range(100):
        if await _taken(lease):  # it may try again, and is itself still written in
            break
        await asyncio.sleep(0.05)
    assert lease.remaining_s > 0
    await database.close()


async def _taken(lease: Lease) -> bool:
    """Take it; False while SQLite, with so short a patience, still answers that it is locked."""
    try:
        return await lease.take()
    except Unavailable:
        return False


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["advance", "take", "renew", "release", "step"]), st.integers(0, 1),
            st.floats(0, 8) | st.sampled_from([-3600.0, 3600.0, 30.0, -12.0]),
        ),
        max_size=40,
    )
)  # fmt: skip
async def test_never_two_holders(sqlite: Database, story: list[tuple[str, int, float]]) -> None:
    async with sqlite.transaction() as tx:
        await tx.execute(delete(leases))
    both = Side(sqlite.url, "first"), Side(sqlite.url, "second")
    try:
        for action, who, amount in story:
            side = both[who]
            match action:
                case "advance":
                    advance(both, abs(amount) % 9)
                case "step":
                    side.clock.step(amount)
                case "take":
                    if not side.holds:
                        await side.lease.take()
                case "renew":
                    if side.holds:
                        await side.lease.renew()
                case _:
                    await side.lease.release()
            assert not (both[0].holds and both[1].holds)
        await both[0].lease.take()  # from here on nobody renews: whoever watches for the length of a lease has it
        advance(both, LEASE_S + 0.001)  # a sum of floats may be a little short
        assert await both[0].lease.take()
    finally:
        for side in both:
            await side.database.close()


async def _beats(database: Database) -> int:
    async with database.reading() as tx:
        return (await tx.execute(select(leases.c.beat))).scalar_one()
