"""Small clusters and requests of our own making."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dujiang.scheduling.simulator.cluster import ANY_MODEL, Cluster, Shapes

NodeRow = tuple[int, int, list[int], int]
"""Free processors (milli), free memory (MiB), free thousandths of each device, model."""
PodRow = tuple[int, int, int, int] | tuple[int, int, int, int, int]
"""Processors, memory, devices, thousandths of each, and the models as bits (any, when left out)."""


def a_cluster(*nodes: NodeRow) -> Cluster:
    """Build a cluster in this state."""
    widest = max(len(free) for _, _, free, _ in nodes)
    return Cluster(
        cpu_milli=np.array([cpu for cpu, *_ in nodes]),
        memory_mib=np.array([memory for _, memory, *_ in nodes]),
        gpu_milli=np.array([free + [0] * (widest - len(free)) for _, _, free, _ in nodes]),
        gpus=np.array([len(free) for _, _, free, _ in nodes]),
        model=np.array([model for *_, model in nodes]),
        kinds=np.zeros(len(nodes), dtype=np.int64),
        version=np.ones(len(nodes), dtype=np.int64),
    )


def some_shapes(pods: Sequence[PodRow]) -> Shapes:
    """Build requests."""
    rows = np.array([(*pod, ANY_MODEL)[:5] for pod in pods], dtype=np.int64)
    return Shapes(*(np.ascontiguousarray(rows[:, i]) for i in range(5)))
