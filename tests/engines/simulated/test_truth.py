from __future__ import annotations

from dujiang.engines.contract import AttemptKey, DeviceShare, RankPlacement
from dujiang.engines.simulated import Run, Truth


def a_truth(*spans: tuple[str, int, int | None, int | None], milli: int = 600) -> Truth:
    """Return what happened: job, attempt, from, until."""
    truth = Truth()
    for job, number, started, finished in spans:
        share = DeviceShare("gpu0", 0, milli, 1)
        ranks = (RankPlacement(0, "sim-0001", 1, 1, devices=(share,)),)
        truth.add(Run(AttemptKey(job, number), ranks, started=started, finished=finished))
    return truth


def test_attempts_of_one_job_one_after_another_are_fine() -> None:
    truth = a_truth(("a", 1, 0, 10), ("a", 2, 10, 20), ("a", 3, None, None), ("b", 1, 20, None))
    assert (truth.ran_together(), truth.over_allocated(), truth.running()) == ([], [], [AttemptKey("b", 1)])


def test_attempts_of_one_job_at_one_time_are_found_whoever_was_first() -> None:
    assert a_truth(("a", 1, 0, 10), ("a", 2, 9, 20)).ran_together() == [(AttemptKey("a", 1), AttemptKey("a", 2))]
    assert a_truth(("a", 1, 0, None), ("a", 2, 9, 20)).ran_together() == [(AttemptKey("a", 1), AttemptKey("a", 2))]
    inside = a_truth(("a", 1, 0, 50), ("a", 2, 5, 10), ("a", 3, 20, 30)).ran_together()
    assert inside == [(AttemptKey("a", 1), AttemptKey("a", 2)), (AttemptKey("a", 1), AttemptKey("a", 3))]


def test_a_device_beyond_its_whole_is_found_with_its_worst() -> None:
    assert a_truth(("a", 1, 0, 10), ("b", 1, 9, 20)).over_allocated() == [("sim-0001/gpu0", 1200)]
    assert a_truth(("a", 1, 0, None), ("b", 1, 9, None), ("c", 1, 12, 13)).over_allocated()[0][1] == 1800
    assert a_truth(("a", 1, 0, 10), ("b", 1, 10, 20)).over_allocated() == []
    assert a_truth(("a", 1, 0, 10), ("b", 1, 5, 20), milli=500).over_allocated() == []


def test_a_program_that_began_twice_is_found() -> None:
    truth = a_truth(("a", 1, 0, 10), ("b", 1, 0, 10))
    truth.runs[AttemptKey("b", 1)].starts = 2
    assert truth.started_twice() == [AttemptKey("b", 1)]
    assert [run.key for run in truth.of_job("a")] == [AttemptKey("a", 1)]
