"""Looks at the engines again and again: what there is, and whether they have followed what operators intend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from dujiang.engines.contract import Capabilities, Engine, EngineRefused, EngineUnavailable
from dujiang.kit import log
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport
from dujiang.pool.domain import BadInventory
from dujiang.pool.reserving import Reservations
from dujiang.pool.service import PoolService

_ASKED_EVERY = 15
"""Looks between two questions for what an engine can keep: a sharing daemon may come and go."""
_logger = log.get(__name__)


class InventoryLoop:
    """Keeps the pool's picture of every cluster."""

    def __init__(
        self, *, db: Database, pool: PoolService, reservations: Reservations, clusters: Mapping[str, Engine],
        wake: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Take what it works with; `wake` is called when what there is has changed."""
        self._db, self._pool, self._reservations, self._clusters, self._wake = db, pool, reservations, clusters, wake
        self._capabilities: dict[str, Capabilities] = {}
        self._looks = 0

    async def tick(self) -> TickReport:
        """Look at each cluster, then tell engines what they have not followed yet."""
        done: Counter[str] = Counter()
        for cluster, engine in sorted(self._clusters.items()):
            done += await self._look(cluster, engine)
        done += await self._follow()
        done += await self._turn()
        self._looks += 1
        return TickReport({name: count for name, count in sorted(done.items()) if count})

    async def _look(self, cluster: str, engine: Engine) -> Counter[str]:
        try:
            if self._looks % _ASKED_EVERY == 0 or cluster not in self._capabilities:
                self._capabilities[cluster] = await engine.capabilities()
            facts = await engine.inventory()
        except EngineUnavailable as error:
            self._capabilities.pop(cluster, None)
            async with self._db.transaction(cause="inventory") as tx:
                await self._pool.mark_unreachable(tx, cluster, error.sentence)
            _logger.warning("a cluster does not answer", cluster=cluster, why=error.sentence)
            return Counter({"unreachable": 1})
        try:
            async with self._db.transaction(cause="inventory") as tx:
                report = await self._pool.sync(tx, cluster, self._capabilities[cluster], facts)
        except BadInventory as error:
            _logger.error("a cluster's inventory contradicts itself", cluster=cluster, why=error.sentence)
            return Counter({"bad": 1})
        if report.moved:
            self._wake()
        return Counter({"changed": int(report.moved)})

    async def _turn(self) -> Counter[str]:
        """Let reservations begin and end; what waits is looked at again."""
        async with self._db.reading() as tx:
            turning = await self._reservations.turning(tx)
        if not turning:
            return Counter()
        async with self._db.transaction(cause="inventory") as tx:
            turned = await self._reservations.turn(tx)
        self._wake()
        return Counter({"reservation": turned})

    async def _follow(self) -> Counter[str]:
        async with self._db.reading() as tx:
            orders = await self._pool.orders(tx)
        done: Counter[str] = Counter()
        for order in orders:
            engine = self._clusters.get(order.cluster)
            if engine is None:
                continue
            try:
                if order.cordon:
                    await engine.cordon(order.node, order.reason)
                else:
                    await engine.uncordon(order.node)
                done["order"] += 1
            except (EngineUnavailable, EngineRefused) as error:
                _logger.warning("an engine did not follow", cluster=order.cluster, node=order.node, why=error.sentence)
        return done
