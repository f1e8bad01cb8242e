"""What is done now and then: what has had its time goes, gauges are set."""

from __future__ import annotations

from dujiang.jobs.domain import JobState
from dujiang.jobs.service import JobService
from dujiang.kit import idempotency
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport
from dujiang.kit.metrics import Metrics
from dujiang.kit.objects import ObjectStore
from dujiang.models.service import ModelRegistry
from dujiang.pool.service import PoolService
from dujiang.tenancy.service import Tenancy


class Housekeeping:
    """Removes what nobody needs any more."""

    def __init__(self, *, db: Database, tenancy: Tenancy, registry: ModelRegistry, objects: ObjectStore) -> None:
        self._db, self._tenancy, self._registry, self._objects = db, tenancy, registry, objects

    async def tick(self) -> TickReport:
        """Forget idempotency keys of yesterday, tokens of last quarter, and objects that no version refers to."""
        async with self._db.transaction(cause="housekeeping") as tx:
            steps = {"keys": await idempotency.prune(tx), "tokens": await self._tenancy.prune(tx)}
            used = await self._registry.digests(tx)
        steps["objects"] = len(await self._objects.delete_unused(used))
        return TickReport({name: count for name, count in steps.items() if count})


class Gauges:
    """Sets the figures that `/metrics` shows of what there is now."""

    def __init__(self, *, db: Database, metrics: Metrics, jobs: JobService, pool: PoolService) -> None:
        self._db, self._metrics, self._jobs, self._pool = db, metrics, jobs, pool

    async def tick(self) -> TickReport:
        """Count."""
        async with self._db.reading() as tx:
            counted = await self._jobs.count_by_state(tx)
            used = await self._pool.used(tx)
            clusters = await self._pool.clusters(tx)
            inventory = await self._pool.inventory(tx)
        for state in (JobState.PENDING, JobState.RUNNING):
            self._metrics.jobs.labels(str(state)).set(counted.get(state, 0))
        for cluster in clusters:
            self._metrics.cluster_up.labels(cluster.name).set(int(cluster.reachable))
        held = {cluster.name: 0 for cluster in inventory.clusters.values()}
        for device_id, (milli, _) in used.devices.items():
            node = inventory.nodes[inventory.devices[device_id].node_id]
            held[inventory.clusters[node.cluster_id].name] += milli
        for name, milli in held.items():
            self._metrics.allocated_gpu_milli.labels(name).set(milli)
        return TickReport()
