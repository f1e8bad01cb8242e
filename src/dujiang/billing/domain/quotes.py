"""What work would cost before it runs: the bill of what it would hold, for an hour and for all the time it may take.

It is rated and rounded as a bill is, at the price list as it stands, with price changes that are set for later. So a
quote is what the bill will say when the work holds just that for just so long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dujiang.billing.domain.bills import BillLine, Quantity, line_key, lines, sum_of
from dujiang.billing.domain.prices import PriceList, Resource
from dujiang.billing.domain.rating import Calendar, Segment, rate
from dujiang.kit.clock import to_micros
from dujiang.kit.money import Money

HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of one resource."""

    resource: Resource
    amount: int
    """Thousandths or bytes."""
    vendor: str = ""
    model: str = ""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Quote:
    """What holding some amounts costs."""

    currency: str
    hour: tuple[BillLine, ...]
    """Of the first hour."""
    whole: tuple[BillLine, ...] | None
    """Of all the time it may take; None when that has no limit."""

    @property
    def per_hour(self) -> Money:
        """Return what the first hour costs."""
        return sum_of(self.hour, self.currency)

    @property
    def total(self) -> Money | None:
        """Return what all the time costs that it may take; None when that has no limit."""
        return None if self.whole is None else sum_of(self.whole, self.currency)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Return the SKUs that it would use and that have no price."""
        return tuple(sorted({line.key.sku_id for line in self.hour if line.unpriced}))


def quote(
    amounts: Sequence[Amount], prices: PriceList, calendar: Calendar, *, currency: str, start: datetime,
    limit_s: float | None,
) -> Quote:  # fmt: skip
    """Return what it costs to hold amounts from a time on."""
    return Quote(
        currency=currency,
        hour=lines(_quantities(amounts, prices, calendar, start, HOUR_S), currency),
        whole=None if limit_s is None else lines(_quantities(amounts, prices, calendar, start, limit_s), currency),
    )


def _quantities(
    amounts: Sequence[Amount], prices: PriceList, calendar: Calendar, start: datetime, seconds: float
) -> Iterable[Quantity]:
    begins, ends = to_micros(start), to_micros(start + timedelta(seconds=seconds))
    for each in amounts:
        if each.amount <= 0 or ends <= begins:
            continue
        segment = Segment(
            "", "", "", each.resource, each.amount, each.vendor, each.model, each.simulated, begins, ends
        )  # fmt: skip
        for charge in rate(segment, prices, calendar):
            yield Quantity(line_key(charge), charge.quantity, provisional=True)
