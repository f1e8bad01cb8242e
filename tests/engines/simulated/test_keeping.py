from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable, Phase
from dujiang.engines.simulated import SimulatedEngine, World, open_world, parse_fleet
from dujiang.engines.simulated.fleet import BadFleet
from dujiang.kit.clock import ManualClock, SystemClock
from tests.engines.simulated.builders import FLEET, SAVES, a_launch, look

KEY = AttemptKey("job_a", 1)


class Kept:
    """A world in a folder, and the process that has it open."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder / "world", ManualClock()
        self.world = self.open()
        self.engine = SimulatedEngine(self.world)

    def open(self, **fields: object) -> World:
        return open_world(self.folder, **{"spec": FLEET, "seed": 7, "clock": self.clock, **fields})

    async def away(self, seconds: float) -> None:
        """Let the process end, and another begin after that many seconds."""
        await self.engine.close()
        self.clock.advance(seconds)
        self.world = self.open()
        self.engine = SimulatedEngine(self.world)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def test_what_runs_goes_on_while_the_platform_is_away_and_ends_at_its_time(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim duration=100 exit=3"))
    seen = await look(kept.engine, KEY)
    await kept.away(50)
    assert await look(kept.engine, KEY) == seen
    await kept.away(500)
    seen = await look(kept.engine, KEY)
    assert seen is not None
    assert (seen.phase, seen.end, seen.exit_code) == (Phase.ENDED, End.EXITED, 3)
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert (seen.finished_at - seen.started_at).total_seconds() == 100
    assert kept.world.truth.runs[KEY].starts == 1


async def test_a_story_with_restarts_is_the_story_without(tmp_path: Path) -> None:
    worlds = [Kept(tmp_path / name) for name in ("restarts", "none")]
    for kept in worlds:
        for nth in range(20):
            nodes = (1 + nth % 4, 1 + (nth + 1) % 4)
            await kept.engine.submit(a_launch("python train.py", job=f"job_{nth}", nodes=nodes, checkpoint=SAVES))
            if nth == 10:
                await kept.engine.cancel(AttemptKey("job_3", 1), grace_s=40)
                kept.world.lose_supervisor(AttemptKey("job_5", 1))
                kept.world.kill(AttemptKey("job_6", 1), rank=1)
            if kept is worlds[0]:
                await kept.away(30)
            else:
                kept.clock.advance(30)
        kept.clock.advance(100_000)
        kept.world.advance()
    first, second = (sorted(kept.world.truth.runs.values(), key=lambda run: run.key) for kept in worlds)
    assert first == second
    assert all(run.finished is not None for run in first if run.started is not None)
    assert {End.EXITED, End.LOST, End.SIGNALED, End.STOPPED} <= {run.end for run in first}


async def test_what_was_on_a_lost_node_is_lost_and_the_node_is_back(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim duration=forever"))
    kept.world.lose_node("sim-0001")
    await kept.away(60)
    seen = await look(kept.engine, KEY)
    assert seen is not None
    assert seen.end is End.NODE_LOST
    assert all(node.ready for node in await kept.engine.inventory())


async def test_a_stop_under_way_goes_on(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim duration=forever stubborn=1"))
    await kept.engine.cancel(KEY, grace_s=30)
    await kept.away(10)
    seen = await look(kept.engine, KEY)
    assert seen is not None
    assert seen.phase is Phase.RUNNING
    await kept.away(1000)
    run = kept.world.truth.runs[KEY]
    assert run.started is not None
    await look(kept.engine, KEY)
    assert (run.end, run.signal, run.finished) == (End.STOPPED, 9, run.started + 30_000_000)


async def test_what_was_forgotten_never_starts_again_and_can_still_be_read(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim print=kept"))
    await kept.engine.forget(KEY)
    await kept.away(1)
    await kept.engine.submit(a_launch("#sim print=again"))
    assert await kept.engine.attempts() == []
    assert await look(kept.engine, KEY) is None
    assert [chunk.data async for chunk in kept.engine.logs(KEY)] == [b"kept\n"]


async def test_the_next_attempt_resumes_from_one_that_was_forgotten_before_the_restart(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim duration=100 saves=10", checkpoint=SAVES))
    kept.clock.advance(75)
    await kept.engine.cancel(KEY)
    await kept.engine.forget(KEY)
    await kept.away(1)
    await kept.engine.submit(a_launch("#sim duration=100 saves=10", checkpoint=SAVES, number=2))
    kept.clock.advance(25)
    seen = await look(kept.engine, AttemptKey("job_a", 2))
    assert seen is not None
    assert seen.end is End.EXITED


async def test_secrets_are_written_nowhere(kept: Kept) -> None:
    await kept.engine.submit(a_launch(secrets={"TOKEN": "s3cret-value"}, env={"PLAIN": "plain-value"}))
    written = b"".join(path.read_bytes() for path in kept.folder.rglob("*") if path.is_file())
    assert b"plain-value" in written
    assert b"s3cret" not in written


async def test_a_world_has_one_user_at_a_time(kept: Kept) -> None:
    with pytest.raises(EngineUnavailable, match="another platform process"):
        kept.open()
    await kept.engine.close()
    kept.open().close()


async def test_another_fleet_is_refused_with_what_to_do(kept: Kept) -> None:
    await kept.engine.close()
    with pytest.raises(BadFleet, match="choose another home"):
        kept.open(spec=parse_fleet("8x8"))
    kept.open().close()  # the refusal let go of it


async def test_the_seed_that_is_kept_counts(kept: Kept) -> None:
    await kept.engine.close()
    assert kept.open(seed=99).seed == 7


async def test_a_clock_that_was_set_back_does_not_take_the_world_back(kept: Kept) -> None:
    await kept.engine.submit(a_launch("#sim duration=100"))
    kept.clock.advance(50)
    await kept.engine.submit(a_launch("#sim duration=100", job="job_b"))
    then = kept.world.now()
    kept.clock.step(-3600)
    await kept.away(0)
    assert kept.world.now() == then
    kept.clock.advance(3600 + 50)
    seen = await look(kept.engine, KEY)
    assert seen is not None
    assert seen.end is End.EXITED


async def test_a_file_that_is_damaged_is_named(kept: Kept) -> None:
    await kept.engine.submit(a_launch())
    await kept.engine.close()
    (kept.folder / "attempts" / "job_a.1.json").write_text("{")
    with pytest.raises(EngineUnavailable, match=r"job_a\.1\.json is damaged: remove it"):
        kept.open()


async def test_speed_shortens_what_arrives_from_now_on(tmp_path: Path) -> None:
    clock = ManualClock()
    world = open_world(tmp_path / "fast", FLEET, seed=7, clock=clock, speed=10)
    engine = SimulatedEngine(world)
    await engine.submit(a_launch("#sim duration=100"))
    clock.advance(10)
    seen = await look(engine, KEY)
    assert seen is not None
    assert seen.phase is Phase.ENDED
    await engine.close()


async def test_on_a_real_clock_changes_are_waited_for(tmp_path: Path) -> None:
    clock = SystemClock()
    engine = SimulatedEngine(open_world(tmp_path / "real", FLEET, seed=7, clock=clock), sleep=clock.sleep)
    await engine.submit(a_launch("#sim duration=50ms exit=2"))
    async with asyncio.timeout(10):
        while (seen := await look(engine, KEY)) is None or seen.phase is not Phase.ENDED:
            assert await engine.changed(5.0)
    assert (seen.end, seen.exit_code) == (End.EXITED, 2)
    await engine.close()
