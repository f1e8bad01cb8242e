"""Deadlines of elastic jobs by hand and by property; fixed shares against a pool; shares of devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.simulator.deadlines import (
    DEADLINE_POLICIES,
    NoCurve,
    deadline_summary,
    read_curves,
    simulate_deadlines,
    useful,
)  # fmt: skip
from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.partition import compare, pool_bound, read_minutes, shares
from dujiang.scheduling.simulator.queue import Rules
from dujiang.scheduling.simulator.sharing import Stay, read_stays, sharing
from dujiang.scheduling.simulator.traces import BadTrace

CURVES = {("m", 1): {1: 1.0, 2: 1.8, 4: 3.0, 8: 2.5}}


def job(name: str, submit: int, deadline: int, iterations: int) -> TraceJob:
    return TraceJob(name, submit, 1, 1, deadline_s=deadline, model="m", batch_size=1, iterations=iterations)


def test_only_numbers_of_devices_that_help_are_used() -> None:
    assert useful(CURVES["m", 1], 8) == [(1, 1.0), (2, 1.8), (4, 3.0)]
    assert useful(CURVES["m", 1], 3) == [(1, 1.0), (2, 1.8)]


@pytest.mark.parametrize("policy", DEADLINE_POLICIES)
def test_a_job_alone_takes_as_many_as_help(policy: str) -> None:
    found = simulate_deadlines([job("a", 0, 100, 60)], CURVES, policy, gpus=8, slot_s=10)
    assert found.end_s[0] == pytest.approx(20)
    assert found.met.tolist() == [True]


def test_edf_lets_one_that_cannot_be_met_spoil_another() -> None:
    late = [job("a", 0, 10, 300), job("b", 0, 60, 120)]
    assert simulate_deadlines(late, CURVES, "edf", gpus=4, slot_s=10).met.tolist() == [False, False]
    assert simulate_deadlines(late, CURVES, "elasticflow", gpus=4, slot_s=10).met.tolist() == [False, True]


def test_what_is_promised_first_is_kept() -> None:
    jobs = [job("a", 0, 100, 290), job("b", 10, 50, 100), job("c", 20, 200, 100)]
    found = simulate_deadlines(jobs, CURVES, "elasticflow", gpus=4, slot_s=10)
    assert found.admitted.tolist() == [True, False, True]
    assert found.met.tolist() == [True, False, True]
    assert found.possible.tolist() == [True, True, True]


def test_default_admits_later_what_did_not_fit_at_first() -> None:
    # a could need all until 60 and b is not promised anything; but a runs on all of them at once and is done at 20.
    jobs = [job("a", 0, 20, 60), job("b", 0, 40, 60)]
    assert simulate_deadlines(jobs, CURVES, "default", gpus=4, slot_s=10).met.tolist() == [True, True]


def test_a_change_of_devices_costs_time() -> None:
    found = simulate_deadlines([job("a", 0, 100, 60)], CURVES, "default", gpus=4, slot_s=10, rescale_s=4)
    assert found.end_s[0] == pytest.approx(24)
    assert not simulate_deadlines([job("a", 0, 23, 60)], CURVES, "default", gpus=4, slot_s=10, rescale_s=4).met[0]


cases = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 300), st.integers(1, 400)), min_size=1, max_size=15)


@pytest.mark.parametrize("policy", ["elasticflow", "default"])
@given(found=cases, gpus=st.integers(1, 9), rescale_s=st.sampled_from([0.0, 1.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_every_promise_is_kept_and_nothing_impossible_is_promised(
    policy: str, found: list[tuple[int, int, int]], gpus: int, rescale_s: float
) -> None:
    jobs = [job(str(place), submit, submit + span, work) for place, (submit, span, work) in enumerate(sorted(found))]
    outcome = simulate_deadlines(jobs, CURVES, policy, gpus=gpus, slot_s=10, rescale_s=rescale_s)
    assert not (outcome.admitted & ~outcome.met).any()
    assert not (outcome.met & ~outcome.possible).any()
    fastest = useful(CURVES["m", 1], gpus)[-1][1]
    done = np.isfinite(outcome.end_s)
    spans = outcome.end_s - np.array([each.submit_s for each in jobs])
    assert (spans[done] >= np.array([each.iterations for each in jobs])[done] / fastest - 1e-6).all()
    again = simulate_deadlines(jobs, CURVES, policy, gpus=gpus, slot_s=10, rescale_s=rescale_s)
    assert np.array_equal(outcome.end_s, again.end_s)


def test_a_job_of_unknown_speed_is_refused() -> None:
    other = TraceJob("a", 0, 1, 1, deadline_s=5, model="other", batch_size=2, iterations=5)
    with pytest.raises(NoCurve, match="No speed of model other with batch 2"):
        simulate_deadlines([other], CURVES, "default", gpus=1)
    with pytest.raises(NoCurve, match="Job a has no deadline_s"):
        simulate_deadlines([TraceJob("a", 0, 1, 1, model="m", batch_size=1, iterations=3)], CURVES, "edf", gpus=1)


def test_speeds_are_read_and_wrong_ones_told(tmp_path: Path) -> None:
    path = tmp_path / "speeds.csv"
    path.write_text("model,global_batch_size,gpus,iterations_per_s\nm,1,1,2.5\nm,1,2,4\n")
    assert read_curves(path) == {("m", 1): {1: 2.5, 2: 4.0}}
    path.write_text("model,global_batch_size,gpus,iterations_per_s\nm,1,1,0\n")
    with pytest.raises(BadTrace, match="row 2, column iterations_per_s: 0 is not a number above 0"):
        read_curves(path)


def test_the_figures_of_deadlines() -> None:
    jobs = [job("a", 0, 10, 300), job("b", 0, 60, 120)]
    told = deadline_summary(jobs, simulate_deadlines(jobs, CURVES, "elasticflow", gpus=4, slot_s=10), "elasticflow")
    assert (told["deadline_satisfied"], told["admitted"], told["admitted_and_missed"], told["possible_alone"]) == (
        0.5, 1, 0, 0.5,
    )  # fmt: skip


# Fixed shares against a pool


def test_shares_hold_the_mean_load_and_the_largest_gang() -> None:
    jobs = [TraceJob("a", 0, 100, 8, vc="x"), TraceJob("b", 100, 1, 17, vc="y"), TraceJob("c", 100, 160, 8, vc="x")]
    # x: 260 s of 8 devices in 100 s are 2.6 nodes, 3.25 at a fill of 0.8
    assert shares(jobs, 8) == {"x": 4, "y": 3}


def test_a_pool_lends_what_a_share_leaves_idle() -> None:
    jobs = [TraceJob("a", 0, 100, 8, vc="x"), TraceJob("b", 0, 100, 8, vc="x"), TraceJob("c", 500, 10, 8, vc="y")]
    told = compare(jobs, "fifo", Rules(1, 8), {"x": 1, "y": 1})
    assert told["static_average_s"] == pytest.approx(100 / 3, abs=1e-3)
    assert told["pool_average_s"] == 0


def test_minutes_hold_until_the_next_row(tmp_path: Path) -> None:
    path = tmp_path / "minutes.csv"
    path.write_text("vc,minute,total_gpus,running_gpus,pending_gpus\na,0,8,8,4\na,2,8,4,0\nb,0,8,2,0\nb,3,8,2,0\n")
    told = pool_bound(read_minutes(path))
    assert told["static_utilisation"] == pytest.approx((10 + 10 + 6 + 6) / 64)
    assert told["pool_bound"] == pytest.approx((14 + 14 + 6 + 6) / 64)
    assert told["waiting_that_idle_gpus_could_serve"] == 1.0


# Shares of devices


def test_halves_share_a_device_and_whole_ones_do_not() -> None:
    told = sharing([Stay(0, 3600, 1, 500), Stay(0, 3600, 1, 500), Stay(0, 3600, 2, 1000)])
    assert told["whole"] == {"held_gpu_h": 4.0, "asked_of_held": 0.75, "most_gpus": 4, "asked_of_fixed": 0.75}
    assert told["shared"] == {"held_gpu_h": 3.0, "asked_of_held": 1.0, "most_gpus": 3, "asked_of_fixed": 1.0}


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 50), st.sampled_from([100, 250, 500, 900, 1000])),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=80, deadline=None)
def test_shares_never_hold_more_than_whole_devices_nor_less_than_asked(found: list[tuple[int, int, int]]) -> None:
    told = sharing([Stay(start, start + length, 1, milli) for start, length, milli in found])
    assert told["whole"]["asked_of_held"] <= told["shared"]["asked_of_held"] <= 1.0
    assert told["shared"]["most_gpus"] <= told["whole"]["most_gpus"]


def test_stays_are_read_and_wrong_ones_told(tmp_path: Path) -> None:
    path = tmp_path / "pods.csv"
    head = "name,num_gpu,gpu_milli,creation_time,deletion_time,scheduled_time\n"
    path.write_text(head + "a,1,460,0,100,10\nb,0,0,0,5,\nc,2,1000,5,9,\n")
    assert read_stays(path) == [Stay(10, 100, 1, 460), Stay(5, 9, 2, 1000)]
    path.write_text(head + "a,2,460,0,100,10\n")
    with pytest.raises(BadTrace, match="row 2, column gpu_milli: 2 devices of 460 thousandths"):
        read_stays(path)
    path.write_text(head + "a,1,460,50,40,\n")
    with pytest.raises(BadTrace, match="row 2, column deletion_time: it is before"):
        read_stays(path)
