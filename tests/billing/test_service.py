"""Billing on a real database, from the ledger to the bill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from dujiang.billing.domain import PER_UNIT, BadPrice, Resource
from dujiang.billing.service import BillingService, BillingSettings
from dujiang.billing.store import charges
from dujiang.engines.contract import AttemptKey
from dujiang.kit.clock import MICROSECOND, to_micros
from dujiang.kit.errors import Conflict, DujiangError, Invalid
from dujiang.pool.store import allocations
from tests.pool.worlds import GIB, World, a_grant, a_node, a_rank, world


@asynccontextmanager
async def billed(time_zone: str = "UTC") -> AsyncIterator[tuple[World, BillingService]]:
    async with world() as w:
        billing = BillingService(w.ids, w.pool, BillingSettings(time_zone=time_zone))
        await w.sync(a_node(devices=2))
        async with w.db.transaction() as tx:
            assert await billing.install_defaults(tx)
            assert not await billing.install_defaults(tx)
        yield w, billing


async def _run(w: World, job: str, seconds: float, **rank: Any) -> None:
    async with w.db.transaction() as tx:
        await w.pool.allocate_many(tx, [a_grant(job, a_rank(**rank))])
    w.clock.advance(seconds)
    async with w.db.transaction() as tx:
        await w.pool.release(tx, AttemptKey(job, 1))


async def _rate_all(w: World, billing: BillingService, limit: int = 1000) -> int:
    made = 0
    while True:
        async with w.db.transaction() as tx:
            report = await billing.rate_closed(tx, limit)
        made += report.charges
        if not report.more:
            return made


async def test_from_the_ledger_to_the_bill() -> None:
    async with billed() as (w, billing):
        await _run(
            w, "job_1", 3600, shares={0: 500}, device_memory_bytes=40 * GIB, cpu_milli=2000, memory_bytes=8 * GIB
        )
        async with w.db.reading() as tx:
            before = await billing.bill(tx, "prj_a", "2026-01")
            assert all(line.provisional_quantity == line.quantity for line in before.lines)
        await _rate_all(w, billing)
        async with w.db.reading() as tx:
            bill = await billing.bill(tx, "prj_a", "2026-01")
            found = {line.key.sku_id: (line.consumed_quantity, str(line.cost.amount)) for line in bill.lines}
            assert found == {
                "cpu": (2, "0.40"), "gpu": (Decimal("0.5"), "5.00"), "gpu-memory": (40, "0.00"), "memory": (8, "0.16"),
            }  # fmt: skip
            assert str(bill.total) == "5.56 CNY" == str(before.total)
            assert all(line.provisional_quantity == 0 for line in bill.lines)
            assert (await billing.bill(tx, "prj_b")).lines == ()
            assert await billing.billed_projects(tx) == ["prj_a"]
            verdict = await billing.verify(tx)
            assert verdict.holds
            assert {each.resource: each.ledger_quantity for each in verdict.identities}[Resource.GPU] == (
                PER_UNIT[Resource.GPU] // 2
            )


async def test_what_still_runs_is_billed_up_to_now_as_provisional() -> None:
    async with billed() as (w, billing):
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", a_rank(shares={0: 1000}, memory_bytes=0, cpu_milli=0))])
        w.clock.advance(1800)
        async with w.db.reading() as tx:
            (line,) = (bill := await billing.bill(tx, "prj_a")).lines
            assert (str(line.cost), line.provisional_quantity, bill.provisional) == ("5.00 CNY", line.quantity, True)


async def test_a_run_over_new_year_is_on_both_bills_and_the_price_change_is_a_line() -> None:
    async with billed("Asia/Shanghai") as (w, billing):
        w.clock.advance((datetime(2026, 1, 31, 15, tzinfo=UTC) - w.clock.now()).total_seconds())  # 23:00 in Shanghai
        async with w.db.transaction(actor="user:usr_1") as tx:
            await billing.set_price(
                tx, sku_id="gpu", resource=Resource.GPU, unit_price=Decimal("20"),
                effective_from=datetime(2026, 1, 31, 17, tzinfo=UTC),
            )  # fmt: skip
        await _run(w, "job_1", 3 * 3600, shares={0: 1000}, cpu_milli=0, memory_bytes=0)
        await _rate_all(w, billing)
        async with w.db.reading() as tx:
            january, february = [await billing.bill(tx, "prj_a", month) for month in ("2026-01", "2026-02")]
            assert [str(line.cost.amount) for line in january.lines] == ["10.00"]
            assert [str(line.cost.amount) for line in february.lines] == ["10.00", "20.00"]
            assert january.starts_at == datetime(2025, 12, 31, 16, tzinfo=UTC)
            assert not january.provisional


async def test_rating_again_in_batches_of_any_size_charges_nothing_twice() -> None:
    async with billed() as (w, billing):
        for number in range(7):
            await _run(w, f"job_{number}", 10)
        assert await _rate_all(w, billing, limit=3) == 14
        assert await _rate_all(w, billing, limit=3) == 0
        async with w.db.reading() as tx:
            assert (await billing.verify(tx)).holds


async def test_a_crash_between_rating_and_commit_leaves_nothing_and_loses_nothing() -> None:
    async with billed() as (w, billing):
        await _run(w, "job_1", 10)

        async def crash() -> None:
            async with w.db.transaction() as tx:
                await billing.rate_closed(tx)
                raise LookupError

        for _ in range(2):
            with pytest.raises(LookupError):
                await crash()
        async with w.db.reading() as tx:
            verdict = await billing.verify(tx)
            assert (verdict.holds, verdict.charges, verdict.waiting) == (True, 0, 1)
        await _rate_all(w, billing)
        async with w.db.reading() as tx:
            verdict = await billing.verify(tx)
            assert (verdict.holds, verdict.charges, verdict.waiting) == (True, 2, 0)


async def test_a_row_closed_late_with_an_early_end_is_charged_all_the_same() -> None:
    async with billed() as (w, billing):
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_early"), a_grant("job_late")])
        early = w.clock.now()
        w.clock.advance(100)
        async with w.db.transaction() as tx:
            await w.pool.release(tx, AttemptKey("job_late", 1))
        await _rate_all(w, billing)
        async with w.db.transaction() as tx:
            await w.pool.release(tx, AttemptKey("job_early", 1), early.replace(microsecond=7))
        assert await _rate_all(w, billing) == 2
        async with w.db.reading() as tx:
            assert (await billing.verify(tx)).holds


GPU = charges.c.resource == "gpu"


@pytest.mark.parametrize(
    "tamper",
    [
        lambda row: delete(charges).where(GPU),
        lambda row: update(charges).where(GPU).values(amount=501),
        lambda row: update(charges).where(GPU).values(charge_period_end=row["charge_period_end"] + MICROSECOND),
        lambda row: update(charges).where(GPU).values(unit_price=Decimal("0.01")),
        lambda row: update(charges).where(GPU).values(resource="disk"),
        lambda row: insert(charges).values({**row, "id": "chg_more", "allocation_id": "alc_none"}),
        lambda row: insert(charges).values(
            {**row, "id": "chg_more", "charge_period_start": row["charge_period_start"] + MICROSECOND}
        ),
        lambda row: update(allocations).values(gpu_milli=499).where(allocations.c.gpu_milli > 0),
        lambda row: delete(allocations).where(allocations.c.gpu_milli > 0),
    ],
)
async def test_whatever_is_changed_afterwards_is_found(tamper: Any) -> None:
    async with billed() as (w, billing):
        await _run(w, "job_1", 3600, shares={0: 500})
        await _run(w, "job_2", 3600, shares={1: 250})
        await _rate_all(w, billing)
        async with w.db.transaction() as tx:
            assert (await billing.verify(tx)).holds
            row = (await tx.execute(select(charges).where(charges.c.resource == "gpu").limit(1))).mappings().one()
            await tx.execute(tamper(dict(row)))
        async with w.db.reading() as tx:
            verdict = await billing.verify(tx)
            assert not verdict.holds
            assert verdict.offences
            assert all(each.allocation_id or each.charge_ids for each in verdict.offences)


async def test_simulated_nodes_are_billed_apart() -> None:
    async with world() as w:
        billing = BillingService(w.ids, w.pool)
        await w.sync(a_node(devices=1), simulated=True)
        async with w.db.transaction() as tx:
            await billing.install_defaults(tx)
        await _run(w, "job_1", 3600, shares={0: 1000}, cpu_milli=0, memory_bytes=0)
        async with w.db.reading() as tx:
            bill = await billing.bill(tx, "prj_a")
            assert (str(bill.total), str(bill.simulated_total)) == ("0.00 CNY", "10.00 CNY")


async def test_prices_of_the_past_in_other_money_or_twice_are_refused() -> None:
    async with billed() as (w, billing):
        w.clock.advance(60)

        async def set_gpu(**more: Any) -> None:
            async with w.db.transaction() as tx:
                await billing.set_price(tx, sku_id="gpu", resource=Resource.GPU, unit_price=Decimal(1), **more)

        with pytest.raises(BadPrice):
            await set_gpu(effective_from=datetime(2026, 1, 1, tzinfo=UTC))
        with pytest.raises(BadPrice):
            await set_gpu(currency="USD")
        await set_gpu()
        with pytest.raises(Conflict):
            await set_gpu()
        with pytest.raises(BadPrice):
            async with w.db.transaction() as tx:
                await billing.set_price(tx, sku_id="unpriced-x", resource=Resource.CPU, unit_price=Decimal(1))


def test_an_unknown_time_zone_is_said_clearly() -> None:
    with pytest.raises(Invalid, match="Mars"):
        BillingService(None, None, BillingSettings(time_zone="Mars/Olympus"))  # type: ignore[arg-type]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.integers(0, 9), st.integers(1, 1000)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(-100, 100)),
        st.tuples(st.just("wait"), st.integers(1, 20 * 86400), st.just(0)),
        st.tuples(st.just("rate"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("price"), st.integers(0, 30), st.integers(0, 40 * 86400)),
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_whatever_happens_bills_charges_and_ledger_are_the_same(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int, int]]) -> None:
    async with billed("Europe/Berlin") as (w, billing):
        for step in steps:
            try:
                await _do(w, billing, *step)
            except (DujiangError, LookupError):
                continue
        async with w.db.reading() as tx:
            provisional = await _bills(w, billing, tx)
            assert (await billing.verify(tx)).holds
            now = to_micros(w.clock.now())
            rows = (await tx.execute(select(allocations))).all()
            held = {Resource.GPU: 0, Resource.CPU: 0, Resource.MEMORY: 0}
            for row in rows:
                length = max(now, to_micros(row.started_at)) if row.ended_at is None else to_micros(row.ended_at)
                length -= to_micros(row.started_at)
                held[Resource.GPU] += row.gpu_milli * length
                held[Resource.CPU] += row.cpu_milli * length
                held[Resource.MEMORY] += row.memory_bytes * length
        assert {each: provisional.get(each, (0, 0))[0] for each in held} == held
        await _rate_all(w, billing, limit=5)
        async with w.db.reading() as tx:
            verdict = await billing.verify(tx)
            assert verdict.holds
            assert verdict.waiting == 0
            assert await _bills(w, billing, tx) == provisional  # recording a charge changes no bill


async def _bills(w: World, billing: BillingService, tx: Any) -> dict[Resource, tuple[int, Decimal]]:
    """Add up quantities and costs of all months that the world has seen."""
    found: dict[Resource, tuple[int, Decimal]] = {}
    year, month = 2025, 12
    while (year, month) <= (2028, 1):
        for line in (await billing.bill(tx, "prj_a", f"{year}-{month:02d}")).lines:
            quantity, cost = found.get(line.key.resource, (0, Decimal(0)))
            found[line.key.resource] = (quantity + line.quantity, cost + line.cost.amount)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return found


async def _do(w: World, billing: BillingService, what: str, first: int, second: int) -> None:
    async with w.db.transaction() as tx:
        match what:
            case "start":
                await w.pool.allocate_many(tx, [a_grant(f"job_{first}", a_rank(shares={first % 2: second}))])
            case "end":
                moment = w.clock.now().timestamp() + second
                await w.pool.release(tx, AttemptKey(f"job_{first}", 1), datetime.fromtimestamp(moment, UTC))
            case "wait":
                w.clock.advance(first)
            case "rate":
                await billing.rate_closed(tx, first)
                if second:
                    raise LookupError  # a crash before the commit
            case "price":
                moment = w.clock.now().timestamp() + second
                await billing.set_price(
                    tx, sku_id="gpu", resource=Resource.GPU, unit_price=Decimal(first) / 7 // Decimal("0.0001"),
                    effective_from=datetime.fromtimestamp(moment, UTC),
                )  # fmt: skip
