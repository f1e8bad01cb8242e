"""A cluster that answers, and whose engine says that something is the matter, is told of and used."""

from __future__ import annotations

from collections.abc import Sequence

from dujiang.engines.contract import Capabilities, NodeFacts
from dujiang.engines.lines import Lines
from dujiang.pool.domain import Cluster
from dujiang.pool.domain.standing import ClusterState
from dujiang.pool.loop import InventoryLoop
from tests.pool.worlds import CLUSTER, World, a_node, some_capabilities, world


class Told:
    """An engine that answers, and is told by a test what is the matter with its cluster."""

    kind = "told"

    def __init__(self) -> None:
        self.says = ""

    async def capabilities(self) -> Capabilities:
        return some_capabilities()

    async def inventory(self) -> Sequence[NodeFacts]:
        return [a_node("n1")]

    def trouble(self) -> str:
        return self.says


async def stands(w: World, loop: InventoryLoop) -> Cluster:
    await loop.look(CLUSTER)
    async with w.db.reading() as tx:
        return next(one for one in await w.pool.clusters(tx) if one.name == CLUSTER)


async def test_it_is_degraded_for_as_long_as_that_is_so() -> None:
    async with world() as w:
        engine = Told()
        lines = Lines({CLUSTER: engine}, clock=w.clock, within_s=5.0)  # type: ignore[dict-item]
        loop = InventoryLoop(
            db=w.db, pool=w.pool, reservations=w.reservations, clusters=lines, clock=w.clock,
            notes=lambda _: "It does not show 1 attempt." if not engine.says else "",
        )  # fmt: skip
        engine.says = "What /api/v1/pods shows is 7 s old."
        found = await stands(w, loop)
        assert (found.state, found.reason, found.reachable) == (ClusterState.DEGRADED, engine.says, True)
        engine.says = ""
        assert (await stands(w, loop)).reason == "It does not show 1 attempt."
