"""Two clusters, one of them rented: what goes there, at what price, until the day's budget is spent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import ROUND_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from dujiang.bootstrap.settings import ClusterSettings, Settings
from dujiang.cli.trying import _write
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.domain import JobState
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.settings import SettingsInvalid, load
from dujiang.pool.domain import LedgerFilter
from dujiang.scheduling.domain import ImpossibleRequest, TaskClass
from dujiang.scheduling.domain.renting import BurstPolicy, Hours
from dujiang.scheduling.settings import BurstSettings, SchedulingSettings
from dujiang.scheduling.spending import cost_of, counted, sizes_of
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

CLOUD = ClusterSettings(price_per_device_hour=Decimal("1.5"), cloud=True)
BURST = BurstSettings(on=True, after_s=60, budget_per_day=Decimal(5))
GPU: dict[str, Any] = {"resources": {"gpu": 2}, "grace": "10s"}
"""The whole of the one node of its own, and of each of the cloud."""
LONG = "#sim duration=3590"
"""With an hour of limit and its grace it is estimated at 1.5 * 2 * 3610 / 3600 = 3.01."""

Made = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def made(database: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> Made:
    """A platform of one node, with a rented cluster of two beside it."""

    @asynccontextmanager
    async def make(burst: BurstSettings = BURST, terms: ClusterSettings = CLOUD) -> AsyncIterator[Scene]:
        rented = SimulatedEngine(Cluster(parse_fleet("2x2"), seed=8, clock=clock), sleep=clock.sleep)
        async with a_scene(
            database, clock, ids, tmp_path, fleet="1x2", engines={"rented": rented}, terms={"rented": terms},
            scheduling=SchedulingSettings(burst=burst),
        ) as scene:  # fmt: skip
            yield scene

    return make


async def long(scene: Scene, **more: Any) -> str:
    fields: dict[str, Any] = {**GPU, "time_limit": "1h", **more}
    return (await scene.submit(LONG, **fields)).id


async def cluster_of(scene: Scene, job_id: str) -> str:
    attempts = await scene.attempts(job_id)
    return attempts[-1].cluster if attempts else ""


async def test_a_start_that_is_near_enough_is_waited_for(made: Made) -> None:
    async with made(replace(BURST, after_s=7200)) as scene:
        jobs = [await long(scene) for _ in range(3)]
        await scene.turns(5)
        assert [await cluster_of(scene, job) for job in jobs] == ["sim", "", ""]


async def test_one_bursts_the_next_is_beyond_the_budget(made: Made) -> None:
    async with made() as scene:
        own, first, second = [await long(scene) for _ in range(3)]
        await scene.turns(3)
        assert [await cluster_of(scene, job) for job in (own, first, second)] == ["sim", "rented", ""]
        await scene.turns(70)  # the second has waited long enough too
        assert await cluster_of(scene, second) == ""
        (told,) = [record.payload for record in await scene.records(first) if record.type == "JobBurst"]
        assert (told["cluster"], told["cost"], told["per_hour"], told["currency"]) == ("rented", "3.01", "3.00", "CNY")
        assert (told["budget_per_day"], told["budget_left"]) == ("5", "1.99")

        job = await scene.until(first, most=400, seconds=10)
        assert job.state is JobState.COMPLETED
        async with scene.db.reading() as tx:
            rows = await scene.platform.pool.allocations(tx, LedgerFilter(job_id=first))
            prices = {rows[0].share.cluster_id: CLOUD.price_per_device_hour}
            spent = sum((cost_of(row, row.ended_at, prices) for row in rows if row.ended_at), Decimal(0))
            held_s = max(((row.ended_at or row.started_at) - row.started_at).total_seconds() for row in rows)
        assert spent.quantize(Decimal("0.0001")) == (Decimal(repr(held_s)) / 1200).quantize(Decimal("0.0001"))
        assert 0 < spent <= Decimal(told["cost"])


async def test_a_day_later_there_is_budget_again(made: Made) -> None:
    async with made() as scene:
        await scene.submit("#sim duration=359000", **{**GPU, "time_limit": "100h"})
        first = await long(scene)
        await scene.turns(3)
        second = await long(scene)
        await scene.until(first, most=400, seconds=10)
        await scene.turns(3)
        assert await cluster_of(scene, second) == ""
        for _ in range(24):
            await scene.turn(3600)
        await scene.turns(3)
        assert await cluster_of(scene, second) == "rented"


async def test_nothing_bursts_where_it_is_off_or_not_wanted(made: Made) -> None:
    async with made(replace(BURST, on=False)) as scene:
        own, other = await long(scene), await long(scene)
        await scene.turns(70)
        assert [await cluster_of(scene, job) for job in (own, other)] == ["sim", ""]
        with pytest.raises(ImpossibleRequest, match="Only cluster rented could hold it"):
            await long(scene, nodes=2)


async def test_a_job_may_refuse_and_name(made: Made) -> None:
    async with made() as scene:
        await long(scene)
        never = await long(scene, placement={"burst": "never"})
        named = await long(scene, placement={"cluster": "rented"})
        await scene.turns(70)
        assert [await cluster_of(scene, job) for job in (never, named)] == ["", "rented"]
        assert "JobBurst" not in await scene.told(named)


async def test_what_only_the_cloud_could_hold_goes_there_at_once(made: Made) -> None:
    async with made(replace(BURST, budget_per_day=Decimal(10))) as scene:
        wide = await long(scene, nodes=2)
        await scene.turns(2)
        assert await cluster_of(scene, wide) == "rented"
        with pytest.raises(ImpossibleRequest, match="needs a time_limit"):
            await scene.submit(LONG, nodes=2, **GPU)


async def test_a_dry_run_shows_the_cost_first_and_explain_too(
    made: Made, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with made() as scene:
        await scene.submit("#sim duration=99999", resources={"gpu": 2})
        await scene.turns(2)
        spec = {"name": "x", "run": "x", "time_limit": "1h", "project": "own", **GPU}
        async with scene.client(Role.MEMBER) as client:
            told = (await client.post("/v1/jobs/dry-run", json={"spec": spec})).json()
            waiting = await long(scene)
            await scene.turns(2)
            why = (await client.get(f"/v1/jobs/{waiting}/explain")).json()
        assert told["rent"] == {"per_hour": "3.00", "total": "3.01", "currency": "CNY", "budget_left": "1.99"}
        assert (told["place"]["cluster"], told["place_is"]) == ("rented", "expected")
        _write(told)
        text = " ".join(capsys.readouterr().out.split())
        assert "bursts to rented, which is rented, at " in text
        assert "at about 3.00 CNY an hour; 3.01 CNY at most" in text
        assert "which is rented at about 3.00 CNY an hour, 3.01 CNY at most" in why["wait"]["outlook"]
        assert why["wait"]["expected_cluster"] == "rented"


async def test_an_interrupted_spot_job_counts_what_it_held(made: Made) -> None:
    spot = ClusterSettings(price_per_device_hour=Decimal(1), cloud=True, interruptions_per_day=2)
    async with made(terms=spot) as scene:
        await long(scene)
        plain = await long(scene)
        saving = await long(scene, checkpoint={"interval": "10m"})
        await scene.turns(70)
        assert [await cluster_of(scene, job) for job in (plain, saving)] == ["", "rented"]


def test_settings_of_bursts_are_read(tmp_path: Path) -> None:
    file = tmp_path / "dujiang.toml"
    file.write_text(
        '[scheduling.burst]\non = true\nafter_s = "20m"\nbudget_per_day = 12.5\nlow_hours = "22:00-06:30"\n'
    )
    environ = {"DUJIANG_SCHEDULING__BURST__CLASSES": "low, core", "DUJIANG_SCHEDULING__BURST__SPOT": "false"}
    burst = load(Settings, file=file, environ=environ, flags={}).scheduling.burst
    policy = burst.policy(left=Decimal(1), currency="CNY")
    assert policy == BurstPolicy(
        after_s=1200.0, budget_per_day=Decimal("12.5"), left=Decimal(1), currency="CNY",
        classes=(TaskClass.LOW, TaskClass.CORE), spot=False, low_hours=Hours(22 * 60, 6 * 60 + 30),
    )  # fmt: skip
    assert BurstSettings().policy() is None


@pytest.mark.parametrize("bad", ['low_hours = "10-12"', "after_s = -1", "budget_per_day = -0.01", 'classes = ["high"]'])
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "dujiang.toml"
    file.write_text(f"[scheduling.burst]\n{bad}\n")
    with pytest.raises(SettingsInvalid, match=bad.split()[0]):
        load(Settings, file=file, environ={}, flags={})


async def test_what_runs_without_devices_is_counted_as_it_was_estimated(made: Made) -> None:
    async with made() as scene:
        async with scene.db.reading() as tx:
            inventory = await scene.platform.pool.inventory(tx)
        own = next(node for node in inventory.nodes.values() if inventory.clusters[node.cluster_id].name == "sim")
        cpus = own.cpu_limit_milli // 1000
        fields = {"time_limit": "1h", "grace": "10s", "resources": {"gpu": 0, "cpu": cpus}}
        jobs = [(await scene.submit("#sim duration=3000", **fields)).id for _ in range(3)]
        await scene.turns(5)
        placed = [await cluster_of(scene, job) for job in jobs]
        assert placed.count("rented") == 1, placed  # the estimate of the first leaves too little for another
        first = jobs[placed.index("rented")]
        (told,) = [record.payload for record in await scene.records(first) if record.type == "JobBurst"]
        async with scene.db.reading() as tx:
            rows = await scene.platform.pool.allocations(tx, LedgerFilter(job_id=first))
            paid = list(counted(rows, sizes_of(inventory)))
        prices = {rows[0].share.cluster_id: CLOUD.price_per_device_hour}
        cost = sum((cost_of(row, row.started_at + timedelta(seconds=3610), prices) for row in paid), Decimal(0))
        assert cost.quantize(Decimal("0.01"), ROUND_UP) == Decimal(told["cost"])
