"""Closing nodes of a real API server: ours are opened again, a person's are left alone, and Pods go within budgets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import EngineRefused, NodeFacts
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.closing import Closer
from dujiang.engines.kubernetes.inventory import facts_of
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.nodes import KubeNode, reduce_node
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
_numbers = itertools.count()


@dataclass
class Bench:
    """A closer, and the node that a test works on."""

    cluster: Cluster
    api: Api
    mirror: Mirror[KubeNode]
    closer: Closer
    node: str

    @property
    def spec(self) -> Any:
        """Return the node as the cluster has it."""
        return self.cluster.request("GET", f"{NODES}/{self.node}")

    async def facts(self) -> NodeFacts:
        """Return what the platform is told of the node."""
        nodes = await self.mirror.fresh()
        settings = KubernetesSettings(image="shell")
        return facts_of([nodes[self.node]], [], settings=settings, closed=self.closer.closed)[0]


async def started(cluster: Cluster, kubeconfig: Path, node: str) -> AsyncIterator[Bench]:
    clock = SystemClock()
    api = Api(KubernetesSettings(kubeconfig=str(kubeconfig)), clock=clock)
    mirror = Mirror(api, NODES, reduce_node, clock=clock, stale_after_s=60)
    try:
        yield Bench(cluster, api, mirror, Closer(api, mirror), node)
    finally:
        await mirror.close()
        await api.close()


@pytest.fixture
async def bench(control: Cluster) -> AsyncIterator[Bench]:
    """A node of its own, and a closer that may do all."""
    (name,) = control.add_fake_nodes(1, prefix=f"closing{next(_numbers)}")
    async for one in started(control, control.kubeconfig(), name):
        yield one
    control.request("DELETE", f"{NODES}/{name}")


async def test_a_node_is_closed_with_a_reason_and_opened_again(bench: Bench) -> None:
    await bench.closer.cordon(bench.node, "fan 3 is loud")
    assert bench.spec["spec"]["unschedulable"]
    assert bench.spec["metadata"]["annotations"]["dujiang.io/closed"] == "fan 3 is loud"
    told = await bench.facts()
    assert (told.cordoned, told.reason, told.taints) == (True, "fan 3 is loud", ())

    await bench.closer.cordon(bench.node, "fan 3 is gone")
    assert (await bench.facts()).reason == "fan 3 is gone"

    await bench.closer.uncordon(bench.node)
    assert not bench.spec["spec"].get("unschedulable")
    assert "dujiang.io/closed" not in bench.spec["metadata"]["annotations"]
    assert not (await bench.facts()).cordoned
    await bench.closer.uncordon(bench.node)


async def test_nothing_new_starts_on_a_closed_node_and_what_runs_goes_on(bench: Bench) -> None:
    def start(name: str) -> None:
        spec = {
            "nodeSelector": {"kubernetes.io/hostname": bench.node},
            "containers": [{"name": "main", "image": "none"}],
        }
        bench.cluster.request("POST", PODS, {"metadata": {"name": name}, "spec": spec})

    start("before")
    bench.cluster.wait_for_phase("before", "Running")
    await bench.closer.cordon(bench.node, "")
    start("after")

    def refused() -> bool:
        conditions = bench.cluster.pod("after")["status"].get("conditions", [])
        return any(one["reason"] == "Unschedulable" for one in conditions if one["type"] == "PodScheduled")

    bench.cluster.wait("the scheduler to refuse", refused)
    assert bench.cluster.pod("before")["status"]["phase"] == "Running"
    await bench.closer.uncordon(bench.node)
    bench.cluster.wait_for_phase("after", "Running")
    bench.cluster.request("DELETE", f"{PODS}?gracePeriodSeconds=0")


async def test_a_node_that_a_person_closed_is_left_alone(bench: Bench) -> None:
    bench.cluster.kubectl("cordon", bench.node)
    await bench.closer.cordon(bench.node, "ours")
    await bench.closer.uncordon(bench.node)
    assert bench.spec["spec"]["unschedulable"]
    assert "dujiang.io/closed" not in bench.spec["metadata"].get("annotations", {})
    while not (told := await bench.facts()).cordoned:
        assert await bench.mirror.wait(bench.mirror.version, timeout_s=30)
    assert told.reason == "closed in Kubernetes"


async def test_a_node_that_a_person_opened_against_us_is_open_and_can_be_closed_again(bench: Bench) -> None:
    await bench.closer.cordon(bench.node, "ours")
    bench.cluster.kubectl("uncordon", bench.node)
    await bench.closer.uncordon(bench.node)
    assert "dujiang.io/closed" not in bench.spec["metadata"]["annotations"]
    await bench.closer.cordon(bench.node, "again")
    assert bench.spec["spec"]["unschedulable"]


class Hasty(Api):
    """An account whose node is changed by somebody else each time just before its own change arrives."""

    def __init__(self, *args: Any, others: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.others = others

    async def patch(self, path: str, body: Any, **more: Any) -> dict[str, Any]:
        if self.others:
            self.others.pop(0)()
        return await super().patch(path, body, **more)


async def test_changes_of_others_in_between_are_seen_and_not_overruled(bench: Bench) -> None:
    def label(number: int) -> None:
        bench.cluster.kubectl("label", "node", bench.node, f"changed={number}", "--overwrite")

    others = [lambda number=number: label(number) for number in range(3)]
    settings = KubernetesSettings(kubeconfig=str(bench.cluster.kubeconfig()))
    hasty = Hasty(settings, clock=SystemClock(), others=others)
    closer = Closer(hasty, bench.mirror)
    await closer.cordon(bench.node, "ours")
    assert not others
    assert bench.spec["metadata"]["annotations"]["dujiang.io/closed"] == "ours"
    assert bench.spec["metadata"]["labels"]["changed"] == "2"

    await closer.uncordon(bench.node)
    hasty.others = [lambda: bench.cluster.kubectl("cordon", bench.node)]
    await closer.cordon(bench.node, "ours")  # a person was quicker: it is theirs
    assert "dujiang.io/closed" not in bench.spec["metadata"]["annotations"]
    await hasty.close()


async def test_a_node_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(EngineRefused, match="shows no node 'nowhere'"):
        await bench.closer.cordon("nowhere", "x")


async def test_an_account_without_rights_closes_a_node_to_our_work_alone(bench: Bench) -> None:
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "default"}
    bench.cluster.apply(
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "looks"},
         "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "looks"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looks"},
         "subjects": [subject]},
    )  # fmt: skip
    poor = bench.cluster.kubeconfig(token=bench.cluster.account_token())
    async for one in started(bench.cluster, poor, bench.node):
        assert one.closer.missing == ()
        await one.closer.cordon(bench.node, "too hot")
        assert not bench.spec["spec"].get("unschedulable")
        assert ((await one.facts()).cordoned, (await one.facts()).reason) == (True, "too hot")
        assert "the account may not change nodes" in one.closer.missing[0]
        assert "cannot patch" in one.closer.missing[0]
        assert "cannot get" in await one.closer.evict("default", "theirs")
        await one.closer.uncordon(bench.node)
        assert not (await one.facts()).cordoned
    bench.cluster.kubectl("delete", "clusterrole,clusterrolebinding", "looks")


async def test_draining_closes_first_and_stops_only_what_is_ours(bench: Bench) -> None:
    asked: list[tuple[str, bool]] = []

    async def stop(node: str) -> None:
        asked.append((node, bench.spec["spec"]["unschedulable"]))

    await bench.closer.drain(bench.node, "a new kernel", stop)
    assert asked == [(bench.node, True)]


async def test_pods_are_evicted_within_their_budget(bench: Bench) -> None:
    def start(name: str, **meta: Any) -> None:
        spec = {"nodeName": bench.node, "containers": [{"name": "main", "image": "none"}]}
        bench.cluster.request("POST", PODS, {"metadata": {"name": name, **meta}, "spec": spec})
        bench.cluster.wait_for_phase(name, "Running")

    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "at-least-one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    bench.cluster.request("POST", path, budget)
    for name in ("web-1", "web-2"):
        start(name, labels={"app": "web"})
    labels = {"app": "exporter"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    template["spec"]["nodeSelector"] = {"kubernetes.io/hostname": bench.node}
    bench.cluster.apply({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "exporter", "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    })  # fmt: skip

    def exporter() -> str:
        listed = bench.cluster.request("GET", f"{PODS}?labelSelector=app%3Dexporter")["items"]
        return next((pod["metadata"]["name"] for pod in listed if pod["status"]["phase"] == "Running"), "")

    bench.cluster.wait("the DaemonSet's Pod", exporter)

    def counted() -> bool:
        return bool(bench.cluster.request("GET", f"{path}/at-least-one")["status"].get("disruptionsAllowed") == 1)

    bench.cluster.wait("the budget to be counted", counted)
    assert await bench.closer.evict("default", "web-1", grace_s=0) == ""
    assert "web-1" not in bench.cluster.kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "name")
    why = await bench.closer.evict("default", "web-2")
    assert why.startswith("Pod default/web-2 stays for now: The disruption budget at-least-one needs 1 healthy pods")
    why = await bench.closer.evict("default", exporter())
    assert why == f"Pod default/{exporter()} stays: it belongs to the DaemonSet exporter."
    assert await bench.closer.evict("default", "not-there") == ""
    bench.cluster.request("DELETE", f"{path}/at-least-one")
    bench.cluster.kubectl("delete", "daemonset", "exporter")
    bench.cluster.request("DELETE", f"{PODS}?gracePeriodSeconds=0")
