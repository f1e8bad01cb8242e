"""Each event takes effect once, in order, whatever fails in between."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Integer, String, Table, insert, select, update

from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database, Tx
from dujiang.kit.journal import Event, Record
from dujiang.kit.outbox import Outbox, Subscription, outbox_cursors
from dujiang.kit.tables import metadata

effects = Table(
    "test_effects",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("number", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poured(Event):
    """Something to hear."""

    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilt(Event):
    """Something else."""


class Listener:
    """Writes a row for each event, and raises at the numbers it is told to."""

    def __init__(self, name: str = "listener") -> None:
        self.name = name
        self.refused: set[int] = set()
        self.calls = 0

    async def handle(self, tx: Tx, record: Record) -> None:
        self.calls += 1
        await tx.execute(insert(effects).values(name=self.name, seq=record.seq, number=record.payload["number"]))
        if record.payload["number"] in self.refused:
            raise ValueError("not that one")

    def subscription(self, *types: str, from_now: bool = False) -> Subscription:
        return Subscription(self.name, frozenset(types or {"Poured"}), self.handle, from_now)


async def pour(database: Database, *numbers: int) -> None:
    async with database.transaction() as tx:
        tx.emit(*(Poured(subject="s", number=number) for number in numbers))


async def spill(database: Database, count: int) -> None:
    async with database.transaction() as tx:
        tx.emit(*(Spilt(subject="s") for _ in range(count)))


async def heard(database: Database, name: str = "listener") -> list[int]:
    async with database.reading() as tx:
        query = select(effects.c.number).where(effects.c.name == name).order_by(effects.c.seq)
        return list((await tx.execute(query)).scalars())


async def cursor(database: Database, name: str = "listener") -> int:
    async with database.reading() as tx:
        return (await tx.execute(select(outbox_cursors.c.seq).where(outbox_cursors.c.name == name))).scalar_one()


async def run_out(outbox: Outbox) -> list[dict[str, int]]:
    """Tick until there is no more; return the steps of each tick."""
    steps = []
    for _ in range(100):
        report = await outbox.tick()
        steps.append(dict(report.steps))
        if not report.again:
            return steps
    raise AssertionError("the outbox never comes to rest")


async def test_events_of_before_are_heard_in_order_and_once(database: Database) -> None:
    listener = Listener()
    await pour(database, 1, 2, 3)
    outbox = Outbox(database, [listener.subscription()])
    assert dict((await outbox.tick()).steps) == {"listener": 3}
    await pour(database, 4)
    assert await run_out(outbox) == [{"listener": 1}]
    assert dict((await outbox.tick()).steps) == {}
    assert await heard(database) == [1, 2, 3, 4]
    assert listener.calls == 4


async def test_a_new_process_goes_on_where_the_old_one_was(database: Database) -> None:
    await pour(database, 1, 2)
    await Outbox(database, [Listener().subscription()]).tick()
    await pour(database, 3)
    again = Listener()
    await Outbox(database, [again.subscription()]).tick()
    assert (await heard(database), again.calls) == ([1, 2, 3], 1)


async def test_a_batch_at_a_time(database: Database) -> None:
    await pour(database, *range(7))
    outbox = Outbox(database, [Listener().subscription()], batch=3)
    assert await run_out(outbox) == [{"listener": 3}, {"listener": 3}, {"listener": 1}]
    assert await heard(database) == list(range(7))


async def test_from_now_hears_only_what_comes(database: Database) -> None:
    await pour(database, 1, 2)
    outbox = Outbox(database, [Listener().subscription(from_now=True)])
    assert dict((await outbox.tick()).steps) == {}
    await pour(database, 3)
    await outbox.tick()
    assert await heard(database) == [3]


async def test_other_types_are_passed_over_and_the_cursor_follows(database: Database) -> None:
    listener = Listener()
    outbox = Outbox(database, [listener.subscription()], batch=10)
    await outbox.tick()
    await spill(database, 9)
    await outbox.tick()
    assert (await cursor(database), await outbox.lag()) == (0, {"listener": 0})  # looked at, not worth a write
    await spill(database, 1)
    await outbox.tick()
    assert await cursor(database) == 10
    await spill(database, 5)
    await pour(database, 1)
    await spill(database, 2)
    await outbox.tick()
    assert (await cursor(database), await heard(database)) == (18, [1])


async def test_a_cursor_set_back_by_hand_is_obeyed(database: Database) -> None:
    listener = Listener()
    outbox = Outbox(database, [listener.subscription()])
    await pour(database, 1)
    await run_out(outbox)
    await spill(database, 3)
    await run_out(outbox)
    async with database.transaction() as tx:
        await tx.execute(effects.delete())
        await tx.execute(update(outbox_cursors).values(seq=0))
    await run_out(outbox)
    assert await heard(database) == [1]


async def test_one_that_raises_stops_there_and_the_others_go_on(database: Database) -> None:
    bad, good = Listener("bad"), Listener("good")
    bad.refused = {3}
    await pour(database, 1, 2, 3, 4)
    outbox = Outbox(database, [bad.subscription(), good.subscription()])
    for attempt in range(3):
        report = await outbox.tick()
        assert "bad stands at event 3 (Poured): ValueError: not that one" in report.failed
        assert not report.again
        assert dict(report.steps) == ({"bad": 2, "good": 4} if attempt == 0 else {})
        assert (await heard(database, "bad"), await heard(database, "good")) == ([1, 2], [1, 2, 3, 4])
        assert (await cursor(database, "bad"), await cursor(database, "good")) == (2, 4)
    bad.refused = set()
    assert (await outbox.tick()).failed == ""
    assert await heard(database, "bad") == [1, 2, 3, 4]


async def test_what_the_database_refuses_is_told_in_the_platforms_words(database: Database) -> None:
    async def handle(tx: Tx, record: Record) -> None:
        await tx.execute(insert(effects).values(name="twice", seq=1, number=1))

    await pour(database, 1, 2)
    outbox = Outbox(database, [Subscription("twice", frozenset({"Poured"}), handle)])
    report = await outbox.tick()
    assert report.failed.startswith("twice stands at event 2 (Poured): The same object exists already")
    assert await heard(database, "twice") == [1]


async def test_events_that_a_handler_emits_are_heard_too(database: Database) -> None:
    async def echo(tx: Tx, record: Record) -> None:
        if (number := record.payload["number"]) < 4:
            tx.emit(Poured(subject="echo", number=number + 1))

    listener = Listener()
    await pour(database, 1)
    echoing = Subscription("echo", frozenset({"Poured"}), echo)
    await run_out(Outbox(database, [echoing, listener.subscription()]))
    assert await heard(database) == [1, 2, 3, 4]
    assert (await database.verify_journal())[1] == []


async def test_the_handlers_transaction_names_its_cause(database: Database) -> None:
    async def echo(tx: Tx, record: Record) -> None:
        tx.emit(Spilt(subject="s"))

    await pour(database, 1)
    await run_out(Outbox(database, [Subscription("echo", frozenset({"Poured"}), echo)]))
    async with database.reading() as tx:
        (record,) = await journal.read(tx.connection, types=["Spilt"])
    assert (record.actor, record.cause) == ("platform", "outbox:echo")


async def test_two_processes_at_once_hand_out_nothing_twice(database: Database, clock: ManualClock) -> None:
    other = Database(database.url, clock=clock, journal_key=b"a key for tests")
    try:
        await pour(database, *range(40))
        outboxes = [Outbox(which, [Listener().subscription()], batch=7) for which in (database, other)]
        await asyncio.gather(*(run_out(outbox) for outbox in outboxes))
        assert await heard(database) == list(range(40))
    finally:
        await other.close()


async def test_cancelled_at_any_step_nothing_is_lost_or_doubled(database: Database) -> None:
    await pour(database, *range(20))
    outbox = Outbox(database, [Listener().subscription()], batch=4)
    for steps in range(0, 40, 2):
        task = asyncio.create_task(outbox.tick())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await run_out(outbox)
    assert await heard(database) == list(range(20))


async def test_each_may_have_a_loop_of_its_own(sqlite: Database) -> None:
    bad, good = Listener("bad"), Listener("good")
    bad.refused = {1}
    outbox = Outbox(sqlite, [bad.subscription(), good.subscription()])
    first, second = outbox.loops(every_s=2.0)
    assert (first.name, second.name, first.every_s) == ("outbox.bad", "outbox.good", 2.0)
    await pour(sqlite, 1)
    outbox.wake()
    assert (await first.tick()).failed
    assert dict((await second.tick()).steps) == {"good": 1}
    assert await outbox.lag() == {"bad": 1, "good": 0}


def test_two_of_one_name_are_refused(clock: ManualClock) -> None:
    database = Database("sqlite+aiosqlite:///unused", clock=clock, journal_key=b"k")
    with pytest.raises(ValueError, match="same name"):
        Outbox(database, [Listener().subscription(), Listener().subscription()])


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.integers(0, 9), st.none(), st.just("tick"), st.just("restart")), max_size=25),
    st.integers(1, 4), st.sets(st.integers(0, 9), max_size=2),
)  # fmt: skip
async def test_whatever_comes_in_whatever_order_is_heard_once(
    sqlite: Database, story: list[int | str | None], batch: int, refused: set[int]
) -> None:
    async with sqlite.transaction() as tx:
        for table in (effects, outbox_cursors, journal.journal, journal.head):
            await tx.execute(table.delete())
    listener = Listener()
    outbox = Outbox(sqlite, [listener.subscription()], batch=batch)
    poured = []
    listener.refused = refused
    for step in story:
        if isinstance(step, int):
            poured.append(step)
            await pour(sqlite, step)
        elif step is None:
            await spill(sqlite, 2)
        elif step == "tick":
            await outbox.tick()
        else:
            outbox = Outbox(sqlite, [listener.subscription()], batch=batch)
        assert (so_far := await heard(sqlite)) == poured[: len(so_far)]
        assert not refused & set(so_far)
    listener.refused = set()
    await run_out(outbox)
    assert await heard(sqlite) == poured
