from __future__ import annotations

import numpy as np
import pytest

from dujiang.engines.contract import AttemptKey, End, EngineRefused, Observation, Phase
from dujiang.engines.simulated import Faults, Run, SimulatedEngine, World, parse_fleet
from dujiang.kit.clock import ManualClock
from tests.engines.simulated.builders import SAVES, a_launch, a_world, look

STORM = Faults(node_lost_every_s=600, killed_every_s=300, supervisor_lost_every_s=500, notice_s=20)


async def story(seed: int, *, step_s: float, wall_steps: bool = False, faults: Faults = STORM) -> list[Run]:
    """Return what really became of 40 jobs that arrive ten minutes apart in groups, looked at every `step_s`."""
    clock = ManualClock()
    world = World(parse_fleet("8x4"), seed=seed, clock=clock, faults=faults)
    engine, where = SimulatedEngine(world), np.random.default_rng(seed)
    for group in range(8):
        for nth in range(5):
            nodes = tuple(int(node) for node in where.integers(1, 9, size=1 + nth % 3))
            launch = a_launch("python train.py", job=f"job_{group}_{nth}", nodes=nodes, checkpoint=SAVES)
            await engine.submit(launch)
        for _ in range(round(600 / step_s)):
            clock.advance(step_s)
            if wall_steps:
                clock.step(float(where.choice([-300, 0, 300])) if group % 2 else 0.0)
            await engine.inventory()
    clock.advance(100_000)
    world.advance()
    return list(world.truth.runs.values())


async def test_one_seed_is_one_story_and_another_seed_another() -> None:
    first = await story(3, step_s=20)
    assert first == await story(3, step_s=20)
    assert first != await story(4, step_s=20)
    assert {run.end for run in first} >= {End.EXITED, End.NODE_LOST, End.LOST, End.SIGNALED}


async def test_the_story_is_the_same_however_seldom_somebody_looks() -> None:
    assert await story(5, step_s=2) == await story(5, step_s=150)


async def test_a_wall_clock_set_wrong_does_not_reach_into_the_world() -> None:
    quiet = await story(6, step_s=50, faults=Faults())
    stepped = await story(6, step_s=50, faults=Faults(), wall_steps=True)
    assert [run.end for run in quiet] == [run.end for run in stepped]
    assert all(run.finished is not None and run.started is not None and run.finished >= run.started for run in stepped)


async def test_no_story_breaks_what_always_holds() -> None:
    for seed in range(15):
        runs = await story(seed, step_s=100)
        assert len(runs) == 40
        for run in runs:
            assert run.starts <= 1
            assert run.end is not None
            assert (run.started is None) == (run.finished is None)
            assert run.exit_code is None or run.signal is None
            assert run.end is not End.EXITED or run.exit_code is not None
            assert run.end is not End.SIGNALED or run.signal is not None


class Case:
    """A world of four nodes, in which something is about to go wrong."""

    def __init__(self, faults: Faults = Faults(notice_s=30)) -> None:
        self.clock = ManualClock()
        self.world = a_world(self.clock, faults=faults)
        self.engine = SimulatedEngine(self.world)
        self.start = self.world.now()

    async def begin(self, text: str = "#sim duration=forever", **fields: object) -> AttemptKey:
        launch = a_launch(text, **fields)
        await self.engine.submit(launch)
        return launch.key

    async def see(self, key: AttemptKey) -> Observation:
        seen = await look(self.engine, key)
        assert seen is not None
        return seen

    def ran_s(self, key: AttemptKey) -> float:
        run = self.world.truth.runs[key]
        assert run.started is not None
        assert run.finished is not None
        return (run.finished - run.started) / 1e6

    async def ready(self) -> dict[str, bool]:
        return {node.name: node.ready for node in await self.engine.inventory()}


async def test_a_lost_node_kills_at_once_and_is_noticed_later() -> None:
    case = Case()
    key, other = await case.begin(), await case.begin(job="job_b", nodes=(2,))
    case.clock.advance(100)
    case.world.lose_node("sim-0001")
    case.clock.advance(29)
    assert (await case.see(key)).phase is Phase.RUNNING
    assert (await case.ready())["sim-0001"]
    assert case.world.truth.running() == [other]
    case.clock.advance(1)
    seen = await case.see(key)
    assert (seen.phase, seen.end, seen.exit_code, seen.signal) == (Phase.ENDED, End.NODE_LOST, None, None)
    assert case.ran_s(key) == 100
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert (seen.finished_at - seen.started_at).total_seconds() == 130
    assert await case.ready() == {"sim-0001": False, "sim-0002": True, "sim-0003": True, "sim-0004": True}
    assert (await case.see(other)).phase is Phase.RUNNING
    case.world.restore_node("sim-0001")
    assert (await case.ready())["sim-0001"]


async def test_a_lost_node_may_leave_the_inventory_and_come_back_by_itself() -> None:
    case = Case()
    case.world.lose_node("sim-0002", back_after_s=300, absent=True)
    case.clock.advance(30)
    assert sorted(await case.ready()) == ["sim-0001", "sim-0003", "sim-0004"]
    case.clock.advance(270)
    assert len(await case.ready()) == 4


async def test_a_node_that_is_back_before_anybody_noticed_has_lost_its_work_all_the_same() -> None:
    case = Case()
    key = await case.begin()
    case.clock.advance(10)
    case.world.lose_node("sim-0001", back_after_s=5)
    case.clock.advance(5)
    assert (await case.see(key)).end is End.NODE_LOST
    case.clock.advance(100)
    assert (await case.ready())["sim-0001"]


@pytest.mark.parametrize("before_s", [0, 60])
async def test_what_is_sent_to_a_lost_node_never_starts(before_s: float) -> None:
    case = Case()
    case.world.lose_node("sim-0001")
    case.clock.advance(before_s)
    key = await case.begin()
    case.clock.advance(30)
    assert (await case.see(key)).end is End.NODE_LOST
    assert case.world.truth.runs[key].starts == 0


async def test_a_gang_goes_down_with_one_of_its_nodes() -> None:
    case = Case()
    key = await case.begin(nodes=(1, 2, 3))
    case.clock.advance(10)
    case.world.lose_node("sim-0003")
    case.clock.advance(20)
    assert case.world.truth.running() == [key]
    case.clock.advance(10)
    assert (await case.see(key)).end is End.NODE_LOST
    assert case.ran_s(key) == 40


async def test_a_killed_rank_is_a_signal_and_stops_the_others() -> None:
    case = Case()
    key = await case.begin(nodes=(1, 2))
    case.world.kill(key, rank=1)
    case.clock.advance(5)
    seen = await case.see(key)
    assert (seen.end, seen.signal, seen.rank) == (End.SIGNALED, 9, 1)


async def test_without_its_supervisor_a_program_goes_on_deaf_until_that_is_noticed() -> None:
    case = Case()
    key = await case.begin("#sim duration=forever", grace_s=1.0)
    case.world.lose_supervisor(key)
    await case.engine.cancel(key)
    case.clock.advance(29)
    assert (await case.see(key)).phase is Phase.RUNNING
    assert case.world.truth.running() == [key]
    case.clock.advance(1)
    assert (await case.see(key)).end is End.LOST
    assert case.ran_s(key) == 30


async def test_a_program_that_ends_while_nobody_watches_leaves_no_exit_code() -> None:
    case = Case()
    key = await case.begin("#sim duration=10 exit=3")
    case.world.lose_supervisor(key)
    case.clock.advance(30)
    seen = await case.see(key)
    assert (seen.end, seen.exit_code) == (End.LOST, None)
    assert case.ran_s(key) == 10


async def test_a_stopped_job_with_a_checkpoint_does_only_the_rest_the_next_time() -> None:
    case = Case()
    first = await case.begin("#sim duration=100 saves=10", checkpoint=SAVES)
    case.clock.advance(50)
    await case.engine.cancel(first)
    await case.see(first)
    await case.engine.forget(first)
    second = await case.begin("#sim duration=100 saves=10", checkpoint=SAVES, number=2)
    case.clock.advance(100)
    assert (await case.see(second)).end is End.EXITED
    assert case.ran_s(second) == 50


async def test_a_stop_sends_the_save_signal_then_sigterm_then_sigkill() -> None:
    case = Case()
    deaf = await case.begin("#sim duration=forever stubborn=1", checkpoint=SAVES, grace_s=20.0)
    listens = await case.begin("#sim duration=forever saves=15", checkpoint=SAVES, grace_s=20.0, job="job_b")
    for key in (deaf, listens):
        await case.engine.cancel(key)
    case.clock.advance(60)
    assert (await case.see(deaf)).signal == 9
    assert case.ran_s(deaf) == 20
    assert (await case.see(listens)).signal == 10  # whose default is to die: it saves on another signal
    assert case.ran_s(listens) == 0


async def test_ports_are_given_back_at_the_end() -> None:
    case = Case()
    keys = [await case.begin("#sim duration=10", job=f"job_{nth}", ports=2) for nth in range(3)]
    ports = [port for key in keys for port in (await case.see(key)).ports]
    assert len(set(ports)) == 6
    assert (await case.see(keys[0])).host.endswith(".invalid")
    with pytest.raises(EngineRefused, match="free ports"):
        await case.begin(job="job_much", ports=39_995)
    case.clock.advance(10)
    assert len((await case.see(await case.begin(job="job_more", ports=39_995))).ports) == 39_995


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"nodes": (9,)}, 'no node "sim-0009"'),
        ({"device": 2}, 'no device "sim-0001-gpu2"'),
        ({"job": "a/b"}, "cannot name an attempt"),
        ({"number": 0}, "cannot name an attempt"),
        ({"ranks": ()}, "numbered from 0"),
        ({"text": "#sim exit=many"}, "whole number"),
    ],
)
async def test_what_can_never_run_is_refused_and_leaves_nothing(fields: dict[str, object], says: str) -> None:
    case = Case()
    with pytest.raises(EngineRefused, match=says):
        await case.begin(**fields)
    assert await case.engine.attempts() == []
    assert not case.world.truth.runs


async def test_a_closed_node_refuses_with_its_reason() -> None:
    case = Case()
    await case.engine.cordon("sim-0001", "new fans")
    with pytest.raises(EngineRefused, match="new fans"):
        await case.begin()
    with pytest.raises(EngineRefused, match="no node"):
        await case.engine.cordon("elsewhere", "why not")


async def test_a_device_given_out_twice_is_in_the_truth() -> None:
    case = Case()
    for job in ("job_a", "job_b"):
        await case.begin(job=job, device=0)
    await case.begin(job="job_c", device=1)
    assert case.world.truth.over_allocated() == [("sim-0001/sim-0001-gpu0", 2000)]
