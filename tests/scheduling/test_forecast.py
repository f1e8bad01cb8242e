"""The plan of the future: against a step-by-step replay, its bounds, and what it says when it cannot tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings

from dujiang.scheduling.domain import Reason, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.forecast import Expected, Unknown, forecast, steps_for
from tests.scheduling.building import NOW, a_fleet, a_job, after, holding
from tests.scheduling.test_properties import worlds


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def times(found: dict[str, Expected]) -> dict[str, float | None]:
    return {one: None if told.at is None else (told.at - NOW).total_seconds() for one, told in found.items()}


def replayed(snapshot: Snapshot) -> dict[str, datetime]:
    """Let everything take the whole of its limit, moment by moment, with the world made anew each time.

    Moments are those at which something ends, may begin, moves up for its deadline, or must start to keep it; and the
    middle between each two, since the platform plans all the time: nothing may start there.
    """
    started: dict[str, datetime] = {}
    held, waiting, slots, now = list(snapshot.holdings), list(snapshot.requests), snapshot.slots, NOW
    is_between = False
    while True:
        free = snapshot_of_rows(snapshot.fleet, holdings=held)
        world = replace(
            snapshot, node_free=free.node_free, device_milli=free.device_milli, device_memory=free.device_memory,
            holdings=tuple(held), requests=tuple(waiting), slots=slots,
        )  # fmt: skip
        done = plan(world, now, telling=False)
        held, slots = after(world, done, now), done.slots
        started |= {start.job_id: now for start in done.starts}
        waiting = [one for one in waiting if one.job_id not in started]
        moments = [one.ends_at for one in held if one.ends_at] + [one.not_before for one in waiting if one.not_before]
        moments += [at for window in snapshot.windows for at in (window.begins_at, window.ends_at)]
        moments += [one.moves_up_at for one in waiting if one.moves_up_at] + [slot.at for slot in slots]
        later = [moment for moment in moments if moment > now]
        if not later:
            return started
        is_between = not is_between
        now = now + (min(later) - now) / 2 if is_between else min(later)
        held = [one for one in held if one.ends_at is None or one.ends_at > now]


@given(worlds())
@settings(max_examples=100)
def test_with_steps_enough_it_is_a_replay_moment_by_moment(snapshot: Snapshot) -> None:
    found = forecast(snapshot, NOW, most_steps=1000)
    assert sorted(found) == sorted(request.job_id for request in snapshot.requests)
    told = {one: each.at for one, each in found.items() if each.at is not None}
    assert told == replayed(snapshot)
    for one, each in found.items():
        assert each.is_certain is (each.at is not None)
        assert (each.start is None) is (each.at is None) is (each.unknown is not None), one


@given(worlds())
@settings(max_examples=100)
def test_what_starts_at_once_is_what_the_plan_starts(snapshot: Snapshot) -> None:
    done = plan(snapshot, NOW, telling=False)
    places = {start.job_id: start for start in done.starts}
    for most in (1, 3, None):
        found = forecast(snapshot, NOW, most_steps=most)
        assert {one: each.start for one, each in found.items() if each.at == NOW and each.after is None} == places


@given(worlds())
@settings(max_examples=100)
def test_the_head_of_the_queue_starts_no_later_than_its_reservation_says(snapshot: Snapshot) -> None:
    """With fewer steps than ends it may be told too late, and then between two moments."""
    waits = plan(snapshot, NOW, changes=0).waits
    heads = [wait for wait in waits if wait.earliest and wait.position == 1 and wait.reason is not Reason.BACKOFF]
    for wait in heads:
        found = forecast(snapshot, NOW, job_id=wait.job_id, most_steps=1000)[wait.job_id]
        assert found.at is not None
        assert wait.earliest is not None
        assert found.at <= wait.earliest


@given(worlds())
@settings(max_examples=50)
def test_few_steps_are_never_too_early_for_one_that_waits_for_ends_alone(snapshot: Snapshot) -> None:
    """A lone waiting job: groups of ends can only make its start later, and the moment before says how much."""
    for request in snapshot.requests:
        alone = replace(snapshot, requests=(request,))
        exact, rough = (forecast(alone, NOW, most_steps=most)[request.job_id] for most in (1000, 2))
        if exact.at is None or rough.at is None:
            continue
        assert rough.at >= exact.at
        assert rough.after is None or rough.after < exact.at or rough.at == exact.at


def test_a_queue_of_jobs_that_follow_one_another() -> None:
    fleet = a_fleet(1, 4)
    held = [holding("h", "n0", devices=(0, 1, 2, 3), ends_in_s=100)]
    jobs = [a_job(f"j{n}", gpu=4, after_s=n, runs_at_most_s=50) for n in range(3)]
    snapshot = snapshot_of_rows(fleet, holdings=held, requests=jobs)
    assert times(forecast(snapshot, NOW)) == {"j0": 100, "j1": 150, "j2": 200}
    alone = forecast(snapshot, NOW, job_id="j1")
    assert times(alone) == {"j1": 150}
    start = alone["j1"].start
    assert start is not None
    assert (start.cluster, [rank.node for rank in start.ranks]) == ("c", ["n0"])
    assert (alone["j1"].after, alone["j1"].is_certain) == (None, True)
    assert forecast(snapshot, NOW, job_id="nobody") == {}


def test_a_job_that_moves_up_for_its_deadline_is_told_by_then() -> None:
    """Nothing ends and nothing begins then, and yet it starts: it stands first once it has no more time to wait."""
    held = [holding("h", "n0", devices=(0,))]
    jobs = [
        a_job("endless", gpu=0.125, cpu=1),
        a_job("due", gpu=1, after_s=1, runs_at_most_s=60, deadline=NOW + timedelta(hours=1)),
    ]
    snapshot = snapshot_of_rows(a_fleet(1, 2, cpu=4), holdings=held, requests=jobs)
    assert replayed(snapshot) == {"due": at(3480), "endless": at(3540)}
    assert times(forecast(snapshot, NOW)) == {"due": 3480, "endless": 3540}


def test_what_is_expected_is_believed_and_marked() -> None:
    fleet = a_fleet(1, 1)
    held = replace(holding("h", "n0", devices=(0,), ends_in_s=1000), expected_end=at(60))
    jobs = [a_job("j0", gpu=1, runs_at_most_s=500, expected_s=20), a_job("j1", gpu=1, after_s=1)]
    found = forecast(snapshot_of_rows(fleet, holdings=[held], requests=jobs), NOW)
    assert times(found) == {"j0": 60, "j1": 80}
    assert not found["j0"].is_certain
    passed = replace(held, expected_end=at(-60))  # it should have been over: only its limit is left to go by
    found = forecast(snapshot_of_rows(fleet, holdings=[passed], requests=jobs), NOW)
    assert (times(found), found["j0"].is_certain, found["j1"].is_certain) == ({"j0": 1000, "j1": 1020}, True, False)
    overdue = replace(held, expected_end=None, ends_at=at(-5))  # it is being ended: as if it were
    assert times(forecast(snapshot_of_rows(fleet, holdings=[overdue], requests=jobs), NOW)) == {"j0": 0, "j1": 20}


def test_why_no_start_can_be_told() -> None:
    fleet = a_fleet(1, 2)
    endless = snapshot_of_rows(fleet, holdings=[holding("h", "n0", devices=(0, 1))], requests=[a_job("j", gpu=1)])
    assert forecast(endless, NOW)["j"].unknown is Unknown.ENDS
    far = snapshot_of_rows(
        fleet, holdings=[holding("h", "n0", devices=(0, 1), ends_in_s=5000)], requests=[a_job("j", gpu=1)]
    )
    assert forecast(far, NOW, horizon_s=4999)["j"].unknown is Unknown.HORIZON
    assert times(forecast(far, NOW, horizon_s=5000)) == {"j": 5000}
    queue = [a_job(f"j{n}", gpu=2, after_s=n, runs_at_most_s=10) for n in range(9)]
    assert forecast(snapshot_of_rows(fleet, requests=queue), NOW, most_steps=3)["j8"].unknown is Unknown.STEPS


def test_many_ends_are_passed_in_groups_that_grow() -> None:
    fleet = a_fleet(64, 1)
    held = [holding(f"h{n:02}", f"n{n}", devices=(0,), ends_in_s=10 * (n + 1)) for n in range(64)]
    for wanted in (1, 5, 20, 60):
        job = a_job("j", gpu=1, ranks=wanted)
        exact = forecast(snapshot_of_rows(fleet, holdings=held, requests=[job]), NOW, most_steps=65)["j"]
        assert exact.at == at(10 * wanted)
        rough = forecast(snapshot_of_rows(fleet, holdings=held, requests=[job]), NOW, most_steps=8)["j"]
        assert rough.at is not None
        assert (rough.after or NOW) < exact.at <= rough.at
        assert rough.after is not None or rough.at == exact.at
        assert rough.at - exact.at <= (exact.at - NOW) * 2 or wanted == 1
        assert wanted > 1 or rough.at == exact.at


def test_steps_are_fewer_where_each_costs_more() -> None:
    small = snapshot_of_rows(a_fleet(10, 8))
    assert steps_for(small) == 64
    many = replace(small, requests=tuple(a_job(f"j{n}") for n in range(10_000)))
    assert 4 <= steps_for(many) < 64


def test_what_is_stopped_for_it_lets_it_start_and_is_a_guess() -> None:
    fleet = a_fleet(1, 1)
    low = replace(holding("low", "n0", devices=(0,), started_s=-5000), task_class=TaskClass.LOW, weight=0.2,
                  may_stop=True, saved_at=at(-10))  # fmt: skip
    core = a_job("core", gpu=1, task_class=TaskClass.CORE)
    snapshot = snapshot_of_rows(fleet, holdings=[low], requests=[core])
    assert [stop.job_id for stop in plan(snapshot, NOW).stops] == ["low"]
    found = forecast(snapshot, NOW, job_id="core")["core"]
    assert (found.at, found.is_certain) == (at(30), False)
