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
from dujiang.scheduling.simulator.moves import MOVES, STEPS, new_moving, play_moving
from dujiang.scheduling.simulator.outlook import SLOTS, Outlook, new_outlook
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, Run, new_run, new_scores, play
from dujiang.scheduling.simulator.published import BEST_FIT, CLUSTERING, DOT_PRODUCT, FGD, PACKING, RANDOM
from dujiang.scheduling.simulator.traces import Node, Pod
from dujiang.scheduling.simulator.waiting import new_fullness, new_queue
from dujiang.scheduling.simulator.workload import Arrivals, draw_arrivals

POLICIES: Final[Mapping[str, int]] = {
    "Random": RANDOM, "DotProd": DOT_PRODUCT, "Clustering": CLUSTERING, "Packing": PACKING, "BestFit": BEST_FIT,
    "FGD": FGD, "default": OUTLOOK,
}  # fmt: skip
LONGEST_PART: Final = 1024
"""Arrivals after which an outlook is drawn anew at the latest. On openb 512 gave the same."""
LONGEST_PART_WAITING: Final = 256
"""Likewise with a queue, where what is expected also says who waits."""
WAIT: Final = 0.09
"""How much may be held back, as a part of the devices, unless told otherwise; only where pods may be moved.

The least whole percent with which each of ten seeds came to 97.5 % on the default list at 130 % arrival. What it costs
is in docs/benchmarks.md."""


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
    held_milli: int
    """The most that pods asked for at any time that fitted and were held back."""
    waited: int
    """How many of the placed pods were not placed as they arrived."""
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


def policy_number(name: str, *, moves: float = 0.0, wait: float = 0.0) -> int:
    """Return the number of a policy by its name, in any case.

    Raises:
        UnknownPolicy: with the names there are; or it is to move pods or have them wait, and cannot.
    """
    for known, number in POLICIES.items():
        if known.lower() == name.lower():
            if (moves or wait) and number != OUTLOOK:
                raise UnknownPolicy(f"Policy {name} moves nothing and has nothing wait; leave --moves and --wait out, "
                                    "or use policy default alone.", policy=name)  # fmt: skip
            return number
    raise UnknownPolicy(f"There is no policy {name}; there are: {', '.join(POLICIES)}.", policy=name)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """One run, step by step."""

    arrivals: Arrivals
    empty: Cluster
    """Before the first arrival."""
    cluster: Cluster
    """After the last."""
    run: Run
    steps: IntArray
    """As in `Moving.steps`; empty for a run without a queue, where every pod is placed as it arrives."""
    moves: int
    held_milli: int
    """The most that was ever held back."""
    seconds: float

    def placed_at(self) -> IntArray:
        """Return at which arrival each pod was placed, NOWHERE for those that were not."""
        if not len(self.steps):
            return np.where(self.run.node == NOWHERE, NOWHERE, np.arange(len(self.run.node)))
        at = np.full(len(self.run.node), NOWHERE, dtype=np.int64)
        placed = self.steps[self.steps[:, 2] == NOWHERE]
        at[placed[:, 1]] = placed[:, 0]
        return at


def simulate(experiment: Experiment, policy: str, *, arrival: float, seed: int, moves: float = 0.0,
             wait: float | None = None, progress: Callable[[int], None] | None = None) -> Outcome:  # fmt: skip
    """Run one policy on the arrivals of one seed.

    Args:
        experiment: the cluster and the list.
        policy: by name.
        arrival: what arrives in all, as a part of the cluster's devices: 1.3 is 130 %.
        seed: of the arrivals and of all chance in the policy.
        moves: how many of the placed pods may be moved, as a part of them; only our own policy can.
        wait: how much may be held back, as a part of the cluster's devices; None is `WAIT` where pods may be moved,
            else nothing. Only our own policy can.
        progress: told how many pods have been decided since it was last told.

    Raises:
        UnknownPolicy: no such policy, or it can neither move pods nor have them wait.
    """
    return _outcome(experiment, policy, seed, played(experiment, policy, arrival=arrival, seed=seed, moves=moves,
                                                     wait=wait, progress=progress))  # fmt: skip


def played(experiment: Experiment, policy: str, *, arrival: float, seed: int, moves: float = 0.0,
           wait: float | None = None, progress: Callable[[int], None] | None = None) -> Played:  # fmt: skip
    """Return every step of the run that `simulate` sums up."""
    if wait is None:
        wait = WAIT if moves else 0.0
    number = policy_number(policy, moves=moves, wait=wait)
    arrivals = draw_arrivals(
        experiment.shapes, experiment.of_pod, nodes=len(experiment.cluster.gpus),
        capacity_milli=experiment.capacity_milli, ratio=arrival, seed=seed,
    )  # fmt: skip
    few = Arrivals(experiment.of_pod[:1], np.arange(len(experiment.cluster.gpus)), np.zeros((1, 2)))
    _play(experiment, number, few, 0, moves, wait, None)  # compiles all that is needed, so that no run is timed with it
    return _play(experiment, number, arrivals, seed, moves, wait, progress)


def _play(experiment: Experiment, policy: int, arrivals: Arrivals, seed: int, moves: float, wait: float,
          progress: Callable[[int], None] | None) -> Played:  # fmt: skip
    """Play in parts, for an outlook learns from what has arrived."""
    empty = experiment.cluster.reordered(arrivals.nodes)
    cluster, run, shapes, order = empty.copy(), new_run(len(arrivals.order)), experiment.shapes, arrivals.order
    begun = process_time()
    rng = np.random.default_rng([seed, 1])
    scores = new_scores(shapes, cluster)
    outlook = _outlook(experiment, cluster, order[:0], rng, slots=2)
    has_queue = moves > 0 or wait > 0
    longest = LONGEST_PART_WAITING if has_queue else LONGEST_PART
    moving, queue = new_moving(shapes, cluster, len(order), moves), new_queue(shapes, len(order))
    first, end = 0, 1
    while first < len(order):
        end = min(end, len(order))
        if policy == OUTLOOK:
            outlook = _outlook(experiment, cluster, order[:first], rng)
            cluster.version[:] += 1
        if has_queue:
            play_moving(first, end, order, cluster, shapes, scores, experiment.typical, outlook, run, queue,
                        new_fullness(shapes, order[:first]), moving, moves,
                        wait * experiment.capacity_milli)  # fmt: skip
        else:
            play(policy, first, end, order, arrivals.draws, cluster, shapes, scores, experiment.typical, outlook, run)
        if progress is not None:
            progress(end - first)
        first, end = end, min(4 * end, end + longest)
    return Played(
        arrivals, empty, cluster, run, moving.steps[: moving.counts[STEPS]], int(moving.counts[MOVES]),
        int(queue.held_milli[1]), process_time() - begun,
    )  # fmt: skip


def _outlook(experiment: Experiment, cluster: Cluster, arrived: IntArray, rng: np.random.Generator,
             slots: int = SLOTS) -> Outlook:  # fmt: skip
    models = int(experiment.cluster.model.max()) + 1
    return new_outlook(experiment.shapes, models, arrived, fitting_nodes(cluster, experiment.shapes), rng, slots=slots)


def _outcome(experiment: Experiment, policy: str, seed: int, played: Played) -> Outcome:
    demand = experiment.shapes.demand_milli()[played.arrivals.order]
    is_placed = played.run.node != NOWHERE
    allocated = np.cumsum(
        np.bincount(played.placed_at()[is_placed], weights=demand[is_placed], minlength=len(demand))
    )  # fmt: skip
    percent = np.rint(np.cumsum(demand) / experiment.capacity_milli * 100).astype(np.int64)
    return Outcome(
        policy=policy, seed=seed,
        allocation_pct=_by_percent(percent, allocated / experiment.capacity_milli * 100),
        fragments_pct=_by_percent(percent, played.run.fragments_milli / experiment.capacity_milli * 100),
        arrived=len(demand), placed=int(is_placed.sum()), moves=played.moves, held_milli=played.held_milli,
        waited=int((played.placed_at()[is_placed] > np.flatnonzero(is_placed)).sum()),
        idle_milli=int(played.cluster.gpu_milli.sum()),
        fragments_milli=round(fragments(played.cluster, experiment.typical)), seconds=played.seconds,
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
