"""Lines to engines: what is waited, what is not asked twice, and what becomes of answers that come late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from dujiang.engines.contract import AttemptKey, EngineRefused, Launch, RankPlacement
from dujiang.engines.lines import MOST_OVERDUE, LateLook, Lines, Overdue, StillAsking
from dujiang.engines.simulated import SimulatedEngine, World, parse_fleet
from dujiang.kit.clock import ManualClock
from tests.hanging import Hanging

NODE = "sim-0001"
WITHIN_S = 10.0


@dataclass
class Case:
    """A line to a virtual cluster that can be made to hang."""

    clock: ManualClock
    world: World
    engine: Hanging
    lines: Lines
    heard: list[tuple[str, str, float]]
    news: list[str]

    async def asked(self, asking: asyncio.Future[object]) -> None:
        """Let a call get under way, then let more time pass than is waited."""
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asking.done()
        self.clock.advance(WITHIN_S)
        await self.lines.tick()


@pytest.fixture
async def case(clock: ManualClock) -> AsyncIterator[Case]:
    world = World(parse_fleet("2x2"), seed=7, clock=clock)
    engine = Hanging(SimulatedEngine(world))
    heard: list[tuple[str, str, float]] = []
    news: list[str] = []
    lines = Lines(
        {"far": engine}, clock=clock, within_s=WITHIN_S, heard=lambda *what: heard.append(what), news=news.append
    )
    yield Case(clock, world, engine, lines, heard, news)
    await lines["far"].close()


def a_launch(job: str = "job_a", run: str = "#sim duration=5") -> Launch:
    return Launch(AttemptKey(job, 1), job, "own", run, (RankPlacement(0, NODE, 1000, 2**30),))


async def test_an_answer_in_time_is_handed_on_and_its_time_told(case: Case) -> None:
    assert len(await case.lines["far"].inventory()) == 2
    assert case.heard == [("far", "inventory", 0.0)]
    assert case.news == []


async def test_whoever_asks_waits_for_a_time_by_the_clock_handed_in(case: Case) -> None:
    case.engine.hang()
    asking = asyncio.ensure_future(case.lines["far"].inventory())
    await asyncio.sleep(0)
    case.clock.advance(WITHIN_S - 0.1)
    assert (await case.lines.tick()).steps == {}
    assert not asking.done()
    case.clock.advance(0.1)
    assert (await case.lines.tick()).steps == {"overdue": 1}
    with pytest.raises(Overdue, match="has not answered for 10 s"):
        await asking
    assert case.news == ["far"]


async def test_what_is_under_way_is_not_asked_again_and_says_so_at_once(case: Case) -> None:
    case.engine.hang()
    line = case.lines["far"]
    for call in (line.inventory, lambda: line.observe([AttemptKey("job_a", 1)]), lambda: line.submit(a_launch())):
        asking = asyncio.ensure_future(call())
        await case.asked(asking)
        with pytest.raises(Overdue):
            await asking
        for _ in range(3):
            with pytest.raises(StillAsking):
                await call()
    assert case.engine.made == {"inventory": 1, "observe": 1, "submit": 1}


async def test_two_who_ask_the_same_at_once_have_their_turns(case: Case) -> None:
    line = case.lines["far"]
    both = await asyncio.gather(line.inventory(), line.inventory())
    assert [len(nodes) for nodes in both] == [2, 2]
    assert case.engine.most_under_way["inventory"] == 1


async def test_an_answer_that_comes_late_is_given_to_whoever_asks_the_same_next(case: Case) -> None:
    line, launch = case.lines["far"], a_launch()
    case.engine.hang("submit")
    asking = asyncio.ensure_future(line.submit(launch))
    await case.asked(asking)
    assert line.is_submitting(launch.key)
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not line.is_submitting(launch.key)
    assert case.news == ["far", "far"], "that it is overdue, and that its answer came"
    await line.submit(launch)
    assert case.engine.made["submit"] == 1
    await line.submit(launch)  # the answer was taken; now it is asked
    assert case.engine.made["submit"] == 2
    with pytest.raises(Overdue):
        await asking


async def test_a_refusal_that_comes_late_is_heard(case: Case) -> None:
    line, launch = case.lines["far"], a_launch(run="#sim duratio=5")
    case.engine.hang("submit")
    asking = asyncio.ensure_future(line.submit(launch))
    await case.asked(asking)
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(EngineRefused):
        await line.submit(launch)
    assert case.engine.made["submit"] == 1
    with pytest.raises(Overdue):
        await asking


async def test_a_late_look_shows_what_it_shows_and_says_nothing_of_the_rest(case: Case) -> None:
    line = case.lines["far"]
    old, new = AttemptKey("job_a", 1), AttemptKey("job_b", 1)
    await line.submit(a_launch("job_a"))
    case.engine.after.add("observe")
    asking = asyncio.ensure_future(line.observe([old]))
    await case.asked(asking)
    await line.submit(a_launch("job_b"))
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    seen = await line.observe([old, new])
    assert isinstance(seen, LateLook)
    assert set(seen) == {old}
    assert case.engine.made["observe"] == 1
    seen = await line.observe([old, new])
    assert not isinstance(seen, LateLook)
    assert set(seen) == {old, new}
    with pytest.raises(Overdue):
        await asking


async def test_a_late_answer_is_not_kept_for_ever(case: Case) -> None:
    line, launch = case.lines["far"], a_launch()
    case.engine.hang("submit")
    asking = asyncio.ensure_future(line.submit(launch))
    await case.asked(asking)
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    case.clock.advance(WITHIN_S + 1)
    await line.submit(launch)
    assert case.engine.made["submit"] == 2
    with pytest.raises(Overdue):
        await asking


async def test_a_node_is_not_opened_while_it_is_unknown_whether_it_was_closed(case: Case) -> None:
    line = case.lines["far"]
    case.engine.hang("order")
    asking = asyncio.ensure_future(line.cordon(NODE, "new driver"))
    await case.asked(asking)
    with pytest.raises(StillAsking):
        await line.uncordon(NODE)
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    await line.uncordon(NODE)  # the late answer is one to something else, and not taken for this
    assert case.engine.made["order"] == 2
    assert not any(node.cordoned for node in case.world.inventory())
    with pytest.raises(Overdue):
        await asking


async def test_only_so_many_calls_of_a_kind_are_without_an_answer(case: Case) -> None:
    line = case.lines["far"]
    case.engine.hang("submit")
    asking = [asyncio.ensure_future(line.submit(a_launch(f"job_{at}"))) for at in range(MOST_OVERDUE)]
    await case.asked(asking[0])
    with pytest.raises(StillAsking, match="no further one is made"):
        await line.submit(a_launch("job_other"))
    assert case.engine.made["submit"] == MOST_OVERDUE
    case.engine.let_go()
    for _ in range(10):
        await asyncio.sleep(0)
    await line.submit(a_launch("job_other"))
    assert case.engine.made["submit"] == MOST_OVERDUE + 1
    assert all(isinstance(each, Overdue) for each in await asyncio.gather(*asking, return_exceptions=True))


async def test_who_no_longer_waits_cuts_nothing_off(case: Case) -> None:
    line, launch = case.lines["far"], a_launch()
    case.engine.hang("submit")
    asking = asyncio.ensure_future(line.submit(launch))
    for _ in range(5):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert line.is_submitting(launch.key)
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    assert await case.engine.engine.attempts() == [launch.key]


async def test_output_that_hangs_is_not_waited_for_for_ever(case: Case) -> None:
    line, launch = case.lines["far"], a_launch(run="#sim duration=1 print=hello")
    await line.submit(launch)
    case.clock.advance(5.0)
    case.engine.hang("logs")

    async def read() -> bytes:
        return b"".join([chunk.data async for chunk in line.logs(launch.key)])

    asking = asyncio.ensure_future(read())
    await case.asked(asking)
    with pytest.raises(Overdue):
        await asking
    case.engine.let_go()
    for _ in range(5):
        await asyncio.sleep(0)
    assert b"hello" in await read()
