"""What the pool knows of nodes and clusters, as the planner sees it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from dujiang.engines.contract import Isolation
from dujiang.pool.domain import Reservation, ReservationState, Terms
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import LEVELS, Fleet, Level, Snapshots, fleet_of_pool
from dujiang.scheduling.domain.snapshot import windows_of
from tests.pool.worlds import CLUSTER, World, a_device, a_node, world

RACK = LEVELS.index(Level.RACK)


async def fleet_of(w: World) -> Fleet:
    async with w.db.reading() as tx:
        return fleet_of_pool((await w.pool.placeable(tx)).columns)


async def test_taints_and_places_of_nodes_stand_in_the_fleet() -> None:
    async with world() as w:
        zones = [{"topology.kubernetes.io/zone": zone, "dujiang.io/rack": "7"} for zone in ("z1", "z1", "z2")]
        await w.sync(*(a_node(f"n{number}", labels=labels) for number, labels in enumerate(zones, 1)), a_node("n4"))
        async with w.db.transaction() as tx:
            await w.pool.taint(tx, "n2", ["team=vision"], [])
        fleet = await fleet_of(w)
        assert fleet.node_taints == ((), ("team=vision",), (), ())
        racks = fleet.node_domains[RACK].tolist()
        assert racks[0] == racks[1], "one rack of one site"
        assert len(set(racks)) == 3, "rack 7 of another site is another, and a node of unknown place stands alone"


async def test_a_share_is_kept_as_each_device_says_not_as_the_best_of_its_cluster() -> None:
    async with world() as w:
        kept = (Isolation.ENFORCED, Isolation.COUNTED_ONLY, Isolation.ENFORCED)
        devices = tuple(replace(a_device(index), isolation=each) for index, each in enumerate(kept))
        await w.sync(replace(a_node(), devices=devices))
        fleet = await fleet_of(w)
        found = {
            fleet.device_names[at]: fleet.flavors[f].isolation for at, f in enumerate(fleet.device_flavor.tolist())
        }
        assert found == {"gpu0": kept[0], "gpu1": kept[1], "gpu2": kept[2]}


async def test_the_terms_of_a_cluster_stand_in_the_fleet_and_a_change_of_them_moves_the_version() -> None:
    async with world() as w:
        await w.sync(a_node())
        versions = []
        for terms in (Terms(Decimal("2.5"), is_cloud=True, interruptions_per_day=0.5), Terms(Decimal("2.5"))):
            w.pool = PoolService(w.ids, terms={CLUSTER: terms})
            for _ in range(2):
                await w.sync(a_node())
                async with w.db.reading() as tx:
                    versions.append(await w.pool.version(tx))
            (row,) = (await fleet_of(w)).clusters
            assert (row.price, row.is_cloud, row.interruptions_per_day) == (
                2.5, terms.is_cloud, terms.interruptions_per_day,
            )  # fmt: skip
        assert versions == [versions[0], versions[0], versions[0] + 1, versions[0] + 1]


async def test_windows_leave_out_nodes_that_are_gone_and_never_grow_by_that() -> None:
    async with world() as w:
        await w.sync(a_node("n1"))
        fleet, now = await fleet_of(w), w.clock.now()

        def window(name: str, *nodes: str) -> Reservation:
            return Reservation(
                "rsv_1", name, CLUSTER, nodes, now, now + timedelta(hours=1), ("prj_a",), "", "", now,
                ReservationState.ACTIVE,
            )  # fmt: skip

        made = windows_of([window("some", "n1", "gone"), window("none", "gone"), window("all")], fleet)
        assert [(each.name, each.nodes, each.projects) for each in made] == [
            ("some", ("n1",), ("prj_a",)), ("all", (), ("prj_a",)),
        ]  # fmt: skip
        async with w.db.reading() as tx:
            view = await w.pool.placeable(tx)
        assert len(Snapshots().take(view, holdings=[], requests=[], windows=[window("all")]).windows) == 1
