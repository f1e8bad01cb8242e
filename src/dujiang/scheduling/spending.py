"""What rented clusters cost today, from the ledger: the rows that bills are made of, at the clusters' list price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from dujiang.engines.contract import AttemptKey
from dujiang.kit.db import Tx
from dujiang.pool.domain import Allocation, Inventory, LedgerFilter
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import About
from dujiang.scheduling.domain.renting import part_of_devices

_AT_ONCE: Final = 10_000
_LAST: Final = "zzzz"
"""Behind every identifier of a row."""
_MICROS_PER_HOUR: Final = 3_600_000_000
_WHOLE: Final = 1000
Size = tuple[int, int, int]


class Spending:
    """Adds up one day after the other, UTC; rows that have closed are read once. Ask in transactions that only read.

    What has ended counts as it was, what runs as far as its time limit (else its expected end) says. Everything on a
    rented cluster counts that was started there today, also what named the cluster.
    """

    def __init__(self, pool: PoolService) -> None:
        self._pool = pool
        self._day: datetime | None = None
        self._closed = Decimal(0)
        self._place = (-1, "")
        self._sizes: Mapping[str, Size] = {}

    async def today(self, tx: Tx, live: Sequence[Allocation], about: Mapping[AttemptKey, About]) -> Decimal:
        """Return what today's starts cost.

        Args:
            tx: the transaction.
            live: the live rows of the ledger.
            about: what is known of running attempts.
        """
        day = tx.now.replace(hour=0, minute=0, second=0, microsecond=0)
        inventory = await self._pool.inventory(tx)
        prices = {
            ident: cluster.terms.price_per_device_hour
            for ident, cluster in inventory.clusters.items() if cluster.terms.is_cloud
        }  # fmt: skip
        if not prices:
            return Decimal(0)
        self._sizes = sizes_of(inventory)
        await self._catch_up(tx, day, prices)
        cost = self._closed
        for row in counted(live, self._sizes):
            if row.started_at >= day and row.share.cluster_id in prices:
                known = about.get(row.share.key)
                end = known and (known.ends_at or known.expected_end)
                cost += cost_of(row, max(end or tx.now, tx.now), prices)
        return cost

    async def _catch_up(self, tx: Tx, day: datetime, prices: Mapping[str, Decimal]) -> None:
        if day != self._day:
            version = await self._pool.version(tx)
            rows = await self._pool.allocations(tx, LedgerFilter(live=False, since=day))
            self._day, self._place, self._closed = day, (version, _LAST), Decimal(0)
            self._add(rows, day, prices)
        while rows := await self._pool.closed_after(tx, *self._place, limit=_AT_ONCE):
            self._add(rows, day, prices)
            self._place = rows[-1].closed_version or 0, rows[-1].id

    def _add(self, rows: Iterable[Allocation], day: datetime, prices: Mapping[str, Decimal]) -> None:
        for row in counted(rows, self._sizes):
            if row.started_at >= day and row.ended_at is not None:
                self._closed += cost_of(row, row.ended_at, prices)


def sizes_of(inventory: Inventory) -> dict[str, Size]:
    """Return (processors, memory, devices) of each node."""
    devices = Counter(device.node_id for device in inventory.devices.values())
    return {
        ident: (node.cpu_limit_milli, node.memory_limit_bytes, devices[ident])
        for ident, node in inventory.nodes.items()
    }


def counted(rows: Iterable[Allocation], sizes: Mapping[str, Size]) -> Iterator[Allocation]:
    """Yield the rows that are paid for: those of devices, and of a rank without any that of its host.

    That one counts as so much of the node's devices as it takes of the node, as when its rent was estimated.
    """
    known = list(rows)
    has_devices = {(row.share.key, row.share.rank) for row in known if row.share.device_id is not None}
    for row in known:
        share = row.share
        if share.device_id is not None:
            yield row
        elif (share.key, share.rank) not in has_devices:
            cpu, memory, devices = sizes.get(share.node_id, (0, 0, 0))
            milli = part_of_devices(share.cpu_milli, share.memory_bytes, cpu, memory, devices)
            yield replace(row, share=replace(share, gpu_milli=milli))


def cost_of(row: Allocation, until: datetime, prices: Mapping[str, Decimal]) -> Decimal:
    """Return what a row costs until then; nothing on a cluster without a price."""
    price = prices.get(row.share.cluster_id)
    if not price or not row.share.gpu_milli:
        return Decimal(0)
    held = until - row.started_at
    micros = (held.days * 86_400 + held.seconds) * 1_000_000 + held.microseconds
    return price * row.share.gpu_milli / _WHOLE * micros / _MICROS_PER_HOUR
