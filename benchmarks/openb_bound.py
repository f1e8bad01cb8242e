"""What no policy can exceed on openb, whatever it moves: the most allocation at 130 % arrival for so much at 100 %.

`make bench B=openb_bound ARGS="FOLDER"`. A linear program over ways to fill one device (every set of shares to which no
further one can be added, or whole use), which forgets processors, memory, models and nodes, knows all that will come,
lets counts be fractions and packs everything anew at no cost. It keeps one thing: nothing leaves, so what is placed at
100 % arrival is still there at 130 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import highspy
import numpy as np
import numpy.typing as npt

from _bench import say, say_machine
from dujiang.scheduling.simulator.cluster import WHOLE
from dujiang.scheduling.simulator.openb import Experiment, experiment_of
from dujiang.scheduling.simulator.traces import read_nodes, read_pods
from dujiang.scheduling.simulator.workload import draw_arrivals

IntArray = npt.NDArray[np.int64]

FLOORS: Final = (0.0, 92.0, 93.0, 94.0, 95.0, 96.0)
SEEDS: Final = range(42, 52)


def main() -> int:
    """Print the bounds of one list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(os.environ.get("DUJIANG_TRACES", "traces")))
    parser.add_argument("--list", default="default")
    asked = parser.parse_args()
    folder = asked.folder / "openb"
    if not (folder / "nodes_gpu.csv.gz").exists():
        print(f"There is no {folder}/nodes_gpu.csv.gz: give the folder of the traces, or set DUJIANG_TRACES.",
              file=sys.stderr)  # fmt: skip
        return 2
    one = experiment_of(read_nodes(folder / "nodes_gpu.csv.gz"), read_pods(folder / f"pods_{asked.list}.csv.gz"))
    rows = []
    for floor in FLOORS:
        found = [bound(one, seed, floor) for seed in SEEDS]
        known = [each for each in found if each is not None]
        cells = [f"{np.mean(known):.2f}", f"{max(known):.2f}"] if len(known) == len(found) else ["not possible"] * 2
        rows.append([f"{floor:.0f}" if floor else "any", *cells])
    say(f"Bounds on allocation at 130 % arrival, {asked.list}, seeds {SEEDS[0]} to {SEEDS[-1]}",
        ["at least so much at 100 %", "at most at 130 %, mean", "most of a seed"], rows)  # fmt: skip
    say_machine(f"make bench B=openb_bound ARGS={asked.folder}")
    return 0


def bound(one: Experiment, seed: int, floor_pct: float) -> float | None:
    """Return the most allocation at 130 % in %, None when there cannot be as much at 100 % as is asked for.

    Variables: shares placed of each size and devices in whole use, at 100 % and at 130 %; devices filled in each way.
    """
    capacity = one.capacity_milli
    order = draw_arrivals(one.shapes, one.of_pod, nodes=len(one.cluster.gpus), capacity_milli=capacity, ratio=1.3,
                          seed=seed).order  # fmt: skip
    at_100 = int(np.searchsorted(np.cumsum(one.shapes.demand_milli()[order]), capacity))
    sizes, early, late = sizes_and_counts(one, order, at_100)
    ways = np.array(fillings(sizes[:-1].tolist()), dtype=np.int64)
    kinds, count = len(sizes), len(ways)
    columns = 2 * kinds + count
    rows: list[npt.NDArray[np.float64]] = []
    upper: list[float] = []
    for kind in range(kinds):
        row = np.zeros(columns)
        row[kind], row[kinds + kind] = 1, -1  # what is placed at 100 % stays
        rows.append(row)
        upper.append(0)
    for kind in range(kinds - 1):
        row = np.zeros(columns)
        row[kinds + kind], row[2 * kinds :] = 1, -ways[:, kind]
        rows.append(row)
        upper.append(0)
    row = np.zeros(columns)
    row[2 * kinds - 1], row[2 * kinds :] = 1, 1
    rows.append(row)
    upper.append(capacity / WHOLE)
    row = np.zeros(columns)
    row[:kinds] = -sizes
    rows.append(row)
    upper.append(-floor_pct / 100 * capacity)
    most = np.concatenate([early, late, np.full(count, capacity / WHOLE)]).astype(np.float64)
    cost = np.zeros(columns)
    cost[kinds : 2 * kinds] = -sizes
    least = solved(cost, np.array(rows), np.array(upper, dtype=np.float64), most)
    return None if least is None else -least / capacity * 100


def sizes_and_counts(one: Experiment, order: IntArray, at_100: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the sizes of shares, whole devices last, and how many of each arrive until 100 % and until 130 %."""
    gpus, milli = one.shapes.gpus[order], one.shapes.gpu_milli[order]
    is_share = (gpus == 1) & (milli < WHOLE)
    sizes = np.append(np.unique(milli[is_share]), WHOLE)
    counts = np.stack([np.where(is_share, milli == size, False) for size in sizes]).astype(np.int64)
    counts[-1] = np.where(is_share, 0, gpus)
    return sizes, counts[:, :at_100].sum(axis=1), counts.sum(axis=1)


def fillings(sizes: list[int]) -> list[list[int]]:
    """Return every set of shares to which no further one can be added on one device: how many of each size."""
    found: list[list[int]] = []

    def add(kind: int, left: int, so_far: list[int]) -> None:
        if kind < 0:
            if left < sizes[0]:
                found.append(so_far[::-1])
            return
        for many in range(left // sizes[kind], -1, -1):
            add(kind - 1, left - many * sizes[kind], [*so_far, many])

    add(len(sizes) - 1, WHOLE, [])
    return found


def solved(cost: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], upper: npt.NDArray[np.float64],
           most: npt.NDArray[np.float64]) -> float | None:  # fmt: skip
    """Return the least of `cost @ x` with `rows @ x <= upper` and `0 <= x <= most`, None when there is no such x."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(cost), len(upper)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), most
    lp.row_lower_, lp.row_upper_ = np.full(len(upper), -highspy.kHighsInf), upper
    at_row, at_column = np.nonzero(rows)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.searchsorted(at_row, np.arange(len(upper) + 1)).astype(np.int32)
    lp.a_matrix_.index_ = at_column.astype(np.int32)
    lp.a_matrix_.value_ = rows[at_row, at_column]
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
        return None
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(solver.getInfo().objective_function_value)


if __name__ == "__main__":
    sys.exit(main())
