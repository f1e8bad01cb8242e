"""The live planner's own choice of places, tried on the openb experiment: the same `Room` and `find` as in `plan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import process_time
from typing import Final

import numpy as np

from dujiang.scheduling.domain import ClusterRow, DeviceRow, Fleet, NodeRow, Shape, fleet_of_rows
from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.fragments import Typical
from dujiang.scheduling.domain.request import WHOLE, Ask
from dujiang.scheduling.domain.room import Room
from dujiang.scheduling.simulator.cluster import IntArray
from dujiang.scheduling.simulator.traces import Node, Pod

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20
_LEARNT_EVERY: Final = 256
_LEARNT_FIRST: Final = (16, 64)
"""Arrivals after which what may come is counted anew, from what has come; a plan does that each time."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What became of the arrivals."""

    allocated_milli: IntArray
    """(arrivals): of all devices, after each."""
    placed: int
    seconds: float


def fleet_of(nodes: Sequence[Node]) -> Fleet:
    """Return the fleet of a trace's nodes, one cluster, a device memory of no account."""
    return fleet_of_rows([ClusterRow("openb")], [
        NodeRow(
            "openb", node.name, node.cpu_milli, node.memory_mib * _MIB, 0,
            tuple(DeviceRow(f"gpu{n}", n, "gpu", node.model, _GIB) for n in range(node.gpus)),
        ) for node in nodes
    ])  # fmt: skip


def asks_of(pod: Pod) -> tuple[Ask, ...]:
    """Return what a pod asks for, one ask for each model that will do."""
    gpu = pod.gpus * pod.gpu_milli
    host = Ask(cpu_milli=pod.cpu_milli, memory_bytes=pod.memory_mib * _MIB)
    if not gpu:
        return (host,)
    return tuple(replace(host, gpu_milli=gpu, model=model) for model in pod.models or ("",))


def play_live(
    fleet: Fleet, arrivals: Sequence[tuple[Ask, ...]], progress: Callable[[int], None] | None = None
) -> LiveRun:
    """Place arrivals one after the other; what does not fit is passed over, as in the published experiment."""
    room = Room(fleet, fleet.node_limit.copy(), np.full(fleet.device_count, WHOLE), fleet.device_memory.copy())
    everywhere = np.ones(fleet.node_count, dtype=np.bool_)
    seen: dict[Ask, int] = {}
    allocated, placed, history = 0, 0, np.zeros(len(arrivals), dtype=np.int64)
    begun = process_time()
    for number, asks in enumerate(arrivals):
        if number in _LEARNT_FIRST or (number and number % _LEARNT_EVERY == 0):
            room = room.copy(Typical(seen))
        fit = next((fit for ask in asks if (fit := find(room, Shape(ask), everywhere))), None)
        for ask in asks:
            seen[ask] = seen.get(ask, 0) + 1
        if fit is not None:
            room.take(fit)
            placed += 1
            allocated += asks[0].gpu_milli
        history[number] = allocated
        if progress is not None and number % 100 == 0:
            progress(100)
    return LiveRun(history, placed, process_time() - begun)
