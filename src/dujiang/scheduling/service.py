"""Quotas of projects: the part of scheduling that is kept. What to start is decided in `domain`, from a snapshot."""

from __future__ import annotations

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.scheduling import store
from dujiang.scheduling.domain import COUNTED, Quota
from dujiang.scheduling.domain.request import MAX_AMOUNT
from dujiang.scheduling.events import QuotaSet


class BadQuota(Invalid):
    """A quota that is negative or beyond all measure."""

    code, title = "bad_quota", "The quota is not valid"


class SchedulingService:
    """Use cases of quotas. Functions take the transaction first, and never commit."""

    async def quotas(self, tx: Tx) -> dict[str, Quota]:
        """Return every quota that limits something, by project; a project without one is unlimited."""
        return await store.read_quotas(tx)

    async def quota(self, tx: Tx, project_id: str) -> Quota:
        """Return the quota of a project."""
        return await store.read_quota(tx, project_id)

    async def set_quota(self, tx: Tx, project_id: str, quota: Quota) -> Quota:
        """Say what a project may hold at one time. What runs already goes on; setting the same again does nothing.

        Raises:
            BadQuota: an amount is negative or larger than 2^60.
        """
        for name, limit in zip(COUNTED, quota.limits(), strict=True):
            if limit is not None and not 0 <= limit <= MAX_AMOUNT:
                raise BadQuota(f"{name} is between 0 and 2^60, not {limit}; null is unlimited.")
        previous = await store.read_quota(tx, project_id)
        if previous != quota:
            await store.write_quota(tx, project_id, quota)
            gpu, cpu, memory = quota.limits()
            tx.emit(
                QuotaSet(
                    subject=project_id, project_id=project_id, gpu_milli=gpu, cpu_milli=cpu, memory_bytes=memory,
                    previous=previous.limits(),
                )
            )  # fmt: skip
        return quota
