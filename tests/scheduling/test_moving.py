"""Which moves are made by themselves, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Fleet, Holding, Level, Request, Snapshot, StopWhy, plan, snapshot_of_rows
from dujiang.scheduling.domain.moving import MovePolicy, advise
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import NOW, a_fleet, a_job, holding

ACTS = MovePolicy(acts=True, fresh_s=600.0, most=4, most_hourly=12)


def share(job_id: str, node: str, device: int, *, milli: int = 500, **more: Any) -> Holding:
    """A share of a device that saved itself ten seconds ago."""
    asked = a_job(job_id, gpu=milli / 1000, after_s=-9000)
    known = {"request": asked, "saved_at": NOW - timedelta(seconds=10), "may_stop": True, "started_s": -4000.0, **more}
    return holding(job_id, node, devices=(device,), milli=milli, **known)


def a_pool(*waiting: Request, fleet: Fleet | None = None, **more: Any) -> Snapshot:
    """Two nodes of two devices: a share on each of two, and who wants two devices on one node finds none."""
    held = [share("a", "n0", 0, **more), share("b", "n1", 0)]
    return snapshot_of_rows(fleet or a_fleet(2, 2), holdings=held, requests=waiting)


PAIR = a_job("pair", gpu=2)


def test_what_makes_a_device_wholly_free_where_one_is_wanted_is_moved_by_itself() -> None:
    snapshot = a_pool(PAIR)
    assert [wait.job_id for wait in plan(snapshot, NOW).waits] == ["pair"]
    found = advise(snapshot, NOW, ACTS)
    assert (found.waiting, found.movable) == (1, 2)
    (stop,) = found.stops
    (one,) = found.moves
    assert (one.why_not, one.move.whole_devices, one.move.cost_device_s) == ("", 1, 5.0)
    assert (stop.job_id, stop.why, stop.for_job, stop.lost_device_s) == (one.move.job_id, StopWhy.MOVED, "", 5.0)
    # Carried out, it starts on the other node, and the pair too.
    (moved,) = [held for held in snapshot.holdings if held.job_id == stop.job_id]
    left = [held for held in snapshot.holdings if held is not moved]
    assert moved.request is not None
    done = plan(snapshot_of_rows(snapshot.fleet, holdings=left, requests=[PAIR, moved.request]), NOW)
    assert {start.job_id for start in done.starts} == {"pair", stop.job_id}


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (replace(ACTS, acts=False), "only advised"), (replace(ACTS, moved_this_hour=12), "most_moves_hourly"),
        (replace(ACTS, most_hourly=0), "most_moves_hourly"),
    ],
)  # fmt: skip
def test_what_is_not_to_be_moved_is_told_with_its_reason(policy: MovePolicy, why: str) -> None:
    found = advise(a_pool(PAIR), NOW, policy)
    assert found.stops == ()
    assert [why in one.why_not for one in found.moves] == [True]


def test_the_other_reasons_why_a_move_is_not_made() -> None:
    idle = advise(a_pool(), NOW, ACTS)
    assert (idle.waiting, idle.stops) == (0, ())
    busy = a_pool(PAIR)
    busy = replace(busy, holdings=(busy.holdings[0], replace(busy.holdings[1], is_stopping=True)))
    assert ["being stopped" in one.why_not for one in advise(busy, NOW, ACTS).moves] == [True]
    poor = replace(a_pool(PAIR), rules=Rules(most_lost_device_s=100.0, lost_device_s=96.0))
    assert ["most_lost_device_s" in one.why_not for one in advise(poor, NOW, ACTS).moves] == [True]
    far = a_job("b", gpu=0.5, selector=(("name", "n1"),))
    held = [
        share("a", "n0", 0, request=a_job("a", gpu=0.5, selector=(("name", "n0"),))),
        share("b", "n1", 0, request=far),
    ]
    bound = snapshot_of_rows(a_fleet(2, 2), holdings=held, requests=[PAIR])
    assert advise(bound, NOW, ACTS).moves == (), "each may run where it is alone"
    one_way = replace(bound, holdings=(held[0], share("b", "n1", 0)))
    assert [(one.move.job_id, one.move.target.node) for one in advise(one_way, NOW, ACTS).moves] == [("b", "n0")]


def test_work_that_the_next_plan_would_not_put_elsewhere_is_left_alone() -> None:
    snapshot = a_pool(PAIR)
    whole = a_job("a", gpu=1, alternatives=(a_job(gpu=0.5).ask,))
    held = tuple(replace(one, request=replace(whole, job_id=one.job_id)) for one in snapshot.holdings)
    found = advise(replace(snapshot, holdings=held), NOW, ACTS)
    assert ["another of its alternatives" in one.why_not for one in found.moves] == [True]
    # All nodes are kept for a larger job from the moment on at which the other share ends.
    large = a_job("large", gpu=2, ranks=2, weight=0.6)
    kept = snapshot_of_rows(
        a_fleet(2, 2), holdings=[share("a", "n0", 0), share("b", "n1", 0, ends_in_s=60, may_stop=False)],
        requests=[large],
    )  # fmt: skip
    found = advise(kept, NOW, ACTS)
    assert ["would not start again at once" in one.why_not for one in found.moves] == [True]
    assert found.stops == ()


@pytest.mark.parametrize(
    "changed",
    [
        {"may_stop": False}, {"is_stopping": True}, {"saved_at": None}, {"request": None},
        {"saved_at": NOW - timedelta(seconds=601)}, {"started_at": NOW - timedelta(seconds=299)},
    ],
    ids=["could not go on", "stops already", "never saved", "asks unknown", "saved long ago", "has just begun"],
)  # fmt: skip
def test_who_may_not_be_moved_is_not_proposed(changed: dict[str, Any]) -> None:
    snapshot = a_pool(PAIR)
    held = tuple(replace(one, **changed) for one in snapshot.holdings)
    found = advise(replace(snapshot, holdings=held), NOW, ACTS)
    assert (found.movable, found.moves, found.stops) == (0, (), ())


def test_ranks_that_must_lie_together_stay_and_others_of_a_gang_are_only_told_of() -> None:
    fleet = a_fleet(3, 2)
    first, second = share("g", "n0", 0), share("g", "n1", 0)
    ranks = (first.ranks[0], replace(second.ranks[0], rank=1))
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"within": Level.SITE}, False),
        ({"spread": Level.NODE}, False),
    ]
    for where, moves in cases:
        asked = a_job("g", gpu=0.5, ranks=2, **where)
        gang = replace(first, ranks=ranks, request=asked)
        held = [gang, share("o", "n2", 0, milli=250, may_stop=False)]
        snapshot = snapshot_of_rows(fleet, holdings=held, requests=[a_job("w", gpu=2)])
        found = [one for one in advise(snapshot, NOW, ACTS).moves if one.move.job_id == "g"]
        assert bool(found) is moves
        assert all("All its 2 ranks" in one.why_not for one in found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_that_are_made_come_to_rest_and_each_helps(data: st.DataObject) -> None:
    """Stopped, started again by the plan, looked at again: whoever is stopped starts elsewhere, and it ends."""
    fleet = a_fleet(data.draw(st.integers(2, 4)), 2)
    held: list[Holding] = []
    for number in range(data.draw(st.integers(1, 9))):
        node, device = f"n{data.draw(st.integers(0, fleet.node_count - 1))}", data.draw(st.integers(0, 1))
        one = share(f"j{number}", node, device, milli=data.draw(st.sampled_from([250, 500, 750])))
        if snapshot_of_rows(fleet, holdings=[*held, one]).device_milli.min() >= 0:
            held.append(one)
    waiting = [a_job(f"w{n}", gpu=data.draw(st.sampled_from([1, 2]))) for n in range(data.draw(st.integers(0, 3)))]
    for _ in range(12):
        snapshot = snapshot_of_rows(fleet, holdings=held, requests=waiting)
        found = advise(snapshot, NOW, ACTS)
        if not found.stops:
            break
        stopped = {stop.job_id: one for stop in found.stops for one in held if one.job_id == stop.job_id}
        again = [one.request for one in stopped.values() if one.request is not None]
        left = [one for one in held if one.job_id not in stopped]
        then = snapshot_of_rows(fleet, holdings=left, requests=[*waiting, *again])
        starts = {start.job_id: start for start in plan(then, NOW).starts}
        assert set(stopped) <= set(starts)
        for job_id, was in stopped.items():
            assert starts[job_id].ranks[0].node != was.ranks[0].node
        held = left + [replace(one, ranks=starts[job_id].ranks) for job_id, one in stopped.items()]
        held += [Holding(s.job_id, "p", s.cluster, s.ranks, NOW) for s in starts.values() if s.job_id not in stopped]
        waiting = [one for one in waiting if one.job_id not in starts]
    else:
        pytest.fail("it does not come to rest")
