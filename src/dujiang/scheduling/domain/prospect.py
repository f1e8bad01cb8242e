"""What a place costs: by how much it raises what is expected to be lost of the pool's devices in the end.

A job goes to one of the nodes that hold it: a node is offered each ask as often as it stands in the queue or runs,
divided by the nodes where it fits now. So the last idle nodes wait for jobs of whole nodes, and the few devices of a
model for the jobs that need it, while others find a place elsewhere. What is offered is drawn from a fixed seed: the
same snapshot has the same plan.
"""

from __future__ import annotations

import numpy as np

from dujiang.scheduling.domain.fleet import (
    ClusterRow,
    DeviceRow,
    Flavor,
    Fleet,
    IntArray,
    NodeRow,
    fleet_of_rows,
)
from dujiang.scheduling.domain.fragments import FloatArray, Typical
from dujiang.scheduling.domain.playing import SPARE, count_fits, draw, losses
from dujiang.scheduling.domain.request import WHOLE, Ask

_MIB_SHIFT = 20
_CPU_PART = 0.05
"""What a thousandth of a processor counts beside one of a device; see `playing.SPARE`."""
_DEVICE_PART = 4
"""What is left of the device of a share counts so much more: a gap is filled exactly before a fuller node is. On openb
1 to 10 gave the same within 0.1 points."""


class Prospect:
    """What may come to a fleet, as it is when this is made."""

    def __init__(self, typical: Typical, fleet: Fleet, node: IntArray, milli: IntArray) -> None:
        """Draw what comes. O(asks * nodes * devices of a node).

        Args:
            typical: the asks that are known.
            fleet: whose devices they want.
            node: (3, n) what is free of each node.
            milli: (d) what is free of each device.
        """
        asks = [ask for _, ask in typical.asks]
        columns = np.array([_column(ask) for ask in asks], dtype=np.int64).reshape(-1, 4)
        may_use = np.array([[flavor.matches(ask) for flavor in fleet.flavors] for ask in asks], dtype=np.bool_)
        may_use = may_use.reshape(len(asks), len(fleet.flavors))
        fits = np.zeros(len(asks), dtype=np.int64)
        for flavor in fleet.flavors:
            seats, able = fleet.seats[flavor.number], np.flatnonzero(may_use[:, flavor.number])
            if len(able):
                free = np.where(seats.is_real, milli[seats.devices], 0)
                cpu, memory = node[0, seats.nodes], node[1, seats.nodes] >> _MIB_SHIFT
                fits[able] += count_fits(columns[able], cpu, memory, free)
        weight = np.array([count for count, _ in typical.asks], dtype=np.float64) / np.maximum(fits, 1)
        weight[~may_use.any(axis=1)] = 0.0
        self._outlook = draw(columns, may_use, weight, np.random.default_rng(0))

    def lost(self, flavor: Flavor, milli: IntArray, cpu_milli: IntArray, memory_bytes: IntArray) -> FloatArray:
        """Return what states (k) of nodes are expected to lose of the devices of a flavor, in thousandths of one.

        Args:
            flavor: of the devices.
            milli: (k, w) what is free of each; 0 where there is none.
            cpu_milli: (k) free.
            memory_bytes: (k) free.
        """
        return losses(cpu_milli, memory_bytes >> _MIB_SHIFT, milli, flavor.number, self._outlook)

    @staticmethod
    def spare(milli: IntArray, cpu_milli: IntArray) -> FloatArray:
        """Return how much it counts against nodes (k) that so much of them is free: fuller ones are taken first."""
        counted: FloatArray = SPARE * (milli.sum(axis=1) + _CPU_PART * cpu_milli)
        return counted

    @staticmethod
    def spare_device(milli: IntArray) -> FloatArray:
        """Return how much it counts against devices (k) that so much of them is left."""
        counted: FloatArray = milli.astype(np.float64) * (SPARE * _DEVICE_PART)
        return counted


def warm() -> None:
    """Compile, or load what was compiled, so that the first plan need not wait: seconds at the first time ever."""
    fleet = fleet_of_rows(
        [ClusterRow("c")], [NodeRow("c", "n", 1000, 1 << 30, 0, (DeviceRow("d", 0, "v", "m", 1 << 30),))]
    )
    room = np.array([WHOLE], dtype=np.int64)
    prospect = Prospect(Typical({Ask(gpu_milli=500): 1}), fleet, fleet.node_limit, room)
    prospect.lost(fleet.flavors[0], room[None, :], fleet.node_limit[0], fleet.node_limit[1])


def _column(ask: Ask) -> tuple[int, int, int, int]:
    return ask.cpu_milli, -(-ask.memory_bytes >> _MIB_SHIFT), max(1, ask.whole_devices), min(ask.gpu_milli, WHOLE)
