"""Queues and fair share in the running platform: set over HTTP, obeyed by the loop, told to who waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import ImpossibleRequest
from dujiang.scheduling.domain.queues import QueueNotOpen
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene


def _document(own: int, other: int, *, borrow: int) -> dict[str, Any]:
    def queue(project: str, gpu: int) -> dict[str, Any]:
        quota = {"any": {"nominal": {"gpu": gpu}, "borrowing_limit": {"gpu": borrow}}}
        return {"name": f"q-{project}", "parent": "all", "projects": [project], "quota": quota}

    return {"flavors": [{"name": "any"}], "queues": [{"name": "all"}, queue("own", own), queue("other", other)]}


async def _set(scene: Scene, document: dict[str, Any]) -> None:
    async with scene.client(Role.MANAGER) as manager:
        answer = await manager.put("/v1/queues", json={"document": document})
        assert answer.status_code == 200, answer.text


def _gpus(count: int) -> dict[str, Any]:
    return {"gpu": {"count": count}, "cpu": 0.1, "memory": "64MiB"}


async def test_a_queue_limits_what_starts_and_says_so_and_a_larger_one_lets_it(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path) as scene:  # two nodes of two devices
        await _set(scene, _document(1, 1, borrow=0))
        first = await scene.submit("#sim duration=100", resources=_gpus(1), name="first")
        second = await scene.submit("#sim duration=100", resources=_gpus(1), name="second")
        await scene.until(first.id, "RUNNING")
        await scene.turns(3)
        waiting = (await scene.job(second.id)).waiting
        assert waiting is not None
        assert waiting.reason == "QueueQuota"
        assert "Queue q-own can have 0 more gpu of any" in waiting.detail
        await _set(scene, _document(1, 1, borrow=1))  # now it may borrow what the other leaves idle
        await scene.until(second.id, "RUNNING")
        third = await scene.submit("#sim duration=10", resources=_gpus(1), name="third")
        await scene.turns(3)
        assert str((await scene.job(third.id)).state) == "PENDING"  # a device is free, quota is not
        async with scene.client(Role.MEMBER) as member:
            shown = (await member.get("/v1/queues")).json()
        (line,) = next(queue["quota"] for queue in shown["queues"] if queue["name"] == "q-own")
        assert (line["held"]["gpu_milli"], line["borrowed"]["gpu_milli"]) == (2000, 1000)
        assert line["lenders"][0]["lender"] == "q-other"
        await _set(scene, {"queues": []})
        await scene.until(third.id)


async def test_who_has_used_less_goes_first(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path) as scene:
        used = await scene.submit("#sim duration=600", resources=_gpus(2), project="own", name="used", nodes=2)
        await scene.until(used.id, "RUNNING")
        mine = await scene.submit("#sim duration=10", resources=_gpus(2), project="own", name="mine", nodes=2)
        theirs = await scene.submit("#sim duration=10", resources=_gpus(2), project="other", name="theirs", nodes=2)
        await scene.until(used.id, most=1000, seconds=5)
        await scene.until(mine.id)
        started = [(await scene.attempts(job.id))[0].created_at for job in (theirs, mine)]
        assert started[0] < started[1], "it was submitted later, but its project had used nothing"


async def test_a_job_is_counted_in_the_queue_that_it_names_where_it_may(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path) as scene:
        document = _document(1, 1, borrow=0)
        document["queues"][2]["guests"] = ["own"]
        await _set(scene, document)
        named = await scene.submit("#sim duration=100", resources=_gpus(1), name="named", queue="q-other")
        plain = await scene.submit("#sim duration=100", resources=_gpus(1), name="plain")
        for job in (named, plain):
            await scene.until(job.id, "RUNNING")
        async with scene.client(Role.MEMBER) as member:
            shown = (await member.get("/v1/queues")).json()
        held = {queue["name"]: sum(line["held"]["gpu_milli"] for line in queue["quota"]) for queue in shown["queues"]}
        assert held == {"all": 2000, "q-own": 1000, "q-other": 1000}
        with pytest.raises(QueueNotOpen, match="It may name q-other, or none"):
            await scene.submit("#sim", resources=_gpus(1), project="other", name="theirs", queue="q-own")


async def test_more_than_the_queue_could_ever_have_is_refused_and_told_once_it_was_lowered(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    async with a_scene(sqlite, clock, ids, tmp_path) as scene:
        await _set(scene, _document(1, 1, borrow=1))
        with pytest.raises(ImpossibleRequest, match=r"needs 4 gpu of any in all; queue q-own can have 2 at most"):
            await scene.submit("#sim", resources=_gpus(2), nodes=2)
        async with scene.client(Role.MEMBER) as member:
            spec = {"name": "x", "run": "#sim", "nodes": 2, "resources": _gpus(2), "project": "own"}
            for route, body in (("/v1/jobs", {"spec": spec}), ("/v1/jobs/dry-run", {"spec": spec})):
                answer = await member.post(route, json=body)
                assert (answer.status_code, answer.json()["code"]) == (422, "impossible_request"), answer.text
                assert answer.json()["queue"]["most"] == 2000
        first = await scene.submit("#sim duration=100", resources=_gpus(1), name="first")
        await scene.until(first.id, "RUNNING")
        large = await scene.submit("#sim duration=10", resources=_gpus(2), name="large")
        await scene.turns(2)
        assert "by its borrowing limit" in (await _explained(scene, large.id))["text"]
        await _set(scene, _document(1, 1, borrow=0))
        await scene.until(first.id, seconds=5)
        await scene.turns(2)
        told = await _explained(scene, large.id)
        assert told["wait"]["detail"] == (
            "It needs 2 gpu of any in all; queue q-own can have 1 at most, by its borrowing_limit: it starts only once "
            "that is raised, or it asks for less."
        )
        assert "It waits until that limit is raised" in told["text"]
        assert "as soon as there is room.\nWhat you can do\n  It starts now with 1 gpu." in told["text"]
        assert "Ask for less, or have that limit raised" in told["text"]
        waiting = (await scene.job(large.id)).waiting
        assert waiting is not None
        assert waiting.detail == told["wait"]["detail"]
        await _set(scene, _document(1, 1, borrow=1))
        await scene.until(large.id)


async def _explained(scene: Scene, job_id: str) -> dict[str, Any]:
    async with scene.client(Role.MEMBER) as member:
        answer = await member.get(f"/v1/jobs/{job_id}/explain")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
