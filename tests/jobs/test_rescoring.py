"""What running jobs use is measured, scored, told and acted on; virtual programs say what they use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.bootstrap.platform import Platform
from dujiang.engines.simulated import Faults
from dujiang.jobs import store
from dujiang.jobs.domain import JobState
from dujiang.jobs.settings import JobSettings
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import Holding, Plan, Snapshot, plan
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

ALL = {"gpu": {"count": 2}}
STOPS = JobSettings(reclaim="stop", idle_after_s=600.0, idle_grace_s=600.0)


async def a_while(scene: Scene, seconds: float, *, every_s: float = 15.0) -> dict[str, int]:
    """Let time pass with samples, then score; return what the scoring did."""
    left = seconds
    while left > 0:
        await scene.turn(every_s)
        await scene.platform.using.tick()
        left -= every_s
    done = await scene.platform.rescoring.tick()
    await scene.turn()
    return dict(done.steps)


@pytest.fixture
async def scene(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene that stops what is idle."""
    async with a_scene(sqlite, clock, ids, tmp_path, jobs=STOPS) as made:
        yield made


@pytest.fixture
async def both(database: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    """The same once on SQLite and once on PostgreSQL."""
    async with a_scene(database, clock, ids, tmp_path, jobs=STOPS) as made:
        yield made


def payloads(records: Any, kind: str) -> list[dict[str, Any]]:
    return [record.payload for record in records if record.type == kind]


async def test_load_moves_weights_with_an_event_that_holds_the_figures(both: Scene) -> None:
    busy = await both.submit("#sim duration=forever use=0.9", resources=ALL)
    slack = await both.submit("#sim duration=forever use=0.2", resources=ALL)
    await both.until(slack.id, "RUNNING")
    assert await a_while(both, 1200) == {"weight": 2}
    assert [(await both.job(job.id)).live_weight_milli for job in (busy, slack)] == [550, 450]
    (told,) = payloads(await both.records(busy.id), "JobRescored")
    assert {name: value for name, value in told.items() if name != "window_s"} == {
        "attempt": 1, "weight_before_milli": 500, "weight_milli": 550, "mean_use": 0.9, "samples": 80, "of": "devices",
        "ranks_most": None,
    }  # fmt: skip
    assert 1180 <= told["window_s"] <= 1200
    use = (await both.job(busy.id)).use
    assert use is not None
    assert (use.mean, use.samples, use.of, use.attempt) == (0.9, 80, "devices", 1)
    for _ in range(2):
        await a_while(both, 1200)
    assert [(await both.job(job.id)).live_weight_milli for job in (busy, slack)] == [600, 400]


async def test_who_waits_again_has_the_weight_that_its_use_earned(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.9", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await a_while(scene, 600)
    scene.cluster.set_faults(Faults(notice_s=1.0))
    for node in ("sim-0001", "sim-0002"):
        scene.cluster.lose_node(node)
    waiting = await scene.until(job.id, "PENDING")
    assert waiting.live_weight_milli == 550
    other = await scene.submit("#sim", resources=ALL, weight=0.54)
    async with scene.db.reading() as tx:
        assert [await scene.platform.jobs.position(tx, await scene.job(one.id)) for one in (job, other)] == [1, 2]


async def test_idle_work_is_told_then_stopped_and_then_waits_again(both: Scene) -> None:
    job = await both.submit("#sim duration=forever use=0.9 idle-after=60", resources=ALL, **{"class": "low"})
    await both.until(job.id, "RUNNING")
    assert (await a_while(both, 300)).get("told") is None
    done = await a_while(both, 600)
    assert done["told"] == 1
    (told,) = payloads(await both.records(job.id), "JobIdle")
    assert (told["attempt"], told["idle_under"], told["idle_s"] >= 600) == (1, 0.05, True)
    shown = await both.job(job.id)
    assert shown.use is not None
    assert shown.use.idle_since is not None
    assert shown.use.told_at is not None
    assert shown.use.stop_at == shown.use.told_at + timedelta(seconds=600)
    assert shown.state is JobState.RUNNING
    assert "stop" not in await a_while(both, 300)
    assert (await a_while(both, 400))["stop"] == 1
    (asked,) = payloads(await both.records(job.id), "AttemptStopAsked")
    assert asked["reason"] == "Idle"
    await both.turns(3)
    first = (await both.attempts(job.id))[0]
    assert (first.state, first.reason) == (JobState.PREEMPTED, "Idle")
    again = await both.until(job.id, "RUNNING")
    assert (again.retries, again.attempt, again.live_weight_milli) == (0, 2, 100)
    assert await both.proofs() == {}


async def test_who_works_again_within_the_grace_is_left_alone(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await a_while(scene, 900)
    (told,) = payloads(await scene.records(job.id), "JobIdle")
    assert told["stop_at"] is not None
    attempt = scene.cluster.find(scene.key(job))
    assert attempt is not None
    attempt.script = replace(attempt.script, ranks=tuple(replace(one, use=0.5) for one in attempt.script.ranks))
    assert (await a_while(scene, 300))["over"] == 1
    await a_while(scene, 900)
    shown = await scene.job(job.id)
    assert shown.state is JobState.RUNNING
    assert shown.use is not None
    assert (shown.use.told_at, shown.use.stop_at, shown.use.sentence) == (None, None, "")
    assert "JobIdleOver" in await scene.told(job.id)


async def test_an_elastic_job_shrinks_instead_of_stopping_and_grows_again_when_it_works(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="3x2", jobs=STOPS) as scene:
        job = await scene.submit("#sim duration=forever use=0.01", nodes={"min": 1, "max": 3}, resources=ALL)
        await scene.until(job.id, "RUNNING")
        assert len((await scene.attempts(job.id))[0].ranks) == 3
        await a_while(scene, 900)
        await a_while(scene, 900)
        await scene.turns(5)
        again = await scene.until(job.id, "RUNNING")
        first, second = await scene.attempts(job.id)
        assert (first.state, first.reason, len(second.ranks)) == (JobState.PREEMPTED, "Resized", 1)
        assert (again.ranks_most, again.attempt) == (1, 2)
        rescored = payloads(await scene.records(job.id), "JobRescored")
        assert rescored[-1]["ranks_most"] == 1


async def test_an_exempted_job_counts_as_busy_until_its_date(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0", resources=ALL)
    await scene.until(job.id, "RUNNING")
    until = scene.clock.now() + timedelta(hours=2)
    async with scene.client(Role.OPERATOR) as client:
        body = {"until": until.isoformat(), "reason": "a debugger waits"}
        answer = await client.post(f"/v1/jobs/{job.id}/exempt", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (200, "a debugger waits")
    for _ in range(4):
        await a_while(scene, 1200)
    assert payloads(await scene.records(job.id), "JobIdle") == []
    assert (await scene.job(job.id)).live_weight_milli == 500
    for _ in range(3):
        await a_while(scene, 1200)
    assert len(payloads(await scene.records(job.id), "JobIdle")) == 1
    (exempted,) = [one for one in await scene.records(job.id) if one.type == "JobExempted"]
    assert exempted.payload == {"until": until.isoformat(), "reason": "a debugger waits"}
    assert exempted.actor == f"user:{scene.users[Role.OPERATOR]}"


@pytest.mark.parametrize(
    ("until", "status", "code"),
    [
        ("2020-01-01T00:00:00Z", 422, "bad_exemption"),
        ("2031-01-01T00:00:00Z", 422, "bad_exemption"),
        ("2026-01-02T00:00:00", 422, "invalid"),
        (1_800_000_000, 422, "invalid"),
        ("soon", 422, "invalid"),
    ],
)
async def test_a_date_that_cannot_be_is_refused(scene: Scene, until: Any, status: int, code: str) -> None:
    job = await scene.submit("#sim duration=forever", resources=ALL)
    async with scene.client(Role.OPERATOR) as client:
        answer = await client.post(f"/v1/jobs/{job.id}/exempt", json={"until": until, "reason": "x"})
        assert answer.status_code == status, answer.text
    assert "JobExempted" not in await scene.told(job.id)


async def test_only_operators_exempt_and_the_exemption_can_be_taken_back(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever", resources=ALL)
    until = (scene.clock.now() + timedelta(days=1)).isoformat()
    async with scene.client(Role.MEMBER) as client:
        assert (await client.post(f"/v1/jobs/{job.id}/exempt", json={"until": until})).status_code == 403
    async with scene.client(Role.OPERATOR) as client:
        path = f"/v1/jobs/{job.id}"
        assert (await client.post(f"{path}/exempt", json={"until": until, "reason": "x"})).status_code == 200
        assert (await client.get(path)).json()["exempt_until"] is not None
        assert (await client.post(f"{path}/exempt", json={"until": None})).status_code == 200
        assert (await client.get(path)).json()["exempt_until"] is None
        assert (await client.post("/v1/jobs/job_none/exempt", json={"until": None})).status_code == 404
    await scene.cancel(job.id)
    async with scene.client(Role.OPERATOR) as client:
        assert (await client.post(f"/v1/jobs/{job.id}/exempt", json={"until": until})).status_code == 409


async def test_what_is_not_measured_is_not_judged(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0", resources=ALL)
    await scene.until(job.id, "RUNNING")
    scene.cluster.set_faults(Faults(before=1.0))
    assert await a_while(scene, 3600) == {}
    assert payloads(await scene.records(job.id), "JobIdle") == []


async def test_a_restart_forgets_what_was_measured_and_makes_no_verdict(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await a_while(scene, 900)
    assert len(payloads(await scene.records(job.id), "JobIdle")) == 1
    scene.platform = Platform(scene.platform.world, scene.platform.settings)
    await a_while(scene, 300)
    assert "JobIdleOver" not in await scene.told(job.id)
    await a_while(scene, 500)
    await scene.turns(3)
    assert (await scene.attempts(job.id))[0].reason == "Idle"
    await scene.platform.http.aclose()


async def test_a_job_without_devices_is_scored_by_its_cores_and_never_idle(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0")
    await scene.until(job.id, "RUNNING")
    for _ in range(3):
        await a_while(scene, 1200)
    shown = await scene.job(job.id)
    assert shown.use is not None
    assert (shown.use.of, shown.live_weight_milli) == ("cpu", 400)
    assert payloads(await scene.records(job.id), "JobIdle") == []


async def test_a_job_is_shown_with_its_use_and_its_notice(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever use=0.0", resources=ALL)
    await scene.until(job.id, "RUNNING")
    await a_while(scene, 900)
    async with scene.client(Role.MEMBER) as client:
        shown = (await client.get(f"/v1/jobs/{job.id}")).json()
    assert shown["weight_milli"] == 450
    assert (shown["use"]["mean"], shown["use"]["of"]) == (0.0, "devices")
    assert "it is stopped in 10m unless it works until then" in shown["use"]["sentence"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"use_low": 0.9}, "use_low"),
        ({"use_high": float("nan")}, "use_high"),
        ({"idle_under": 5.0}, "idle_under"),
        ({"least_samples": 0}, "least_samples"),
        ({"idle_grace_s": -1.0}, "idle_grace_s"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        JobSettings(**fields)


async def test_the_scheduler_sees_at_once_that_an_elastic_job_may_grow_again(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    seen: dict[str, Holding] = {}

    def planner(snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        seen.update({holding.job_id: holding for holding in snapshot.holdings})
        return replace(plan(snapshot, now, telling=telling), stops=())

    async with a_scene(sqlite, clock, ids, tmp_path, fleet="3x2", jobs=STOPS, planner=planner) as scene:
        job = await scene.submit("#sim duration=forever use=0.9", nodes={"min": 1, "max": 3}, resources=ALL)
        async with scene.db.transaction() as tx:
            await store.update_jobs(tx, [replace(job, ranks_most=2)])
        await scene.until(job.id, "RUNNING")
        await scene.submit("#sim duration=forever", resources={"gpu": {"count": 1}}, nodes=3)
        await scene.turns(2)
        assert (len(seen[job.id].ranks), seen[job.id].ranks_min, seen[job.id].ranks_max) == (2, 1, 2)
        await a_while(scene, 900)
        await scene.turn()
        assert seen[job.id].ranks_max == 3
        assert (await scene.job(job.id)).ranks_most is None
