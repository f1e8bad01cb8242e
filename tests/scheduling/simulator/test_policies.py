"""Policies on clusters of two or three nodes, against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dujiang.scheduling.simulator.cluster import Cluster, Shapes
from dujiang.scheduling.simulator.fit import fits, fitting_nodes, tightest
from dujiang.scheduling.simulator.fragments import Typical, fragments, node_fragments, typical_pods
from dujiang.scheduling.simulator.outlook import Outlook, new_outlook, node_loss
from dujiang.scheduling.simulator.place import NOWHERE, OUTLOOK, choose, draw_devices, new_scores
from dujiang.scheduling.simulator.published import BEST_FIT, CLUSTERING, DOT_PRODUCT, FGD, PACKING, RANDOM
from tests.scheduling.simulator.small import PodRow, a_cluster, some_shapes

HALF, WHOLE_ONE = (1000, 1024, 1, 500), (1000, 1024, 1, 1000)


def a_mix(*pods: tuple[PodRow, int]) -> Typical:
    """The typical pods of a list in which each comes so often."""
    shapes = some_shapes([pod for pod, _ in pods])
    return typical_pods(shapes, np.repeat(np.arange(len(pods)), [count for _, count in pods]), popular=1.0)


def an_outlook(cluster: Cluster, shapes: Shapes, arrived: list[int]) -> Outlook:
    """What is expected after these arrivals."""
    return new_outlook(shapes, 2, np.array(arrived, dtype=np.int64), fitting_nodes(cluster, shapes),
                       np.random.default_rng(7), slots=1 << 10)  # fmt: skip


def placed(policy: int, cluster: Cluster, pod: PodRow, *, mix: Typical | None = None,
           arrived: list[PodRow] | None = None, lot: float = 0.0) -> tuple[int, int, float]:  # fmt: skip
    """Node, devices as bits, and the score of the node."""
    shapes = some_shapes([pod, *(arrived or [])])
    scores = new_scores(shapes, cluster)
    outlook = an_outlook(cluster, shapes, list(range(1, len(shapes.gpus))))
    node, devices = choose(policy, cluster, shapes, 0, scores, mix or a_mix((WHOLE_ONE, 1)), outlook, lot)
    return node, devices, float(scores.score[0, node])


# Fragments


MIX = a_mix(((4000, 0, 1, 600), 2), ((4000, 0, 2, 1000), 1), ((2000, 0, 0, 0), 1))


@pytest.mark.parametrize(
    ("cpu", "free", "expected"),
    [
        (8000, [500, 1000], 0.5 * 500 + 0.25 * 1500 + 0.25 * 1500),  # the first fits on one device: 500 is below it
        (8000, [1000, 1000], 0.5 * 0 + 0.25 * 0 + 0.25 * 2000),  # only the pod without devices leaves them all
        (3000, [1000, 1000], 2000),  # no processors for any pod that asks for a device
        (8000, [500, 500], 1000),
        (8000, [0, 0], 0),
    ],
)
def test_fragments_of_a_node_are_what_the_next_typical_pod_cannot_use(
    cpu: int, free: list[int], expected: float
) -> None:
    assert node_fragments(cpu, np.array(free), len(free), 0, MIX) == pytest.approx(expected)


def test_devices_that_a_typical_pod_may_not_use_are_fragments() -> None:
    mix = a_mix(((1000, 0, 1, 1000, 0b10), 1))
    cluster = a_cluster((8000, 8192, [1000], 0), (8000, 8192, [1000], 1))
    assert fragments(cluster, mix) == 1000


def test_the_typical_pods_are_the_most_frequent_that_make_up_the_part_asked_for() -> None:
    shapes = some_shapes([HALF, WHOLE_ONE, (9000, 1024, 1, 300)])
    typical = typical_pods(shapes, np.array([0] * 70 + [1] * 26 + [2] * 4), popular=0.95)
    assert typical.gpu_milli.tolist() == [500, 1000]
    assert typical.share.tolist() == pytest.approx([70 / 96, 26 / 96])


# Fitting


@pytest.mark.parametrize(
    ("pod", "is_fitting"),
    [
        ((8000, 8192, 1, 600), True),
        ((8001, 8192, 1, 600), False),
        ((8000, 8193, 1, 600), False),
        ((1000, 1024, 1, 601), False),  # 1,100 are free, but a fraction is not split over devices
        ((1000, 1024, 2, 1000), False),
        ((1000, 1024, 1, 500, 0b10), False),
        ((1000, 1024, 0, 0, 0b10), True),  # models matter to pods with devices only
    ],
)
def test_a_pod_fits_where_everything_it_asks_for_is_free(pod: PodRow, is_fitting: bool) -> None:
    assert fits(a_cluster((8000, 8192, [500, 600], 0)), 0, some_shapes([pod]), 0) is is_fitting


def test_the_tightest_devices_are_taken_and_of_equals_the_first() -> None:
    assert tightest(np.array([1000, 400, 400, 300]), 4, 350, 1) == 0b0010
    assert tightest(np.array([0, 1000, 1000, 1000]), 4, 1000, 2) == 0b0110


# The published policies


def test_best_fit_leaves_least_free() -> None:
    cluster = a_cluster((64_000, 9999, [1000, 1000], 0), (16_000, 9999, [500], 0))
    # 100 * (1 - 0.5 * 8/128 - 0.5 * 0/8) = 96.875 beside 100 * (1 - 0.5 * 56/128 - 0.5 * 1.5/8) = 68.75
    assert placed(BEST_FIT, cluster, (8000, 1, 1, 500)) == (1, 0b1, 96.0)


def test_dot_product_prefers_the_smaller_match_of_free_and_asked_for() -> None:
    cluster = a_cluster((128_000, 9999, [1000] * 8, 0), (64_000, 9999, [1000] * 4, 0))
    # matches 1 * 0.25 + 1 * 0.5 = 0.75 and 0.5 * 0.25 + 0.5 * 0.5 = 0.375; score 100 * (1 - match / 2)
    assert placed(DOT_PRODUCT, cluster, (32_000, 1, 4, 1000)) == (1, 0b1111, 81.0)


@pytest.mark.parametrize(
    ("kinds", "free", "score"),
    [
        (0b10, [0] + [1000] * 7, 75 + 3),  # holds pods of one device only; 25 * 1/8 = 3.1
        (0b11, [0] + [1000] * 7, 50 + 3),
        (0, [1000] * 8, 25),
        (0b100, [0, 0] + [1000] * 6, 6),
    ],
)
def test_clustering_keeps_pods_of_a_kind_together(kinds: int, free: list[int], score: float) -> None:
    cluster = a_cluster((64_000, 9999, free, 0))
    cluster.kinds[0] = kinds
    assert placed(CLUSTERING, cluster, (1000, 1, 1, 1000))[2] == score


@pytest.mark.parametrize(
    ("free", "devices", "score"),
    [
        ([400] + [1000] * 7, 0b1, 100 - 40 // 10),  # on a device in use
        ([0] + [1000] * 7, 0b10, 50 - 1),  # on an idle device of a node in use
        ([1000] * 8, 0b1, 33 - 8),  # on an idle node
    ],
)
def test_packing_prefers_what_is_in_use(free: list[int], devices: int, score: float) -> None:
    assert placed(PACKING, a_cluster((64_000, 9999, free, 0)), (1000, 1, 1, 300)) == (0, devices, score)


def test_fgd_takes_the_device_after_which_fragments_are_fewest() -> None:
    cluster = a_cluster((64_000, 9999, [600, 1000], 0))
    # only whole devices are typical: 600 fragments become 0 on the first device, 1,000 on the second
    assert placed(FGD, cluster, (1000, 1, 1, 600), mix=a_mix((WHOLE_ONE, 1))) == (0, 0b1, 64.0)  # 100 / (1 + e^-0.6)


def test_of_equal_nodes_the_first_is_taken() -> None:
    twice = a_cluster((8000, 9999, [1000], 0), (8000, 9999, [1000], 0))
    for policy in (DOT_PRODUCT, CLUSTERING, PACKING, BEST_FIT, FGD, OUTLOOK):
        assert placed(policy, twice, WHOLE_ONE)[0] == 0


def test_random_takes_any_that_fits_by_lot() -> None:
    cluster = a_cluster((8000, 9999, [1000], 0), (8000, 9999, [400], 0), (8000, 9999, [1000, 700], 0))
    assert [placed(RANDOM, cluster, HALF, lot=lot)[0] for lot in (0.0, 0.49, 0.5, 0.99)] == [0, 0, 2, 2]
    shapes = some_shapes([HALF])
    assert [draw_devices(cluster, 2, shapes, 0, lot) for lot in (0.0, 0.5)] == [0b01, 0b10]


def test_nothing_is_placed_where_nothing_fits() -> None:
    full = a_cluster((8000, 9999, [400], 0))
    for policy in (RANDOM, FGD, OUTLOOK):
        shapes = some_shapes([HALF])
        scores = new_scores(shapes, full)
        assert choose(policy, full, shapes, 0, scores, MIX, an_outlook(full, shapes, []), 0.5) == (NOWHERE, 0)


# Our own


def test_the_outlook_fills_a_gap_before_it_opens_another() -> None:
    cluster = a_cluster((8000, 9999, [1000], 0), (8000, 9999, [500], 0))
    assert placed(OUTLOOK, cluster, HALF, arrived=[WHOLE_ONE] * 4 + [HALF])[:2] == (1, 0b1)


def test_the_outlook_keeps_processors_beside_devices_that_need_them() -> None:
    cluster = a_cluster((8000, 9999, [1000], 0), (8000, 9999, [0], 0))
    assert placed(OUTLOOK, cluster, (8000, 1024, 0, 0), arrived=[(4000, 1024, 1, 1000)])[0] == 1


def test_the_outlook_keeps_memory_beside_devices_that_need_it() -> None:
    cluster = a_cluster((8000, 8192, [1000], 0), (8000, 8192, [0], 0))
    assert placed(OUTLOOK, cluster, (1000, 8192, 0, 0), arrived=[(1000, 4096, 1, 1000)])[0] == 1


def test_the_outlook_keeps_the_last_idle_node_for_those_that_need_all_of_it() -> None:
    cluster = a_cluster((64_000, 99_999, [1000] * 4, 0), (64_000, 99_999, [1000] * 3, 0))
    assert placed(OUTLOOK, cluster, WHOLE_ONE, arrived=[(4000, 1024, 4, 1000), *[WHOLE_ONE] * 3])[0] == 1


def test_the_outlook_keeps_a_model_for_those_that_need_it() -> None:
    cluster = a_cluster((9000, 99_999, [1000], 1), (9000, 99_999, [1000], 0))
    needs_it, anything = (1000, 1024, 1, 1000, 0b10), (1000, 1024, 1, 800)
    # a gap of 200 is certain on the second node, where only that pod comes; on the first it would be one more
    assert placed(OUTLOOK, cluster, anything, arrived=[needs_it, anything])[0] == 1


def test_a_loss_does_not_depend_on_the_order_of_devices_nor_on_being_remembered() -> None:
    cluster = a_cluster((8000, 9999, [1000, 300, 700], 0))
    shapes = some_shapes([HALF, WHOLE_ONE, (3000, 512, 1, 250)])
    outlook = an_outlook(cluster, shapes, [0, 1, 2])
    scratch = np.zeros(3, dtype=np.int64)
    first = node_loss(8000, 9999, np.array([1000, 300, 700]), 3, 0, outlook, scratch)
    assert 0 < first < 2000
    assert outlook.used[0] == 1
    assert node_loss(8000, 9999, np.array([300, 700, 1000]), 3, 0, outlook, scratch) == first
    assert outlook.used[0] == 1
