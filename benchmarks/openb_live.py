"""The live planner's choice of places on the openb lists, beside the published FGD: same arrivals, nothing moved.

    python benchmarks/openb_live.py [FOLDER] [--lists default,gpushare40] [--seeds 42,43,44]

What `plan` does for each start is done here for each arrival: `find` in a `Room` that knows the jobs that have come so
far. FGD is run as the simulator has it, on the same arrivals. FOLDER (or DUJIANG_TRACES, else ./traces)
holds the openb traces.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from _bench import machine, say, say_machine
from dujiang.scheduling.simulator.live import asks_of, fleet_of, play_live
from dujiang.scheduling.simulator.openb import experiment_of, simulate
from dujiang.scheduling.simulator.traces import read_nodes, read_pods
from dujiang.scheduling.simulator.workload import draw_arrivals


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("DUJIANG_TRACES", "traces")))
    parser.add_argument("--lists", default="default")
    parser.add_argument("--seeds", default="42,43,44")
    args = parser.parse_args()
    folder = args.folder / "openb" if (args.folder / "openb").is_dir() else args.folder
    print(machine())
    rows = [_row(folder, name, [int(seed) for seed in args.seeds.split(",")]) for name in args.lists.split(",")]
    say(
        f"GPU allocation, % of all devices, mean of seeds {args.seeds}",
        ["list", "ours at 100 %", "at 130 %", "pods placed", "decisions/s", "FGD at 100 %", "at 130 %", "pods placed"],
        rows,
    )
    say_machine("make bench B=openb_live")


def _row(folder: Path, name: str, seeds: list[int]) -> list[Any]:
    nodes, pods = read_nodes(folder / "nodes_gpu.csv.gz"), read_pods(folder / f"pods_{name}.csv.gz")
    experiment, fleet = experiment_of(nodes, pods), fleet_of(nodes)
    asks = {int(shape): asks_of(pod) for shape, pod in zip(experiment.of_pod.tolist(), pods, strict=True)}
    ours, fgd = [], []
    for seed in seeds:
        arrivals = draw_arrivals(
            experiment.shapes, experiment.of_pod, nodes=len(nodes), capacity_milli=experiment.capacity_milli,
            ratio=1.3, seed=seed,
        )  # fmt: skip
        run = play_live(fleet, [asks[shape] for shape in arrivals.order.tolist()])
        demand = np.cumsum(experiment.shapes.demand_milli()[arrivals.order]) / experiment.capacity_milli
        allocated = 100 * run.allocated_milli / experiment.capacity_milli
        full = int(np.searchsorted(demand, 1.0)) - 1
        ours.append((allocated[full], allocated[-1], run.placed, len(arrivals.order) / run.seconds))
        peer = simulate(experiment, "FGD", arrival=1.3, seed=seed)
        fgd.append((peer.allocation_pct[100], peer.allocation_pct[130], peer.placed))
    a, b = np.mean(ours, axis=0), np.mean(fgd, axis=0)
    return [
        name, f"{a[0]:.2f}", f"{a[1]:.2f}", f"{a[2]:.0f}", f"{a[3]:.0f}", f"{b[0]:.2f}", f"{b[1]:.2f}", f"{b[2]:.0f}"
    ]  # fmt: skip


if __name__ == "__main__":
    main()
