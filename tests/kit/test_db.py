"""Transactions on both databases: all or nothing, the journal with them, and clear words for what a database does."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, String, Table, func, insert, select, update

from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import MEMORY, Database, Tx
from dujiang.kit.errors import Conflict, Invalid, StorageFull, Unavailable
from dujiang.kit.journal import Event
from dujiang.kit.tables import metadata

boxes = Table(
    "test_boxes", metadata, Column("name", String(4000), primary_key=True), Column("amount", Integer, nullable=False)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxFilled(Event):
    """A box was filled."""

    amount: int


async def fill(tx: Tx, name: str, amount: int) -> None:
    await tx.execute(insert(boxes).values(name=name, amount=amount))
    tx.emit(BoxFilled(subject=name, amount=amount))


async def amounts(database: Database) -> dict[str, int]:
    async with database.reading() as tx:
        return {row.name: row.amount for row in await tx.execute(select(boxes))}


async def records(database: Database) -> list[journal.Record]:
    async with database.reading() as tx:
        return await journal.read(tx.connection)


async def test_commit_keeps_the_rows_and_the_record(database: Database, clock: ManualClock) -> None:
    clock.advance(5)
    async with database.transaction(actor="user:u", cause="c") as tx:
        await fill(tx, "a", 1)
    assert await amounts(database) == {"a": 1}
    (record,) = await records(database)
    assert (record.seq, record.actor, record.cause, record.type, record.subject) == (1, "user:u", "c", "BoxFilled", "a")
    assert record.at == clock.now()
    assert record.event() == BoxFilled(subject="a", amount=1)


async def test_an_exception_undoes_the_rows_and_the_record(database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await fill(tx, "a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert await amounts(database) == {}
    assert await records(database) == []
    async with database.transaction() as tx:  # the connection is fit for use
        await fill(tx, "b", 2)
    assert await amounts(database) == {"b": 2}


async def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(database: Database) -> None:
    entered = asyncio.Event()

    async def hang() -> None:
        async with database.transaction() as tx:
            await fill(tx, "a", 1)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        async with database.transaction() as tx:
            await fill(tx, "b", 2)
    assert await amounts(database) == {"b": 2}


async def test_a_commit_that_fails_leaves_nothing_open(database: Database) -> None:
    create = "CREATE TABLE test_lids (box VARCHAR(10) REFERENCES test_boxes (name) DEFERRABLE INITIALLY DEFERRED)"
    async with database.transaction() as tx:
        await tx.connection.exec_driver_sql(create)
    for _ in range(3):
        with pytest.raises(Conflict):  # found at the commit, and SQLite leaves the transaction open, its lock held
            async with database.transaction() as tx:
                await tx.connection.exec_driver_sql("INSERT INTO test_lids VALUES ('none')")
        async with database.reading() as tx:
            assert (await tx.connection.exec_driver_sql("SELECT count(*) FROM test_lids")).scalar() == 0
    async with database.transaction() as tx:
        await fill(tx, "a", 1)
    assert await amounts(database) == {"a": 1}


async def test_cancelled_at_every_step_the_next_transaction_still_works(database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as tx:
            await fill(tx, "x", 1)
            await fill(tx, "y", 1)

    for steps in range(0, 60, 3):
        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            async with database.transaction() as tx:
                await tx.execute(boxes.delete())
                await fill(tx, "next", steps)
        assert await amounts(database) == {"next": steps}
    assert (await database.verify_journal())[1] == []


async def test_cancelled_while_it_commits_after_a_wait_for_the_lock_it_ends_as_cancelled(
    tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "shared.db"
    database = Database(f"sqlite+aiosqlite:///{path}", clock=clock, journal_key=b"k")
    await database.create_all()
    other = sqlite3.connect(path, isolation_level=None)
    outcomes = []
    for number in range(30):
        written = asyncio.Event()

        async def work(number: int = number, written: asyncio.Event = written) -> None:
            async with database.transaction() as tx:
                await fill(tx, f"box{number}", 1)
                written.set()

        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(work())
        await asyncio.sleep(0.02)
        other.execute("ROLLBACK")
        await written.wait()
        for _ in range(number // 3):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        outcomes.append(type(outcome))
    other.close()
    async with database.transaction() as tx:
        await fill(tx, "last", 1)
    await database.close()
    assert set(outcomes) <= {asyncio.CancelledError, type(None)}
    assert asyncio.CancelledError in outcomes


async def test_listeners_hear_a_commit_with_a_record_and_nothing_else(database: Database) -> None:
    heard: list[str] = []
    database.on_commit(lambda: heard.append("commit"))
    async with database.transaction() as tx:
        tx.afterwards(lambda: heard.append("after"))
        await fill(tx, "a", 1)
        assert heard == []
    assert heard == ["after", "commit"]
    async with database.transaction() as tx:
        await tx.execute(update(boxes).values(amount=2))

    async def fail() -> None:
        async with database.transaction() as tx:
            tx.afterwards(lambda: heard.append("after a rollback"))
            await fill(tx, "b", 1)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert heard == ["after", "commit"]


async def test_concurrent_writers_lose_nothing_and_the_chain_holds(database: Database) -> None:
    async with database.transaction() as tx:
        await fill(tx, "sum", 0)

    async def add(n: int) -> None:
        async with database.transaction() as tx:
            await tx.execute(update(boxes).where(boxes.c.name == "sum").values(amount=boxes.c.amount + n))
            await asyncio.sleep(0)
            tx.emit(BoxFilled(subject="sum", amount=n), BoxFilled(subject="twice", amount=n))

    await asyncio.gather(*(add(n) for n in range(40)))
    assert (await amounts(database))["sum"] == sum(range(40))
    assert await database.verify_journal() == (81, [])


async def test_two_processes_of_a_database_keep_one_chain(database: Database, clock: ManualClock) -> None:
    other = Database(database.url, clock=clock, journal_key=b"a key for tests")
    try:

        async def write(which: Database, name: str) -> None:
            async with which.transaction() as tx:
                await fill(tx, name, 1)

        await asyncio.gather(*(write((database, other)[n % 2], f"n{n}") for n in range(30)))
        assert len(await amounts(database)) == 30
        assert await other.verify_journal() == (30, [])
    finally:
        await other.close()


async def test_a_reader_sees_one_moment(database: Database) -> None:
    async with database.transaction() as tx:
        await fill(tx, "a", 1)
    async with database.reading() as reader:
        count = select(func.count()).select_from(boxes)
        assert (await reader.execute(count)).scalar_one() == 1
        async with database.transaction() as tx:
            await fill(tx, "b", 1)
        assert (await reader.execute(count)).scalar_one() == 1
    assert len(await amounts(database)) == 2


async def test_a_reader_cannot_leave_anything(database: Database) -> None:
    try:
        async with database.reading() as tx:
            await tx.execute(insert(boxes).values(name="a", amount=1))
    except Exception:  # PostgreSQL refuses; SQLite forgets
        pass
    assert await amounts(database) == {}


async def test_a_uniqueness_violation_is_a_conflict(database: Database) -> None:
    async with database.transaction() as tx:
        await fill(tx, "a", 1)
    with pytest.raises(Conflict):
        async with database.transaction() as tx:
            await fill(tx, "a", 2)
    assert await amounts(database) == {"a": 1}


@pytest.mark.parametrize("amount", [2**63, -(2**70), 10**30])
async def test_a_number_no_database_can_hold_is_invalid(database: Database, amount: int) -> None:
    with pytest.raises(Invalid):
        async with database.transaction() as tx:
            await fill(tx, "a", amount)
    assert await amounts(database) == {}


@pytest.mark.parametrize("text", ["lone \ud800 surrogate"])
async def test_text_no_database_can_hold_is_invalid(database: Database, text: str) -> None:
    with pytest.raises(Invalid):
        async with database.transaction() as tx:
            await tx.execute(insert(boxes).values(name=text, amount=1))
    assert await amounts(database) == {}


async def test_a_database_locked_by_another_program_is_unavailable(tmp_path: Path, clock: ManualClock) -> None:
    file = tmp_path / "locked.db"
    database = Database(f"sqlite+aiosqlite:///{file}", clock=clock, journal_key=b"k", busy_timeout_s=0.05)
    await database.create_all()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Unavailable, match="locked"):
            async with database.transaction() as tx:
                await fill(tx, "a", 1)
        async with database.reading() as tx:  # readers go on
            assert (await tx.execute(select(boxes))).all() == []
    finally:
        other.execute("ROLLBACK")
        other.close()
    async with database.transaction() as tx:
        await fill(tx, "a", 1)
    assert await amounts(database) == {"a": 1}
    await database.close()


async def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'full.db'}", clock=clock, journal_key=b"k")
    await database.create_all()
    async with database.transaction() as tx:
        await fill(tx, "kept", 1)
        pages = (await tx.connection.exec_driver_sql("PRAGMA page_count")).scalar_one()

    async def flood() -> None:
        async with database.transaction() as tx:
            await tx.connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
            for n in range(100):
                await fill(tx, f"{n} " + "x" * 3900, n)

    with pytest.raises(StorageFull):
        await flood()
    assert await amounts(database) == {"kept": 1}
    assert await database.verify_journal() == (1, [])
    async with database.transaction() as tx:
        await tx.connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        await fill(tx, "after", 2)
    assert await amounts(database) == {"kept": 1, "after": 2}
    await database.close()


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"postgresql+asyncpg://nobody@/none?host={tmp_path}", clock=clock, journal_key=b"k")
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with database.transaction():
            pass
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with database.reading():
            pass
    await database.close()


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path, clock: ManualClock) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'no' / 'such.db'}", clock=clock, journal_key=b"k")
    with pytest.raises(Unavailable):
        async with database.transaction():
            pass
    await database.close()


async def test_the_memory_database_is_one_for_all(clock: ManualClock) -> None:
    database = Database(MEMORY, clock=clock, journal_key=b"k")
    await database.create_all()

    async def write(n: int) -> None:
        async with database.transaction() as tx:
            await fill(tx, f"n{n}", n)

    await asyncio.gather(*(write(n) for n in range(10)))
    assert await amounts(database) == {f"n{n}": n for n in range(10)}
    assert await database.verify_journal() == (10, [])
    await database.close()


async def test_readers_beyond_the_pool_wait_their_turn(database: Database) -> None:
    async with database.transaction() as tx:
        await fill(tx, "a", 1)
    found = await asyncio.gather(*(amounts(database) for _ in range(60)))
    assert found == [{"a": 1}] * 60
