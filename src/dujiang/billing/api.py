"""Routes of billing: the price list, bills, charges, and the proof that charges and ledger are the same."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from dujiang.billing.domain.prices import BadPrice
from dujiang.billing.focus import to_csv
from dujiang.billing.schemas import (
    BillOut,
    ChargeOut,
    PriceIn,
    PriceOut,
    VerdictOut,
    bill_out,
    charge_out,
    price_out,
    verdict_out,
)
from dujiang.billing.service import BillingService
from dujiang.kit.db import Tx
from dujiang.kit.http import Page, Paged, Paging, json_response
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.BILL_READ))]
Month = Annotated[str | None, Query(max_length=7, description="`YYYY-MM`; the current one when left out.")]
ProjectRef = Annotated[str | None, Query(max_length=63, description="Name or id of a project.")]


class Form(StrEnum):
    """How bills are answered."""

    JSON = "json"
    CSV = "csv"


def router(billing: BillingService, tenancy: Tenancy) -> APIRouter:
    """Return billing's routes."""
    routes = APIRouter(prefix="/v1", tags=["billing"])
    _prices(routes, billing)
    _bills(routes, billing, tenancy)
    _charges(routes, billing, tenancy)
    return routes


def _prices(routes: APIRouter, billing: BillingService) -> None:
    @routes.get("/prices")
    async def list_prices(caller: Reader, paging: Paged) -> Page[PriceOut]:
        """List all prices, past and future too, in the order in which they were made."""
        after = paging.after(str)
        async with caller.reading() as tx:
            prices = (await billing.prices(tx)).prices
        rows = [price for price in prices if after is None or price.id > after[0]]
        kept, next_cursor = paging.page(rows, lambda price: [price.id])
        return Page(items=[price_out(price) for price in kept], next_cursor=next_cursor)

    @routes.post("/prices", status_code=201, response_model=PriceOut)
    async def set_price(caller: Annotated[Caller, Depends(needs(Permission.PRICE_MANAGE))], body: PriceIn) -> Response:
        """Add a price that applies from a time on; what was used before stays as it was charged."""
        if body.effective_from is not None and body.effective_from.tzinfo is None:
            raise BadPrice("The time needs its zone: write 2026-02-01T00:00:00Z.")

        async def make(tx: Tx) -> PriceOut:
            price = await billing.set_price(
                tx, sku_id=body.sku_id, resource=body.resource, unit_price=body.unit_price, vendor=body.vendor,
                model=body.model, currency=body.currency, effective_from=body.effective_from,
            )  # fmt: skip
            return price_out(price)

        return await caller.once(make)


def _bills(routes: APIRouter, billing: BillingService, tenancy: Tenancy) -> None:
    @routes.get(
        "/bills",
        response_model=Page[BillOut],
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    async def list_bills(
        caller: Reader,
        paging: Paged,
        project: ProjectRef = None,
        month: Month = None,
        form: Annotated[Form | None, Query(description="`csv` as `Accept: text/csv`.")] = None,
    ) -> Response:
        """Give the bill of a project and month, or of every project that the caller may see and that used something.

        As `text/csv` it has the column names of FOCUS, one row a line; then `limit` counts bills, not rows.
        """
        async with caller.reading() as tx:
            bills, next_cursor = await _chosen(caller, tx, billing, tenancy, paging, project, month)
        if form is Form.CSV or (form is None and "text/csv" in caller.request.headers.get("accept", "")):
            headers = {"Content-Disposition": 'attachment; filename="bills.csv"'}
            if next_cursor:
                headers["X-Next-Cursor"] = next_cursor
            return Response(to_csv(bills), media_type="text/csv", headers=headers)
        return json_response(Page[BillOut](items=bills, next_cursor=next_cursor))

    @routes.get("/bills/verify")
    async def verify_bills(
        caller: Annotated[Caller, Depends(needs(Permission.PLATFORM_VERIFY))],
    ) -> VerdictOut:
        """Prove that what was charged is what the ledger says, row by row, and name what is not."""
        async with caller.reading() as tx:
            return verdict_out(await billing.verify(tx))


def _charges(routes: APIRouter, billing: BillingService, tenancy: Tenancy) -> None:
    @routes.get("/charges")
    async def list_charges(
        caller: Reader,
        paging: Paged,
        project: ProjectRef = None,
        month: Annotated[str | None, Query(max_length=7, description="`YYYY-MM`; all when left out.")] = None,
        job: Annotated[str | None, Query(max_length=64, description="Identifier of the job.")] = None,
    ) -> Page[ChargeOut]:
        """List recorded charges in the order in which they were made; each names its row of the ledger."""
        after = paging.after(str)
        reach = caller.reach(Permission.BILL_READ)
        async with caller.reading() as tx:
            ids = None if reach is None else sorted(reach)
            if project is not None:
                ids = [(await tenancy.project_for(tx, caller.principal, project, Permission.BILL_READ)).id]
            rows = await billing.charges(
                tx, project_ids=ids, period=month, job_id=job, after=after[0] if after else "", limit=paging.limit + 1
            )
        kept, next_cursor = paging.page(rows, lambda row: [row.id])
        return Page(items=[charge_out(row) for row in kept], next_cursor=next_cursor)


async def _chosen(
    caller: Caller, tx: Tx, billing: BillingService, tenancy: Tenancy, paging: Paging, project: str | None,
    month: str | None,
) -> tuple[list[BillOut], str | None]:  # fmt: skip
    if project is not None:
        found = await tenancy.project_for(tx, caller.principal, project, Permission.BILL_READ)
        return [bill_out(await billing.bill(tx, found.id, month), found.name)], None
    after = paging.after(str)
    reach = caller.reach(Permission.BILL_READ)
    ids = [
        project_id
        for project_id in await billing.billed_projects(tx, month)
        if (reach is None or project_id in reach) and (after is None or project_id > after[0])
    ]
    kept, next_cursor = paging.page(ids, lambda project_id: [project_id])
    known = await tenancy.projects(tx, ids=kept, archived=True, limit=len(kept) or 1)
    names = {each.id: each.name for each in known}
    bills = [bill_out(await billing.bill(tx, project_id, month), names.get(project_id, "")) for project_id in kept]
    return bills, next_cursor
