"""Looks at the engines again and again: what there is, and whether they have followed what operators intend.

Each cluster is looked at by itself (`look`), so one that hangs holds up no other; how it stands is decided here for all
who call its engine, since the line to it knows of every call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from dujiang.engines.contract import Capabilities, EngineRefused, EngineUnavailable
from dujiang.engines.lines import Line, Overdue, StillAsking
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport
from dujiang.pool.domain import BadInventory
from dujiang.pool.domain.standing import ClusterState, Standing, judge
from dujiang.pool.reserving import Reservations
from dujiang.pool.service import PoolService

_ASKED_EVERY = 15
"""Looks between two questions for what an engine can do: a sharing daemon may come and go, an engine be upgraded."""
_RETIRED_AT_FIRST = 2
"""A node that is not listed is NOT_READY at one look and GONE at the next."""
_logger = log.get(__name__)


class InventoryLoop:
    """Keeps the pool's picture of every cluster."""

    def __init__(
        self, *, db: Database, pool: PoolService, reservations: Reservations, clusters: Mapping[str, Line],
        clock: Clock, wake: Callable[[], None] = lambda: None, notes: Callable[[str], str] = lambda _cluster: "",
    ) -> None:  # fmt: skip
        """Take what it works with.

        Args:
            db: the database.
            pool: what is known.
            reservations: begin and end.
            clusters: lines to engines, by name.
            clock: the time.
            wake: called when what there is has changed.
            notes: what others have seen of a cluster that is the matter with it, in a sentence; empty when nothing.
        """
        self._db, self._pool, self._reservations, self._clusters, self._wake = db, pool, reservations, clusters, wake
        self._notes, self._troubles = notes, log.Seldom(clock)
        self._capabilities: dict[str, Capabilities] = {}
        self._looks: Counter[str] = Counter()
        self._turns = 0

    async def tick(self) -> TickReport:
        """Look at every cluster at once, then let reservations begin and end."""
        looks = await asyncio.gather(*(self.look(cluster) for cluster in sorted(self._clusters)))
        return TickReport.sum([*looks, await self.turn()])

    async def look(self, cluster: str) -> TickReport:
        """Look at a cluster, then tell its engine what it has not followed yet."""
        done = await self._look(cluster, self._clusters[cluster])
        done += await self._follow(cluster, self._clusters[cluster])
        return TickReport({name: count for name, count in sorted(done.items()) if count})

    async def turn(self) -> TickReport:
        """Let reservations begin and end; what waits is looked at again."""
        await self._retire()
        async with self._db.reading() as tx:
            turning = await self._reservations.turning(tx)
        if not turning:
            return TickReport()
        async with self._db.transaction(cause="inventory") as tx:
            turned = await self._reservations.turn(tx)
        self._wake()
        return TickReport({"reservation": turned} if turned else {})

    async def _retire(self) -> None:
        """Let go of clusters that are no longer in the settings: at first two looks at once, then now and then."""
        self._turns += 1
        if self._turns > _RETIRED_AT_FIRST and self._turns % _ASKED_EVERY:
            return
        async with self._db.reading() as tx:
            removed = await self._pool.removed(tx)
        for cluster in removed:
            async with self._db.transaction(cause="inventory") as tx:
                await self._pool.retire(tx, cluster)

    async def _look(self, cluster: str, line: Line) -> Counter[str]:
        try:
            if self._looks[cluster] % _ASKED_EVERY == 0 or cluster not in self._capabilities:
                self._capabilities[cluster] = await line.capabilities()
            self._looks[cluster] += 1
            facts = await line.inventory()
        except EngineUnavailable as error:
            self._capabilities.pop(cluster, None)
            why = judge(line.facts(), within_s=line.answers.within_s)[1] or error.sentence
            async with self._db.transaction(cause="inventory") as tx:
                await self._pool.mark_unreachable(tx, cluster, why, kind=line.engine_kind)
            if not isinstance(error, StillAsking) and self._troubles.is_due(cluster):  # else told by the line
                _logger.warning("a cluster does not answer", cluster=cluster, why=error.sentence)
            return Counter({"unreachable": 1})
        if self._troubles.is_over(cluster):
            _logger.info("a cluster answers again", cluster=cluster)
        standing = self._standing(cluster, line)
        try:
            async with self._db.transaction(cause="inventory") as tx:
                report = await self._pool.sync(tx, cluster, self._capabilities[cluster], facts, standing)
        except BadInventory as error:
            _logger.error("a cluster's inventory contradicts itself", cluster=cluster, why=error.sentence)
            async with self._db.transaction(cause="inventory") as tx:
                await self._pool.mark_degraded(tx, cluster, f"What it lists contradicts itself: {error.sentence}")
            return Counter({"bad": 1})
        if report.moved:
            self._wake()
        return Counter({"changed": int(report.moved)})

    def _standing(self, cluster: str, line: Line) -> Standing:
        state, why = judge(line.facts(), within_s=line.answers.within_s)
        if state is ClusterState.REACHABLE and (note := line.trouble() or self._notes(cluster)):
            state, why = ClusterState.DEGRADED, note
        return Standing(state, why, line.answers.last_s, line.answers.p95_s)

    async def _follow(self, cluster: str, line: Line) -> Counter[str]:
        async with self._db.reading() as tx:
            orders = [order for order in await self._pool.orders(tx) if order.cluster == cluster]
        done: Counter[str] = Counter()
        for order in orders:
            try:
                if order.cordon:
                    await line.cordon(order.node, order.reason)
                else:
                    await line.uncordon(order.node)
                done["order"] += 1
                self._troubles.is_over((cluster, order.node))
            except (EngineUnavailable, EngineRefused) as error:
                if isinstance(error, StillAsking):
                    continue
                if self._troubles.is_due((cluster, order.node)):
                    _logger.warning("an engine did not follow", cluster=cluster, node=order.node, why=error.sentence)
                if isinstance(error, Overdue):
                    break  # the others would be waited for as long
        return done
