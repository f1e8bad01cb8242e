"""Random starts, ends, failures and inventories: nothing is ever over-allocated, and the check agrees."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from dujiang.engines.contract import AttemptKey
from dujiang.kit.errors import DujiangError
from dujiang.pool.domain import PoolSettings
from dujiang.pool.store import allocations
from tests.pool.worlds import GIB, World, a_grant, a_node, a_rank, world


@dataclass(frozen=True)
class Allocate:
    job: int
    node: int
    cpu: int
    shares: dict[int, int]
    memory: int


@dataclass(frozen=True)
class Release:
    job: int
    late_s: float


@dataclass(frozen=True)
class Sync:
    nodes: tuple[int, ...]
    devices: int
    cpu: int


@dataclass(frozen=True)
class Step:
    seconds: float


NODES = st.integers(0, 1)
OPERATIONS = st.one_of(
    st.builds(
        Allocate, st.integers(0, 7), NODES, st.integers(0, 5), st.dictionaries(NODES, st.integers(1, 1000), max_size=2),
        st.integers(0, 50),
    ),
    st.builds(Release, st.integers(0, 7), st.floats(-100, 100)),
    st.builds(Sync, st.lists(NODES, unique=True).map(tuple), st.integers(0, 2), st.integers(2, 8)),
    st.builds(Step, st.floats(-30, 60)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, min_size=5, max_size=30))
def test_whatever_happens_nothing_is_over_allocated(operations: list[object]) -> None:
    asyncio.run(_play(operations))


async def _play(operations: list[object]) -> None:
    async with world(settings=PoolSettings(gone_after_s=20)) as w:
        await w.sync(a_node("n0", devices=2), a_node("n1", devices=2))
        accepted: dict[str, int] = {}
        for operation in operations:
            try:
                await _do(w, operation, accepted)
            except DujiangError:
                continue
        async with w.db.transaction() as tx:
            assert await w.pool.check_ledger(tx) == []
            for job, rows in accepted.items():
                found = await w.pool.of_jobs(tx, [job])
                assert len(found) == rows
                assert all(row.ended_at is None or row.ended_at >= row.started_at for row in found)
            live = [row for job in accepted for row in await w.pool.of_jobs(tx, [job]) if row.ended_at is None]
            # Believing the check only as far as it can also say no: any live share made bigger than a device is seen.
            for row in live:
                if row.share.device_id is not None:
                    await tx.execute(update(allocations).where(allocations.c.id == row.id).values(gpu_milli=1001))
                    assert any(row.id in found.rows for found in await w.pool.check_ledger(tx))
                    break


async def _do(w: World, operation: object, accepted: dict[str, int]) -> None:
    match operation:
        case Allocate(job, node, cpu, shares, memory):
            rank = a_rank(f"n{node}", cpu_milli=cpu * 1000, shares=shares, device_memory_bytes=memory * GIB)
            async with w.db.transaction() as tx:
                opened = await w.pool.allocate_many(tx, [a_grant(f"job_{job}", rank)])
            if opened.rows:
                accepted[f"job_{job}"] = opened.rows
        case Release(job, late_s):
            async with w.db.transaction() as tx:
                await w.pool.release(tx, AttemptKey(f"job_{job}", 1), tx.now + timedelta(seconds=late_s))
        case Sync(nodes, devices, cpu):
            await w.sync(*(a_node(f"n{node}", devices=devices, cpu_milli=cpu * 1000) for node in nodes))
        case Step(seconds):
            w.clock.step(seconds)
