"""Scheduling: waiting, deadlines and shares on public traces, beside what was published for them.

    python benchmarks/queueing.py [TRACES] [--quick]

TRACES (or DUJIANG_TRACES) is the folder of the traces, with philly/, itp/, helios_earth/, openb/ and failures/.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _bench import say, say_machine
from dujiang.scheduling.simulator.deadlines import deadline_summary, read_curves, simulate_deadlines
from dujiang.scheduling.simulator.faults import read_faults
from dujiang.scheduling.simulator.jobs_traces import TraceJob, read_jobs
from dujiang.scheduling.simulator.partition import compare, pool_bound, read_minutes, shares
from dujiang.scheduling.simulator.queue import Rules, simulate
from dujiang.scheduling.simulator.queue_summary import summary
from dujiang.scheduling.simulator.sharing import read_stays, sharing

PUBLISHED_S = {"fifo": 29_407, "easy": 23_484, "sjf": 4_819, "srtf": 783, "2d-las": 1_408}
"""Average waiting on Philly, September and October 2017, 82 nodes of 8 as one pool."""
PARTITION = 9.4
EARTH = (0.6015, 0.6602)
ELASTICFLOW = {1: (64, 0.788), 2: (64, 0.822), 3: (64, 0.455), 4: (128, 0.631), 5: (64, 0.832)}
"""Nodes of 8 A100 and the share of deadlines met, ASPLOS 2023, figure 8b."""
NODES = 82


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="?", type=Path, default=os.environ.get("DUJIANG_TRACES"))
    parser.add_argument(
        "--quick", action="store_true", help="without other loads, other bounds and the largest cluster"
    )
    args = parser.parse_args()
    if args.traces is None or not Path(args.traces).is_dir():
        sys.exit("Give the folder of the traces, or set DUJIANG_TRACES to it.")
    traces = Path(args.traces)
    jobs = read_jobs(traces / "philly" / "jobs_2017_09_10.csv.gz").jobs
    _queues(jobs)
    if not args.quick:
        _elsewhere(jobs)
    _failures(jobs, traces)
    _partition(jobs, traces)
    _deadlines(traces, [1, 3, 5] if args.quick else list(ELASTICFLOW))
    _sharing(traces)
    say_machine("python benchmarks/queueing.py TRACES")


def _queues(jobs: Sequence[TraceJob]) -> None:
    rows = []
    for name in (*PUBLISHED_S, "default"):
        told = _run(jobs, name, Rules(NODES))
        waits = told["queueing_s"]
        published = PUBLISHED_S.get(name)
        ratio = waits["average"] / (published or PUBLISHED_S["2d-las"])
        rows.append([
            name, f"{published:,}" if published else "-", f"{waits['average']:,.1f}",
            f"{ratio:.4f}" + ("" if published else " of 2d-las"),
            f"{waits['p50']:,.0f}", f"{waits['p99']:,.0f}", f"{waits['max']:,}", f"{told['jct_s']['average']:,.0f}",
            f"{told['stops']:,}", f"{told['seconds']:.1f}",
        ])  # fmt: skip
    columns = [
        "policy",
        "published s",
        "average wait s",
        "ratio",
        "p50",
        "p99",
        "max",
        "average JCT",
        "stops",
        "seconds",
    ]
    say(f"Philly, {len(jobs):,} jobs, {NODES} nodes of 8 as one pool", columns, rows)


def _elsewhere(jobs: Sequence[TraceJob]) -> None:
    half = len(jobs) // 2
    cases: list[tuple[str, Sequence[TraceJob], Rules]] = [
        (f"{nodes} nodes", jobs, Rules(nodes)) for nodes in (74, 78, 90, 110)
    ]
    cases += [
        ("first half", jobs[:half], Rules(NODES)), ("second half", jobs[half:], Rules(NODES)),
        ("all, 60 s a restart", jobs, Rules(NODES, restart_s=60)),
        ("all, 300 s a restart", jobs, Rules(NODES, restart_s=300)),
        ("all, at most 24 h", jobs, Rules(NODES, max_wait_s=24 * 3600)),
        ("all, no bound", jobs, Rules(NODES, max_wait_s=0)),
    ]  # fmt: skip
    rows = []
    for name, part, rules in cases:
        las, ours = (_run(part, policy, rules) for policy in ("2d-las", "default"))
        rows.append([
            name, *(f"{each['queueing_s']['average']:,.0f}" for each in (las, ours)),
            f"{ours['queueing_s']['average'] / las['queueing_s']['average']:.3f}",
            *(f"{each['queueing_s']['max']:,}" for each in (las, ours)),
            *(f"{each['stops']:,}" for each in (las, ours)), ours["waited_beyond_bound"],
        ])  # fmt: skip
    columns = [
        "case",
        "2d-las average s",
        "default",
        "ratio",
        "2d-las max s",
        "default",
        "2d-las stops",
        "default",
        "default: beyond its bound",
    ]
    say(
        "The same elsewhere: other loads, parts of the trace, restarts that cost, other bounds on waiting",
        columns,
        rows,
    )


def _failures(jobs: Sequence[TraceJob], traces: Path) -> None:
    faults = read_faults(traces / "failures" / "infinitehbd_faults.csv.gz", origin_s=jobs[0].submit_s)
    rows = []
    for name in ("fifo", "2d-las", "default"):
        for hours in (1, 6):
            told = _run(jobs, name, Rules(NODES, faults=faults, checkpoint_s=hours * 3600, restart_s=60))
            rows.append([name, f"{hours} h", told["node_faults"], told["jobs_hit"], f"{told['lost_gpu_h']:,.0f}",
                         f"{told['queueing_s']['average']:,.0f}", f"{told['queueing_s']['max']:,}"])  # fmt: skip
    columns = ["policy", "checkpoint each", "failures", "jobs hit", "GPU-hours twice", "average wait s", "max"]
    say("With the failures of nodes 0 to 81 of InfiniteHBD, 60 s a restart", columns, rows)


def _partition(jobs: Sequence[TraceJob], traces: Path) -> None:
    nodes_of = shares(jobs, 8)
    rows = []
    for name in ("fifo", "easy", "sjf", "2d-las", "default"):
        told = compare(jobs, name, Rules(1), nodes_of)
        rows.append([name, f"{told['static_average_s']:,.0f}", f"{told['pool_average_s']:,.0f}", f"{told['ratio']:.2f}",
                     PARTITION if name == "fifo" else "-"])  # fmt: skip
    columns = ["policy", "apart, average wait s", "one pool", "ratio", "published"]
    say(f"{len(nodes_of)} virtual clusters of Philly with {sum(nodes_of.values())} nodes of their own", columns, rows)
    bound = pool_bound(read_minutes(traces / "helios_earth" / "vc_minutes_2020_05_01_16.csv.gz"))
    rows = [[f"{bound['static_utilisation']:.2%}", f"{EARTH[0]:.2%}", f"{bound['pool_bound']:.2%}", f"{EARTH[1]:.2%}",
             f"{bound['waiting_gpu_h']:,.0f}", f"{bound['waiting_that_idle_gpus_could_serve']:.1%}"]]  # fmt: skip
    columns = [
        "in use",
        "reference",
        "bound of a pool",
        "reference",
        "waiting GPU-hours",
        "idle GPUs could have served",
    ]
    say(f"Helios Earth, {bound['virtual_clusters']} virtual clusters, {bound['minutes']:,} minutes", columns, rows)


def _deadlines(traces: Path, clusters: Iterable[int]) -> None:
    curves = read_curves(traces / "itp" / "throughput_a100.csv")
    rows = []
    for cluster in clusters:
        nodes, published = ELASTICFLOW[cluster]
        jobs = read_jobs(traces / "itp" / f"cluster{cluster:02}.csv.gz").jobs
        for rescale_s in (0, 30):
            row: list[object] = [f"cluster{cluster:02}", nodes, f"{rescale_s} s", published]
            for name in ("edf", "elasticflow", "default"):
                began = time.perf_counter()
                outcome = simulate_deadlines(jobs, curves, name, gpus=nodes * 8, rescale_s=rescale_s)
                spent_s = time.perf_counter() - began
                told = deadline_summary(jobs, outcome, name)
                row.append(f"{told['deadline_satisfied']:.4f}")
            rows.append([*row, told["admitted_and_missed"], f"{told['possible_alone']:.4f}", f"{spent_s:.1f}"])
    columns = ["trace", "nodes", "a rescale", "ElasticFlow, published", "our edf", "our elasticflow", "default",
               "default: promised, missed", "possible on an empty cluster", "seconds"]  # fmt: skip
    say("ITP: share of deadlines met, slots of 60 s", columns, rows)


def _sharing(traces: Path) -> None:
    told = sharing(read_stays(traces / "openb" / "pods_default.csv.gz"))
    rows = [
        [
            name,
            f"{part['held_gpu_h']:,.0f}",
            f"{part['asked_of_held']:.2%}",
            part["most_gpus"],
            f"{part['asked_of_fixed']:.2%}",
        ]
        for name, part in (("whole devices", told["whole"]), ("shares of devices", told["shared"]))
    ]
    columns = ["", "GPU-hours held", "asked of held", "most GPUs at once", "asked of a cluster of that size"]
    say(
        f"openb by creation and deletion, {told['pods']:,} pods ({told['pods_with_a_share']:,} ask for a share)",
        columns,
        rows,
    )


def _run(jobs: Sequence[TraceJob], policy: str, rules: Rules) -> dict[str, Any]:
    began = time.perf_counter()
    outcome = simulate(jobs, policy, replace(rules))
    return {**summary(jobs, outcome, policy, max_wait_s=rules.max_wait_s), "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main()
