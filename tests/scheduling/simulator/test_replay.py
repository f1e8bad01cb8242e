"""Replays on the live plan: tiny ones by hand, and what holds of every one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.domain import Fleet, Plan, Quota, Request, Snapshot, TaskClass, plan, snapshot_of_rows
from dujiang.scheduling.domain.rules import Rules as PlanRules
from dujiang.scheduling.domain.turns import Turns
from dujiang.scheduling.simulator.faults import Fault
from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue import Rules, TooLarge, simulate
from dujiang.scheduling.simulator.replay import Repeated, replay
from dujiang.scheduling.simulator.replay_figures import figures
from dujiang.scheduling.simulator.replay_traces import simulate_live, works_of
from dujiang.scheduling.simulator.replay_work import Past, Terms, Work
from dujiang.scheduling.simulator.what_if import (
    BadChange,
    Changes,
    base_of_snapshot,
    changed,
    parse_nodes,
    parse_quota,
    parse_rules,
)
from tests.scheduling.building import NOW, a_fleet, a_job, holding

CORE, LOW = TaskClass.CORE, TaskClass.LOW


def work(job_id: str, at_s: float, runs_s: float, *, may_stop: bool = True, **more: Any) -> Work:
    return Work(a_job(job_id, after_s=at_s, **more), at_s, runs_s, may_stop)


def run(
    fleet: Fleet, works: Sequence[Work], *, rules: PlanRules | None = None, quotas: Any = None, **terms: Any
) -> Past:
    snapshot = snapshot_of_rows(fleet, quotas=quotas)
    if rules is not None:
        snapshot = replace(snapshot, rules=rules)
    past = replay(snapshot, works, Terms(keeps_spans=True, **terms), NOW)
    check_capacity(fleet, past)
    return past


def spans(past: Past) -> list[tuple[int, float, float]]:
    return [(span.number, span.begin_s, span.end_s) for span in past.spans]


def check_capacity(fleet: Fleet, past: Past) -> None:
    """Add up every device and node over all stretches, at each moment at which one begins."""
    for moment in sorted({span.begin_s for span in past.spans}):
        devices: Counter[tuple[str, str, str]] = Counter()
        nodes: Counter[tuple[str, str]] = Counter()
        for span in past.spans:
            if not span.begin_s <= moment < span.end_s:
                continue
            for rank in span.held.ranks:
                nodes[span.held.cluster, rank.node] += rank.cpu_milli
                for share in rank.devices:
                    devices[span.held.cluster, rank.node, share.name] += share.gpu_milli
        assert max(devices.values(), default=0) <= 1000
        assert all(used <= fleet.node_limit[0, fleet.node_at[name]] for name, used in nodes.items())


# -- by hand


def test_a_replay_by_hand() -> None:
    """Two devices: `b` needs both and waits for `a`; `c` would take one of them and stands behind `b`."""
    past = run(a_fleet(1, 2), [work("a", 0, 10, gpu=1), work("b", 1, 10, gpu=2), work("c", 2, 5, gpu=1)])
    assert spans(past) == [(0, 0, 10), (1, 10, 20), (2, 20, 25)]
    assert [fate.waited_s for fate in past.fates] == [0, 9, 18]
    assert (past.busy_s, past.up_s, past.lost_s) == (10 + 20 + 5, 50, 0)
    assert figures([work("a", 0, 10), work("b", 1, 10), work("c", 2, 5)], past)["all_done_s"] == 25


def test_with_exact_limits_a_gap_is_filled() -> None:
    works = [work("a", 0, 10, gpu=1), work("b", 1, 10, gpu=2), work("c", 2, 5, gpu=1)]
    past = run(a_fleet(1, 2), works, knows_run_times=True)
    assert spans(past) == [(2, 2, 7), (0, 0, 10), (1, 10, 20)]


def test_core_work_stops_low_work_which_loses_what_it_had_not_saved() -> None:
    """`low` saves every 400 s; stopped at 1,000 s it has 800; it gives back 30 s later and goes on after `core`."""
    works = [work("low", 0, 2000, gpu=4, task_class=LOW), work("core", 1000, 500, gpu=4, task_class=CORE)]
    past = run(a_fleet(1, 4), works, checkpoint_s=400, restart_s=10)
    assert spans(past) == [(0, 0, 1030), (1, 1030, 1530), (0, 1530, 1530 + 1200 + 10)]
    assert (past.fates[0].stops, past.fates[0].waited_s, past.fates[1].waited_s) == (1, 500, 30)
    assert past.lost_s == 4 * (1030 - 800 + 10)


def test_what_has_just_begun_is_stopped_when_it_may_be() -> None:
    """Nothing is stopped within `min_run_s` of its start; the scheduler looks again when that is over."""
    works = [work("low", 0, 2000, gpu=4, task_class=LOW), work("core", 10, 500, gpu=4, task_class=CORE)]
    past = run(a_fleet(1, 4), works, checkpoint_s=0)
    assert past.fates[1].start_s == 300 + 30
    assert past.fates[0].end_s == 830 + 2000


def test_what_may_not_stop_does_not_and_what_ends_within_its_grace_is_done() -> None:
    works = [work("low", 0, 1000, gpu=4, task_class=LOW, may_stop=False), work("core", 400, 5, gpu=4, task_class=CORE)]
    assert run(a_fleet(1, 4), works).fates[1].start_s == 1000
    works = [work("low", 0, 1000, gpu=4, task_class=LOW), work("core", 990, 5, gpu=4, task_class=CORE)]
    past = run(a_fleet(1, 4), works)
    assert (past.fates[0].end_s, past.fates[0].stops, past.fates[1].start_s) == (1000, 0, 1000)


def test_a_failed_node_sends_its_jobs_back_and_comes_back() -> None:
    """Of two nodes the first fails at 100 s; its job has saved at 60 s and waits for the repair."""
    works = [work("a", 0, 200, gpu=4), work("b", 0, 1000, gpu=4)]
    past = run(a_fleet(2, 4), works, checkpoint_s=60, faults=(Fault(0, 100, 400),))
    hit = next(at for at, fate in enumerate(past.fates) if fate.losses)
    assert past.fates[hit].start_s == 0
    assert [span for span in spans(past) if span[0] == hit] == [(hit, 0, 100), (hit, 400, 400 + works[hit].runs_s - 60)]
    assert past.lost_s == 40 * 4
    assert past.up_s == 8 * past.end_s - 4 * 300


def test_overlapping_faults_of_one_node_are_one() -> None:
    past = run(a_fleet(1, 1), [work("a", 5, 10, gpu=1)], faults=(Fault(0, 0, 50), Fault(0, 20, 30), Fault(7, 0, 90)))
    assert past.fates[0].start_s == 50


def test_quotas_hold_and_what_never_starts_is_told() -> None:
    works = [work("a", 0, 10, gpu=1), work("b", 0, 10, gpu=1), work("c", 0, 10, gpu=9)]
    past = run(a_fleet(1, 4), works, quotas={"p": Quota(gpu_milli=1000)})
    assert [fate.start_s for fate in past.fates] == [0, 10, None]
    told = figures(works, past)
    assert (told["ended"], told["not_started"], told["all_done_s"]) == (2, 1, None)


def test_time_is_up() -> None:
    works = [work("a", 0, 100, gpu=4), work("b", 0, 100, gpu=4), work("c", 500, 1, gpu=4)]
    past = run(a_fleet(1, 4), works, until_s=50)
    assert spans(past) == [(0, 0, 50)]
    assert [fate.waited_s for fate in past.fates] == [0, 50, 0]
    assert (past.end_s, past.busy_s) == (50, 200)


def test_one_job_twice_is_refused() -> None:
    with pytest.raises(Repeated, match="Job a is there twice"):
        run(a_fleet(), [work("a", 0, 1), work("a", 1, 1)])


# -- what holds of every replay

rows = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 400), st.integers(1, 12)), min_size=1, max_size=30)


def trace_of(found: Sequence[tuple[int, int, int]]) -> list[TraceJob]:
    return [TraceJob(str(place), *row, vc=f"vc{row[2] % 2}") for place, row in enumerate(sorted(found))]


@given(found=rows, knows=st.booleans(), gangs=st.sampled_from(["node", "any"]))
@settings(max_examples=50, deadline=None)
def test_passing_over_arrivals_changes_nothing(found: list[tuple[int, int, int]], knows: bool, gangs: str) -> None:
    fleet = a_fleet(3, 4)
    works = works_of(trace_of(found), Rules(3, 4), gangs)
    terms = Terms(knows_run_times=knows, keeps_spans=True, faults=(Fault(1, 50, 120), Fault(0, 200, 260)))
    some, all_ = (
        replay(snapshot_of_rows(fleet), works, replace(terms, passes=passes), datetime(1970, 1, 1, tzinfo=NOW.tzinfo))
        for passes in (True, False)
    )
    check_capacity(fleet, some)
    assert (some.spans, some.fates, some.lost_s) == (all_.spans, all_.fates, all_.lost_s)
    assert all(fate.end_s is not None for fate in some.fates)
    assert all_.passed == 0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_replay_is_repeated_live_planning(seed: int) -> None:
    """A planner that is asked every 50 seconds, on a snapshot made anew each time, does the same."""
    chance = Random(seed)
    works = [
        work(f"j{at:02}", chance.randrange(8) * 100, chance.randrange(1, 9) * 100, gpu=chance.choice([0.5, 1, 2, 4]),
             ranks=chance.choice([1, 1, 2]), task_class=chance.choice(list(TaskClass)))
        for at in range(12)
    ]  # fmt: skip
    fleet = a_fleet(2, 4)
    past = run(fleet, works, grace_s=50, checkpoint_s=100)
    assert spans_by_job(past) == by_polling(fleet, works, step_s=50, grace_s=50)
    assert past.fates == run(fleet, works, grace_s=50, checkpoint_s=100).fates  # nothing is random


def spans_by_job(past: Past) -> list[tuple[int, float, float]]:
    return sorted(spans(past))


def by_polling(fleet: Fleet, works: Sequence[Work], *, step_s: int, grace_s: int) -> list[tuple[int, float, float]]:
    """Ask the plan at every step, with a snapshot made anew; a job saves every 100 s, as in the test above."""
    now_s, held, waiting = 0, dict[int, Any](), dict[int, Request]()
    left, found, asked = (
        {at: one.runs_s for at, one in enumerate(works)},
        list[tuple[int, float, float]](),
        dict[int, int](),
    )
    number = {one.request.job_id: at for at, one in enumerate(works)}
    over: set[int] = set()
    while len(over) < len(works):
        for at in list(held):
            began = (held[at].started_at - NOW).total_seconds()
            if now_s - began >= left[at]:
                found.append((at, began, now_s))
                held.pop(at)
                asked.pop(at, None)
                over.add(at)
            elif at in asked and now_s - asked[at] >= grace_s:
                worked = asked.pop(at) - began
                left[at] -= worked - worked % 100
                found.append((at, began, now_s))
                held.pop(at)
                waiting[at] = works[at].request
        for at, one in enumerate(works):
            if one.at_s == now_s:
                waiting[at] = one.request
        for _ in range(20):
            done = ask(fleet, held, waiting, now_s)
            moment = NOW + timedelta(seconds=now_s)
            for start in done.starts:
                at = number[start.job_id]
                request = waiting.pop(at)
                assert request.weight is not None
                held[at] = replace(
                    holding(request.job_id, "n0", started_s=now_s), ranks=start.ranks, task_class=request.task_class,
                    weight=request.weight, may_stop=True,
                )  # fmt: skip
            for stop in done.stops:
                at = number[stop.job_id]
                held[at] = replace(held[at], is_stopping=True, ends_at=moment + timedelta(seconds=grace_s))
                asked[at] = now_s
                waiting[number[stop.for_job]] = replace(waiting[number[stop.for_job]], is_promised=True)
            if not done.starts and not done.stops:
                break
        now_s += step_s
    return sorted(found)


def ask(fleet: Fleet, held: dict[int, Any], waiting: dict[int, Request], now_s: int) -> Plan:
    saved = []
    for each in held.values():
        ran = now_s - (each.started_at - NOW).total_seconds()
        saved.append(
            replace(each, saved_at=each.started_at + timedelta(seconds=ran - ran % 100) if ran >= 100 else None)
        )
    snapshot = snapshot_of_rows(fleet, holdings=saved, requests=list(waiting.values()))
    return plan(snapshot, NOW + timedelta(seconds=now_s), telling=False)


# -- traces


def test_gangs_of_traces_are_ranks_that_fit() -> None:
    jobs = [TraceJob(str(gpus), 0, 1, gpus) for gpus in (1, 8, 11, 15, 16, 12)]
    shapes = [(one.request.ranks, one.request.ask.whole_devices) for one in works_of(jobs, Rules(2, 8), "node")]
    assert shapes == [(1, 1), (1, 8), (11, 1), (15, 1), (2, 8), (2, 6)]  # of 15 in threes, a node would hold two
    assert {one.request.ask.whole_devices for one in works_of(jobs, Rules(2, 8), "any")} == {1}
    with pytest.raises(TooLarge, match="asks for 17 devices"):
        works_of([TraceJob("x", 0, 1, 17)], Rules(2, 8), "node")


@given(found=rows)
@settings(max_examples=30, deadline=None)
def test_a_pool_of_single_devices_under_exact_limits_keeps_the_first_in_line(found: list[tuple[int, int, int]]) -> None:
    """Nobody overtakes the head to its harm: the first job to wait starts no later than under FIFO."""
    jobs = trace_of(found)
    live = simulate_live(jobs, "live-limits", Rules(3, 4), gangs="any")
    fifo = simulate(jobs, "fifo", Rules(3, 4))
    head = next((at for at, job in enumerate(jobs) if fifo.start_s[at] > job.submit_s), None)
    if head is not None:
        assert live.start_s[head] <= fifo.start_s[head]
    assert [end - start for start, end in zip(live.start_s, live.end_s, strict=True)] == [j.duration_s for j in jobs]


def test_failures_of_a_trace_requeue() -> None:
    jobs = [TraceJob("a", 0, 100, 8), TraceJob("b", 10, 10, 8)]
    found = simulate_live(jobs, "live", Rules(1, 8, restart_s=5, checkpoint_s=30, faults=(Fault(0, 50, 70),)))
    assert (found.losses, found.faults) == ([1, 0], 1)
    assert found.end_s == [70 + 70 + 5, 155]
    assert found.lost_s == (20 + 5) * 8


# -- what if


def a_snapshot() -> Snapshot:
    """One node of four devices, all held until 600 s; three jobs of two devices and 300 s wait."""
    held = [holding("held", "n0", devices=(0, 1, 2, 3), ends_in_s=600, may_stop=True)]
    waiting = [a_job(f"w{at}", gpu=2, runs_at_most_s=300, after_s=-10 + at) for at in range(3)]
    return snapshot_of_rows(a_fleet(1, 4), holdings=held, requests=waiting)


def done_after(changes: Changes) -> tuple[Any, Any]:
    base = base_of_snapshot(a_snapshot(), NOW, runs_s=100)
    other = changed(base, changes)
    runs = [replay(each.snapshot, each.works, Terms(), each.origin) for each in (base, other)]
    return tuple(figures(base.works, past)["all_done_s"] for past in runs)


def test_more_nodes_are_done_sooner_here() -> None:
    assert done_after(Changes()) == (1200, 1200)
    assert done_after(Changes(add=((1, "n0"),))) == (1200, 600)
    assert done_after(Changes(add=((1, "c/n0"), (1, "n0")))) == (1200, 600)


def test_a_smaller_quota_makes_wait_and_a_larger_one_does_not() -> None:
    assert done_after(Changes(quotas={"p": Quota(gpu_milli=4000)})) == (1200, 1200)
    assert done_after(Changes(quotas={"p": Quota(gpu_milli=3000)})) == (1200, 1500)


def test_what_ran_on_a_removed_node_waits_again_with_what_it_had_not_saved() -> None:
    snapshot = replace(a_snapshot(), fleet=a_fleet(2, 4), requests=())
    snapshot = snapshot_of_rows(a_fleet(2, 4), holdings=snapshot.holdings)
    base = base_of_snapshot(snapshot, NOW, runs_s=1)
    other = changed(base, Changes(remove=("n0",)))
    past = replay(other.snapshot, other.works, Terms(keeps_spans=True), NOW)
    assert spans(past) == [(0, 0, 700)]  # it ran for 100 s before, unsaved
    assert past.spans[0].held.ranks[0].node == "n1"


def test_run_times_that_nothing_tells_are_counted() -> None:
    snapshot = snapshot_of_rows(a_fleet(1), holdings=[holding("a", "n0", devices=(0,))], requests=[a_job("b", gpu=1)])
    base = base_of_snapshot(snapshot, NOW, runs_s=77)
    assert (base.guessed, [one.runs_s for one in base.works]) == (2, [77, 77])


@pytest.mark.parametrize(("read", "text", "told"), [
    (parse_nodes, "20", "20:like=NODE"), (parse_nodes, "0:like=n0", "20:like=NODE"),
    (parse_quota, "p", "PROJECT=gpu:16"), (parse_quota, "p=disk:4", "PROJECT=gpu:16"),
    (lambda text: parse_rules(PlanRules(), [text]), "speed=4", 'no rule "speed"'),
    (lambda text: parse_rules(PlanRules(), [text]), "preempts=4", "true or false"),
    (lambda text: parse_rules(PlanRules(), [text]), "reservations=-1", "a number from 0 on"),
    (lambda text: parse_rules(PlanRules(), [text]), "lost_device_s=1", "no rule"),
    (lambda text: parse_rules(PlanRules(), [text]), "turns=often", "a number from 0 on or none"),
])  # fmt: skip
def test_changes_that_cannot_be_read(read: Any, text: str, told: str) -> None:
    with pytest.raises(BadChange, match=told):
        read(text)


def test_changes_that_can() -> None:
    assert parse_quota("p=gpu:1.5,memory:2GiB,cpu:none") == (
        "p", {"gpu_milli": 1500, "memory_bytes": 2 << 30, "cpu_milli": None}
    )  # fmt: skip
    rules = parse_rules(PlanRules(), ["reservations=3", "preempts=false", "most_lost_device_s=none", "min_run_s=1.5"])
    assert rules == PlanRules(reservations=3, preempts=False, most_lost_device_s=None, min_run_s=1.5)
    assert parse_rules(rules, ["turns=90"]) == replace(rules, turns=Turns(90.0))
    assert parse_rules(replace(rules, turns=Turns(90.0)), ["turns=none"]) == rules
    with pytest.raises(BadChange, match='no node "n9"'):
        done_after(Changes(remove=("n9",)))
    with pytest.raises(BadChange, match="No node would be left"):
        done_after(Changes(remove=("n0",)))


def test_fragments_are_what_the_next_job_cannot_use() -> None:
    """All known jobs ask for two devices of one node: of three devices one is lost once a job of two runs."""
    works = [work("a", 0, 100, gpu=2), work("b", 0, 100, gpu=2)]
    past = run(a_fleet(1, 3), works)
    assert past.fragments[0] == (0.0, 1.0)
    assert figures(works, past)["fragments"] == round(1 / 3, 6)


def test_elastic_work_starts_small_and_grows_when_there_is_room() -> None:
    """With two of its four ranks it is half as fast; 900 s after its start the scheduler looks, and nobody waits."""
    works = [
        work("other", 0, 600, gpu=2, may_stop=False),
        work("wide", 1, 4000, gpu=1, ranks=4, ranks_min=1, expected_s=4000),
    ]
    past = run(a_fleet(1, 4), works, checkpoint_s=100)
    held = [(len(span.held.ranks), span.begin_s, span.end_s) for span in past.spans if span.number == 1]
    assert held == [(2, 1, 931), (4, 931, 931 + 4000 - 450)]
    assert past.lost_s == 2 * 30  # its grace; it had saved itself when it was told to stop
