"""Billing's tables and the statements over them; rows in, domain values out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    select,
    type_coerce,
    update,
)

from dujiang.billing.domain.bills import LineKey, Quantity
from dujiang.billing.domain.prices import Price, Resource
from dujiang.billing.domain.rating import Charge
from dujiang.kit.clock import from_micros
from dujiang.kit.db import Tx
from dujiang.kit.tables import ExactDecimal, UtcMicros, metadata

prices = Table(
    "prices",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("sku_id", String(64), nullable=False),
    Column("resource", String(16), nullable=False),
    Column("vendor", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("unit_price", ExactDecimal, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("effective_from", UtcMicros, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    Column("created_by", String(128), nullable=False),
    UniqueConstraint("sku_id", "effective_from"),
)
# The unit price is kept on the charge: what was charged is explained by the row alone.
charges = Table(
    "charges",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("allocation_id", String(40), nullable=False),
    Column("project_id", String(40), nullable=False),
    Column("job_id", String(40), nullable=False),
    Column("billing_period", String(7), nullable=False),
    Column("resource", String(16), nullable=False),
    Column("sku_id", String(64), nullable=False),
    Column("price_id", String(40), nullable=False),
    Column("unit_price", ExactDecimal, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("vendor", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("charge_period_start", UtcMicros, nullable=False),
    Column("charge_period_end", UtcMicros, nullable=False),
    Column("created_at", UtcMicros, nullable=False),
    UniqueConstraint("allocation_id", "resource", "charge_period_start"),
    Index("ix_charges_project", "project_id", "billing_period"),
    Index("ix_charges_job", "job_id"),
)
# Up to where the ledger's closed rows are charged; one row.
billing_cursor = Table(
    "billing_cursor",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("closed_version", BigInteger, nullable=False),
    Column("allocation_id", String(40), nullable=False),
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the order in which the ledger's rows are closed."""

    closed_version: int
    allocation_id: str


BEGINNING = Place(-1, "")


@dataclass(frozen=True, slots=True)
class StoredCharge:
    """A charge as it was recorded."""

    id: str
    allocation_id: str
    project_id: str
    job_id: str
    billing_period: str
    resource: Resource
    sku_id: str
    price_id: str
    unit_price: Decimal
    currency: str
    vendor: str
    model: str
    simulated: bool
    amount: int
    charge_period_start: datetime
    charge_period_end: datetime
    created_at: datetime


async def read_prices(tx: Tx) -> list[Price]:
    """Return the price list in the order in which it was made."""
    return [_price(row) for row in await tx.execute(select(prices).order_by(prices.c.id))]


async def insert_prices(tx: Tx, rows: Sequence[Price]) -> None:
    """Add prices."""
    names = [column.name for column in prices.columns]
    await tx.execute(insert(prices), [{name: getattr(row, name) for name in names} for row in rows])


async def read_place(tx: Tx) -> Place:
    """Return up to where the ledger is charged."""
    row = (await tx.execute(_PLACE)).first()
    return Place(row.closed_version, row.allocation_id) if row else BEGINNING


async def lock_place(tx: Tx) -> Place:
    """Return up to where the ledger is charged, and keep others who charge waiting until this transaction ends."""
    row = (await tx.execute(_PLACE.with_for_update())).first()
    if row is None:
        await tx.execute(insert(billing_cursor).values(id=1, closed_version=-1, allocation_id=""))
        return BEGINNING
    return Place(row.closed_version, row.allocation_id)


async def write_place(tx: Tx, place: Place) -> None:
    """Move on."""
    values = {"closed_version": place.closed_version, "allocation_id": place.allocation_id}
    await tx.execute(update(billing_cursor).where(billing_cursor.c.id == 1).values(values))


async def insert_charges(tx: Tx, rows: Sequence[tuple[str, Charge]], currency: str) -> None:
    """Record charges, each with its identifier."""
    if rows:
        await tx.execute(insert(charges), [_charge_values(id, charge, currency, tx.now) for id, charge in rows])


async def sums(tx: Tx, project_id: str, period: str) -> list[Quantity]:
    """Return the recorded quantities of a project and month, added up as far as the database can do so exactly.

    Times are added for each amount; the product of both can be more than 64 bits and is made here.
    """
    c = charges.c
    duration = func.sum(type_coerce(c.charge_period_end, BigInteger) - type_coerce(c.charge_period_start, BigInteger))
    groups = [c.sku_id, c.resource, c.vendor, c.model, c.unit_price, c.price_id, c.simulated, c.amount]
    query = select(*groups, duration).where(c.project_id == project_id, c.billing_period == period).group_by(*groups)
    rows: Sequence[Any] = (await tx.execute(query)).all()
    return [
        Quantity(
            LineKey(sku, Resource(resource), vendor, model, unit_price, price_id, simulated),
            amount * int(micros),
            provisional=False,
        )
        for sku, resource, vendor, model, unit_price, price_id, simulated, amount, micros in rows
    ]


async def charged_projects(tx: Tx, period: str) -> list[str]:
    """Return the projects with charges in a month."""
    query = select(charges.c.project_id).where(charges.c.billing_period == period).distinct()
    return list((await tx.execute(query)).scalars())


async def find_charges(
    tx: Tx, *, project_ids: Sequence[str] | None, period: str | None, job_id: str | None, after: str, limit: int
) -> list[StoredCharge]:
    """Return charges in the order in which they were recorded."""
    query = select(charges).where(charges.c.id > after).order_by(charges.c.id).limit(limit)
    if project_ids is not None:
        query = query.where(charges.c.project_id.in_(project_ids))
    if period is not None:
        query = query.where(charges.c.billing_period == period)
    if job_id is not None:
        query = query.where(charges.c.job_id == job_id)
    return [_stored(row) for row in await tx.execute(query)]


async def charge_pages(tx: Tx, *, page: int = 20_000) -> AsyncIterator[Sequence[Any]]:
    """Yield all charges as raw (id, allocation id, resource, amount, start, end), a page at a time."""
    c = charges.c
    query = select(
        c.id, c.allocation_id, c.resource, c.amount, type_coerce(c.charge_period_start, BigInteger),
        type_coerce(c.charge_period_end, BigInteger),
    ).order_by(c.id).limit(page)  # fmt: skip
    after = ""
    while rows := (await tx.execute(query.where(c.id > after))).all():
        yield rows
        after = rows[-1][0]


async def repriced(tx: Tx, limit: int = 100) -> list[str]:
    """Return charges whose unit price is not the one of the price they name."""
    c = charges.c
    query = (
        select(c.id)
        .join(prices, prices.c.id == c.price_id, isouter=True)
        .where(c.price_id != "", (prices.c.id.is_(None)) | (prices.c.unit_price != c.unit_price))
        .order_by(c.id)
        .limit(limit)
    )
    return list((await tx.execute(query)).scalars())


_PLACE = select(billing_cursor.c.closed_version, billing_cursor.c.allocation_id)


def _price(row: Any) -> Price:
    values = dict(row._mapping)
    return Price(**{**values, "resource": Resource(row.resource)})


def _stored(row: Any) -> StoredCharge:
    values = dict(row._mapping)
    return StoredCharge(**{**values, "resource": Resource(row.resource)})


def _charge_values(id: str, charge: Charge, currency: str, now: datetime) -> dict[str, Any]:
    segment, price = charge.segment, charge.price
    return {
        "id": id, "allocation_id": segment.allocation_id, "project_id": segment.project_id, "job_id": segment.job_id,
        "billing_period": charge.period, "resource": segment.resource,
        "sku_id": price.sku_id if price else f"unpriced-{segment.resource}", "price_id": price.id if price else "",
        "unit_price": price.unit_price if price else Decimal(0), "currency": price.currency if price else currency,
        "vendor": segment.vendor, "model": segment.model, "simulated": segment.simulated, "amount": segment.amount,
        "charge_period_start": from_micros(charge.start), "charge_period_end": from_micros(charge.end),
        "created_at": now,
    }  # fmt: skip
