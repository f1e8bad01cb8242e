"""A loop in lanes: each has its rhythm, and none waits for another."""

from __future__ import annotations

import asyncio

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.loop import Lanes, TickReport
from tests.kit.clocks import SteppedClock, until
from tests.kit.test_loop import Process, Ticker


async def test_a_lane_that_hangs_holds_up_no_other(sqlite: Database) -> None:
    clock = SteppedClock()
    held, near = asyncio.Event(), Ticker(clock, lambda number: TickReport({"step": 1}))

    async def far() -> TickReport:
        await held.wait()
        return TickReport({"step": 10})

    lanes = Lanes("looks", {"near": near, "far": far}, every_s=1e6)
    process = Process(sqlite, lanes, clock=clock)
    await process.start()
    for number in range(2, 6):
        lanes.wake("near")
        await until(lambda number=number: len(near.at) == number)  # type: ignore[misc]
    await until(lambda: process.figure("dujiang_loop_steps_total", loop="looks", step="step") == 5)
    assert [(one.name, one.ticks) for one in process.runner.status()] == [("looks/far", 0), ("looks/near", 5)]
    held.set()
    await until(lambda: process.figure("dujiang_loop_steps_total", loop="looks", step="step") == 15)
    await process.close()


async def test_one_lane_or_all_are_woken(clock: ManualClock) -> None:
    lanes = Lanes("looks", {"a": Ticker(clock), "b": Ticker(clock)}, every_s=1.0)
    lanes.wake("b")
    lanes.wake("nowhere")
    assert [lane._woken.is_set() for lane in lanes.lanes.values()] == [False, True]
    lanes.wake()
    assert [lane._woken.is_set() for lane in lanes.lanes.values()] == [True, True]


async def test_a_tick_of_all_lanes_sums_what_they_did(clock: ManualClock) -> None:
    lanes = Lanes(
        "looks",
        {
            "a": Ticker(clock, lambda _: TickReport({"step": 1, "only": 2})),
            "b": Ticker(clock, lambda _: TickReport({"step": 4}, again=True, failed="b is away")),
        },
        every_s=1.0,
    )
    assert await lanes.tick() == TickReport({"only": 2, "step": 5}, True, "b is away")
    assert (await Lanes("none", {}, every_s=1.0).tick()) == TickReport()


async def test_a_lane_that_fails_lets_the_others_end(clock: ManualClock) -> None:
    near = Ticker(clock)

    async def far() -> TickReport:
        raise ValueError("no")

    async def slow() -> TickReport:
        await asyncio.sleep(0)
        return await near()

    with pytest.raises(ValueError, match="no"):
        await Lanes("looks", {"far": far, "slow": slow}, every_s=1.0).tick()
    assert len(near.at) == 1
