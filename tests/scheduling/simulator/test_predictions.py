"""Run times told on a trace: only by what had ended before, and every way on the same jobs."""

from __future__ import annotations

import pytest

from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.predictions import LatestTwo, compare, likeness_of


def a_trace(*rows: tuple[int, int, str], user: str = "") -> list[TraceJob]:
    """Return jobs of (submission, run time, virtual cluster)."""
    return [TraceJob(str(n), at, ran, 1, vc, user) for n, (at, ran, vc) in enumerate(rows)]


def test_nothing_is_told_by_what_still_runs() -> None:
    jobs = a_trace((0, 100, "a"), (0, 100, "a"), (99, 100, "a"), (100, 100, "a"))
    ours, latest, one = compare(jobs)
    assert (ours.told, latest.told, one.told) == (1, 1, 1)
    assert ours.accuracy is not None
    assert (ours.accuracy.jobs, ours.accuracy.median_ratio) == (1, 1.0)
    assert ours.by_group == {"project, shape": 1}


def test_each_way_says_what_it_stands_for() -> None:
    jobs = a_trace(*[(1000 * n, 100 if n % 2 else 10, "ab"[n % 2]) for n in range(12)])
    ours, latest, one = compare(jobs)
    assert ours.accuracy is not None
    assert latest.accuracy is not None
    assert one.accuracy is not None
    assert (ours.accuracy.within_factor_2, latest.accuracy.within_factor_2) == (0.9, 1.0), "ours asks for two alike"
    assert one.accuracy.within_factor_2 < 1.0, "short and long are one to it"
    assert ours.accuracy.jobs == latest.accuracy.jobs == one.accuracy.jobs


def test_the_mean_of_the_latest_two_is_of_a_user_where_there_is_one() -> None:
    told = LatestTwo()
    for job in [*a_trace((0, 10, "a"), (0, 30, "a"), user="u"), *a_trace((0, 500, "a"), user="v")]:
        told.learn(job)
    (job,) = a_trace((9, 1, "a"), user="u")
    assert told.tell(job) == 20.0
    (stranger,) = a_trace((9, 1, "a"), user="w")
    assert told.tell(stranger) is None


@pytest.mark.parametrize(
    ("job", "project", "name"),
    [
        (TraceJob("1", 0, 1, 4, "vc", "u", "Train-17"), "vc", "train-#"),
        (TraceJob("1", 0, 1, 4, model="bert"), "-", "bert"),
    ],
)
def test_a_job_of_a_trace_is_compared_by_what_the_trace_says(job: TraceJob, project: str, name: str) -> None:
    found = likeness_of(job)
    assert (found.project, found.name, found.shape) == (project, name, "4")


def test_a_trace_of_which_nothing_can_be_told() -> None:
    assert [one.accuracy for one in compare(a_trace((0, 10, "a"), (0, 10, "a")))] == [None, None, None]
