"""Builders that the tests of the pool share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from dujiang.engines.contract import (
    AttemptKey,
    Capabilities,
    DeviceFacts,
    DeviceShare,
    Isolation,
    NodeFacts,
    RankPlacement,
)
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import MEMORY, Database
from dujiang.kit.ids import Ids
from dujiang.pool.domain import Grant, PoolSettings
from dujiang.pool.reserving import Reservations
from dujiang.pool.service import PoolService

GIB = 2**30
CLUSTER = "here"


def some_capabilities(*, simulated: bool = False) -> Capabilities:
    """Return what an engine of the tests promises."""
    return Capabilities(
        kind="simulated" if simulated else "local", limits=Isolation.ENFORCED, limits_by="cgroup-v2",
        device_isolation=Isolation.COUNTED_ONLY, stacks_ranks=True, simulated=simulated,
    )  # fmt: skip


def a_device(index: int = 0, *, model: str = "H100", memory_bytes: int = 80 * GIB, healthy: bool = True) -> DeviceFacts:
    """Return a device."""
    return DeviceFacts(f"gpu{index}", index, "nvidia", model, memory_bytes, healthy)


def a_node(
    name: str = "n1", *, devices: int = 0, cpu_milli: int = 8000, memory_bytes: int = 64 * GIB,
    disk_bytes: int = 500 * GIB, ready: bool = True, cordoned: bool = False, reason: str = "",
    labels: dict[str, str] | None = None, taints: tuple[str, ...] = (),
) -> NodeFacts:  # fmt: skip
    """Return a node with that many devices."""
    return NodeFacts(
        name, cpu_milli, memory_bytes, disk_bytes, tuple(a_device(i) for i in range(devices)), ready, cordoned, reason,
        labels or {}, taints,
    )  # fmt: skip


def a_rank(
    node: str = "n1", *, rank: int = 0, cpu_milli: int = 1000, memory_bytes: int = GIB, disk_bytes: int = 0,
    shares: dict[int, int] | None = None, device_memory_bytes: int = 0,
) -> RankPlacement:  # fmt: skip
    """Return a rank on a node; `shares` maps device index to thousandths."""
    devices = tuple(
        DeviceShare(f"gpu{index}", index, milli, device_memory_bytes) for index, milli in (shares or {}).items()
    )
    return RankPlacement(rank, node, cpu_milli, memory_bytes, disk_bytes, devices)


def a_grant(job: str, *ranks: RankPlacement, attempt: int = 1, project: str = "prj_a") -> Grant:
    """Return a grant of those ranks, one small one when none is given."""
    return Grant(AttemptKey(job, attempt), project, CLUSTER, ranks or (a_rank(),))


class World:
    """A database with a pool on it, and a clock to turn."""

    def __init__(self, database: Database, clock: ManualClock, settings: PoolSettings | None = None) -> None:
        self.db, self.clock = database, clock
        self.ids = Ids(clock, np.random.default_rng(1))
        self.pool = PoolService(self.ids, settings)
        self.reservations = Reservations(self.ids, self.pool)
        self.projects: dict[str, str] = {}
        """Name to identifier, once the world is served."""

    async def sync(self, *facts: NodeFacts, simulated: bool = False) -> None:
        """Take over an inventory."""
        async with self.db.transaction() as tx:
            await self.pool.sync(tx, CLUSTER, some_capabilities(simulated=simulated), facts)


@asynccontextmanager
async def world(folder: Path | None = None, settings: PoolSettings | None = None) -> AsyncIterator[World]:
    """Open an empty database, in memory or as a file in a folder."""
    clock = ManualClock()
    url = f"sqlite+aiosqlite:///{folder / 'test.db'}" if folder else MEMORY
    database = Database(url, clock=clock, journal_key=b"test", durable=False)
    await database.create_all()
    try:
        yield World(database, clock, settings)
    finally:
        await database.close()
