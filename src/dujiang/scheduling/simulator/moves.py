"""Two liberties that our own policy may be given: to move a few placed pods, and to let a pod wait. Compiled.

Moves: when a pod that asks for devices fits nowhere, each placed pod is looked at: would the new one fit in its
place, and is there another place for it? Of all such moves the one after which the least is expected to be lost is
made. A move is one placed pod that goes from one node to another.

Patience: a pod whose best place would lose more than a part of what it asks for waits, so many arrivals at most, for
one that loses less; then it is placed wherever it fits. Without patience nothing waits that fits.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dujiang.scheduling.simulator.cluster import Cluster, IntArray, Shapes
from dujiang.scheduling.simulator.compiled import compiled
from dujiang.scheduling.simulator.fit import fits, give, take
from dujiang.scheduling.simulator.fragments import Typical, fragments
from dujiang.scheduling.simulator.outlook import Outlook, node_loss, outlook_score
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, Run, Scores, choose, work_out

STAKE: Final = 0.08
"""A pod waits, where it may, when its best place would lose more than this part of what it asks for."""


class Liberties(NamedTuple):
    """What is allowed, and what was made of it."""

    move_share: float
    """At most this part of the placed pods are moves."""
    patience: int
    """How many arrivals a pod may wait."""
    moves: IntArray
    """(1): so far."""
    placed: IntArray
    """(1): pods so far."""
    is_waiting: IntArray
    """(arrivals): 1 while it waits."""


def new_liberties(move_share: float, patience: int, arrivals: int) -> Liberties:
    """Return liberties of which none was taken."""
    one = np.zeros(1, np.int64)
    return Liberties(move_share, patience, one, one.copy(), np.zeros(arrivals, np.int64))


class Places(NamedTuple):
    """The best two places for each shape, worked out when asked for."""

    node: IntArray
    """(shapes, 2), or NOWHERE."""
    asked: IntArray
    """(shapes): for which question they were worked out last."""


def new_places(shapes: Shapes) -> Places:
    """Return places of which none is worked out."""
    return Places(np.full((len(shapes.gpus), 2), NOWHERE, np.int64), np.full(len(shapes.gpus), -1, np.int64))


@compiled
def play_freely(first: int, end: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
                typical: Typical, outlook: Outlook, run: Run, places: Places, liberties: Liberties,
                ) -> None:  # fmt: skip
    """Place the arrivals from `first` to before `end` by our own policy, with liberties.

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
        liberties: kept between calls.
    """
    lost = fragments(cluster, typical)
    allocated = run.allocated_milli[first - 1] if first > 0 else 0
    for now in range(first, end):
        for is_new in (False, True):
            arrival = now if is_new else now - liberties.patience
            if not is_new and (arrival < 0 or liberties.is_waiting[arrival] == 0):
                continue
            shape = order[arrival]
            node, devices = choose(OUTLOOK, cluster, shapes, shape, scores, typical, outlook, 0.0)
            if not is_new:
                liberties.is_waiting[arrival] = 0
            elif liberties.patience > 0 and node != NOWHERE:
                at_stake = STAKE * shapes.gpus[shape] * shapes.gpu_milli[shape]
                if (
                    shapes.gpus[shape] > 0
                    and _loss_of(cluster, node, shapes, shape, devices, scores, outlook) > at_stake
                ):
                    liberties.is_waiting[arrival] = 1
                    continue
            may_move = liberties.moves[0] + 1 <= liberties.move_share * (liberties.placed[0] + 1)
            if node == NOWHERE and may_move and shapes.gpus[shape] > 0:
                node, devices = _make_room(2 * now + is_new, now, arrival, order, cluster, shapes, scores, typical,
                                           outlook, run, places)  # fmt: skip
                if node != NOWHERE:
                    liberties.moves[0] += 1
            if node != NOWHERE:
                take(cluster, node, shapes, shape, devices)
                run.node[arrival] = node
                run.devices[arrival] = devices
                liberties.placed[0] += 1
                allocated += shapes.gpus[shape] * shapes.gpu_milli[shape]
                lost = fragments(cluster, typical)
        run.fragments_milli[now] = lost
        run.allocated_milli[now] = allocated


@compiled
def _loss_of(cluster: Cluster, node: int, shapes: Shapes, shape: int, devices: int, scores: Scores,
             outlook: Outlook) -> float:  # fmt: skip
    """Return by how much the expected loss of a node grows when a pod is placed there."""
    version = cluster.version[node]
    before = _loss(cluster, node, scores, outlook)
    take(cluster, node, shapes, shape, devices)
    after = _loss(cluster, node, scores, outlook)
    give(cluster, node, shapes, shape, devices)
    cluster.version[node] = version
    return after - before


@compiled
def _make_room(asking: int, now: int, arrival: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
               typical: Typical, outlook: Outlook, run: Run, places: Places) -> tuple[int, int]:  # fmt: skip
    """Make the best move that lets the arrival fit; return where it fits then, NOWHERE when no move does."""
    shape = order[arrival]
    best, moved, target = -1e18, NOWHERE, NOWHERE
    for other in range(now):
        node = run.node[other]
        if node == NOWHERE or not _fits_instead(cluster, node, shapes, shape, order[other], run.devices[other]):
            continue
        to = _place_for(asking, order[other], node, cluster, shapes, scores, typical, outlook, places)
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
def _place_for(asking: int, shape: int, but: int, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
               outlook: Outlook, places: Places) -> int:  # fmt: skip
    """Return the best node for a shape that is not `but`."""
    if places.asked[shape] != asking:
        places.asked[shape] = asking
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
