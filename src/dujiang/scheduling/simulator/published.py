"""The policies that Weng et al. compare (USENIX ATC 2023), as scores: the node with the highest is taken.

Scores are whole numbers up to 100, as in the field's scheduler whose plug-ins they were: coarse on purpose, for the
ties are part of what was published. Of equal nodes the first in the order of the run is taken. Compiled.
"""

from __future__ import annotations

import math
from typing import Final

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, IntArray, Shapes
from dujiang.scheduling.simulator.fit import tightest
from dujiang.scheduling.simulator.fragments import Typical, node_fragments

RANDOM: Final = 0
DOT_PRODUCT: Final = 1
CLUSTERING: Final = 2
PACKING: Final = 3
BEST_FIT: Final = 4
FGD: Final = 5

CPU_SCALE: Final = 128_000
GPU_SCALE: Final = 8_000
"""Amounts are measured against the largest node there was: 128 processors, 8 devices."""


@compiled
def published_score(policy: int, cluster: Cluster, node: int, shapes: Shapes, shape: int, typical: Typical,
                    scratch: IntArray) -> tuple[float, int]:  # fmt: skip
    """Return the score of a node on which the pod fits, and the devices it would take there.

    Args:
        policy: one of the constants above, not RANDOM, which scores nothing.
        cluster: what is free.
        node: on which it fits.
        shapes: the distinct requests.
        shape: the one to place.
        typical: for FGD.
        scratch: as long as a node has devices.
    """
    devices, milli, wanted = cluster.gpus[node], shapes.gpu_milli[shape], shapes.gpus[shape]
    free = cluster.gpu_milli[node]
    taken = tightest(free, devices, milli, wanted)
    left = 0
    for device in range(devices):
        left += free[device]
    if policy == DOT_PRODUCT:
        match = (cluster.cpu_milli[node] / CPU_SCALE) * (shapes.cpu_milli[shape] / CPU_SCALE)
        match += (left / GPU_SCALE) * (wanted * milli / GPU_SCALE)
        return float(int(100 * (1 - match / 2))), taken
    if policy == BEST_FIT:
        spare = 0.5 * (cluster.cpu_milli[node] - shapes.cpu_milli[shape]) / CPU_SCALE
        spare += 0.5 * (left - wanted * milli) / GPU_SCALE
        return float(int(100 * (1 - spare))), taken
    if policy == FGD:
        return _fgd(cluster, node, shapes, shape, typical, taken, scratch)
    if wanted == 0:
        return 0.0, taken
    if policy == CLUSTERING:
        return _clustering(cluster.kinds[node], 0 if milli < WHOLE else wanted, left), taken
    return _packing(free, devices, taken), taken


@compiled
def _clustering(kinds: int, kind: int, left_milli: int) -> float:
    """Prefer nodes of this kind of pods only, then of this kind too, then empty ones, then others; fuller first."""
    fullness = (25 * (GPU_SCALE - left_milli)) // GPU_SCALE
    if kinds & (1 << kind):
        return float(fullness + (75 if kinds == 1 << kind else 50))
    return float(fullness + (25 if kinds == 0 else 0))


@compiled
def _packing(free_milli: IntArray, devices: int, taken: int) -> float:
    """Prefer devices in use (the fuller the better), then idle devices on nodes in use, then idle nodes."""
    idle, idle_taken, left_pct = 0, 0, 0
    for device in range(devices):
        if free_milli[device] == WHOLE:
            idle += 1
        if (taken >> device) & 1:
            left_pct += free_milli[device] * 100 // WHOLE
            if free_milli[device] == WHOLE:
                idle_taken += 1
    if idle == devices:
        return float(max(33 - idle, idle))
    if idle_taken:
        return float(max(50 - idle_taken, 33))
    return float(max(100 - left_pct // 10, 50))


@compiled
def _fgd(cluster: Cluster, node: int, shapes: Shapes, shape: int, typical: Typical, taken: int,
         scratch: IntArray) -> tuple[float, int]:  # fmt: skip
    """Prefer where fragments grow least (or shrink most), for a fraction also among the devices of a node."""
    devices, milli, model = cluster.gpus[node], shapes.gpu_milli[shape], cluster.model[node]
    free = cluster.gpu_milli[node]
    cpu = cluster.cpu_milli[node]
    before = node_fragments(cpu, free, devices, model, typical)
    cpu -= shapes.cpu_milli[shape]
    for device in range(devices):
        scratch[device] = free[device]
    if shapes.gpus[shape] != 1 or milli == WHOLE:
        for device in range(devices):
            if (taken >> device) & 1:
                scratch[device] -= milli
        return _grade(before - node_fragments(cpu, scratch, devices, model, typical)), taken
    best, chosen = -1.0, 0
    for device in range(devices):
        if free[device] >= milli:
            scratch[device] -= milli
            grade = _grade(before - node_fragments(cpu, scratch, devices, model, typical))
            scratch[device] += milli
            if grade > best:
                best, chosen = grade, 1 << device
    return best, chosen


@compiled
def _grade(fewer_milli: float) -> float:
    return float(int(100.0 / (1.0 + math.exp(-fewer_milli / WHOLE))))
