"""Our own policy: place where the least of the cluster is expected to stay empty in the end.

It is the live scheduler's (`scheduling.domain.playing`), on the arrays of a trace: a pod goes to the node and device
where the loss grows least (or shrinks most); a little counts how full the node is. Nothing is refused that fits.

A pod goes to one of the nodes that hold it: a node is offered each shape as often as it comes, divided by the nodes
where it fits now. So the last idle nodes wait for pods of eight devices, and the few of a model for the pods that
need it, while others find a place elsewhere.

The sequences are drawn from the pods that have arrived so far, anew each time they are four times as many, and at
least every thousand: nothing is known beforehand, neither the mix nor how much will come. The losses of states are
remembered until then.
"""

from __future__ import annotations

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.domain.playing import (
    LENGTH,
    SEQUENCES,
    SLOTS,
    SPARE,
    Outlook,
    device_key,
    draw,
    host_key,
    node_loss,
    remembered,
)
from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, IntArray, Shapes

__all__ = ["SLOTS", "Outlook", "new_outlook", "node_loss", "outlook_score"]


def new_outlook(shapes: Shapes, models: int, arrived: IntArray, fitting: IntArray, rng: np.random.Generator, *,
                sequences: int = SEQUENCES, length: int = LENGTH, slots: int = SLOTS) -> Outlook:  # fmt: skip
    """Return the outlook after these arrivals.

    Args:
        shapes: the distinct requests.
        models: how many models of devices the cluster has.
        arrived: the shape of each pod that has arrived.
        fitting: on how many nodes each shape fits now.
        rng: for the draws.
        sequences: how many; 0 when no pod that asked for devices has arrived.
        length: offers in each.
        slots: of the table, a power of two.
    """
    weight = np.bincount(arrived, minlength=len(shapes.gpus)) * (shapes.gpus > 0) / np.maximum(fitting, 1)
    may_use = (shapes.models[:, None] >> np.arange(models)) & 1 == 1
    columns = np.stack(shapes[:4], axis=-1)
    return draw(columns, may_use, weight, rng, sequences=sequences, length=length, slots=slots)


@compiled
def outlook_score(cluster: Cluster, node: int, shapes: Shapes, shape: int, outlook: Outlook, after: IntArray,
                  scratch: IntArray) -> tuple[float, int]:  # fmt: skip
    """Return the score of a node on which the pod fits (the loss that it saves), and the devices it would take there.

    Args:
        cluster: what is free.
        node: on which it fits.
        shapes: the distinct requests.
        shape: the one to place.
        outlook: what is expected.
        after: scratch, as long as a node has devices.
        scratch: another.
    """
    devices, model = cluster.gpus[node], cluster.model[node]
    milli, wanted = shapes.gpu_milli[shape], shapes.gpus[shape]
    cpu, memory = cluster.cpu_milli[node], cluster.memory_mib[node]
    key, spare, taken, still = np.uint64(0), 0, 0, wanted
    for device in range(devices):
        free = cluster.gpu_milli[node, device]
        spare += free
        key += device_key(free)
        after[device] = free
    before = remembered(key + host_key(cpu, memory, model), cpu, memory, after, devices, model, spare, outlook, scratch)
    cpu -= shapes.cpu_milli[shape]
    memory -= shapes.memory_mib[shape]
    key += host_key(cpu, memory, model)
    rest = spare - wanted * milli
    least = 0.0
    if milli == WHOLE or wanted == 0:
        for device in range(devices):
            if still > 0 and after[device] == WHOLE:
                key += device_key(0) - device_key(WHOLE)
                after[device] = 0
                taken |= 1 << device
                still -= 1
        least = remembered(key, cpu, memory, after, devices, model, rest, outlook, scratch)
    else:
        for device in range(devices):
            free = after[device]
            if free < milli or _seen_before(after, device):
                continue
            after[device] = free - milli
            changed = key + device_key(free - milli) - device_key(free)
            loss = remembered(changed, cpu, memory, after, devices, model, rest, outlook, scratch)
            loss += SPARE * after[device]
            after[device] = free
            if taken == 0 or loss < least:
                least, taken = loss, 1 << device
    return before - least - SPARE * (spare + 0.05 * cpu), taken


@compiled
def _seen_before(free_milli: IntArray, device: int) -> bool:
    """Say whether an earlier device has as much left: trying this one too would tell nothing new."""
    for earlier in range(device):  # noqa: SIM110  numba compiles loops, not generators
        if free_milli[earlier] == free_milli[device]:
            return True
    return False
