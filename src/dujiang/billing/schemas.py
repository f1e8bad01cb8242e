"""What billing's routes take and answer. Costs and quantities are decimal text: no client shall make floats of them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from dujiang.billing.domain.bills import Bill, BillLine, ChargeCategory, shown
from dujiang.billing.domain.check import Identity, Offence, Verdict
from dujiang.billing.domain.prices import PER_UNIT, UNITS, Price, Resource
from dujiang.billing.store import StoredCharge
from dujiang.kit.clock import to_micros
from dujiang.kit.http import Model, Moment


class PriceIn(Model):
    """A price to add to the list; it never begins in the past and is never changed."""

    sku_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    resource: Resource
    unit_price: Annotated[Decimal, Field(ge=0, description="Of one gpu-hour, core-hour or GiB-hour.")]
    vendor: Annotated[str, Field(max_length=64, description="Of the device; empty for any.")] = ""
    model: Annotated[str, Field(max_length=128, description="Of the device; empty for any.")] = ""
    currency: Annotated[str | None, Field(max_length=3, description="As the list when left out.")] = None
    effective_from: Annotated[Moment | None, Field(description="With its zone; now when left out.")] = None


class PriceOut(Model):
    """A price of the list."""

    id: str
    sku_id: str
    resource: str
    unit: str
    vendor: str
    model: str
    unit_price: str
    currency: str
    effective_from: datetime
    created_at: datetime
    created_by: str


class BillLineOut(Model):
    """One line of a bill: what was used of one SKU at one price."""

    charge_category: str
    sku_id: str
    resource: str
    vendor: str
    model: str
    price_id: str | None
    """Null where the list has no price."""
    list_unit_price: str
    consumed_quantity: str
    """In `consumed_unit`, ten decimal places."""
    consumed_unit: str
    quantity: str
    """Exact: thousandths (of devices or cores) or bytes, times microseconds."""
    provisional_quantity: str
    list_cost: str
    effective_cost: str
    billed_cost: str
    unpriced: bool
    simulated: bool


class BillOut(Model):
    """What a project owes for a month; the total is the sum of the lines as printed."""

    project_id: str
    project: str
    billing_period: str
    billing_period_start: datetime
    billing_period_end: datetime
    billing_currency: str
    billed_cost: str
    simulated_cost: str
    """What the simulated lines come to; never part of `billed_cost`."""
    provisional: bool
    unpriced: list[str]
    lines: list[BillLineOut]


class ChargeOut(Model):
    """A recorded charge; its cost has ten decimal places here and is rounded on the bill, with the rest of its line."""

    id: str
    charge_category: str
    allocation_id: str
    project_id: str
    job_id: str
    billing_period: str
    charge_period_start: datetime
    charge_period_end: datetime
    sku_id: str
    resource: str
    vendor: str
    model: str
    price_id: str | None
    list_unit_price: str
    consumed_quantity: str
    consumed_unit: str
    quantity: str
    list_cost: str
    effective_cost: str
    billed_cost: str
    billing_currency: str
    simulated: bool


class IdentityOut(Model):
    """Ledger and charges of one resource, exactly, in thousandths or bytes times microseconds."""

    resource: str
    ledger_quantity: str
    charged_quantity: str
    difference: str


class OffenceOut(Model):
    """A row that is charged for something else than it held."""

    allocation_id: str
    resource: str | None
    ledger_quantity: str
    charged_quantity: str
    charge_ids: list[str]
    sentence: str


class VerdictOut(Model):
    """Whether charges and ledger are the same."""

    holds: bool
    rows: int
    charges: int
    waiting: int
    """Closed rows that are not charged yet."""
    identities: list[IdentityOut]
    offences: list[OffenceOut]


def price_out(price: Price) -> PriceOut:
    """Return a price as answered."""
    return PriceOut(
        id=price.id, sku_id=price.sku_id, resource=str(price.resource), unit=price.unit, vendor=price.vendor,
        model=price.model, unit_price=f"{price.unit_price:f}", currency=price.currency,
        effective_from=price.effective_from, created_at=price.created_at, created_by=price.created_by,
    )  # fmt: skip


def bill_out(bill: Bill, project: str) -> BillOut:
    """Return a bill as answered, with the project's name."""
    return BillOut(
        project_id=bill.project_id, project=project, billing_period=bill.period, billing_period_start=bill.starts_at,
        billing_period_end=bill.ends_at, billing_currency=bill.currency, billed_cost=f"{bill.total.amount:f}",
        simulated_cost=f"{bill.simulated_total.amount:f}", provisional=bill.provisional, unpriced=list(bill.unpriced),
        lines=[_line_out(line) for line in bill.lines],
    )  # fmt: skip


def charge_out(charge: StoredCharge) -> ChargeOut:
    """Return a charge as answered."""
    micros = to_micros(charge.charge_period_end) - to_micros(charge.charge_period_start)
    consumed = Fraction(charge.amount * micros, PER_UNIT[charge.resource])
    cost = f"{shown(consumed * Fraction(charge.unit_price)):f}"
    return ChargeOut(
        id=charge.id, charge_category=ChargeCategory.USAGE, allocation_id=charge.allocation_id,
        project_id=charge.project_id, job_id=charge.job_id, billing_period=charge.billing_period,
        charge_period_start=charge.charge_period_start, charge_period_end=charge.charge_period_end,
        sku_id=charge.sku_id, resource=str(charge.resource), vendor=charge.vendor, model=charge.model,
        price_id=charge.price_id or None, list_unit_price=f"{charge.unit_price:f}",
        consumed_quantity=f"{shown(consumed):f}", consumed_unit=UNITS[charge.resource],
        quantity=str(charge.amount * micros), list_cost=cost, effective_cost=cost, billed_cost=cost,
        billing_currency=charge.currency, simulated=charge.simulated,
    )  # fmt: skip


def verdict_out(verdict: Verdict) -> VerdictOut:
    """Return the outcome of the check as answered."""
    return VerdictOut(
        holds=verdict.holds, rows=verdict.rows, charges=verdict.charges, waiting=verdict.waiting,
        identities=[_identity_out(each) for each in verdict.identities],
        offences=[_offence_out(each) for each in verdict.offences],
    )  # fmt: skip


def _line_out(line: BillLine) -> BillLineOut:
    key, cost = line.key, f"{line.cost.amount:f}"
    return BillLineOut(
        charge_category=ChargeCategory.USAGE, sku_id=key.sku_id, resource=str(key.resource), vendor=key.vendor,
        model=key.model, price_id=key.price_id or None, list_unit_price=f"{key.unit_price:f}",
        consumed_quantity=f"{line.consumed_quantity:f}", consumed_unit=line.consumed_unit,
        quantity=str(line.quantity), provisional_quantity=str(line.provisional_quantity), list_cost=cost,
        effective_cost=cost, billed_cost=cost, unpriced=line.unpriced, simulated=key.simulated,
    )  # fmt: skip


def _identity_out(each: Identity) -> IdentityOut:
    return IdentityOut(
        resource=str(each.resource), ledger_quantity=str(each.ledger_quantity),
        charged_quantity=str(each.charged_quantity), difference=str(each.difference),
    )  # fmt: skip


def _offence_out(each: Offence) -> OffenceOut:
    return OffenceOut(
        allocation_id=each.allocation_id, resource=each.resource and str(each.resource),
        ledger_quantity=str(each.ledger_quantity), charged_quantity=str(each.charged_quantity),
        charge_ids=list(each.charge_ids), sentence=each.sentence,
    )  # fmt: skip
