"""Placement on the openb traces: six published policies and ours against what was published, and decisions per second.

`make bench B=openb ARGS="FOLDER"`: the folder holds openb/nodes_gpu.csv.gz, openb/pods_*.csv.gz and, to compare with,
openb/fgd_published_curves.csv.gz. Without it DUJIANG_TRACES, else ./traces. `--quick` is two seeds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import shlex
import sys
import time
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np

from _bench import met, say, say_machine
from dujiang.scheduling.simulator.fit import fitting_nodes, take
from dujiang.scheduling.simulator.openb import POLICIES, Experiment, Outcome, experiment_of, simulate
from dujiang.scheduling.simulator.outlook import new_outlook
from dujiang.scheduling.simulator.place import NOWHERE, choose, new_scores
from dujiang.scheduling.simulator.plain import plain_fgd, plain_nodes, plain_pods, plain_take, plain_typical
from dujiang.scheduling.simulator.published import FGD
from dujiang.scheduling.simulator.traces import read_nodes, read_pods
from dujiang.scheduling.simulator.workload import draw_arrivals

LISTS: Final = ("default", "cpu100", "cpu200", "gpushare40", "gpushare80", "gpuspec10", "gpuspec33", "multigpu20",
                "multigpu40")  # fmt: skip
THEIR_NAMES: Final = {"Clustering": "GpuClustering", "Packing": "GpuPacking"}
ARRIVAL: Final = 1.3
MOVES: Final = 0.05
PLAIN_PARTS: Final = 4
PLAIN_EACH: Final = 12
"""Plain Python is timed on so many decisions at each of so many fillings: a whole run takes an hour."""

Task = tuple[Path, str, str, int, float]


def main() -> int:
    """Run all and print the tables; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("DUJIANG_TRACES", "traces")))
    parser.add_argument("--lists", default=",".join(LISTS))
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--move-all", action="store_true", help="moves on every list, not on the first alone")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    folder = asked.folder / "openb"
    if not (folder / "nodes_gpu.csv.gz").exists():
        print(f"There is no {folder}/nodes_gpu.csv.gz: give the folder of the traces, or set DUJIANG_TRACES.",
              file=sys.stderr)  # fmt: skip
        return 2
    lists, policies = asked.lists.split(","), asked.policies.split(",")
    seeds = range(42, 44 if asked.quick else 52)
    tasks = [(folder, each, policy, seed, 0.0) for each in lists for policy in policies for seed in seeds]
    if "default" in policies:
        moved = lists if asked.move_all else lists[:1]
        tasks += [(folder, each, "default", seed, MOVES) for each in moved for seed in seeds]
    found: dict[tuple[str, str, float], list[Outcome]] = {}
    with get_context("spawn").Pool(asked.processes) as pool:
        for task, outcome in zip(tasks, pool.imap(run, tasks, chunksize=2), strict=True):
            found.setdefault((task[1], task[2], task[4]), []).append(outcome)
    missed = tell(found, published(folder), lists, policies)
    missed += tell_speed(folder, lists[0])
    say_machine(shlex.join(["make", "bench", "B=openb", *sys.argv[2:]]))
    return 1 if missed else 0


def run(task: Task) -> Outcome:
    """Run one policy on one list with one seed."""
    folder, name, policy, seed, moves = task
    return simulate(experiment(folder, name), policy, arrival=ARRIVAL, seed=seed, moves=moves)


@cache
def experiment(folder: Path, name: str) -> Experiment:
    """Read one list, once for each process."""
    return experiment_of(read_nodes(folder / "nodes_gpu.csv.gz"), read_pods(folder / f"pods_{name}.csv.gz"))


def published(folder: Path) -> dict[tuple[str, str, int], float]:
    """Return the published means by list, policy and percent of arrival; nothing when they are not there."""
    path = folder / "fgd_published_curves.csv.gz"
    if not path.exists():
        return {}
    with gzip.open(path, "rt") as rows:
        return {(row["workload"], row["policy"], int(row["arrived_pct"])): float(row["alloc_pct_mean"])
                for row in csv.DictReader(rows)}  # fmt: skip


def tell(found: dict[tuple[str, str, float], list[Outcome]], theirs: dict[tuple[str, str, int], float],
         lists: list[str], policies: list[str]) -> int:  # fmt: skip
    """Print the tables; return how many targets were missed."""
    missed, rows = 0, []
    for name in lists:
        for policy in policies:
            outcomes = found[name, policy, 0.0]
            cells: list[str] = []
            for at in (100, 130):
                mine = mean(outcomes, at)
                reference = theirs.get((name, THEIR_NAMES.get(policy, "FGD" if policy == "default" else policy), at))
                cells += [f"{mine:.2f}", "-" if reference is None else f"{reference:.2f}"]
                if reference is None:
                    cells.append("-")
                elif policy == "default":
                    is_met = at == 100 or mine > reference  # only what remains in the end has a target
                    cells.append(f"{mine - reference:+.2f}" + ("" if at == 100 else f" {met(is_met)}"))
                    missed += not is_met
                else:
                    is_met = abs(mine - reference) <= (0.5 if name.startswith("multigpu") else 0.3)
                    cells.append(f"{mine - reference:+.2f} {met(is_met)}")
                    missed += not is_met
            placed, arrived = (np.mean([getattr(e, count) for e in outcomes]) for count in ("placed", "arrived"))
            cells.append(f"{placed:.0f} of {arrived:.0f}")
            rows.append([name, policy, *cells])
    say("Allocated GPUs, % of 6,212; for `default` the reference is FGD",
        ["pods", "policy", "at 100 %", "published", "difference", "at 130 %", "published", "difference", "pods placed"],
        rows)  # fmt: skip
    moved = [(name, outcomes) for (name, _, moves), outcomes in found.items() if moves]
    rows = [
        [
            name, f"{mean(outcomes, 100):.2f}", f"{mean(outcomes, 130):.2f}",
            f"{min(each.allocation_pct[130] for each in outcomes):.2f}",
            *(f"{np.mean([getattr(each, count) for each in outcomes]):.0f}" for count in ("moves", "placed", "waited")),
            f"{np.mean([each.held_milli for each in outcomes]) / 1000:.0f}",
            met(mean(outcomes, 130) >= 97.5) if name == "default" else "-",
        ]
        for name, outcomes in moved
    ]  # fmt: skip
    if rows:
        titles = ["pods", "at 100 %", "at 130 %", "least of the seeds", "moves", "pods placed", "of these waited",
                  "most GPUs held back", "at least 97.5"]  # fmt: skip
        say("Moves of at most 5 % of the pods placed, and a queue", titles, rows)
        missed += sum(mean(outcomes, 130) < 97.5 for name, outcomes in moved if name == "default")
    return missed


def mean(outcomes: list[Outcome], at: int) -> float:
    """Return the mean allocation at a percent of arrival."""
    return float(np.mean([each.allocation_pct[at] for each in outcomes]))


def tell_speed(folder: Path, name: str) -> int:
    """Print decisions per second on one core, ours beside FGD compiled and FGD in plain Python."""
    one = experiment(folder, name)
    best = {
        policy: max(simulate(one, policy, arrival=ARRIVAL, seed=42).decisions_per_s() for _ in range(3))
        for policy in ("default", "FGD")
    }
    mine, plain = best["default"], plain_speed(one)
    targets = f"{met(mine >= 5000)} (5,000/s), {met(mine >= 50 * plain)} (50x)"
    rows = [
        ["default", f"{mine:,.0f}", f"{mine / plain:,.0f}x", targets],
        ["FGD, compiled", f"{best['FGD']:,.0f}", f"{best['FGD'] / plain:,.0f}x", "-"],
        ["FGD, plain Python", f"{plain:,.2f}", "1x", "-"],
    ]
    say("Decisions per second of processor time", ["policy", "decisions/s", "beside plain Python", "target met"], rows)
    return int(mine < 5000) + int(mine < 50 * plain)


def plain_speed(one: Experiment) -> float:
    """Return the decisions per second of FGD in plain Python: a few at each of several fillings of the same run."""
    arrivals = draw_arrivals(one.shapes, one.of_pod, nodes=len(one.cluster.gpus), capacity_milli=one.capacity_milli,
                             ratio=ARRIVAL, seed=42)  # fmt: skip
    cluster = one.cluster.reordered(arrivals.nodes)
    scores, pods, mix = new_scores(one.shapes, cluster), plain_pods(one.shapes), plain_typical(one.typical)
    outlook = new_outlook(one.shapes, 1, arrivals.order[:0], fitting_nodes(cluster, one.shapes),
                          np.random.default_rng(0), slots=2)  # fmt: skip
    seconds, step = 0.0, len(arrivals.order) // PLAIN_PARTS
    for at, shape in enumerate(arrivals.order):
        if at % step == 0 and at // step < PLAIN_PARTS:
            nodes = plain_nodes(cluster)
            begun = time.process_time()
            for each in arrivals.order[at : at + PLAIN_EACH]:
                chosen = plain_fgd(nodes, pods[each], mix)
                if chosen is not None:
                    plain_take(nodes[chosen[0]], pods[each], chosen[1])
            seconds += time.process_time() - begun
        node, devices = choose(FGD, cluster, one.shapes, shape, scores, one.typical, outlook, 0.0)
        if node != NOWHERE:
            take(cluster, node, one.shapes, shape, devices)
    return PLAIN_PARTS * PLAIN_EACH / seconds


if __name__ == "__main__":
    sys.exit(main())
