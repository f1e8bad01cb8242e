"""Seeded stories of a cluster that hangs now and then, in any way: nothing runs twice, nothing is lost, and a seed
tells the same story every time, since what is waited for is the platform's own clock.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from dujiang.bootstrap.platform import new_ids
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.domain import Job
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from tests.hanging import ACTS, LOOKS, Hanging
from tests.jobs.test_hanging import FAR, Two
from tests.platforms import SIM, a_scene
from tests.sim.stage import Dice, InPlace, Mishaps, on_stage

TURNS = 60
SEEDS = range(12)


@dataclass
class Told:
    """What came of a story."""

    head: tuple[int, str]
    states: Counter[str]
    hung: Counter[str]
    overdue: int


class Story:
    """One seed."""

    def __init__(self, two: Two, rng: Random) -> None:
        self.two, self.rng = two, rng
        self.jobs: list[Job] = []
        self.hung: Counter[str] = Counter()
        self.left = 0

    async def step(self) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            where = rng.choice((SIM, FAR))
            self.jobs.append(
                await self.two.submit(where, f"#sim duration={rng.randint(1, 12)}", nodes=rng.choice((1, 2)))
            )
        if self.jobs and rng.random() < 0.15:
            try:
                await self.two.scene.cancel(rng.choice(self.jobs).id)
            except DujiangError as error:
                if error.code != "job_ended":
                    raise
        self.weather()
        await self.two.turn(rng.choice((0.5, 1.0, 2.0)))

    def weather(self) -> None:
        engine, rng = self.two.engine, self.rng
        if self.left:
            self.left -= 1
            if not self.left:
                engine.let_go()
        elif rng.random() < 0.25:
            calls = rng.sample((*LOOKS, *ACTS), rng.randint(1, 4))
            (engine.before if rng.random() < 0.5 else engine.after).update(calls)
            self.hung.update(calls)
            self.left = rng.randint(2, 25)


async def tell(seed: int, folder: Path) -> Told:
    """Play a seed, let it come to rest, and check it against what really ran."""
    asyncio.get_running_loop().set_default_executor(InPlace())
    dice, clock = Dice(seed), ManualClock()
    with on_stage(Mishaps(dice.stream("database"))):
        db = Database(f"sqlite+aiosqlite:///{folder / 'a.db'}", clock=clock, journal_key=b"test", durable=False)
        await db.create_all()
        world = Cluster(parse_fleet("3x2"), seed=seed, clock=clock)
        engine = Hanging(SimulatedEngine(world))
        async with a_scene(db, clock, new_ids(clock, seed), folder, engines={FAR: engine}, seed=seed) as scene:
            two = Two(scene, world, engine)
            story = Story(two, dice.stream("play"))
            for _ in range(TURNS):
                await story.step()
            engine.let_go()
            for _ in range(120):
                await two.turn()
                ended = [(await scene.job(job.id)).has_ended for job in story.jobs]
                if all(ended) and not await scene.held():
                    break
            await asyncio.gather(*two.under_way.values())
            await _sweep(two)
            jobs = [await scene.job(job.id) for job in story.jobs]
            assert [f"{job.id} {job.state} {job.sentence}" for job in jobs if not job.has_ended] == []
            for cluster in (world, scene.cluster):
                assert cluster.truth.running() == []
                assert cluster.truth.ran_together() == []
                assert cluster.truth.over_allocated() == []
            assert await scene.proofs() == {}
            assert engine.most_under_way["observe"] <= 1
            assert engine.most_under_way["inventory"] <= 1
            overdue = int(scene.platform.lines[FAR].expire())
            async with db.reading() as tx:
                head = await journal.latest(tx.connection)
            told = Told(head, Counter(f"{job.spec.placement.cluster} {job.state}" for job in jobs), story.hung, overdue)
        await db.close()
    return told


async def _sweep(two: Two) -> None:
    for loop in two.scene.platform.loops:
        if loop.name == "sweep":
            for _ in range(2):
                await loop.tick()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_runs_twice_and_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    told = asyncio.run(tell(seed, tmp_path))
    assert told.hung, "a story in which nothing hangs proves nothing"
    assert told.overdue == 0
    assert told.states[f"{FAR} COMPLETED"]


def test_a_seed_tells_the_same_story(tmp_path: Path) -> None:
    heads = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        heads.append(asyncio.run(tell(3, tmp_path / name)).head)
    assert heads[0] == heads[1]
