"""Chooses where a pod goes, and plays a run of arrivals: arrays in, choices out. Compiled.

Scores are kept for each shape on each node until the node changes: of a thousand nodes, a decision looks anew only at
those that changed since a pod of that shape was placed last.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import WHOLE, Cluster, FloatArray, IntArray, Shapes
from dujiang.scheduling.simulator.fit import fits, take
from dujiang.scheduling.simulator.fragments import Typical, node_fragments
from dujiang.scheduling.simulator.outlook import Outlook, outlook_score
from dujiang.scheduling.simulator.published import RANDOM, published_score

OUTLOOK: Final = 6
"""Our own policy; the published ones have the numbers below it."""
NOWHERE: Final = -1
_NEVER: Final = -1e18


class Scores(NamedTuple):
    """What was worked out, by shape and node."""

    score: FloatArray
    devices: IntArray
    version: IntArray
    """Of the node, when its score was worked out."""
    after: IntArray
    """Scratch."""
    scratch: IntArray


class Run(NamedTuple):
    """What became of each arrival."""

    node: IntArray
    """(arrivals): where it was placed, or NOWHERE."""
    devices: IntArray
    """(arrivals): which devices of that node, as bits."""
    fragments_milli: FloatArray
    """(arrivals): the fragments of the cluster after it."""


def new_scores(shapes: Shapes, cluster: Cluster) -> Scores:
    """Return scores of which none is worked out."""
    size = (len(shapes.gpus), len(cluster.gpus))
    widest = cluster.gpu_milli.shape[1]
    return Scores(np.zeros(size), np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(widest, np.int64),
                  np.zeros(widest, np.int64))  # fmt: skip


def new_run(arrivals: int) -> Run:
    """Return a run of which nothing is played."""
    return Run(np.full(arrivals, NOWHERE, np.int64), np.zeros(arrivals, np.int64), np.zeros(arrivals))


@compiled
def choose(policy: int, cluster: Cluster, shapes: Shapes, shape: int, scores: Scores, typical: Typical,
           outlook: Outlook, lot: float) -> tuple[int, int]:  # fmt: skip
    """Return the node and the devices (as bits) where a pod goes, NOWHERE when it fits on none.

    Args:
        policy: which one.
        cluster: what is free.
        shapes: the distinct requests.
        shape: the one to place.
        scores: kept between calls; goes with the policy and the outlook.
        typical: for FGD.
        outlook: for ours.
        lot: in [0, 1): for the policy that draws lots.
    """
    best, chosen = _NEVER, NOWHERE
    fitting = 0
    for node in range(len(cluster.gpus)):
        if scores.version[shape, node] != cluster.version[node]:
            work_out(policy, cluster, node, shapes, shape, scores, typical, outlook)
        score = scores.score[shape, node]
        if score > best:
            best, chosen = score, node
        if score > _NEVER:
            fitting += 1
    if chosen == NOWHERE:
        return NOWHERE, 0
    if policy == RANDOM:
        skip = int(lot * fitting)
        for node in range(len(cluster.gpus)):
            if scores.score[shape, node] > _NEVER:
                if skip == 0:
                    return node, 0
                skip -= 1
    return chosen, scores.devices[shape, chosen]


@compiled
def work_out(policy: int, cluster: Cluster, node: int, shapes: Shapes, shape: int, scores: Scores, typical: Typical,
             outlook: Outlook) -> None:  # fmt: skip
    """Work out the score of one node for a shape."""
    scores.version[shape, node] = cluster.version[node]
    score, devices = _NEVER, 0
    if fits(cluster, node, shapes, shape):
        if policy == RANDOM:
            score = 0.0
        elif policy == OUTLOOK:
            score, devices = outlook_score(cluster, node, shapes, shape, outlook, scores.after, scores.scratch)
        else:
            score, devices = published_score(policy, cluster, node, shapes, shape, typical, scores.scratch)
    scores.score[shape, node] = score
    scores.devices[shape, node] = devices


@compiled
def draw_devices(cluster: Cluster, node: int, shapes: Shapes, shape: int, lot: float) -> int:
    """Return devices for a pod by lot: of a fraction any that holds it, of whole devices those that come first."""
    milli, still = shapes.gpu_milli[shape], shapes.gpus[shape]
    able, taken = 0, 0
    for device in range(cluster.gpus[node]):
        if cluster.gpu_milli[node, device] >= milli:
            able += 1
            if milli == WHOLE and still > 0:
                taken |= 1 << device
                still -= 1
    if milli == WHOLE or still == 0:
        return taken
    skip = int(lot * able)
    for device in range(cluster.gpus[node]):
        if cluster.gpu_milli[node, device] >= milli:
            if skip == 0:
                return 1 << device
            skip -= 1
    return taken


@compiled
def play(policy: int, first: int, end: int, order: IntArray, draws: FloatArray, cluster: Cluster, shapes: Shapes,
         scores: Scores, typical: Typical, outlook: Outlook, run: Run) -> None:  # fmt: skip
    """Place the arrivals from `first` to before `end`, one after the other; what does not fit is passed over.

    Args:
        policy: which one.
        first: arrival.
        end: the arrival after the last.
        order: the shape of each arrival.
        draws: (arrivals, 2) lots.
        cluster: changed in place.
        shapes: the distinct requests.
        scores: as for `choose`.
        typical: also what fragments are measured with.
        outlook: as for `choose`.
        run: filled in.
    """
    lost = np.zeros(len(cluster.gpus))
    total = 0.0
    for node in range(len(cluster.gpus)):
        lost[node] = _lost(cluster, node, typical)
        total += lost[node]
    for arrival in range(first, end):
        shape = order[arrival]
        node, devices = choose(policy, cluster, shapes, shape, scores, typical, outlook, draws[arrival, 0])
        if node != NOWHERE:
            if policy == RANDOM:
                devices = draw_devices(cluster, node, shapes, shape, draws[arrival, 1])
            take(cluster, node, shapes, shape, devices)
            run.node[arrival] = node
            run.devices[arrival] = devices
            total -= lost[node]
            lost[node] = _lost(cluster, node, typical)
            total += lost[node]
        run.fragments_milli[arrival] = total


@compiled
def _lost(cluster: Cluster, node: int, typical: Typical) -> float:
    return node_fragments(
        cluster.cpu_milli[node], cluster.gpu_milli[node], cluster.gpus[node], cluster.model[node], typical
    )
