"""One cycle of the scheduler at the size of a centre, and how it grows.

    python benchmarks/cycle.py [--most 12500] [--looks 3]

A cycle is the pure function: starts, stops and a reason for everything that waits. Running jobs are what a first plan
started; every third of them could be stopped, and has saved itself. Half have a time limit. "More": about a tenth of
the devices is free and a fifth of what waits starts. "Full": nothing is free, and work is stopped for core work. Sizes
grow in proportion: 12,500 nodes have 20,000 running jobs and 10,000 waiting ones. Processor seconds of one core; memory
is the most that the process ever held.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

import numpy as np

from _bench import machine, met, say, say_machine
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    DeviceRow,
    Holding,
    NodeRow,
    Request,
    Snapshot,
    TaskClass,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)  # fmt: skip
from dujiang.scheduling.domain.explaining import Explainer

GIB = 1 << 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = (1250, 2500, 5000, 12_500, 25_000)
SHAPES = ((125, 1), (500, 1), (1000, 1), (2000, 1), (4000, 1), (8000, 1), (8000, 2))
"""gpu_milli of each rank, and ranks."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=12_500, help="Nodes of the largest size.")
    parser.add_argument("--looks", type=int, default=3)
    args = parser.parse_args()
    print(machine())
    rows = []
    for nodes in (size for size in SIZES if size <= args.most):
        snapshot = _more(nodes)
        rows += [_row(nodes, "more", snapshot, args.looks), _row(nodes, "full", _full(snapshot), args.looks)]
    say(
        "One cycle; nodes of 8 GPUs, 1.6 running and 0.8 waiting jobs a node",
        ["nodes", "running", "waiting", "the pool", "starts", "stops", "least s", "median s", "MiB",
         "met: 1 s, 1.5 GiB", "then one job explained, ms", "met: 50 ms"],
        rows,
    )  # fmt: skip
    say_machine("make bench B=cycle")


def _row(nodes: int, pool: str, snapshot: Snapshot, looks: int) -> list[Any]:
    taken = []
    for _ in range(looks):
        begun = process_time()
        done = plan(snapshot, NOW)
        taken.append(process_time() - begun)
    explainer = Explainer(snapshot, NOW)
    explainer.answer(done.waits[0].job_id)
    alone = []
    for wait in done.waits[:: max(1, len(done.waits) // 20)]:
        begun = process_time()
        explainer.answer(wait.job_id)
        alone.append(1000 * (process_time() - begun))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    least, middle = min(taken), sorted(taken)[len(taken) // 2]
    return [
        nodes, len(snapshot.holdings), len(snapshot.requests), pool, len(done.starts), len(done.stops), f"{least:.2f}",
        f"{middle:.2f}", f"{memory:.0f}", met(middle <= 1 and memory <= 1536), f"{max(alone):.0f}",
        met(max(alone) <= 50),
    ]  # fmt: skip


def _more(nodes: int) -> Snapshot:
    rng = np.random.default_rng(nodes)
    devices = tuple(DeviceRow(f"g{n}", n, "nvidia", "H100", 80 * GIB) for n in range(8))
    fleet = fleet_of_rows(
        [ClusterRow("c")],
        [NodeRow("c", f"n{n:05d}", 128_000, 1024 * GIB, 4096 * GIB, devices) for n in range(nodes)],
    )
    first = [_request(f"run_{n:06d}", n, rng) for n in range(nodes * 8 // 5)]
    holdings = _held(plan(snapshot_of_rows(fleet, requests=first), NOW, telling=False).starts, first)
    waiting = [_request(f"job_{n:06d}", n, rng) for n in range(nodes * 4 // 5)]
    return snapshot_of_rows(fleet, holdings=holdings, requests=waiting)


def _full(snapshot: Snapshot) -> Snapshot:
    """Return the same pool with nothing free: what was free is held by work without end."""
    rng = np.random.default_rng(1)
    fill = [
        replace(_request(f"fill_{n:06d}", n, rng), ask=Ask(1000, 0, "", "", 1000, GIB), ranks=1, runs_at_most_s=None)
        for n in range(int((snapshot.device_milli >= 1000).sum()))
    ]
    started = plan(replace(snapshot, requests=tuple(fill)), NOW, telling=False).starts
    held = [*snapshot.holdings, *_held(started, fill)]
    return snapshot_of_rows(snapshot.fleet, holdings=held, requests=snapshot.requests)


def _held(starts: Any, requests: list[Request]) -> list[Holding]:
    of = {one.job_id: one for one in requests}
    held = []
    for number, start in enumerate(starts):
        limit, task_class = of[start.job_id].runs_at_most_s, of[start.job_id].task_class
        held.append(Holding(
            start.job_id, start.project_id, start.cluster, start.ranks, NOW - timedelta(seconds=600 + number % 3000),
            None if limit is None else NOW + timedelta(seconds=limit), task_class=task_class, may_stop=number % 3 == 0,
            saved_at=NOW - timedelta(seconds=number % 600),
        ))  # fmt: skip
    return held


def _request(id: str, number: int, rng: np.random.Generator) -> Request:
    milli, ranks = SHAPES[int(rng.integers(len(SHAPES)))]
    ask = Ask(milli, 0, "", "", max(1000, 8 * milli), max(1, milli // 125) * 8 * GIB)
    limit = float(rng.choice([600, 3600, 86_400])) if number % 2 else None
    task_class = (TaskClass.LOW, TaskClass.NORMAL, TaskClass.NORMAL, TaskClass.CORE)[number % 4]
    return Request(
        id, f"p{number % 7}", ask, NOW + timedelta(seconds=number), ranks=ranks, task_class=task_class,
        runs_at_most_s=limit,
    )  # fmt: skip


if __name__ == "__main__":
    main()
