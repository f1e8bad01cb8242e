"""The queue and the moves: every step replayed by other means, and small cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.scheduling.simulator.cluster import Cluster, Shapes, cluster_of, shapes_of
from dujiang.scheduling.simulator.fit import fits, fitting_nodes
from dujiang.scheduling.simulator.fragments import fragments, typical_pods
from dujiang.scheduling.simulator.moves import IDLE, MOVES, PLACED, STEPS, Moving, new_moving, play_moving
from dujiang.scheduling.simulator.openb import experiment_of, played, simulate
from dujiang.scheduling.simulator.outlook import new_outlook
from dujiang.scheduling.simulator.place import NOWHERE, Run, new_run, new_scores
from dujiang.scheduling.simulator.traces import Node, Pod
from dujiang.scheduling.simulator.waiting import Queue, new_fullness, new_queue, tight_packing
from tests.scheduling.simulator.small import some_shapes
from tests.scheduling.simulator.test_runs import SOME_NODES, SOME_PODS, clusters, few, lists


class Play:
    """One run with a queue, part by part."""

    def __init__(self, cluster: Cluster, shapes: Shapes, order: np.ndarray, share: float, most_milli: float) -> None:
        """Take a cluster over."""
        self.empty, self.cluster, self.shapes, self.order = cluster.copy(), cluster, shapes, order
        self.share, self.most_milli = share, most_milli
        self.run: Run = new_run(len(order))
        self.queue: Queue = new_queue(shapes, len(order))
        self.moving: Moving = new_moving(shapes, cluster, len(order), share)
        self.scores = new_scores(shapes, cluster)
        self.typical = typical_pods(shapes, order)

    def play(self, first: int, end: int) -> None:
        """Play some arrivals; what is expected is what is in the list."""
        outlook = new_outlook(self.shapes, 2, self.order, fitting_nodes(self.cluster, self.shapes),
                              np.random.default_rng(3), slots=1 << 12)  # fmt: skip
        self.cluster.version[:] += 1
        play_moving(first, end, self.order, self.cluster, self.shapes, self.scores, self.typical, outlook, self.run,
                    self.queue, new_fullness(self.shapes, self.order[:first]), self.moving, self.share,
                    self.most_milli)  # fmt: skip

    def steps(self) -> np.ndarray:
        """Return what was done."""
        return self.moving.steps[: self.moving.counts[STEPS]]


Replayed = tuple[list[list[int]], dict[int, tuple[int, int]], int]


def replayed(empty: Cluster, shapes: Shapes, order: np.ndarray, steps: np.ndarray) -> Replayed:
    """Replay steps in plain Python, checking each; return what is free of devices, where pods are, and the moves."""
    cpu, memory = empty.cpu_milli.tolist(), empty.memory_mib.tolist()
    free = [row[:gpus] for row, gpus in zip(empty.gpu_milli.tolist(), empty.gpus.tolist(), strict=True)]
    where: dict[int, tuple[int, int]] = {}
    moves, last = 0, 0
    for at, pod, left, left_bits, node, bits in steps.tolist():
        asks = [int(column[order[pod]]) for column in shapes]
        assert last <= at, "steps are in order"
        assert pod <= at, "nothing is placed before it has arrived"
        last = at
        if left == NOWHERE:
            assert pod not in where, "nothing is placed twice"
        else:
            assert where[pod] == (left, left_bits), "it leaves from where it is"
            assert left != node
            moves += 1
            cpu[left] += asks[0]
            memory[left] += asks[1]
            for device in range(len(free[left])):
                free[left][device] += asks[3] * (left_bits >> device & 1)
        cpu[node] -= asks[0]
        memory[node] -= asks[1]
        assert bits.bit_count() == asks[2]
        assert bits >> len(free[node]) == 0
        assert not asks[2] or asks[4] >> int(empty.model[node]) & 1
        for device in range(len(free[node])):
            free[node][device] -= asks[3] * (bits >> device & 1)
        assert cpu[node] >= 0
        assert memory[node] >= 0
        assert min(free[node], default=0) >= 0
        where[pod] = (node, bits)
    return free, where, moves


def padded(free: list[list[int]], cluster: Cluster) -> list[int]:
    """Return what is free of devices as the cluster's array has it, row by row."""
    width = cluster.gpu_milli.shape[1]
    return [milli for row in free for milli in row + [0] * (width - len(row))]


def check(play: Play) -> None:
    """What is left and where pods are is what the replay says."""
    free, where, moves = replayed(play.empty, play.shapes, play.order, play.steps())
    assert play.cluster.gpu_milli.ravel().tolist() == padded(free, play.cluster)
    assert where == {
        pod: (int(play.run.node[pod]), int(play.run.devices[pod])) for pod in np.flatnonzero(play.run.node != NOWHERE)
    }
    counts = play.moving.counts
    assert (counts[MOVES], counts[PLACED]) == (moves, len(where))
    assert counts[IDLE] == sum(row.count(1000) for row in free)
    assert moves <= play.share * len(where)
    assert play.queue.waiting.sum() == len(play.order) - len(where), "who is not placed waits"
    assert (play.queue.held <= play.queue.waiting).all()
    assert play.queue.held_milli[0] == (play.queue.held * play.shapes.gpu_milli).sum()
    assert play.queue.held_milli[1] <= play.most_milli
    assert play.run.fragments_milli[-1] == pytest.approx(fragments(play.cluster, play.typical))


@few
@given(clusters, lists, st.sampled_from((0.0, 0.05, 0.3, 1.0)), st.sampled_from((0.0, 0.1, 0.5)))
def test_every_step_is_legal_and_moves_and_waiting_stay_within_their_bounds(
    some: list[Node], pods: list[Pod], share: float, wait: float
) -> None:
    cluster, models = cluster_of(some)
    shapes, order = shapes_of(pods, models)
    play = Play(cluster, shapes, order, share, wait * float(cluster.gpu_milli.sum()))
    half = len(order) // 2
    play.play(0, half)
    play.play(half, len(order))
    check(play)
    if not wait:
        assert play.queue.held_milli[1] == 0
        for shape in np.flatnonzero(play.queue.waiting):
            assert not any(fits(cluster, node, shapes, shape) for node in range(len(some)))


@pytest.mark.parametrize(("moves", "wait"), [(0.05, None), (0.3, 0.2), (0.0, 0.1)])
def test_the_steps_of_a_whole_run_replay_to_what_is_reported(moves: float, wait: float | None) -> None:
    experiment = experiment_of(SOME_NODES * 3, SOME_PODS * 3)
    run = played(experiment, "default", arrival=1.3, seed=4, moves=moves, wait=wait)
    free, where, made = replayed(run.empty, experiment.shapes, run.arrivals.order, run.steps)
    outcome = simulate(experiment, "default", arrival=1.3, seed=4, moves=moves, wait=wait)
    demand = experiment.shapes.demand_milli()[run.arrivals.order]
    assert outcome.placed == len(where)
    assert outcome.moves == made <= moves * len(where)
    assert outcome.idle_milli == sum(map(sum, free)) == experiment.capacity_milli - sum(demand[list(where)])
    assert outcome.held_milli <= (0.09 if wait is None else wait) * experiment.capacity_milli
    last = max(outcome.allocation_pct)
    assert outcome.allocation_pct[last] <= 100 - 100 * outcome.idle_milli / experiment.capacity_milli + 1e-3


def test_a_move_makes_room() -> None:
    cluster, models = cluster_of([Node("x", 9000, 9000, 1, "a"), Node("y", 0, 9000, 1, "b")])
    shapes, order = shapes_of([Pod("s", 1000, 1000, 1, 500, ()), Pod("w", 1000, 1000, 1, 1000, ("a",))], models)
    play = Play(cluster, shapes, order, 0.5, 0)
    play.play(0, 1)
    cluster.cpu_milli[1] = 9000  # now there is another place for the first, and the second can use only where it is
    play.play(1, 2)
    assert play.steps().tolist() == [[0, 0, NOWHERE, 0, 0, 1], [1, 0, 0, 1, 1, 1], [1, 1, NOWHERE, 0, 0, 1]]
    assert cluster.gpu_milli[:, 0].tolist() == [0, 500]


def test_devices_are_cleared_for_a_pod_of_several_and_nothing_moves_when_they_cannot_be() -> None:
    some = [Node("x", 90_000, 90_000, 4, "a"), Node("y", 0, 90_000, 2, "a")]
    pods = [*[Pod("s", 1000, 1000, 1, 800, ())] * 2, Pod("w", 1000, 1000, 4, 1000, ())]
    cluster, models = cluster_of(some)
    shapes, order = shapes_of(pods, models)
    play = Play(cluster, shapes, order, 1.0, 0)
    play.play(0, 2)
    cluster.cpu_milli[1] = 1500  # room for one of the two: in vain
    play.play(2, 3)
    assert [row[2] for row in play.steps().tolist()] == [NOWHERE] * 2
    assert play.moving.counts[MOVES] == 0

    cluster, _ = cluster_of(some)
    play = Play(cluster, shapes, order, 1.0, 0)
    play.play(0, 2)
    cluster.cpu_milli[1] = 2500
    play.play(2, 3)
    assert play.run.node.tolist() == [1, 1, 0]
    assert play.moving.counts[MOVES] == 2


def test_a_tight_packing_says_how_full_the_devices_of_a_size_are() -> None:
    by_size = np.zeros(1000, dtype=np.int64)
    by_size[[810, 160, 470]] = 2, 1, 4
    full = tight_packing(by_size)
    # 810 + 160, 810, and twice 470 + 470
    assert full[470] == pytest.approx(0.94)
    assert full[160] == pytest.approx(0.97)
    assert full[810] == pytest.approx(2 / (1 / 0.97 + 1 / 0.81))
    assert full[500] == 1.0


def test_fullness_compares_a_size_with_what_else_arrives() -> None:
    shapes = some_shapes([(1, 1, 1, 800), (1, 1, 1, 500), (1, 1, 2, 1000), (1, 1, 0, 0)])
    fullness = new_fullness(shapes, np.array([0] * 5 + [1] * 8 + [2] * 3 + [3] * 9))
    assert fullness.of_shape.tolist() == pytest.approx([0.8, 1.0, 1.0, 1.0])
    assert fullness.shares == pytest.approx(8 / 9)
    assert fullness.fraction.tolist() == pytest.approx([4 / 14, 1.0, 0, 0])
    assert fullness.of_others[0] == pytest.approx(1.0)


def test_what_wastes_devices_waits_as_late_as_it_can_and_no_more_than_is_allowed() -> None:
    some = [Node("n", 99_000, 99_000, 8, "a")] * 5
    pods = [Pod("p", 100, 100, 1, milli, ()) for milli in (800, 1000, 500, 500)] * 20
    cluster, models = cluster_of(some)
    shapes, order = shapes_of(pods, models)
    play = Play(cluster, shapes, order, 0.0, 6000.0)
    placed: list[int] = []
    for first in range(0, len(order), 4):
        play.play(first, first + 4)
        placed.append(int((play.run.node[:] != NOWHERE).sum()))
    check(play)
    assert placed[5] == 24, "nothing waits while there is much room"
    assert play.queue.held_milli[1] > 4000
    assert play.cluster.gpu_milli.sum() < 40_000 - 36_500
    greedy = Play(cluster_of(some)[0], shapes, order, 0.0, 0.0)
    greedy.play(0, len(order))
    assert greedy.cluster.gpu_milli.sum() > play.cluster.gpu_milli.sum()
