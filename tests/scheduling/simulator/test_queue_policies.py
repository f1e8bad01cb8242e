"""Each policy on traces small enough to do by hand, on one pool of a few devices."""

from __future__ import annotations

from typing import Any

import pytest

from dujiang.scheduling.simulator.faults import Fault
from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue import Outcome, Rules, TooLarge, simulate
from dujiang.scheduling.simulator.queue_policies import POLICIES, UnknownPolicy
from dujiang.scheduling.simulator.queue_policies.history import History
from dujiang.scheduling.simulator.queue_policies.levels import default_level, las_level
from dujiang.scheduling.simulator.queue_summary import summary


def jobs_of(*rows: tuple[int, int, int]) -> list[TraceJob]:
    """Jobs of (submit, duration, devices), named by their order."""
    return [TraceJob(str(place), *row) for place, row in enumerate(rows)]


def run(policy: str, *rows: tuple[int, int, int], gpus: int = 2, **rules: Any) -> Outcome:
    return simulate(jobs_of(*rows), policy, Rules(**{"nodes": 1, "gpus_per_node": gpus, **rules}), keep_spans=True)


def test_fifo_the_head_of_the_queue_holds_up_the_rest() -> None:
    found = run("fifo", (0, 10, 1), (1, 10, 2), (2, 1, 1))
    assert found.start_s == [0, 10, 20]
    assert found.end_s == [10, 20, 21]


def test_easy_starts_what_ends_before_the_reservation_and_not_what_would_delay_it() -> None:
    found = run("easy", (0, 10, 1), (1, 10, 2), (2, 8, 1), (3, 9, 1))
    assert found.start_s == [0, 10, 2, 20]


def test_easy_lets_a_long_job_use_what_the_reservation_leaves() -> None:
    # At 10 two devices are free and the head takes two of the three: one is left for a job of any length.
    found = run("easy", (0, 10, 2), (1, 10, 2), (2, 100, 1), (3, 100, 1), gpus=3)
    assert found.start_s == [0, 10, 2, 20]


def test_sjf_starts_the_shortest_first_and_never_stops_a_job() -> None:
    found = run("sjf", (0, 10, 2), (1, 9, 2), (2, 3, 2), (3, 5, 2))
    assert found.start_s == [0, 18, 10, 13]
    assert found.stops == [0, 0, 0, 0]


def test_sjf_holds_everything_up_while_the_shortest_does_not_fit() -> None:
    assert run("sjf", (0, 10, 1), (1, 1, 2), (2, 5, 1)).start_s == [0, 10, 11]


def test_srtf_stops_a_job_for_one_that_has_less_left() -> None:
    found = run("srtf", (0, 10, 1), (2, 3, 1), gpus=1)
    assert found.end_s == [13, 5]
    assert found.stops == [1, 0]
    assert sorted(found.spans) == [(0, 0, 2), (0, 5, 13), (1, 2, 5)]


def test_srtf_does_not_stop_a_job_for_one_that_has_as_much_left() -> None:
    assert run("srtf", (0, 10, 1), (2, 8, 1), gpus=1).end_s == [10, 18]


def test_srtf_lets_a_longer_job_run_where_a_shorter_gang_does_not_fit() -> None:
    # At 0 the gang does not fit beside the shortest, so the longest runs; at 5 it has less left than the gang.
    assert run("srtf", (0, 5, 1), (0, 6, 3), (0, 9, 1), gpus=3).end_s == [5, 15, 9]


def test_2d_las_sinks_a_job_at_one_gpu_hour_and_decides_each_minute() -> None:
    found = run("2d-las", (0, 5000, 1), (601, 60, 1), gpus=1)
    assert found.end_s == [5060, 3660]
    two = run("2d-las", (0, 5000, 2), (601, 60, 1), gpus=2)
    assert two.start_s == [0, 1800]  # two devices attain twice as fast


def test_2d_las_begins_nothing_between_two_rounds() -> None:
    assert run("2d-las", (7, 100, 1), gpus=1).start_s == [60]


def test_default_stops_a_job_only_for_work_of_a_lower_level() -> None:
    found = run("default", (0, 5000, 1), (500, 100, 1), gpus=1)
    assert found.start_s == [0, 600]  # until then both are of the first level, and what runs stays
    assert found.end_s == [5100, 700]


def test_default_bounds_waiting_and_does_not_stop_a_job_again_that_waited_so_long() -> None:
    stream = [(at, 100, 1) for at in range(600, 6000, 100)]
    found = run("default", (0, 3000, 1), *stream, gpus=1, max_wait_s=1000)
    assert found.end_s[0] == 4000  # ran 0-600, waited 600-1600, then ran to its end
    assert found.stops[0] == 1
    unbounded = run("default", (0, 3000, 1), *stream, gpus=1, max_wait_s=0)
    assert unbounded.end_s[0] == 6000 + 2400


def test_default_a_gang_that_waited_too_long_gets_its_devices_from_those_that_run() -> None:
    rows = [(0, 10_000, 1), (0, 2_000, 2), *((at, 300, 1) for at in range(0, 9_000, 300))]
    found = run("default", *rows, max_wait_s=2_000)
    assert found.end_s[1] == 2_000 + 2_000


def test_default_keeps_half_of_the_devices_for_work_that_has_not_waited_too_long() -> None:
    # Four long jobs sink and wait behind a stream of short ones; at the bound two of four devices are theirs, not all.
    long = [(0, 20_000, 1)] * 4
    stream = [(at, 100, 1) for at in range(600, 30_000, 100) for _ in range(4)]
    found = run("default", *long, *stream, gpus=4, max_wait_s=5_000)
    order = sorted(range(len(long) + len(stream)), key=lambda place: [*long, *stream][place][0])
    assert order == list(range(len(order)))  # the jobs are in order of submission
    assert sorted(found.end_s[:4])[:2] == [25_000, 25_000]
    waits = [end - submit - duration for end, (submit, duration, _) in zip(found.end_s, [*long, *stream], strict=True)]
    assert sum(1 for wait in waits[:4] if wait > 5_000) == 2


def test_default_lets_a_job_run_ten_restarts_before_it_stops_it() -> None:
    found = run("default", (0, 5_000, 1), (700, 50, 1), (800, 50, 1), (1_900, 50, 1), gpus=1, restart_s=60)
    assert found.start_s == [0, 700, 1_350, 2_000]
    # stopped at 700, back at 750, safe until 1,350; back at 1,400, safe until 2,000


@pytest.mark.parametrize(
    ("service", "level", "edge"), [(0, 0, 600), (599, 0, 600), (600, 1, 1200), (1200, 2, 2400), (4799, 3, 4800)]
)
def test_levels_of_default_double(service: int, level: int, edge: int) -> None:
    assert default_level(service) == (level, edge)


@pytest.mark.parametrize(("service", "level"), [(0, 0), (3599, 0), (3600, 1), (35_999, 1), (36_000, 2)])
def test_levels_of_2d_las(service: int, level: int) -> None:
    assert las_level(service)[0] == level


def test_history_believes_the_narrowest_group_that_it_knows_well() -> None:
    history = History()
    narrow, wide = ("team", "0"), ("", "0")
    for _ in range(29):
        history.ended([narrow, wide], 100)
    assert history.typical_s([narrow, wide]) == 0
    for _ in range(29):
        history.ended([wide], 10_000)
    assert history.typical_s([narrow, wide]) == pytest.approx(100, rel=0.1)  # wide: 58 known, 29 of each
    history.ended([narrow, wide], 100)
    for _ in range(100):
        history.ended([wide], 10_000)
    assert history.typical_s([narrow, wide]) == pytest.approx(100, rel=0.1)
    assert history.typical_s([("other", "0"), wide]) == pytest.approx(10_000, rel=0.1)


def test_default_puts_a_job_of_a_group_of_long_ones_behind() -> None:
    past = [TraceJob(f"p{place}", 0, 8_000, 1, vc="long") for place in range(30)]
    past += [TraceJob(f"q{place}", 0, 10, 1, vc="short") for place in range(30)]
    now = [TraceJob(f"block{place}", 9_000, 500, 1) for place in range(60)]
    now += [TraceJob(f"a{place}", 9_001, 50, 1, vc="long") for place in range(60)]
    found = simulate([*past, *now, TraceJob("b", 9_002, 50, 1, vc="short")], "default", Rules(1, 60))
    assert found.start_s[-1] == 9_500
    assert sorted(found.start_s[-61:-1])[-2:] == [9_500, 9_550]
    assert simulate([*past, *now, TraceJob("b", 9_002, 50, 1, vc="long")], "default", Rules(1, 60)).start_s[-1] == 9_550


def test_a_gang_that_cannot_ever_fit_is_refused_with_what_to_do() -> None:
    with pytest.raises(TooLarge, match=r"asks for 3 devices at once, and 1 nodes of 2 have 2. Give more nodes"):
        run("fifo", (0, 1, 3))


def test_an_unknown_policy_is_refused_naming_those_that_there_are() -> None:
    with pytest.raises(UnknownPolicy, match="fifo, easy, sjf, srtf, 2d-las, default"):
        run("lifo", (0, 1, 1))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_failed_node_takes_what_was_done_since_the_last_checkpoint(policy: str) -> None:
    found = run(policy, (0, 100, 1), checkpoint_s=30, restart_s=5, faults=(Fault(0, 50, 180),))
    assert found.end_s == [180 + 70 + 5]  # 50 s were done, 20 of them are lost
    assert found.losses == [1]
    assert found.lost_s == 25
    assert found.faults == 1


def test_a_job_goes_on_where_another_node_has_room() -> None:
    rules = Rules(2, 2, checkpoint_s=0, faults=(Fault(0, 10, 1000), Fault(1, 10, 20), Fault(7, 0, 5)))
    found = simulate(jobs_of((0, 100, 2)), "fifo", rules)
    assert found.end_s == [120]  # both nodes are lost at 10, one is back at 20, and without checkpoints all begins anew
    assert found.faults == 2  # the node that the cluster does not have counts for nothing


def test_a_gang_over_two_nodes_falls_with_either() -> None:
    found = simulate(jobs_of((0, 100, 4)), "srtf", Rules(2, 2, checkpoint_s=10, faults=(Fault(1, 15, 20),)))
    assert found.end_s == [20 + 90]


def test_figures_of_a_run() -> None:
    rows = ((0, 10, 1), (1, 10, 2), (2, 1, 1))
    told = summary(jobs_of(*rows), run("fifo", *rows), "fifo")
    assert told["queueing_s"] == {"average": 9.0, "p50": 9.0, "p99": 17.82, "max": 18}
    assert told["jct_s"] == {"average": 16.0, "p50": 19.0, "p99": 19.0, "max": 19}
    assert told["utilisation"] == pytest.approx((10 + 20 + 1) / (2 * 21), abs=1e-6)
    assert told["by_size"]["1"]["jobs"] == 2
    assert told["makespan_s"] == 21


def test_2d_las_a_job_that_was_stopped_does_not_come_back_before_its_turn() -> None:
    # The first sinks at 3,600, is stopped at once for the second, and waits when it would have sunk again.
    stream = [(at, 3_600, 1) for at in range(3_600, 40_000, 3_600)]
    found = run("2d-las", (0, 40_000, 1), *stream, gpus=1)
    assert found.start_s[1:] == [submit for submit, _, _ in stream]
    assert found.end_s[0] > 40_000
    back = [start for job, start, _ in found.spans if job == 0]
    assert back[0] == 0
    assert back[1] >= stream[-1][0] + 3_600
