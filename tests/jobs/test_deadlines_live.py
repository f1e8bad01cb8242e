"""Deadlines from submission to the end: refused with what could be promised, told before, taken where wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dujiang.jobs.domain import JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain.deadlines import DeadlineNotPromised
from dujiang.scheduling.settings import SchedulingSettings
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

WHOLE: dict[str, Any] = {"resources": {"gpu": 2}, "nodes": 2, "grace": "10s"}
"""The whole pool."""


async def submit(scene: Scene, deadline: str, runs_s: int = 60, **more: Any) -> str:
    fields: dict[str, Any] = {**WHOLE, **more}
    job = await scene.submit(f"#sim duration={runs_s}", time_limit=f"{runs_s + 10}s", deadline=deadline, **fields)
    return job.id


async def test_a_deadline_that_cannot_be_met_is_refused_with_one_that_can(both: Scene) -> None:
    first = await submit(both, "150s")  # 80 s with its grace
    with pytest.raises(DeadlineNotPromised) as refused:
        await submit(both, "150s")
    assert refused.value.http_status == 409
    assert "cannot be promised: as far as is known now it would be over at" in refused.value.sentence
    assert f"The earliest that could be promised is {refused.value.facts['earliest'].replace('T', ' ')[:19]} UTC." in (
        refused.value.sentence
    )
    second = await submit(both, refused.value.facts["earliest"])
    with pytest.raises(DeadlineNotPromised):
        await submit(both, "155s")
    due = {}
    for job_id in (first, second):
        job = await both.until(job_id, "COMPLETED", most=400)
        assert job.spec.deadline is not None
        due[job_id] = job.spec.deadline.moment(job.created_at)
        assert job.finished_at is not None
        assert job.finished_at <= due[job_id]


async def test_what_was_refused_has_left_nothing(scene: Scene) -> None:
    await submit(scene, "100s")
    before = len(await scene.records())
    with pytest.raises(DeadlineNotPromised):
        await submit(scene, "100s")
    assert len(await scene.records()) == before


async def test_what_was_promised_is_not_stopped_for_others(scene: Scene) -> None:
    promised = await submit(scene, "700s", runs_s=600, **{"class": "low"})
    await scene.turns(320)
    core = await scene.submit("#sim duration=10", **{**WHOLE, "class": "core"})
    await scene.turns(5)
    assert (await scene.job(core.id)).state is JobState.PENDING
    assert (await scene.until(promised, most=400)).state is JobState.COMPLETED
    assert (await scene.until(core.id)).state is JobState.COMPLETED


async def test_the_api_refuses_and_tells_before(scene: Scene) -> None:
    await submit(scene, "100s")
    spec = {"name": "late", "run": "x", "time_limit": "70s", "deadline": "100s", "project": "own", **WHOLE}
    async with scene.client(Role.MEMBER) as client:
        refused = await client.post("/v1/jobs", json={"spec": spec})
        told = (await client.post("/v1/jobs/dry-run", json={"spec": spec})).json()
        free = (await client.post("/v1/jobs/dry-run", json={"spec": {**spec, "deadline": "2h"}})).json()
    assert (refused.status_code, refused.json()["code"]) == (409, "deadline_not_promised")
    assert told["deadline"]["is_kept"] is False
    assert told["deadline"]["detail"] == refused.json()["detail"]
    assert (free["deadline"]["is_kept"], free["deadline"]["detail"]) == (True, "")


@pytest.mark.parametrize("mode", ["warn", "off"])
async def test_a_site_that_does_not_refuse(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, mode: str
) -> None:
    settings = SchedulingSettings(deadlines=mode)  # type: ignore[arg-type]
    async with a_scene(sqlite, clock, ids, tmp_path, scheduling=settings) as scene:
        await submit(scene, "100s")
        late = await submit(scene, "100s")
        told = await scene.records(late)
        unsure = [record for record in told if record.type == "JobDeadlineUnsure"]
        assert len(unsure) == (mode == "warn")
        if unsure:
            assert "cannot be promised" in unsure[0].payload["sentence"]


async def test_later_work_of_a_higher_class_leaves_the_place_of_a_promised_deadline(scene: Scene) -> None:
    await scene.submit("#sim duration=100", time_limit="100s", **WHOLE)
    due = await submit(scene, "400s", runs_s=90)
    await scene.turns(2)
    await scene.submit("#sim duration=300", time_limit="300s", **{**WHOLE, "class": "core"})
    await scene.turns(2)
    job = await scene.until(due, "COMPLETED", most=400)
    assert job.spec.deadline is not None
    assert job.finished_at is not None
    assert job.finished_at <= job.spec.deadline.moment(job.created_at)


async def test_a_closed_node_puts_a_deadline_at_risk_and_the_job_is_told_once(scene: Scene) -> None:
    await scene.submit("#sim duration=100", time_limit="100s", **WHOLE)
    due = await submit(scene, "400s", runs_s=90)
    await scene.turns(2)
    assert [record for record in await scene.records(due) if record.type == "JobDeadlineAtRisk"] == []
    async with scene.db.transaction(cause="test") as tx:
        node = next(iter((await scene.platform.pool.inventory(tx)).nodes))
        await scene.platform.pool.cordon(tx, node, "a fan is to be changed")
    await scene.turns(3)
    told = [record for record in await scene.records(due) if record.type == "JobDeadlineAtRisk"]
    assert len(told) == 1
    assert "is at risk: nodes that it fits on are closed or gone" in told[0].payload["sentence"]
