"""When loops run: in rhythm, sooner when woken, later after a failure, and only where the lease is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import structlog
from sqlalchemy import select, update
from structlog.testing import CapturingLogger

from dujiang.kit import log
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import Conflict, Unavailable
from dujiang.kit.lease import leases
from dujiang.kit.loop import Loop, Runner, TickReport
from dujiang.kit.metrics import Metrics
from tests.kit.clocks import SteppedClock, turns, until

FOREVER = 1e9


@dataclass
class Ticker:
    """A tick that notes when it ran and does what the test says."""

    clock: ManualClock
    answer: Callable[[int], TickReport] = lambda number: TickReport()
    at: list[float] = field(default_factory=list)

    async def __call__(self) -> TickReport:
        self.at.append(self.clock.monotonic_s())
        return self.answer(len(self.at))


class Process:
    """A runner with its own clock and its task."""

    def __init__(self, database: Database, *loops: Loop, clock: ManualClock, holder: str = "me", **how: float) -> None:
        self.closing, self.metrics = asyncio.Event(), Metrics()
        options = {"lease_s": FOREVER} | how
        self.runner = Runner(loops, db=database, clock=clock, metrics=self.metrics, holder=holder, **options)
        self.task = asyncio.create_task(self.runner.run(self.closing))

    async def start(self) -> None:
        await until(lambda: self.runner.leading)
        await turns()

    async def close(self) -> None:
        self.closing.set()
        async with asyncio.timeout(10):
            await self.task

    def figure(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def processes(database: Database, clock: SteppedClock) -> AsyncIterator[Callable[..., Process]]:
    """Start runners; what a test leaves running is stopped."""
    started: list[Process] = []

    def start(*loops: Loop, **how: object) -> Process:
        started.append(Process(database, *loops, clock=clock, **how))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for process in started:
        process.task.cancel()
        await asyncio.gather(process.task, return_exceptions=True)


async def test_a_loop_runs_in_its_rhythm(processes: Callable[..., Process], clock: SteppedClock) -> None:
    fast, slow = Ticker(clock), Ticker(clock)
    process = processes(Loop("fast", fast, every_s=0.5), Loop("slow", slow, every_s=2.0))
    await process.start()
    await clock.run(4)
    assert fast.at == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert slow.at == [0, 2, 4]
    assert process.figure("dujiang_leader") == 1
    assert process.figure("dujiang_loop_ticks_total", loop="fast", outcome="ok") == 9
    await process.close()
    assert process.figure("dujiang_leader") == 0
    await clock.run(4)
    assert len(fast.at) == 9


async def test_a_loop_that_is_woken_runs_sooner_and_once(
    processes: Callable[..., Process], clock: SteppedClock
) -> None:
    ticker = Ticker(clock)
    loop = Loop("woken", ticker, every_s=10)
    await processes(loop).start()
    await clock.run(1)
    for _ in range(5):
        loop.wake()
    await clock.run(3)
    assert ticker.at == [0, 1]


async def test_a_wake_up_during_a_tick_is_not_lost(processes: Callable[..., Process], clock: SteppedClock) -> None:
    def wake_once(number: int) -> TickReport:
        if number == 1:
            loop.wake()
        return TickReport()

    ticker = Ticker(clock, wake_once)
    loop = Loop("self", ticker, every_s=10)
    await processes(loop).start()
    assert ticker.at == [0, 0]


async def test_again_runs_at_once_and_lets_others_have_turns(
    processes: Callable[..., Process], clock: SteppedClock
) -> None:
    order: list[str] = []

    def busy(number: int) -> TickReport:
        order.append("busy")
        return TickReport({"step": 2}, again=number < 5)

    def quiet(number: int) -> TickReport:
        order.append("quiet")
        return TickReport(again=number < 5)

    process = processes(Loop("busy", Ticker(clock, busy), every_s=9), Loop("quiet", Ticker(clock, quiet), every_s=9))
    await process.start()
    assert order == ["busy", "quiet"] * 5
    assert process.figure("dujiang_loop_steps_total", loop="busy", step="step") == 10


async def test_failures_wait_longer_and_longer_up_to_the_cap(
    processes: Callable[..., Process], clock: SteppedClock
) -> None:
    def fail(number: int) -> TickReport:
        if number <= 5:
            raise Unavailable("The engine is away.")
        if number == 6:
            raise ZeroDivisionError("our own mistake")
        if number == 8:
            return TickReport({"done": 1}, failed="one of two did not work")
        return TickReport()

    ticker = Ticker(clock, fail)
    loop = Loop("failing", ticker, every_s=0.5, backoff_max_s=6)
    process = processes(loop, Loop("other", other := Ticker(clock), every_s=1))
    await process.start()
    loop.wake()  # ends no backoff
    await clock.run(0.5)
    (status, _) = process.runner.status()
    assert (status.last_outcome, status.last_error, status.consecutive_failures, status.ticks) == (
        "retryable", "The engine is away.", 1, 1,
    )  # fmt: skip
    await clock.run(24.5)
    assert ticker.at == [0, 1, 3, 7, 13, 19, 25]  # 1, 2, 4, then the cap; the mistake counts like the rest
    assert other.at == list(range(26))
    assert process.runner.status()[0].consecutive_failures == 0
    await clock.run(1)
    status = process.runner.status()[0]
    assert ticker.at[-1] == 25.5
    assert (status.last_outcome, status.last_error, dict(status.last_steps)) == (
        "failed", "one of two did not work", {"done": 1},
    )  # fmt: skip
    await clock.run(0.5)
    assert ticker.at[-1] == 26.5  # a second later, not half
    for outcome, count in (("retryable", 5), ("failed", 2), ("ok", 2)):
        assert process.figure("dujiang_loop_ticks_total", loop="failing", outcome=outcome) == count


async def test_a_cancellation_that_comes_from_inside_a_tick_is_a_failure(
    processes: Callable[..., Process], clock: SteppedClock
) -> None:
    def cancelled(number: int) -> TickReport:
        if number == 1:
            raise asyncio.CancelledError
        return TickReport()

    ticker = Ticker(clock, cancelled)
    process = processes(Loop("odd", ticker, every_s=5))
    await process.start()
    assert process.runner.status()[0].last_outcome == "failed"
    await clock.run(1)
    assert ticker.at == [0, 1]


async def test_closing_lets_a_tick_end_and_starts_none(processes: Callable[..., Process], clock: SteppedClock) -> None:
    go, ended = asyncio.Event(), []

    async def tick() -> TickReport:
        await go.wait()
        ended.append(clock.monotonic_s())
        return TickReport(again=True)

    process = processes(Loop("long", tick, every_s=1))
    await process.start()
    process.closing.set()
    await clock.run(2)
    assert (ended, process.task.done()) == ([], False)
    go.set()
    await process.close()
    assert len(ended) == 1


async def test_closing_does_not_wait_for_ever(processes: Callable[..., Process], clock: SteppedClock) -> None:
    cancelled = []

    async def tick() -> TickReport:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(clock.monotonic_s())
            raise
        return TickReport()

    process = processes(Loop("hanging", tick, every_s=1), finish_s=3)
    await process.start()
    process.closing.set()
    await clock.run(2.75)
    assert cancelled == []
    await clock.run(0.25)
    await process.close()
    assert cancelled == [3]


async def test_one_process_runs_the_loops_and_the_next_takes_over_at_once(
    processes: Callable[..., Process], clock: SteppedClock, database: Database
) -> None:
    first, second = Ticker(clock), Ticker(clock)
    one = processes(Loop("x", first, every_s=1), holder="one", lease_s=20)
    await one.start()
    two = processes(Loop("x", second, every_s=1), holder="two", lease_s=20)
    await clock.run(2)
    assert (one.runner.leading, two.runner.leading, second.at) == (True, False, [])
    await one.close()
    async with database.reading() as tx:
        assert (await tx.execute(select(leases.c.holder))).scalar_one() in ("", "two")
    while not two.runner.leading:
        await clock.run(0.25)
        await asyncio.sleep(0.03)  # the database answers in real time
        assert clock.monotonic_s() < 10
    assert two.figure("dujiang_leader") == 1
    assert one.figure("dujiang_leader") == 0
    await two.close()


async def test_who_loses_the_lease_stops_in_the_middle_of_a_tick(
    processes: Callable[..., Process], clock: SteppedClock, database: Database
) -> None:
    cancelled = asyncio.Event()

    async def tick() -> TickReport:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return TickReport()

    process = processes(Loop("x", tick, every_s=1), lease_s=12)
    await process.start()
    async with database.transaction() as tx:
        await tx.execute(update(leases).values(holder="thief", term=leases.c.term + 1))
    while not cancelled.is_set():
        await clock.run(0.25)
        await asyncio.sleep(0.03)  # likewise
        assert clock.monotonic_s() < 7
    await until(lambda: not process.runner.leading)
    await process.close()
    async with database.reading() as tx:  # and it takes nothing away from the other
        assert (await tx.execute(select(leases.c.holder))).scalar_one() == "thief"


async def test_a_database_without_tables_is_waited_for(clock: SteppedClock) -> None:
    database = Database("sqlite+aiosqlite:///:memory:", clock=clock, journal_key=b"k")
    ticker = Ticker(clock)
    process = Process(database, Loop("x", ticker, every_s=1), clock=clock, lease_s=10)
    try:
        await clock.run(2)
        assert (ticker.at, process.task.done()) == ([], False)
        await database.create_all()
        while not process.runner.leading:
            await clock.run(0.25)
            assert clock.monotonic_s() < 20
        await process.close()
    finally:
        process.task.cancel()
        await asyncio.gather(process.task, return_exceptions=True)
        await database.close()


async def test_a_runner_without_loops_only_holds_the_lease(processes: Callable[..., Process]) -> None:
    process = processes()
    await process.start()
    assert process.runner.status() == []
    await process.close()


async def test_two_loops_of_one_name_are_refused(sqlite: Database, clock: SteppedClock) -> None:
    loops = [Loop("x", Ticker(clock), every_s=1), Loop("x", Ticker(clock), every_s=1)]
    with pytest.raises(ValueError, match="same name"):
        Runner(loops, db=sqlite, clock=clock, metrics=Metrics(), holder="me")


async def test_a_simulation_calls_the_tick(clock: SteppedClock) -> None:
    loop = Loop("x", Ticker(clock, lambda number: TickReport.of(["a", "b", "a"])), every_s=1)
    assert await loop.tick() == TickReport({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("error", "method", "said", "traced"),
    [
        (Unavailable("Away."), "warning", "Away.", False),
        (Conflict("Taken."), "error", "Taken.", False),
        (KeyError("x"), "error", "KeyError: 'x'", True),
        (ValueError("two\nlines"), "error", "ValueError: two lines", True),
    ],
)
def test_only_what_nobody_foresaw_leaves_a_traceback(error: Exception, method: str, said: str, traced: bool) -> None:
    lines = CapturingLogger()
    log.failure(structlog.wrap_logger(lines, processors=[lambda _logger, _name, line: line]), "no", error, loop="x")
    (call,) = lines.calls
    assert (call.method_name, call.kwargs["reason"], call.kwargs["loop"]) == (method, said, "x")
    assert ("exc_info" in call.kwargs) == traced
