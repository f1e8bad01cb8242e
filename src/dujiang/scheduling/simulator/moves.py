"""Our own policy with a queue: pods wait for a place, and some of those placed are moved to make it. Compiled.

A pod that fits nowhere, or that `waiting` holds back, stays in the queue and is placed once it can be. When a pod fits
nowhere, each placed pod is looked at: would the new one fit in its place, and is there another place for it? Of all
such moves the one after which the least is expected to be lost is made. For a pod of several devices, a whole set of
them may be cleared, with no more moves than it asks for devices. And while pods wait, those in place are looked over
from time to time, and moved where clearly less is expected to be lost: a share of 0.23 that leaves one of 0.65, say,
makes room there for one of 0.32.

A move is one placed pod that goes from one node to another, where it fits at that moment; none is ever taken down
without a place. Every step is written down, in the order in which it was taken.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dujiang.scheduling.compiled import compiled
from dujiang.scheduling.simulator.cluster import MOST_DEVICES, WHOLE, Cluster, FloatArray, IntArray, Shapes
from dujiang.scheduling.simulator.fit import fits, give, take
from dujiang.scheduling.simulator.fragments import Typical, node_fragments
from dujiang.scheduling.simulator.outlook import Outlook, node_loss, outlook_score
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, Run, Scores, choose, work_out
from dujiang.scheduling.simulator.waiting import Fullness, Queue, dequeue, enqueue, hold, is_held_back, may_wait

CLEARED_NODES: Final = 16
"""On so many nodes, those with the fewest pods in the way first, it is tried to clear devices."""
LEAST_GAIN_MILLI: Final = 50
"""Less is not worth a move. On openb 30 and 60 gave the same within the noise of draws."""
MOVES, PLACED, IDLE, STEPS, ASKED = range(5)
"""What `Moving.counts` counts: moves, pods placed, idle devices, steps, and how often places were asked for."""


class Moving(NamedTuple):
    """What is kept between calls of `play_moving`."""

    counts: IntArray
    full_since: IntArray
    """(shapes): how many moves had been made when the shape was found to fit nowhere; only a move can change that."""
    tried: IntArray
    """(shapes): how many steps had been taken when it was last tried to make room for it."""
    best: IntArray
    """(shapes, 2): the best two places, or NOWHERE."""
    asked: IntArray
    """(shapes): when they were worked out last."""
    lost: FloatArray
    """(nodes): fragments."""
    steps: IntArray
    """(steps, 6): at which arrival, which pod, from which node (NOWHERE: it had no place) and devices, to which.
    Longer than needed by what is written before it is undone."""


def new_moving(shapes: Shapes, cluster: Cluster, arrivals: int, share: float) -> Moving:
    """Return what is kept at first.

    Args:
        shapes: the distinct requests.
        cluster: empty.
        arrivals: how many pods arrive in all.
        share: at most this part of the placed pods are moves.
    """
    counts = np.zeros(5, dtype=np.int64)
    counts[IDLE] = (cluster.gpu_milli == WHOLE).sum()
    size = len(shapes.gpus)
    return Moving(
        counts, np.full(size, -1), np.full(size, -1), np.full((size, 2), NOWHERE), np.full(size, -1),
        np.zeros(len(cluster.gpus)), np.zeros((arrivals + int(share * arrivals) + 4 * MOST_DEVICES, 6), dtype=np.int64),
    )  # fmt: skip


@compiled
def play_moving(first: int, end: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
                typical: Typical, outlook: Outlook, run: Run, queue: Queue, fullness: Fullness, moving: Moving,
                share: float, most_milli: float) -> None:  # fmt: skip
    """Place the arrivals from `first` to before `end` and those that wait, moving placed pods where that makes room.

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
        queue: who waits; changed in place.
        fullness: of the devices, after the arrivals so far.
        moving: kept between calls.
        share: at most this part of the placed pods are moves.
        most_milli: how much may be held back.
    """
    for node in range(len(cluster.gpus)):
        moving.lost[node] = _lost(cluster, node, typical)
    shapes_by_size = np.argsort(-shapes.gpus * shapes.gpu_milli, kind="mergesort")
    if share > 0 and queue.waiting.sum() > 0:
        _consolidate(first, order, cluster, shapes, scores, typical, outlook, run, moving, share)
        for each in shapes_by_size:
            _place_waiting(first, each, cluster, shapes, scores, typical, outlook, run, queue, fullness, moving,
                           most_milli)  # fmt: skip
    for arrival in range(first, end):
        shape = order[arrival]
        enqueue(queue, shape, arrival)
        _place_waiting(arrival, shape, cluster, shapes, scores, typical, outlook, run, queue, fullness, moving,
                       most_milli)  # fmt: skip
        if queue.held_milli[0] > 0:
            for each in shapes_by_size:
                if queue.held[each] > 0 and each != shape:
                    _place_waiting(arrival, each, cluster, shapes, scores, typical, outlook, run, queue, fullness,
                                   moving, most_milli)  # fmt: skip
        if _is_worth_a_move(shape, shapes, queue, fullness, moving, share, most_milli):
            moving.tried[shape] = moving.counts[STEPS]
            if _make_room(arrival, shape, order, cluster, shapes, scores, typical, outlook, run, queue, moving, share):
                for each in shapes_by_size:  # what moved may have left room for others
                    _place_waiting(arrival, each, cluster, shapes, scores, typical, outlook, run, queue, fullness,
                                   moving, most_milli)  # fmt: skip
        run.fragments_milli[arrival] = moving.lost.sum()


@compiled
def _place_waiting(arrival: int, shape: int, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
                   outlook: Outlook, run: Run, queue: Queue, fullness: Fullness, moving: Moving, most_milli: float,
                   ) -> None:  # fmt: skip
    """Place the waiting pods of a shape, the first first, until one does not fit or all others are held back."""
    while queue.waiting[shape] > 0 and moving.full_since[shape] != moving.counts[MOVES]:
        node, devices = choose(OUTLOOK, cluster, shapes, shape, scores, typical, outlook, 0.0)
        if node == NOWHERE:
            moving.full_since[shape] = moving.counts[MOVES]
            hold(queue, shapes, shape, 0)  # they no longer fit: nobody holds them back
            return
        if most_milli > 0 and may_wait(shape, fullness):
            is_new = queue.held[shape] < queue.waiting[shape]
            held_milli = queue.held_milli[0] + (shapes.gpu_milli[shape] if is_new else 0)
            loss = _growth(cluster, node, shapes, shape, devices, scores, outlook)
            if is_held_back(shape, node, devices, loss, held_milli, most_milli, moving.counts[IDLE], cluster, shapes,
                            fullness):  # fmt: skip
                if is_new:
                    hold(queue, shapes, shape, queue.held[shape] + 1)
                    continue
                return
        _settle(arrival, shape, node, devices, cluster, shapes, typical, run, queue, moving)


@compiled
def _is_worth_a_move(shape: int, shapes: Shapes, queue: Queue, fullness: Fullness, moving: Moving, share: float,
                     most_milli: float) -> bool:  # fmt: skip
    """Say whether moves are tried for a shape: its pods fit nowhere, would not be held back, and something changed."""
    if queue.waiting[shape] == queue.held[shape] or shapes.gpus[shape] == 0:
        return False
    if most_milli > 0 and may_wait(shape, fullness):
        return False
    return bool(moving.tried[shape] != moving.counts[STEPS] and _moves_left(moving, share) > 0)


@compiled
def _moves_left(moving: Moving, share: float) -> int:
    """Return how many moves may still be made, once one more pod is placed."""
    return int(int(share * (moving.counts[PLACED] + 1)) - moving.counts[MOVES])


@compiled
def _make_room(arrival: int, shape: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
               typical: Typical, outlook: Outlook, run: Run, queue: Queue, moving: Moving, share: float,
               ) -> bool:  # fmt: skip
    """Make the best move that lets a pod fit and place it; say whether there was one."""
    node = _exchange(arrival, shape, order, cluster, shapes, scores, typical, outlook, run, moving)
    if node == NOWHERE and shapes.gpus[shape] > 1:
        most = min(shapes.gpus[shape], _moves_left(moving, share))
        node = _clear(arrival, shape, order, cluster, shapes, scores, typical, outlook, run, moving, most)
    if node == NOWHERE:
        return False
    _, devices = outlook_score(cluster, node, shapes, shape, outlook, scores.after, scores.scratch)
    _settle(arrival, shape, node, devices, cluster, shapes, typical, run, queue, moving)
    return True


@compiled
def _consolidate(end: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
                 outlook: Outlook, run: Run, moving: Moving, share: float) -> None:  # fmt: skip
    """Move those of the arrivals before `end` that are placed to where the least is lost, the greatest gain first."""
    gains = np.zeros(end)
    moving.counts[ASKED] += 1
    for pod in range(end):
        if run.node[pod] != NOWHERE and shapes.gpus[order[pod]] > 0:
            _, gains[pod] = _gain(pod, order[pod], cluster, shapes, scores, typical, outlook, run, moving)
    for pod in np.argsort(-gains, kind="mergesort"):
        if gains[pod] < LEAST_GAIN_MILLI or _moves_left(moving, share) < 1:
            return
        moving.counts[ASKED] += 1
        to, gain = _gain(pod, order[pod], cluster, shapes, scores, typical, outlook, run, moving)
        if gain >= LEAST_GAIN_MILLI:  # earlier moves may have changed it
            _move(end, pod, order[pod], to, scores.devices[order[pod], to], cluster, shapes, typical, run, moving)


@compiled
def _gain(pod: int, shape: int, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical, outlook: Outlook,
          run: Run, moving: Moving) -> tuple[int, float]:  # fmt: skip
    """Return the best other node for a placed pod, and how much less is expected to be lost once it is there."""
    node, devices = run.node[pod], run.devices[pod]
    to = _place_for(shape, node, cluster, shapes, scores, typical, outlook, moving)
    if to == NOWHERE:
        return NOWHERE, 0.0
    version = cluster.version[node]
    give(cluster, node, shapes, shape, devices)
    here = _growth(cluster, node, shapes, shape, devices, scores, outlook)
    take(cluster, node, shapes, shape, devices)
    cluster.version[node] = version
    there = _growth(cluster, to, shapes, shape, scores.devices[shape, to], scores, outlook)
    return to, here - there


@compiled
def _exchange(arrival: int, shape: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
              typical: Typical, outlook: Outlook, run: Run, moving: Moving) -> int:  # fmt: skip
    """Move the pod out of whose place the least is lost; return the node that it left, NOWHERE when there is none."""
    best, moved, target = -1e18, NOWHERE, NOWHERE
    moving.counts[ASKED] += 1
    for other in range(arrival + 1):
        node = run.node[other]
        if node == NOWHERE or not _fits_instead(cluster, node, shapes, shape, order[other], run.devices[other]):
            continue
        to = _place_for(order[other], node, cluster, shapes, scores, typical, outlook, moving)
        if to == NOWHERE:
            continue
        score = scores.score[order[other], to]
        score += _saved_by_exchange(cluster, node, shapes, shape, order[other], run.devices[other], scores, outlook)
        if score > best:
            best, moved, target = score, other, to
    if moved == NOWHERE:
        return NOWHERE
    left = run.node[moved]
    _move(arrival, moved, order[moved], target, scores.devices[order[moved], target], cluster, shapes, typical, run,
          moving)  # fmt: skip
    return int(left)


@compiled
def _clear(arrival: int, shape: int, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
           typical: Typical, outlook: Outlook, run: Run, moving: Moving, most: int) -> int:  # fmt: skip
    """Clear devices of one node for a pod of several; return that node, NOWHERE when so many moves do not do."""
    pods = np.zeros_like(cluster.gpu_milli)
    for other in range(arrival + 1):
        for device in range(len(pods[0])):
            if run.node[other] != NOWHERE and (run.devices[other] >> device) & 1:
                pods[run.node[other], device] += 1
    never = len(order) + 1
    in_the_way = np.full(len(cluster.gpus), never)
    for node in range(len(cluster.gpus)):
        devices = cluster.gpus[node]
        if devices >= shapes.gpus[shape] and (shapes.models[shape] >> cluster.model[node]) & 1:
            in_the_way[node] = np.sort(pods[node, :devices])[: shapes.gpus[shape]].sum()
    for _ in range(CLEARED_NODES):
        node = int(np.argmin(in_the_way))
        if in_the_way[node] == never:
            break
        in_the_way[node] = never
        leaving = _in_the_way(arrival, shape, node, pods[node], order, cluster, shapes, run)
        if 0 < len(leaving) <= most and _all_leave(
            arrival, leaving, order, cluster, shapes, scores, typical, outlook, run, moving
        ):
            return node
    return NOWHERE


@compiled
def _in_the_way(arrival: int, shape: int, node: int, pods: IntArray, order: IntArray, cluster: Cluster,
                shapes: Shapes, run: Run) -> IntArray:  # fmt: skip
    """Return which pods have to leave a node so that another fits, none when that does not do either."""
    chosen = 0
    for device in np.argsort(pods[: cluster.gpus[node]], kind="mergesort")[: shapes.gpus[shape]]:
        chosen |= 1 << device
    leaves = np.zeros(arrival + 1, np.bool_)
    cpu, memory = cluster.cpu_milli[node], cluster.memory_mib[node]
    next_one = 0
    while next_one != NOWHERE:
        next_one = NOWHERE
        for other in range(arrival + 1):
            if run.node[other] != node or leaves[other]:
                continue
            if run.devices[other] & chosen:
                next_one = other
                break
            lacks_cpu, lacks_memory = cpu < shapes.cpu_milli[shape], memory < shapes.memory_mib[shape]
            amounts = shapes.cpu_milli if lacks_cpu else shapes.memory_mib
            if (lacks_cpu or lacks_memory) and (
                next_one == NOWHERE or amounts[order[other]] > amounts[order[next_one]]
            ):
                next_one = other
        if next_one != NOWHERE:
            leaves[next_one] = True
            cpu += shapes.cpu_milli[order[next_one]]
            memory += shapes.memory_mib[order[next_one]]
    if cpu < shapes.cpu_milli[shape] or memory < shapes.memory_mib[shape]:
        leaves[:] = False
    return np.flatnonzero(leaves)


@compiled
def _all_leave(arrival: int, leaving: IntArray, order: IntArray, cluster: Cluster, shapes: Shapes, scores: Scores,
               typical: Typical, outlook: Outlook, run: Run, moving: Moving) -> bool:  # fmt: skip
    """Move pods off their node one after the other; where one has no other place, undo all and say False."""
    nodes, devices = run.node[leaving], run.devices[leaving]
    for place in range(len(leaving)):
        pod = leaving[place]
        moving.counts[ASKED] += 1
        to = _place_for(order[pod], run.node[pod], cluster, shapes, scores, typical, outlook, moving)
        if to == NOWHERE:
            for back in range(place - 1, -1, -1):
                other = leaving[back]
                _move(arrival, other, order[other], nodes[back], devices[back], cluster, shapes, typical, run, moving)
            moving.counts[MOVES] -= 2 * place
            moving.counts[STEPS] -= 2 * place
            return False
        _move(arrival, pod, order[pod], to, scores.devices[order[pod], to], cluster, shapes, typical, run, moving)
    return True


@compiled
def _move(arrival: int, pod: int, shape: int, to: int, devices: int, cluster: Cluster, shapes: Shapes,
          typical: Typical, run: Run, moving: Moving) -> None:  # fmt: skip
    """Move one placed pod."""
    left = run.node[pod]
    _write(arrival, pod, left, run.devices[pod], to, devices, moving)
    moving.counts[MOVES] += 1
    moving.counts[IDLE] -= _idle(cluster, left) + _idle(cluster, to)
    give(cluster, left, shapes, shape, run.devices[pod])
    take(cluster, to, shapes, shape, devices)
    run.node[pod], run.devices[pod] = to, devices
    moving.counts[IDLE] += _idle(cluster, left) + _idle(cluster, to)
    for node in (left, to):
        moving.lost[node] = _lost(cluster, node, typical)


@compiled
def _settle(arrival: int, shape: int, node: int, devices: int, cluster: Cluster, shapes: Shapes, typical: Typical,
            run: Run, queue: Queue, moving: Moving) -> None:  # fmt: skip
    """Place the first waiting pod of a shape."""
    pod = dequeue(queue, shape)
    if queue.held[shape] > queue.waiting[shape]:
        hold(queue, shapes, shape, queue.waiting[shape])
    _write(arrival, pod, NOWHERE, 0, node, devices, moving)
    moving.counts[PLACED] += 1
    moving.counts[IDLE] -= _idle(cluster, node)
    take(cluster, node, shapes, shape, devices)
    run.node[pod], run.devices[pod] = node, devices
    moving.counts[IDLE] += _idle(cluster, node)
    moving.lost[node] = _lost(cluster, node, typical)


@compiled
def _write(arrival: int, pod: int, left: int, left_devices: int, to: int, devices: int, moving: Moving) -> None:
    step = moving.steps[moving.counts[STEPS]]
    step[0], step[1], step[2], step[3], step[4], step[5] = arrival, pod, left, left_devices, to, devices
    moving.counts[STEPS] += 1


@compiled
def _idle(cluster: Cluster, node: int) -> int:
    """Return how many devices of a node are idle."""
    idle = 0
    for device in range(cluster.gpus[node]):
        if cluster.gpu_milli[node, device] == WHOLE:
            idle += 1
    return idle


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
def _place_for(shape: int, but: int, cluster: Cluster, shapes: Shapes, scores: Scores, typical: Typical,
               outlook: Outlook, moving: Moving) -> int:  # fmt: skip
    """Return the best node for a shape that is not `but`."""
    best = moving.best[shape]
    if moving.asked[shape] != moving.counts[ASKED]:
        moving.asked[shape] = moving.counts[ASKED]
        best[:] = NOWHERE
        for node in range(len(cluster.gpus)):
            if scores.version[shape, node] != cluster.version[node]:
                work_out(OUTLOOK, cluster, node, shapes, shape, scores, typical, outlook)
            if not fits(cluster, node, shapes, shape):
                continue
            if best[0] == NOWHERE or scores.score[shape, node] > scores.score[shape, best[0]]:
                best[0], best[1] = node, best[0]
            elif best[1] == NOWHERE or scores.score[shape, node] > scores.score[shape, best[1]]:
                best[1] = node
    return int(best[1] if best[0] == but else best[0])


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
def _growth(cluster: Cluster, node: int, shapes: Shapes, shape: int, devices: int, scores: Scores,
            outlook: Outlook) -> float:  # fmt: skip
    """Return how much more is expected to be lost on a node once a pod is there."""
    before = _loss(cluster, node, scores, outlook)
    version = cluster.version[node]
    take(cluster, node, shapes, shape, devices)
    after = _loss(cluster, node, scores, outlook)
    give(cluster, node, shapes, shape, devices)
    cluster.version[node] = version
    return float(after - before)


@compiled
def _loss(cluster: Cluster, node: int, scores: Scores, outlook: Outlook) -> float:
    return node_loss(cluster.cpu_milli[node], cluster.memory_mib[node], cluster.gpu_milli[node], cluster.gpus[node],
                     cluster.model[node], outlook, scores.scratch)  # fmt: skip


@compiled
def _lost(cluster: Cluster, node: int, typical: Typical) -> float:
    return node_fragments(
        cluster.cpu_milli[node], cluster.gpu_milli[node], cluster.gpus[node], cluster.model[node], typical
    )
