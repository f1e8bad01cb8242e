"""What a job says of its place, from its words to where its attempt stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import Isolation
from dujiang.jobs.domain import Job, JobState, request_of
from dujiang.jobs.spec import SpecInvalid, parse
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.pool.reserving import Wanted
from dujiang.scheduling.domain import Ask, Constraints, Level
from tests.platforms import SIM, Scene, a_scene

HOUR = timedelta(hours=1)
LONG = "#sim duration=10000"


@pytest.fixture
async def racks(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """Four nodes of two devices, two nodes a rack."""
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="4x2/switch=1/rack=2") as made:
        yield made


async def nodes_of(scene: Scene, job: Job) -> list[str]:
    """Return where a job got its place, once it has been looked for; nothing while it waits."""
    await scene.turns(2)
    attempts = await scene.attempts(job.id)
    return [rank.node for rank in attempts[-1].ranks] if attempts else []


WORDS = """
run: x
nodes: 1-2
queue: vision
time_limit: 1h
deadline: 2d
resources: {cpu: 2, any_of: [{gpu: 1/2}, {gpu: 1, cpu: 4}]}
placement:
  cluster: sim
  selector: {b: "2", a: "1"}
  tolerations: [z, a=1]
  within: rack
  required: false
  spread: node
  apart: replica
  isolation: memory
"""


def test_the_scheduler_is_asked_for_what_the_words_say(clock: ManualClock) -> None:
    (spec,) = parse(WORDS)
    job = Job(
        id="job_1", project_id="prj_1", name="x", spec=spec, state=JobState.PENDING, reason="Queued", sentence="",
        submitted_by="usr_1", created_at=clock.now(), queued_at=clock.now(),
    )  # fmt: skip
    request = request_of(job)
    assert (request.ranks, request.ranks_min, request.queue) == (2, 1, "vision")
    assert request.deadline == job.created_at + timedelta(days=2)
    assert (request.ask, request.alternatives) == (
        Ask(gpu_milli=500, cpu_milli=2000, memory_bytes=2**30),
        (Ask(gpu_milli=1000, cpu_milli=4000, memory_bytes=2**30),),
    )
    assert request.where == Constraints(
        cluster=SIM, selector=(("a", "1"), ("b", "2")), tolerations=("a=1", "z"), within=Level.RACK,
        is_within_required=False, spread=Level.NODE, apart="replica", isolation=Isolation.MEMORY_ONLY,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("deadline", "says"),
    [("2020-01-01T00:00:00Z", "The deadline has passed"), ("+30m", "The deadline is 30m away, the time limit is 1h")],
)
async def test_a_deadline_that_cannot_be_met_is_refused_at_once(scene: Scene, deadline: str, says: str) -> None:
    if deadline.startswith("+"):
        deadline = (scene.clock.now() + HOUR / 2).isoformat()
    with pytest.raises(SpecInvalid, match=says):
        await scene.submit(time_limit="1h", deadline=deadline)


async def test_nothing_starts_that_could_still_run_when_maintenance_begins(scene: Scene) -> None:
    now = scene.clock.now()
    async with scene.db.transaction() as tx:
        await scene.platform.reservations.make(tx, Wanted("fans", now + HOUR, now + 2 * HOUR))
    endless, short = await scene.submit(), await scene.submit("#sim duration=5", time_limit="10m")
    assert await nodes_of(scene, short)
    assert not await nodes_of(scene, endless)
    async with scene.db.transaction() as tx:
        await scene.platform.reservations.drop(tx, "fans")
    assert await nodes_of(scene, endless)


async def test_a_reservation_is_for_its_projects(scene: Scene) -> None:
    now = scene.clock.now()
    async with scene.db.transaction() as tx:
        wanted = Wanted("course", now, now + HOUR, projects=(scene.projects["own"],))
        await scene.platform.reservations.make(tx, wanted)
    ours, theirs = await scene.submit(), await scene.submit(project="other")
    assert await nodes_of(scene, ours)
    assert not await nodes_of(scene, theirs)
    scene.clock.advance(3600)
    assert await nodes_of(scene, theirs), "once it has ended the nodes are for everybody"


async def test_a_tainted_node_is_for_work_that_tolerates_it(scene: Scene) -> None:
    async with scene.db.transaction() as tx:
        await scene.platform.pool.taint(tx, "sim-0001", ["team=vision"], [])
    whole: dict[str, Any] = {"resources": {"gpu": 2}}
    plain = [await scene.submit(LONG, **whole) for _ in range(2)]
    tolerant = await scene.submit(LONG, **whole, placement={"tolerations": ["team=vision"]})
    places = [await nodes_of(scene, job) for job in (*plain, tolerant)]
    assert places == [["sim-0002"], [], ["sim-0001"]]
    await scene.cancel(tolerant.id)
    await scene.turns(40)
    assert await nodes_of(scene, plain[1]) == []
    async with scene.db.transaction() as tx:
        await scene.platform.pool.taint(tx, "sim-0001", [], ["team"])
    assert await nodes_of(scene, plain[1]) == ["sim-0001"]


async def test_a_selector_finds_what_an_operator_labelled(scene: Scene) -> None:
    async with scene.db.transaction() as tx:
        await scene.platform.pool.label(tx, "sim-0002", {"fast": "yes"}, [])
    jobs = [await scene.submit(placement={"selector": {"fast": "yes"}}) for _ in range(2)]
    assert [await nodes_of(scene, job) for job in jobs] == [["sim-0002"], ["sim-0002"]]


async def test_ranks_stand_in_one_rack_or_apart_as_they_say(racks: Scene) -> None:
    filler = await racks.submit(LONG, placement={"selector": {"dujiang.io/rack": "r001"}}, resources={"gpu": 2})
    assert (await nodes_of(racks, filler))[0] in ("sim-0001", "sim-0002")
    gang: dict[str, Any] = {"nodes": 2, "resources": {"gpu": 2}}
    together = await racks.submit(LONG, **gang, placement={"within": "rack"})
    assert sorted(await nodes_of(racks, together)) == ["sim-0003", "sim-0004"]
    await racks.cancel(together.id)
    await racks.cancel(filler.id)
    await racks.turns(40)
    apart = await racks.submit(LONG, **gang, placement={"spread": "rack"})
    assert sorted(node in ("sim-0001", "sim-0002") for node in await nodes_of(racks, apart)) == [False, True]


async def test_an_elastic_job_gets_what_there_is_room_for(racks: Scene) -> None:
    await nodes_of(racks, await racks.submit(LONG, resources={"gpu": 2}))
    elastic = await racks.submit(LONG, nodes="2-4", resources={"gpu": 2})
    assert len(await nodes_of(racks, elastic)) == 3


async def test_the_next_alternative_is_taken_where_there_is_no_room_for_the_first(racks: Scene) -> None:
    await nodes_of(racks, await racks.submit(LONG, nodes=4, resources={"gpu": 1}, placement={"spread": "node"}))
    job = await racks.submit(resources={"any_of": [{"gpu": 2}, {"gpu": 1}]})
    assert await nodes_of(racks, job)
    (attempt,) = await racks.attempts(job.id)
    assert len(attempt.ranks[0].devices) == 1
