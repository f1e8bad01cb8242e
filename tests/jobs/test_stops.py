"""Running work that stops for other work: asked once, saved, run again, and nothing lost but what was not saved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.bootstrap.platform import Platform
from dujiang.jobs.domain import JobState
from dujiang.jobs.loop.stopping import STOPPING
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import Holding, Plan, Snapshot, Stop, StopWhy, TaskClass, plan
from tests.platforms import Scene, a_scene

ALL = {"gpu": {"count": 2}}
SAVES: dict[str, Any] = {"checkpoint": {"interval": "5s", "signal": "SIGUSR1"}, "grace": "8s"}


class Stopping:
    """Starts what the scheduler would start, and has stops of its own in place of the scheduler's."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []
        self.fewer: dict[str, int] = {}
        """Ranks that a job gets, by identifier, instead of all."""
        self.seen: dict[str, Holding] = {}

    def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        self.seen = {holding.job_id: holding for holding in snapshot.holdings}
        done = plan(snapshot, now, telling=False)
        starts = tuple(
            replace(start, ranks=start.ranks[: self.fewer.get(start.job_id, len(start.ranks))]) for start in done.starts
        )
        return replace(done, starts=starts, stops=tuple(self.stops))


@pytest.fixture
def planner() -> Stopping:
    return Stopping()


@pytest.fixture
async def both(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path, planner: Stopping
) -> AsyncIterator[Scene]:
    """A scene of one node once on SQLite and once on PostgreSQL."""
    async with a_scene(database, clock, ids, tmp_path, fleet="1x2", planner=planner) as made:
        yield made


@pytest.fixture
async def scene(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, planner: Stopping
) -> AsyncIterator[Scene]:
    """A scene of one node."""
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2", planner=planner) as made:
        yield made


async def test_low_work_saves_itself_makes_room_and_goes_on_where_it_was(both: Scene, planner: Stopping) -> None:
    low = await both.submit("#sim duration=400 saves=10", resources=ALL, **{"class": "low"}, **SAVES)
    await both.until(low.id, "RUNNING")
    await both.turns(100)
    core = await both.submit("#sim duration=30", resources=ALL, **{"class": "core"})
    planner.stops = [Stop(low.id, StopWhy.PREEMPTED, core.id, 12.5, "It makes room for core work.")]
    await both.turn()
    stopping = await both.job(low.id)
    (first,) = await both.attempts(low.id)
    assert (stopping.reason, stopping.sentence) == (STOPPING, "It makes room for core work.")
    assert (first.stop_reason, first.stop_for, first.state) == ("Preempted", core.id, JobState.RUNNING)
    waiting = await both.until(low.id, "PENDING")
    planner.stops = []
    await both.until(core.id, "RUNNING")
    (first,) = await both.attempts(low.id)
    assert (first.state, first.reason) == (JobState.PREEMPTED, "Preempted")
    assert (waiting.retries, waiting.created_at, waiting.cancel_at) == (0, low.created_at, None)
    assert "It makes room for core work." in waiting.sentence
    await both.until(core.id)
    ended = await both.until(low.id, most=500)
    (first, second) = await both.attempts(low.id)
    assert (ended.state, ended.retries, ended.attempt) == (JobState.COMPLETED, 0, 2)
    assert first.started_at
    assert first.finished_at
    assert second.started_at
    assert second.finished_at
    ran = (first.finished_at - first.started_at) + (second.finished_at - second.started_at)
    assert timedelta(seconds=400) <= ran <= timedelta(seconds=420)  # an epoch of 10 s at most is done twice
    (asked,) = [one for one in await both.records(low.id) if one.type == "AttemptStopAsked"]
    assert asked.payload == {
        "attempt": 1, "reason": "Preempted", "for_job": core.id, "sentence": "It makes room for core work.",
        "lost_device_s": 12.5,
    }  # fmt: skip
    assert await both.told(low.id) == [
        "JobSubmitted", "JobStarted", "AttemptStopAsked", "JobRetried", "JobStarted", "JobEnded"]  # fmt: skip
    assert await both.proofs() == {}


@pytest.mark.parametrize("why", StopWhy)
async def test_each_reason_is_told_as_what_it_is(scene: Scene, planner: Stopping, why: StopWhy) -> None:
    job = await scene.submit("#sim duration=400", resources=ALL)
    await scene.until(job.id, "RUNNING")
    other = await scene.submit("#sim duration=5", resources=ALL)
    planner.stops = [Stop(job.id, why, other.id, sentence="Because.")]
    waiting = await scene.until(job.id, "PENDING")
    (attempt,) = await scene.attempts(job.id)
    assert (attempt.state, attempt.reason, waiting.reason) == (JobState.PREEMPTED, str(why), str(why))
    assert attempt.diagnosis is not None
    assert attempt.diagnosis.sentence == "The platform stopped it. Because."


@pytest.mark.parametrize(("why", "stops"), [(StopWhy.PREEMPTED, False), (StopWhy.MOVED, False), (StopWhy.IDLE, True)])
async def test_a_job_that_would_not_be_run_again_is_only_stopped_when_idle(
    scene: Scene, planner: Stopping, why: StopWhy, stops: bool
) -> None:
    job = await scene.submit("#sim duration=400", resources=ALL, retry={"limit": 0, "on": ["infrastructure"]})
    await scene.until(job.id, "RUNNING")
    await scene.submit("#sim duration=5", resources=ALL)
    planner.stops = [Stop(job.id, why)]
    await scene.turn()
    assert planner.seen[job.id].may_stop is False
    await scene.turns(3)
    ended = await scene.job(job.id)
    assert ended.state is (JobState.PREEMPTED if stops else JobState.RUNNING)
    assert ("AttemptStopAsked" in await scene.told(job.id)) is stops


async def test_who_is_cancelled_meanwhile_ends_as_cancelled_and_is_asked_once(scene: Scene, planner: Stopping) -> None:
    job = await scene.submit("#sim duration=400 stubborn=1", resources=ALL, grace="5s")
    await scene.until(job.id, "RUNNING")
    await scene.submit("#sim duration=5", resources=ALL)
    planner.stops = [Stop(job.id, StopWhy.PREEMPTED)]
    await scene.turns(2)
    await scene.cancel(job.id)
    ended = await scene.until(job.id)
    assert ended.state is JobState.CANCELLED
    assert (await scene.told(job.id)).count("AttemptStopAsked") == 1
    again = await scene.submit("#sim duration=400", resources=ALL)
    await scene.until(again.id, "RUNNING")
    await scene.cancel(again.id)
    planner.stops = [Stop(again.id, StopWhy.PREEMPTED), Stop("job_unknown", StopWhy.PREEMPTED)]
    await scene.submit("#sim duration=5", resources=ALL)
    await scene.until(again.id)
    assert "AttemptStopAsked" not in await scene.told(again.id)


async def test_a_stop_that_was_written_down_is_carried_out_by_the_next_process(scene: Scene, planner: Stopping) -> None:
    job = await scene.submit("#sim duration=400", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await scene.submit("#sim duration=5", resources=ALL)
    planner.stops = [Stop(job.id, StopWhy.PREEMPTED)]
    assert (await scene.platform.starting.tick()).steps["stop"] == 1
    (attempt,) = await scene.attempts(job.id)
    assert attempt.state is JobState.RUNNING
    planner.stops = []
    after = Platform(scene.platform.world, scene.platform.settings)
    for _ in range(3):
        await after.running.tick()
        scene.clock.advance(1.0)
    (attempt,) = await scene.attempts(job.id)
    assert (attempt.state, attempt.stop_reason) == (JobState.PREEMPTED, "Preempted")
    await after.http.aclose()


async def test_stops_decided_on_a_pool_that_has_moved_are_decided_anew(scene: Scene, planner: Stopping) -> None:
    job = await scene.submit("#sim duration=400", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await scene.submit("#sim duration=5", resources=ALL)
    decide = planner.__call__

    class Late(Stopping):
        def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
            return replace(decide(snapshot, now, telling=telling), version=snapshot.version - 1)

    planner.stops = [Stop(job.id, StopWhy.PREEMPTED)]
    late = Platform(replace(scene.platform.world, planner=Late()), scene.platform.settings)
    report = await late.starting.tick()
    assert (report.steps, report.again) == ({"stale": 1}, True)
    (attempt,) = await scene.attempts(job.id)
    assert attempt.stop_reason == ""
    await late.http.aclose()


async def test_the_scheduler_knows_of_running_work_what_a_stop_would_cost(scene: Scene, planner: Stopping) -> None:
    for _ in range(3):
        done = await scene.submit("#sim duration=60", name="like-it", resources=ALL)
        await scene.until(done.id)
    job = await scene.submit(
        "#sim duration=400 stubborn=1", name="like-it", resources=ALL, time_limit="1h", **{"class": "low"}, **SAVES
    )
    running = await scene.until(job.id, "RUNNING")
    await scene.turns(30)
    await scene.platform.using.tick()
    await scene.submit("#sim duration=5", resources=ALL)
    await scene.turn()
    held = planner.seen[job.id]
    assert running.started_at is not None
    assert (held.task_class, held.weight, held.may_stop, held.is_stopping) == (TaskClass.LOW, 0.2, True, False)
    assert held.ends_at == running.started_at + timedelta(seconds=3608)
    assert held.expected_end == running.started_at + timedelta(seconds=60)
    assert held.saved_at == running.started_at + timedelta(seconds=30)  # an epoch lasts 10 s
    assert (held.ranks_min, held.ranks_max) == (None, None)
    await scene.turns(40)
    assert planner.seen[job.id].expected_end == running.started_at + timedelta(seconds=120)
    planner.stops = [Stop(job.id, StopWhy.PREEMPTED)]
    await scene.turn()
    asked = scene.clock.now()
    await scene.turn()
    assert planner.seen[job.id].is_stopping is True
    assert planner.seen[job.id].ends_at == asked + timedelta(seconds=8)


async def test_a_gang_that_gets_fewer_ranks_holds_and_is_told_of_no_more(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, planner: Stopping
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="3x2", planner=planner) as scene:
        job = await scene.submit("#sim duration=5", nodes=3, resources=ALL)
        planner.fewer = {job.id: 2}
        await scene.until(job.id, "RUNNING")
        (attempt,) = await scene.attempts(job.id)
        run = scene.cluster.truth.of(attempt.key)
        assert run is not None
        assert [rank.node for rank in attempt.ranks] == [rank.node for rank in run.ranks] == ["sim-0001", "sim-0002"]
        assert await scene.held() == [attempt.key]
        await scene.until(job.id)
        assert await scene.proofs() == {}


async def test_the_scheduler_itself_stops_low_work_for_core_work(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2") as scene:
        low = await scene.submit("#sim duration=2000 saves=10", resources=ALL, **{"class": "low"}, **SAVES)
        await scene.until(low.id, "RUNNING")
        await scene.turns(15, 60.0)
        await scene.platform.using.tick()
        core = await scene.submit("#sim duration=30", resources=ALL, **{"class": "core"})
        await scene.until(core.id, "RUNNING", most=30)
        (first,) = await scene.attempts(low.id)
        assert (first.state, first.reason, first.stop_for) == (JobState.PREEMPTED, "Preempted", core.id)
        assert core.id in first.stop_sentence
        await scene.until(low.id, seconds=30.0)
        assert await scene.told(low.id) == [
            "JobSubmitted", "JobStarted", "AttemptStopAsked", "JobRetried", "JobStarted", "JobEnded"]  # fmt: skip
        assert await scene.proofs() == {}
