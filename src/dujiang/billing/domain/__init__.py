"""Prices, rating of the ledger, bills, and the check that charges and ledger are the same."""

from dujiang.billing.domain.bills import Bill, BillLine, ChargeCategory, LineKey, Quantity, line_key, lines
from dujiang.billing.domain.check import Identity, Offence, Verdict
from dujiang.billing.domain.prices import (
    PER_UNIT,
    UNITS,
    BadPrice,
    Price,
    PriceList,
    Resource,
    SkuTaken,
    default_prices,
)
from dujiang.billing.domain.quotes import Amount, Quote, quote
from dujiang.billing.domain.rating import BadMonth, Calendar, Charge, Segment, rate, segments

__all__ = [
    "PER_UNIT",
    "UNITS",
    "Amount",
    "BadMonth",
    "BadPrice",
    "Bill",
    "BillLine",
    "Calendar",
    "Charge",
    "ChargeCategory",
    "Identity",
    "LineKey",
    "Offence",
    "Price",
    "PriceList",
    "Quantity",
    "Quote",
    "Resource",
    "Segment",
    "SkuTaken",
    "Verdict",
    "default_prices",
    "line_key",
    "lines",
    "quote",
    "rate",
    "segments",
]
