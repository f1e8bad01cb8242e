"""Queues and fair share in the running platform: set over HTTP, obeyed by the loop, told to who waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
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
