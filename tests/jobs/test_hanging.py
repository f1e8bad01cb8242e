"""One cluster hangs, in every way that a call can: what runs elsewhere does not notice, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.domain import Job, JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.loop import TickReport
from tests.hanging import Hanging
from tests.platforms import SIM, Scene, a_scene
from tests.sim.stage import InPlace, Mishaps, on_stage

FAR = "far"
WITHIN_S = 10.0
LANED = ("inventory", "running", "figures", "using")


@dataclass
class Two:
    """A scene with a second cluster that can hang; every lane ticks on its own, as the runner has it."""

    scene: Scene
    world: Cluster
    engine: Hanging
    under_way: dict[tuple[str, str], asyncio.Task[TickReport]] = field(default_factory=dict)

    async def turn(self, seconds: float = 1.0) -> None:
        """Let time pass and every lane tick that is not in the middle of a tick."""
        self.scene.clock.advance(seconds)
        platform = self.scene.platform
        await self.scene.platform.lines.tick()
        await platform.starting.tick()
        for name in LANED:
            for lane, loop in getattr(platform, name).lanes.items():
                known = self.under_way.get((name, lane))
                if known is None or known.done():
                    self.under_way[name, lane] = asyncio.create_task(loop.tick())
        # Whoever waits for the engine that hangs is left behind; for the others this is plenty.
        hung = {task for task in self.under_way.values() if not task.done()}
        for _ in range(400):
            hung = {task for task in hung if not task.done()}
            if not hung:
                break
            await asyncio.sleep(0)
        for task in self.under_way.values():
            if task.done():
                task.result()

    async def turns(self, count: int, seconds: float = 1.0) -> None:
        for _ in range(count):
            await self.turn(seconds)

    async def until(self, job: Job, *states: str, most: int = 60) -> Job:
        for _ in range(most):
            found = await self.scene.job(job.id)
            if found.has_ended if not states else str(found.state) in states:
                return found
            await self.turn()
        raise AssertionError(f"the job is still {found.state} ({found.reason}: {found.sentence})")

    async def submit(self, cluster: str, run: str = "#sim duration=3", **fields: Any) -> Job:
        placement = {"cluster": cluster, **fields.pop("placement", {})}
        return await self.scene.submit(run, placement=placement, **fields)

    async def clusters(self) -> dict[str, dict[str, Any]]:
        async with self.scene.client() as client:
            return {one["name"]: one for one in (await client.get("/v1/clusters")).json()["items"]}


@pytest.fixture
async def staged(clock: ManualClock, tmp_path: Path) -> AsyncIterator[Database]:
    """A database without threads, so that how many turns a tick takes hangs on no machine's load."""
    asyncio.get_running_loop().set_default_executor(InPlace())
    with on_stage(Mishaps(Random(1))):
        db = Database(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", clock=clock, journal_key=b"test", durable=False)
        await db.create_all()
        yield db
        await db.close()


@pytest.fixture
async def two(staged: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Two]:
    world = Cluster(parse_fleet("4x2"), seed=9, clock=clock)
    engine = Hanging(SimulatedEngine(world))
    async with a_scene(staged, clock, ids, tmp_path, engines={FAR: engine}) as scene:
        made = Two(scene, world, engine)
        yield made
        engine.let_go()
        await asyncio.gather(*made.under_way.values(), return_exceptions=True)


async def test_while_one_hangs_jobs_of_the_other_start_and_end_as_ever(two: Two) -> None:
    there = await two.submit(FAR, "#sim duration=4")
    await two.until(there, "RUNNING")
    two.engine.hang()
    for _ in range(5):
        here = await two.submit(SIM, "#sim duration=2")
        began = two.scene.clock.monotonic_s()
        ended = await two.until(here)
        assert ended.state is JobState.COMPLETED
        assert two.scene.clock.monotonic_s() - began <= 5.0, "a tick to start it, two seconds, a tick or two to see it"
    assert (await two.scene.job(there.id)).state is JobState.RUNNING, "what nobody can see is left alone"
    two.engine.let_go()
    ended = await two.until(there)
    run = two.world.truth.of(two.scene.key(there))
    assert run is not None
    assert (ended.state, ended.finished_at) == (JobState.COMPLETED, run.finished_at)
    assert two.engine.most_under_way["observe"] == 1


async def test_a_cluster_that_hangs_is_told_and_nothing_new_is_put_there(two: Two) -> None:
    assert {name: one["state"] for name, one in (await two.clusters()).items()} == {SIM: "reachable", FAR: "reachable"}
    two.engine.hang()
    since = two.scene.clock.now()
    await two.turns(14)
    far = (await two.clusters())[FAR]
    assert (far["state"], far["reachable"]) == ("unreachable", False)
    assert far["reason"].startswith("It was asked what there is at 2026-01-01 00:00:0")
    assert far["reason"].endswith("UTC and has not answered.")
    assert far["answer_age_s"] >= 13
    assert (two.scene.clock.now() - since).total_seconds() == 14
    waits = await two.submit(FAR)
    await two.turns(3)
    job = await two.scene.job(waits.id)
    assert (job.waits, job.reason, job.waiting.reason if job.waiting else "") == (
        True, "NodeUnavailable", "NodeUnavailable",
    )  # fmt: skip
    assert job.sentence == 'It fits only on the cluster "far", which cannot be reached now.'
    assert two.engine.made["submit"] == 0
    two.engine.let_go()
    assert (await two.until(waits)).state is JobState.COMPLETED
    far = (await two.clusters())[FAR]
    assert (far["state"], far["reason"]) == ("reachable", "")
    # The late answer is taken, and is one of sixteen seconds; the next comes at once.
    told = [record.type for record in await two.scene.records() if record.payload.get("name") == FAR]
    assert [one for one in told if one.startswith("Cluster")] == [
        "ClusterReached", "ClusterUnreachable", "ClusterDegraded", "ClusterReached",
    ]  # fmt: skip


async def test_a_cluster_that_hangs_from_the_start_is_there_to_be_seen(
    staged: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    engine = Hanging(SimulatedEngine(Cluster(parse_fleet("1x2"), seed=9, clock=clock)))
    engine.hang()
    async with a_scene(staged, clock, ids, tmp_path) as scene:
        scene.platform.world.clusters[FAR] = engine  # type: ignore[index]
        platform = type(scene.platform)(scene.platform.world, scene.platform.settings)
        two = Two(
            Scene(platform, scene.cluster, clock, scene.projects, scene.users, scene.tokens), scene.cluster, engine
        )
        await two.turns(12)
        far = (await two.clusters())[FAR]
        assert (far["state"], far["kind"], far["seen_at"], far["answer_age_s"]) == (
            "unreachable",
            "hanging",
            None,
            None,
        )
        engine.let_go()
        await two.turns(2)
        far = (await two.clusters())[FAR]
        assert (far["state"], far["kind"]) == ("reachable", "simulated")
        assert "ClusterChanged" not in [record.type for record in await two.scene.records()]
        await asyncio.gather(*two.under_way.values())
        await platform.http.aclose()


async def test_a_submit_whose_answer_stays_away_is_not_made_again(two: Two) -> None:
    two.engine.after.add("submit")
    job = await two.submit(FAR, "#sim duration=30")
    await two.turns(25)
    assert (await two.scene.job(job.id)).state is JobState.RUNNING, "it is seen to run, answer or no answer"
    assert two.engine.made["submit"] == 1
    far = (await two.clusters())[FAR]
    assert far["state"] == "unreachable"
    assert "for new work to be taken" in far["reason"]
    two.engine.let_go()
    assert (await two.until(job)).state is JobState.COMPLETED
    assert two.engine.made["submit"] == 1


async def test_what_is_cancelled_while_its_fate_is_unknown_is_neither_lost_nor_left_running(two: Two) -> None:
    two.engine.hang("submit")
    job = await two.submit(FAR, "#sim duration=forever")
    await two.turns(3)
    await two.scene.cancel(job.id)
    await two.turns(40)  # far longer than `lost_after_s`
    assert not (await two.scene.job(job.id)).has_ended, "it may start at any moment"
    assert await two.scene.held() == [two.scene.key(job)]
    two.engine.let_go()
    ended = await two.until(job)
    assert ended.state is JobState.CANCELLED
    await two.turns(2)
    assert two.world.truth.running() == []
    assert await two.scene.held() == []
    assert two.engine.made["submit"] == 1


async def test_a_refusal_that_comes_late_ends_the_job(two: Two) -> None:
    two.engine.hang("submit")
    job = await two.submit(FAR, "#sim duratio=5")
    await two.turns(20)
    assert not (await two.scene.job(job.id)).has_ended
    two.engine.let_go()
    ended = await two.until(job)
    assert (ended.state, ended.reason) == (JobState.FAILED, "Refused")
    assert two.engine.made["submit"] == 1


async def test_a_stop_that_hangs_is_asked_once_and_taken_when_it_comes(two: Two) -> None:
    job = await two.submit(FAR, "#sim duration=forever")
    await two.until(job, "RUNNING")
    two.engine.hang("cancel")
    await two.scene.cancel(job.id)
    await two.turns(30)
    assert two.engine.made["cancel"] == 1
    assert (await two.clusters())[FAR]["state"] == "degraded"
    two.engine.let_go()
    assert (await two.until(job)).state is JobState.CANCELLED


async def test_an_engine_slower_than_is_waited_still_gets_its_ends_noticed(two: Two) -> None:
    """Each look takes twelve seconds, two more than are waited."""
    jobs = [await two.submit(FAR, f"#sim duration={seconds}") for seconds in (2, 20, 40)]
    for job in jobs:
        await two.until(job, "RUNNING")
    for _ in range(8):
        two.engine.after.add("observe")
        await two.turns(12)
        two.engine.let_go()
        await two.turn(0.1)
    assert [str((await two.scene.job(job.id)).state) for job in jobs] == ["COMPLETED"] * 3
    assert two.engine.most_under_way["observe"] == 1


async def test_half_a_list_loses_no_place_and_is_told(two: Two) -> None:
    job = await two.submit(FAR, "#sim duration=forever", resources={"gpu": {"count": 2}})
    await two.until(job, "RUNNING")
    (attempt,) = await two.scene.attempts(job.id)
    whole = two.engine.engine

    class Half(SimulatedEngine):
        """Lists all nodes but the one where something runs, and shows no attempt."""

        async def inventory(self) -> Any:
            return [node for node in await super().inventory() if node.name != attempt.node]

        async def observe(self, keys: Any) -> Any:
            return {}

    two.engine.engine = Half(two.world)
    await two.turns(3)
    far = (await two.clusters())[FAR]
    assert far["state"] == "degraded"
    assert far["reason"] == "It does not show 1 of the 1 attempts that run there."
    two.engine.engine.observe = whole.observe  # type: ignore[method-assign]
    await two.turns(3)
    far = (await two.clusters())[FAR]
    assert (far["state"], far["reachable"]) == ("degraded", True)
    assert far["reason"] == f"It does not list 1 of its 4 nodes any more ({attempt.node}), 1 of them with running work."
    await two.turns(40, seconds=10.0)  # longer than a node takes to be GONE
    assert (await two.scene.job(job.id)).state is JobState.RUNNING
    assert await two.scene.held() == [attempt.key]
    two.engine.engine = whole
    await two.turns(2)
    assert (await two.clusters())[FAR]["state"] == "reachable"
    assert await two.scene.proofs() == {}


async def test_an_engine_that_is_upgraded_under_us_is_told(two: Two) -> None:
    class Newer(SimulatedEngine):
        """Can do something else."""

        async def capabilities(self) -> Any:
            from dataclasses import replace

            return replace(await super().capabilities(), version="2.0", limits_by="cgroup-v2")

    two.engine.engine = Newer(two.world)
    await two.turns(40)  # it is asked at every fifteenth look
    (record,) = [one for one in await two.scene.records() if one.type == "ClusterChanged"]
    assert record.payload["name"] == FAR
    assert record.payload["before"] == {"version": "", "limits_by": "simulated"}
    assert record.payload["now"] == {"version": "2.0", "limits_by": "cgroup-v2"}
    assert (await two.clusters())[FAR]["version"] == "2.0"
