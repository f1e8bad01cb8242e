"""How long jobs will run: which group speaks, what it says, how it is corrected, and how wrong it was."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.scheduling.domain.accuracy import Told, accuracy
from dujiang.scheduling.domain.expected import Alike, Likeness, RunTimes, corrected, quantiles, stem_of

ME = Likeness("p", "u", "train-#", "2 x 1000")
times = st.floats(0.001, 1e7)
members = st.lists(st.tuples(times, st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("train-bert-0012", "train-bert-#"), ("train-bert-7", "train-bert-#"), ("Eval", "eval"), ("", ""),
        ("run-3fa91c2d-b", "run-#-b"), ("deface", "deface"), ("v2-x10", "v#-x#"),
    ],
)  # fmt: skip
def test_a_stem_leaves_out_what_tells_runs_apart(name: str, stem: str) -> None:
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    ("others", "alike"),
    [
        ([ME] * 2, Alike.ALL_FOUR),
        ([Likeness("p", "v", "train-#", "1 x 1000")] * 2, Alike.PROJECT_NAME),
        ([Likeness("q", "u", "other", "2 x 1000")] * 2, Alike.USER_SHAPE),
        ([Likeness("p", "v", "other", "2 x 1000")] * 2, Alike.PROJECT_SHAPE),
        ([Likeness("p", "v", "other", "1 x 1000")] * 2, Alike.PROJECT),
        ([Likeness("q", "v", "other", "1 x 1000")] * 2, Alike.ANYTHING),
        ([ME, Likeness("p", "v", "other", "1 x 1000")], Alike.PROJECT),
        ([ME], None),
        ([], None),
    ],
)
def test_the_narrowest_group_with_enough_members_speaks(others: list[Likeness], alike: Alike | None) -> None:
    known = RunTimes()
    for other in others:
        known.learn(other, 60.0)
    found = known.expect(ME)
    assert (found.alike if found else None) == alike
    assert found is None or found.seconds == 60.0


def test_what_is_not_known_of_a_job_is_no_likeness() -> None:
    known = RunTimes()
    for _ in range(3):
        known.learn(Likeness("p", "", "", "1"), 5.0)
    found = known.expect(Likeness("p", "", "", "2"))
    assert found is not None
    assert found.alike is Alike.PROJECT


def test_the_latest_members_count_and_the_limit_caps() -> None:
    known = RunTimes(kept=4)
    for ran_s in (10, 10, 10, 10, 100, 100, 100, 400):
        known.learn(ME, ran_s)
    found = known.expect(ME)
    assert found is not None
    assert (found.seconds, found.low_s, found.high_s, found.members) == (100, 100, 400, 4)
    capped = known.expect(ME, limit_s=50)
    assert capped is not None
    assert (capped.seconds, capped.high_s) == (50, 50)


def test_who_was_cut_short_would_have_run_longer() -> None:
    known = RunTimes()
    for _ in range(4):
        known.learn(ME, 10.0, is_whole=False)
    assert known.expect(ME) is None  # nobody knows how long any of them runs
    known.learn(ME, 100.0)
    known.learn(ME, 120.0)
    found = known.expect(ME)
    assert found is not None
    assert found.seconds == 100.0


def test_groups_that_were_not_used_for_longest_go_first() -> None:
    known = RunTimes(most_groups=10)
    for number in range(50):
        known.learn(Likeness(f"p{number}", "u", "n", "s"), 1.0)
    assert len(known) == 10


def test_quantiles_of_a_known_case() -> None:
    """The first of the two groups of Freireich et al. 1963 (6-MP), whose product-limit median is 23 weeks."""
    whole = [6, 6, 6, 7, 10, 13, 16, 22, 23]
    cut = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    sample = [(float(week), True) for week in whole] + [(float(week), False) for week in cut]
    assert quantiles(sample, (0.25, 0.5)) == [13.0, 23.0]


@given(members)
def test_quantiles_rise_and_are_times_that_were_seen(sample: list[tuple[float, bool]]) -> None:
    found = quantiles(sample, (0.25, 0.5, 0.9))
    assert found == sorted(found)
    assert set(found) <= {seconds for seconds, _ in sample}


@given(members)
def test_cutting_a_member_short_never_makes_the_others_shorter(sample: list[tuple[float, bool]]) -> None:
    (whole,) = quantiles([(seconds, True) for seconds, _ in sample], (0.5,))
    (cut,) = quantiles(sample, (0.5,))
    assert cut >= whole


@given(times, times)
def test_a_corrected_expectation_is_longer_than_the_run_and_seldom_changes(expected_s: float, ran_s: float) -> None:
    found = corrected(expected_s, ran_s)
    assert found > ran_s
    assert found == corrected(expected_s, (found + ran_s) / 2) or (found + ran_s) / 2 >= found
    assert found <= 2 * max(expected_s, ran_s, 1.0)


def test_accuracy_of_four_jobs() -> None:
    found = accuracy([Told(100, 100), Told(100, 50), Told(10, 40), Told(0.1, 0.9)])
    assert found is not None
    assert found.jobs == 4
    assert math.isclose(found.mean_ratio, (1 + 2 + 0.25 + 1) / 4)
    assert (found.median_ratio, found.within_factor_2, found.p90_error_s) == (1.0, 0.75, 50)
    assert math.isclose(found.closeness, (1 + 0.5 + 0.25 + 1) / 4)
    assert accuracy([]) is None
