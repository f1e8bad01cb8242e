"""The loops of jobs over a virtual cluster: what is written down becomes true, whatever the engine does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, EngineUnavailable, Launch, LogChunk, NodeFacts
from dujiang.engines.simulated import Faults, SimulatedEngine
from dujiang.jobs.domain import JobState
from dujiang.jobs.settings import JobSettings
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database, Tx
from dujiang.kit.ids import Ids
from dujiang.pool.domain import Grant
from dujiang.pool.domain.ledger import Opened
from dujiang.scheduling.domain import Quota
from tests.platforms import NODE, SIM, Scene, a_scene

WHOLE = {"gpu": {"count": 2}}
"""All devices of one node of a scene: one job a node."""


# -- the usual way -----------------------------------------------------------------------------------------------------


async def test_a_job_gets_its_place_runs_and_ends(both: Scene) -> None:
    job = await both.submit("#sim duration=5 print=hello")
    assert (job.state, job.reason) == (JobState.PENDING, "Queued")
    await both.turn()
    running = await both.until(job.id, "RUNNING")
    (attempt,) = await both.attempts(job.id)
    assert (running.attempt, running.started_at, running.waits) == (1, attempt.started_at, False)
    assert (attempt.number, attempt.state, attempt.cluster, attempt.node) == (1, JobState.RUNNING, SIM, NODE)
    assert await both.held() == [attempt.key]
    ended = await both.until(job.id)
    (attempt,) = await both.attempts(job.id)
    assert (ended.state, ended.reason, ended.exit_code, ended.signal) == (JobState.COMPLETED, "Succeeded", 0, None)
    assert (attempt.state, attempt.exit_code, attempt.finished_at) == (JobState.COMPLETED, 0, ended.finished_at)
    run = both.cluster.truth.of(attempt.key)
    assert run is not None
    assert (attempt.started_at, attempt.finished_at) == (run.started_at, run.finished_at)
    assert await both.told(job.id) == ["JobSubmitted", "JobStarted", "JobEnded"]
    assert await both.held() == []
    assert await both.proofs() == {}


async def test_a_settled_world_is_left_alone(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever")
    await scene.until(job.id, "RUNNING")
    await scene.turns(3)
    seq = (await scene.records())[-1].seq
    for _ in range(5):
        assert await scene.turn() == {}
    assert (await scene.records())[-1].seq == seq


async def test_a_job_of_several_ranks_ends_as_the_rank_that_failed(scene: Scene) -> None:
    run = "#sim duration=50\n#sim rank=1 duration=3 exit=7"
    job = await scene.submit(run, nodes=2, resources=WHOLE)
    ended = await scene.until(job.id)
    (attempt,) = await scene.attempts(job.id)
    assert (ended.state, ended.exit_code, ended.reason) == (JobState.FAILED, 7, attempt.reason)
    assert [rank.node for rank in attempt.ranks] == ["sim-0001", "sim-0002"]


# -- what follows a failure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "fields", "state", "exit_code", "signal"),
    [
        ("#sim exit=3", {}, "FAILED", 3, None),
        ("#sim exit=3", {"retry": {"limit": 0, "on": ["user"]}}, "FAILED", 3, None),
        ("#sim memory=4GiB", {"resources": {"memory": "2GiB"}}, "OUT_OF_MEMORY", None, 9),
        ("#sim duration=100", {"time_limit": "3s", "grace": "1s"}, "TIMEOUT", None, 15),
        ("#sim signal=11", {}, "FAILED", None, 11),
    ],
)
async def test_what_is_the_programs_own_doing_is_not_run_again(
    scene: Scene, run: str, fields: dict[str, object], state: str, exit_code: int | None, signal: int | None
) -> None:
    job = await scene.submit(run, **fields)
    ended = await scene.until(job.id)
    assert (str(ended.state), ended.exit_code, ended.signal, ended.attempt) == (state, exit_code, signal, 1)
    assert ended.reason not in ("", "Queued", "Started")


@pytest.mark.parametrize(
    ("run", "on", "fields"),
    [
        ("#sim memory=4GiB", "out_of_memory", {"resources": {"memory": "2GiB"}}),
        ("#sim duration=100", "time_limit", {"time_limit": "3s", "grace": "1s"}),
        ("#sim exit=3", "unknown", {}),
    ],
)
async def test_a_cause_that_the_job_names_is_run_again_up_to_its_limit(
    scene: Scene, run: str, on: str, fields: dict[str, object]
) -> None:
    job = await scene.submit(run, retry={"limit": 2, "on": [on]}, **fields)
    ended = await scene.until(job.id)
    assert (ended.attempt, ended.retries) == (3, 2)
    assert [attempt.number for attempt in await scene.attempts(job.id)] == [1, 2, 3]
    assert await scene.told(job.id) == ["JobSubmitted", *["JobStarted", "JobRetried"] * 2, "JobStarted", "JobEnded"]


async def test_a_kill_from_outside_is_run_again_at_once_then_after_longer_and_longer_pauses(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 3})
    pauses: list[float] = []
    for number in (1, 2, 3):
        await scene.until(job.id, "RUNNING")
        scene.cluster.kill(scene.key(job, number))
        waiting = await scene.until(job.id, "PENDING")
        assert waiting.not_before is not None
        pauses.append((waiting.not_before - waiting.queued_at).total_seconds())
        assert (waiting.reason, waiting.retries, waiting.exit_code, waiting.signal) == ("Retrying", number, None, None)
    assert pauses == [0.0, 2.0, 4.0]
    await scene.until(job.id, "RUNNING")
    scene.cluster.kill(scene.key(job, 4))
    ended = await scene.until(job.id)
    assert (ended.state, ended.signal, ended.attempt) == (JobState.FAILED, 9, 4)
    started = [attempt.created_at for attempt in await scene.attempts(job.id)]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(started)]
    assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=True))


async def test_a_lost_node_is_avoided_while_another_will_do(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", resources=WHOLE)
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(notice_s=2.0))
    scene.cluster.lose_node(NODE)
    await scene.until(job.id, "PENDING")
    again = await scene.until(job.id, "RUNNING")
    first, second = await scene.attempts(job.id)
    assert (first.state, first.reason, first.node) == (JobState.NODE_FAIL, "NodeLost", NODE)
    assert second.node == "sim-0002"
    assert again.avoid == ((SIM, NODE),)
    assert scene.cluster.truth.ran_together() == []


async def test_an_avoided_node_is_used_when_no_other_can_hold_the_job(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2") as scene:
        job = await scene.submit("#sim duration=20", resources=WHOLE)
        await scene.until(job.id, "RUNNING")
        scene.cluster.set_faults(Faults(notice_s=1.0))
        scene.cluster.lose_node(NODE, back_after_s=3.0)
        ended = await scene.until(job.id)
        assert (ended.state, ended.attempt) == (JobState.COMPLETED, 2)
        assert [attempt.node for attempt in await scene.attempts(job.id)] == [NODE, NODE]


async def test_what_the_engine_refuses_ends_and_says_why(scene: Scene) -> None:
    job = await scene.submit("#sim duratio=5", retry={"limit": 3, "on": ["infrastructure", "unknown", "user"]})
    ended = await scene.until(job.id)
    (attempt,) = await scene.attempts(job.id)
    assert (ended.state, ended.reason, attempt.started_at) == (JobState.FAILED, "Refused", None)
    assert ended.sentence.startswith("Its cluster does not take it: ")
    assert "duration" in ended.sentence, "the engine's own words"
    assert attempt.diagnosis is not None
    assert any("duration" in exhibit.line for exhibit in attempt.diagnosis.evidence)
    async with scene.client() as client:
        told = (await client.get(f"/v1/jobs/{job.id}/explain")).json()["text"]
    assert "the same work would fail again" in told
    assert "choose another cluster" in told
    assert await scene.held() == []
    assert await scene.proofs() == {}


async def test_what_was_to_start_on_a_node_that_was_closed_meanwhile_is_planned_anew(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2") as scene:
        job = await scene.submit("#sim duration=5", resources=WHOLE, retry={"limit": 0})
        await scene.platform.inventory.tick()
        await scene.platform.starting.tick()
        await scene.platform.lines[SIM].cordon(NODE, "a fan is to be changed")
        await scene.platform.running.tick()
        waiting = await scene.job(job.id)
        (attempt,) = await scene.attempts(job.id)
        assert (attempt.state, attempt.reason, attempt.started_at) == (JobState.FAILED, "NodeRefused", None)
        assert (waiting.state, waiting.retries, waiting.avoid) == (JobState.PENDING, 0, ())
        assert "a fan is to be changed" in waiting.sentence
        assert await scene.held() == []
        await scene.turns(20)
        assert (await scene.job(job.id)).attempt == 1, "nothing is put on a node that is known to be closed"
        await scene.platform.lines[SIM].uncordon(NODE)
        ended = await scene.until(job.id)
        assert (ended.state, ended.attempt) == (JobState.COMPLETED, 2)
        assert await scene.proofs() == {}


async def test_a_failed_setup_never_runs_the_program(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5", setup="#sim exit=4")
    ended = await scene.until(job.id)
    assert (ended.state, ended.exit_code, ended.reason) == (JobState.FAILED, 4, "SetupFailed")
    assert await scene.proofs() == {}


# -- cancel ------------------------------------------------------------------------------------------------------------


async def test_cancelled_while_it_runs_it_ends_when_the_engine_has_stopped_it(both: Scene) -> None:
    job = await both.submit("#sim duration=1000 stubborn=1", grace="4s")
    await both.until(job.id, "RUNNING")
    asked = await both.cancel(job.id)
    assert (asked.state, asked.reason) == (JobState.RUNNING, "Cancelling")
    assert await both.held() != []
    again = await both.cancel(job.id)
    assert again == asked
    ended = await both.until(job.id)
    assert (ended.state, ended.reason, ended.signal) == (JobState.CANCELLED, "Cancelled", 9)
    assert await both.held() == []
    assert (await both.told(job.id)).count("JobCancelAsked") == 1
    assert await both.proofs() == {}


async def test_cancelled_with_a_place_and_before_the_engine_heard_of_it_it_never_starts(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000")
    await scene.platform.starting.tick()
    placed = await scene.job(job.id)
    assert (placed.reason, placed.waits) == ("Starting", False)
    await scene.cancel(job.id)
    ended = await scene.until(job.id)
    (attempt,) = await scene.attempts(job.id)
    assert (ended.state, attempt.state, attempt.started_at) == (JobState.CANCELLED, JobState.CANCELLED, None)
    assert scene.cluster.truth.of(attempt.key) is None
    assert await scene.held() == []
    assert await scene.proofs() == {}


async def test_cancelled_while_a_submission_may_be_under_way_it_waits_until_the_engine_surely_has_none(
    scene: Scene,
) -> None:
    scene.cluster.set_faults(Faults(after=1.0))  # taken in, and the answer lost
    job = await scene.submit("#sim duration=1000 start=3")
    await scene.turn()
    scene.cluster.set_faults(Faults())
    await scene.cancel(job.id)
    ended = await scene.until(job.id)
    assert ended.state is JobState.CANCELLED
    assert scene.cluster.truth.running() == []
    assert await scene.proofs() == {}


async def test_cancelled_between_two_attempts_it_ends_at_once(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 3})
    await scene.until(job.id, "RUNNING")
    scene.cluster.kill(scene.key(job))
    await scene.until(job.id, "PENDING")
    ended = await scene.cancel(job.id)
    assert (ended.state, ended.attempt) == (JobState.CANCELLED, 1)
    await scene.turns(3)
    assert (await scene.job(job.id)).attempt == 1
    assert await scene.proofs() == {}


async def test_what_ended_well_before_it_could_be_stopped_has_completed(scene: Scene) -> None:
    job = await scene.submit("#sim duration=3")
    await scene.until(job.id, "RUNNING")
    scene.clock.advance(5)
    await scene.cancel(job.id)
    ended = await scene.until(job.id)
    assert (ended.state, ended.exit_code) == (JobState.COMPLETED, 0)


async def test_a_failure_after_a_cancel_is_not_run_again(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 3})
    await scene.until(job.id, "RUNNING")
    scene.cluster.kill(scene.key(job))
    await scene.cancel(job.id)
    ended = await scene.until(job.id)
    assert (ended.state, ended.attempt, ended.reason) == (JobState.CANCELLED, 1, "Cancelled")


# -- drain -------------------------------------------------------------------------------------------------------------


async def _drain(scene: Scene, node: str = NODE) -> None:
    async with scene.db.transaction() as tx:
        await scene.platform.pool.drain(tx, node, "to be mended")


async def test_a_drain_moves_work_away_and_counts_as_no_retry(both: Scene) -> None:
    job = await both.submit("#sim duration=1000 saves=10", retry={"limit": 0}, checkpoint={"signal": "SIGUSR1"})
    await both.until(job.id, "RUNNING")
    await _drain(both)
    await both.until(job.id, "PENDING")
    moved = await both.until(job.id, "RUNNING")
    first, second = await both.attempts(job.id)
    assert (first.state, first.stop_reason, second.node) == (JobState.PREEMPTED, "NodeDrained", "sim-0002")
    assert (moved.retries, moved.attempt, moved.avoid) == (0, 2, ())
    assert "AttemptStopAsked" in await both.told(job.id)
    assert both.cluster.truth.ran_together() == []
    assert await both.proofs() == {}


async def test_a_drain_moves_what_has_a_place_and_has_not_started(scene: Scene) -> None:
    scene.cluster.set_faults(Faults(before=1.0))
    job = await scene.submit("#sim duration=50", retry={"limit": 0})
    await scene.platform.starting.tick()
    await _drain(scene)
    scene.cluster.set_faults(Faults())
    ended = await scene.until(job.id)
    first, second = await scene.attempts(job.id)
    assert (first.state, first.started_at, second.node) == (JobState.PREEMPTED, None, "sim-0002")
    assert (ended.state, ended.retries) == (JobState.COMPLETED, 0)


async def test_a_drain_after_a_submission_that_failed_for_long_is_still_no_failure(scene: Scene) -> None:
    class Deaf(SimulatedEngine):
        """Answers questions and takes no work."""

        async def submit(self, launch: Launch) -> None:
            raise EngineUnavailable("it does not answer")

    scene.platform.world.clusters[SIM] = Deaf(scene.cluster)  # type: ignore[index]
    job = await scene.submit("#sim duration=50", retry={"limit": 0})
    await scene.turns(20)  # longer than an attempt may go unseen
    assert (await scene.job(job.id)).reason == "Starting"
    await _drain(scene)
    await scene.turns(2)
    scene.platform.world.clusters[SIM] = SimulatedEngine(scene.cluster)  # type: ignore[index]
    ended = await scene.until(job.id)
    first, _ = await scene.attempts(job.id)
    assert (first.state, first.stop_reason, ended.retries) == (JobState.PREEMPTED, "NodeDrained", 0)
    assert ended.state is JobState.COMPLETED


async def test_where_nothing_else_can_hold_it_drained_work_waits_and_says_so(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2") as scene:
        job = await scene.submit("#sim duration=100", resources=WHOLE)
        await scene.until(job.id, "RUNNING")
        await _drain(scene)
        await scene.until(job.id, "PENDING")
        await scene.turns(3)
        waiting = await scene.job(job.id)
        assert (waiting.reason, waiting.waits) == ("NodeUnavailable", True)
        async with scene.db.transaction() as tx:
            await scene.platform.pool.uncordon(tx, NODE)
        assert (await scene.until(job.id)).state is JobState.COMPLETED


# -- an engine that does not answer, or not all of it ------------------------------------------------------------------


async def test_while_the_engine_is_away_nothing_is_decided(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5")
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(before=1.0))
    await scene.turns(100)
    assert (await scene.job(job.id)).state is JobState.RUNNING
    assert await scene.held() == [scene.key(job)]
    scene.cluster.set_faults(Faults())
    assert (await scene.until(job.id)).state is JobState.COMPLETED


async def test_a_lost_answer_starts_nothing_twice(scene: Scene) -> None:
    scene.cluster.set_faults(Faults(after=1.0))
    job = await scene.submit("#sim duration=8")
    await scene.turns(3)
    scene.cluster.set_faults(Faults())
    assert (await scene.until(job.id)).state is JobState.COMPLETED
    assert scene.cluster.truth.started_twice() == []


async def test_an_attempt_unseen_for_a_while_goes_on_and_unseen_for_long_is_lost(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 1})
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(partial=1.0, left_out=1.0))
    await scene.turns(9)
    assert (await scene.job(job.id)).state is JobState.RUNNING
    scene.cluster.set_faults(Faults())
    await scene.turns(2)  # seen again: the count begins anew
    scene.cluster.set_faults(Faults(partial=1.0, left_out=1.0))
    await scene.turns(10)
    assert (await scene.job(job.id)).state is JobState.RUNNING
    await scene.turns(2)
    first = (await scene.attempts(job.id))[0]
    assert (first.state, first.reason) == (JobState.NODE_FAIL, "SupervisorLost")
    assert (await scene.job(job.id)).retries == 1


async def test_a_time_in_which_nobody_looked_does_not_make_an_attempt_lost(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000")
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(partial=1.0, left_out=1.0))
    await scene.turn()
    await scene.turn(100.0)  # the process stood still, or another one led; and the next view is partial, too
    assert (await scene.job(job.id)).state is JobState.RUNNING
    scene.cluster.set_faults(Faults(before=1.0))
    await scene.turns(20)  # the engine is away, and back with a partial view
    scene.cluster.set_faults(Faults(partial=1.0, left_out=1.0))
    await scene.turn()
    assert (await scene.job(job.id)).state is JobState.RUNNING
    await scene.turns(10)
    assert (await scene.job(job.id)).state is not JobState.RUNNING


async def test_what_counts_as_lost_and_runs_all_the_same_is_stopped_before_long(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 0})
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(partial=1.0, left_out=1.0))
    assert (await scene.until(job.id)).state is JobState.NODE_FAIL
    scene.cluster.set_faults(Faults())
    assert "processes" in await scene.proofs()
    sweep = next(loop for loop in scene.platform.loops if loop.name == "sweep")
    assert (await sweep.tick()).steps == {"orphan": 1}
    scene.clock.advance(1)
    assert (await sweep.tick()).steps == {"forget": 1}
    assert (await sweep.tick()).steps == {}
    assert scene.cluster.truth.running() == []
    assert await scene.proofs() == {}


async def test_an_attempt_that_no_row_knows_is_stopped(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000")
    await scene.until(job.id, "RUNNING")
    (attempt,) = await scene.attempts(job.id)
    stray = AttemptKey("job_of_nobody", 1)
    engine = scene.platform.world.clusters[SIM]
    await engine.submit(Launch(stray, "x", "p", "#sim duration=forever", attempt.ranks))
    sweep = next(loop for loop in scene.platform.loops if loop.name == "sweep")
    assert (await sweep.tick()).steps == {"orphan": 1}
    assert scene.cluster.truth.running() == [attempt.key]


async def test_what_has_ended_is_forgotten_by_the_engine(scene: Scene) -> None:
    job = await scene.submit("#sim duration=2")
    await scene.until(job.id)
    assert await scene.platform.world.clusters[SIM].attempts() == []


async def test_a_cluster_that_is_no_longer_configured_keeps_its_attempts_as_they_are(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5")
    await scene.until(job.id, "RUNNING")
    engine = scene.platform.world.clusters.pop(SIM)  # type: ignore[attr-defined]
    await scene.turns(30)
    assert (await scene.job(job.id)).state is JobState.RUNNING
    scene.platform.world.clusters[SIM] = engine  # type: ignore[index]
    assert (await scene.until(job.id)).state is JobState.COMPLETED


# -- decided on what is there ------------------------------------------------------------------------------------------


async def test_a_plan_on_an_older_pool_is_decided_again(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5")
    plan = scene.platform.starting.tick
    real = scene.platform.pool.allocate_many
    raced = False

    async def late(tx: Tx, grants: Sequence[Grant], version: int | None = None) -> Opened:
        nonlocal raced
        if not raced:
            raced = True
            await scene.platform.pool.cordon(tx, NODE, "just now")
        return await real(tx, grants, version)

    scene.platform.pool.allocate_many = late  # type: ignore[method-assign]
    report = await plan()
    assert (report.steps, report.again) == ({"stale": 1}, True)
    assert (await scene.job(job.id)).waits
    assert (await plan()).steps == {"start": 1}


async def test_two_replicas_of_the_loops_start_and_end_everything_once(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(database, clock, ids, tmp_path, fleet="2x2") as scene:
        other = type(scene.platform)(scene.platform.world, scene.platform.settings)
        try:
            made = [await scene.submit("#sim duration=3 exit=0", resources={"gpu": {"count": 1}}) for _ in range(10)]
            for _ in range(60):
                scene.clock.advance(1)
                await asyncio.gather(
                    *(loop.tick() for one in (scene.platform, other) for loop in (one.starting, one.running))
                )
            assert {str((await scene.job(job.id)).state) for job in made} == {"COMPLETED"}
            for job in made:
                assert await scene.told(job.id) == ["JobSubmitted", "JobStarted", "JobEnded"]
            assert scene.cluster.truth.started_twice() == []
            assert scene.cluster.truth.over_allocated() == []
            assert await scene.proofs() == {}
        finally:
            await other.http.aclose()


async def test_a_job_cancelled_after_the_snapshot_gets_no_place(scene: Scene) -> None:
    job = await scene.submit("#sim duration=5")
    scheduling = scene.platform.scheduling
    real = scheduling.quotas

    async def meanwhile(tx: Tx) -> Mapping[str, Quota]:
        await scene.cancel(job.id)
        return await real(tx)

    scheduling.quotas = meanwhile  # type: ignore[method-assign]
    assert (await scene.platform.starting.tick()).steps == {}
    assert (await scene.job(job.id)).state is JobState.CANCELLED
    assert await scene.held() == []
    assert await scene.proofs() == {}


# -- why it waits ------------------------------------------------------------------------------------------------------


async def test_what_waits_knows_why_and_is_told_again_only_when_that_is_old(scene: Scene) -> None:
    for _ in range(2):
        await scene.until((await scene.submit("#sim duration=forever", resources=WHOLE)).id, "RUNNING")
    job = await scene.submit(resources=WHOLE)
    assert (await scene.turn())["tell"] == 1
    waiting = await scene.job(job.id)
    assert waiting.waiting is not None
    assert (waiting.reason, waiting.waiting.reason) == ("Resources", "Resources")
    assert waiting.sentence == waiting.waiting.detail
    assert waiting.waiting.detail.startswith("Gpu: needs 2 on one node, largest free is 0")
    assert "tell" not in await scene.turn()
    assert (await scene.turn(5.0))["tell"] == 1


async def test_the_heavier_job_goes_first(scene: Scene) -> None:
    blockers = [await scene.submit("#sim duration=20", resources=WHOLE) for _ in range(2)]
    for job in blockers:
        await scene.until(job.id, "RUNNING")
    light = await scene.submit("#sim duration=20", resources=WHOLE, **{"class": "low"})
    heavy = await scene.submit("#sim duration=20", resources=WHOLE, **{"class": "core"})
    async with scene.db.reading() as tx:
        queue = await scene.platform.jobs.queue(tx)
    assert [(n, job.id) for n, job in queue] == [(1, heavy.id), (2, light.id)]
    await scene.until(heavy.id, "RUNNING")
    started = {job.id: job.started_at for job in [await scene.until(heavy.id), await scene.until(light.id)]}
    assert started[heavy.id] <= started[light.id]  # type: ignore[operator]


# -- figures -----------------------------------------------------------------------------------------------------------


class Printing(SimulatedEngine):
    """Gives as output what the test says."""

    said = b""

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Yield it in small pieces."""
        at = max(0, len(self.said) + offset) if offset < 0 else offset
        while piece := self.said[at : at + 1000]:
            yield LogChunk(rank, at, piece)
            at += len(piece)


async def _figures(scene: Scene, job_id: str) -> dict[str, tuple[int, float]]:
    async with scene.db.reading() as tx:
        return {one.name: (one.last_step, one.last_value) for one in await scene.platform.telemetry.latest(tx, job_id)}


async def test_figures_are_read_while_it_runs_and_to_the_last_line_without_a_line_feed(scene: Scene) -> None:
    engine = scene.platform.world.clusters[SIM] = Printing(scene.cluster)  # type: ignore[index]
    job = await scene.submit("#sim duration=5")
    await scene.until(job.id, "RUNNING")
    engine.said = b"step=1 loss=0.5\nstep=2 lo"
    await scene.turn()
    assert await _figures(scene, job.id) == {"loss": (1, 0.5)}
    engine.said += b"ss=0.25\nstep=3 loss=0.125"
    await scene.until(job.id)
    await scene.turn()
    assert await _figures(scene, job.id) == {"loss": (3, 0.125)}
    (attempt,) = await scene.attempts(job.id)
    assert attempt.figures_complete
    assert await scene.turn() == {}


async def test_much_output_is_read_in_several_ticks_and_a_line_without_end_stops_nothing(scene: Scene) -> None:
    engine = scene.platform.world.clusters[SIM] = Printing(scene.cluster)  # type: ignore[index]
    job = await scene.submit("#sim duration=5")
    engine.said = b"x" * 3_000_000 + b"\nstep=7 loss=0.5\n" + b"y" * 1_200_000
    await scene.until(job.id)
    for _ in range(10):
        if (await scene.attempts(job.id))[0].figures_complete:
            break
        await scene.turn()
    assert (await scene.attempts(job.id))[0].figures_complete
    assert await _figures(scene, job.id) == {"loss": (7, 0.5)}


async def test_output_of_any_bytes_is_diagnosed_and_kept(both: Scene) -> None:
    engine = both.platform.world.clusters[SIM] = Printing(both.cluster)  # type: ignore[index]
    engine.said = b"step=1 loss=0.5\n\xff\xfe nul:\x00 \xed\xa0\x80 ValueError: \x00\x1b[31m\n" + "é".encode()[:1]
    job = await both.submit("#sim duration=2 exit=5")
    ended = await both.until(job.id)
    await both.turn()
    assert (ended.state, ended.exit_code) == (JobState.FAILED, 5)
    assert await _figures(both, job.id) == {"loss": (1, 0.5)}
    async with both.client() as client:
        for path in ("", "/explain", "/metrics"):
            assert (await client.get(f"/v1/jobs/{job.id}{path}")).status_code == 200


async def test_an_engine_that_gives_no_output_is_asked_again(scene: Scene) -> None:
    job = await scene.submit("#sim duration=2 print=step=1_loss=0.5")
    ended = await scene.until(job.id)
    assert ended.state is JobState.COMPLETED
    other = await scene.submit("#sim duration=2 print=loss=0.5")
    await scene.until(other.id, "RUNNING")
    for _ in range(5):
        scene.clock.advance(1)
        await scene.platform.running.tick()
    scene.cluster.set_faults(Faults(before=1.0))
    await scene.platform.figures.tick()
    assert not (await scene.attempts(other.id))[0].figures_complete
    scene.cluster.set_faults(Faults())
    await scene.platform.figures.tick()
    assert (await scene.attempts(other.id))[0].figures_complete
    assert await _figures(scene, other.id) == {"loss": (1, 0.5)}


# -- checkpoints -------------------------------------------------------------------------------------------------------


def a_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def test_a_retry_is_told_the_last_good_checkpoint(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", checkpoint={"interval": "10s"})
    await scene.until(job.id, "RUNNING")
    folder = Path(job.checkpoint_dir)
    assert folder.name == job.id
    saved = a_file(folder / "epoch-1.pt", b"weights")
    scene.cluster.kill(scene.key(job))
    waiting = await scene.until(job.id, "PENDING")
    assert waiting.resume_from == str(saved)
    await scene.until(job.id, "RUNNING")
    first, second = await scene.attempts(job.id)
    assert (first.resume_from, second.resume_from) == (None, waiting.resume_from)
    retried = next(one for one in await scene.records(job.id) if one.type == "JobRetried")
    assert retried.payload["resume_from"] == waiting.resume_from
    saved.unlink()  # whoever looks after the folder took it: what is known is kept
    scene.cluster.kill(scene.key(job, 2))
    assert (await scene.until(job.id, "PENDING")).resume_from == waiting.resume_from


# -- inventory ---------------------------------------------------------------------------------------------------------


async def test_a_cluster_that_does_not_answer_gets_nothing_new_and_comes_back(scene: Scene) -> None:
    scene.cluster.set_faults(Faults(inventory=1.0))
    assert (await scene.turn())["unreachable"] == 1
    job = await scene.submit("#sim duration=2")
    await scene.turns(3)
    assert (await scene.job(job.id)).waits
    scene.cluster.set_faults(Faults())
    assert (await scene.until(job.id)).state is JobState.COMPLETED


async def test_an_inventory_that_contradicts_itself_changes_nothing(scene: Scene) -> None:
    class Twice(SimulatedEngine):
        """Lists a node twice."""

        async def inventory(self) -> Sequence[NodeFacts]:
            nodes = await super().inventory()
            return [*nodes, nodes[0]]

    scene.platform.world.clusters[SIM] = Twice(scene.cluster)  # type: ignore[index]
    assert (await scene.platform.inventory.tick()).steps == {"bad": 1}
    job = await scene.submit("#sim duration=2")
    assert (await scene.until(job.id)).state is JobState.COMPLETED


async def test_a_cordon_is_told_to_the_engine_until_it_has_followed(scene: Scene) -> None:
    async with scene.db.transaction() as tx:
        await scene.platform.pool.cordon(tx, NODE, "by hand")
    scene.cluster.set_faults(Faults(after=1.0))
    await scene.platform.inventory.tick()
    scene.cluster.set_faults(Faults())
    await scene.platform.inventory.tick()
    facts = {node.name: node for node in scene.cluster.inventory()}
    assert (facts[NODE].cordoned, facts[NODE].reason) == (True, "by hand")
    assert (await scene.platform.inventory.tick()).steps == {}


async def test_settings_decide_how_soon_it_is_asked_again(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, jobs=JobSettings(ask_again_s=3.0)) as scene:
        asked: list[float] = []

        class Counting(SimulatedEngine):
            """Takes no work and counts the asking."""

            async def submit(self, launch: Launch) -> None:
                asked.append(scene.clock.monotonic_s())
                raise EngineUnavailable("it does not answer")

        scene.platform.world.clusters[SIM] = Counting(scene.cluster)  # type: ignore[index]
        await scene.submit()
        await scene.turns(10)
        assert [later - earlier for earlier, later in pairwise(asked)] == [3.0] * (len(asked) - 1)
        assert len(asked) >= 3
