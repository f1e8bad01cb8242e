"""Elastic work that goes on with more ranks when nobody waits: who, when it is worth it, and that it comes to rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import (
    Fleet,
    Holding,
    Level,
    Plan,
    Quota,
    Request,
    Snapshot,
    StopWhy,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import NOW, a_fleet, a_job, after, holding, where

RULES = Rules(min_run_s=0.0, regrow_s=900.0)


def elastic(job_id: str = "e", *, most: int = 8, least: int = 1, gpu: float = 1, **more: Any) -> Request:
    return a_job(job_id, gpu=gpu, ranks=most, ranks_min=least, **more)


def running(fleet: Fleet, *requests: Request, ago_s: float = 3600, saved_ago_s: float | None = 10, beside: Any = (),
            **more: Any) -> list[Holding]:  # fmt: skip
    """What these jobs hold when they are started one after the other on an empty pool, some time ago."""
    held: list[Holding] = list(beside)
    for request in requests:
        done = plan(snapshot_of_rows(fleet, holdings=held, requests=[request]), NOW)
        (start,) = done.starts
        held.append(
            Holding(
                request.job_id, request.project_id, start.cluster, start.ranks, NOW - timedelta(seconds=ago_s),
                may_stop=True, ranks_min=request.ranks_min, ranks_max=request.ranks,
                saved_at=None if saved_ago_s is None else NOW - timedelta(seconds=saved_ago_s), request=request, **more,
            )
        )  # fmt: skip
    return held


def looked_at(fleet: Fleet, held: list[Holding], *requests: Request, rules: Rules = RULES, **more: Any) -> Plan:
    return plan(replace(snapshot_of_rows(fleet, holdings=held, requests=requests, **more), rules=rules), NOW)


def small(fleet: Fleet, ranks: int = 2, **more: Any) -> list[Holding]:
    """One elastic job that got fewer ranks than it wants, as others were there, which are gone now."""
    (only,) = running(fleet, elastic(most=ranks), **more)
    return [replace(only, ranks_max=8, request=elastic(most=8))]


def test_a_job_that_got_less_goes_on_with_more_once_there_is_room() -> None:
    fleet = a_fleet(2, 4)
    done = looked_at(fleet, small(fleet))
    (stop,) = done.stops
    assert (stop.job_id, stop.why, stop.for_job, stop.lost_device_s) == ("e", StopWhy.RESIZED, "", 20.0)
    assert "8 ranks instead of 2" in stop.sentence
    again = looked_at(fleet, [], elastic(most=8))
    assert len(where(again)["e"]) == 8


@pytest.mark.parametrize(
    "changed",
    [
        {"may_stop": False}, {"ranks_max": None}, {"ranks_max": 2, "request": elastic(most=2)}, {"request": None},
        {"is_stopping": True}, {"started_at": NOW - timedelta(seconds=899)}, {"saved_at": None},
        {"expected_end": NOW + timedelta(seconds=15)}, {"ends_at": NOW + timedelta(seconds=15)},
        {"request": elastic(most=8, selector=(("name", "n9"),))},
        {"request": elastic(most=8, selector=(("name", "n0"),), within=Level.NODE)},
    ],
    ids=["could not go on", "not elastic", "has all", "asks unknown", "stops already", "has just begun", "never saved",
         "ends soon", "must end soon", "nowhere to go", "no larger place"],
)  # fmt: skip
def test_nobody_is_stopped_for_nothing(changed: dict[str, Any]) -> None:
    fleet = a_fleet(2, 4)
    (only,) = small(fleet)
    if changed.get("saved_at", "") is None:
        changed = {**changed, "started_at": NOW - timedelta(days=1)}
    assert looked_at(fleet, [replace(only, **changed)]).stops == ()
    assert looked_at(fleet, [only], rules=replace(RULES, grows=False)).stops == ()
    assert looked_at(fleet, [only], rules=replace(RULES, most_stops_for=0)).stops == ()
    assert looked_at(fleet, [only], rules=replace(RULES, most_lost_device_s=100.0, lost_device_s=81.0)).stops == ()
    assert [stop.job_id for stop in looked_at(fleet, [only]).stops] == ["e"]


def test_nobody_grows_while_somebody_waits_for_room() -> None:
    fleet = a_fleet(2, 4)
    held = small(fleet)
    assert looked_at(fleet, held, a_job("large", gpu=4, ranks=2)).stops == ()
    assert looked_at(fleet, held, a_job("over", gpu=1, project="q"), quotas={"q": Quota(gpu_milli=0)}).stops == ()
    assert looked_at(fleet, held, a_job("never", gpu=1, model="H100")).stops != ()
    later = a_job("later", gpu=1, not_before=NOW + timedelta(hours=1))
    assert looked_at(fleet, held, later).stops != ()


def test_quota_bounds_what_is_gained() -> None:
    fleet = a_fleet(2, 4)
    held = small(fleet)
    assert looked_at(fleet, held, quotas={"p": Quota(gpu_milli=2000)}).stops == ()
    (stop,) = looked_at(fleet, held, quotas={"p": Quota(gpu_milli=3000)}).stops
    assert "3 ranks instead of 2" in stop.sentence


def test_the_largest_gain_comes_first_and_several_grow_at_once() -> None:
    fleet = a_fleet(1, 8)
    a, b = running(fleet, elastic("a", most=1), elastic("b", most=1))
    a = replace(a, ranks_max=3, request=elastic("a", most=3))
    b = replace(b, ranks_max=4, request=elastic("b", most=4))
    done = looked_at(fleet, [a, b])
    assert [stop.job_id for stop in done.stops] == ["b", "a"]
    assert "go on with 4 ranks instead of 1" in done.stops[0].sentence
    assert "go on with 3 ranks instead of 1" in done.stops[1].sentence
    bounded = looked_at(fleet, [a, b], rules=replace(RULES, most_stops_for=1))
    assert [stop.job_id for stop in bounded.stops] == ["b"]
    for devices, grown in ((5, ["b", "a"]), (4, ["b"])):  # of 5 both gain, 3 and 2; of 4 b would have none of it
        tight = running(a_fleet(1, devices), elastic("a", most=1), elastic("b", most=1))
        tight = [replace(tight[0], request=a.request, ranks_max=3), replace(tight[1], request=b.request, ranks_max=4)]
        assert [stop.job_id for stop in looked_at(a_fleet(1, devices), tight).stops] == grown
    budget = replace(RULES, most_lost_device_s=15.0)  # 10 s are lost of each
    assert len(looked_at(fleet, [a, b], rules=budget).stops) == 1
    assert looked_at(fleet, [a, replace(b, is_stopping=True)]).stops == ()
    assert [stop.job_id for stop in looked_at(fleet, [a, replace(b, may_stop=False)]).stops] == ["a"]


def test_what_the_next_plan_starts_with_is_what_was_told() -> None:
    """A job whose first choice has room again goes there, though with fewer ranks: that is no gain, and no stop."""
    fleet = a_fleet(4, 4)
    (only,) = running(fleet, elastic(most=3))
    held = [replace(only, ranks_max=4, request=elastic(most=4))]
    held += [
        holding(f"o{n}", node, devices=(0,)) for n, node in enumerate(("n1", "n2", "n3")) if only.ranks[0].node != node
    ]
    assert len(looked_at(fleet, held).stops) == 1
    held[0] = replace(held[0], request=replace(elastic(most=4, gpu=4), alternatives=(elastic(most=4).ask,)))
    assert looked_at(fleet, held).stops == ()


@st.composite
def pools(draw: st.DrawFn) -> tuple[Fleet, list[Holding], list[Request]]:
    """Elastic jobs of many sizes, some of which got less than they want."""
    fleet = a_fleet(draw(st.integers(1, 3)), draw(st.integers(2, 8)))
    held: list[Holding] = []
    for number in range(draw(st.integers(1, 5))):
        gpu = draw(st.sampled_from([0.5, 1, 1, 2]))
        most, got = draw(st.integers(1, 8)), draw(st.integers(1, 4))
        asked = elastic(f"j{number}", most=max(most, got), gpu=gpu)
        small = replace(asked, ranks=got)
        if plan(snapshot_of_rows(fleet, holdings=held, requests=[small]), NOW).starts:
            (*held,) = running(fleet, small, beside=held, ago_s=draw(st.sampled_from([10.0, 1000.0])))
            held[-1] = replace(held[-1], ranks_max=asked.ranks, request=asked)
    waiting = [a_job(f"w{number}", gpu=1, ranks=draw(st.integers(1, 3))) for number in range(draw(st.integers(0, 2)))]
    return fleet, held, waiting


@settings(max_examples=60, deadline=None)
@given(pools())
def test_growth_comes_to_rest_and_never_takes_from_anyone(pool: tuple[Fleet, list[Holding], list[Request]]) -> None:
    fleet, held, waiting = pool
    now, asked = NOW, {h.job_id: h.request for h in held if h.request}
    resized_at: dict[str, datetime] = {}
    last = sum(len(h.ranks) for h in held)
    for _ in range(12):
        done = plan(replace(snapshot_of_rows(fleet, holdings=held, requests=waiting), rules=RULES), now)
        assert plan(
            replace(snapshot_of_rows(fleet, holdings=held[::-1], requests=waiting[::-1]), rules=RULES), now
        ).stops == done.stops  # fmt: skip
        if not done.starts and not done.stops:
            break
        held = started(held, done, waiting, asked, now)
        waiting = [one for one in waiting if one.job_id not in {s.job_id for s in done.starts}]
        resized = [stop.job_id for stop in done.stops]
        if resized:
            assert all(wait.reason == "Backoff" for wait in done.waits)
            was = {h.job_id: len(h.ranks) for h in held}
            for job_id in resized:
                assert now - resized_at.get(job_id, now - timedelta(days=1)) >= timedelta(seconds=RULES.regrow_s)
                resized_at[job_id] = now
            held = [h for h in held if h.job_id not in resized]
            again = [asked[job_id] for job_id in resized]
            back = plan(replace(snapshot_of_rows(fleet, holdings=held, requests=again), rules=RULES), now)
            held = started(held, back, again, asked, now)
            assert {s.job_id for s in back.starts} == set(resized)
            gained = [len(s.ranks) - was[s.job_id] for s in back.starts]
            assert min(gained) > 0
        assert sum(len(h.ranks) for h in held) >= last
        last = sum(len(h.ranks) for h in held)
        now += timedelta(seconds=RULES.regrow_s)
        held = [replace(h, saved_at=now) for h in held]
    else:
        pytest.fail("it does not come to rest")


@settings(max_examples=100, deadline=None)
@given(pools(), st.randoms(use_true_random=False))
def test_whoever_is_back_first_nobody_has_less_than_before(
    pool: tuple[Fleet, list[Holding], list[Request]], random: Random
) -> None:
    """Work that is stopped to grow does not give back at the same time."""
    fleet, held, _ = pool
    asked = {h.job_id: h.request for h in held if h.request}
    was = {h.job_id: len(h.ranks) for h in held}
    stops = [stop.job_id for stop in looked_at(fleet, held).stops]
    assert len(stops) <= RULES.most_stops_for
    random.shuffle(stops)
    waiting: list[Request] = []
    for job_id in stops:
        held = [h for h in held if h.job_id != job_id]
        waiting = [*waiting, asked[job_id]]
        done = plan(replace(snapshot_of_rows(fleet, holdings=held, requests=waiting), rules=RULES), NOW)
        held = started(held, done, waiting, asked, NOW)
        waiting = [one for one in waiting if one.job_id not in {s.job_id for s in done.starts}]
    assert waiting == []
    snapshot = snapshot_of_rows(fleet, holdings=held)
    assert snapshot.device_milli.min(initial=0) >= 0
    assert all(len(h.ranks) >= was[h.job_id] for h in held)


def started(
    held: list[Holding], done: Plan, waiting: list[Request], asked: dict[str, Request], now: datetime
) -> list[Holding]:
    made = after(snapshot_of_rows(a_fleet(1, 1), requests=waiting), done, now)
    return held + [
        replace(h, may_stop=True, request=asked[h.job_id], ranks_max=asked[h.job_id].ranks, saved_at=now)
        if h.job_id in asked else h for h in made
    ]  # fmt: skip


def test_a_snapshot_of_rows_keeps_what_jobs_ask_for() -> None:
    fleet = a_fleet(1, 2)
    snapshot: Snapshot = snapshot_of_rows(fleet, holdings=small(fleet, 1))
    assert snapshot.holdings[0].request == elastic(most=8)
