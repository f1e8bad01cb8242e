"""`dujiang submit --dry-run`: what would become of a job, said and not done. Nothing is written.

What it costs is for `billing`, which knows jobs and is not known here: `bootstrap` fills `PriceOf`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dujiang.jobs.domain import Job
from dujiang.jobs.looking import Live
from dujiang.kit.db import Database, Tx
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import Request, Snapshot, Start
from dujiang.scheduling.domain.deadlines import Promise, promise
from dujiang.scheduling.domain.explaining import Answer, Explainer, likely_place, try_out
from dujiang.scheduling.service import SchedulingService


@dataclass(frozen=True, slots=True)
class Part:
    """So much of one resource that a job would hold."""

    resource: str
    """`gpu`, `gpu_memory`, `cpu`, `memory`, `disk`, as price lists name them."""
    amount: int
    """Thousandths or bytes."""
    vendor: str = ""
    model: str = ""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class PricedPart:
    """One line of a price."""

    sku_id: str
    resource: str
    vendor: str
    model: str
    quantity: str
    """In the unit of the price, each hour."""
    unit: str
    unit_price: str
    per_hour: str


@dataclass(frozen=True, slots=True)
class Priced:
    """What a job would cost, amounts as text with the places of the currency."""

    currency: str
    per_hour: str
    """Of the first hour."""
    total: str | None
    """To its time limit; None when it has none."""
    lines: tuple[PricedPart, ...]
    unpriced: tuple[str, ...]
    """What the list has no price for."""
    simulated: bool = False
    """The place is on simulated nodes, whose bill is kept apart."""


class PriceOf(Protocol):
    """Says what parts cost; made from the service of `billing`."""

    def __call__(self, tx: Tx, parts: Sequence[Part], limit_s: float | None) -> Awaitable[Priced]:
        """Return the price from now on."""
        ...


class PlaceIs(StrEnum):
    """What a place is told as."""

    NOW = "now"
    EXPECTED = "expected"
    ALONE = "alone"
    """Where it would go if nothing else ran."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of a job."""

    answer: Answer
    place: Start | None
    """None when no open node could take it."""
    place_is: PlaceIs
    price: Priced | None
    """Of that place."""
    promise: Promise | None = None
    """What can be said of its deadline; None when it has none, or deadlines are not looked at."""


class Trials:
    """Tries jobs out on the live state."""

    def __init__(
        self, *, db: Database, pool: PoolService, live: Live, price: PriceOf, scheduling: SchedulingService
    ) -> None:
        self._db, self._pool, self._live, self._price = db, pool, live, price
        self._settings = scheduling.settings

    async def run(self, job: Job) -> Trial:
        """Return what would become of a job that was drafted."""
        now = await self._live.look()
        request = self._live.request(job)
        answer, place = await self._live.work(lambda: _try(now, request))
        promised = None
        if request.deadline is not None and self._settings.deadlines != "off":
            promised = await self._live.work(lambda: promise(now.snapshot, now.now, [request]))
        if place is None:
            return Trial(answer, None, PlaceIs.ALONE, None, promised)
        async with self._db.reading() as tx:
            simulated = {one.name for one in (await self._pool.inventory(tx)).clusters.values() if one.simulated}
            parts = parts_of(now.snapshot, place, simulated=place.cluster in simulated)
            price = await self._price(tx, parts, job.spec.time_limit_s)
        return Trial(answer, place, _told_as(answer), price, promised)


def _try(now: Explainer, request: Request) -> tuple[Answer, Start | None]:
    answer = try_out(now.snapshot, now.now, request)
    return answer, likely_place(now.snapshot, now.now, request, answer)


def _told_as(answer: Answer) -> PlaceIs:
    if answer.start is not None:
        return PlaceIs.NOW
    return PlaceIs.EXPECTED if answer.expected is not None and answer.expected.start is not None else PlaceIs.ALONE


def parts_of(snapshot: Snapshot, place: Start, *, simulated: bool) -> list[Part]:
    """Return what a place holds, added up by kind, as the ledger would."""
    fleet, held = snapshot.fleet, Counter[tuple[str, str, str]]()
    for rank in place.ranks:
        node = fleet.node_at[(place.cluster, rank.node)]
        for resource, amount in (("cpu", rank.cpu_milli), ("memory", rank.memory_bytes), ("disk", rank.disk_bytes)):
            held[resource, "", ""] += amount
        for share in rank.devices:
            kind = fleet.flavors[int(fleet.device_flavor[fleet.device_at[(node, share.name)]])]
            held["gpu", kind.vendor, kind.model] += share.gpu_milli
            held["gpu_memory", kind.vendor, kind.model] += share.memory_bytes
    return [Part(*kind[:1], amount, *kind[1:], simulated) for kind, amount in sorted(held.items()) if amount]
