"""Whole runs of every policy on small clusters: what must hold whatever arrives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.scheduling.simulator.cluster import ANY_MODEL, Cluster, Shapes, cluster_of, shapes_of
from dujiang.scheduling.simulator.fit import fits, fitting_nodes
from dujiang.scheduling.simulator.fragments import fragments, typical_pods
from dujiang.scheduling.simulator.openb import POLICIES, UnknownPolicy, experiment_of, simulate
from dujiang.scheduling.simulator.outlook import new_outlook
from dujiang.scheduling.simulator.place import NOWHERE, Run, choose, new_run, new_scores, play
from dujiang.scheduling.simulator.plain import plain_fgd, plain_nodes, plain_pods, plain_take, plain_typical
from dujiang.scheduling.simulator.published import FGD, RANDOM
from dujiang.scheduling.simulator.traces import Node, Pod
from dujiang.scheduling.simulator.workload import draw_arrivals

MODELS = ("a", "b")
nodes = st.builds(
    Node, name=st.just("n"), cpu_milli=st.integers(0, 40) .map(lambda cores: cores * 1000),
    memory_mib=st.integers(0, 64).map(lambda gib: gib * 1024), gpus=st.integers(1, 8), model=st.sampled_from(MODELS),
)  # fmt: skip
fractions = st.builds(
    Pod, name=st.just("p"), cpu_milli=st.integers(0, 9000), memory_mib=st.integers(0, 9000), gpus=st.just(1),
    gpu_milli=st.sampled_from((100, 190, 250, 470, 500, 810)), models=st.sampled_from(((), ("a",), ("b",), ("a", "b"))),
)  # fmt: skip
others = st.builds(
    Pod, name=st.just("p"), cpu_milli=st.integers(0, 9000), memory_mib=st.integers(0, 9000),
    gpus=st.sampled_from((0, 1, 2, 4, 8)), gpu_milli=st.just(1000), models=st.just(()),
)  # fmt: skip
clusters = st.lists(nodes, min_size=1, max_size=6)
lists = st.lists(st.one_of(fractions, others), min_size=1, max_size=40)
few = settings(max_examples=60, deadline=None)


def run_of(policy: int, cluster: Cluster, shapes: Shapes, order: np.ndarray) -> Run:
    """Play all; return what became of each arrival."""
    rng = np.random.default_rng(3)
    outlook = new_outlook(shapes, 2, order, fitting_nodes(cluster, shapes), rng, slots=1 << 12)
    run, scores, typical = new_run(len(order)), new_scores(shapes, cluster), typical_pods(shapes, order)
    draws = rng.random((len(order), 2))
    play(policy, 0, len(order), order, draws, cluster, shapes, scores, typical, outlook, run)
    return run


def check(before: Cluster, after: Cluster, shapes: Shapes, order: np.ndarray, run: Run) -> None:
    """Nothing over capacity, fractions on one device, whole devices alone, what is free as the placements say."""
    free = before.copy()
    for arrival, shape in enumerate(order):
        node, bits = int(run.node[arrival]), int(run.devices[arrival])
        if node == NOWHERE:
            continue
        assert bits.bit_count() == shapes.gpus[shape]
        assert bits >> int(before.gpus[node]) == 0
        if shapes.gpus[shape]:
            assert (int(shapes.models[shape]) >> int(before.model[node])) & 1
        free.cpu_milli[node] -= shapes.cpu_milli[shape]
        free.memory_mib[node] -= shapes.memory_mib[shape]
        for device in range(int(before.gpus[node])):
            if bits >> device & 1:
                free.gpu_milli[node, device] -= shapes.gpu_milli[shape]
    for mine, theirs in zip(free[:3], after[:3], strict=True):
        assert (mine >= 0).all()
        assert (mine == theirs).all()


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@few
@given(clusters, lists)
def test_never_over_capacity_and_nothing_refused_that_fits(policy: int, some: list[Node], pods: list[Pod]) -> None:
    cluster, models = cluster_of(some)
    shapes, order = shapes_of(pods, models)
    before = cluster.copy()
    run = run_of(policy, cluster, shapes, order)
    check(before, cluster, shapes, order, run)
    for arrival in np.flatnonzero(run.node == NOWHERE):  # what is free only ever shrinks: at the end it fits no more
        assert not any(fits(cluster, node, shapes, order[arrival]) for node in range(len(some)))
    assert run.fragments_milli[-1] == pytest.approx(fragments(cluster, typical_pods(shapes, order)))


@few
@given(clusters, lists)
def test_compiled_fgd_decides_as_the_plain_one(some: list[Node], pods: list[Pod]) -> None:
    cluster, models = cluster_of(some)
    shapes, order = shapes_of(pods, models)
    typical = typical_pods(shapes, order)
    plain, asks, mix = plain_nodes(cluster), plain_pods(shapes), plain_typical(typical)
    run = run_of(FGD, cluster, shapes, order)
    for arrival, shape in enumerate(order):
        found = plain_fgd(plain, asks[shape], mix)
        if found is None:
            assert run.node[arrival] == NOWHERE
            continue
        node, devices = found
        assert (node, sum(1 << device for device in devices)) == (run.node[arrival], run.devices[arrival])
        plain_take(plain[node], asks[shape], devices)


@pytest.mark.parametrize("policy", [each for each in POLICIES.values() if each != RANDOM])
@few
@given(clusters, lists, st.randoms(use_true_random=False))
def test_the_order_of_nodes_decides_between_equals_only(policy: int, some: list[Node], pods: list[Pod], chance) -> None:  # type: ignore[no-untyped-def]
    best = []
    for _ in range(2):
        cluster, _models = cluster_of(some)
        shapes, order = shapes_of(pods, ("a", "b"))
        cluster.model[:] = [MODELS.index(node.model) for node in some]
        scores, typical = new_scores(shapes, cluster), typical_pods(shapes, order)
        outlook = new_outlook(shapes, 2, order, fitting_nodes(cluster, shapes), np.random.default_rng(1), slots=1 << 12)
        node, _ = choose(policy, cluster, shapes, 0, scores, typical, outlook, 0.0)
        best.append(None if node == NOWHERE else float(scores.score[0, node]))
        chance.shuffle(some)
    assert best[0] == best[1]


SOME_NODES = [Node("n", 96_000, 393_216, 8, "a")] * 4 + [Node("m", 16_000, 65_536, 2, "b")] * 6
SOME_PODS = [
    *[Pod("p", 4000, 8192, 1, 500, ())] * 9, *[Pod("p", 9000, 30_000, 1, 1000, ())] * 6,
    Pod("p", 40_000, 99_000, 4, 1000, ()), Pod("p", 8000, 8000, 0, 0, ()), *[Pod("p", 3000, 5600, 1, 810, ("a",))] * 5,
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    experiment = experiment_of(SOME_NODES, SOME_PODS)
    one, again, other = (simulate(experiment, policy, arrival=1.2, seed=seed) for seed in (5, 5, 6))
    assert one.allocation_pct == again.allocation_pct
    assert (one.placed, one.fragments_milli) == (again.placed, again.fragments_milli)
    assert one.allocation_pct != other.allocation_pct
    assert one.allocation_pct[max(one.allocation_pct)] <= 100
    assert max(one.allocation_pct) in (118, 119, 120)
    assert experiment.cluster.gpu_milli.sum() == experiment.capacity_milli, "a run leaves the experiment as it was"


def test_arrivals_are_the_list_shuffled_and_tuned_to_the_demand() -> None:
    experiment = experiment_of(SOME_NODES, SOME_PODS)
    demand = experiment.shapes.demand_milli()
    for ratio in (0.2, 1.0, 3.0):
        drawn = draw_arrivals(
            experiment.shapes, experiment.of_pod, nodes=10, capacity_milli=44_000, ratio=ratio, seed=1
        )
        asked = int(demand[drawn.order].sum())
        assert ratio * 44_000 - 4000 <= asked <= ratio * 44_000 + 3000, "a pod of four devices is weighed as one"
        assert sorted(drawn.nodes.tolist()) == list(range(10))
    up = draw_arrivals(experiment.shapes, experiment.of_pod, nodes=10, capacity_milli=44_000, ratio=1.0, seed=1)
    assert sorted(up.order[: len(SOME_PODS)].tolist()) == sorted(experiment.of_pod.tolist())


def test_a_policy_is_named_in_any_case_and_only_ours_moves() -> None:
    experiment = experiment_of(SOME_NODES, SOME_PODS)
    assert simulate(experiment, "fgd", arrival=0.2, seed=1).placed
    with pytest.raises(UnknownPolicy, match="BestFit"):
        simulate(experiment, "better", arrival=0.2, seed=1)
    with pytest.raises(UnknownPolicy, match="moves nothing"):
        simulate(experiment, "FGD", arrival=0.2, seed=1, moves=0.1)


def test_a_model_that_the_cluster_lacks_fits_nowhere() -> None:
    _, models = cluster_of(SOME_NODES)
    shapes, _ = shapes_of(
        [Pod("p", 1, 1, 1, 500, ("c",)), Pod("p", 1, 1, 1, 500, ("b", "c")), Pod("p", 1, 1, 0, 0, ("c",))], models
    )
    assert shapes.models.tolist() == [0, 0b10, ANY_MODEL]
