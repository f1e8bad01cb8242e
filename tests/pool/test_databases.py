"""What must hold on SQLite and on PostgreSQL alike, writers at the same time included."""

from __future__ import annotations

import asyncio

from dujiang.engines.contract import AttemptKey
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from dujiang.pool.domain import LedgerFilter, PoolSettings
from dujiang.pool.service import PoolService
from tests.pool.worlds import CLUSTER, GIB, World, a_grant, a_node, a_rank, some_capabilities


async def test_the_life_of_an_allocation(database: Database, clock: ManualClock) -> None:
    w = World(database, clock, PoolSettings(gone_after_s=5))
    await w.sync(a_node(devices=2), a_node("n2"))
    async with database.transaction() as tx:
        ranks = (a_rank(shares={0: 125, 1: 1000}, device_memory_bytes=10 * GIB), a_rank("n2", rank=1))
        version = await w.pool.version(tx)
        opened = await w.pool.allocate_many(tx, [a_grant("job_1", *ranks), a_grant("job_2")], version)
        assert opened.rows == 5
        assert (await w.pool.allocate_many(tx, [a_grant("job_2")], version)).rows == 0
    clock.advance(60)
    async with database.transaction() as tx:
        assert await w.pool.release_many(tx, [(AttemptKey("job_1", 1), None), (AttemptKey("job_9", 1), None)]) == 1
        rows = await w.pool.allocations(tx, LedgerFilter(live=False, until=clock.now()))
        assert len(rows) == 4
        assert [row.id for row in await w.pool.closed_after(tx, -1, "", 2)] == [row.id for row in rows[:2]]
        rest = await w.pool.closed_after(tx, rows[1].closed_version or 0, rows[1].id, 10)
        assert [row.id for row in rest] == [row.id for row in rows[2:]]
        assert await w.pool.live(tx) == [AttemptKey("job_2", 1)]
        assert await w.pool.check_ledger(tx) == []
    await w.sync(a_node(devices=1))
    clock.advance(60)
    await w.sync(a_node(devices=1))
    async with database.reading() as tx:
        other = PoolService(w.ids)  # another replica reads what this one kept
        mine, theirs = await w.pool.inventory(tx), await other.inventory(tx)
        assert (mine.stamp, mine.nodes, mine.devices) == (theirs.stamp, theirs.nodes, theirs.devices)
        assert [len(each.columns.node_ids) for each in (mine, theirs)] == [1, 1]
        assert await other.check_ledger(tx) == []


async def test_of_many_who_want_a_device_at_once_one_gets_it(database: Database, clock: ManualClock) -> None:
    w = World(database, clock)
    await w.sync(a_node(devices=1))

    async def want(job: str) -> bool:
        service = PoolService(w.ids)
        try:
            async with database.transaction() as tx:
                await service.allocate_many(tx, [a_grant(job, a_rank(shares={0: 600}))])
        except DujiangError:
            return False
        return True

    won = await asyncio.gather(*(want(f"job_{number}") for number in range(8)))
    assert sum(won) == 1
    async with database.reading() as tx:
        assert await w.pool.check_ledger(tx) == []


async def test_two_replicas_that_look_at_the_same_time_make_one_pool(database: Database, clock: ManualClock) -> None:
    w = World(database, clock)

    async def look() -> None:
        try:
            async with database.transaction() as tx:
                await PoolService(w.ids).sync(tx, CLUSTER, some_capabilities(), [a_node(devices=2)])
        except DujiangError:
            return  # the first look of an empty pool may collide; the next one will not

    await asyncio.gather(*(look() for _ in range(4)))
    await look()
    async with database.reading() as tx:
        inventory = await w.pool.inventory(tx)
        assert (len(inventory.clusters), len(inventory.nodes), len(inventory.devices)) == (1, 1, 2)
