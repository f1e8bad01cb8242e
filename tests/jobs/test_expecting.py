"""How long jobs will run, as the platform learns it from those that end, and how well it told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from dujiang.bootstrap.platform import Platform
from dujiang.jobs.domain import JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import Plan, Request, Snapshot, plan
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

ALL = {"gpu": {"count": 2}}


class Looking:
    """Decides as the scheduler does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Request] = {}

    def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        self.asked |= {request.job_id: request for request in snapshot.requests}
        return plan(snapshot, now, telling=telling)


@pytest.fixture
def planner() -> Looking:
    return Looking()


@pytest.fixture
async def scene(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, planner: Looking
) -> AsyncIterator[Scene]:
    """A scene of one node."""
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="1x2", planner=planner) as made:
        yield made


@pytest.fixture
async def both(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path, planner: Looking
) -> AsyncIterator[Scene]:
    """The same once on SQLite and once on PostgreSQL."""
    async with a_scene(database, clock, ids, tmp_path, fleet="1x2", planner=planner) as made:
        yield made


async def test_jobs_alike_are_expected_to_run_as_those_before_also_after_a_restart(
    both: Scene, planner: Looking
) -> None:
    for number in range(3):
        job = await both.submit("#sim duration=30", name=f"train-{number}", resources=ALL)
        await both.until(job.id)
        assert (planner.asked[job.id].expected_s, (await both.job(job.id)).expected_s) == (
            (None, None) if number < 2 else (30.0, 30.0)
        )
    both.platform = Platform(both.platform.world, both.platform.settings)
    job = await both.submit("#sim duration=30", name="train-9", resources=ALL)
    await both.until(job.id, "RUNNING")
    running = await both.job(job.id)
    assert planner.asked[job.id].expected_s == 30.0
    assert (running.expected_s, running.expected_by) == (30.0, "project, user, name, shape")
    (attempt,) = await both.attempts(job.id)
    assert attempt.expected_s == 30.0
    await both.platform.http.aclose()


async def test_a_time_limit_caps_and_work_that_is_saved_is_not_expected_again(scene: Scene, planner: Looking) -> None:
    for _ in range(2):
        job = await scene.submit("#sim duration=100", resources=ALL)
        await scene.until(job.id)
    capped = await scene.submit("#sim", resources=ALL, time_limit="40s")
    await scene.until(capped.id)
    assert planner.asked[capped.id].expected_s == 40.0
    saving = await scene.submit(
        "#sim duration=100 saves=10", resources=ALL, checkpoint={"signal": "SIGUSR1"}, retry={"limit": 3}
    )
    await scene.until(saving.id, "RUNNING")
    await scene.turns(60)
    scene.cluster.kill(scene.key(saving))
    await scene.until(saving.id, "PENDING")
    await scene.until(saving.id)
    first, second = await scene.attempts(saving.id)
    assert first.expected_s == 100.0
    assert first.started_at
    assert first.finished_at
    left_s = 100.0 - (first.finished_at - first.started_at).total_seconds()
    assert second.expected_s == pytest.approx(left_s)


async def test_what_failed_or_was_cancelled_only_tells_that_it_ran_as_long(scene: Scene) -> None:
    for _ in range(2):
        job = await scene.submit("#sim duration=50", resources=ALL)
        await scene.until(job.id)
    for _ in range(3):
        job = await scene.submit("#sim duration=5 exit=1", resources=ALL)
        assert (await scene.until(job.id)).state is JobState.FAILED
    never = await scene.submit("#sim", resources=ALL)
    await scene.cancel(never.id)
    job = await scene.submit("#sim duration=50", resources=ALL)
    assert (await scene.until(job.id, "RUNNING")).expected_s == 50.0


async def test_accuracy_is_told_by_project_and_by_group_to_those_who_may_see(scene: Scene) -> None:
    async with scene.client(Role.ADMIN) as client:
        empty = (await client.get("/v1/runtimes/accuracy")).json()
        assert (empty["overall"], empty["projects"], empty["groups"]) == (None, [], [])
    for project in ("own", "other"):
        for seconds in (20, 20, 20, 80):
            job = await scene.submit(f"#sim duration={seconds}", project=project, resources=ALL)
            await scene.until(job.id)
    async with scene.client(Role.ADMIN) as client:
        found = (await client.get("/v1/runtimes/accuracy")).json()
        assert found["overall"]["jobs"] == 6  # the first two of the first project met nothing to go by
        assert {one["name"]: one["jobs"] for one in found["projects"]} == {"own": 2, "other": 4}
        own = next(one for one in found["projects"] if one["name"] == "own")
        assert (own["median_ratio"], own["within_factor_2"], own["p90_error_s"]) == (0.625, 0.5, 60.0)
        assert found["groups"][0]["name"]
        some = (await client.get("/v1/runtimes/accuracy", params={"project": "own", "days": 1})).json()
        assert some["overall"]["jobs"] == 2
        assert (await client.get("/v1/runtimes/accuracy", params={"days": 0})).status_code == 422
    async with scene.client(Role.MEMBER) as client:
        mine = (await client.get("/v1/runtimes/accuracy")).json()
        assert [one["name"] for one in mine["projects"]] == ["own"]
        assert (await client.get("/v1/runtimes/accuracy", params={"project": "other"})).status_code == 404
