"""What the live platform tells the scheduler beside who runs and waits: its rules, and who is promised room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.bootstrap.platform import Platform
from dujiang.jobs import live_store
from dujiang.jobs.domain import JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import Plan, Snapshot, Stop, StopWhy, plan
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.settings import SchedulingSettings
from tests.platforms import Scene, a_scene

ALL = {"gpu": {"count": 2}}
SAVES: dict[str, Any] = {"checkpoint": {"interval": "5s", "signal": "SIGUSR1"}, "grace": "8s"}


class Told:
    """Decides as the scheduler does but for stops, which the test has; keeps what it was told."""

    def __init__(self) -> None:
        self.stops: list[Stop] = []
        self.seen: Snapshot | None = None

    def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        self.seen = snapshot
        return replace(plan(snapshot, now, telling=False), stops=tuple(self.stops))

    @property
    def promised(self) -> dict[str, bool]:
        assert self.seen is not None
        return {one.job_id: one.is_promised for one in self.seen.requests}


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def both(database: Database, clock: ManualClock, ids: Ids, tmp_path: Path, told: Told) -> AsyncIterator[Scene]:
    """A scene of one node once on SQLite and once on PostgreSQL."""
    scheduling = SchedulingSettings(most_lost_device_s=1000.0)
    async with a_scene(
        database, clock, ids, tmp_path, fleet="1x2", planner=told, scheduling=scheduling
    ) as made:  # fmt: skip
        yield made


@pytest.mark.parametrize("restarts", [False, True], ids=["same process", "after a restart"])
async def test_the_job_that_work_was_stopped_for_starts_first_in_its_class(
    both: Scene, told: Told, restarts: bool
) -> None:
    low = await both.submit("#sim duration=400 saves=10", resources=ALL, **{"class": "low"}, **SAVES)
    await both.until(low.id, "RUNNING")
    older = await both.submit("#sim duration=30", resources=ALL, **{"class": "core"})
    newer = await both.submit("#sim duration=30", resources=ALL, **{"class": "core"})
    await both.turn()
    assert told.promised == {older.id: False, newer.id: False}
    told.stops = [Stop(low.id, StopWhy.PREEMPTED, newer.id, 12.5)]
    await both.turn()
    told.stops = []
    scene = both
    if restarts:
        scene = replace(both, platform=Platform(both.platform.world, both.platform.settings))
        await scene.platform.inventory.tick()
    await scene.turn()
    assert told.promised == {older.id: False, newer.id: True}
    await scene.until(newer.id, "RUNNING")
    assert (await scene.job(older.id)).state is JobState.PENDING
    told.stops = [Stop(newer.id, StopWhy.MOVED)]
    await scene.turn()
    told.stops = []
    await scene.until(newer.id, "PENDING")
    await scene.turn()
    assert newer.id not in told.promised or not told.promised[newer.id], "it has had what was promised"
    await scene.until(older.id)
    if scene is not both:
        await scene.platform.http.aclose()


async def test_what_stops_cost_counts_against_the_budget_of_the_hour(both: Scene, told: Told) -> None:
    low = await both.submit("#sim duration=40000 saves=10", resources=ALL, **{"class": "low"}, **SAVES)
    await both.until(low.id, "RUNNING")
    other = await both.submit("#sim duration=5", resources=ALL, **{"class": "core"})
    told.stops = [Stop(low.id, StopWhy.PREEMPTED, other.id, 12.5)]
    await both.turn()
    (attempt,) = await both.attempts(low.id)
    assert attempt.stop_lost_device_s == 12.5
    told.stops = []
    await both.until(other.id)
    await both.until(low.id, "RUNNING")
    await both.submit("#sim duration=5", resources=ALL, **{"class": "low"})
    await both.turn()
    assert told.seen is not None
    assert told.seen.rules == Rules(most_lost_device_s=1000.0, lost_device_s=12.5)
    async with both.db.reading() as tx:
        assert await live_store.stops_since(tx, tx.now - timedelta(hours=1), "Preempted") == 1
        assert await live_store.stops_since(tx, tx.now - timedelta(hours=1), "Moved") == 0
    await both.turn(3600.0)
    assert told.seen.rules.lost_device_s == 0.0


async def test_settings_are_the_rules_of_every_plan(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path, told: Told
) -> None:
    chosen = SchedulingSettings(
        reservations=3, preempts=False, min_run_s=7.0, most_stops_for=2, grows=False, regrow_s=11.0
    )
    async with a_scene(sqlite, clock, ids, tmp_path, planner=told, scheduling=chosen) as scene:
        await scene.submit("#sim duration=5", resources=ALL)
        await scene.turn()
        assert told.seen is not None
        assert told.seen.rules == Rules(
            reservations=3, preempts=False, min_run_s=7.0, most_stops_for=2, grows=False, regrow_s=11.0
        )  # fmt: skip
        assert (await scene.platform.live.look()).snapshot.rules == told.seen.rules


@pytest.mark.parametrize(
    "bad", [{"reservations": -1}, {"min_run_s": -1.0}, {"most_lost_device_s": -1.0}, {"most_moves": -1}]
)
def test_rules_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not negative"):
        SchedulingSettings(**bad)


async def test_elastic_work_gets_more_once_others_have_ended(
    sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    chosen = SchedulingSettings(regrow_s=60.0, min_run_s=60.0)
    one = {"gpu": {"count": 1}}
    async with a_scene(sqlite, clock, ids, tmp_path, fleet="2x2", scheduling=chosen) as scene:
        for _ in range(3):
            await scene.submit("#sim duration=30", resources=one)
        await scene.turn()
        wide = await scene.submit(
            "#sim duration=4000 saves=10", nodes={"min": 1, "max": 4}, resources=one, **SAVES
        )  # fmt: skip
        await scene.until(wide.id, "RUNNING")
        (first,) = await scene.attempts(wide.id)
        assert len(first.ranks) == 1
        for _ in range(4):
            await scene.turns(20)
            await scene.platform.using.tick()  # it sees what was saved
        await scene.turns(90)
        first, second = await scene.attempts(wide.id)
        assert (first.reason, first.stop_for, first.state) == ("Resized", "", JobState.PREEMPTED)
        assert len(second.ranks) == 4
        assert "4 ranks instead of 1" in first.stop_sentence
        await scene.turns(100)
        assert len(await scene.attempts(wide.id)) == 2
        assert await scene.proofs() == {}
