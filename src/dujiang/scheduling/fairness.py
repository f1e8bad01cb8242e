"""Keeps the fair shares: reads what has closed in the ledger once, and works the shares out anew now and then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from dujiang.kit.clock import from_micros
from dujiang.kit.db import Tx
from dujiang.pool.domain import Allocation
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain.queues import QueueTree
from dujiang.scheduling.domain.shares import FairShare, UsageLog, Use, fair_shares
from dujiang.scheduling.settings import SchedulingSettings

AT_ONCE = 10_000
"""Closed rows of the ledger that are read in one look; the rest is read in the next, which then comes at once."""


class Fairness:
    """The shares of one process, in memory: another one, or this one after a restart, reads the ledger anew.

    Ask in transactions that only read: what is not committed yet would be counted for good.
    """

    def __init__(self, pool: PoolService, settings: SchedulingSettings, half_life_s: float) -> None:
        self._pool, self._settings = pool, settings
        self._log = UsageLog(half_life_s)
        self._place = (-1, "")
        self._behind = True
        self._waiting: Collection[str] = ()
        self._known: Mapping[str, FairShare] = {}
        self._known_for: QueueTree | None = None
        self._known_at: datetime | None = None

    async def shares(
        self, tx: Tx, tree: QueueTree, live: Sequence[Allocation], projects: Collection[str] | None
    ) -> Mapping[str, FairShare]:
        """Return the shares; the same as last time while they are fresh and every project is among them."""
        self._waiting = self._waiting if projects is None else projects
        if not self._is_fresh(tx.now, tree, self._waiting):
            await self._catch_up(tx)
            uses = (Use(row.share.project_id, row.share.gpu_milli, row.started_at, row.ended_at) for row in live)
            used = self._log.usage(tx.now, uses)
            self._known = fair_shares(tree, used, self._waiting, part=self._settings.fair_share_part)
            self._known_for, self._known_at = tree, tx.now
        return self._known

    def _is_fresh(self, now: datetime, tree: QueueTree, projects: Collection[str]) -> bool:
        if self._behind or self._known_at is None or self._known_for is not tree:
            return False
        age = now - self._known_at
        if not timedelta(0) <= age < timedelta(seconds=self._settings.fair_share_every_s):
            return False
        return all(project in self._known for project in projects)

    async def _catch_up(self, tx: Tx) -> None:
        place = self._place
        rows = await self._pool.closed_uses(tx, *place, limit=AT_ONCE)
        if self._place != place:  # another caller has read on meanwhile: these rows are counted
            return
        self._log.add(
            Use(project_id, milli, from_micros(started), from_micros(ended))
            for _, _, project_id, milli, started, ended in rows
            if milli
        )
        if rows:
            self._place = rows[-1][0], rows[-1][1]
        self._behind = len(rows) == AT_ONCE
