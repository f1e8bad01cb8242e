"""What holds of the queue under any policy and any trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.simulator.faults import Fault
from dujiang.scheduling.simulator.jobs_traces import TraceJob, read_jobs
from dujiang.scheduling.simulator.queue import Outcome, Rules, simulate
from dujiang.scheduling.simulator.queue_policies import POLICIES
from dujiang.scheduling.simulator.queue_policies.merge import Rank, choose

NODES, EACH = 3, 4

rows = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 4000), st.integers(1, NODES * EACH)), min_size=1, max_size=25
)


def trace_of(found: Sequence[tuple[int, int, int]]) -> list[TraceJob]:
    return [TraceJob(str(place), *row, vc=f"vc{row[2] % 2}") for place, row in enumerate(sorted(found))]


def changes(jobs: Sequence[TraceJob], outcome: Outcome) -> list[tuple[int, int]]:
    """Every change of the devices in use, ends before starts of the same second."""
    found = [(start, jobs[job].num_gpus) for job, start, _ in outcome.spans]
    found += [(end, -jobs[job].num_gpus) for job, _, end in outcome.spans]
    return sorted(found)


@pytest.mark.parametrize("policy", POLICIES)
@given(found=rows)
@settings(max_examples=60, deadline=None)
def test_gangs_run_whole_never_over_capacity_and_for_their_duration(
    policy: str, found: list[tuple[int, int, int]]
) -> None:
    jobs = trace_of(found)
    outcome = simulate(jobs, policy, Rules(NODES, EACH, max_wait_s=5000), keep_spans=True)
    in_use = 0
    for _, change in changes(jobs, outcome):
        in_use += change
        assert 0 <= in_use <= NODES * EACH
    ran = [0] * len(jobs)
    for job, start, end in outcome.spans:
        assert jobs[job].submit_s <= start < end
        ran[job] += end - start
    assert ran == [job.duration_s for job in jobs]
    assert outcome.busy_s == sum(job.duration_s * job.num_gpus for job in jobs)
    assert outcome.lost_s == 0
    if not POLICIES[policy].preempts:
        assert len(outcome.spans) == len(jobs)


@pytest.mark.parametrize("policy", ["srtf", "default"])
@given(found=rows)
@settings(max_examples=60, deadline=None)
def test_no_job_waits_while_its_devices_are_free(policy: str, found: list[tuple[int, int, int]]) -> None:
    jobs = trace_of(found)
    outcome = simulate(jobs, policy, Rules(NODES, EACH, max_wait_s=0), keep_spans=True)
    moments = sorted({at for _, *span in outcome.spans for at in span} | {job.submit_s for job in jobs})
    for at in moments:
        running = {job for job, start, end in outcome.spans if start <= at < end}
        free = NODES * EACH - sum(jobs[job].num_gpus for job in running)
        waiting = [
            job.num_gpus
            for place, job in enumerate(jobs)
            if job.submit_s <= at < outcome.end_s[place] and place not in running
        ]
        assert all(asked > free for asked in waiting)


@given(found=rows)
@settings(max_examples=60, deadline=None)
def test_fifo_starts_in_order_and_nothing_waits_that_heads_the_queue_and_fits(
    found: list[tuple[int, int, int]],
) -> None:
    outcome = simulate(trace_of(found), "fifo", Rules(NODES, EACH))
    assert outcome.start_s == sorted(outcome.start_s)


@given(found=rows)
@settings(max_examples=60, deadline=None)
def test_easy_passes_no_job_that_heads_the_queue(found: list[tuple[int, int, int]]) -> None:
    """Whenever a later job starts, the first that waits could not have started any earlier than it then does."""
    jobs = trace_of(found)
    outcome = simulate(jobs, "easy", Rules(NODES, EACH))
    for at in sorted(set(outcome.start_s)):
        waiting = [place for place, job in enumerate(jobs) if job.submit_s <= at and outcome.start_s[place] > at]
        if not waiting:
            continue
        head = waiting[0]
        before = [place for place in range(len(jobs)) if outcome.start_s[place] < at]
        earliest = reservation(jobs, outcome, before, head, at)
        assert outcome.start_s[head] <= earliest


def reservation(jobs: Sequence[TraceJob], outcome: Outcome, running: Sequence[int], head: int, at: int) -> int:
    """Return when the devices of a job would be free if nothing new started from now on but those ahead of it."""
    ahead = [place for place in range(head) if outcome.start_s[place] == at]
    held = [place for place in {*running, *ahead} if outcome.end_s[place] > at]
    free = NODES * EACH - sum(jobs[place].num_gpus for place in held)
    for place in sorted(held, key=lambda place: outcome.end_s[place]):
        if free >= jobs[head].num_gpus:
            break
        free += jobs[place].num_gpus
        at = outcome.end_s[place]
    return at


@given(found=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_srtf_is_best_on_one_device(found: list[tuple[int, int]]) -> None:
    jobs = trace_of([(submit, duration, 1) for submit, duration in found])
    totals = {policy: sum(simulate(jobs, policy, Rules(1, 1)).end_s) for policy in POLICIES}
    assert totals["srtf"] == min(totals.values())


@pytest.mark.parametrize("policy", POLICIES)
@given(
    found=rows,
    faults=st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, 6000), st.integers(1, 2000)), max_size=6),
    checkpoint_s=st.integers(0, 900),
    restart_s=st.integers(0, 60),
)
@settings(max_examples=40, deadline=None)
def test_work_is_conserved_when_nodes_fail(
    policy: str,
    found: list[tuple[int, int, int]],
    faults: list[tuple[int, int, int]],
    checkpoint_s: int,
    restart_s: int,
) -> None:
    jobs = trace_of(found)
    spells: list[Fault] = []
    for node, start, length in sorted(faults):  # of one node one after the other
        start = max([start, *(fault.end_s + 1 for fault in spells if fault.node == node)])
        spells.append(Fault(node, start, start + length))
    rules = Rules(NODES, EACH, max_wait_s=3000, restart_s=restart_s, checkpoint_s=checkpoint_s, faults=tuple(spells))
    outcome = simulate(jobs, policy, rules, keep_spans=True)
    asked = sum(job.duration_s * job.num_gpus for job in jobs)
    assert sum((end - start) * jobs[job].num_gpus for job, start, end in outcome.spans) == asked + outcome.lost_s
    for fault in spells:
        for at in (fault.start_s, fault.end_s - 1):
            down = len({each.node for each in spells if each.start_s <= at < each.end_s})
            in_use = sum(jobs[job].num_gpus for job, start, end in outcome.spans if start <= at < end)
            assert in_use <= (NODES - down) * EACH
    assert simulate(jobs, policy, rules, keep_spans=True) == outcome


@pytest.mark.parametrize("policy", POLICIES)
@given(found=rows, seed=st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(
    policy: str, found: list[tuple[int, int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [f"{job.job},{job.submit_s},{job.duration_s},{job.num_gpus},{job.vc}" for job in trace_of(found)]
    folder = tmp_path_factory.mktemp("rows")
    outcomes = []
    for name in ("a", "b"):
        path = folder / f"{name}.csv"
        path.write_text("\n".join(["job,submit_s,duration_s,num_gpus,vc", *lines]) + "\n")
        jobs = read_jobs(path).jobs
        outcome = simulate(jobs, policy, Rules(NODES, EACH))
        outcomes.append({job.job: end for job, end in zip(jobs, outcome.end_s, strict=True)})
        Random(seed).shuffle(lines)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("policy", ["2d-las", "default", "fifo"])
@given(found=rows, factor=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_who_does_not_know_run_times_decides_the_same_until_they_differ(
    policy: str, found: list[tuple[int, int, int]], factor: int
) -> None:
    """Until the first job ends, longer run times change nothing; times of one second are kept apart."""
    jobs = trace_of([(submit * 30 + place, duration, size) for place, (submit, duration, size) in enumerate(found)])
    longer = [replace(job, duration_s=job.duration_s * factor) for job in jobs]
    rules = Rules(NODES, EACH)
    one, other = (simulate(each, policy, rules, keep_spans=True) for each in (jobs, longer))
    first_end = min(one.end_s)

    def until(outcome: Outcome) -> list[tuple[int, int]]:
        return sorted((start, job) for job, start, _ in outcome.spans if start < first_end)

    assert until(one) == until(other)


ranks = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=0, max_size=14)


@given(found=ranks, sizes=st.lists(st.integers(1, 5), min_size=14, max_size=14), extra=st.integers(0, 6))
@settings(max_examples=300, deadline=None)
def test_choosing_is_walking_in_one_order(found: list[tuple[int, bool]], sizes: list[int], extra: int) -> None:
    running: list[Rank] = sorted((level, job) for job, (level, runs) in enumerate(found) if runs)
    waiting: list[Rank] = sorted((level, job) for job, (level, runs) in enumerate(found) if not runs)
    left = extra + sum(sizes[rank[-1]] for rank in running)
    kept = set()
    for rank in sorted([*running, *waiting]):
        if sizes[rank[-1]] <= left:
            left -= sizes[rank[-1]]
            kept.add(rank)
    stops, starts = choose(running, waiting, sizes, extra)
    assert {running[place] for place in stops} == set(running) - kept
    assert {waiting[place] for place in starts} == set(waiting) & kept


def test_reading_a_file_twice_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text("job,submit_s,duration_s,num_gpus\na,1,2,1\nb,1,1,1\n")
    assert read_jobs(path) == read_jobs(path)
    assert [job.job for job in read_jobs(path).jobs] == ["b", "a"]  # of one second, the shorter first
