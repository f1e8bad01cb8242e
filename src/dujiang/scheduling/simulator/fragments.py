"""Fragments: how much of what is free the next pod of a typical mix could not use.

Source: Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), section 3. The next pod is drawn from the typical
ones; on a node where it does not fit (or that has no device it may use, or when it asks for none) everything free is a
fragment; where it fits, the devices that have less left than it asks for are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import Cluster, FloatArray, IntArray, Shapes

POPULAR: Final = 0.95
"""The most frequent shapes that make up this part of the pods are the typical ones."""


class Typical(NamedTuple):
    """The typical pods and how often each comes; memory is left out of account, as in the source."""

    cpu_milli: IntArray
    gpus: IntArray
    gpu_milli: IntArray
    models: IntArray
    share: FloatArray


def typical_pods(shapes: Shapes, of_pod: IntArray, *, popular: float = POPULAR) -> Typical:
    """Return the typical pods of a list, the most frequent first."""
    counts: dict[tuple[int, int, int, int], int] = {}
    for shape, count in enumerate(np.bincount(of_pod, minlength=len(shapes.gpus)).tolist()):
        if count:
            key = (int(shapes.cpu_milli[shape]), int(shapes.gpu_milli[shape]), int(shapes.gpus[shape]),
                   int(shapes.models[shape]))  # fmt: skip
            counts[key] = counts.get(key, 0) + count
    ranked = sorted(counts.items(), key=lambda each: (each[1], each[0]), reverse=True)
    kept: list[tuple[tuple[int, int, int, int], int]] = []
    so_far = 0
    for key, count in ranked:
        if so_far >= popular * len(of_pod):
            break
        kept.append((key, count))
        so_far += count
    columns = np.array([key for key, _ in kept], dtype=np.int64).reshape(len(kept), 4)
    cpu, milli, gpus, models = (np.ascontiguousarray(columns[:, i]) for i in range(4))
    share = np.array([count / so_far for _, count in kept], dtype=np.float64)
    return Typical(cpu, gpus, milli, models, share)


@compiled
def node_fragments(cpu_milli: int, free_milli: IntArray, devices: int, model: int, typical: Typical) -> float:
    """Return the expected fragments of one node in thousandths of a device. O(typical pods * devices)."""
    total = 0
    for device in range(devices):
        total += free_milli[device]
    if total == 0:
        return 0.0
    expected = 0.0
    for pod in range(len(typical.share)):
        milli = typical.gpu_milli[pod]
        lost = total
        if milli > 0 and cpu_milli >= typical.cpu_milli[pod] and (typical.models[pod] >> model) & 1:
            able, below = 0, 0
            for device in range(devices):
                if free_milli[device] >= milli:
                    able += 1
                else:
                    below += free_milli[device]
            if able >= typical.gpus[pod]:
                lost = below
        expected += typical.share[pod] * lost
    return expected


@compiled
def fragments(cluster: Cluster, typical: Typical) -> float:
    """Return the expected fragments of a cluster in thousandths of a device."""
    expected = 0.0
    for node in range(len(cluster.gpus)):
        expected += node_fragments(
            cluster.cpu_milli[node], cluster.gpu_milli[node], cluster.gpus[node], cluster.model[node], typical
        )
    return expected
