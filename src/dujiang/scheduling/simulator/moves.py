"""Moves of placed pods, so that one that fits nowhere does: our own policy with a bounded number of moves. Compiled.

When a pod that asks for devices fits nowhere, each placed pod is looked at: would the new one fit in its place, and is
there another place for it? Of all such moves the one after which the least is expected to be lost is made. A move is
one placed pod that goes from one node to another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dujiang.scheduling.simulator.cluster import Cluster, IntArray, Shapes
from dujiang.scheduling.simulator.compiled import compiled
from dujiang.scheduling.simulator.fit import fits, give, take
from dujiang.scheduling.simulator.fragments import Typical, fragments
from dujiang.scheduling.simulator.outlook import Outlook, node_loss, outlook_score
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, Run, Scores, choose, work_out


class Places(NamedTuple):
    """The best two places for each shape, worked out when asked for."""

    node: IntArray
    """(shapes, 2), or NOWHERE."""
    asked: IntArray
    """(shapes): at which arrival they were worked out last."""


def new_places(shapes: Shapes) -> Places:
    """Return places of which none is worked out."""
    return Places(np.full((len(shapes.gpus), 2), NOWHERE, np.int64), np.full(len(shapes.gpus), -1, np.int64))


@compiled
def play_moving(first: int, end: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
                typical: Typical, outlook: Outlook, run: Run, places: Places, share: float, made: IntArray,
                ) -> None:  # fmt: skip
    """Place the arrivals from `first` to before `end`, moving placed pods where that makes room.

    Args:
        first: arrival.
        end: the arrival after the last.
        order: the shape of each arrival.
        cluster: changed in place.
        shapes: the distinct requests.
        scores: as for `choose`.
        typical: what fragments are measured with.
        outlook: as for `choose`.
        run: filled in; where pods are now.
        places: kept between calls.
        share: at most this part of the placed pods are moves.
        made: [moves, placed pods] so far; changed in place.
    """
    lost = fragments(cluster, typical)
    for arrival in range(first, end):
        shape = order[arrival]
        node, devices = choose(OUTLOOK, cluster, shapes, shape, scores, typical, outlook, 0.0)
        if node == NOWHERE and shapes.gpus[shape] > 0 and made[0] + 1 <= share * (made[1] + 1):
            node, devices = _make_room(arrival, order, cluster, shapes, scores, typical, outlook, run, places)
            if node != NOWHERE:
                made[0] += 1
        if node != NOWHERE:
            take(cluster, node, shapes, shape, devices)
            run.node[arrival] = node
            run.devices[arrival] = devices
            made[1] += 1
            lost = fragments(cluster, typical)
        run.fragments_milli[arrival] = lost


@compiled
def _make_room(arrival: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
               outlook: Outlook, run: Run, places: Places) -> tuple[int, int]:  # fmt: skip
    """Make the best move that lets the arrival fit; return where it fits then, NOWHERE when no move does."""
    shape = order[arrival]
    best, moved, target = -1e18, NOWHERE, NOWHERE
    for other in range(arrival):
        node = run.node[other]
        if node == NOWHERE or not _fits_instead(cluster, node, shapes, shape, order[other], run.devices[other]):
            continue
        to = _place_for(arrival, order[other], node, cluster, shapes, scores, typical, outlook, places)
        if to == NOWHERE:
            continue
        score = scores.score[order[other], to]
        score += _saved_by_exchange(cluster, node, shapes, shape, order[other], run.devices[other], scores, outlook)
        if score > best:
            best, moved, target = score, other, to
    if moved == NOWHERE:
        return NOWHERE, 0
    node, leaving = run.node[moved], order[moved]
    give(cluster, node, shapes, leaving, run.devices[moved])
    run.node[moved] = target
    run.devices[moved] = scores.devices[leaving, target]
    take(cluster, target, shapes, leaving, run.devices[moved])
    _, devices = outlook_score(cluster, node, shapes, shape, outlook, scores.after, scores.scratch)
    return node, devices


@compiled
def _fits_instead(cluster: Cluster, node: int, shapes: Shapes, shape: int, leaving: int, devices: int) -> bool:
    """Say whether a pod fits on a node once another has left it."""
    if cluster.cpu_milli[node] + shapes.cpu_milli[leaving] < shapes.cpu_milli[shape]:
        return False
    if cluster.memory_mib[node] + shapes.memory_mib[leaving] < shapes.memory_mib[shape]:
        return False
    if (shapes.models[shape] >> cluster.model[node]) & 1 == 0:
        return False
    able = 0
    for device in range(cluster.gpus[node]):
        free = cluster.gpu_milli[node, device]
        if (devices >> device) & 1:
            free += shapes.gpu_milli[leaving]
        if free >= shapes.gpu_milli[shape]:
            able += 1
    return bool(able >= shapes.gpus[shape])


@compiled
def _place_for(arrival: int, shape: int, but: int, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
               outlook: Outlook, places: Places) -> int:  # fmt: skip
    """Return the best node for a shape that is not `but`."""
    if places.asked[shape] != arrival:
        places.asked[shape] = arrival
        first, second = NOWHERE, NOWHERE
        for node in range(len(cluster.gpus)):
            if scores.version[shape, node] != cluster.version[node]:
                work_out(OUTLOOK, cluster, node, shapes, shape, scores, typical, outlook)
            if not fits(cluster, node, shapes, shape):
                continue
            if first == NOWHERE or scores.score[shape, node] > scores.score[shape, first]:
                first, second = node, first
            elif second == NOWHERE or scores.score[shape, node] > scores.score[shape, second]:
                second = node
        places.node[shape, 0] = first
        places.node[shape, 1] = second
    return int(places.node[shape, 1] if places.node[shape, 0] == but else places.node[shape, 0])


@compiled
def _saved_by_exchange(cluster: Cluster, node: int, shapes: Shapes, shape: int, leaving: int, devices: int,
                       scores: Scores, outlook: Outlook) -> float:  # fmt: skip
    """Return the loss that is saved on a node when one pod leaves it and another comes."""
    before = _loss(cluster, node, scores, outlook)
    version = cluster.version[node]
    give(cluster, node, shapes, leaving, devices)
    between = _loss(cluster, node, scores, outlook)
    score, _ = outlook_score(cluster, node, shapes, shape, outlook, scores.after, scores.scratch)
    take(cluster, node, shapes, leaving, devices)
    cluster.version[node] = version
    return float(before - between + score)


@compiled
def _loss(cluster: Cluster, node: int, scores: Scores, outlook: Outlook) -> float:
    return node_loss(cluster.cpu_milli[node], cluster.memory_mib[node], cluster.gpu_milli[node], cluster.gpus[node],
                     cluster.model[node], outlook, scores.scratch)  # fmt: skip
