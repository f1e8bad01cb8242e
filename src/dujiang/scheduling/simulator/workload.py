"""Which pods arrive, in which order: the pod list shuffled, and tuned to a demand. Seeded.

Source: the workload of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): the list is shuffled; where it asks
for less than the wanted part of the cluster, pods drawn from it with replacement are appended until the next would
exceed it; where it asks for more, pods are taken out at random until it does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dujiang.scheduling.simulator.cluster import FloatArray, IntArray, Shapes


class Arrivals(NamedTuple):
    """The arrivals of one run, and the chance that goes with them."""

    order: IntArray
    """The shape of each pod, in order of arrival."""
    nodes: IntArray
    """The order of the nodes: of nodes that a policy finds equally good, the first in this order is taken."""
    draws: FloatArray
    """(arrivals, 2) in [0, 1): what a policy that draws lots uses, for the node and for the device."""


def draw_arrivals(shapes: Shapes, of_pod: IntArray, *, nodes: int, capacity_milli: int, ratio: float,
                  seed: int) -> Arrivals:  # fmt: skip
    """Return the arrivals of one seed.

    Args:
        shapes: the distinct requests.
        of_pod: the shape of each pod of the list.
        nodes: how many the cluster has.
        capacity_milli: of the devices of the cluster.
        ratio: what arrives in all, as a part of the capacity.
        seed: one stream each for the order, the tuning, the nodes and the lots.
    """
    streams = [np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(4)]
    order = _tuned(shapes, of_pod, streams[0].permutation(of_pod), ratio * capacity_milli, streams[1])
    return Arrivals(order, streams[2].permutation(nodes), streams[3].random((len(order), 2)))


def _tuned(shapes: Shapes, of_pod: IntArray, order: IntArray, target_milli: float,
           rng: np.random.Generator) -> IntArray:  # fmt: skip
    demand = shapes.demand_milli()
    asked = int(demand[order].sum())
    if asked > target_milli:
        kept = order.tolist()
        while asked > target_milli:
            asked -= int(demand[kept.pop(int(rng.integers(len(kept))))])
        return np.array(kept, dtype=np.int64)
    extra: list[int] = []
    while True:
        shape = int(of_pod[rng.integers(len(of_pod))])
        if asked + shapes.gpu_milli[shape] > target_milli:  # of one device, as in the source
            return np.concatenate([order, np.array(extra, dtype=np.int64)])
        asked += int(demand[shape])
        extra.append(shape)
