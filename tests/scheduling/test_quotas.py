"""Quotas as they are kept and asked for over HTTP."""

from __future__ import annotations

import pytest

from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.pool.service import PoolService
from dujiang.scheduling import api
from dujiang.scheduling.domain import UNLIMITED, Quota
from dujiang.scheduling.service import BadQuota, SchedulingService
from dujiang.tenancy.domain import Role
from tests.factories import a_platform
from tests.pool.worlds import GIB, a_grant, a_node, a_rank, some_capabilities

service = SchedulingService()


async def test_a_quota_is_kept_changed_and_taken_away(database: Database) -> None:
    async with database.transaction(actor="user:usr_1") as tx:
        await service.set_quota(tx, "prj_a", Quota(4000, None, 16 * GIB))
        await service.set_quota(tx, "prj_b", Quota(0, 0, 0))
    async with database.transaction() as tx:
        await service.set_quota(tx, "prj_a", Quota(8000))
        await service.set_quota(tx, "prj_b", Quota(0, 0, 0))
    async with database.reading() as tx:
        assert await service.quotas(tx) == {"prj_a": Quota(8000), "prj_b": Quota(0, 0, 0)}
        assert await service.quota(tx, "prj_z") == UNLIMITED
    async with database.transaction() as tx:
        await service.set_quota(tx, "prj_a", UNLIMITED)
    async with database.reading() as tx:
        assert await service.quotas(tx) == {"prj_b": Quota(0, 0, 0)}
        records = await journal.read(tx.connection, types=["QuotaSet"], subject="prj_a")
    assert [(r.payload["gpu_milli"], r.payload["previous"][0]) for r in records] == [
        (4000, None), (8000, 4000), (None, 8000)]  # fmt: skip


@pytest.mark.parametrize("quota", [Quota(-1), Quota(None, 2**61), Quota(None, None, -5)])
async def test_a_senseless_quota_is_refused(sqlite: Database, quota: Quota) -> None:
    async with sqlite.transaction() as tx:
        with pytest.raises(BadQuota, match="is between 0 and"):
            await service.set_quota(tx, "prj_a", quota)


async def test_the_routes(sqlite: Database, clock: ManualClock, ids: Ids) -> None:
    pool = PoolService(ids)
    platform = await a_platform(sqlite, clock, ids)
    platform.app.include_router(api.router(service, platform.tenancy, pool))
    own, other = platform.projects["own"], platform.projects["other"]
    async with sqlite.transaction() as tx:
        await pool.sync(tx, "here", some_capabilities(), [a_node(devices=1)])
        await pool.allocate_many(tx, [a_grant("job_1", a_rank(shares={0: 250}, cpu_milli=2000), project=own)])
    async with platform.client(Role.MANAGER) as manager, platform.client(Role.MEMBER) as member:
        told = await manager.put("/v1/quotas/own", json={"gpu_milli": 4000, "memory_bytes": None})
        assert told.status_code == 200
        assert told.json() == {
            "project_id": own, "project": "own", "gpu_milli": 4000, "cpu_milli": None, "memory_bytes": None,
            "used_gpu_milli": 250, "used_cpu_milli": 2000, "used_memory_bytes": GIB,
        }  # fmt: skip
        listed = (await manager.get("/v1/quotas")).json()["items"]
        assert {"own", "other"} <= {item["project"] for item in listed}
        first = (await manager.get("/v1/quotas?limit=1")).json()
        rest = (await manager.get(f"/v1/quotas?cursor={first['next_cursor']}")).json()
        assert first["items"] + rest["items"] == listed
        assert (await manager.put("/v1/quotas/nowhere", json={})).status_code == 404
        assert (await manager.put("/v1/quotas/own", json={"gpu_milli": -1})).status_code == 422
        assert (await manager.put("/v1/quotas/own", json={"gpus": 1})).status_code == 422
        assert [item["project"] for item in (await member.get("/v1/quotas")).json()["items"]] == ["own"]
        assert (await member.put("/v1/quotas/own", json={})).status_code == 403
        assert (await member.put(f"/v1/quotas/{other}", json={})).status_code == 403
