"""What is stopped for whom, what is left alone, and that it comes to an end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Holding, Reason, Request, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.preempt import RANK
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import NOW, a_fleet, a_job, holding, why
from tests.scheduling.test_properties import check_capacity

CORE, NORMAL, LOW = TaskClass.CORE, TaskClass.NORMAL, TaskClass.LOW


def runs(
    job_id: str, node: str, *devices: int, since_s: float = -3600, task_class: TaskClass = LOW, **more: Any
) -> Holding:
    """A job that could be stopped, on whole devices of a node."""
    more = {"may_stop": True, **more}
    return holding(job_id, node, devices=devices, started_s=since_s, task_class=task_class, **more)


def stopped(snapshot: Snapshot) -> list[str]:
    return [stop.job_id for stop in plan(snapshot, NOW).stops]


def urgent(gpu: float = 2, task_class: TaskClass = CORE, **more: Any) -> Request:
    return a_job("want", gpu=gpu, task_class=task_class, **more)


class TestWhatIsStopped:
    def test_the_cheapest_that_is_enough(self) -> None:
        held = [
            runs("saved", "n0", 0, 1, saved_at=NOW - timedelta(seconds=10)),
            runs("long", "n0", 2, 3),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=[urgent()]), NOW)
        assert [(stop.job_id, stop.for_job, stop.lost_device_s) for stop in done.stops] == [("saved", "want", 20.0)]
        assert why(done) == {"want": "Preempting"}
        assert done.waits[0].blocking_job == "saved"

    def test_a_lower_class_before_a_cheaper_one(self) -> None:
        held = [runs("normal", "n0", 0, 1, saved_at=NOW, task_class=NORMAL), runs("low", "n0", 2, 3)]
        assert stopped(snapshot_of_rows(a_fleet(1), holdings=held, requests=[urgent()])) == ["low"]

    def test_what_is_not_needed_is_let_off(self) -> None:
        """The small ones come first by cost, and the large one alone makes room."""
        held = [
            runs("tiny", "n0", 0, saved_at=NOW - timedelta(seconds=1)),
            runs("large", "n0", 1, 2, 3, saved_at=NOW - timedelta(seconds=9)),
        ]  # fmt: skip
        assert stopped(snapshot_of_rows(a_fleet(1), holdings=held, requests=[urgent(3)])) == ["large"]

    def test_all_on_one_node_for_whole_devices(self) -> None:
        held = [runs(f"{node}{i}", node, i) for node in ("n0", "n1") for i in range(4)]
        done = stopped(snapshot_of_rows(a_fleet(2), holdings=held, requests=[urgent(4)]))
        assert len(done) == 4
        assert len({job_id[:2] for job_id in done}) == 1

    def test_a_gang_over_nodes(self) -> None:
        held = [runs("a", "n0", 0, 1, 2, 3), runs("b", "n1", 0, 1, 2, 3)]
        assert sorted(stopped(snapshot_of_rows(a_fleet(2), holdings=held, requests=[urgent(4, ranks=2)]))) == ["a", "b"]


class TestWhatIsLeftAlone:
    @pytest.mark.parametrize(
        ("held", "asked"),
        [
            ({"task_class": CORE}, {}),
            ({"task_class": NORMAL}, {"task_class": NORMAL}),
            ({"may_stop": False}, {}),
            ({"since_s": -10}, {}),
            ({"is_stopping": True}, {}),
            ({}, {"gpu": 8}),
            ({}, {"not_before": NOW + timedelta(seconds=60)}),
        ],
        ids=["as high", "as normal", "could not go on", "has just begun", "stops already", "too large", "not yet"],
    )
    def test_nothing(self, held: dict[str, Any], asked: dict[str, Any]) -> None:
        snapshot = snapshot_of_rows(
            a_fleet(1), holdings=[runs("a", "n0", 0, 1, 2, 3, **held)], requests=[urgent(**asked)]
        )
        assert stopped(snapshot) == []

    def test_where_the_rules_say_so(self) -> None:
        snapshot = snapshot_of_rows(a_fleet(1), holdings=[runs("a", "n0", 0, 1, 2, 3)], requests=[urgent()])
        assert stopped(snapshot) == ["a"]
        assert stopped(replace(snapshot, rules=Rules(preempts=False))) == []
        assert stopped(replace(snapshot, rules=Rules(most_lost_device_s=4 * 3600))) == ["a"]
        assert stopped(replace(snapshot, rules=Rules(most_lost_device_s=4 * 3600, lost_device_s=1))) == []

    def test_a_second_job_gets_what_the_first_leaves(self) -> None:
        """One stop of four devices makes room for two jobs of two."""
        held = [runs("a", "n0", 0, 1, 2, 3)]
        both = [urgent(), replace(urgent(), job_id="too")]
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=both), NOW)
        assert [stop.job_id for stop in done.stops] == ["a"]
        assert why(done) == {"want": "Preempting", "too": "Preempting"}

    def test_room_that_comes_by_itself_is_waited_for(self) -> None:
        held = [
            runs("going", "n0", 0, 1, is_stopping=True, ends_in_s=20),
            runs("a", "n0", 2, 3),
        ]  # fmt: skip
        done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=[urgent()]), NOW)
        assert done.stops == ()
        assert why(done) == {"want": "Preempting"}


classes = st.sampled_from([LOW, NORMAL, CORE])


@st.composite
def crowded(draw: st.DrawFn) -> Snapshot:
    """A small pool full of work of all classes, some of which could be stopped, and more that waits."""
    fleet = a_fleet(draw(st.integers(1, 3)), 4)
    first = [
        a_job(
            f"old{number}", gpu=draw(st.sampled_from([0.5, 1, 2, 4])), task_class=draw(classes),
            after_s=-number,
        )
        for number in range(draw(st.integers(1, 10)))
    ]  # fmt: skip
    started = plan(snapshot_of_rows(fleet, requests=first), NOW).starts
    class_of = {one.job_id: one.task_class for one in first}
    held = [
        Holding(
            s.job_id, s.project_id, s.cluster, s.ranks, NOW - timedelta(seconds=draw(st.integers(0, 9000))),
            task_class=class_of[s.job_id], may_stop=draw(st.booleans()),
        ) for s in started
    ]  # fmt: skip
    waiting = [
        a_job(
            f"new{number}", gpu=draw(st.sampled_from([0.5, 1, 2, 4])), task_class=draw(classes),
            ranks=draw(st.sampled_from([1, 1, 2])), after_s=number,
        )
        for number in range(draw(st.integers(1, 6)))
    ]  # fmt: skip
    return snapshot_of_rows(fleet, holdings=held, requests=waiting)


@settings(deadline=None)
@given(crowded())
def test_stops_are_of_less_right_and_make_room(snapshot: Snapshot) -> None:
    done = plan(snapshot, NOW)
    held, waiting = {h.job_id: h for h in snapshot.holdings}, {r.job_id: r for r in snapshot.requests}
    ids = [stop.job_id for stop in done.stops]
    assert len(ids) == len(set(ids))
    for stop in done.stops:
        assert held[stop.job_id].may_stop
        assert RANK[held[stop.job_id].task_class] < RANK[waiting[stop.for_job].task_class]
        assert NOW - held[stop.job_id].started_at >= timedelta(seconds=snapshot.rules.min_run_s)
    # Carried out, the jobs that they are for start.
    left = [h for h in snapshot.holdings if h.job_id not in ids]
    left += [Holding(s.job_id, s.project_id, s.cluster, s.ranks, NOW) for s in done.starts]
    promised, started = {stop.for_job for stop in done.stops}, {s.job_id for s in done.starts}
    rest = [replace(r, is_promised=r.job_id in promised) for r in snapshot.requests if r.job_id not in started]
    then = plan(snapshot_of_rows(snapshot.fleet, holdings=left, requests=rest), NOW)
    assert promised <= {start.job_id for start in then.starts}
    assert plan(replace(snapshot, requests=snapshot.requests[::-1]), NOW).stops == done.stops


@settings(deadline=None, max_examples=60)
@given(crowded(), st.randoms(use_true_random=False))
def test_it_comes_to_rest(snapshot: Snapshot, chance: Any) -> None:
    """Stops and starts carried out in any order, with nothing new and no other end: after a while nothing moves."""
    fleet, now = snapshot.fleet, NOW
    held = list(snapshot.holdings)
    requests = {r.job_id: r for r in snapshot.requests}
    again = {h.job_id: _again(h) for h in held}
    moves = 0
    for _ in range(60):
        check_capacity(fleet, held)
        done = plan(snapshot_of_rows(fleet, holdings=held, requests=list(requests.values())), now)
        stops = {stop.job_id for stop in done.stops}
        if not done.starts and not stops and not any(h.is_stopping for h in held):
            break
        for start in done.starts:
            moves += 1
            request = replace(requests.pop(start.job_id), is_promised=False)
            again[start.job_id] = request
            held.append(Holding(
                start.job_id, start.project_id, start.cluster, start.ranks, now, task_class=request.task_class,
                may_stop=True,
            ))  # fmt: skip
        held = [
            replace(h, is_stopping=True, ends_at=now + timedelta(seconds=30)) if h.job_id in stops else h for h in held
        ]
        moves += len(stops)
        for stop in done.stops:
            requests[stop.for_job] = replace(requests[stop.for_job], is_promised=True)
        over = [h for h in held if h.is_stopping and chance.random() < 0.6]
        for each in over:
            held.remove(each)
            requests[each.job_id] = again[each.job_id]
        now += timedelta(seconds=chance.choice([5, 400]))
    else:
        pytest.fail("it does not come to rest")
    assert moves <= 4 * (len(again) + len(requests)) ** 2


def _again(h: Holding) -> Request:
    gpu = h.total()[0] / 1000
    return a_job(h.job_id, gpu=gpu / len(h.ranks), ranks=len(h.ranks), task_class=h.task_class, after_s=-1000)


def test_a_preempted_head_keeps_its_place_while_stops_go_on() -> None:
    """Its start is prepared: smaller work does not take what the first of two stops gives back."""
    held = [runs("b", "n0", 2, 3, is_stopping=True, ends_in_s=30)]
    waiting = [urgent(4), a_job("small", gpu=1, task_class=CORE, after_s=5)]
    done = plan(snapshot_of_rows(a_fleet(1), holdings=held, requests=waiting), NOW)
    assert done.starts == ()
    assert why(done) == {"want": "Preempting", "small": str(Reason.RESERVED)}
