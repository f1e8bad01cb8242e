"""The defragmentation planner: small pools worked out by hand, and what must hold whatever runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.scheduling.domain.defragment import Move, propose_moves
from dujiang.scheduling.domain.fleet import ClusterRow, DeviceRow, Fleet, NodeRow, fleet_of_rows
from dujiang.scheduling.domain.fragments import Typical, counted
from dujiang.scheduling.domain.request import WHOLE, Request
from dujiang.scheduling.domain.snapshot import Holding, Snapshot, Window, snapshot_of_rows
from tests.scheduling.building import GIB, NOW, a_fleet, a_job, holding

FREE = 0.0


def measured(snapshot: Snapshot, typical: Typical) -> float:
    """The expected fragments of a pool, node by node."""
    fleet, total = snapshot.fleet, 0.0
    milli = np.where(fleet.device_open, snapshot.device_milli, 0)
    for flavor in fleet.flavors:
        at = np.arange(flavor.devices.start, flavor.devices.stop)
        for node in np.unique(fleet.device_node[at]).tolist():
            here = milli[at[fleet.device_node[at] == node]]
            cpu, memory = snapshot.node_free[:2, node]
            total += float(typical.of(flavor).lost(here[None], np.array([cpu]), np.array([memory]))[0])
    return total


def whole(snapshot: Snapshot) -> int:
    """How many devices are wholly free."""
    fleet = snapshot.fleet
    is_free = (snapshot.device_milli >= WHOLE) & (snapshot.device_memory >= fleet.device_memory)
    return int((is_free & fleet.device_open).sum())


def with_rank(held: Holding, rank: int, place: RankPlacement) -> Holding:
    """The holding with one rank elsewhere."""
    return replace(held, ranks=tuple(place if each.rank == rank else each for each in held.ranks))


def check(snapshot: Snapshot, moves: tuple[Move, ...], movable: dict[str, float]) -> Snapshot:
    """Make the moves one after the other, checking each; return the pool after them."""
    typical = Typical(counted(snapshot.requests, snapshot.holdings))
    held = {each.job_id: each for each in snapshot.holdings}
    now, seen = snapshot, set()
    for move in moves:
        assert move.job_id in movable
        assert move.cost_device_s == movable[move.job_id]
        assert (move.job_id, move.rank) not in seen
        seen.add((move.job_id, move.rank))
        job = held[move.job_id]
        assert move.source in job.ranks, "it leaves from where it is"
        assert move.source.node != move.target.node
        assert amounts(move.source) == amounts(move.target)
        copy = Holding("copy of it", job.project_id, job.cluster, (move.target,), NOW)
        both = snapshot_of_rows(now.fleet, holdings=[*held.values(), copy])
        assert (both.node_free >= 0).all(), "the new place is free before the old one is given back"
        assert (both.device_milli >= 0).all()
        assert (both.device_memory >= 0).all()
        node = now.fleet.node_at[job.cluster, move.target.node]
        assert now.fleet.node_open[node]
        assert all(now.fleet.device_open[now.fleet.device_at[node, share.name]] for share in move.target.devices)
        held[move.job_id] = with_rank(job, move.rank, move.target)
        then = snapshot_of_rows(now.fleet, holdings=list(held.values()))
        gain = measured(now, typical) - measured(then, typical)
        assert gain > 0
        assert move.stranded_milli == pytest.approx(gain)
        assert move.whole_devices == whole(then) - whole(now)
        now = then
    return now


def amounts(rank: RankPlacement) -> tuple[object, ...]:
    """What a rank holds, wherever."""
    shares = sorted((share.gpu_milli, share.memory_bytes) for share in rank.devices)
    return rank.rank, rank.cpu_milli, rank.memory_bytes, rank.disk_bytes, shares


def proposed(fleet: Fleet, held: list[Holding], waiting: list[Request], movable: dict[str, float], most: int = 9,
             **more: object) -> tuple[Move, ...]:  # fmt: skip
    """What is proposed there, checked."""
    snapshot = replace(snapshot_of_rows(fleet, holdings=held, requests=waiting), **more)  # type: ignore[arg-type]
    moves = propose_moves(snapshot, movable, most=most)
    check(snapshot, moves, movable)
    return moves


# By hand


def test_two_halves_on_two_devices_become_one_and_free_a_whole_device() -> None:
    held = [holding("a", "n0", devices=(0,), milli=500), holding("b", "n1", devices=(0,), milli=500)]
    moves = proposed(a_fleet(2, 1), held, [a_job(gpu=1)] * 3, {"a": FREE, "b": 50.0})
    assert [(move.job_id, move.source.node, move.target.node, move.whole_devices) for move in moves] == [
        ("a", "n0", "n1", 1)
    ]
    assert moves[0].target.devices == (DeviceShare("g0", 0, 500, 40 * GIB),)


def test_work_without_devices_leaves_processors_to_devices() -> None:
    held = [holding("c", "n0", cpu=30)]
    moves = proposed(a_fleet(1, 2, cpu_nodes=1), held, [a_job(gpu=1, cpu=8)] * 3, {"c": 9.0})
    assert [(move.job_id, move.target.node, move.whole_devices) for move in moves] == [("c", "x0", 0)]
    assert moves[0].stranded_milli == pytest.approx(2000)


def test_a_pool_in_which_nothing_is_lost_stays_as_it_is() -> None:
    full = [holding("a", "n0", devices=(0, 1), cpu=1), holding("b", "n1", devices=(0,), milli=500),
            holding("c", "n1", devices=(0,), milli=500)]  # fmt: skip
    movable = dict.fromkeys("abc", FREE)
    assert proposed(a_fleet(2, 2), full, [a_job(gpu=1, cpu=1)], movable) == ()
    assert proposed(a_fleet(2, 2), [], [a_job(gpu=1)], movable) == ()
    assert proposed(a_fleet(2, 2), full, [], {}) == ()
    assert propose_moves(snapshot_of_rows(a_fleet(2, 2), holdings=full), movable, most=0) == ()


def test_the_best_value_for_the_cost_comes_first_and_what_costs_nothing_before_it() -> None:
    fleet = a_fleet(6, 1)
    held = [holding(job, f"n{at}", devices=(0,), milli=500) for at, job in enumerate("abcdef")]
    costs = {"d": 20.0, "e": FREE, "f": 10.0}
    moves = proposed(fleet, held, [a_job(gpu=1)] * 9, costs)
    assert [move.job_id for move in moves] == ["e", "f", "d"]
    assert proposed(fleet, held, [a_job(gpu=1)] * 9, costs, most=2) == moves[:2]


def test_nothing_goes_where_it_may_not() -> None:
    halves = [holding("a", "n0", devices=(0,), milli=500), holding("b", "n1", devices=(0,), milli=500)]
    wanted, movable = [a_job(gpu=1)] * 3, {"a": FREE}
    assert len(proposed(a_fleet(2, 1), halves, wanted, movable)) == 1
    assert proposed(a_fleet(2, 1, closed=("n1",)), halves, wanted, movable) == ()
    assert proposed(a_fleet(2, 1), [replace(halves[0], is_stopping=True), halves[1]], wanted, movable) == ()
    apart = [replace(each, apart="x") for each in halves]
    assert proposed(a_fleet(2, 1), apart, wanted, movable) == ()
    assert len(proposed(a_fleet(2, 1), [apart[0], replace(apart[1], project_id="q")], wanted, movable)) == 1
    window = Window("w", "c", ("n1",), NOW + timedelta(hours=1), NOW + timedelta(hours=2))
    assert proposed(a_fleet(2, 1), halves, wanted, movable, windows=(window,)) == ()
    assert len(proposed(a_fleet(2, 1), halves, wanted, movable, windows=(replace(window, projects=("p",)),))) == 1
    early = [replace(halves[0], ends_at=NOW + timedelta(minutes=30)), halves[1]]
    assert len(proposed(a_fleet(2, 1), early, wanted, movable, windows=(window,))) == 1


@pytest.mark.parametrize(
    ("cluster", "model", "taints"), [("d", "A100", ()), ("c", "H100", ()), ("c", "A100", ("only=some:NoSchedule",))]
)
def test_nothing_leaves_its_cluster_or_flavor_nor_goes_to_a_taint(
    cluster: str, model: str, taints: tuple[str, ...]
) -> None:
    def node(name: str, where: str, kind: str, taints: tuple[str, ...]) -> NodeRow:
        device = DeviceRow("g0", 0, "nvidia", kind, 80 * GIB)
        return NodeRow(where, name, 9000, 9 * GIB, 0, (device,), taints=taints)

    fleet = fleet_of_rows(
        [ClusterRow("c"), ClusterRow("d")], [node("n0", "c", "A100", ()), node("n1", cluster, model, taints)]
    )
    held = [holding("a", "n0", devices=(0,), milli=500),
            holding("b", "n1", devices=(0,), milli=500, cluster=cluster)]  # fmt: skip
    assert proposed(fleet, held, [a_job(gpu=1)] * 3, {"a": FREE}) == ()


def test_ranks_of_one_job_stay_apart_where_they_do_not_stack() -> None:
    for stacks, count in ((True, 1), (False, 0)):
        fleet = a_fleet(2, 1, stacks=stacks)
        halves = [holding("a", f"n{at}", devices=(0,), milli=500).ranks[0] for at in range(2)]
        job = Holding("a", "p", "c", (halves[0], replace(halves[1], rank=1)), NOW)
        assert len(proposed(fleet, [job], [a_job(gpu=1)] * 3, {"a": 5.0})) == count


# Whatever runs


@st.composite
def pools(draw: st.DrawFn) -> tuple[Snapshot, dict[str, float]]:
    """A pool in which work stands anywhere, work that waits, and what may move."""
    rows = [
        NodeRow(
            cluster, f"{cluster}{at}", draw(st.integers(0, 12)) * 1000, draw(st.integers(0, 12)) * GIB, 9 * GIB,
            tuple(
                DeviceRow(f"g{i}", i, "nvidia", draw(st.sampled_from("AB")), 16 * GIB, draw(st.integers(0, 9)) > 0)
                for i in range(draw(st.integers(0, 3)))
            ),
            is_open=draw(st.integers(0, 9)) > 0,
        ) for cluster in ("c", "d") for at in range(draw(st.integers(1, 4)))
    ]  # fmt: skip
    fleet = fleet_of_rows([ClusterRow("c", draw(st.booleans())), ClusterRow("d")], rows)
    held: list[Holding] = []
    for number in range(draw(st.integers(0, 12))):
        row = draw(st.sampled_from(rows))
        milli = draw(st.sampled_from((0, 250, 500, 600, 1000)))
        count = draw(st.integers(1, 2)) if milli == WHOLE else 1
        devices = draw(st.permutations(row.devices))[:count] if milli else []
        if len({device.model for device in devices}) > 1 or (milli and len(devices) < count):
            continue
        shares = tuple(
            DeviceShare(each.name, each.index, milli, milli * each.memory_bytes // WHOLE) for each in devices
        )
        rank = RankPlacement(0, row.name, draw(st.integers(0, 5)) * 1000, draw(st.integers(0, 5)) * GIB, 0, shares)
        job = Holding(f"j{number}", "p", row.cluster, (rank,), NOW, apart=draw(st.sampled_from(("", "", "x"))))
        then = snapshot_of_rows(fleet, holdings=[*held, job])
        if min(then.node_free.min(), then.device_milli.min(initial=0), then.device_memory.min(initial=0)) >= 0:
            held.append(job)
    waiting = [
        a_job(f"w{at}", gpu=draw(st.sampled_from((0.25, 0.5, 1, 2))), cpu=draw(st.integers(0, 6)),
              model=draw(st.sampled_from(("", "A"))))
        for at in range(draw(st.integers(0, 4)))
    ]  # fmt: skip
    movable = {each.job_id: draw(st.sampled_from((0.0, 1.0, 60.0, 3600.0))) for each in held if draw(st.integers(0, 3))}
    return snapshot_of_rows(fleet, holdings=held, requests=waiting), movable


@settings(max_examples=300, deadline=None)
@given(pools(), st.integers(0, 6), st.randoms(use_true_random=False))
def test_moves_are_legal_one_by_one_never_worse_bounded_and_not_a_matter_of_order(
    pool: tuple[Snapshot, dict[str, float]], most: int, chance: Random
) -> None:
    snapshot, movable = pool
    moves = propose_moves(snapshot, movable, most=most)
    assert len(moves) <= most
    check(snapshot, moves, movable)
    assert propose_moves(snapshot, movable, most=most + 3)[:most] == moves
    held, waiting, costs = list(snapshot.holdings), list(snapshot.requests), list(movable.items())
    for each in (held, waiting, costs):
        chance.shuffle(each)
    again = replace(snapshot, holdings=tuple(held), requests=tuple(waiting))
    assert propose_moves(again, dict(costs), most=most) == moves


@settings(max_examples=50, deadline=None)
@given(pools())
def test_a_full_pool_is_settled(pool: tuple[Snapshot, dict[str, float]]) -> None:
    snapshot, movable = pool
    full = replace(snapshot, device_milli=np.zeros_like(snapshot.device_milli))
    assert propose_moves(full, movable, most=9) == ()
