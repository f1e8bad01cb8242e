"""Quantities read and printed: nothing is lost on the way, nothing odd gets in."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kit.units import (
    MAX_BYTES,
    MAX_DURATION_S,
    MAX_MILLI,
    BadQuantity,
    format_bytes,
    format_duration,
    format_milli,
    parse_bytes,
    parse_duration_s,
    parse_milli,
)


@pytest.mark.parametrize(
    ("text", "milli"),
    [("2", 2000), ("0.25", 250), ("1/8", 125), ("250m", 250), (1, 1000), (0.5, 500), (" 1 ", 1000), ("0", 0),
     ("1e3", 1_000_000), (Decimal("0.001"), 1), ("3/2", 1500)],
)  # fmt: skip
def test_shares(text: Any, milli: int) -> None:
    assert parse_milli(text) == milli


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), ("500M", 500_000_000), ("1.5Gi", 3 * 2**29), (7, 7), ("1k", 1000), ("1KB", 1000),
     ("2 TiB", 2**41), ("0", 0), ("1EiB", None), ("1024B", 1024), ("1Pi", 2**50)],
)  # fmt: skip
def test_sizes(text: Any, size: int | None) -> None:
    if size is None:
        with pytest.raises(BadQuantity):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h30m", 9000), ("90s", 90), ("1.5h", 5400), ("01:30:00", 5400), ("1-12:00", 129600), ("5:30", 330),
     (45, 45), ("45", 45), ("1d 2h", 93600), ("250ms", 0.25), ("1w", 604800), ("0s", 0), ("10us", 0.00001)],
)  # fmt: skip
def test_durations(text: Any, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


ODD = [
    "", " ", "-1", "x", "1x", "--1", "nan", "inf", "-inf", "Infinity", "1e999", "9" * 39, "9" * 41, True, None, [], {},
    b"1", "1/0", "0x10", "1,5", "٣/٠", "1m1", "m", "GiB", "1 2", math.nan, math.inf, -0.5, "\0",
]  # fmt: skip


@pytest.mark.parametrize("parse", [parse_milli, parse_bytes, parse_duration_s])
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_quantities_are_refused_or_read_as_one(parse: Any, odd: Any) -> None:
    try:
        value = parse(odd)
    except BadQuantity:
        return
    assert value >= 0
    assert math.isfinite(value)


@given(st.integers(0, MAX_MILLI))
def test_a_printed_share_is_read_back(milli: int) -> None:
    assert parse_milli(format_milli(milli)) == milli


@given(st.integers(0, MAX_MILLI), st.integers(1, 1000))
def test_a_fraction_is_exact_or_refused(above: int, below: int) -> None:
    above %= 1000
    try:
        milli = parse_milli(f"{above}/{below}")
    except BadQuantity:
        assert above * 1000 % below
        return
    assert milli * below == above * 1000


@given(st.integers(0, 1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB", "PiB"]))
def test_whole_sizes_are_printed_exactly(number: int, unit: str) -> None:
    size = parse_bytes(f"{number}{unit}")
    assert parse_bytes(format_bytes(size)) == size


def test_what_is_not_quite_the_next_unit_is_not_told_as_it() -> None:
    assert (format_bytes(2**40 - 1), format_bytes(2**40 - 2**27), format_bytes(2**40)) == ("1023GiB", "1023GiB", "1TiB")


@given(st.integers(0, MAX_BYTES))
def test_a_printed_size_is_right_to_three_figures(size: int) -> None:
    match = re.fullmatch(r"([0-9.]+)([KMGTP]i)?B", format_bytes(size))
    assert match is not None
    unit = 2 ** (10 * (" KMGTP".index(match[2][0]) if match[2] else 0))
    assert abs(Decimal(match[1]) * unit - size) <= Decimal(size) * Decimal("0.006")


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 23), st.integers(0, 200))
def test_slurms_form_and_ours_agree(seconds: int, minutes: int, hours: int, days: int) -> None:
    slurm = f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}"
    ours = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_duration_s(slurm) == parse_duration_s(ours) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@given(st.floats(0, MAX_DURATION_S))
def test_a_printed_duration_is_near(seconds: float) -> None:
    near = parse_duration_s(format_duration(seconds))
    coarse = 3600 if seconds >= 86400 else 60 if seconds >= 3600 else 0.51
    assert abs(near - seconds) <= coarse


@given(st.text(max_size=50))
def test_no_text_breaks_the_readers(text: str) -> None:
    for parse in (parse_milli, parse_bytes, parse_duration_s):
        with suppress(BadQuantity):
            assert parse(text) >= 0


def test_what_is_below_zero_is_told_as_that() -> None:
    for text in ("-1", "-1/4", "-250m", "-1e12"):
        with pytest.raises(BadQuantity, match=f'"{text}" must not be negative'):
            parse_milli(text)
