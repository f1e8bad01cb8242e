"""What free devices of a node are expected to lose in the end, found by playing on. Compiled.

A node is offered short random sequences of what may come, takes each that fits (the tightest device first), and what is
left of its devices at the end of a sequence is lost. The loss of a state is the mean over the sequences; it is
remembered. A place is the better, the less it adds to that loss. So processors and memory that run out before the
devices count exactly as far as they strand devices, and a gap counts as far as nothing comes that fills it.

Devices that differ, by model or flavor, are offered what may use them: their offers are a kind of their own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.domain.fleet import IntArray
from dujiang.scheduling.domain.request import WHOLE

FloatArray = NDArray[np.float64]

SEQUENCES: Final = 32
LENGTH: Final = 24
"""Offers to one node. On openb 32 sequences of 24, 64 of 24 and 32 of 32 gave the same within the noise of draws."""
SLOTS: Final = 1 << 17
"""Of the table of remembered losses; two thirds are used at most, what comes later is worked out each time."""
SPARE: Final = 0.01
"""What a free thousandth of a device of the node (of a processor: a twentieth of that) counts beside a lost one: fuller
nodes are taken first, which keeps idle ones for work that needs all of one. From 0.003 to 0.02 does about the same."""


class Outlook(NamedTuple):
    """What is expected to come, and what was worked out from it."""

    offers: NDArray[np.int32]
    """(kinds, sequences, length, 4): processors, memory, devices, thousandths of each of what may use them."""
    lengths: IntArray
    """(kinds, sequences): how many of the offers there are."""
    least_cpu_milli: int
    """No offer asks for less."""
    keys: NDArray[np.uint64]
    """(slots): which state a slot remembers; 0 is none."""
    losses: FloatArray
    used: IntArray
    """(1): how many slots are taken."""


def draw(
    columns: IntArray, may_use: NDArray[np.bool_], weight: FloatArray, rng: np.random.Generator, *,
    sequences: int = SEQUENCES, length: int = LENGTH, slots: int = SLOTS,
) -> Outlook:  # fmt: skip
    """Return an outlook on what comes.

    Each place in the sequences is a systematic sample: each ask comes as often as its weight says, to within one
    sequence.

    Args:
        columns: (asks, 4) processors (thousandths), memory (MiB), devices, thousandths of each.
        may_use: (asks, kinds) which devices will do.
        weight: (asks) how often each is offered to one node, in any unit; 0 never.
        rng: for the draws.
        sequences: how many.
        length: offers in each.
        slots: of the table, a power of two.
    """
    coming, kinds = np.flatnonzero(weight), may_use.shape[1]
    if not len(coming):
        sequences = 0
    drawn = np.zeros((sequences, length), dtype=np.int64)
    reached = np.cumsum(weight[coming]) / max(weight.sum(), 1e-300)
    for place in range(length if sequences else 0):
        at = (np.arange(sequences) + rng.random()) / sequences
        drawn[:, place] = rng.permutation(coming[np.searchsorted(reached[:-1], at, side="right")])
    offers = np.zeros((kinds, sequences, length, 4), dtype=np.int32)
    lengths = np.zeros((kinds, sequences), dtype=np.int64)
    small = columns.clip(max=np.iinfo(np.int32).max)
    for kind in range(kinds):
        for sequence, row in enumerate(drawn):
            usable = row[may_use[row, kind]]
            offers[kind, sequence, : len(usable)] = small[usable]
            lengths[kind, sequence] = len(usable)
    least = int(columns[coming, 0].min()) if sequences else 0
    return Outlook(offers, lengths, least, np.zeros(slots, np.uint64), np.zeros(slots), np.zeros(1, np.int64))


@compiled
def losses(cpu_milli: IntArray, memory_mib: IntArray, free_milli: IntArray, kind: int, outlook: Outlook) -> FloatArray:
    """Return the expected loss of each state, thousandths of a device.

    Args:
        cpu_milli: (k) free.
        memory_mib: (k) free.
        free_milli: (k, w) what is free of each device; 0 where there is none.
        kind: of the devices.
        outlook: what may come, and what is remembered.
    """
    states, devices = free_milli.shape
    found, scratch = np.zeros(states), np.zeros(devices, np.int64)
    for state in range(states):
        found[state] = node_loss(
            cpu_milli[state], memory_mib[state], free_milli[state], devices, kind, outlook, scratch
        )
    return found


@compiled
def count_fits(columns: IntArray, cpu_milli: IntArray, memory_mib: IntArray, free_milli: IntArray) -> IntArray:
    """Return on how many nodes each ask (a) fits now.

    Args:
        columns: (a, 4) as for `draw`.
        cpu_milli: (k) free.
        memory_mib: (k) free.
        free_milli: (k, w) what is free of each device of a kind that will do; 0 where there is none.
    """
    nodes, devices = free_milli.shape
    found = np.zeros(len(columns), np.int64)
    for ask in range(len(columns)):
        for node in range(nodes):
            if cpu_milli[node] < columns[ask, 0] or memory_mib[node] < columns[ask, 1]:
                continue
            able = 0
            for device in range(devices):
                if free_milli[node, device] >= columns[ask, 3]:
                    able += 1
            if able >= columns[ask, 2]:
                found[ask] += 1
    return found


@compiled
def node_loss(cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, kind: int, outlook: Outlook,
              scratch: IntArray) -> float:  # fmt: skip
    """Return the expected loss of a node in thousandths of a device; remembered, whatever the order of its devices."""
    key, total = host_key(cpu_milli, memory_mib, kind), 0
    for device in range(devices):
        total += free_milli[device]
        key += device_key(free_milli[device])
    return remembered(key, cpu_milli, memory_mib, free_milli, devices, kind, total, outlook, scratch)


@compiled
def remembered(key: np.uint64, cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, kind: int,
                total: int, outlook: Outlook, scratch: IntArray) -> float:  # fmt: skip
    if total == 0 or cpu_milli < outlook.least_cpu_milli:
        return float(total)
    mask = np.uint64(len(outlook.keys) - 1)
    slot = key & mask
    while outlook.keys[slot] != 0:
        if outlook.keys[slot] == key:
            return float(outlook.losses[slot])
        slot = (slot + np.uint64(1)) & mask
    loss = _played_on(cpu_milli, memory_mib, free_milli, devices, kind, total, outlook, scratch)
    if outlook.used[0] * 3 < len(outlook.keys) * 2:
        outlook.keys[slot] = key
        outlook.losses[slot] = loss
        outlook.used[0] += 1
    return loss


@compiled
def host_key(cpu_milli: int, memory_mib: int, kind: int) -> np.uint64:
    return _mixed(cpu_milli * 4096 + kind) + _mixed(memory_mib * 4 + 1)


@compiled
def device_key(free_milli: int) -> np.uint64:
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
def _played_on(cpu_milli: int, memory_mib: int, free_milli: IntArray, devices: int, kind: int, total: int,
               outlook: Outlook, left: IntArray) -> float:  # fmt: skip
    offers, lengths = outlook.offers[kind], outlook.lengths[kind]
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
