"""Quotes: what is quoted is what is billed when the work holds just that for just so long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.billing.domain import (
    Amount,
    Calendar,
    PriceList,
    Quantity,
    Resource,
    Segment,
    line_key,
    lines,
    quote,
    rate,
)
from dujiang.billing.domain.bills import sum_of
from dujiang.engines.contract import AttemptKey
from dujiang.kit.clock import to_micros
from dujiang.kit.money import Money
from tests.billing.test_domain import a_price
from tests.billing.test_service import billed
from tests.pool.worlds import GIB, a_grant, a_rank

NOW = datetime(2026, 1, 31, 23, tzinfo=UTC)


def cny(amount: str) -> Money:
    return Money(Decimal(amount), "CNY")


def test_an_hour_and_all_the_time_it_may_take() -> None:
    prices = PriceList([a_price("h100", "20", vendor="nvidia", model="H100"), a_price("any", "10", number=1)])
    amounts = [Amount(Resource.GPU, 2000, "nvidia", "H100"), Amount(Resource.GPU, 500, "amd", "MI300X")]
    told = quote(amounts, prices, Calendar(), currency="CNY", start=NOW, limit_s=1800.0)
    assert (told.per_hour, told.total, told.unpriced) == (cny("45.00"), cny("22.50"), ())
    assert [(line.key.sku_id, line.cost) for line in told.hour] == [("any", cny("5.00")), ("h100", cny("40.00"))]
    endless = quote(amounts, prices, Calendar(), currency="CNY", start=NOW, limit_s=None)
    assert (endless.per_hour, endless.total) == (cny("45.00"), None)


def test_a_price_that_is_set_for_later_counts_from_then_on() -> None:
    later = to_micros(NOW + timedelta(hours=1))
    prices = PriceList([a_price(price="10"), a_price(price="30", since=later, number=1)])
    told = quote([Amount(Resource.GPU, 1000)], prices, Calendar(), currency="CNY", start=NOW, limit_s=7200.0)
    assert (told.per_hour, told.total) == (cny("10.00"), cny("40.00"))


def test_what_has_no_price_is_said() -> None:
    told = quote([Amount(Resource.CPU, 1000)], PriceList([a_price()]), Calendar(), currency="CNY", start=NOW, limit_s=9)
    assert (told.per_hour, told.total, told.unpriced) == (cny("0.00"), cny("0.00"), ("unpriced-cpu",))


@given(
    st.lists(st.tuples(st.sampled_from(list(Resource)), st.integers(0, 2**40)), max_size=5), st.integers(1, 10**7),
    st.decimals(0, 1000, places=4),
)  # fmt: skip
@settings(max_examples=100)
def test_a_quote_is_the_bill_of_the_same_usage(held: list[tuple[Resource, int]], seconds: int, price: Decimal) -> None:
    prices = PriceList([a_price(str(each), str(price), resource=each) for each in Resource])
    amounts = [Amount(resource, amount, "v", "m") for resource, amount in held]
    told = quote(amounts, prices, Calendar(), currency="CNY", start=NOW, limit_s=float(seconds))
    start = to_micros(NOW)
    used = [
        Segment(f"alc_{n}", "prj_a", "job_1", resource, amount, "v", "m", False, start, start + seconds * 10**6)
        for n, (resource, amount) in enumerate(held)
    ]
    charges = [charge for segment in used for charge in rate(segment, prices, Calendar())]
    billed_lines = lines([Quantity(line_key(charge), charge.quantity, False) for charge in charges], "CNY")
    assert told.total == sum_of(billed_lines, "CNY")


async def test_what_was_quoted_is_on_the_bill() -> None:
    async with billed() as (w, billing):
        rank = a_rank(shares={0: 500}, device_memory_bytes=40 * GIB, cpu_milli=2000, memory_bytes=8 * GIB)
        async with w.db.transaction() as tx:
            await w.pool.allocate_many(tx, [a_grant("job_1", rank)])
        amounts = [
            Amount(Resource.GPU, 500, "nvidia", "H100"), Amount(Resource.GPU_MEMORY, 40 * GIB, "nvidia", "H100"),
            Amount(Resource.CPU, 2000), Amount(Resource.MEMORY, 8 * GIB),
        ]  # fmt: skip
        async with w.db.reading() as tx:
            told = await billing.quote(tx, amounts, 1234.5)
        w.clock.advance(1234.5)
        async with w.db.transaction() as tx:
            await w.pool.release(tx, AttemptKey("job_1", 1))
        async with w.db.reading() as tx:
            bill = await billing.bill(tx, "prj_a", "2026-01")
        assert told.total == bill.total + bill.simulated_total
        assert bill.total.amount > 0 or bill.simulated_total.amount > 0
