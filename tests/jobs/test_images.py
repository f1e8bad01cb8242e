"""A job with an image goes where images are run, and is refused at submission where none are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dujiang.engines.contract import Capabilities
from dujiang.engines.simulated import SimulatedEngine, World, parse_fleet
from dujiang.jobs.domain import launch_of
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import ImpossibleRequest
from tests.platforms import SIM, Scene, a_scene

IMAGE = "registry.example.com/team/train:v1"


class Imageless(SimulatedEngine):
    """A cluster that runs none, until somebody installs what does."""

    images = ""

    async def capabilities(self) -> Capabilities:
        return replace(await super().capabilities(), images=self.images)


@pytest.fixture
async def scene(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """The cluster `sim` runs no images, `able` does and is smaller."""
    bare, able = World(parse_fleet("2x4"), seed=1, clock=clock), World(parse_fleet("1x2"), seed=2, clock=clock)
    engines = {SIM: Imageless(bare, sleep=clock.sleep), "able": SimulatedEngine(able, sleep=clock.sleep)}
    async with a_scene(sqlite, clock, ids, tmp_path, engines=engines) as made:
        yield made


async def test_it_starts_where_images_are_run_and_the_engine_is_told(scene: Scene) -> None:
    job = await scene.submit(image=IMAGE, resources={"gpu": 1})
    await scene.turns(2)
    (attempt,) = await scene.attempts(job.id)
    assert attempt.cluster == "able"
    launch = launch_of(await scene.job(job.id), attempt, {}, project="own")
    assert launch.image == IMAGE
    assert launch_of(await scene.job((await scene.submit()).id), attempt, {}, project="own").image is None


async def test_it_is_refused_where_it_could_never_run_with_where_it_could(scene: Scene) -> None:
    with pytest.raises(
        ImpossibleRequest, match=r"those that do cannot hold it: able \(simulated\)\. 4 gpu on one node"
    ):
        await scene.submit(image=IMAGE, resources={"gpu": 4})
    with pytest.raises(ImpossibleRequest, match=r"Cluster sim runs no container images; these do: able \(simulated\)"):
        await scene.submit(image=IMAGE, placement={"cluster": SIM})
    await scene.submit(resources={"gpu": 4})


async def test_where_no_cluster_runs_any_it_is_said_what_to_install(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    engine = Imageless(World(parse_fleet("2x4"), seed=1, clock=clock), sleep=clock.sleep)
    async with a_scene(sqlite, clock, ids, tmp_path, engines={SIM: engine}) as scene:
        async with scene.client() as client:
            document = {"name": "a-job", "run": "#sim", "image": IMAGE, "project": "own"}
            for path, body in (("/v1/jobs", {"spec": document}), ("/v1/jobs/dry-run", {"spec": document})):
                answer = await client.post(path, json=body)
                assert answer.status_code == 422, answer.text
                assert answer.json()["code"] == "impossible_request"
                assert "install podman, Docker or containerd" in answer.json()["detail"]
            (cluster,) = (await client.get("/v1/clusters")).json()["items"]
            assert cluster["images"] == ""
        engine.images = "podman"
        await scene.turns(40)
        job = await scene.submit(image=IMAGE)
        await scene.turns(2)
        assert [attempt.cluster for attempt in await scene.attempts(job.id)] == [SIM]


async def test_what_waits_when_the_last_runtime_is_gone_says_so(scene: Scene) -> None:
    able = scene.platform.world.clusters["able"]
    running = await scene.submit("#sim duration=10000", image=IMAGE, resources={"gpu": 2})
    await scene.turns(2)
    waiting = await scene.submit(image=IMAGE, resources={"gpu": 2})
    able.__class__ = Imageless
    await scene.turns(40)
    job = await scene.job(waiting.id)
    assert job.reason == "NoImages"
    assert "no cluster with what it asks for runs those now" in job.sentence
    assert str((await scene.job(running.id)).state) == "RUNNING"
