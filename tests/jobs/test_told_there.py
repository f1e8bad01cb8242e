"""What is told of work that its cluster has: that it waits there, and that nobody can see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dujiang.bootstrap.platform import Platform
from dujiang.engines.contract import (
    AttemptKey,
    Engine,
    EngineUnavailable,
    Evidence,
    Launch,
    NodeFacts,
    NodeRefused,
    Observation,
    Phase,
)
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.domain import BEING_STARTED, JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from tests.hanging import Hanging
from tests.platforms import NODE, SIM, Scene, a_scene

FAR = "far"


class Talking(Hanging):
    """A virtual cluster that says why what it was given does not start, and that can be cut off."""

    says = ""
    away = ""

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        self._answer()
        seen = await super().observe(keys)
        why = (Evidence("engine", self.says),) if self.says else ()
        return {key: replace(one, evidence=why) if one.phase is Phase.PENDING else one for key, one in seen.items()}

    async def inventory(self) -> Sequence[NodeFacts]:
        self._answer()
        return await super().inventory()

    def _answer(self) -> None:
        if self.away:
            raise EngineUnavailable(self.away)


@pytest.fixture
async def scene(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    world = Cluster(parse_fleet("3x2"), seed=9, clock=clock)
    async with a_scene(sqlite, clock, ids, tmp_path, engines={FAR: Talking(SimulatedEngine(world))}) as scene:
        yield scene


def far(scene: Scene) -> Talking:
    engine = scene.platform.world.clusters[FAR]
    assert isinstance(engine, Talking)
    return engine


async def told(scene: Scene, job_id: str) -> tuple[str, str]:
    """Return what `show` and `explain` say of a job."""
    async with scene.client() as client:
        shown, explained = await asyncio.gather(
            client.get(f"/v1/jobs/{job_id}"), client.get(f"/v1/jobs/{job_id}/explain")
        )
    return shown.json()["sentence"], explained.json()["text"]


@asynccontextmanager
async def again(scene: Scene, clusters: Mapping[str, Engine]) -> AsyncIterator[Scene]:
    """Start the platform anew on the same database, with these clusters in its settings."""
    platform = Platform(replace(scene.platform.world, clusters=clusters), scene.platform.settings)
    await platform.install()
    try:
        yield replace(scene, platform=platform)
    finally:
        await platform.http.aclose()


async def looks(scene: Scene) -> None:
    """Let a platform look around for a while after its start."""
    for _ in range(3):
        await scene.turn()
        for loop in scene.platform.loops:
            if loop.name == "reservations":
                await loop.tick()


async def get(scene: Scene, path: str) -> Any:
    async with scene.client() as client:
        return (await client.get(path)).json()


async def test_why_work_waits_in_its_cluster_is_told_while_it_does(scene: Scene) -> None:
    far(scene).says = "rank 0 waits: pulling image\n registry.example/base:1"
    job = await scene.submit("#sim start=30 duration=50", placement={"cluster": FAR})
    await scene.turns(4)
    wanted = "It waits in its cluster: rank 0 waits: pulling image registry.example/base:1."
    shown, explained = await told(scene, job.id)
    assert shown == wanted
    assert wanted in explained
    seq = (await scene.records())[-1].seq
    assert "tell" not in await scene.turn()
    assert (await scene.records())[-1].seq == seq
    far(scene).says = "Resources"
    await scene.turns(2)
    assert (await told(scene, job.id))[0] == "It waits in its cluster: Resources."
    far(scene).says = ""
    await scene.turns(2)
    assert (await told(scene, job.id))[0] == BEING_STARTED
    far(scene).says = "Resources"
    await scene.until(job.id, "RUNNING")
    assert (await told(scene, job.id))[0] == ""


async def test_work_on_a_cluster_that_does_not_answer_is_told_as_it_was_seen_last(scene: Scene) -> None:
    job = await scene.submit("#sim duration=500", placement={"cluster": FAR})
    await scene.until(job.id, "RUNNING")
    assert (await told(scene, job.id))[0] == ""
    at = scene.clock.now()
    far(scene).away = "no route to host"
    await scene.turns(3)
    wanted = f"Its cluster far has not answered since {at:%Y-%m-%d %H:%M:%S} UTC; it was last seen running."
    shown, explained = await told(scene, job.id)
    assert shown == wanted
    assert wanted in explained
    assert (await scene.job(job.id)).state is JobState.RUNNING
    far(scene).away = ""
    await scene.turns(3)
    assert (await told(scene, job.id))[0] == ""


async def test_nodes_of_a_cluster_that_does_not_answer_are_marked_and_counted_apart(scene: Scene) -> None:
    assert (await get(scene, "/v1/pool"))["silent"] == []
    far(scene).away = "no route to host"
    await scene.turn()
    nodes = (await get(scene, "/v1/nodes"))["items"]
    assert [node["cluster_state"] for node in nodes] == ["unreachable"] * 3 + ["reachable"] * 2
    found = await get(scene, "/v1/pool")
    assert [(one["cluster"], one["state"], one["nodes"], one["devices"]) for one in found["silent"]] == [
        (FAR, "unreachable", 3, 6)
    ]


async def test_a_cluster_that_was_taken_out_of_the_settings_is_let_go_of_once_nothing_holds_a_place_there(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    world = Cluster(parse_fleet("3x2"), seed=9, clock=clock)
    async with a_scene(sqlite, clock, ids, tmp_path / "1", engines={FAR: Talking(SimulatedEngine(world))}) as scene:
        job = await scene.submit("#sim duration=20", placement={"cluster": FAR})
        await scene.until(job.id, "RUNNING")
        clusters = dict(scene.platform.world.clusters)
        async with again(scene, {SIM: clusters[SIM]}) as without:
            await looks(without)
            rows = {one["name"]: one for one in (await get(without, "/v1/clusters"))["items"]}
            assert rows[FAR]["state"] == "removed"
            assert "no longer in the settings" in rows[FAR]["reason"]
            nodes = (await get(without, "/v1/nodes"))["items"]
            assert [(one["name"], one["cluster_state"]) for one in nodes if one["cluster"] == FAR] == [
                (NODE, "removed")
            ], "the nodes on which nothing is held are gone"
            assert (await get(without, "/v1/pool"))["silent"][0]["state"] == "removed"
            assert "was removed from the settings" in (await told(without, job.id))[0]
        async with again(scene, clusters) as back:
            await back.until(job.id)
            assert len([n for n in (await get(back, "/v1/nodes"))["items"] if n["cluster"] == FAR]) == 3
        async with again(scene, {SIM: clusters[SIM]}) as without:
            await looks(without)
            assert [one["name"] for one in (await get(without, "/v1/clusters"))["items"]] == [SIM]
            assert (await get(without, "/v1/pool"))["clusters"] == 1


async def test_a_cluster_that_never_answered_is_named_by_the_pool(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    dead = Talking(SimulatedEngine(Cluster(parse_fleet("3x2"), seed=9, clock=clock)))
    dead.away = "no route to host"
    async with a_scene(sqlite, clock, ids, tmp_path, engines={FAR: dead}) as scene:
        await scene.turn()
        (one,) = (await get(scene, "/v1/pool"))["silent"]
        assert (one["cluster"], one["state"], one["nodes"]) == (FAR, "unreachable", 0)


async def test_a_cluster_that_stays_away_is_logged_when_it_goes_then_seldom_and_when_it_is_back(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5000", placement={"cluster": FAR})
    await scene.until(job.id, "RUNNING")
    far(scene).away = "no route to host"
    with capture_logs() as lines:
        await scene.turns(200, seconds=2.0)
        far(scene).away = ""
        await scene.turns(2)
    events = [line["event"] for line in lines]
    assert events.count("a cluster does not answer") == 2
    assert events.count("an engine does not answer") == 2
    assert events.count("a cluster answers again") == 1


class Refuses(SimulatedEngine):
    """A virtual cluster whose nodes take nothing, though they look as if they would."""

    opens = False

    async def submit(self, launch: Launch) -> None:
        if not self.opens:
            raise NodeRefused(f"Node {launch.ranks[0].node} turned it away: OutOfcpu.")
        await super().submit(launch)


async def test_what_is_turned_away_again_and_again_waits_ever_longer_and_says_so(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    engine = Refuses(Cluster(parse_fleet("1x2"), seed=7, clock=clock), sleep=clock.sleep)
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2", engines={SIM: engine}) as scene:
        job = await scene.submit("#sim duration=5", retry={"limit": 0})

        async def told() -> tuple[dict[str, Any], str]:
            async with scene.client() as client:
                shown = (await client.get(f"/v1/jobs/{job.id}")).json()
                return shown, (await client.get(f"/v1/jobs/{job.id}/explain")).json()["text"]

        await scene.turns(600)
        shown, explained = await told()
        assert 7 <= len(shown["attempts"]) < 10
        assert "in a row" not in shown["sentence"] + explained
        await scene.turns(900)
        shown, explained = await told()
        count = len(shown["attempts"])
        assert 10 <= count <= 13, "a pause of five minutes each by now"
        assert (shown["state"], shown["retries"]) == ("PENDING", 0)
        for text in (shown["sentence"], explained):
            assert f"turned it away {count} times in a row (on sim-0001)" in text
            assert "it waits on, and is tried again every 5m" in text
        assert "dujiang nodes cordon" in explained
        engine.opens = True
        ended = await scene.until(job.id)
        assert (ended.state, ended.attempt) == (JobState.COMPLETED, count + 1)
