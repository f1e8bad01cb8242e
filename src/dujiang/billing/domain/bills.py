"""The bill: quantities added up by SKU and price, each line rounded once, the total the sum of what is printed.

Rounding is half up, to the currency's smallest unit, when the exact cost of a line is known; so the sum of the lines
is the total to the last cent, and a line can be checked with a pocket calculator. What ran on simulated nodes has lines
and a total of its own and is never added to the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

from dujiang.billing.domain.prices import PER_UNIT, UNITS, Resource
from dujiang.billing.domain.rating import Charge
from dujiang.kit.money import Money, zero

SHOWN_PLACES: Final = 10
"""Decimal places of quantities, and of the cost of a single charge, where they are shown; never used to add up."""


class ChargeCategory(StrEnum):
    """FOCUS: what kind of charge it is."""

    USAGE = "Usage"


@dataclass(frozen=True, slots=True)
class LineKey:
    """What one line of a bill is about."""

    sku_id: str
    resource: Resource
    vendor: str
    model: str
    unit_price: Decimal
    price_id: str
    """Empty where there was no price."""
    simulated: bool


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity to be added to a line."""

    key: LineKey
    quantity: int
    provisional: bool
    """Still growing, or closed and not yet recorded as a charge."""


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line: a quantity of one SKU at one price."""

    key: LineKey
    quantity: int
    """Exact, in thousandths or bytes times microseconds."""
    provisional_quantity: int
    """How much of it is not final."""
    cost: Money
    """Rounded. List, effective and billed cost are the same while there are no discounts."""

    @property
    def consumed_quantity(self) -> Decimal:
        """Return the quantity in the unit of the price, for reading."""
        return shown(Fraction(self.quantity, PER_UNIT[self.key.resource]))

    @property
    def consumed_unit(self) -> str:
        """Return the unit of the price."""
        return UNITS[self.key.resource]

    @property
    def unpriced(self) -> bool:
        """Say whether the list had no price for it."""
        return not self.key.price_id


@dataclass(frozen=True, slots=True)
class Bill:
    """What a project owes for a month."""

    project_id: str
    period: str
    starts_at: datetime
    ends_at: datetime
    currency: str
    lines: tuple[BillLine, ...]
    provisional: bool
    """The month is not over, or something of it still runs or is not recorded yet."""

    @property
    def total(self) -> Money:
        """Return the sum of the lines that are for real."""
        return sum_of((line for line in self.lines if not line.key.simulated), self.currency)

    @property
    def simulated_total(self) -> Money:
        """Return the sum of the lines of simulated nodes."""
        return sum_of((line for line in self.lines if line.key.simulated), self.currency)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Return the SKUs that were used and have no price."""
        return tuple(sorted({line.key.sku_id for line in self.lines if line.unpriced}))


def line_key(charge: Charge) -> LineKey:
    """Return the line that a charge belongs to."""
    segment, price = charge.segment, charge.price
    return LineKey(
        sku_id=price.sku_id if price else f"unpriced-{segment.resource}", resource=segment.resource,
        vendor=segment.vendor, model=segment.model, unit_price=price.unit_price if price else Decimal(0),
        price_id=price.id if price else "", simulated=segment.simulated,
    )  # fmt: skip


def lines(quantities: Iterable[Quantity], currency: str) -> tuple[BillLine, ...]:
    """Add up and round once a line; the order of what is given does not matter."""
    sums: dict[LineKey, tuple[int, int]] = {}
    for each in quantities:
        whole, provisional = sums.get(each.key, (0, 0))
        sums[each.key] = (whole + each.quantity, provisional + each.quantity * each.provisional)
    ordered = sorted(
        sums.items(),
        key=lambda item: (item[0].simulated, item[0].resource, item[0].sku_id, item[0].vendor, item[0].model,
                          item[0].price_id),
    )  # fmt: skip
    return tuple(
        BillLine(key, whole, provisional, rounded(exact_cost(key, whole), currency))
        for key, (whole, provisional) in ordered
    )


def exact_cost(key: LineKey, quantity: int) -> Fraction:
    """Return the cost of a quantity, not rounded."""
    return Fraction(key.unit_price) * quantity / PER_UNIT[key.resource]


def rounded(cost: Fraction, currency: str) -> Money:
    """Return a cost that is not negative in whole smallest units of the currency, half up."""
    exponent = zero(currency).rounded().amount.as_tuple().exponent
    assert isinstance(exponent, int)
    scale = 10**-exponent
    whole = (cost * scale + Fraction(1, 2)).__floor__()
    return Money(Decimal(whole).scaleb(exponent), currency)


def shown(value: Fraction) -> Decimal:
    """Return a value for reading, with ten decimal places, half up."""
    scale = 10**SHOWN_PLACES
    return Decimal((value * scale + Fraction(1, 2)).__floor__()).scaleb(-SHOWN_PLACES)


def sum_of(chosen: Iterable[BillLine], currency: str) -> Money:
    """Return the sum of lines as they are printed."""
    return sum((line.cost for line in chosen), zero(currency).rounded())
