"""The door to billing: prices, charges for what the ledger has closed, bills, and the proof that both agree.

A charge is made once for each closed row of the ledger, resource, price and month, behind a cursor that moves in the
same transaction; so a crash or a second replica charges nothing twice and leaves nothing out. A bill is the recorded
charges plus what is not recorded yet (live rows up to now, closed rows still waiting), which is marked as provisional.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dujiang.billing import identity, store
from dujiang.billing.domain.bills import Bill, Quantity, line_key, lines
from dujiang.billing.domain.check import Verdict
from dujiang.billing.domain.prices import DEFAULTS, BadPrice, Price, PriceList, Resource, default_prices
from dujiang.billing.domain.quotes import Amount, Quote, quote
from dujiang.billing.domain.rating import Calendar, Charge, format_month, rate, segments
from dujiang.billing.events import ChargesRecorded, PriceSet
from dujiang.billing.store import Place, StoredCharge
from dujiang.kit.clock import from_micros, to_micros
from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.ids import Ids
from dujiang.pool.domain import Allocation, LedgerFilter
from dujiang.pool.service import PoolService

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class BillingSettings:
    """How bills are made."""

    currency: str = "CNY"
    """Of the example price list that a new platform starts with (ISO 4217); later the price list says."""
    time_zone: str = "UTC"
    """Whose months are billed (IANA name). Changed later, what is recorded stays in the month it was recorded for."""

    def __post_init__(self) -> None:
        """Refuse what is no currency.

        Raises:
            ValueError: what it can be.
        """
        if len(self.currency) != 3 or not (self.currency.isascii() and self.currency.isupper()):
            raise ValueError("currency is three capital letters (ISO 4217), such as CNY")


@dataclass(frozen=True, slots=True)
class RateReport:
    """What one batch of rating did."""

    rows: int
    charges: int
    more: bool
    """There may be more to rate at once."""


class BillingService:
    """Use cases of billing. Functions take the transaction first, and never commit."""

    def __init__(self, ids: Ids, pool: PoolService, settings: BillingSettings | None = None) -> None:
        """Take what it works with.

        Raises:
            Invalid: there is no such time zone here.
        """
        self._ids, self._pool, self._settings = ids, pool, settings or BillingSettings()
        self.calendar = Calendar(_zone(self._settings.time_zone))

    # Prices

    async def install_defaults(self, tx: Tx) -> bool:
        """Give a platform without any price the example list; say whether it did."""
        if await store.read_prices(tx):
            return False
        ids = [self._ids.new("prc") for _ in DEFAULTS]
        await store.insert_prices(tx, default_prices(ids, currency=self._settings.currency, now=tx.now))
        tx.emit(
            PriceSet(
                subject="price-list", sku_id="examples", resource="all", unit_price="", effective_from="",
                currency=self._settings.currency,
            )
        )  # fmt: skip
        return True

    async def prices(self, tx: Tx) -> PriceList:
        """Return the price list."""
        return PriceList(await store.read_prices(tx))

    async def set_price(
        self, tx: Tx, *, sku_id: str, resource: Resource, unit_price: Decimal, vendor: str = "", model: str = "",
        currency: str | None = None, effective_from: datetime | None = None,
    ) -> Price:  # fmt: skip
        """Add a price that applies from a time on, now when none is given.

        Raises:
            BadPrice: out of range, in another currency than the list, or in effect before now.
            SkuTaken: the SKU stands for another resource, vendor or model.
            Conflict: the SKU has a price from the very same moment already.
        """
        known = await self.prices(tx)
        price = Price(
            id=self._ids.new("prc"), sku_id=sku_id, resource=resource, vendor=vendor, model=model,
            unit_price=unit_price, currency=currency or known.currency or self._settings.currency,
            effective_from=effective_from or tx.now, created_at=tx.now, created_by=tx.actor,
        )  # fmt: skip
        if not sku_id or sku_id.startswith("unpriced-"):
            raise BadPrice('A SKU needs a name, and names that begin with "unpriced-" are taken.')
        known.check(price, now=tx.now)
        await store.insert_prices(tx, [price])
        tx.emit(
            PriceSet(
                subject=price.id, sku_id=sku_id, resource=str(resource), unit_price=f"{unit_price:f}",
                currency=price.currency, effective_from=price.effective_from.isoformat(),
            )
        )  # fmt: skip
        return price

    # Charges

    async def rate_closed(self, tx: Tx, limit: int = _BATCH) -> RateReport:
        """Charge the next closed rows of the ledger, in the order in which they were closed; call it until no more.

        Safe to kill and to run twice: charges and cursor are one transaction, and a second one waits for the first.
        """
        place = await store.lock_place(tx)
        rows = await self._pool.closed_after(tx, place.closed_version, place.allocation_id, limit)
        if not rows:
            return RateReport(0, 0, more=False)
        prices = await self.prices(tx)
        made = [(self._ids.new("chg"), charge) for charge in self._rate(rows, prices, until=0)]
        await store.insert_charges(tx, made, self._currency(prices))
        place = _place_of(rows[-1])
        await store.write_place(tx, place)
        tx.emit(
            ChargesRecorded(
                subject="billing", rows=len(rows), charges=len(made), closed_version=place.closed_version,
                allocation_id=place.allocation_id,
            )
        )  # fmt: skip
        return RateReport(len(rows), len(made), more=len(rows) == limit)

    async def charges(
        self, tx: Tx, *, project_ids: Sequence[str] | None = None, period: str | None = None,
        job_id: str | None = None, after: str = "", limit: int = 500,
    ) -> list[StoredCharge]:  # fmt: skip
        """Return recorded charges in the order in which they were made, from behind a charge's identifier on."""
        if period is not None:
            self.calendar.bounds(period)
        return await store.find_charges(
            tx, project_ids=project_ids, period=period, job_id=job_id, after=after, limit=limit
        )

    # Bills

    async def bill(self, tx: Tx, project_id: str, period: str | None = None) -> Bill:
        """Return what a project owes for a month (`YYYY-MM`), the current one when none is given.

        Raises:
            BadMonth: not a month.
        """
        period = period or self.current_period(tx.now)
        start, end = self.calendar.bounds(period)
        prices = await self.prices(tx)
        open_rows = await self._open_rows(tx, end, project_id)
        charged = await store.sums(tx, project_id, period)
        pending = [
            Quantity(line_key(charge), charge.quantity, provisional=True)
            for charge in self._rate(open_rows, prices, until=to_micros(tx.now))
            if charge.period == period
        ]
        currency = self._currency(prices)
        return Bill(
            project_id=project_id, period=period, starts_at=from_micros(start), ends_at=from_micros(end),
            currency=currency, lines=lines([*charged, *pending], currency),
            provisional=bool(pending) or to_micros(tx.now) < end,
        )  # fmt: skip

    async def billed_projects(self, tx: Tx, period: str | None = None) -> list[str]:
        """Return the projects that have something on a bill of that month, in order of identifier."""
        period = period or self.current_period(tx.now)
        start, end = self.calendar.bounds(period)
        open_rows = await self._open_rows(tx, end, None)
        found = {row.share.project_id for row in open_rows if row.ended_at is None or to_micros(row.ended_at) > start}
        return sorted(found.union(await store.charged_projects(tx, period)))

    def current_period(self, now: datetime) -> str:
        """Return the month that is billed now."""
        return format_month(self.calendar.month_of(to_micros(now)))

    # Quotes

    async def quote(self, tx: Tx, amounts: Sequence[Amount], limit_s: float | None) -> Quote:
        """Return what it costs to hold amounts from now on, for an hour and for `limit_s`."""
        prices = await self.prices(tx)
        return quote(
            amounts, prices, self.calendar, currency=self._currency(prices), start=tx.now, limit_s=limit_s
        )  # fmt: skip

    # Proof

    async def verify(self, tx: Tx) -> Verdict:
        """Prove that charges and ledger are the same, row by row; reads all of both: seconds for a million rows."""
        return await identity.check(tx, self._pool)

    # Helpers

    def _rate(self, rows: Iterable[Allocation], prices: PriceList, *, until: int) -> list[Charge]:
        return [
            charge
            for row in rows
            for segment in segments(row, until=until)
            for charge in rate(segment, prices, self.calendar)
        ]

    def _currency(self, prices: PriceList) -> str:
        return prices.currency or self._settings.currency

    async def _open_rows(self, tx: Tx, end: int, project_id: str | None) -> list[Allocation]:
        """Return rows of the ledger that no charge covers yet: live ones, and closed ones still waiting."""
        before = from_micros(end)
        project_ids = None if project_id is None else [project_id]
        rows = await self._pool.allocations(tx, LedgerFilter(project_ids=project_ids, live=True, until=before))
        place = await store.read_place(tx)
        while waiting := await self._pool.closed_after(tx, place.closed_version, place.allocation_id, _BATCH):
            rows += [row for row in waiting if project_id in (None, row.share.project_id) and row.started_at < before]
            place = _place_of(waiting[-1])
        return rows


def _place_of(row: Allocation) -> Place:
    assert row.closed_version is not None, "only closed rows are charged"
    return Place(row.closed_version, row.id)


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f'There is no time zone "{name}" on this machine; write an IANA name such as Asia/Shanghai, '
            "and install the time zone data (package tzdata) where it is missing."
        ) from error
