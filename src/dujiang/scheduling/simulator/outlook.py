"""Our own policy: place where the least of the cluster is expected to stay empty in the end.

What a state of a node is worth is found by playing on: the node is offered short random sequences of pods, takes each
that fits (the tightest device first), and what is left of its devices at the end of a sequence is lost. The loss of a
node is the mean over the sequences. A pod goes to the node and device where the loss grows least (or shrinks most); a
little counts how full the node is. So processors and memory that run out before the devices count exactly as far as
they strand devices, a gap counts as far as nothing comes that fills it, and nothing is refused that fits.

A pod goes to one of the nodes that hold it: a node is offered each shape as often as it comes, divided by the nodes
where it fits now. So the last idle nodes wait for pods of eight devices, and the few of a model for the pods that
need it, while others find a place elsewhere.

The sequences are drawn from the pods that have arrived so far, anew each time they are four times as many, and at
least every thousand: nothing is known beforehand, neither the mix nor how much will come. The losses of states are
remembered until then.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, FloatArray, IntArray, Shapes
from dujiang.scheduling.simulator.compiled import compiled

SEQUENCES: Final = 32
LENGTH: Final = 24
"""Offers to one node. On openb 32 sequences of 24, 64 of 24 and 32 of 32 gave the same within the noise of draws."""
SLOTS: Final = 1 << 17
"""Of the table of remembered losses; two thirds are used at most, what comes later is worked out each time."""
SPARE: Final = 0.01
"""What a free thousandth of a device of the node (of a processor: a twentieth of that) counts beside a lost one: fuller
nodes are taken first, which keeps idle ones for pods that need all of one. From 0.003 to 0.02 does about the same."""


class Outlook(NamedTuple):
    """What is expected to come, and what was worked out from it."""

    offers: NDArray[np.int32]
    """(models, sequences, length, 4): processors, memory, devices, thousandths of each of pods that may use them."""
    lengths: IntArray
    """(models, sequences): how many of the offers there are."""
    least_cpu_milli: int
    """No offer asks for less."""
    keys: NDArray[np.uint64]
    """(slots): which state a slot remembers; 0 is none."""
    losses: FloatArray
    used: IntArray
    """(1): how many slots are taken."""


def new_outlook(shapes: Shapes, models: int, arrived: IntArray, fitting: IntArray, rng: np.random.Generator, *,
                sequences: int = SEQUENCES, length: int = LENGTH, slots: int = SLOTS) -> Outlook:  # fmt: skip
    """Return the outlook after these arrivals.

    Each place in the sequences is a systematic sample: every shape comes as often as its weight says, to within one
    sequence.

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
    coming = np.flatnonzero(weight)
    if not len(coming):
        sequences = 0
    drawn = np.zeros((sequences, length), dtype=np.int64)
    reached = np.cumsum(weight[coming]) / max(weight.sum(), 1e-300)
    for place in range(length if sequences else 0):
        at = (np.arange(sequences) + rng.random()) / sequences
        drawn[:, place] = rng.permutation(coming[np.searchsorted(reached[:-1], at, side="right")])
    offers = np.zeros((models, sequences, length, 4), dtype=np.int32)
    lengths = np.zeros((models, sequences), dtype=np.int64)
    columns = np.stack(shapes[:4], axis=-1).clip(max=np.iinfo(np.int32).max)
    for model in range(models):
        for sequence, row in enumerate(drawn):
            usable = row[(shapes.models[row] >> model) & 1 == 1]
            offers[model, sequence, : len(usable)] = columns[usable]
            lengths[model, sequence] = len(usable)
    least = int(shapes.cpu_milli[coming].min()) if sequences else 0
    return Outlook(offers, lengths, least, np.zeros(slots, np.uint64), np.zeros(slots), np.zeros(1, np.int64))


@compiled
def node_loss(cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, model: int, outlook: Outlook,
              scratch: IntArray) -> float:  # fmt: skip
    """Return the expected loss of a node in thousandths of a device; remembered, whatever the order of its devices."""
    key, total = _host_key(cpu_milli, memory_mib, model), 0
    for device in range(devices):
        total += free_milli[device]
        key += _device_key(free_milli[device])
    return _remembered(key, cpu_milli, memory_mib, free_milli, devices, model, total, outlook, scratch)


@compiled
def _remembered(key: np.uint64, cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, model: int,
                total: int, outlook: Outlook, scratch: IntArray) -> float:  # fmt: skip
    if total == 0 or cpu_milli < outlook.least_cpu_milli:
        return float(total)
    mask = np.uint64(len(outlook.keys) - 1)
    slot = key & mask
    while outlook.keys[slot] != 0:
        if outlook.keys[slot] == key:
            return float(outlook.losses[slot])
        slot = (slot + np.uint64(1)) & mask
    loss = _played_on(cpu_milli, memory_mib, free_milli, devices, model, total, outlook, scratch)
    if outlook.used[0] * 3 < len(outlook.keys) * 2:
        outlook.keys[slot] = key
        outlook.losses[slot] = loss
        outlook.used[0] += 1
    return loss


@compiled
def _host_key(cpu_milli: int, memory_mib: int, model: int) -> np.uint64:
    return _mixed(cpu_milli * 64 + model) + _mixed(memory_mib * 4 + 1)


@compiled
def _device_key(free_milli: int) -> np.uint64:
    """Return the part of a device: parts are added up, so that their order is none."""
    return _mixed(free_milli * 8 + 5)


@compiled
def _mixed(value: int) -> np.uint64:
    """Scatter a number over 64 bits (the finaliser of SplitMix64)."""
    x = np.uint64(value)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _played_on(cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, model: int, total: int,
               outlook: Outlook, left: IntArray) -> float:  # fmt: skip
    offers, lengths = outlook.offers[model], outlook.lengths[model]
    sequences = len(offers)
    if sequences == 0:
        return 0.0
    most_at_first = 0
    for device in range(devices):
        most_at_first = max(most_at_first, free_milli[device])
    lost = 0
    for sequence in range(sequences):
        cpu, memory, rest, most = cpu_milli, memory_mib, total, most_at_first
        for device in range(devices):
            left[device] = free_milli[device]
        for place in range(lengths[sequence]):
            milli = offers[sequence, place, 3]
            if milli > most or cpu < offers[sequence, place, 0] or memory < offers[sequence, place, 1]:
                continue
            wanted = offers[sequence, place, 2]
            if milli < WHOLE:
                best, least = -1, WHOLE + 1
                for device in range(devices):
                    if milli <= left[device] < least:
                        best, least = device, left[device]
                left[best] -= milli
            else:
                idle = 0
                for device in range(devices):
                    if left[device] == WHOLE:
                        idle += 1
                if idle < wanted:
                    continue
                still = wanted
                for device in range(devices):
                    if still > 0 and left[device] == WHOLE:
                        left[device] = 0
                        still -= 1
            cpu -= offers[sequence, place, 0]
            memory -= offers[sequence, place, 1]
            rest -= wanted * milli
            if rest == 0 or cpu < outlook.least_cpu_milli:
                break
            most = 0
            for device in range(devices):
                most = max(most, left[device])
        lost += rest
    return float(lost / sequences)


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
        key += _device_key(free)
        after[device] = free
    before = _remembered(
        key + _host_key(cpu, memory, model), cpu, memory, after, devices, model, spare, outlook, scratch
    )
    cpu -= shapes.cpu_milli[shape]
    memory -= shapes.memory_mib[shape]
    key += _host_key(cpu, memory, model)
    rest = spare - wanted * milli
    least = 0.0
    if milli == WHOLE or wanted == 0:
        for device in range(devices):
            if still > 0 and after[device] == WHOLE:
                key += _device_key(0) - _device_key(WHOLE)
                after[device] = 0
                taken |= 1 << device
                still -= 1
        least = _remembered(key, cpu, memory, after, devices, model, rest, outlook, scratch)
    else:
        for device in range(devices):
            free = after[device]
            if free < milli or _seen_before(after, device):
                continue
            after[device] = free - milli
            changed = key + _device_key(free - milli) - _device_key(free)
            loss = _remembered(changed, cpu, memory, after, devices, model, rest, outlook, scratch)
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
