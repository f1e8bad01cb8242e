"""Billing's routes, asked over HTTP."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from dujiang.billing import api
from dujiang.billing.service import BillingService
from dujiang.engines.contract import AttemptKey
from tests.pool.served import as_, serving
from tests.pool.worlds import World, a_grant, a_node, a_rank, world


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """Serve billing's routes of a world in which two projects ran an hour each."""
    async with world() as w:
        billing = BillingService(w.ids, w.pool)
        async with serving(w, lambda tenancy: api.router(billing, tenancy)) as client:
            await w.sync(a_node(devices=2))
            ranks = (a_rank(shares={0: 1000}), a_rank(shares={1: 500}))
            async with w.db.transaction() as tx:
                await billing.install_defaults(tx)
                for name, rank in zip("ab", ranks, strict=True):
                    await w.pool.allocate_many(tx, [a_grant(f"job_{name}", rank, project=w.projects[name])])
            w.clock.advance(3600)
            async with w.db.transaction() as tx:
                await w.pool.release_many(tx, [(AttemptKey(f"job_{name}", 1), None) for name in "ab"])
            async with w.db.transaction() as tx:
                await billing.rate_closed(tx)
            yield w, client


async def test_bills_add_up_and_a_tenant_sees_their_own() -> None:
    async with asking() as (_, client):
        bills = (await client.get("/v1/bills?month=2026-01", headers=as_("auditor"))).json()["items"]
        assert sorted((bill["project"], bill["billed_cost"]) for bill in bills) == [("a", "10.22"), ("b", "5.22")]
        (own,) = (await client.get("/v1/bills", headers=as_("member"))).json()["items"]
        assert own["project"] == "a"
        assert (own["billing_currency"], own["provisional"], own["unpriced"]) == ("CNY", True, [])
        gpu = next(line for line in own["lines"] if line["sku_id"] == "gpu")
        assert (gpu["consumed_quantity"], gpu["consumed_unit"], gpu["quantity"]) == (
            "1.0000000000", "gpu-hour", str(1000 * 3600 * 10**6),
        )  # fmt: skip
        assert (await client.get("/v1/bills?project=b", headers=as_("member"))).status_code == 404
        assert (await client.get("/v1/bills?project=b", headers=as_("stranger"))).json()["items"][0]["project"] == "b"
        assert (await client.get("/v1/bills?month=2026-13", headers=as_("member"))).status_code == 422
        assert (await client.get("/v1/bills", headers=as_("operator"))).status_code == 403


async def test_bills_are_paged() -> None:
    async with asking() as (_, client):
        first = (await client.get("/v1/bills?limit=1", headers=as_("auditor"))).json()
        rest = (await client.get(f"/v1/bills?limit=1&cursor={first['next_cursor']}", headers=as_("auditor"))).json()
        assert [bill["project"] for bill in first["items"] + rest["items"]] == ["a", "b"]
        assert rest["next_cursor"] is None


async def test_a_bill_as_text_has_the_columns_of_focus() -> None:
    async with asking() as (_, client):
        for answer in (
            await client.get("/v1/bills?project=a", headers={**as_("member"), "Accept": "text/csv"}),
            await client.get("/v1/bills?project=a&form=csv", headers=as_("member")),
        ):
            assert answer.headers["content-type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(answer.text)))
            assert {row["SkuId"]: row["BilledCost"] for row in rows} == {
                "cpu": "0.20",
                "gpu": "10.00",
                "memory": "0.02",
            }
            assert {row["BillingPeriodStart"] for row in rows} == {"2026-01-01T00:00:00Z"}
            assert {row["ChargeCategory"] for row in rows} == {"Usage"}
            assert {row["SubAccountName"] for row in rows} == {"a"}


async def test_charges_name_their_row_of_the_ledger_page_by_page() -> None:
    async with asking() as (w, client):
        async with w.db.reading() as tx:
            rows = {row.id for row in await w.pool.of_jobs(tx, ["job_a"])}
        seen: list[dict[str, str]] = []
        query = "limit=1"
        while True:
            page = (await client.get(f"/v1/charges?{query}", headers=as_("member"))).json()
            seen += page["items"]
            if page["next_cursor"] is None:
                break
            query = f"limit=1&cursor={page['next_cursor']}"
        assert len(seen) == 3
        assert {charge["allocation_id"] for charge in seen} == rows
        assert {charge["job_id"] for charge in seen} == {"job_a"}
        assert {charge["resource"]: charge["billed_cost"] for charge in seen}["gpu"] == "10.0000000000"
        assert (await client.get("/v1/charges?project=b", headers=as_("member"))).status_code == 404
        assert (await client.get("/v1/charges?job=job_b", headers=as_("member"))).json()["items"] == []
        assert (await client.get("/v1/charges?month=x", headers=as_("member"))).status_code == 422


async def test_prices_are_set_by_who_may_and_never_for_the_past() -> None:
    async with asking() as (_, client):
        body = {"sku_id": "gpu-h100", "resource": "gpu", "vendor": "nvidia", "model": "H100", "unit_price": "21.5"}
        assert (await client.post("/v1/prices", json=body, headers=as_("member"))).status_code == 403
        made = await client.post("/v1/prices", json=body, headers=as_("manager"))
        assert made.status_code == 201
        assert (made.json()["unit_price"], made.json()["currency"], made.json()["created_by"]) == (
            "21.5", "CNY", "user:usr_g",
        )  # fmt: skip
        listed = (await client.get("/v1/prices", headers=as_("member"))).json()["items"]
        assert [price["sku_id"] for price in listed] == ["gpu", "gpu-memory", "cpu", "memory", "disk", "gpu-h100"]
        for wrong in (
            {"effective_from": "2025-01-01T00:00:00Z"},
            {"effective_from": "2027-01-01T00:00:00"},
            {"sku_id": "=1+1"},
            {"unit_price": "-1"},
            {"unit_price": "NaN"},
            {"unit_price": "1e400"},
            {"resource": "love"},
        ):
            refused = await client.post("/v1/prices", json={**body, **wrong}, headers=as_("manager"))
            assert refused.status_code == 422, wrong


async def test_the_proof_is_for_who_verifies_the_platform() -> None:
    async with asking() as (_, client):
        assert (await client.get("/v1/bills/verify", headers=as_("member"))).status_code == 403
        verdict = (await client.get("/v1/bills/verify", headers=as_("auditor"))).json()
        assert (verdict["holds"], verdict["rows"], verdict["charges"]) == (True, 4, 6)
        assert {each["difference"] for each in verdict["identities"]} == {"0"}
