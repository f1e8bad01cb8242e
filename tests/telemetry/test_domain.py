"""Names, thinning, and what is unusual in a series."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.telemetry.domain import FlagKind, Point, clean_name, find_flags, steps_to_drop


@given(st.lists(st.integers(), unique=True, max_size=200), st.integers(4, 50))
def test_thinning_keeps_the_first_and_the_newest_and_ends(steps: list[int], keep: int) -> None:
    left = sorted(steps)
    rounds = 0
    while gone := steps_to_drop(left, keep):
        newest = left[len(left) - keep // 4 :]
        kept = [step for step in left if step not in set(gone)]
        assert kept[0] == left[0]
        assert kept[len(kept) - len(newest) :] == newest
        assert set(gone) <= set(left)
        left, rounds = kept, rounds + 1
    assert len(left) <= max(keep, keep // 4 + 1)
    assert rounds <= 10


@pytest.mark.parametrize("name", ["", " ", "a" * 129, "loss\n", "a\0b", "größe", "/x", "\ud800"])
def test_bad_names(name: str) -> None:
    assert clean_name(name) is None or "\n" in name


def _curve(name: str, *values: float) -> list[Point]:
    return [Point(name, step, value) for step, value in enumerate(values)]


def test_the_first_nan_is_told() -> None:
    (flag,) = find_flags(_curve("acc", 1, 2, float("nan"), float("inf")))
    assert (flag.kind, flag.step) == (FlagKind.NOT_A_NUMBER, 2)
    assert "nan at step 2" in flag.sentence


def test_a_jump_of_a_loss_is_told_once() -> None:
    steady = [1.0 + 0.01 * (n % 3) for n in range(30)]
    (flag,) = find_flags(_curve("train/loss", *steady, 9.0, 9.5, *steady))
    assert (flag.kind, flag.step) == (FlagKind.SPIKE, 30)
    assert find_flags(_curve("learning_rate", *steady, 9.0)) == []


def test_an_ordinary_loss_has_no_flags() -> None:
    falling = [3.0 * 0.97**n + 0.05 * ((n * 7) % 5) for n in range(200)]
    assert find_flags(_curve("loss", *falling)) == []
    assert find_flags([]) == []
