"""Fair share: use fades as the formula says, however it is kept, and moves a job only inside its band."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.scheduling.domain.bands import BANDS, TaskClass
from dujiang.scheduling.domain.queues import NO_QUEUES, Queue, QueueTree
from dujiang.scheduling.domain.shares import FairShare, UsageLog, Use, adjusted_weight, decayed, fair_shares
from tests.scheduling.building import NOW

DAY = 86_400.0


def a_use(project: str, milli: int, start_s: float, end_s: float | None) -> Use:
    ended = None if end_s is None else NOW + timedelta(seconds=end_s)
    return Use(project, milli, NOW + timedelta(seconds=start_s), ended)


def test_use_fades_by_half_each_half_life() -> None:
    end = NOW + timedelta(seconds=1)
    fresh = decayed(2000, NOW, end, end, 7 * DAY)
    assert fresh == pytest.approx(2.0, rel=1e-6)
    for half_lives in (1, 2, 10):
        later = end + timedelta(days=7 * half_lives)
        assert decayed(2000, NOW, end, later, 7 * DAY) == pytest.approx(fresh / 2**half_lives, rel=1e-9)


def test_what_is_held_for_ever_tends_to_a_bound() -> None:
    long = decayed(1000, NOW, None, NOW + timedelta(days=1000), DAY)
    assert long == pytest.approx(DAY / math.log(2))
    assert decayed(1000, NOW, None, NOW, DAY) == 0
    assert decayed(1000, NOW, NOW - timedelta(days=1), NOW, DAY) == 0


@given(
    st.integers(1, 8000), st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 50_000), st.floats(60, 1e6)
)  # fmt: skip
def test_the_closed_form_is_the_sum_of_its_seconds(milli: int, start: int, length: int, rest: int, half: float) -> None:
    begin, end = NOW + timedelta(seconds=start), NOW + timedelta(seconds=start + length)
    now = end + timedelta(seconds=rest)
    steps = 512  # of a third of a half-life at most: Simpson's rule, an independent way to the same figure
    width = length / steps
    ages = [rest + length - width * step for step in range(steps + 1)]
    weights = [1 if step in (0, steps) else 4 if step % 2 else 2 for step in range(steps + 1)]
    summed = milli / 1000 * width / 3 * sum(w * 2 ** (-age / half) for w, age in zip(weights, ages, strict=True))
    assert decayed(milli, begin, end, now, half) == pytest.approx(summed, rel=2e-3, abs=1e-9)


_USES = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from([0, 250, 1000, 8000]), st.integers(0, 10_000), st.integers(0, 5000)
    ),
    max_size=20,
)


@given(_USES, st.lists(st.integers(0, 20), max_size=4), st.floats(10, 1e6), st.integers(15_000, 90_000))
def test_what_is_kept_up_equals_the_closed_form(
    rows: list[tuple[str, int, int, int]], cuts: list[int], half: float, now_s: int
) -> None:
    uses = [a_use(project, milli, start, start + length) for project, milli, start, length in rows]
    now = NOW + timedelta(seconds=now_s)
    log, last = UsageLog(half), 0
    for cut in sorted(cuts):
        log.add(uses[last:cut])
        log.usage(now)  # looking changes nothing
        last = max(last, cut)
    log.add(uses[last:])
    live = [a_use("a", 500, now_s - 100, None), a_use("d", 1000, now_s - 7, None)]
    expected: dict[str, float] = {}
    for use in [*uses, *live]:
        if use.gpu_milli:
            more = decayed(use.gpu_milli, use.started_at, use.ended_at, now, half)
            expected[use.project_id] = expected.get(use.project_id, 0.0) + more
    kept = log.usage(now, live)
    assert kept.keys() == expected.keys()
    for project, figure in expected.items():
        assert kept[project] == pytest.approx(figure, rel=1e-9, abs=1e-300)


def test_without_queues_every_project_is_due_the_same() -> None:
    shares = fair_shares(NO_QUEUES, {"a": 3600.0, "b": 10_800.0}, ["c", "d"])
    assert {name: (one.share, one.used_part) for name, one in shares.items()} == {
        "a": (0.25, 0.25), "b": (0.25, 0.75), "c": (0.25, 0), "d": (0.25, 0)}  # fmt: skip
    assert [shares[name].factor for name in "abcd"] == [0.5, 0.125, 1, 1]
    assert shares["b"].arithmetic == (
        "It has used 3 of 4 gpu-hours (75.0%), older use counting less. Its share is 25.0%: "
        "factor 2^(-0.750/0.250) = 0.125."
    )


TREE = QueueTree(
    [
        Queue("centre"), Queue("x", "centre", projects=("x1", "x2")), Queue("y", "centre", projects=("y1",)),
        Queue("z", "centre", weight=2, projects=("z1",)),
    ]
)  # fmt: skip


def test_what_a_queue_has_used_counts_for_all_its_projects() -> None:
    shares = fair_shares(TREE, {"x1": 100.0}, ["stranger"])
    assert {name: one.share for name, one in shares.items()} == {
        "x1": 0.125, "x2": 0.125, "y1": 0.25, "z1": 0.5, "stranger": 0}  # fmt: skip
    assert {name: one.used_part for name, one in shares.items()} == {
        "x1": 0.75, "x2": 0.25, "y1": 0, "z1": 0, "stranger": 0}  # fmt: skip
    assert shares["x2"].factor == 2**-2
    assert shares["y1"].factor == 1
    assert "half by that and half by its share of what its queue has used, 25.0%" in shares["x2"].arithmetic
    assert shares["stranger"].factor == 0
    assert shares["stranger"].arithmetic.endswith("It is in no queue, so no share is due to it: factor 0.")


def test_everyone_at_their_share_stands_at_one_half() -> None:
    shares = fair_shares(TREE, {"x1": 1.0, "x2": 1.0, "y1": 2.0, "z1": 4.0})
    assert {round(one.factor, 12) for one in shares.values()} == {0.5}


@given(
    st.dictionaries(st.sampled_from(["x1", "x2", "y1", "z1", "w"]), st.floats(0, 1e9), max_size=5),
    st.sampled_from([TREE, NO_QUEUES]),
)
def test_parts_and_factors_stay_between_0_and_1(usage: dict[str, float], tree: QueueTree) -> None:
    shares = fair_shares(tree, usage)
    for one in shares.values():
        assert 0 <= one.used_part <= 1 + 1e-9
        assert 0 <= one.factor <= 1
    if shares:
        assert math.isclose(sum(one.share for one in shares.values()), 1)


@given(st.sampled_from(list(TaskClass)), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_weight_stays_in_its_band_and_rises_with_the_factor(
    kind: TaskClass, place: float, factor: float, part: float
) -> None:
    band = BANDS[kind]
    weight = min(band.high, band.low + place * (band.high - band.low))
    moved = adjusted_weight(kind, weight, factor, part)
    assert band.low <= moved <= band.high
    assert adjusted_weight(kind, weight, min(1.0, factor + 0.25), part) >= moved
    assert adjusted_weight(kind, weight, factor, 0) == weight


def test_half_of_the_place_is_the_factors() -> None:
    assert adjusted_weight(TaskClass.NORMAL, 0.5, 1.0, 0.5) == pytest.approx(0.55)
    assert adjusted_weight(TaskClass.CORE, 1.0, 0.0, 0.5) == pytest.approx(0.9)
    share = FairShare("p", 0.0, 10.0, 0.5, 0.0, part=1.0)
    assert share.weight(TaskClass.LOW, 0.1) == pytest.approx(0.3)
