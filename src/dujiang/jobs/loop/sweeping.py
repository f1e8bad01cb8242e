"""Clears up at the engines: drops the records of ended attempts, and stops what runs and is nobody's.

An attempt is written down before an engine hears of it, so one that an engine runs and the platform does not know, or
knows to have ended, is an orphan: of a lost answer, or of a database that was set back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dujiang.engines.contract import AttemptKey, Engine, EngineUnavailable, Phase
from dujiang.engines.lines import LateLook
from dujiang.jobs import store
from dujiang.jobs.domain import TERMINAL
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.loop import TickReport

_logger = log.get(__name__)


class SweepLoop:
    """Compares what engines know with what the platform knows."""

    def __init__(self, *, db: Database, clusters: Mapping[str, Engine], clock: Clock) -> None:
        self._db, self._clusters, self._troubles = db, clusters, log.Seldom(clock)

    async def look(self, cluster: str) -> TickReport:
        """Forget what has ended at a cluster, stop what is nobody's."""
        done: Counter[str] = Counter()
        try:
            done = await self._sweep(cluster, self._clusters[cluster])
            self._troubles.is_over(cluster)
        except EngineUnavailable as error:
            if self._troubles.is_due(cluster):
                _logger.warning("an engine does not answer", cluster=cluster, why=error.sentence)
        return TickReport({name: count for name, count in sorted(done.items()) if count})

    async def strangers(self) -> TickReport:
        """Say which clusters have attempts that are to run and are not configured: nobody looks at those."""
        async with self._db.reading() as tx:
            unknown = [name for name in await store.clusters_of_live(tx) if name not in self._clusters]
        for name in unknown:
            if self._troubles.is_due(("not configured", name)):
                _logger.warning("a cluster with running attempts is not configured", cluster=name)
        return TickReport()

    async def _sweep(self, cluster: str, engine: Engine) -> Counter[str]:
        done: Counter[str] = Counter()
        keys = list(await engine.attempts())  # before the rows are read: what comes to be meanwhile has its row
        if not keys:
            return done
        async with self._db.reading() as tx:
            states = await store.states_of_attempts(tx, keys)
        over = [key for key in keys if states.get(key) in TERMINAL or key not in states]
        seen = await engine.observe(over) if over else {}
        for key in over:
            if key in seen and seen[key].phase is not Phase.ENDED:
                _logger.warning("an attempt runs that is nobody's; it is stopped", cluster=cluster, attempt=str(key))
                await engine.cancel(key, grace_s=0.0)
                done["orphan"] += 1
            elif key in seen or not isinstance(seen, LateLook):
                await engine.forget(key)
                done["forget"] += 1
        return done


async def orphans(db: Database, clusters: Mapping[str, Engine]) -> list[tuple[str, AttemptKey]]:
    """Return what runs at engines that answer and is nobody's, for the proof; looks twice, as an end may be under way.

    Raises:
        EngineUnavailable: one does not answer.
    """
    found: list[tuple[str, AttemptKey]] = []
    for cluster, engine in sorted(clusters.items()):
        keys = list(await engine.attempts())
        seen = await engine.observe(keys)
        running = [key for key in keys if key in seen and seen[key].phase is not Phase.ENDED]
        async with db.reading() as tx:
            states = await store.states_of_attempts(tx, running)
        found += [(cluster, key) for key in running if key not in states or states[key] in TERMINAL]
    return found
