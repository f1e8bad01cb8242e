"""The experiment of the openb traces: pods arrive until they ask for a given part of the cluster, and none leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Final

import numpy as np

from dujiang.kit.errors import Invalid
from dujiang.scheduling.simulator.cluster import Cluster, FloatArray, IntArray, Shapes, cluster_of, shapes_of
from dujiang.scheduling.simulator.fit import fitting_nodes
from dujiang.scheduling.simulator.fragments import Typical, fragments, typical_pods
from dujiang.scheduling.simulator.moves import new_places, play_moving
from dujiang.scheduling.simulator.outlook import new_outlook
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, Run, new_run, new_scores, play
from dujiang.scheduling.simulator.published import BEST_FIT, CLUSTERING, DOT_PRODUCT, FGD, PACKING, RANDOM
from dujiang.scheduling.simulator.traces import Node, Pod
from dujiang.scheduling.simulator.workload import Arrivals, draw_arrivals

POLICIES: Final[Mapping[str, int]] = {
    "Random": RANDOM, "DotProd": DOT_PRODUCT, "Clustering": CLUSTERING, "Packing": PACKING, "BestFit": BEST_FIT,
    "FGD": FGD, "default": OUTLOOK,
}  # fmt: skip
LONGEST_PART: Final = 1024
"""Arrivals after which an outlook is drawn anew at the latest. On openb 512 gave the same."""


class UnknownPolicy(Invalid):
    """No policy of that name."""

    code, title = "unknown_policy", "There is no such policy"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A cluster and a list of pods, read once and run often."""

    cluster: Cluster
    shapes: Shapes
    of_pod: IntArray
    typical: Typical
    capacity_milli: int

    def arrivals(self, arrival: float) -> int:
        """Return about how many pods arrive until they ask for a part of the cluster."""
        demand = int(self.shapes.demand_milli()[self.of_pod].sum())
        return round(arrival * self.capacity_milli / demand * len(self.of_pod))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. Percentages are of all devices of the cluster."""

    policy: str
    seed: int
    allocation_pct: Mapping[int, float]
    """By whole percent of arrival: the mean over the arrivals that round to it, as in the published curves."""
    fragments_pct: Mapping[int, float]
    """Likewise; of all devices."""
    arrived: int
    placed: int
    moves: int
    idle_milli: int
    """What is left of all devices at the end."""
    fragments_milli: int
    """How much of that is fragments."""
    seconds: float
    """Of processor time for the decisions, on one core; reading and compiling are not counted."""

    def decisions_per_s(self) -> float:
        """Return how many pods were decided in a second."""
        return self.arrived / self.seconds if self.seconds else 0.0


def experiment_of(nodes: Sequence[Node], pods: Sequence[Pod]) -> Experiment:
    """Return the experiment of these nodes and pods."""
    cluster, models = cluster_of(nodes)
    shapes, of_pod = shapes_of(pods, models)
    return Experiment(cluster, shapes, of_pod, typical_pods(shapes, of_pod), int(cluster.gpu_milli.sum()))


def policy_number(name: str, *, moves: float = 0.0) -> int:
    """Return the number of a policy by its name, in any case.

    Raises:
        UnknownPolicy: with the names there are; or it is to move pods and cannot.
    """
    for known, number in POLICIES.items():
        if known.lower() == name.lower():
            if moves and number != OUTLOOK:
                raise UnknownPolicy(f"Policy {name} moves nothing; leave --moves out, or use policy default alone.",
                                    policy=name)  # fmt: skip
            return number
    raise UnknownPolicy(f"There is no policy {name}; there are: {', '.join(POLICIES)}.", policy=name)


def simulate(experiment: Experiment, policy: str, *, arrival: float, seed: int, moves: float = 0.0,
             progress: Callable[[int], None] | None = None) -> Outcome:  # fmt: skip
    """Run one policy on the arrivals of one seed.

    Args:
        experiment: the cluster and the list.
        policy: by name.
        arrival: what arrives in all, as a part of the cluster's devices: 1.3 is 130 %.
        seed: of the arrivals and of all chance in the policy.
        moves: how many of the placed pods may be moved, as a part of them; only our own policy can.
        progress: told how many pods have been decided since it was last told.

    Raises:
        UnknownPolicy: no such policy, or it cannot move pods.
    """
    number = policy_number(policy, moves=moves)
    arrivals = draw_arrivals(
        experiment.shapes, experiment.of_pod, nodes=len(experiment.cluster.gpus),
        capacity_milli=experiment.capacity_milli, ratio=arrival, seed=seed,
    )  # fmt: skip
    _warm(experiment, number, moves)
    cluster = experiment.cluster.reordered(arrivals.nodes)
    run = new_run(len(arrivals.order))
    begun = process_time()
    made = _play_all(experiment, number, cluster, arrivals, run, np.random.default_rng([seed, 1]), moves, progress)
    seconds = process_time() - begun
    return _outcome(experiment, policy, seed, cluster, arrivals, run, made, seconds)


def _play_all(experiment: Experiment, policy: int, cluster: Cluster, arrivals: Arrivals, run: Run,
              rng: np.random.Generator, moves: float, progress: Callable[[int], None] | None) -> int:  # fmt: skip
    """Play in parts, for an outlook learns from what has arrived; return how many moves were made."""
    scores = new_scores(experiment.shapes, cluster)
    models = int(cluster.model.max()) + 1
    outlook = new_outlook(experiment.shapes, models, arrivals.order[:0], fitting_nodes(cluster, experiment.shapes), rng,
                          slots=2)  # fmt: skip
    places, made = new_places(experiment.shapes), np.zeros(2, dtype=np.int64)
    first, end = 0, 1
    while first < len(arrivals.order):
        end = min(end, len(arrivals.order))
        if policy == OUTLOOK:
            fitting = fitting_nodes(cluster, experiment.shapes)
            outlook = new_outlook(experiment.shapes, models, arrivals.order[:first], fitting, rng)
            cluster.version[:] += 1
        if moves:
            play_moving(first, end, arrivals.order, cluster, experiment.shapes, scores, experiment.typical, outlook,
                        run, places, moves, made)  # fmt: skip
        else:
            play(policy, first, end, arrivals.order, arrivals.draws, cluster, experiment.shapes, scores,
                 experiment.typical, outlook, run)  # fmt: skip
        if progress is not None:
            progress(end - first)
        first, end = end, min(4 * end, end + LONGEST_PART)
    return int(made[0])


def _warm(experiment: Experiment, policy: int, moves: float) -> None:
    """Have everything compiled that a run needs, so that no run is timed with it."""
    arrivals = Arrivals(experiment.of_pod[:1], np.arange(len(experiment.cluster.gpus)), np.zeros((1, 2)))
    _play_all(
        experiment, policy, experiment.cluster.copy(), arrivals, new_run(1), np.random.default_rng(0), moves, None
    )


def _outcome(experiment: Experiment, policy: str, seed: int, cluster: Cluster, arrivals: Arrivals, run: Run,
             moves: int, seconds: float) -> Outcome:  # fmt: skip
    demand = experiment.shapes.demand_milli()[arrivals.order]
    is_placed = run.node != NOWHERE
    allocated = np.cumsum(np.where(is_placed, demand, 0))
    percent = np.rint(np.cumsum(demand) / experiment.capacity_milli * 100).astype(np.int64)
    return Outcome(
        policy=policy, seed=seed,
        allocation_pct=_by_percent(percent, allocated / experiment.capacity_milli * 100),
        fragments_pct=_by_percent(percent, run.fragments_milli / experiment.capacity_milli * 100),
        arrived=len(arrivals.order), placed=int(is_placed.sum()), moves=moves,
        idle_milli=int(cluster.gpu_milli.sum()), fragments_milli=round(fragments(cluster, experiment.typical)),
        seconds=seconds,
    )  # fmt: skip


def _by_percent(percent: IntArray, values: FloatArray) -> dict[int, float]:
    """Return the mean over the arrivals at each whole percent; where none falls on one, what it was before."""
    counts = np.bincount(percent)
    sums = np.bincount(percent, weights=values)
    until = np.cumsum(counts)
    found: dict[int, float] = {}
    for at in range(len(counts)):
        value = sums[at] / counts[at] if counts[at] else values[until[at] - 1] if until[at] else 0.0
        found[at] = round(float(value), 4)
    return found
