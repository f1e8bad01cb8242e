"""The pool's service on a real database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.kit.errors import Stale
from dujiang.pool.domain import AllocationDiffers, NodeClosed, NodeState, OverAllocated
from tests.pool.worlds import CLUSTER, GIB, a_grant, a_node, a_rank, world

KEY = AttemptKey("job_1", 1)


async def test_allocating_takes_room_and_releasing_gives_it_back() -> None:
    async with world() as w:
        await w.sync(a_node(devices=2))
        async with w.db.transaction() as tx:
            before = await w.pool.placeable(tx)
            opened = await w.pool.allocate_many(
                tx, [a_grant("job_1", a_rank(shares={0: 250, 1: 1000}, device_memory_bytes=GIB))], before.version
            )
            assert opened.rows == 3
        async with w.db.reading() as tx:
            view = await w.pool.placeable(tx)
            assert view.version == opened.version > before.version
            assert view.node_free.tolist() == [[7000, 63 * GIB, 500 * GIB]]
            assert view.device_free.tolist() == [[750, 79 * GIB], [0, 79 * GIB]]
            assert await w.pool.live(tx) == [KEY]
        w.clock.advance(10)
        async with w.db.transaction() as tx:
            assert await w.pool.release(tx, KEY)
            assert not await w.pool.release(tx, KEY)
            view = await w.pool.placeable(tx)
            assert (view.node_free == view.columns.node_limit).all()
            assert (view.device_free == view.columns.device_limit).all()
            rows = await w.pool.of_jobs(tx, ["job_1"])
            assert {row.ended_at - row.started_at for row in rows if row.ended_at} == {timedelta(seconds=10)}
            assert await w.pool.held_by(tx, KEY) == []


@pytest.mark.parametrize(
    "rank",
    [
        a_rank(cpu_milli=7001),
        a_rank(memory_bytes=64 * GIB),
        a_rank(disk_bytes=501 * GIB),
        a_rank(shares={0: 501}),
        a_rank(shares={0: 100}, device_memory_bytes=41 * GIB),
    ],
)
async def test_what_does_not_fit_beside_the_live_rows_is_refused(rank: object) -> None:
    async with world() as w:
        await w.sync(a_node(devices=1))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(shares={0: 500}, device_memory_bytes=40 * GIB))])
        with pytest.raises(OverAllocated):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_2", rank)])  # type: ignore[arg-type]
        async with w.db.reading() as tx:
            assert await w.pool.live(tx) == [KEY]


async def test_a_plan_made_on_an_older_pool_is_stale_but_one_already_committed_is_not() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            version = await w.pool.version(tx)
            await w.pool.allocate_many(tx, [a_grant("job_1")], version)
        with pytest.raises(Stale):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_2")], version)
        async with w.db.transaction() as tx:
            assert (await w.pool.allocate_many(tx, [a_grant("job_1")], version)).rows == 0


async def test_an_attempt_holds_one_thing_once() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1")])
        with pytest.raises(AllocationDiffers):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(cpu_milli=2000))])
        async with w.db.transaction() as tx:
            await w.pool.release(tx, KEY)
        with pytest.raises(AllocationDiffers):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_1")])


async def test_time_in_the_ledger_never_runs_backwards() -> None:
    async with world() as w:
        await w.sync(a_node(devices=1))
        whole = a_rank(shares={0: 1000})
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", whole)])
        w.clock.advance(100)
        async with w.db.transaction() as tx:
            await w.pool.release(tx, KEY, w.clock.now() + timedelta(hours=1))
        w.clock.step(-50)
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_2", whole)])
            await w.pool.release(tx, AttemptKey("job_2", 1), w.clock.now() - timedelta(hours=1))
            first = await w.pool.of_jobs(tx, ["job_1"])
            second = await w.pool.of_jobs(tx, ["job_2"])
        assert first[0].ended_at is not None
        assert first[0].ended_at - first[0].started_at == timedelta(seconds=100)
        assert second[0].started_at == second[0].ended_at == first[0].ended_at


async def test_nothing_starts_on_a_cordoned_node_and_what_runs_goes_on() -> None:
    async with world() as w:
        await w.sync(a_node(), a_node("n2"))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1")])
            node = await w.pool.cordon(tx, "n1", "fan")
            assert (node.state, node.reason) == (NodeState.CORDONED, "fan")
        with pytest.raises(NodeClosed):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_2")])
        async with w.db.reading() as tx:
            view = await w.pool.placeable(tx)
            assert view.columns.node_open.tolist() == [False, True]
            assert [(order.cluster, order.node, order.cordon) for order in await w.pool.orders(tx)] == [
                (CLUSTER, "n1", True)
            ]
            assert await w.pool.live(tx) == [KEY]
