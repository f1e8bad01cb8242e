"""Turns within a class: who has had less goes first, who saves itself is stopped for it, and nobody starves."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Holding, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.bands import BANDS
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.turns import LOWEST, Turns, weight_at, width
from dujiang.scheduling.simulator.replay import replay
from dujiang.scheduling.simulator.replay_work import Terms, Work
from tests.scheduling.building import NOW, a_fleet, a_job, holding
from tests.scheduling.test_properties import check_capacity

HOUR = 3600.0
TURNS = Turns()
RULES = Rules(turns=TURNS)


def runs(job_id: str, *devices: int, since_s: float = 2 * HOUR, saves: bool = True, **more: Any) -> Holding:
    """A job on whole devices of the one node, which was submitted when it started."""
    request = a_job(job_id, gpu=len(devices), after_s=-since_s, may_restart=saves)
    more = {"may_stop": True, "request": request, "saved_at": NOW, "task_class": TaskClass.NORMAL, **more}
    return holding(job_id, "n0", devices=devices, started_s=-since_s, **more)


def at_hand(*requests: Any, held: list[Holding], rules: Rules = RULES) -> Snapshot:
    return replace(snapshot_of_rows(a_fleet(1), holdings=held, requests=requests), rules=rules)


def stopped(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(stop.job_id, stop.for_job) for stop in plan(snapshot, NOW).stops]


@pytest.mark.parametrize(
    ("had", "wide", "age", "expected", "level"),
    [
        (0, 1, 0, None, 0),
        (599, 1, 599, None, 0),
        (600, 1, 600, None, 1),
        (1200, 1, 1200, None, 2),
        (1200, 8, 150, None, 2),
        (0, 2, 0, 600, 2),
        (1200, 1, 1200 + 16 * 601, None, 0),
        (1200, 1, 1200 + 16 * 599, None, 1),
        (1e12, 1, 1e12, None, LOWEST),
        (0, 0, 1000, None, 0),
        (1e6, 1, 1e6 + 172_799, None, 11),
        (1e6, 1, 1e6 + 172_800, None, 0),
    ],
)  # fmt: skip
def test_levels_double_with_service_and_waiting_undoes_it(
    had: float, wide: float, age: float, expected: float | None, level: int
) -> None:
    assert TURNS.level(had, wide, age, expected) == level


@given(
    st.sampled_from(list(TaskClass)), st.floats(0, 1), st.floats(0, 1), st.integers(0, LOWEST), st.integers(0, LOWEST)
)
def test_levels_order_within_the_band_of_a_class(
    task_class: TaskClass, one: float, other: float, level: int, deeper: int
) -> None:
    band = BANDS[task_class]
    weights = [band.low + (band.high - band.low) * part for part in (one, other)]
    first, second = weight_at(weights[0], task_class, level), weight_at(weights[1], task_class, deeper)
    assert band.low - 1e-9 <= first <= band.high + 1e-9
    if level < deeper:
        assert first >= second - 1e-9
    if level == deeper:
        assert (first > second + 1e-9) <= (one > other)


class TestWhoIsStopped:
    def test_who_has_had_more_is_for_who_has_had_less(self) -> None:
        long, short = runs("long", 0, 1, since_s=9 * HOUR), runs("short", 2, 3, since_s=1000)
        snapshot = at_hand(a_job("fresh", gpu=2), held=[long, short])
        (stop,) = plan(snapshot, NOW).stops
        assert (stop.job_id, stop.for_job, str(stop.why)) == ("long", "fresh", "Preempted")
        assert "take turns" in stop.sentence

    @pytest.mark.parametrize(
        ("held", "rules"),
        [
            ({}, Rules()),
            ({}, replace(RULES, preempts=False)),
            ({"saves": False}, RULES),
            ({"request": None}, RULES),
            ({"may_stop": False}, RULES),
            ({"since_s": 200}, RULES),
            ({"since_s": 500}, replace(RULES, min_run_s=600.0)),
            ({"task_class": TaskClass.CORE}, RULES),
        ],
    )
    def test_else_it_is_left_alone(self, held: dict[str, Any], rules: Rules) -> None:
        assert stopped(at_hand(a_job("fresh", gpu=4), held=[runs("long", 0, 1, 2, 3, **held)], rules=rules)) == []

    def test_a_level_less_is_needed(self) -> None:
        asked = a_job("same", gpu=4, had_device_s=4 * 2 * HOUR, after_s=-2 * HOUR)
        assert stopped(at_hand(asked, held=[runs("long", 0, 1, 2, 3)])) == []
        asked = replace(asked, had_device_s=HOUR, submitted_at=NOW - timedelta(seconds=HOUR / 4))
        assert stopped(at_hand(asked, held=[runs("long", 0, 1, 2, 3)])) == [("long", "same")]

    def test_the_class_comes_before_the_turn(self) -> None:
        low = a_job("low", gpu=4, task_class=TaskClass.LOW)
        assert stopped(at_hand(low, held=[runs("long", 0, 1, 2, 3, since_s=99 * HOUR)])) == []

    def test_what_earlier_attempts_had_counts(self) -> None:
        old = runs("old", 0, 1, since_s=400, had_device_s=100 * HOUR)
        new = runs("new", 2, 3, since_s=400)
        assert stopped(at_hand(a_job("fresh", gpu=2), held=[old, new])) == [("old", "fresh")]

    def test_long_work_that_waited_long_has_its_turn(self) -> None:
        """Ten hours of service, and it has waited for 160: as fresh as a new one, and older."""
        asked = a_job("long", gpu=4, had_device_s=40 * HOUR, after_s=-171 * HOUR)
        fresh = a_job("fresh", gpu=4)
        done = plan(at_hand(fresh, asked, held=[runs("other", 0, 1, 2, 3)]), NOW)
        assert [(stop.job_id, stop.for_job) for stop in done.stops] == [("other", "long")]


def test_who_has_had_less_starts_first() -> None:
    older = a_job("older", gpu=4, had_device_s=9 * HOUR, after_s=-3 * HOUR)
    fresh = a_job("fresh", gpu=4, after_s=-1)
    assert [start.job_id for start in plan(at_hand(older, fresh, held=[]), NOW).starts] == ["fresh"]
    assert [start.job_id for start in plan(at_hand(older, fresh, held=[], rules=Rules()), NOW).starts] == ["older"]


def test_long_and_short_work_share_a_node() -> None:
    """By hand: `short` comes when `long` has had all for an hour, and does not wait until it has ended."""
    works = [
        Work(a_job("long", gpu=4, may_restart=True), 0.0, 10 * HOUR),
        Work(a_job("short", gpu=4, after_s=HOUR, may_restart=True), HOUR, 120.0),
    ]
    snapshot = replace(snapshot_of_rows(a_fleet(1)), rules=RULES)
    past = replay(snapshot, works, Terms(saves_at_stop=True), NOW)
    long, short = past.fates
    assert (short.start_s, short.end_s) == (HOUR + 30, HOUR + 150)
    assert (long.stops, long.waited_s, long.end_s) == (1, 120.0, 10 * HOUR + 150)
    kept = replay(replace(snapshot, rules=Rules()), works, Terms(), NOW)
    assert (kept.fates[1].start_s, kept.fates[0].stops) == (10 * HOUR, 0)


@st.composite
def some_work(draw: st.DrawFn) -> list[Work]:
    works, at_s = [], 0.0
    for number in range(draw(st.integers(2, 12))):
        at_s += draw(st.sampled_from([0.0, 10.0, 400.0, 5000.0]))
        gpu, ranks = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 1, 2]))
        request = a_job(
            f"j{number:02}", gpu=gpu, ranks=ranks, after_s=at_s, may_restart=draw(st.booleans()),
            task_class=draw(st.sampled_from(list(TaskClass))),
        )  # fmt: skip
        works.append(Work(request, at_s, draw(st.sampled_from([1.0, 100.0, 3000.0, 50_000.0]))))
    return works


@settings(deadline=None, max_examples=60)
@given(some_work(), st.sampled_from([0.0, 20.0]))
def test_everything_ends_and_stops_are_few(works: list[Work], restart_s: float) -> None:
    """No circle: each start runs for `min_run_s` at least, so stops are bounded by the time that passes."""
    fleet = a_fleet(2)
    snapshot = replace(snapshot_of_rows(fleet), rules=RULES)
    terms = Terms(saves_at_stop=True, restart_s=restart_s, keeps_spans=True)
    past = replay(snapshot, works, terms, NOW)
    assert all(fate.end_s is not None for fate in past.fates)
    for work, fate in zip(works, past.fates, strict=True):
        assert fate.end_s is not None
        ran_s = fate.end_s - work.at_s - fate.waited_s
        assert ran_s >= work.runs_s - 1e-6
        assert fate.stops <= ran_s / RULES.min_run_s
    for at in {span.begin_s for span in past.spans}:
        check_capacity(fleet, [span.held for span in past.spans if span.begin_s <= at < span.end_s])


@given(st.integers(0, 64_000), st.integers(0, 64_000))
def test_work_without_devices_counts_by_its_processors(gpu_milli: int, cpu_milli: int) -> None:
    assert width(gpu_milli, cpu_milli) == pytest.approx(gpu_milli / 1000 if gpu_milli else cpu_milli / 20_000)
