"""In real time, by the real runner: while one cluster hangs, ends at another are noticed as fast as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import numpy as np

from dujiang.bootstrap.serve import _listen
from dujiang.engines.contract import AttemptKey
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.kit.clock import SystemClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.loop import Runner
from tests.hanging import Hanging
from tests.platforms import SIM, Scene, a_scene

FAR = "far"
JOBS = 12
NOTICED_S = 0.25
"""Some 0.01 s where nothing else runs; without lanes it is the rest of the ten seconds that are waited."""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Scene, Hanging]]:
    """A platform with two clusters whose loops run by themselves."""
    clock = SystemClock()
    db = Database(f"sqlite+aiosqlite:///{folder / 'live.db'}", clock=clock, journal_key=b"test", durable=False)
    await db.create_all()
    far = Hanging(SimulatedEngine(Cluster(parse_fleet("2x2"), seed=9, clock=clock), sleep=clock.sleep))
    ids = Ids(clock, np.random.default_rng(5))
    async with a_scene(db, clock, ids, folder, engines={FAR: far}) as scene:  # type: ignore[arg-type]
        platform, closing = scene.platform, asyncio.Event()
        runner = Runner(platform.loops, db=db, clock=clock, metrics=platform.metrics, holder="test", finish_s=0.1)
        db.on_commit(platform.outbox.wake)
        tasks = [asyncio.create_task(runner.run(closing))]
        tasks += [asyncio.create_task(_listen(name, platform, runner)) for name in (SIM, FAR)]
        try:
            yield scene, far
        finally:
            far.let_go()
            closing.set()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for line in platform.lines.values():
                await line.close()
    await db.close()


async def until(scene: Scene, job_id: str, state: str) -> None:
    """Wait until a job is in a state, for less long than is waited for an engine."""
    for _ in range(800):
        if str((await scene.job(job_id)).state) == state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the job is not {state}")


async def noticed(scene: Scene) -> list[float]:
    """Run short jobs one after another; return how long after its end each was seen to have ended, in seconds."""
    found: list[float] = []
    for _ in range(JOBS):
        job = await scene.submit("#sim duration=0.05", placement={"cluster": SIM})
        await until(scene, job.id, "COMPLETED")
        run = scene.cluster.truth.of(AttemptKey(job.id, 1))
        (told,) = [one for one in await scene.records(job.id) if one.type == "JobEnded"]
        assert run is not None
        assert run.finished_at is not None
        found.append((told.at - run.finished_at).total_seconds())
    return found


async def test_ends_are_noticed_as_fast_while_another_cluster_hangs(tmp_path: Path) -> None:
    async with running(tmp_path) as (scene, far):
        there = await scene.submit("#sim duration=forever", placement={"cluster": FAR})
        await until(scene, there.id, "RUNNING")
        before = await noticed(scene)
        far.hang()
        for _ in range(500):
            if far.under_way["observe"] and far.under_way["inventory"]:
                break
            await asyncio.sleep(0.01)
        while_hung = await noticed(scene)
        assert far.under_way["observe"] == 1
        assert median(while_hung) < NOTICED_S + median(before)
        assert max(while_hung) < 2.0
