"""What measured use changes: weights within their bands, notices to the idle, what is taken back after the grace."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.scheduling.domain import BANDS, StopWhy, TaskClass
from dujiang.scheduling.domain.rescore import Idle, Policy, Reclaim, Work, rescore
from dujiang.scheduling.domain.usage import GAP_S, Gathered

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STOP = Policy(reclaim=Reclaim.STOP)
NOTIFY = Policy(reclaim=Reclaim.NOTIFY)
BUSY = Work("j", TaskClass.NORMAL, 0.5, mean=0.5, samples=80, window_s=1200.0, busy_samples=80)
IDLE = replace(BUSY, mean=0.0, idle_s=3600.0, idle_samples=240, busy_samples=0, weight=0.4)


@pytest.mark.parametrize(
    ("mean", "samples", "weight", "after"),
    [
        (0.9, 80, 0.5, 0.55),
        (0.7, 80, 0.5, 0.55),
        (0.69, 80, 0.5, 0.5),
        (0.31, 80, 0.5, 0.5),
        (0.3, 80, 0.5, 0.45),
        (0.9, 80, 0.59, 0.6),
        (0.9, 80, 0.6, 0.6),
        (0.1, 80, 0.42, 0.4),
        (0.9, 9, 0.5, 0.5),
        (0.1, 9, 0.5, 0.5),
        (None, 0, 0.5, 0.5),
    ],
)
def test_load_moves_a_weight_by_one_step_and_never_out_of_its_band(
    mean: float | None, samples: int, weight: float, after: float
) -> None:
    change = rescore(replace(BUSY, mean=mean, samples=samples, weight=weight), NOTIFY, NOW)
    assert (change.weight if change else weight) == after
    assert (change is None) == (after == weight)


@pytest.mark.parametrize("task_class", TaskClass)
def test_a_load_that_lasts_ends_at_the_edge_of_the_band_and_then_changes_nothing(task_class: TaskClass) -> None:
    band = BANDS[task_class]
    for mean, edge in ((0.95, band.high), (0.1, band.low)):
        work = replace(BUSY, task_class=task_class, weight=band.middle, mean=mean)
        for _ in range(10):
            change = rescore(work, NOTIFY, NOW)
            work = replace(work, weight=change.weight if change else work.weight)
        assert work.weight == edge
        assert rescore(work, NOTIFY, NOW) is None


@pytest.mark.parametrize("reclaim", Reclaim)
def test_idle_work_is_told_before_anything_is_taken(reclaim: Reclaim) -> None:
    change = rescore(IDLE, Policy(reclaim=reclaim), NOW)
    if reclaim is Reclaim.OFF:
        assert change is None
        return
    assert change is not None
    assert (change.idle, change.stop) == (Idle.TOLD, None)
    assert change.stop_at == (NOW + timedelta(seconds=1800) if reclaim is Reclaim.STOP else None)
    assert "less than 5% for 1h" in change.sentence


@pytest.mark.parametrize(
    "work",
    [
        replace(IDLE, is_exempt=True),
        replace(IDLE, idle_s=1799.0),
        replace(IDLE, idle_samples=9),
        replace(IDLE, mean=None, samples=0, idle_s=0.0, idle_samples=0),
    ],
    ids=["exempt", "too short", "too few samples", "nothing measured"],
)
def test_there_is_no_verdict_without_grounds(work: Work) -> None:
    assert rescore(work, STOP, NOW) is None
    assert rescore(replace(work, told_at=NOW, stop_at=NOW), STOP, NOW) is None or work.is_exempt


TOLD = replace(IDLE, told_at=NOW - timedelta(hours=1), stop_at=NOW)


def test_after_the_grace_it_is_stopped_and_not_before() -> None:
    assert rescore(TOLD, STOP, NOW - timedelta(seconds=1)) is None
    change = rescore(TOLD, STOP, NOW)
    assert change is not None
    assert change.stop is not None
    assert (change.idle, change.stop.why, change.stop.job_id) == (Idle.STOPPED, StopWhy.IDLE, "j")
    assert rescore(TOLD, NOTIFY, NOW) is None  # the policy has changed since the notice


def test_an_elastic_job_shrinks_first_and_is_stopped_only_at_its_fewest() -> None:
    elastic = replace(TOLD, ranks=8, ranks_min=2)
    change = rescore(elastic, STOP, NOW)
    assert change is not None
    assert change.stop is not None
    assert (change.idle, change.stop.why, change.ranks_most) == (Idle.SHRUNK, StopWhy.RESIZED, 2)
    least = rescore(replace(elastic, ranks=2, ranks_most=2), STOP, NOW)
    assert least is not None
    assert (least.idle, least.ranks_most) == (Idle.STOPPED, 2)


def test_an_elastic_job_may_grow_again_once_it_is_busy() -> None:
    shrunk = replace(BUSY, ranks=2, ranks_min=2, ranks_most=2)
    assert rescore(shrunk, STOP, NOW) is None
    change = rescore(replace(shrunk, mean=0.8), STOP, NOW)
    assert change is not None
    assert change.ranks_most is None


def test_work_that_is_busy_again_is_told_so_and_one_that_is_only_forgotten_is_not() -> None:
    again = replace(BUSY, told_at=NOW, stop_at=NOW + timedelta(hours=1), busy_samples=1)
    change = rescore(again, STOP, NOW)
    assert change is not None
    assert change.idle is Idle.OVER
    after_restart = replace(again, mean=0.0, busy_samples=0, idle_s=60.0, idle_samples=12, weight=0.4)
    assert rescore(after_restart, STOP, NOW) is None
    exempted = rescore(replace(TOLD, is_exempt=True), STOP, NOW)
    assert exempted is not None
    assert (exempted.idle, exempted.stop) == (Idle.OVER, None)


works = st.builds(
    Work,
    st.just("j"),
    st.sampled_from(list(TaskClass)),
    st.just(0.0),
    st.none() | st.floats(0, 1),
    st.integers(0, 200),
    st.floats(0, 7200),
    st.integers(0, 200),
    st.floats(0, 90_000),
    st.integers(0, 200),
    st.none() | st.just(NOW - timedelta(hours=1)),
    st.none() | st.just(NOW),
    st.booleans(),
    st.integers(1, 8),
    st.none() | st.integers(1, 8),
    st.none() | st.integers(1, 8),
)


@given(works, st.floats(0, 1), st.sampled_from(list(Reclaim)))
def test_whatever_was_measured(work: Work, part: float, reclaim: Reclaim) -> None:
    band = BANDS[work.task_class]
    work = replace(work, weight=round(band.low + part * (band.high - band.low), 3))
    policy = Policy(reclaim=reclaim)
    change = rescore(work, policy, NOW)
    if change is None:
        return
    assert band.low <= change.weight <= band.high
    assert abs(change.weight - work.weight) <= policy.step + 1e-9
    if change.stop is not None:
        assert reclaim is Reclaim.STOP
        assert not work.is_exempt
        assert work.told_at is not None
        assert work.stop_at is not None
        assert work.idle_samples >= policy.least_samples


@given(st.lists(st.tuples(st.floats(1, 400), st.floats(0, 1)), min_size=1, max_size=60))
def test_what_is_gathered_is_what_a_list_would_say(steps: list[tuple[float, float]]) -> None:
    gathered, at_s = Gathered(), 0.0
    times: list[float] = []
    idle: list[float] = []
    for step, value in steps:
        at_s += step
        if step > GAP_S and times:
            idle = []
            start = at_s
        elif not times:
            start = at_s
        times.append(at_s)
        gathered.add(at_s, value, idle_under=0.05)
        if value >= 0.05:
            idle, start = [], at_s
        else:
            idle.append(at_s)
    assert gathered.mean == pytest.approx(sum(value for _, value in steps) / len(steps))
    assert gathered.samples == len(steps)
    assert gathered.idle_samples == len(idle)
    assert gathered.idle_s == pytest.approx(at_s - start if idle else 0.0)
    gathered.judged()
    assert (gathered.mean, gathered.samples, gathered.idle_samples) == (None, 0, len(idle))
