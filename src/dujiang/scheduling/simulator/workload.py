"""Which pods arrive, in which order: the pod list shuffled, and tuned to a demand. Seeded as the published runs were.

Source: the workload of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): the list is shuffled; where it asks
for less than the wanted part of the cluster, pods drawn from it with replacement are appended until the next would
exceed it; where it asks for more, pods are taken out at random until it does not. A seed gives the very arrivals and
the very order of the nodes that it gave there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dujiang.scheduling.simulator.cluster import FloatArray, IntArray, Shapes
from dujiang.scheduling.simulator.go_random import GoRandom

DRAWN_BEFORE: Final = 1
DRAWN_BETWEEN: Final = 10
"""Numbers that the published runs drew for other things: for a line of the log and, once the pods stood, for the ten
watches that were opened. Found by trying; with them the published curves come out to the last digit."""


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
        seed: of the arrivals and the nodes; the lots have a stream of their own.
    """
    chance = GoRandom(seed)
    for _ in range(DRAWN_BEFORE):
        chance.int63()
    order = of_pod.tolist()
    chance.shuffle(order)
    _tune(shapes, of_pod, order, ratio * capacity_milli, chance)
    for _ in range(DRAWN_BETWEEN):
        chance.int63()
    places = np.array(chance.permutation(nodes), dtype=np.int64)
    return Arrivals(
        np.array(order, dtype=np.int64), np.argsort(places), np.random.default_rng(seed).random((len(order), 2))
    )


def _tune(shapes: Shapes, of_pod: IntArray, order: list[int], target_milli: float, chance: GoRandom) -> None:
    demand = shapes.demand_milli().tolist()
    asked = sum(demand[shape] for shape in order)
    if asked > target_milli:
        while asked > target_milli:
            asked -= demand[order.pop(chance.below(len(order)))]
        return
    while True:
        shape = int(of_pod[chance.below(len(of_pod))])
        if asked + int(shapes.gpu_milli[shape]) > target_milli:  # of one device, as in the source
            return
        asked += demand[shape]
        order.append(shape)
