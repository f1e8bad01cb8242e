"""What happened in billing. Charges are rows of their own; the journal hears of them a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargesRecorded(Event):
    """Closed rows of the ledger were charged. Subject: `billing`; one event a batch."""

    rows: int
    """How many rows of the ledger."""
    charges: int
    closed_version: int
    """Every row that was closed up to this version of the pool and row is charged."""
    allocation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSet(Event):
    """A price was added to the list. Subject: the price."""

    sku_id: str
    resource: str
    unit_price: str
    currency: str
    effective_from: str
    """ISO 8601, UTC."""
