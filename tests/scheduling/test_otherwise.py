"""What else would start a job: each answer is tried, and is what a person would have found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from dujiang.scheduling.domain import (
    ClusterRow,
    Level,
    Quota,
    Request,
    Snapshot,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.otherwise import Otherwise, Way, otherwise
from dujiang.scheduling.domain.queues import Limits, Queue, QueueTree, QuotaFlavor, QuotaLine
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes
from tests.scheduling.test_properties import worlds


@given(worlds())
@settings(max_examples=100)
def test_asked_for_otherwise_it_starts(snapshot: Snapshot) -> None:
    started = {start.job_id for start in plan(snapshot, NOW, telling=False).starts}
    for request in snapshot.requests:
        found = otherwise(snapshot, NOW, request.job_id, projects=[("p", "p"), ("q", "q")])
        assert not found or request.job_id not in started
        for one in found:
            done = plan(one.apply(snapshot), NOW, telling=False)
            clusters = {start.job_id: start.cluster for start in done.starts}
            assert clusters.get(request.job_id) == one.cluster, one.sentence


def a_world(*requests: Request, **more: object) -> Snapshot:
    """Two clusters: `c` with one free A100 on each of three nodes, `d` with a free node of four L40S."""
    nodes = [
        *some_nodes(3, 4),
        *some_nodes(1, 4, cluster="d", model="L40S", gpu_gib=48, prefix="m"),
    ]
    nodes = [replace(node, domains={Level.RACK: f"r{node.name}", Level.SITE: "s"}) for node in nodes]
    held = [holding(f"h{n}", f"n{n}", devices=(0, 1, 2), project="q") for n in range(3)]
    fleet = fleet_of_rows([ClusterRow("c"), ClusterRow("d")], nodes)
    return snapshot_of_rows(fleet, holdings=held, requests=list(requests), **more)  # type: ignore[arg-type]


def said(snapshot: Snapshot, **more: object) -> dict[Way, str]:
    return {one.way: one.sentence for one in otherwise(snapshot, NOW, "a", **more)}  # type: ignore[arg-type]


CASES: list[tuple[str, Request, dict[Way, str]]] = [
    ("it starts", a_job("a", gpu=1), {}),
    ("ranks", a_job("a", gpu=1, ranks=5, model="A100"), {
        Way.FEWER_RANKS: "It starts now with 3 nodes instead of 5, on c.",
        Way.FEWER_DEVICES: "It starts now with a share of 0.5 of a device instead of 1, on c.",
    }),
    ("ranks or model", a_job("a", gpu=1, ranks=4, model="A100"), {
        Way.FEWER_RANKS: "It starts now with 3 nodes instead of 4, on c.",
        Way.FEWER_DEVICES: "It starts now with a share of 0.5 of a device instead of 1, on c.",
        Way.OTHER_MODEL: "It starts now with nvidia L40S instead of A100, on d.",
    }),
    ("devices or model", a_job("a", gpu=4, model="A100"), {
        Way.FEWER_DEVICES: "It starts now with 1 device a node instead of 4, on c.",
        Way.OTHER_MODEL: "It starts now with nvidia L40S instead of A100, on d.",
    }),
    ("one rack", a_job("a", gpu=1, ranks=3, model="A100", within=Level.RACK), {
        Way.FEWER_RANKS: "It starts now with 1 node instead of 3, on c.",
        Way.FEWER_DEVICES: "It starts now with a share of 0.25 of a device instead of 1, on c.",
        Way.OTHER_MODEL: "It starts now with nvidia L40S instead of A100, on d.",
        Way.LOOSER_PLACE: "It starts now with its nodes within one site instead of within one rack, on c.",
    }),
    ("one cluster", a_job("a", gpu=2, cluster="c"), {
        Way.FEWER_DEVICES: "It starts now with 1 device a node instead of 2, on c.",
        Way.LOOSER_PLACE: "It starts now with any cluster instead of c, on d.",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_told(request_: Request, told: dict[Way, str]) -> None:
    assert said(a_world(request_)) == told


def test_a_share_where_no_device_is_whole() -> None:
    fleet = a_fleet(1, 1)
    snapshot = snapshot_of_rows(
        fleet, holdings=[holding("h", "n0", devices=(0,), milli=400, gib=32)], requests=[a_job("a", gpu=1)]
    )
    assert said(snapshot) == {Way.FEWER_DEVICES: "It starts now with a share of 0.5 of a device instead of 1, on c."}


def test_another_project_of_the_caller_that_has_quota_left() -> None:
    job = a_job("a", gpu=1, project="p")
    snapshot = a_world(job, quotas={"p": Quota(0), "full": Quota(0)})
    assert said(snapshot) == {}
    projects = [("p", "mine"), ("full", "none-left"), ("q", "vision")]
    assert said(snapshot, projects=projects) == {Way.OTHER_QUEUE: "It starts now with the project vision, on d."}


def test_another_queue_that_the_project_may_name() -> None:
    def tree(*, guests: tuple[str, ...]) -> QueueTree:
        lines = [
            (QuotaLine("all", Limits(gpu_milli=milli), borrowing_limit=Limits(gpu_milli=0)),) for milli in (0, 20_000)
        ]
        queues = [
            Queue("top"), Queue("full", "top", lines[0], projects=("p",)),
            Queue("wide", "top", lines[1], projects=("q",), guests=guests),
        ]  # fmt: skip
        return QueueTree(queues, [QuotaFlavor("all")])

    job = a_job("a", gpu=1)
    assert said(replace(a_world(job), queues=tree(guests=()))) == {}
    told = said(replace(a_world(job), queues=tree(guests=("p",))))
    assert told == {Way.OTHER_QUEUE: "It starts now with the queue wide, on d."}


def test_no_more_plans_are_made_than_allowed() -> None:
    snapshot = a_world(a_job("a", gpu=1, ranks=4, model="A100"))
    assert otherwise(snapshot, NOW, "a", most_tries=1) == []  # the one try is the job as it is
    assert [one.way for one in otherwise(snapshot, NOW, "a", most_tries=2)] == [Way.FEWER_RANKS]
    assert otherwise(snapshot, NOW, "nobody") == []


def test_a_retry_that_waits_for_its_time_is_left_alone() -> None:
    job = a_job("a", gpu=4, not_before=NOW.replace(hour=1))
    assert otherwise(a_world(job), NOW, "a") == []


def test_it_is_applied_to_that_job_alone() -> None:
    snapshot = a_world(a_job("a", gpu=4, model="A100"), a_job("b", gpu=4, model="A100"))
    changed: Otherwise = otherwise(snapshot, NOW, "b")[0]
    assert [request.job_id for request in changed.apply(snapshot).requests] == ["a", "b"]
    assert changed.apply(snapshot).requests[0] == snapshot.requests[0]
