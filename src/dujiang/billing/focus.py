"""Bills as comma-separated text with the column names of FOCUS (FinOps Open Cost and Usage Specification, 1.2).

What FOCUS has no column for is prefixed `x_`, as it asks. A cell that a spreadsheet would run as a formula is made text
by a leading apostrophe (OWASP, CSV injection).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

from dujiang.billing.schemas import BillLineOut, BillOut

COLUMNS: Final = (
    "BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd", "SubAccountId", "SubAccountName",
    "ProviderName", "ServiceCategory", "ServiceName", "ChargeCategory", "ChargeDescription", "SkuId", "SkuPriceId",
    "ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit", "ListUnitPrice", "ListCost", "EffectiveCost",
    "BilledCost", "BillingCurrency", "x_Vendor", "x_Model", "x_ExactQuantity", "x_Provisional", "x_Simulated",
)  # fmt: skip
_RISKY = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_csv(bills: Sequence[BillOut]) -> str:
    """Return one row for each line of each bill, after a row of column names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for bill in bills:
        writer.writerows([safe(cell) for cell in _cells(bill, line)] for line in bill.lines)
    return text.getvalue()


def safe(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(_RISKY) else cell


def _cells(bill: BillOut, line: BillLineOut) -> list[str]:
    start, end = (at.isoformat().replace("+00:00", "Z") for at in (bill.billing_period_start, bill.billing_period_end))
    device = f" of {line.vendor} {line.model}" if line.vendor else ""
    return [
        start, end, start, end, bill.project_id, bill.project, "dujiang", "Compute", f"{line.resource}{device}",
        line.charge_category, f"{line.sku_id}: {line.consumed_unit}{device}" + (" (no price)" if line.unpriced else ""),
        line.sku_id, line.price_id or "", line.consumed_quantity, line.consumed_unit, line.consumed_quantity,
        line.consumed_unit, line.list_unit_price, line.list_cost, line.effective_cost, line.billed_cost,
        bill.billing_currency, line.vendor, line.model, line.quantity, _truth(line.provisional_quantity != "0"),
        _truth(line.simulated),
    ]  # fmt: skip


def _truth(value: bool) -> str:
    return "true" if value else "false"
