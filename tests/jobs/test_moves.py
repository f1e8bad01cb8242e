"""Moves of running work on the running platform: told, made where that is set, and within their bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dujiang.jobs.domain import Job, JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.settings import SchedulingSettings
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

SAVES: dict[str, Any] = {"checkpoint": {"interval": "5s", "signal": "SIGUSR1"}, "grace": "8s"}
HALF = {"gpu": {"fraction": 0.5}}


@asynccontextmanager
async def fragmented(
    database: Database, clock: ManualClock, ids: Ids, folder: Path, **settings: Any
) -> AsyncIterator[tuple[Scene, list[Job], Job]]:  # fmt: skip
    """Half a device held on each of two nodes, by work that has just saved itself; a job that wants a whole node."""
    chosen = SchedulingSettings(min_run_s=60.0, preempts=False, **settings)
    async with a_scene(database, clock, ids, folder, fleet="2x2", scheduling=chosen) as scene:
        halves = [await scene.submit("#sim duration=4000 saves=10", resources=HALF, **SAVES)]
        await scene.until(halves[0].id, "RUNNING")
        fills = [await scene.submit("#sim duration=20", resources=one) for one in (HALF, {"gpu": {"count": 1}})]
        await scene.until(fills[-1].id, "RUNNING")
        halves.append(await scene.submit("#sim duration=4000 saves=10", resources=HALF, **SAVES))
        for job in fills:
            await scene.until(job.id)
        for _ in range(10):
            await scene.turns(10)
            await scene.platform.using.tick()
        whole = await scene.submit("#sim duration=30", resources={"gpu": {"count": 2}})
        await scene.turns(2)
        yield scene, halves, whole


async def told(scene: Scene) -> dict[str, Any]:
    async with scene.client(Role.OPERATOR) as client:
        answer = await client.get("/v1/moves")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


async def nodes(scene: Scene, jobs: list[Job]) -> list[str]:
    return [(await scene.attempts(job.id))[-1].ranks[0].node for job in jobs]


async def test_where_it_acts_work_goes_on_elsewhere_and_who_waited_starts(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with fragmented(database, clock, ids, tmp_path, defragment="act") as (scene, halves, whole):
        assert len(set(await nodes(scene, halves))) == 2
        assert (await scene.job(whole.id)).state is JobState.PENDING
        before = await told(scene)
        assert (before["at"], before["moves"], before["defragment"]) == (None, [], "act")
        report = await scene.platform.defragmenting.tick()
        assert report.steps == {"stop": 1, "advise": 1}
        found = await told(scene)
        (move,) = found["moves"]
        assert (move["is_stopped"], move["why_not"], move["whole_devices"]) == (True, "", 1)
        assert (found["waiting"], found["moved_this_hour"], move["job_name"]) == (1, 1, "a-job")
        assert move["source"]["node"] != move["target"]["node"]
        again = await scene.platform.defragmenting.tick()
        assert "stop" not in again.steps, "what the first gives back is spoken for"
        await scene.until(whole.id, "RUNNING", most=40)
        await scene.until(move["job_id"], "RUNNING", most=40)
        first, second = await scene.attempts(move["job_id"])
        assert (first.reason, first.state, first.stop_for) == ("Moved", JobState.PREEMPTED, "")
        assert second.ranks[0].node == move["target"]["node"] != first.ranks[0].node
        (asked,) = [one for one in await scene.records(move["job_id"]) if one.type == "AttemptStopAsked"]
        assert asked.payload["reason"] == "Moved"
        assert "stop" not in (await scene.platform.defragmenting.tick()).steps
        assert await scene.proofs() == {}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "only advised"), ({"defragment": "act", "most_moves_hourly": 0}, "most_moves_hourly"),
        ({"defragment": "act", "most_lost_device_s": 0.0}, "most_lost_device_s"),
    ],
)  # fmt: skip
async def test_what_is_not_made_is_told_with_its_reason(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, settings: dict[str, Any], why: str
) -> None:
    async with fragmented(sqlite, clock, ids, tmp_path, **settings) as (scene, halves, _):
        assert (await scene.platform.defragmenting.tick()).steps == {"advise": 1}
        (move,) = (await told(scene))["moves"]
        assert why in move["why_not"]
        assert move["job_id"] in {job.id for job in halves}
        await scene.turns(3)
        assert [len(await scene.attempts(job.id)) for job in halves] == [1, 1]


async def test_nobody_looks_where_it_is_off_and_old_advice_is_not_shown(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with fragmented(sqlite, clock, ids, tmp_path, defragment="off") as (scene, _, _):
        assert (await scene.platform.defragmenting.tick()).steps == {}
        found = await told(scene)
        assert (found["defragment"], found["at"], found["moves"]) == ("off", None, [])


async def test_stops_that_were_found_on_a_pool_that_has_moved_are_not_made(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fragmented(sqlite, clock, ids, tmp_path, defragment="act") as (scene, halves, _):
        version = scene.platform.pool.version

        async def moved(tx: Any) -> int:
            return await version(tx) + 1

        monkeypatch.setattr(scene.platform.pool, "version", moved)
        assert (await scene.platform.defragmenting.tick()).steps == {"advise": 1, "stale": 1}
        (move,) = (await told(scene))["moves"]
        assert (move["is_stopped"], "decides anew" in move["why_not"]) == (False, True)
        assert [one.stop_reason for job in halves for one in await scene.attempts(job.id)] == ["", ""]
