from __future__ import annotations

import asyncio

import pytest

from dujiang.engines.contract import AttemptKey, EngineUnavailable, Phase
from dujiang.engines.simulated import Faults, SimulatedEngine
from dujiang.engines.simulated.output import TAG
from dujiang.kit.clock import ManualClock
from tests.engines.simulated.builders import a_launch, a_world, look


def an_engine(**faults: float) -> tuple[ManualClock, SimulatedEngine]:
    clock = ManualClock()
    return clock, SimulatedEngine(a_world(clock, faults=Faults(**faults)))


async def test_an_error_before_the_effect_has_none() -> None:
    _, engine = an_engine(before=1.0)
    with pytest.raises(EngineUnavailable, match="did nothing"):
        await engine.submit(a_launch())
    assert not engine.world.truth.runs


async def test_an_error_after_the_effect_leaves_it_and_asking_again_does_nothing() -> None:
    _, engine = an_engine(after=1.0)
    launch = a_launch()
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match="answer"):
            await engine.submit(launch)
    run = engine.world.truth.runs[launch.key]
    assert (run.starts, run.deliveries) == (1, 3)
    with pytest.raises(EngineUnavailable):
        await engine.cancel(launch.key)
    assert run.finished is not None


async def test_a_chance_is_about_as_often_as_told_and_the_same_for_one_seed() -> None:
    async def refused() -> list[bool]:
        _, engine = an_engine(inventory=0.2)
        answers = []
        for _ in range(500):
            try:
                await engine.inventory()
                answers.append(False)
            except EngineUnavailable:
                answers.append(True)
        return answers

    first = await refused()
    assert 70 <= sum(first) <= 130
    assert first == await refused()


async def test_without_faults_every_call_is_answered() -> None:
    _, engine = an_engine()
    for nth in range(100):
        launch = a_launch(job=f"job_{nth}")
        await engine.submit(launch)
        await engine.signal(launch.key, 17)
        assert await look(engine, launch.key) is not None
        assert len(await engine.inventory()) == 4


async def test_a_partial_view_leaves_out_some_and_invents_none() -> None:
    _, engine = an_engine(partial=0.5, left_out=0.3)
    keys = [a_launch(job=f"job_{nth}").key for nth in range(20)]
    for key in keys:
        await engine.submit(a_launch(job=key.job_id))
    sizes = []
    for _ in range(200):
        seen = await engine.observe(keys)
        assert all(one.phase is Phase.RUNNING for one in seen.values())
        sizes.append(len(seen))
    assert 70 <= sizes.count(20) <= 130
    assert min(sizes) < 17


async def test_an_old_view_is_of_a_moment_that_was_and_no_older_than_told() -> None:
    clock, engine = an_engine(old=0.5, lag_s=10.0)
    clock.advance(100)
    await engine.submit(a_launch("#sim start=5 duration=20"))
    key, ages = AttemptKey("job_a", 1), list[tuple[int, Phase | None]]()
    for second in range(60):
        for _ in range(20):
            seen = await look(engine, key)
            ages.append((second, seen.phase if seen else None))
        clock.advance(1)

    def seconds(phase: Phase | None) -> list[int]:
        return [second for second, one in ages if one is phase]

    assert max(seconds(None)) < 10
    assert 5 < max(seconds(Phase.PENDING)) <= 15
    assert min(seconds(Phase.RUNNING)) == 5
    assert 25 < max(seconds(Phase.RUNNING)) <= 35
    assert min(seconds(Phase.ENDED)) == 25
    assert {phase for second, phase in ages if second > 35} == {Phase.ENDED}


async def test_an_old_view_shows_what_was_forgotten_since() -> None:
    clock, engine = an_engine(old=1.0, lag_s=10.0)
    await engine.submit(a_launch("#sim"))
    key = AttemptKey("job_a", 1)
    clock.advance(20)
    await engine.forget(key)
    clock.advance(1)
    assert {await look(engine, key) is None for _ in range(50)} == {True, False}
    clock.advance(10)
    assert {await look(engine, key) for _ in range(50)} == {None}


async def test_a_storm_ends_when_it_is_told_to() -> None:
    clock, engine = an_engine(node_lost_every_s=50.0, node_away_s=100.0, notice_s=1.0, before=0.5)
    clock.advance(1000)
    engine.world.advance()
    engine.world.set_faults(Faults())
    clock.advance(5000)
    assert [node.ready for node in await engine.inventory()] == [True] * 4
    clock.advance(100_000)
    assert [node.ready for node in await engine.inventory()] == [True] * 4


async def test_waiting_for_changes_moves_no_virtual_time_and_takes_no_real_one() -> None:
    clock, engine = an_engine()
    began = clock.monotonic_s()
    async with asyncio.timeout(5):
        while await engine.changed(3600):
            pass
        await engine.submit(a_launch("#sim duration=60"))
        assert await engine.changed(3600) is True
        assert await engine.changed(3600) is False
    assert clock.monotonic_s() == began
    clock.advance(60)
    assert await engine.changed(3600) is True


async def test_following_logs_ends_when_somebody_else_moves_the_time() -> None:
    clock, engine = an_engine()
    await engine.submit(a_launch("python train.py", env={"DUJIANG_SIM_DURATION": "100", "DUJIANG_SIM_EXIT": "1"}))
    key, seen = AttemptKey("job_a", 1), b""

    async def move() -> None:
        for _ in range(20):
            clock.advance(10)
            await asyncio.sleep(0)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(move())
        async for chunk in engine.logs(key, follow=True):
            assert chunk.offset == len(seen)
            seen += chunk.data
    lines = seen.decode().splitlines()
    assert all(line.startswith(TAG) for line in lines)
    assert sum("loss=" in line for line in lines) == 40
    assert "ValueError" in lines[-1]


@pytest.mark.parametrize("ports", [0, 1])
async def test_what_was_printed_is_never_taken_back(ports: int) -> None:
    clock, engine = an_engine()
    for nth in range(30):
        await engine.submit(a_launch("python train.py", job=f"job_{nth}", nodes=(1, 2), ports=ports))
    before: dict[tuple[int, int], bytes] = {}
    for _ in range(40):
        clock.advance(97)
        for nth in range(30):
            for rank in (0, 1):
                chunks = [chunk.data async for chunk in engine.logs(AttemptKey(f"job_{nth}", 1), rank=rank)]
                printed = b"".join(chunks)
                assert printed.startswith(before.get((nth, rank), b""))
                before[nth, rank] = printed
