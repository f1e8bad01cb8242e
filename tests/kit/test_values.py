"""Money, identifiers, clocks, state machines and seeded randomness."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from dujiang.kit.clock import EPOCH, ManualClock, SystemClock, from_micros, to_micros
from dujiang.kit.errors import DujiangError, did_you_mean
from dujiang.kit.ids import Ids, is_id
from dujiang.kit.money import CurrencyMismatch, Money, zero
from dujiang.kit.rng import streams
from dujiang.kit.state import IllegalTransition, Machine
from dujiang.kit.tables import ExactDecimal, Json, UtcMicros

DIALECT = sqlite.dialect()
AMOUNTS = st.decimals(-(10**12), 10**12, allow_nan=False, places=9)


@given(AMOUNTS, AMOUNTS)
def test_money_adds_exactly_and_back(a: Decimal, b: Decimal) -> None:
    assert (Money(a, "CNY") + Money(b, "CNY")) - Money(b, "CNY") == Money(a, "CNY")
    assert zero("CNY") + Money(a, "CNY") == Money(a, "CNY")


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [("0.005", "CNY", "0.01"), ("-0.005", "CNY", "-0.01"), ("0.0049", "USD", "0.00"), ("1.5", "JPY", "2"),
     ("1.0005", "KWD", "1.001"), ("2.675", "EUR", "2.68")],
)  # fmt: skip
def test_money_is_rounded_half_up(amount: str, currency: str, rounded: str) -> None:
    assert str(Money(Decimal(amount), currency).rounded().amount) == rounded


@given(AMOUNTS)
def test_rounding_moves_by_half_a_unit_at_most_and_only_once(amount: Decimal) -> None:
    once = Money(amount, "CNY").rounded()
    assert abs(once.amount - amount) <= Decimal("0.005")
    assert once.rounded() == once


def test_currencies_do_not_mix() -> None:
    with pytest.raises(CurrencyMismatch):
        Money(Decimal(1), "CNY") + Money(Decimal(1), "USD")


@given(st.lists(st.floats(0, 5), max_size=50), st.integers(0, 2**32))
def test_ids_sort_by_the_order_they_were_made_also_after_a_clock_step(waits_s: list[float], seed: int) -> None:
    clock = ManualClock()
    ids = Ids(clock, np.random.default_rng(seed))
    made = []
    for n, wait_s in enumerate(waits_s):
        clock.advance(wait_s)
        if n % 7 == 3:
            clock.step(-3)
        made.append(ids.new("job"))
    assert made == sorted(set(made))
    assert all(is_id(one, "job") for one in made)
    assert not any(is_id(one, "usr") for one in made)


def test_ids_come_back_from_the_seed_and_differ_between_seeds() -> None:
    one, same, other = (Ids(ManualClock(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    first = [one.new("job") for _ in range(5)]
    assert first == [same.new("job") for _ in range(5)]
    assert not set(first) & {other.new("job") for _ in range(5)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job_",
        "job_x",
        f"job_{'0' * 25}",
        f"job_{'0' * 27}",
        f"job_{'u' * 26}",
        f"JOB_{'0' * 26}",
        f"job_{'0' * 26}\n",
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text, "job")


@given(st.integers(-(10**16), 10**17))
def test_microseconds_are_exact(micros: int) -> None:
    assert to_micros(from_micros(micros)) == micros


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact(at: datetime) -> None:
    assert from_micros(to_micros(at)) == at


def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock()
    start = clock.now()
    clock.advance(1.5)
    clock.step(-10)
    assert clock.now() - start == timedelta(seconds=-8.5)
    assert clock.monotonic_s() == 1.5
    asyncio.run(clock.sleep(2))
    assert clock.monotonic_s() == 3.5
    with pytest.raises(ValueError, match="forwards"):
        clock.advance(-1)


def test_the_system_clock_never_goes_back() -> None:
    clock = SystemClock()
    times = [clock.now() for _ in range(1000)]
    assert times == sorted(times)
    assert times[0] > EPOCH
    assert times[0].tzinfo is UTC


class Light(StrEnum):
    """States of a test machine."""

    RED = "RED"
    GREEN = "GREEN"
    BROKEN = "BROKEN"


STEPS: Mapping[Light, frozenset[Light]] = {
    Light.RED: frozenset({Light.GREEN, Light.BROKEN}),
    Light.GREEN: frozenset({Light.RED}),
    Light.BROKEN: frozenset(),
}
MACHINE = Machine("light", STEPS, start=Light.RED)


@given(st.lists(st.sampled_from(Light), max_size=6))
def test_a_history_is_legal_when_every_step_passes(history: list[Light]) -> None:
    passes = bool(history) and history[0] is Light.RED
    for current, target in itertools.pairwise(history):
        if target in STEPS[current]:
            MACHINE.check("it", current, target)
            continue
        with pytest.raises(IllegalTransition) as refused:
            MACHINE.check("it", current, target)
        assert refused.value.facts == {"state": current, "target": target}
        passes = False
    assert MACHINE.legal(history) is passes


def test_the_facts_derived_from_a_table() -> None:
    assert MACHINE.terminal == {Light.BROKEN}
    assert MACHINE.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> RED",
        "    RED --> BROKEN",
        "    RED --> GREEN",
        "    GREEN --> RED",
        "    BROKEN --> [*]",
    ]


def test_streams_of_one_seed_do_not_shift_one_another() -> None:
    alone, both = streams(1, ["a", "b"]), streams(1, ["a", "b"])
    alone["a"].random(1000)
    assert alone["b"].random() == both["b"].random()
    assert streams(1, ["a"])["a"].random() != streams(2, ["a"])["a"].random()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_json_columns_give_back_what_they_took(value: object) -> None:
    column = Json()
    assert column.process_result_value(column.process_bind_param(value, DIALECT), DIALECT) == value


@given(AMOUNTS | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=12))
def test_decimal_columns_are_exact(value: Decimal) -> None:
    column = ExactDecimal()
    assert column.process_result_value(column.process_bind_param(value, DIALECT), DIALECT) == value


@given(st.none() | st.datetimes(timezones=st.just(UTC)))
def test_time_columns_are_exact(value: datetime | None) -> None:
    column = UtcMicros()
    assert column.process_result_value(column.process_bind_param(value, DIALECT), DIALECT) == value


def test_the_nearest_word_is_offered_only_when_it_is_near() -> None:
    assert did_you_mean("Memry", ["memory", "gpu"]) == ' Did you mean "memory"?'
    assert did_you_mean("runnig", ["RUNNING"]) == ' Did you mean "RUNNING"?'
    assert did_you_mean("zzz", ["memory", "gpu"]) == ""


def test_an_error_tells_its_facts() -> None:
    problem = DujiangError("What to do.", limit=3).problem()
    assert (problem["code"], problem["status"], problem["detail"], problem["limit"]) == (
        "internal_error",
        500,
        "What to do.",
        3,
    )
