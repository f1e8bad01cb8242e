"""The cluster and the pods of an experiment as arrays: what policies look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dujiang.scheduling.simulator.traces import Node, Pod

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

WHOLE: Final = 1000
"""A whole device, in thousandths."""
MOST_DEVICES: Final = 16
"""Of one node."""
ANY_MODEL: Final = (1 << 62) - 1


class Cluster(NamedTuple):
    """What is free, node by node; policies are handed this and change nothing."""

    cpu_milli: IntArray
    memory_mib: IntArray
    gpu_milli: IntArray
    """(nodes, devices): free thousandths of each device, 0 where there is none."""
    gpus: IntArray
    """How many devices the node has."""
    model: IntArray
    """Which model they are, as a number below 62."""
    kinds: IntArray
    """Bit 0: it holds a fraction; bit n: it holds a pod of n devices."""
    version: IntArray
    """Raised at each change of the node, so that what was worked out for it can be kept until then."""

    def copy(self) -> Cluster:
        """Return the same state in arrays of its own."""
        return Cluster(*(column.copy() for column in self))

    def reordered(self, order: IntArray) -> Cluster:
        """Return the nodes in another order, in arrays of their own."""
        return Cluster(*(column[order].copy() for column in self))


class Shapes(NamedTuple):
    """The distinct requests: a trace of ten thousand pods has some hundred."""

    cpu_milli: IntArray
    memory_mib: IntArray
    gpus: IntArray
    gpu_milli: IntArray
    """Of each device: 1000 is a whole one, less only where `gpus` is 1, 0 where it is 0."""
    models: IntArray
    """Bit m: the devices may be of model m."""

    def demand_milli(self) -> IntArray:
        """Return the thousandths of devices asked for in all."""
        return self.gpus * self.gpu_milli


def cluster_of(nodes: Sequence[Node]) -> tuple[Cluster, tuple[str, ...]]:
    """Return the empty cluster of these nodes, and the names of its models by number."""
    models = tuple(sorted({node.model for node in nodes}))
    number = {model: i for i, model in enumerate(models)}
    gpus = np.array([node.gpus for node in nodes], dtype=np.int64)
    widest = max(1, int(gpus.max(initial=0)))
    free = np.where(np.arange(widest) < gpus[:, None], WHOLE, 0).astype(np.int64)
    return Cluster(
        cpu_milli=np.array([node.cpu_milli for node in nodes], dtype=np.int64),
        memory_mib=np.array([node.memory_mib for node in nodes], dtype=np.int64),
        gpu_milli=free,
        gpus=gpus,
        model=np.array([number[node.model] for node in nodes], dtype=np.int64),
        kinds=np.zeros(len(nodes), dtype=np.int64),
        version=np.ones(len(nodes), dtype=np.int64),
    ), models


def shapes_of(pods: Sequence[Pod], models: Sequence[str]) -> tuple[Shapes, IntArray]:
    """Return the distinct shapes of pods, in order of first appearance, and the number of the shape of each pod.

    Args:
        pods: in any order.
        models: of the cluster; a model it does not have makes a pod that names no other fit nowhere.
    """
    number = {model: i for i, model in enumerate(models)}
    seen: dict[tuple[int, ...], int] = {}
    of_pod = np.empty(len(pods), dtype=np.int64)
    for i, pod in enumerate(pods):
        allowed = ANY_MODEL
        if pod.gpus and pod.models:
            allowed = sum(1 << number[model] for model in set(pod.models) if model in number)
        key = (pod.cpu_milli, pod.memory_mib, pod.gpus, pod.gpu_milli, allowed)
        of_pod[i] = seen.setdefault(key, len(seen))
    columns = np.array(list(seen), dtype=np.int64).reshape(len(seen), 5)
    return Shapes(*(np.ascontiguousarray(columns[:, i]) for i in range(5))), of_pod
