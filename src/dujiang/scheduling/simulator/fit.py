"""Whether a pod fits on a node, and which devices it would take there. Compiled."""

from __future__ import annotations

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, IntArray, Shapes


@compiled
def fits(cluster: Cluster, node: int, shapes: Shapes, shape: int) -> bool:
    """Say whether a pod fits: processors, memory, model, enough devices with enough left. No fraction is split."""
    if cluster.cpu_milli[node] < shapes.cpu_milli[shape] or cluster.memory_mib[node] < shapes.memory_mib[shape]:
        return False
    if shapes.gpus[shape] == 0:
        return True
    if (shapes.models[shape] >> cluster.model[node]) & 1 == 0:
        return False
    able = 0
    for device in range(cluster.gpus[node]):
        if cluster.gpu_milli[node, device] >= shapes.gpu_milli[shape]:
            able += 1
    return bool(able >= shapes.gpus[shape])


@compiled
def fitting_nodes(cluster: Cluster, shapes: Shapes) -> IntArray:
    """Return on how many nodes each shape fits now. O(shapes * nodes * devices)."""
    counts = np.zeros(len(shapes.gpus), np.int64)
    for shape in range(len(shapes.gpus)):
        for node in range(len(cluster.gpus)):
            if fits(cluster, node, shapes, shape):
                counts[shape] += 1
    return counts


@compiled
def tightest(free_milli: IntArray, devices: int, milli: int, wanted: int) -> int:
    """Return the devices with the least left that still hold `milli` each, as bits; of equals those that come first."""
    taken = 0
    for _ in range(wanted):
        best = -1
        for device in range(devices):
            if (taken >> device) & 1 or free_milli[device] < milli:
                continue
            if best < 0 or free_milli[device] < free_milli[best]:
                best = device
        taken |= 1 << best
    return taken


@compiled
def take(cluster: Cluster, node: int, shapes: Shapes, shape: int, devices: int) -> None:
    """Place a pod."""
    _change(cluster, node, shapes, shape, devices, 1)
    if shapes.gpus[shape] > 0:
        kind = 0 if shapes.gpu_milli[shape] < WHOLE else shapes.gpus[shape]
        cluster.kinds[node] |= 1 << kind


@compiled
def give(cluster: Cluster, node: int, shapes: Shapes, shape: int, devices: int) -> None:
    """Take a pod away. The kinds it is said to hold stay: only `Clustering` reads them, and it moves nothing."""
    _change(cluster, node, shapes, shape, devices, -1)


@compiled
def _change(cluster: Cluster, node: int, shapes: Shapes, shape: int, devices: int, sign: int) -> None:
    cluster.cpu_milli[node] -= sign * shapes.cpu_milli[shape]
    cluster.memory_mib[node] -= sign * shapes.memory_mib[shape]
    for device in range(cluster.gpus[node]):
        if (devices >> device) & 1:
            cluster.gpu_milli[node, device] -= sign * shapes.gpu_milli[shape]
    cluster.version[node] += 1
