"""A prepared start that waits for work without a limit: when it is expected, who may use the place until then."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Holding, Request, Snapshot, plan, snapshot_of_rows
from tests.scheduling.building import NOW, a_fleet, a_job, after, holding

FLEET = a_fleet(1, 4)
HEAD = a_job("head", gpu=4, ranks=1)


def running(job_id: str = "runs", devices: tuple[int, ...] = (0, 1), expected_s: float | None = 3600.0) -> Holding:
    """Return work without a limit that is expected to end."""
    end = None if expected_s is None else NOW + timedelta(seconds=expected_s)
    return holding(job_id, "n0", devices=devices, expected_end=end)


def filler(limit_s: float | None, expected_s: float | None = None) -> Request:
    return a_job("filler", gpu=2, after_s=1, runs_at_most_s=limit_s, expected_s=expected_s)


@pytest.mark.parametrize(
    ("holdings", "fills", "starts"),
    [
        ((running(),), filler(1800.0), True),
        ((running(),), filler(3600.0), True),
        ((running(),), filler(3601.0), False),
        ((running(),), filler(None, expected_s=60.0), False),  # a guess says nothing of who fills the gap
        ((running(expected_s=None),), filler(1.0), False),
        ((running(expected_s=-1.0),), filler(1.0), False),  # it should have ended: the guess was wrong
        ((running("a", (0,)), running("b", (1,), expected_s=None)), filler(1.0), False),
        ((running("a", (0,)), running("b", (1,), expected_s=7200.0)), filler(7000.0), True),
    ],
    ids=["shorter", "as-long", "longer", "no-limit", "nothing-known", "guess-passed", "one-unknown", "the-later"],
)
def test_who_may_use_the_place_until_then(holdings: tuple[Holding, ...], fills: Request, starts: bool) -> None:
    done = plan(snapshot_of_rows(FLEET, requests=[HEAD, fills], holdings=holdings), NOW)
    assert [start.job_id for start in done.starts] == (["filler"] if starts else [])


def test_the_latest_start_that_is_told_is_never_a_guess() -> None:
    done = plan(snapshot_of_rows(FLEET, requests=[HEAD], holdings=[running()]), NOW)
    (waits,) = done.waits
    assert (waits.job_id, waits.earliest) == ("head", None)


@settings(max_examples=60)
@given(
    ends_s=st.integers(60, 20_000),
    guesses=st.lists(st.integers(1, 40_000), min_size=1, max_size=6),
    limits=st.lists(st.integers(30, 5_000), min_size=4, max_size=30),
)
def test_the_head_waits_at_most_one_filler_longer(ends_s: int, guesses: list[int], limits: list[int]) -> None:
    """However wrong guesses are and whatever comes, it starts once the awaited has ended and one filler after it."""
    now, waiting, began = NOW, [HEAD], dict[str, datetime]()
    held = [running(expected_s=guesses[0])]
    until = {"runs": NOW + timedelta(seconds=ends_s)}
    latest = until["runs"] + timedelta(seconds=max(limits) + 10)
    for turn in range(5_000):
        now = NOW + timedelta(seconds=10 * turn)
        assert now <= latest, "the head starves"
        held = [one for one in held if until[one.job_id] > now]
        guess = NOW + timedelta(seconds=guesses[turn % len(guesses)] + 10 * turn)
        held = [replace(one, expected_end=guess) if one.job_id == "runs" else one for one in held]
        limit_s = limits[turn % len(limits)]
        fresh = a_job(f"f{turn}", gpu=2, after_s=1 + 10 * turn, runs_at_most_s=limit_s)
        waiting = [*[one for one in waiting if one.job_id == "head"], fresh]
        snapshot: Snapshot = snapshot_of_rows(FLEET, requests=waiting, holdings=held)
        done = plan(snapshot, now)
        held = after(snapshot, done, now)
        for start in done.starts:
            began[start.job_id] = now
            until[start.job_id] = now + timedelta(seconds=limit_s)
        if "head" in began:
            return
    raise AssertionError("it never started")
