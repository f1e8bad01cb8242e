"""What looks at an engine's inventory make of ours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dujiang.engines.contract import NodeFacts
from dujiang.kit import journal
from dujiang.pool.domain import BadInventory, DeviceState, NodeClosed, NodeState, PoolSettings, UnknownNode
from tests.pool.worlds import CLUSTER, GIB, World, a_device, a_grant, a_node, a_rank, some_capabilities, world

S = NodeState


async def _state(w: World, name: str = "n1") -> NodeState:
    async with w.db.reading() as tx:
        return (await w.pool.node(tx, name)).state


async def _types(w: World) -> list[str]:
    async with w.db.reading() as tx:
        return [record.type for record in await journal.read(tx.connection)]


async def test_a_look_that_changes_nothing_moves_nothing() -> None:
    async with world() as w:
        facts = [a_node(devices=2), a_node("n2")]
        await w.sync(*facts)
        async with w.db.transaction() as tx:
            before = await w.pool.version(tx)
            report = await w.pool.sync(tx, CLUSTER, some_capabilities(), [replace(fact) for fact in reversed(facts)])
            assert await w.pool.version(tx) == before
        assert report == type(report)()
        assert await _types(w) == ["ClusterReached", "InventoryChanged"]
        async with w.db.reading() as tx:
            assert (await w.pool.clusters(tx))[0].seen_at == w.clock.now()


async def test_a_node_that_is_absent_is_not_ready_and_gone_only_when_empty_and_long_away() -> None:
    async with world(settings=PoolSettings(gone_after_s=60)) as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1")])
        await w.sync()
        assert await _state(w) is S.NOT_READY
        w.clock.advance(100)
        await w.sync()
        assert await _state(w) is S.NOT_READY  # something is still held there
        async with w.db.transaction() as tx:
            await w.pool.release(tx, (await w.pool.live(tx))[0])
        await w.sync()
        assert await _state(w) is S.GONE
        async with w.db.reading() as tx:
            assert await w.pool.nodes(tx) == []
            assert len((await w.pool.placeable(tx)).columns.node_ids) == 0
            assert await w.pool.check_ledger(tx) == []
        await w.sync(a_node())
        assert await _state(w) is S.READY
        async with w.db.reading() as tx:
            assert len(await w.pool.nodes(tx, states=list(S))) == 1


async def test_a_lagging_view_takes_no_node_away() -> None:
    async with world(settings=PoolSettings(gone_after_s=60)) as w:
        await w.sync(a_node())
        for _ in range(5):
            w.clock.advance(10)
            await w.sync()
        assert await _state(w) is S.NOT_READY
        await w.sync(a_node())
        assert await _state(w) is S.READY


async def test_what_the_operator_wants_outlives_a_failure_of_the_node() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction(actor="user:usr_1") as tx:
            await w.pool.cordon(tx, "n1", "fan")
        await w.sync(a_node(ready=False, reason="Lost power"))
        async with w.db.reading() as tx:
            node = await w.pool.node(tx, "n1")
            assert (node.state, node.reason, node.intent_by) == (S.NOT_READY, "Lost power", "user:usr_1")
        await w.sync(a_node())
        async with w.db.reading() as tx:
            node = await w.pool.node(tx, "n1")
            assert (node.state, node.reason) == (S.CORDONED, "fan")


async def test_a_drain_is_done_when_nothing_is_held() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1")])
            assert (await w.pool.drain(tx, "n1", "disk")).state is S.DRAINING
            assert [str(key) for key in await w.pool.to_evict(tx)] == ["job_1.1"]
        await w.sync(a_node(cordoned=True))
        assert await _state(w) is S.DRAINING
        async with w.db.transaction() as tx:
            await w.pool.release(tx, (await w.pool.live(tx))[0])
        await w.sync(a_node(cordoned=True))
        assert await _state(w) is S.DRAINED
        async with w.db.transaction() as tx:
            node = await w.pool.uncordon(tx, "n1")
            assert node.state is S.CORDONED  # the engine has yet to follow
            assert [(order.node, order.cordon) for order in await w.pool.orders(tx)] == [("n1", False)]
        await w.sync(a_node())
        assert await _state(w) is S.READY
        async with w.db.reading() as tx:
            assert await w.pool.orders(tx) == []
        kinds = await _types(w)
        assert kinds.count("NodeStateChanged") == 4
        assert "NodeDrainAsked" in kinds
        assert "NodeUncordoned" in kinds


async def test_a_node_opened_before_the_engine_was_seen_to_follow_is_opened_at_the_engine_too() -> None:
    async with world() as w:
        await w.sync(a_node())
        async with w.db.transaction() as tx:
            await w.pool.cordon(tx, "n1", "fan")
            assert [order.cordon for order in await w.pool.orders(tx)] == [True]  # and the engine is told
        async with w.db.transaction() as tx:
            assert (await w.pool.uncordon(tx, "n1")).state is S.READY
        await w.sync(a_node(cordoned=True))
        async with w.db.reading() as tx:
            assert [(order.node, order.cordon) for order in await w.pool.orders(tx)] == [("n1", False)]
        await w.sync(a_node())
        assert await _state(w) is S.READY
        async with w.db.reading() as tx:
            assert await w.pool.orders(tx) == []


async def test_shrinking_below_what_is_held_is_reported_and_breaks_nothing() -> None:
    async with world() as w:
        await w.sync(a_node(devices=1))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(
                tx, [a_grant("job_1", a_rank(cpu_milli=6000, shares={0: 900}, device_memory_bytes=60 * GIB))]
            )
        small = replace(a_node(cpu_milli=4000), devices=(a_device(memory_bytes=40 * GIB),))
        async with w.db.transaction() as tx:
            report = await w.pool.sync(tx, CLUSTER, some_capabilities(), [small])
        assert {(each.resource, each.allocated, each.limit) for each in report.shrunk} == {
            ("cpu_milli", 6000, 4000),
            ("device_memory_bytes", 60 * GIB, 40 * GIB),
        }
        await w.sync(small)
        assert (await _types(w)).count("CapacityShrunk") == 2  # said once
        async with w.db.transaction() as tx:
            view = await w.pool.placeable(tx)
            assert view.node_free[0, 0] == -2000
            assert view.device_free[0, 1] == -20 * GIB
            assert await w.pool.check_ledger(tx) == []
            # What asks for nothing of it still fits.
            await w.pool.allocate_many(tx, [a_grant("job_2", a_rank(cpu_milli=0))])
            assert await w.pool.check_ledger(tx) == []


async def test_an_unhealthy_device_is_closed_and_a_vanished_one_is_gone() -> None:
    async with world() as w:
        await w.sync(a_node(devices=2))
        await w.sync(replace(a_node(), devices=(a_device(0, healthy=False),)))
        async with w.db.reading() as tx:
            inventory = await w.pool.inventory(tx)
            assert [device.state for device in inventory.devices.values()] == [DeviceState.UNHEALTHY, DeviceState.GONE]
            assert inventory.columns.device_open.tolist() == [False]
        for index in (0, 1):
            with pytest.raises(NodeClosed):
                async with w.db.transaction() as tx:
                    await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(shares={index: 100}))])


async def test_a_cluster_that_does_not_answer_gets_nothing_new_until_it_does() -> None:
    async with world() as w:
        await w.sync(a_node())
        for _ in range(2):
            async with w.db.transaction() as tx:
                await w.pool.mark_unreachable(tx, CLUSTER, "no route")
        async with w.db.reading() as tx:
            assert (await w.pool.placeable(tx)).columns.node_open.tolist() == [False]
        with pytest.raises(NodeClosed):
            async with w.db.transaction() as tx:
                await w.pool.allocate_many(tx, [a_grant("job_1")])
        await w.sync(a_node())
        async with w.db.reading() as tx:
            assert (await w.pool.placeable(tx)).columns.node_open.tolist() == [True]
        assert (await _types(w)).count("ClusterUnreachable") == 1


async def test_overcommit_multiplies_what_may_be_given_away() -> None:
    async with world(settings=PoolSettings(cpu_overcommit_milli=1500)) as w:
        await w.sync(a_node(cpu_milli=4000))
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(cpu_milli=6000))])
            assert await w.pool.check_ledger(tx) == []


@pytest.mark.parametrize(
    "facts",
    [
        [a_node(), a_node()],
        [replace(a_node(), devices=(a_device(0), a_device(0)))],
        [a_node(cpu_milli=-1)],
        [a_node("")],
    ],
)
async def test_an_inventory_that_contradicts_itself_changes_nothing(facts: list[NodeFacts]) -> None:
    async with world() as w:
        with pytest.raises(BadInventory):
            await w.sync(*facts)
        async with w.db.reading() as tx:
            assert await w.pool.clusters(tx) == []


async def test_an_inventory_kept_from_a_transaction_that_failed_is_not_believed() -> None:
    async with world() as w:
        await w.sync(a_node())

        async def fail() -> None:
            async with w.db.transaction() as tx:
                await w.pool.sync(tx, CLUSTER, some_capabilities(), [a_node("other")])
                raise LookupError

        with pytest.raises(LookupError):
            await fail()
        async with w.db.reading() as tx:
            assert [node.name for node in await w.pool.nodes(tx)] == ["n1"]
        with pytest.raises(UnknownNode):
            async with w.db.transaction() as tx:
                await w.pool.cordon(tx, "other", "")
