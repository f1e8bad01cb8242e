"""Prices as `jobs` asks for them, by the price list of `billing`."""

from __future__ import annotations

from collections.abc import Sequence

from dujiang.billing.domain import Amount, BillLine, Resource
from dujiang.billing.service import BillingService
from dujiang.jobs.trying import Part, Priced, PricedPart
from dujiang.kit.db import Tx


async def price_of(billing: BillingService, tx: Tx, parts: Sequence[Part], limit_s: float | None) -> Priced:
    """Return what parts of a job cost from now on."""
    amounts = [Amount(Resource(one.resource), one.amount, one.vendor, one.model, one.simulated) for one in parts]
    quote = await billing.quote(tx, amounts, limit_s)
    return Priced(
        currency=quote.currency, per_hour=str(quote.per_hour.amount),
        total=None if quote.total is None else str(quote.total.amount),
        lines=tuple(_line(line) for line in quote.hour), unpriced=quote.unpriced,
        simulated=any(part.simulated for part in parts),
    )  # fmt: skip


def _line(line: BillLine) -> PricedPart:
    key = line.key
    return PricedPart(
        sku_id=key.sku_id, resource=str(key.resource), vendor=key.vendor, model=key.model,
        quantity=f"{line.consumed_quantity.normalize():f}", unit=line.consumed_unit, unit_price=f"{key.unit_price:f}",
        per_hour=str(line.cost.amount),
    )  # fmt: skip
