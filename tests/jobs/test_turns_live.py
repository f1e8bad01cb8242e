"""Turns on the live platform: long work makes room for short work of its class, and goes on from its checkpoint."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.jobs.loop.outlook import Outlook
from dujiang.jobs.loop.served import device_seconds
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.pool.domain import Allocation, Share
from dujiang.scheduling.settings import SchedulingSettings
from tests.platforms import a_scene

SAVES: dict[str, Any] = {"checkpoint": {"interval": "5s", "signal": "SIGUSR1"}, "grace": "8s"}
WHOLE = {"gpu": {"count": 2}}


@pytest.mark.parametrize("turn_device_s", [100.0, None])
async def test_short_work_does_not_wait_until_long_work_has_ended(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path, turn_device_s: float | None
) -> None:
    chosen = SchedulingSettings(min_run_s=60.0, turn_device_s=turn_device_s)
    async with a_scene(database, clock, ids, tmp_path, fleet="1x2", scheduling=chosen) as scene:
        long = await scene.submit("#sim duration=1000 saves=10", resources=WHOLE, **SAVES)
        await scene.until(long.id, "RUNNING")
        clock.advance(200)
        await scene.turns(2)
        short = await scene.submit("#sim duration=20", resources=WHOLE)
        await scene.turns(4)
        if turn_device_s is None:
            assert (await scene.job(short.id)).reason in ("Resources", "Priority")
            assert [one.stop_reason for one in await scene.attempts(long.id)] == [""]
            return
        await scene.until(short.id, most=60)
        first, *_ = await scene.attempts(long.id)
        assert (first.reason, first.stop_for) == ("Preempted", short.id)
        (asked,) = [one for one in await scene.records(long.id) if one.type == "AttemptStopAsked"]
        assert "take turns" in asked.payload["sentence"]
        await scene.until(long.id, "RUNNING", most=60)
        outlook = Outlook(pool=scene.platform.pool, scheduling=scene.platform.scheduling)
        async with database.reading() as tx:
            (held,) = (await outlook.look(tx)).holdings
        assert held.job_id == long.id
        assert 2 * 200 <= held.had_device_s <= 2 * 300, "what the first attempt had on two devices"
        await scene.until(long.id, most=2000)
        assert len(await scene.attempts(long.id)) == 2
        assert await scene.proofs() == {}


def test_service_is_what_closed_rows_held() -> None:
    clock = ManualClock()
    began = clock.now()

    def row(job: str, number: int, gpu: int, cpu: int, seconds: float | None) -> Allocation:
        share = Share(AttemptKey(job, number), 0, "p", "c", "n", "d" if gpu else None, gpu, 0, cpu, 0, 0, "", "", False)
        ended = None if seconds is None else began + timedelta(seconds=seconds)
        return Allocation(f"{job}{number}{gpu}", share, began, ended)

    rows = [
        row("a", 1, 500, 0, 10), row("a", 1, 0, 4000, 10), row("a", 2, 1000, 0, 7), row("a", 3, 1000, 0, None),
        row("b", 1, 0, 20_000, 30),
    ]  # fmt: skip
    assert device_seconds(rows) == {"a": 12.0, "b": 30.0}
