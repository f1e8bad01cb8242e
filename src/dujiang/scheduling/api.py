"""Routes of quotas. The queue itself is asked of `jobs`, which owns what waits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from dujiang.kit.db import Tx
from dujiang.kit.http import Model, Page, Paged
from dujiang.pool.domain.ledger import LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import UNLIMITED, Quota
from dujiang.scheduling.domain.snapshot import Amounts
from dujiang.scheduling.service import SchedulingService
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Project
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.QUEUE_READ))]
Manager = Annotated[Caller, Depends(needs(Permission.QUOTA_MANAGE))]
Amount = Annotated[int | None, Field(ge=0, le=2**60, strict=True)]


class QuotaIn(Model):
    """What a project may hold at one time; null, or left out, is unlimited."""

    gpu_milli: Amount = None
    """Thousandths of devices: 1000 is one."""
    cpu_milli: Amount = None
    memory_bytes: Amount = None


class QuotaOut(Model):
    """A project's quota and what it holds of it now."""

    project_id: str
    project: str
    gpu_milli: int | None
    cpu_milli: int | None
    memory_bytes: int | None
    used_gpu_milli: int
    used_cpu_milli: int
    used_memory_bytes: int


def router(scheduling: SchedulingService, tenancy: Tenancy, pool: PoolService) -> APIRouter:
    """Return the routes of quotas."""
    routes = APIRouter(prefix="/v1", tags=["scheduling"])

    @routes.get("/quotas")
    async def list_quotas(caller: Reader, paging: Paged) -> Page[QuotaOut]:
        """List the projects that the caller sees, by name, each with its quota and what it holds."""
        after = paging.after(str)
        async with caller.reading() as tx:
            projects = await tenancy.projects(
                tx, ids=caller.reach(Permission.QUEUE_READ), after=after[0] if after else None, limit=paging.limit + 1
            )
            kept, next_cursor = paging.page(projects, lambda project: [project.name])
            quotas = await scheduling.quotas(tx)
            used = await _used(tx, pool, [project.id for project in kept])
        items = [_out(project, quotas.get(project.id, UNLIMITED), used) for project in kept]
        return Page(items=items, next_cursor=next_cursor)

    @routes.put("/quotas/{project}")
    async def set_quota(
        caller: Manager,
        project: Annotated[str, Path(max_length=63, description="Name or id.")],
        body: QuotaIn,
    ) -> QuotaOut:
        """Say what a project may hold at one time; what runs already goes on."""
        async with caller.transaction() as tx:
            found = await tenancy.project_for(tx, caller.principal, project, Permission.QUOTA_MANAGE, active=True)
            wanted = Quota(body.gpu_milli, body.cpu_milli, body.memory_bytes)
            quota = await scheduling.set_quota(tx, found.id, wanted)
            return _out(found, quota, await _used(tx, pool, [found.id]))

    return routes


async def _used(tx: Tx, pool: PoolService, project_ids: list[str]) -> dict[str, Amounts]:
    """Return what projects hold now, by the ledger."""
    used: dict[str, Amounts] = {}
    for row in await pool.allocations(tx, LedgerFilter(project_ids=project_ids, live=True)):
        share = row.share
        held = used.get(share.project_id, (0, 0, 0))
        used[share.project_id] = (
            held[0] + share.gpu_milli, held[1] + share.cpu_milli, held[2] + share.memory_bytes,
        )  # fmt: skip
    return used


def _out(project: Project, quota: Quota, used: dict[str, Amounts]) -> QuotaOut:
    gpu, cpu, memory = used.get(project.id, (0, 0, 0))
    return QuotaOut(
        project_id=project.id, project=project.name, gpu_milli=quota.gpu_milli, cpu_milli=quota.cpu_milli,
        memory_bytes=quota.memory_bytes, used_gpu_milli=gpu, used_cpu_milli=cpu, used_memory_bytes=memory,
    )  # fmt: skip
