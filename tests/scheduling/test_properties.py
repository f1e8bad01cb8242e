"""What holds for every plan, whatever the pool and the queue."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.engines.contract import Isolation
from dujiang.scheduling.domain import (
    LEVELS,
    Ask,
    ClusterRow,
    Constraints,
    DeviceRow,
    Fleet,
    Holding,
    Level,
    NodeRow,
    Plan,
    Quota,
    Reason,
    Request,
    Snapshot,
    Start,
    TaskClass,
    Window,
    apply_change,
    explain,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.rules import Rules
from tests.scheduling.building import GIB, NOW, a_job, after

KINDS = [("nvidia", "A100", 80), ("nvidia", "L40S", 48), ("amd", "MI300X", 192)]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    clusters = [
        ClusterRow("c", draw(st.booleans()), price=draw(st.sampled_from([0, 0, 2.5])), images="podman"),
        ClusterRow("d", True, is_cloud=draw(st.integers(0, 4)) == 0),
    ]  # fmt: skip
    nodes = []
    for number in range(draw(st.integers(1, 5))):
        vendor, model, memory = draw(st.sampled_from(KINDS))
        isolation = draw(st.sampled_from(list(Isolation)))
        devices = tuple(
            DeviceRow(f"g{i}", i, vendor, model, memory * GIB, is_open=draw(st.integers(0, 9)) > 0, isolation=isolation)
            for i in range(draw(st.sampled_from([0, 1, 2, 4])))
        )
        nodes.append(
            NodeRow(
                draw(st.sampled_from("ccd")), f"n{number}", draw(st.sampled_from([4, 8, 16])) * 1000, 64 * GIB,
                100 * GIB, devices, is_open=draw(st.integers(0, 9)) > 0, labels={"rack": draw(st.sampled_from("ab"))},
                taints=draw(st.sampled_from([(), (), (), ("gpu-only",), ("team=x", "gpu-only")])),
                domains=draw(st.sampled_from([{}, {Level.RACK: "r1"}, {Level.RACK: "r2", Level.SWITCH: "s1"}])),
            )
        )  # fmt: skip
    return fleet_of_rows(clusters, nodes)


HOUR = timedelta(hours=1)
OTHERS = (Ask(2000, vendor="amd"), Ask(250, cpu_milli=2000))
places = st.builds(
    Constraints,
    cluster=st.sampled_from(["", "", "", "", "d"]),
    selector=st.sampled_from([(), (), (("rack", "a"),)]),
    tolerations=st.sampled_from([(), (), ("gpu-only",), ("team", "gpu-only"), ("*",)]),
    within=st.sampled_from([None, None, None, *Level]),
    is_within_required=st.booleans(),
    spread=st.sampled_from([None, None, None, Level.NODE, Level.RACK]),
    apart=st.sampled_from(["", "", "", "alone"]),
    isolation=st.sampled_from([None, None, *Isolation]),
    near=st.sampled_from([(), (), ("d",)]),
    image=st.sampled_from([False, False, False, True]),
)
windows = st.lists(
    st.builds(
        lambda number, cluster, nodes, begins, projects: Window(
            f"w{number}", cluster, nodes, NOW + begins, NOW + 2 * HOUR, projects
        ),
        st.integers(0, 9), st.sampled_from("cd"), st.sampled_from([(), ("n0",), ("n0", "n1")]),
        st.sampled_from([-HOUR, timedelta(seconds=300), HOUR]), st.sampled_from([(), ("p",)]),
    ),
    max_size=2, unique_by=lambda window: window.name,
).map(tuple)  # fmt: skip


@st.composite
def jobs(draw: st.DrawFn, prefix: str = "j") -> list[Request]:
    def job(number: int) -> Request:
        gpu = draw(st.sampled_from([0, 0, 0.125, 0.25, 0.333, 0.5, 0.999, 1, 1, 2, 4]))
        limit = draw(st.sampled_from([None, 60.0, 600.0]))
        task_class = draw(st.sampled_from(list(TaskClass)))
        return a_job(
            f"{prefix}{number}", gpu=gpu, cpu=draw(st.sampled_from([0, 1, 2, 8])), project=draw(st.sampled_from("pq")),
            memory_gib=draw(st.sampled_from([0, 1, 16, 60])), ranks=draw(st.sampled_from([1, 1, 1, 2, 3])),
            disk_gib=draw(st.sampled_from([0, 0, 40])), after_s=draw(st.integers(0, 3)), runs_at_most_s=limit,
            task_class=task_class, gpu_gib=draw(st.sampled_from([0, 0, 10, 60])) if gpu else 0,
            vendor=draw(st.sampled_from(["", "", "nvidia", "amd"])) if gpu else "",
            where=draw(places), alternatives=draw(st.sampled_from([(), (), (Ask(1000, cpu_milli=1000),), OTHERS])),
            ranks_min=draw(st.sampled_from([None, None, 1])), deadline=draw(st.sampled_from([None, NOW + HOUR])),
            avoid=draw(st.sampled_from([(), (), (("c", "n0"),)])),
            not_before=draw(st.sampled_from([None, None, NOW, NOW + timedelta(seconds=9)])),
        )  # fmt: skip

    return [job(number) for number in range(draw(st.integers(0, 12)))]


amounts = st.none() | st.integers(0, 8).map(lambda n: n * 1000)
memories = st.none() | st.integers(0, 100).map(lambda n: n * GIB)
quotas = st.dictionaries(st.sampled_from("pq"), st.builds(Quota, amounts, amounts, memories))


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    """A pool in which an earlier round has started jobs, some with a time limit, and others wait."""
    fleet = draw(fleets())
    first = snapshot_of_rows(fleet, requests=draw(jobs("old")))
    held = after(first, plan(first, NOW, changes=0))
    now = snapshot_of_rows(fleet, holdings=held, requests=draw(jobs()), quotas=draw(quotas))
    rules = Rules(reservations=draw(st.sampled_from([1, 1, 1, 0, 3])))
    return replace(now, windows=draw(st.just(()) | windows), rules=rules)


def check_capacity(fleet: Fleet, holdings: list[Holding]) -> None:
    """No node and no device gives more than it has; shares are whole shares."""
    nodes: defaultdict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    devices: defaultdict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(2, dtype=np.int64))
    for holding in holdings:
        for rank in holding.ranks:
            nodes[holding.cluster, rank.node] += (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes)
            for share in rank.devices:
                devices[holding.cluster, rank.node, share.name] += (share.gpu_milli, share.memory_bytes)
    for place, held in nodes.items():
        assert (held <= fleet.node_limit[:, fleet.node_at[place]]).all(), place
    for (cluster, node, name), given_away in devices.items():
        at = fleet.device_at[fleet.node_at[cluster, node], name]
        assert given_away[0] <= 1000, (node, name)
        assert given_away[1] <= fleet.device_memory[at], (node, name)


def check_starts(snapshot: Snapshot, done: Plan) -> None:
    """Each start is what was asked for, whole, on open places of one kind and cluster."""
    fleet, waiting = snapshot.fleet, {request.job_id: request for request in snapshot.requests}
    for start in done.starts:
        request, cluster = waiting[start.job_id], {cluster.name: cluster for cluster in fleet.clusters}[start.cluster]
        assert [rank.rank for rank in start.ranks] == list(range(len(start.ranks)))
        assert (request.ranks_min or request.ranks) <= len(start.ranks) <= request.ranks
        nodes = [rank.node for rank in start.ranks]
        assert cluster.stacks_ranks or len(set(nodes)) == len(nodes)
        assert request.where.cluster in ("", start.cluster)
        assert request.where.cluster or not cluster.is_cloud
        assert cluster.images or not request.where.image
        check_topology(fleet, request, [fleet.node_at[start.cluster, node] for node in nodes])
        check_windows(snapshot, request, start)
        asked = ask_of(request, start)
        flavors = set()
        for rank in start.ranks:
            node = fleet.node_at[start.cluster, rank.node]
            assert fleet.node_open[node]
            assert all(fleet.node_labels[node].get(key) == value for key, value in request.where.selector)
            tolerated = request.where.tolerations
            assert "*" in tolerated or all(taint.split("=")[0] in tolerated for taint in fleet.node_taints[node])
            assert (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes) == (
                asked.cpu_milli, asked.memory_bytes, asked.disk_bytes)  # fmt: skip
            assert sum(share.gpu_milli for share in rank.devices) == asked.gpu_milli
            assert len({share.name for share in rank.devices}) == len(rank.devices) == -(-asked.gpu_milli // 1000)
            for share in rank.devices:
                at = fleet.device_at[node, share.name]
                assert fleet.device_open[at]
                assert share.index == fleet.device_index[at]
                assert share.memory_bytes >= asked.gpu_memory_bytes
                if asked.is_fraction and request.where.isolation:
                    least = KEPT.index(request.where.isolation)
                    assert KEPT.index(fleet.flavors[int(fleet.device_flavor[at])].isolation) >= least
                flavors.add(int(fleet.device_flavor[at]))
        assert len(flavors) <= 1
        assert request.not_before is None or request.not_before <= NOW


KEPT = [Isolation.COUNTED_ONLY, Isolation.MEMORY_ONLY, Isolation.ENFORCED]


def ask_of(request: Request, start: Start) -> Ask:
    """Which of its alternatives a job was given."""
    rank = start.ranks[0]
    for ask in (request.ask, *request.alternatives):
        host = (ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)
        if (
            host == (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes)
            and ask.gpu_milli == sum(share.gpu_milli for share in rank.devices)
            and all(share.memory_bytes >= ask.gpu_memory_bytes for share in rank.devices)
        ):
            return ask
    raise AssertionError(f"{start} is nothing that was asked for")


def check_topology(fleet: Fleet, request: Request, nodes: list[int]) -> None:
    place = request.where

    def domains(level: Level) -> list[int]:
        return nodes if level is Level.NODE else fleet.node_domains[LEVELS.index(level), nodes].tolist()

    if place.within and place.is_within_required:
        assert len(set(domains(place.within))) == 1
    if place.spread:
        assert len(set(domains(place.spread))) == len(nodes)


def check_windows(snapshot: Snapshot, request: Request, start: Start) -> None:
    for window in snapshot.windows:
        if window.cluster != start.cluster or request.project_id in window.projects or window.ends_at <= NOW:
            continue
        runs_s = request.runs_at_most_s
        if runs_s is None or NOW + timedelta(seconds=runs_s) > window.begins_at:
            assert window.nodes
            assert not {rank.node for rank in start.ranks} & set(window.nodes)


def check_apart(snapshot: Snapshot, holdings: list[Holding], done: Plan) -> None:
    """No two jobs of a project that stay apart by the same word share a node, as far as the plan decided it."""
    words = {r.job_id: (r.project_id, r.where.apart) for r in snapshot.requests if r.where.apart}
    words |= {h.job_id: (h.project_id, h.apart) for h in snapshot.holdings if h.apart}
    for start in done.starts:
        mine = {rank.node for rank in start.ranks}
        for other in holdings:
            is_alike = start.job_id in words and words.get(other.job_id) == words[start.job_id]
            if is_alike and other.job_id != start.job_id and other.cluster == start.cluster:
                assert not mine & {rank.node for rank in other.ranks}


def check_quotas(snapshot: Snapshot, done: Plan) -> None:
    """What was started keeps each project within its quota in everything the started jobs ask for."""
    waiting = {request.job_id: request for request in snapshot.requests}
    used = dict(snapshot.usage())
    for start in done.starts:
        request = waiting[start.job_id]
        ask, many = ask_of(request, start), len(start.ranks)
        held = used.get(request.project_id, (0, 0, 0))
        more = many * ask.gpu_milli, many * ask.cpu_milli, many * ask.memory_bytes
        used[request.project_id] = held[0] + more[0], held[1] + more[1], held[2] + more[2]
        limits = snapshot.quotas.get(request.project_id, Quota()).limits()
        for limit, now_held, wanted in zip(limits, used[request.project_id], more, strict=True):
            assert limit is None or not wanted or now_held <= limit


@given(worlds())
@settings(max_examples=300)
def test_a_plan_holds(snapshot: Snapshot) -> None:
    done = plan(snapshot, NOW, changes=0)
    check_capacity(snapshot.fleet, after(snapshot, done))
    check_starts(snapshot, done)
    check_quotas(snapshot, done)
    check_apart(snapshot, after(snapshot, done), done)
    told = sorted([start.job_id for start in done.starts] + [wait.job_id for wait in done.waits])
    assert told == sorted(request.job_id for request in snapshot.requests)
    assert [wait.position for wait in done.waits] == list(range(1, len(done.waits) + 1))
    for wait in done.waits:
        assert wait.sentence


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_the_order_of_the_input_does_not_matter(snapshot: Snapshot, chance: random.Random) -> None:
    requests, holdings = list(snapshot.requests), list(snapshot.holdings)
    chance.shuffle(requests)
    chance.shuffle(holdings)
    shuffled = replace(snapshot, requests=tuple(requests), holdings=tuple(holdings))
    assert plan(shuffled, NOW) == plan(snapshot, NOW) == plan(snapshot, NOW)


@given(worlds())
@settings(max_examples=200)
def test_a_world_in_which_the_plan_is_carried_out_is_settled(snapshot: Snapshot) -> None:
    done = plan(snapshot, NOW, changes=0)
    waiting = {wait.job_id for wait in done.waits}
    left = [request for request in snapshot.requests if request.job_id in waiting]
    held = after(snapshot, done)
    then = snapshot_of_rows(snapshot.fleet, holdings=held, requests=left, quotas=snapshot.quotas)
    again = plan(replace(then, windows=snapshot.windows, rules=snapshot.rules), NOW, changes=0)
    assert again.starts == ()


@given(worlds())
@settings(max_examples=300)
def test_what_is_said_to_start_a_job_starts_it(snapshot: Snapshot) -> None:
    """Of jobs alike a plan that starts something tries it for the first alone; `explain` does for each."""
    done = plan(snapshot, NOW, changes=100)
    shapes, told = {request.job_id: request.shape for request in snapshot.requests}, set()
    for wait in done.waits:
        change, case = wait.change, (shapes[wait.job_id], wait.change)
        if done.starts and case in told:
            explained = explain(snapshot, NOW, wait.job_id)
            change = explained and explained.change
        told.add(case)
        if change is None:
            continue
        changed, at = apply_change(snapshot, NOW, wait.job_id, change)
        if wait.reason is Reason.BACKOFF:
            assert wait.job_id not in {w.job_id for w in plan(changed, at).waits if w.reason is Reason.BACKOFF}
        else:
            started = {start.job_id for start in plan(changed, at, changes=0).starts}
            assert wait.job_id in started, (wait, change)


@given(worlds())
@settings(max_examples=100)
def test_one_job_is_told_what_all_are_told(snapshot: Snapshot) -> None:
    told = {wait.job_id: wait for wait in plan(snapshot, NOW, changes=0).waits}
    for request in snapshot.requests:
        alone = explain(snapshot, NOW, request.job_id)
        expected = told.get(request.job_id)
        assert (alone and replace(alone, change=None)) == (expected and replace(expected, change=None))


@given(worlds())
@settings(max_examples=200)
def test_the_reason_is_true(snapshot: Snapshot) -> None:
    """Alone in the queue, and with everything open or ended, a job starts exactly when its reason says so."""
    done = plan(snapshot, NOW, changes=0)
    requests = {request.job_id: request for request in snapshot.requests}
    for wait in done.waits:
        request = replace(requests[wait.job_id], not_before=None)
        alone = plan(replace(snapshot, requests=(request,), quotas={}), NOW, changes=0).starts
        nothing = replace(snapshot_of_rows(snapshot.fleet, requests=[request]), windows=snapshot.windows)
        empty = plan(nothing, NOW, changes=0).starts
        unbarred = plan(replace(nothing, windows=()), NOW, changes=0).starts
        match wait.reason:
            case Reason.PRIORITY:
                assert alone, wait
            case Reason.RESOURCES:
                assert not alone or request.alternatives, wait  # what is told is told of its first choice
                assert empty, wait
            case Reason.RESERVED:
                assert alone, wait
                assert wait.blocking_job in requests, wait
                assert wait.blocking_job != wait.job_id, wait
            case Reason.NO_MATCHING_DEVICE | Reason.TOO_LARGE | Reason.NODE_UNAVAILABLE:
                assert not unbarred, wait
            case Reason.TAINTED:
                assert not unbarred, wait
            case Reason.WINDOW:
                assert not empty, wait
                assert unbarred, wait
            case Reason.QUOTA_EXCEEDED:
                assert wait.shortage.needed > wait.shortage.available


@pytest.mark.parametrize("limits", [True, False], ids=["time limits", "no time limits"])
@pytest.mark.parametrize("seed", range(6))
def test_nobody_starves(seed: int, limits: bool) -> None:
    """A job for the whole of a busy node starts within one longest run, though smaller ones never stop coming."""
    rng = np.random.default_rng(seed)
    nodes = [
        NodeRow("c", f"n{i}", 32_000, 64 * GIB, 0, tuple(DeviceRow(f"g{k}", k, "nvidia", "A", GIB) for k in range(4)))
        for i in range(2)
    ]
    fleet, longest_s = fleet_of_rows([ClusterRow("c")], nodes), 300
    waiting: list[Request] = []
    running: list[tuple[float, Holding]] = []
    large_at, started_at = 400, None
    for second in range(0, 1600, 10):
        now = NOW + timedelta(seconds=second)
        running = [(ends, held) for ends, held in running if ends > second]
        for nth in range(6):
            runs = float(rng.integers(10, longest_s))
            more = {"runs_at_most_s": runs} if limits else {}
            gpu = float(rng.choice([0.25, 0.5, 1, 2]))
            waiting.append(a_job(f"s{second:04}-{nth}-{runs}", gpu=gpu, after_s=second, **more))
        if second == large_at:
            waiting.append(a_job("large", gpu=4, ranks=2, after_s=second))
        held = [each for _, each in running]
        done = plan(snapshot_of_rows(fleet, holdings=held, requests=waiting), now, changes=0)
        started = {start.job_id for start in done.starts}
        for holding in after(snapshot_of_rows(fleet, requests=waiting), done, now):
            runs = 1e9 if holding.job_id == "large" else float(holding.job_id.rsplit("-", 1)[1])
            running.append((second + runs, holding))
        check_capacity(fleet, [each for _, each in running])
        if "large" in started:
            started_at = second
            break
        # Only what stood before it, and those that were running, may hold it up: keep the queue before it short.
        waiting = [job for job in waiting if job.job_id not in started]
        if second < large_at:
            waiting = []
    assert started_at is not None
    assert started_at - large_at <= longest_s + 10
