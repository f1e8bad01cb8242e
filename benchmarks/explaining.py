"""Explanations: one waiting job, its expected start, and a saved snapshot, on fleets up to 12,500 nodes of 8 devices.

    python benchmarks/explaining.py [--nodes 12500] [--looks 5]

The pool is full and settled: nothing that waits can start. The first answer about a saved snapshot costs its plan;
every further one only its own telling, and so does the first where the live scheduler has just planned it. Times are of
the processor, not of the clock on the wall.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from _bench import machine, say, say_machine
from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    DeviceRow,
    Holding,
    NodeRow,
    Request,
    Snapshot,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.explaining import Explainer
from dujiang.scheduling.domain.forecast import forecast, steps_for
from dujiang.scheduling.domain.saved import dump, load

GIB = 1 << 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PER_NODE, JOBS_PER_NODE, WAITING_PER_NODE = 8, 1.6, 0.8
"""As 20,000 running and 10,000 waiting jobs are to 12,500 nodes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=12_500, help="of the largest fleet")
    parser.add_argument("--looks", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    sizes = sorted({max(1, args.nodes // part) for part in (100, 10, 1)})
    say(
        "Seconds of processor time, the median",
        ["nodes", "running", "waiting", "first answer", "first from the live plan", "each further", "expected start",
         "steps", "save", "MB", "MB compressed", "read"],
        [_measure(nodes, args.looks) for nodes in sizes],
    )  # fmt: skip
    say_machine("make bench B=explaining")


def _measure(nodes: int, looks: int) -> list[Any]:
    snapshot = a_snapshot(nodes)
    middle = snapshot.requests[len(snapshot.requests) // 2].job_id
    others = [request.job_id for request in snapshot.requests[:: max(1, len(snapshot.requests) // 200)]]
    explainer = Explainer(snapshot, NOW)
    explainer.answer(middle)
    saved, planned = dump(snapshot, NOW), plan(snapshot, NOW)
    return [
        nodes, len(snapshot.holdings), len(snapshot.requests),
        _median(lambda: Explainer(snapshot, NOW).answer(middle), looks),
        _median(lambda: Explainer(snapshot, NOW, planned.outcome).answer(middle), looks),
        _median(lambda: [explainer.answer(job) for job in others], looks, over=len(others)),
        _median(lambda: forecast(snapshot, NOW, job_id=middle), looks), steps_for(snapshot),
        _median(lambda: dump(snapshot, NOW), looks), f"{len(saved) / 1e6:.1f}",
        f"{len(gzip.compress(saved, 5)) / 1e6:.2f}", _median(lambda: load(saved), looks),
    ]  # fmt: skip


def a_snapshot(nodes: int, seed: int = 7) -> Snapshot:
    """A pool whose devices are all held, by jobs of 1 to 8 of them, and a queue that nothing can start from."""
    rng = np.random.default_rng(seed)
    devices = tuple(DeviceRow(f"g{n}", n, "nvidia", "H100", 80 * GIB) for n in range(PER_NODE))
    rows = [NodeRow("c", f"n{n:05d}", 128_000, 1024 * GIB, 4096 * GIB, devices) for n in range(nodes)]
    holdings: list[Holding] = []
    splits = ((8,), (4, 4), (8,), (4, 2, 2), (4, 4), (8,), (2, 2, 2, 1, 1))
    for number in range(nodes):
        first = 0
        for size in splits[number % len(splits)] if len(holdings) + nodes - number < nodes * JOBS_PER_NODE else (8,):
            shares = tuple(DeviceShare(f"g{n}", n, 1000, 80 * GIB) for n in range(first, first + size))
            rank = RankPlacement(0, f"n{number:05d}", size * 8000, size * 64 * GIB, 0, shares)
            ends = NOW + timedelta(seconds=float(rng.integers(60, 86_400))) if number % 2 else None
            guess = NOW + timedelta(seconds=float(rng.integers(60, 86_400)))
            started = NOW - timedelta(seconds=float(rng.integers(60, 7200)))
            held = f"run_{len(holdings):06d}"
            holdings.append(Holding(held, f"p{number % 50}", "c", (rank,), started, ends, guess))
            first += size
    waiting = [_request(number, rng) for number in range(int(nodes * WAITING_PER_NODE))]
    return snapshot_of_rows(fleet_of_rows([ClusterRow("c")], rows), holdings=holdings, requests=waiting)


def _request(number: int, rng: np.random.Generator) -> Request:
    shapes = ((125, 1), (500, 1), (1000, 1), (2000, 1), (4000, 1), (8000, 1), (8000, 2), (8000, 16))
    milli, ranks = shapes[int(rng.integers(len(shapes)))]
    ask = Ask(milli, 0, "", "", max(1000, 8 * milli), max(1, milli // 125) * 8 * GIB)
    limit = float(rng.choice([600, 3600, 86_400])) if number % 2 else None
    since = NOW - timedelta(seconds=10_000_000 - number)
    return Request(
        f"job_{number:06d}", f"p{number % 50}", ask, since, ranks=ranks, runs_at_most_s=limit, expected_s=600.0
    )


def _median(what: Callable[[], Any], looks: int, *, over: int = 1) -> str:
    taken = []
    for _ in range(looks):
        begun = time.process_time()
        what()
        taken.append((time.process_time() - begun) / over)
    return f"{float(np.median(taken)):.3g}"


if __name__ == "__main__":
    main()
