"""What a unit of each resource costs, since when, and which price applies to a piece of usage.

Of the prices that match a piece of usage and are in effect, the most exact one counts (vendor and model, then one of
them, then neither), and of these the latest. A price is never changed and never begins in the past: what was charged
stays explainable by the list as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from dujiang.kit.clock import EPOCH, to_micros
from dujiang.kit.errors import Conflict, Invalid

_HOUR: Final = 3600 * 10**6
_GIB: Final = 2**30


class Resource(StrEnum):
    """What is charged for."""

    GPU = "gpu"
    GPU_MEMORY = "gpu_memory"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"


UNITS: Final[Mapping[Resource, str]] = {
    Resource.GPU: "gpu-hour",
    Resource.GPU_MEMORY: "GiB-hour",
    Resource.CPU: "core-hour",
    Resource.MEMORY: "GiB-hour",
    Resource.DISK: "GiB-hour",
}
PER_UNIT: Final[Mapping[Resource, int]] = {
    Resource.GPU: 1000 * _HOUR,
    Resource.GPU_MEMORY: _GIB * _HOUR,
    Resource.CPU: 1000 * _HOUR,
    Resource.MEMORY: _GIB * _HOUR,
    Resource.DISK: _GIB * _HOUR,
}
"""How many of the ledger's own units (thousandths or bytes, times microseconds) make one priced unit."""

MAX_UNIT_PRICE: Final = Decimal(10) ** 12
MAX_PLACES: Final = 12


@dataclass(frozen=True, slots=True)
class Price:
    """One line of the price list."""

    id: str
    sku_id: str
    resource: Resource
    vendor: str
    """Empty for any; likewise model."""
    model: str
    unit_price: Decimal
    currency: str
    effective_from: datetime
    created_at: datetime
    created_by: str

    @property
    def unit(self) -> str:
        """Return what the price is for one of."""
        return UNITS[self.resource]

    def matches(self, resource: Resource, vendor: str, model: str) -> bool:
        """Say whether usage of this kind can have this price."""
        return self.resource is resource and self.vendor in ("", vendor) and self.model in ("", model)

    @property
    def rank(self) -> tuple[bool, bool, datetime, str]:
        """Return what makes it win over other prices in effect: exactness, then time."""
        return bool(self.model), bool(self.vendor), self.effective_from, self.id


class BadPrice(Invalid):
    """A price that cannot be in the list."""

    code, title = "bad_price", "The price is not valid"


class SkuTaken(Conflict):
    """The SKU stands for another resource, vendor or model."""

    code, title = "sku_taken", "The SKU stands for something else"


class PriceList:
    """All prices, and the intervals in which each applies."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self.prices = tuple(prices)
        self._timelines: dict[tuple[Resource, str, str], list[tuple[int, Price]]] = {}

    @property
    def currency(self) -> str | None:
        """Return the currency of the list; None while it is empty."""
        return self.prices[0].currency if self.prices else None

    def timeline(self, resource: Resource, vendor: str, model: str) -> list[tuple[int, Price]]:
        """Return (microsecond, price that applies from there on), in order; before the first there is no price."""
        key = (resource, vendor, model)
        known = self._timelines.get(key)
        if known is None:
            known = self._timelines[key] = _timeline([price for price in self.prices if price.matches(*key)])
        return known

    def check(self, price: Price, *, now: datetime) -> None:
        """Let a new price pass.

        Raises:
            BadPrice: out of range, in another currency than the list, or in effect before now.
            SkuTaken: its SKU stands for another resource, vendor or model.
        """
        _check_value(price)
        if price.effective_from < now:
            raise BadPrice("A price cannot begin in the past: what was used by then may have been charged already.")
        if self.currency not in (None, price.currency):
            raise BadPrice(f"The price list is in {self.currency}; {price.currency} cannot be mixed in.")
        for other in self.prices:
            same_sku = other.sku_id == price.sku_id
            same_thing = (other.resource, other.vendor, other.model) == (price.resource, price.vendor, price.model)
            if same_sku != same_thing:
                raise SkuTaken(
                    f"{other.sku_id} is {other.resource} of {other.vendor or 'any vendor'}, "
                    f"{other.model or 'any model'}: one SKU stands for one thing, and one thing has one SKU.",
                    sku_id=other.sku_id,
                )


DEFAULTS: Final[tuple[tuple[str, Resource, str, str, str], ...]] = (
    ("gpu", Resource.GPU, "", "", "10.00"),
    ("gpu-memory", Resource.GPU_MEMORY, "", "", "0"),
    ("cpu", Resource.CPU, "", "", "0.20"),
    ("memory", Resource.MEMORY, "", "", "0.02"),
    ("disk", Resource.DISK, "", "", "0.0003"),
)
"""SKU, resource, vendor, model, price of one unit: examples to start with, not a recommendation. Device memory is in
the price of the device; a centre that sells memory-heavy shares sets its own price for it."""


def default_prices(ids: Iterable[str], *, currency: str, now: datetime) -> list[Price]:
    """Return the example price list, in effect since ever."""
    return [
        Price(id, sku, resource, vendor, model, Decimal(price), currency, EPOCH, now, "platform")
        for id, (sku, resource, vendor, model, price) in zip(ids, DEFAULTS, strict=True)
    ]


def _timeline(matching: list[Price]) -> list[tuple[int, Price]]:
    steps: list[tuple[int, Price]] = []
    for at in sorted({price.effective_from for price in matching}):
        best = max((price for price in matching if price.effective_from <= at), key=lambda price: price.rank)
        if not steps or steps[-1][1] is not best:
            steps.append((to_micros(at), best))
    return steps


def _check_value(price: Price) -> None:
    amount = price.unit_price
    if not amount.is_finite() or not 0 <= amount < MAX_UNIT_PRICE:
        raise BadPrice(f"A price is between 0 and {MAX_UNIT_PRICE}.")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_PLACES:
        raise BadPrice(f"A price has at most {MAX_PLACES} decimal places.")
    if len(price.currency) != 3 or not (price.currency.isascii() and price.currency.isupper()):
        raise BadPrice(f'"{price.currency[:10]}" is not a currency; write its three letters, such as CNY.')
    if (price.vendor or price.model) and price.resource not in (Resource.GPU, Resource.GPU_MEMORY):
        raise BadPrice(f"{price.resource} has no vendor or model; only devices do.")
