"""Prices, rating and bills: named cases, and what must hold for any usage and any price list."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.billing.domain import (
    PER_UNIT,
    BadMonth,
    BadPrice,
    Calendar,
    Price,
    PriceList,
    Quantity,
    Resource,
    Segment,
    SkuTaken,
    line_key,
    lines,
    rate,
)
from dujiang.billing.domain.bills import rounded
from dujiang.billing.focus import safe
from dujiang.kit.clock import EPOCH, from_micros, to_micros

HOUR = 3600 * 10**6
START = to_micros(datetime(2026, 1, 1, tzinfo=UTC))


def a_price(
    sku: str = "gpu", price: str = "10", *, resource: Resource = Resource.GPU, vendor: str = "", model: str = "",
    since: int = 0, number: int = 0,
) -> Price:  # fmt: skip
    return Price(
        f"prc_{number}", sku, resource, vendor, model, Decimal(price), "CNY", from_micros(since), EPOCH, "user:usr_1"
    )


def a_segment(
    start: int, end: int, *, amount: int = 1000, resource: Resource = Resource.GPU, model: str = "H100",
    allocation: str = "alc_1",
) -> Segment:  # fmt: skip
    return Segment(allocation, "prj_a", "job_1", resource, amount, "nvidia", model, False, start, end)


def _total(segments: list[Segment], prices: PriceList, calendar: Calendar) -> Fraction:
    charges = [charge for segment in segments for charge in rate(segment, prices, calendar)]
    return sum(
        (
            Fraction(charge.price.unit_price if charge.price else 0) * charge.quantity / PER_UNIT[Resource.GPU]
            for charge in charges
        ),
        Fraction(0),
    )


@pytest.mark.parametrize(
    ("expected", "usage"),
    [("4", ("nvidia", "H100")), ("3", ("nvidia", "A100")), ("2", ("amd", "H100")), ("1", ("amd", "MI300X"))],
)
def test_the_most_exact_price_counts(expected: str, usage: tuple[str, str]) -> None:
    prices = PriceList(
        [
            a_price("any", "1"),
            a_price("h100", "2", model="H100"),
            a_price("nvidia", "3", vendor="nvidia"),
            a_price("nvidia-h100", "4", vendor="nvidia", model="H100"),
        ]
    )
    ((_, price),) = prices.timeline(Resource.GPU, *usage)
    assert price.unit_price == Decimal(expected)


def test_a_more_exact_price_counts_from_when_it_is_in_effect_and_stays() -> None:
    prices = PriceList(
        [
            a_price("gpu", "1", number=1),
            a_price("h100", "5", model="H100", since=START + HOUR, number=2),
            a_price("gpu", "2", since=START + 2 * HOUR, number=3),
        ]
    )
    charges = rate(a_segment(START, START + 3 * HOUR), prices, Calendar())
    assert [(charge.end - charge.start, str(charge.price and charge.price.unit_price)) for charge in charges] == [
        (HOUR, "1"), (2 * HOUR, "5"),
    ]  # fmt: skip


def test_usage_without_a_price_is_charged_at_nothing_and_listed() -> None:
    prices = PriceList([a_price(since=START + HOUR)])
    charges = rate(a_segment(START, START + 2 * HOUR), prices, Calendar())
    made = lines([Quantity(line_key(charge), charge.quantity, False) for charge in charges], "CNY")
    assert [(line.key.sku_id, line.unpriced, str(line.cost)) for line in made] == [
        ("gpu", False, "10.00 CNY"), ("unpriced-gpu", True, "0.00 CNY"),
    ]  # fmt: skip
    assert sum(line.quantity for line in made) == 1000 * 2 * HOUR


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [
        ("UTC", "2026-02", 28 * 24),
        ("Asia/Shanghai", "2026-02", 28 * 24),
        ("Europe/Berlin", "2026-03", 31 * 24 - 1),  # clocks go forward
        ("Europe/Berlin", "2026-10", 31 * 24 + 1),
        ("America/Asuncion", "2017-10", 31 * 24 - 1),  # the month's first midnight does not exist
    ],
)
def test_months_are_those_of_the_time_zone(zone: str, month: str, hours: int) -> None:
    calendar = Calendar(ZoneInfo(zone))
    start, end = calendar.bounds(month)
    assert end - start == hours * HOUR
    around = list(calendar.cut(start - HOUR, end + HOUR))
    assert [piece[1] - piece[0] for piece in around] == [HOUR, hours * HOUR, HOUR]
    assert around[1][2] == month


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "26-01", "2026-1", "0000-01", "２０２６-01"])
def test_what_is_not_a_month_is_refused(text: str) -> None:
    with pytest.raises(BadMonth):
        Calendar().bounds(text)


@pytest.mark.parametrize(
    ("cost", "currency", "expected"),
    [
        (Fraction(5, 1000), "CNY", "0.01"),
        (Fraction(4999999, 10**9), "CNY", "0.00"),
        (Fraction(1, 3), "CNY", "0.33"),
        (Fraction(2, 3), "CNY", "0.67"),
        (Fraction(5, 10), "JPY", "1"),
        (Fraction(5, 10**4), "KWD", "0.001"),
        (Fraction(0), "CNY", "0.00"),
    ],
)
def test_costs_are_rounded_half_up_to_the_smallest_unit(cost: Fraction, currency: str, expected: str) -> None:
    assert str(rounded(cost, currency)) == f"{expected} {currency}"


NOW = from_micros(START)


@pytest.mark.parametrize(
    ("error", "price"),
    [
        (BadPrice, a_price(since=START - 1)),
        (BadPrice, a_price(price="-1", since=START)),
        (BadPrice, a_price(price="NaN", since=START)),
        (BadPrice, a_price(price="1E+13", since=START)),
        (BadPrice, a_price(price="0.0000000000001", since=START)),
        (BadPrice, a_price("cpu-x", resource=Resource.CPU, vendor="nvidia", since=START)),
        (SkuTaken, a_price("other", since=START)),
        (SkuTaken, a_price("gpu", model="H100", since=START)),
    ],
)
def test_a_price_that_would_confuse_the_list_is_refused(error: type[Exception], price: Price) -> None:
    known = PriceList([a_price()])
    known.check(a_price(since=START), now=NOW)
    with pytest.raises(error):
        known.check(price, now=NOW)


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_is_never_a_formula(cell: str) -> None:
    assert safe(cell) == f"'{cell}"
    assert safe(f"a{cell}") == f"a{cell}"


MOMENT = st.integers(START - 40 * 24 * HOUR, START + 40 * 24 * HOUR)
SEGMENTS = st.lists(
    st.builds(
        lambda start, length, amount: a_segment(start, start + length, amount=amount),
        MOMENT, st.integers(1, 70 * 24 * HOUR), st.integers(1, 1000),
    ),
    max_size=6,
)  # fmt: skip
PRICES = st.lists(
    st.tuples(MOMENT, st.decimals(0, 100, places=4), st.sampled_from(["", "H100"])), max_size=5
).map(
    lambda rows: PriceList(
        a_price(f"gpu{model}", str(price), model=model, since=since, number=number)
        for number, (since, price, model) in enumerate(rows)
    )
)  # fmt: skip


@given(SEGMENTS, PRICES)
def test_charges_are_the_integral_of_price_over_usage(segments: list[Segment], prices: PriceList) -> None:
    """Integrate by looking the price up afresh between any two moments at which anything could change."""
    calendar = Calendar(ZoneInfo("Europe/Berlin"))
    direct = Fraction(0)
    for segment in segments:
        marks = {segment.start, segment.end}
        marks |= {
            at for price in prices.prices if segment.start < (at := to_micros(price.effective_from)) < segment.end
        }
        ordered = sorted(marks)
        for start, end in itertools.pairwise(ordered):
            known = [price for price in prices.prices if to_micros(price.effective_from) <= start]
            exact = [price for price in known if price.model] or known
            if exact:
                best = max(exact, key=lambda price: (price.effective_from, price.id))
                direct += Fraction(best.unit_price) * segment.amount * (end - start) / PER_UNIT[Resource.GPU]
    assert _total(segments, prices, calendar) == direct


@given(SEGMENTS, PRICES, st.sampled_from(["UTC", "Asia/Shanghai", "America/Asuncion"]))
def test_each_microsecond_is_charged_once_in_its_month(segments: list[Segment], prices: PriceList, zone: str) -> None:
    calendar = Calendar(ZoneInfo(zone))
    for segment in segments:
        charges = rate(segment, prices, calendar)
        assert charges[0].start == segment.start
        assert charges[-1].end == segment.end
        assert all(one.end == two.start for one, two in itertools.pairwise(charges))
        for charge in charges:
            assert charge.start < charge.end
            for at in (charge.start, charge.end - 1):
                assert from_micros(at).astimezone(ZoneInfo(zone)).strftime("%Y-%m") == charge.period


@given(SEGMENTS, PRICES, st.data())
def test_cutting_a_segment_anywhere_changes_nothing(
    segments: list[Segment], prices: PriceList, data: st.DataObject
) -> None:
    calendar = Calendar()
    pieces: list[Segment] = []
    for segment in segments:
        at = data.draw(st.integers(segment.start, segment.end))
        for start, end in ((segment.start, at), (at, segment.end)):
            if start < end:
                pieces.append(a_segment(start, end, amount=segment.amount))
    assert _total(pieces, prices, calendar) == _total(segments, prices, calendar)


@given(SEGMENTS, PRICES, st.randoms(use_true_random=False))
def test_a_bill_is_the_sum_of_its_lines_in_any_order(segments: list[Segment], prices: PriceList, rng: object) -> None:
    calendar = Calendar()
    quantities = [
        Quantity(line_key(charge), charge.quantity, False)
        for segment in segments
        for charge in rate(segment, prices, calendar)
    ]
    made = lines(quantities, "CNY")
    rng.shuffle(quantities)  # type: ignore[attr-defined]
    assert lines(quantities, "CNY") == made
    assert sum(line.quantity for line in made) == sum(each.quantity for each in quantities)
    exact = _total(segments, prices, calendar)
    assert abs(Fraction(sum((line.cost.amount for line in made), Decimal(0))) - exact) <= Fraction(len(made), 200)


def test_a_week_of_an_eighth_of_a_device_by_hand() -> None:
    charges = rate(a_segment(START, START + 7 * 24 * HOUR, amount=125), PriceList([a_price()]), Calendar())
    (line,) = lines([Quantity(line_key(charge), charge.quantity, False) for charge in charges], "CNY")
    assert (line.consumed_quantity, line.consumed_unit, str(line.cost)) == (Decimal(21), "gpu-hour", "210.00 CNY")
    assert timedelta(hours=7 * 24) * 125 / 1000 == timedelta(hours=21)
