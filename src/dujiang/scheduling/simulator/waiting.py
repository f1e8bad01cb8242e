"""Which pods wait although they fit: those that leave devices emptier than shares do on average, once all will be full.

A share of 0.81 leaves 0.19 of a device that hardly anything can use. While devices are plenty, that costs nothing; once
the cluster fills up, a device given to it is a device that whole pods would have filled. How full the devices get that
hold a size is found by packing the shares that have arrived so far as tightly as that goes. A size that leaves its
devices emptier than the devices of all shares are on average may be held back.

At any moment, at most a given part of the cluster's devices is asked for by pods that are held back: so much below what
it could be may allocation lie, whatever comes. Holding back begins as late as it can: once what is expected of that
size until the last idle device is taken, together with what waits already, is no more than that. Nothing is held back
where it fills a device as well as others would, nor where half of what it takes would be lost without it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, FloatArray, IntArray, Shapes

NOBODY = -1


class Fullness(NamedTuple):
    """How full devices get, as a part of them, worked out from what has arrived."""

    of_shape: FloatArray
    """(shapes): 1 for whole devices and for what asks for none."""
    shares: float
    """Of all devices that hold shares."""
    fraction: FloatArray
    """(shapes): which part of the demand is of shapes no fuller."""
    of_others: FloatArray
    """(shapes): how full the devices get that hold the other part."""


class Queue(NamedTuple):
    """The pods that have no place, first come first served within a shape."""

    first: IntArray
    """(shapes): an arrival, where any waits."""
    last: IntArray
    next: IntArray
    """(arrivals)"""
    waiting: IntArray
    """(shapes): how many."""
    held: IntArray
    """(shapes): how many of them fit and are held back."""
    held_milli: IntArray
    """[now, the most there ever were]."""


def new_fullness(shapes: Shapes, arrived: IntArray) -> Fullness:
    """Return how full devices get after these arrivals.

    Args:
        shapes: the distinct requests.
        arrived: the shape of each pod that has arrived.
    """
    counts = np.bincount(arrived, minlength=len(shapes.gpus))
    is_share = (shapes.gpus == 1) & (shapes.gpu_milli < WHOLE)
    by_size = np.bincount(shapes.gpu_milli[is_share], weights=counts[is_share], minlength=WHOLE).astype(np.int64)
    full = np.where(is_share, tight_packing(by_size)[np.minimum(shapes.gpu_milli, WHOLE - 1)], 1.0)
    demand = counts * shapes.demand_milli()
    needed = demand / full
    fraction, of_others = np.zeros(len(full)), np.ones(len(full))
    for shape in np.flatnonzero(is_share & (demand.sum() > 0)):
        others = full > full[shape]
        fraction[shape] = demand[~others].sum() / demand.sum()
        of_others[shape] = demand[others].sum() / max(needed[others].sum(), 1.0)
    shares = demand[is_share].sum() / needed[is_share].sum() if demand[is_share].any() else 0.0
    return Fullness(full, float(shares), fraction, of_others)


def new_queue(shapes: Shapes, arrivals: int) -> Queue:
    """Return an empty queue."""
    first, last, waiting, held = np.zeros((4, len(shapes.gpus)), dtype=np.int64)
    return Queue(first, last, np.full(arrivals, NOBODY, np.int64), waiting, held, np.zeros(2, np.int64))


@compiled
def tight_packing(by_size: IntArray) -> FloatArray:
    """Return how full the devices are that hold each size: the largest come first, each goes where it is tightest.

    Args:
        by_size: (1000): how many shares there are of each number of thousandths.

    Returns:
        (1000): a part of a device; 1 where there are none of that size.
    """
    shares = by_size.sum()
    left, below = np.full(shares, WHOLE), np.full(shares, NOBODY)  # of each device; chains of devices with as much left
    top = np.full(WHOLE + 1, NOBODY)
    device_of, used = np.zeros(shares, np.int64), 0
    share = 0
    for size in range(WHOLE - 1, 0, -1):
        for _ in range(by_size[size]):
            room = size
            while room < WHOLE and top[room] == NOBODY:
                room += 1
            if top[room] == NOBODY:
                device, used = used, used + 1
            else:
                device = top[room]
                top[room] = below[device]
            left[device] -= size
            below[device] = top[left[device]]
            top[left[device]] = device
            device_of[share] = device
            share += 1
    full, share = np.ones(WHOLE), 0
    for size in range(WHOLE - 1, 0, -1):
        needed = 0.0
        for _ in range(by_size[size]):
            needed += WHOLE / (WHOLE - left[device_of[share]])
            share += 1
        if by_size[size] > 0:
            full[size] = by_size[size] / needed
    return full


@compiled
def may_wait(shape: int, fullness: Fullness) -> bool:
    """Say whether pods of a shape are of those that may be held back at all."""
    return bool(fullness.of_shape[shape] < fullness.shares)


@compiled
def is_held_back(shape: int, node: int, devices: int, loss_milli: float, held_milli: int, most_milli: float,
                 idle: int, cluster: Cluster, shapes: Shapes, fullness: Fullness) -> bool:  # fmt: skip
    """Say whether a pod of a shape that may wait does, instead of taking its best place.

    Args:
        shape: of the pod.
        node: of its best place.
        devices: of its best place, as bits.
        loss_milli: how much more is expected to be lost once it is there.
        held_milli: what is held back, this one included.
        most_milli: how much may be.
        idle: how many devices of the cluster are idle.
        cluster: what is free.
        shapes: the distinct requests.
        fullness: of the arrivals so far.
    """
    milli = shapes.gpu_milli[shape]
    for device in range(cluster.gpus[node]):
        if (devices >> device) & 1 and WHOLE - cluster.gpu_milli[node, device] + milli >= fullness.shares * WHOLE:
            return False
    if 2 * loss_milli <= -milli:
        return False
    fraction = fullness.fraction[shape]
    coming = fraction / max(1.0 - fraction, 1e-9) * idle * WHOLE * fullness.of_others[shape]
    return bool(held_milli + coming <= most_milli)


@compiled
def enqueue(queue: Queue, shape: int, arrival: int) -> None:
    """Have an arrival wait, behind those of its shape."""
    if queue.waiting[shape] == 0:
        queue.first[shape] = arrival
    else:
        queue.next[queue.last[shape]] = arrival
    queue.last[shape] = arrival
    queue.waiting[shape] += 1


@compiled
def dequeue(queue: Queue, shape: int) -> int:
    """Take out the first of a shape and return it."""
    arrival = queue.first[shape]
    queue.first[shape] = queue.next[arrival]
    queue.waiting[shape] -= 1
    return int(arrival)


@compiled
def hold(queue: Queue, shapes: Shapes, shape: int, count: int) -> None:
    """Say how many of the waiting pods of a shape are held back."""
    queue.held_milli[0] += (count - queue.held[shape]) * shapes.gpu_milli[shape]
    queue.held_milli[1] = max(queue.held_milli[1], queue.held_milli[0])
    queue.held[shape] = count
