"""Version numbers, aliases, and what is kept of a job's facts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.kit.errors import DujiangError
from dujiang.models.domain import (
    VERSION_STATES,
    BadAlias,
    VersionNumber,
    VersionState,
    check_alias,
    choose_number,
    environment_of,
    finite,
    inputs_of,
)

parts = st.integers(0, 999_999)
numbers = st.builds(VersionNumber, parts, parts, parts)


@given(numbers)
def test_a_number_reads_back_with_and_without_its_v(number: VersionNumber) -> None:
    assert VersionNumber.parse(str(number)) == VersionNumber.parse(str(number)[1:]) == number


@given(numbers, st.sampled_from(["major", "minor", "patch"]))
def test_the_next_number_is_greater_and_reads_back(number: VersionNumber, part: str) -> None:
    after = number.after(part)
    assert after > number
    assert VersionNumber.parse(str(after)) == after


@pytest.mark.parametrize("text", ["", "1.0", "v1", "1.0.0.0", "v1.0.0-rc1", "vv1.0.0", "1.0.0\n", "١.0.0", "v-1.0.0"])
def test_what_is_no_number(text: str) -> None:
    assert VersionNumber.parse(text) is None


@pytest.mark.parametrize(
    ("newest", "asked", "taken", "number", "told"),
    [
        (None, "", False, "v1.0.0", ""),
        ("v1.0.0", "", False, "v1.1.0", ""),
        ("v1.9.3", "", False, "v1.10.0", ""),
        ("v1.9.3", "patch", False, "v1.9.4", ""),
        ("v1.9.3", "major", False, "v2.0.0", ""),
        (None, "major", False, "v1.0.0", ""),
        ("v1.9.3", "v3.0.0", False, "v3.0.0", ""),
        ("v3.0.0", "1.0.5", False, "v1.0.5", ""),
        ("v1.9.3", "v1.0.0", True, "v1.10.0", "There was a version v1.0.0 already"),
        ("v1.9.3", "latest", False, "v1.10.0", 'says "latest"'),
        ("v1.9.3", "v1000000.0.0", False, "v1.10.0", "says"),
    ],
)
def test_the_number_of_a_new_version(newest: str | None, asked: str, taken: bool, number: str, told: str) -> None:
    before = VersionNumber.parse(newest) if newest else None
    chosen, remark = choose_number(before, asked, taken=taken)
    assert (str(chosen), told in remark, bool(remark)) == (number, True, bool(told))


@pytest.mark.parametrize("alias", ["production", "a", "champion_2", "blue-green", "vnext"])
def test_words_that_can_be_aliases(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "latest", "v1", "v1.0.0", "1.0.0", "Production", "a b", "a/b", "x" * 64, "é"])
def test_words_that_cannot_be_aliases(alias: str) -> None:
    with pytest.raises(BadAlias, match="production"):
        check_alias(alias)


def test_a_version_that_is_ready_or_failed_stays_so() -> None:
    assert VERSION_STATES.terminal == {VersionState.READY, VersionState.FAILED}
    with pytest.raises(DujiangError):
        VERSION_STATES.check("x", VersionState.FAILED, VersionState.READY)


def test_only_numbers_become_metrics() -> None:
    assert finite({"b": 1.0, "a": math.nan, "c": math.inf, "d": -2.5}) == {"b": 1.0, "d": -2.5}


def test_facts_of_any_shape_give_a_bounded_environment() -> None:
    many = {f"package-{n:05d}": "1" * 999 for n in range(5000)}
    kept = environment_of({"environment": {"python": "3.11.2", "packages": many, "executable": "/secret/python"}})
    assert (kept["python"], len(kept["packages"]), "executable" in kept) == ("3.11.2", 2000, False)
    assert max(len(version) for version in kept["packages"].values()) == 255
    for strange in ({}, {"environment": None}, {"environment": [1]}, {"environment": {"packages": 5}}):
        assert environment_of(strange) == {}
    given_inputs = {"digits": {"digest": "d", "bytes": 3, "method": "sha256", "path": "/x"}, "odd": 5}
    assert inputs_of({"inputs": given_inputs}) == {"digits": {"digest": "d", "bytes": 3, "method": "sha256"}}
    assert inputs_of({"inputs": "?"}) == {}
