"""What Kueue is told of Pods, and what its Workloads tell: without a cluster. The real one is in test_kueue.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dujiang.engines.contract import EngineRefused, RankPlacement
from dujiang.engines.kubernetes import kueue, pods
from dujiang.engines.kubernetes.sharing import DeviceRequest
from tests.kubernetes.test_pods import a_launch, a_node, a_plan, a_record

ROLE, EXPRESSIONS = "kueue.x-k8s.io/role-hash", "matchExpressions"


def a_workload(*conditions: tuple[str, str, str, str], owner: str = "Pod", **more: Any) -> dict[str, Any]:
    told = [
        {"type": kind, "status": status, "reason": reason, "message": message,
         "lastTransitionTime": "2026-01-31T12:00:00Z"}
        for kind, status, reason, message in conditions
    ]  # fmt: skip
    meta = {"name": "w", "namespace": "x", "ownerReferences": [{"kind": owner, "uid": "u0"}]}
    status = {"conditions": told, "admissionChecks": more.pop("checks", [])}
    return {"metadata": meta, "spec": {"queueName": "q", **more}, "status": status}


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (a_workload(), "not looked at yet"),
        (a_workload(("QuotaReserved", "False", "Pending", "no quota for cpu")), "Pending: no quota for cpu"),
        (
            a_workload(("QuotaReserved", "False", "Inadmissible", "LocalQueue q doesn't exist")),
            "Inadmissible: LocalQueue q doesn't exist; it starts once whoever runs the cluster has made that right",
        ),
        (
            a_workload(
                ("QuotaReserved", "True", "QuotaReserved", ""),
                checks=[{"name": "budget", "state": "Pending", "message": "asks"}, {"name": "b", "state": "Ready"}],
            ),
            "it has its quota and is not admitted yet (budget Pending asks)",
        ),
        (
            a_workload(("QuotaReserved", "False", "Pending", ""), active=False),
            "its Workload is set to inactive; it starts once whoever runs the cluster sets it to active",
        ),
    ],
)
def test_why_a_workload_waits(workload: dict[str, Any], says: str) -> None:
    found = kueue.reduce_workload(workload)
    assert found == kueue.Workload(("u0",), None, f"Kueue, queue q of namespace x: {says}")


def test_since_when_one_may_run() -> None:
    found = kueue.reduce_workload(a_workload(("QuotaReserved", "True", "", ""), ("Admitted", "True", "Admitted", "")))
    assert found == kueue.Workload(("u0",), 1_769_860_800_000_000, "")
    assert kueue.reduce_workload(a_workload(owner="Job")) is None


def test_a_gang_on_few_nodes_is_told_apart_by_kueue_itself() -> None:
    plan = a_plan(a_launch(8), queue="q")
    assert plan.roles == [""] * 8
    note = pods.pod(plan, a_record(plan), 1)["metadata"]["annotations"]
    assert (note["kueue.x-k8s.io/pod-group-total-count"], note["kueue.x-k8s.io/retriable-in-group"]) == ("8", "false")
    assert ROLE not in note


def test_a_gang_on_many_nodes_is_of_few_kinds() -> None:
    """Kueue takes eight at most, and ours are pinned each to its own node."""
    plan = a_plan(a_launch(20), queue="q")
    told = [pods.pod(plan, a_record(plan), rank)["metadata"]["annotations"][ROLE] for rank in range(1, 20)]
    assert len(set(told)) == 1
    first = pods.first(plan, 7)["metadata"]["annotations"][ROLE]
    assert first != told[0]  # it may have ports of its own
    assert len(set(a_plan(a_launch(20), queue="q").roles) | {first, told[0]}) == 2  # the same each time


def test_nodes_of_other_flavors_are_of_other_kinds() -> None:
    plan = a_plan(a_launch(12), queue="q")
    nodes = {f"n{nth}": replace(a_node(f"n{nth}"), labels={"host": f"n{nth}", "pool": f"{nth % 2}"})
             for nth in range(1, 13)}  # fmt: skip
    flavors = {"even": {"pool": "0"}, "odd": {"pool": "1"}, "all": {}, "elsewhere": {"host": "x"}}
    told = replace(plan, nodes=nodes, flavors=flavors).roles
    assert (len(set(told)), told[1:3] * 5) == (3, told[1:11])


def test_a_gang_of_too_many_kinds_is_refused() -> None:
    placed = tuple(RankPlacement(rank, f"n{rank + 1}", 1000 + rank, 1 << 20) for rank in range(9))
    with pytest.raises(EngineRefused, match="at most 8 kinds of ranks, and here are 9"):
        pods.first(a_plan(a_launch(9, placed=placed), queue="q"), 7)
    pods.first(a_plan(a_launch(9, placed=placed)), 7)
    claims = kueue.roles([placed[0]] * 9, [DeviceRequest(claim={"devices": {}})] * 9, [0] * 9)
    assert len(set(claims)) == 1


def test_a_pinned_pod_is_of_the_flavor_of_its_node() -> None:
    plan = a_plan(a_launch(1), queue="q")
    nodes = {"n1": replace(a_node("n1"), labels={"pool": "a", "zone": "z"})}

    def term(**changes: Any) -> Any:
        body = pods.first(replace(plan, nodes=nodes, **changes), 7)
        return body["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]

    assert EXPRESSIONS not in term()["nodeSelectorTerms"][0]
    (found,) = term(flavors={"a": {"pool": "a"}, "spot": {"pool": "b", "spot": ""}})["nodeSelectorTerms"]
    assert found["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]
    assert found[EXPRESSIONS] == [
        {"key": "pool", "operator": "In", "values": ["a"]}, {"key": "spot", "operator": "DoesNotExist"},
    ]  # fmt: skip
