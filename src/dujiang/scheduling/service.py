"""Quotas, queues and fair shares: the part of scheduling that is kept. What starts is decided in `domain`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal

import orjson

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.pool.domain import Allocation
from dujiang.pool.service import PoolService
from dujiang.scheduling import queue_store, store
from dujiang.scheduling.domain import COUNTED, Quota
from dujiang.scheduling.domain.explaining import Explainer
from dujiang.scheduling.domain.queue_document import Difference, differences, document_of, read_queues
from dujiang.scheduling.domain.queues import NO_QUEUES, QueueTree
from dujiang.scheduling.domain.renting import BurstPolicy
from dujiang.scheduling.domain.request import MAX_AMOUNT
from dujiang.scheduling.domain.shares import FairShare
from dujiang.scheduling.domain.slots import Slot
from dujiang.scheduling.events import QueuesSet, QuotaSet
from dujiang.scheduling.fairness import Fairness
from dujiang.scheduling.settings import SchedulingSettings

_TOLD = 200


class BadQuota(Invalid):
    """A quota that is negative or beyond all measure."""

    code, title = "bad_quota", "The quota is not valid"


class SchedulingService:
    """Use cases of quotas and queues. Functions take the transaction first, and never commit."""

    def __init__(
        self, pool: PoolService | None = None, settings: SchedulingSettings | None = None, *, currency: str = ""
    ) -> None:  # fmt: skip
        """Take the pool, whose ledger says who has used what, without which there are no fair shares.

        Args:
            pool: the pool.
            settings: of scheduling.
            currency: of the prices of clusters.
        """
        self.settings, self._currency = settings or SchedulingSettings(), currency
        half_life_s = self.settings.fair_share_half_life_s
        self._fairness = Fairness(pool, self.settings, half_life_s) if pool is not None and half_life_s else None
        self._tree: tuple[str, QueueTree] = ("", NO_QUEUES)
        self.kept_slots: tuple[Slot, ...] = ()
        """What the last plan that was carried out in this process keeps for promised deadlines."""
        self.last_plan: Explainer | None = None
        """What the last plan of this process was made on, and what it decided, for whoever asks why a job waits."""

    def burst_policy(self, spent: Decimal = Decimal(0)) -> BurstPolicy | None:
        """Return when work goes to rented clusters, with what is left of a day's budget; None: never."""
        burst = self.settings.burst
        return burst.policy(left=burst.budget_per_day - spent, currency=self._currency)

    # Quotas of projects

    async def quotas(self, tx: Tx) -> dict[str, Quota]:
        """Return every quota that limits something, by project; a project without one is unlimited."""
        return await store.read_quotas(tx)

    async def quota(self, tx: Tx, project_id: str) -> Quota:
        """Return the quota of a project."""
        return await store.read_quota(tx, project_id)

    async def set_quota(self, tx: Tx, project_id: str, quota: Quota) -> Quota:
        """Say what a project may hold at one time. What runs already goes on; setting the same again does nothing.

        Raises:
            BadQuota: an amount is negative or larger than 2^60.
        """
        for name, limit in zip(COUNTED, quota.limits(), strict=True):
            if limit is not None and not 0 <= limit <= MAX_AMOUNT:
                raise BadQuota(f"{name} is between 0 and 2^60, not {limit}; null is unlimited.")
        previous = await store.read_quota(tx, project_id)
        if previous != quota:
            await store.write_quota(tx, project_id, quota)
            gpu, cpu, memory = quota.limits()
            tx.emit(
                QuotaSet(
                    subject=project_id, project_id=project_id, gpu_milli=gpu, cpu_milli=cpu, memory_bytes=memory,
                    previous=previous.limits(),
                )
            )  # fmt: skip
        return quota

    # Queues

    async def queues(self, tx: Tx) -> QueueTree:
        """Return the tree of queues; the same object while it stands."""
        stamp = await queue_store.read_stamp(tx)
        if stamp != self._tree[0]:
            tree = read_queues(await queue_store.read_document(tx)) if stamp else NO_QUEUES
            self._tree = (stamp, tree)
        return self._tree[1]

    async def set_queues(self, tx: Tx, tree: QueueTree) -> tuple[Difference, ...]:
        """Put a tree, its projects by id, in the place of the one before; return what differs.

        What runs already goes on, also where a queue then holds more than it may. Setting the same again does nothing.
        """
        previous = await self.queues(tx)
        changed = differences(previous, tree)
        if changed:
            document = document_of(tree)
            # Of the content, not a number: a kept tree stays right when the transaction that read it is rolled back.
            stamp = hashlib.sha256(orjson.dumps(document)).hexdigest()
            await queue_store.write_document(tx, stamp, document)
            told = tuple(str(one) for one in changed[:_TOLD])
            tx.emit(QueuesSet(subject="queues", stamp=stamp, differences=told, difference_count=len(changed)))
        return changed

    async def shares(
        self, tx: Tx, tree: QueueTree, live: Sequence[Allocation], projects: Collection[str] | None = None
    ) -> Mapping[str, FairShare]:
        """Return how much of what is due to them projects have used; empty when fair share is off.

        Worked out anew every `fair_share_every_s`, and when a project is new. Ask in a transaction that only reads.

        Args:
            tx: the transaction.
            tree: the queues, as `queues` gave them.
            live: the live rows of the ledger.
            projects: those that have work waiting; None: those of the last time.
        """
        if self._fairness is None:
            return {}
        return await self._fairness.shares(tx, tree, live, projects)
