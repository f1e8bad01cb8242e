"""Nodes and what Pods hold of them, from objects as API servers give them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import ROUND_UP, Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import NEEDS_IMAGE, DeviceShare, NodeFacts, RankPlacement
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.devices import slots_of
from dujiang.engines.kubernetes.inventory import facts_of
from dujiang.engines.kubernetes.nodes import KubeNode, reduce_node
from dujiang.engines.kubernetes.others import KubePod, effective_requests, reduce_pod
from dujiang.engines.kubernetes.quantities import milli_of, whole_of
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import request_for
from dujiang.kit.clock import SystemClock
from dujiang.kit.units import BadQuantity
from tests.kubernetes import images
from tests.kubernetes.cluster import Cluster

GIB = 1 << 30
MARK = ("dujiang.io/mark", "here")
SETTINGS = KubernetesSettings(image="an-image")
AWS = "topology.k8s.aws/network-node-layer"


def a_node(name: str = "gpu-1", **changes: Any) -> dict[str, Any]:
    """Return a node of eight cards, as `kubectl get node -o json` gives it."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": "east-1a",
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.count": "8",
    }
    amounts = {
        "cpu": "96", "memory": "1056Gi", "ephemeral-storage": "3748905484Ki", "hugepages-2Mi": "0", "pods": "110",
        "nvidia.com/gpu": "8",
    }  # fmt: skip
    conditions = [
        {"type": "MemoryPressure", "status": "False", "reason": "KubeletHasSufficientMemory"},
        {"type": "DiskPressure", "status": "False", "reason": "KubeletHasNoDiskPressure"},
        {"type": "PIDPressure", "status": "False", "reason": "KubeletHasSufficientPID"},
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"},
    ]
    meta = {"name": name, "uid": f"uid-{name}", "labels": labels | changes.pop("labels", {}), "annotations": {}}
    meta["annotations"] |= changes.pop("annotations", {})
    return {
        "metadata": meta | changes.pop("metadata", {}),
        "spec": {"podCIDR": "10.1.0.0/24", **changes.pop("spec", {})},
        "status": {
            "capacity": amounts | changes.pop("capacity", {}),
            "allocatable": amounts | {"cpu": "95500m"} | changes.pop("allocatable", {}),
            "conditions": conditions + changes.pop("conditions", []),
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "10.0.0.7"}],
            "images": [{"names": ["registry/image@sha256:" + "0" * 64], "sizeBytes": 12345}] * 50,
        },
    }


def a_pod(name: str = "theirs", node: str = "gpu-1", gpus: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a Pod of somebody else, with two cores and 4 GiB."""
    requests = {"cpu": "2", "memory": "4Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {
        "metadata": {"name": name, "namespace": "others", **changes.pop("metadata", {})},
        "spec": {"nodeName": node, "containers": [{"name": "main", "resources": {"requests": requests}}], **changes},
        "status": {"phase": "Running"},
    }


def node_of(**changes: Any) -> KubeNode:
    """Return a node that is kept."""
    node = reduce_node(a_node(**changes))
    assert node is not None
    return node


def pod_of(**changes: Any) -> KubePod:
    """Return a Pod that is kept."""
    pod = reduce_pod(a_pod(**changes), mark=MARK)
    assert pod is not None
    return pod


def facts(node: KubeNode, *pods: KubePod, **changes: Any) -> NodeFacts:
    """Return what the platform is told of one node."""
    settings = replace(SETTINGS, **changes.pop("settings", {}))
    return facts_of([node], pods, settings=settings, **changes)[0]


# -- quantities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milli", "whole"),
    [
        ("500m", 500, 1), ("2", 2000, 2), ("1.5", 1500, 2), (".5", 500, 1), ("5.", 5000, 5), ("0.1m", 1, 1),
        ("1Ki", 1024000, 1024), ("1.5Gi", 1536 * 1024 * 1024000, 1536 << 20), ("100M", 10**11, 10**8),
        ("1k", 10**6, 1000), ("1e3", 10**6, 1000), ("12E2", 1200000, 1200), ("1e-3", 1, 1), ("250u", 1, 1),
        ("3n", 1, 1), ("0", 0, 0), ("-2", -2000, -2), ("1E", 2**63 - 1, 10**18), ("16Ei", 2**63 - 1, 2**63 - 1),
        ("128974848", 128974848000, 128974848), ("1e-999", 1, 1), ("9e999", 2**63 - 1, 2**63 - 1),
    ],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_reads_them(text: str, milli: int, whole: int) -> None:
    assert (milli_of(text), whole_of(text)) == (milli, whole)


@pytest.mark.parametrize("text", ["", ".", "Gi", "1gi", "1K", "1 Gi", "1Gii", "0x10", "1e", "one", "1.2.3", "١", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(BadQuantity):
        whole_of(text)


@given(
    st.decimals(0, 10**6, places=3),
    st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-2", "e+6"]),
)
def test_every_quantity_is_its_number_times_its_suffix_rounded_up(number: Decimal, suffix: str) -> None:
    factor = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
              "e3": 10**3, "E-2": Decimal("0.01"), "e+6": 10**6}[suffix]  # fmt: skip
    exact = number * factor
    assert whole_of(f"{number}{suffix}") == int(exact.to_integral_value(ROUND_UP))
    assert milli_of(f"{number}{suffix}") == int((exact * 1000).to_integral_value(ROUND_UP))


# -- what Pods hold ---------------------------------------------------------------------------------------------------


def container(cpu: str, memory: str = "0", **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"cpu": cpu, "memory": memory}}, **more}


@pytest.mark.parametrize(
    ("spec", "cpu_milli"),
    [
        ({"containers": [container("1"), container("500m")]}, 1500),
        ({"containers": [container("1")], "initContainers": [container("4")]}, 4000),
        ({"containers": [container("3"), container("2")], "initContainers": [container("4"), container("1")]}, 5000),
        # A sidecar runs beside both what comes after it at the start and the Pod itself.
        ({"containers": [container("1")], "initContainers": [container("1", restartPolicy="Always")]}, 2000),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("5"), container("1", restartPolicy="Always"), container("4500m")],
            },
            5500,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}, "overhead": {"cpu": "1"}}, 4000),
        ({"containers": [{"resources": {"limits": {"cpu": "2"}}}]}, 2000),
        ({"containers": [{}, {"resources": {}}]}, 0),
    ],
)  # fmt: skip
def test_a_pod_holds_what_the_scheduler_counts(spec: dict[str, Any], cpu_milli: int) -> None:
    assert effective_requests(spec).get("cpu", 0) == cpu_milli


def test_devices_of_init_containers_and_of_the_pod_are_the_same_ones() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "2"}}}
    assert effective_requests({"containers": [gpu, gpu], "initContainers": [gpu]}) == {"nvidia.com/gpu": 4}


def test_pods_that_hold_nothing_of_a_node_are_left_out() -> None:
    assert reduce_pod(a_pod(node=""), mark=MARK) is None
    for phase in ("Succeeded", "Failed"):
        assert reduce_pod(a_pod() | {"status": {"phase": phase}}, mark=MARK) is None


def test_our_pods_are_known_by_their_label_and_tell_their_slots() -> None:
    meta = {"labels": {"dujiang.io/mark": "here"}, "annotations": {"dujiang.io/devices": "nvidia-0,nvidia-3"}}
    ours = pod_of(metadata={"name": "r0", "namespace": "dujiang-team", **meta})
    assert ours.is_ours
    assert ours.slots == ("nvidia-0", "nvidia-3")
    assert pod_of(metadata={"name": "x", "annotations": {"dujiang.io/devices": "nvidia-0"}}).slots == ()
    other_mark = reduce_pod(a_pod(metadata=meta), mark=("dujiang.io/mark", "elsewhere"))
    assert other_mark is not None
    assert not other_mark.is_ours


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_is_told_whole() -> None:
    told = facts(node_of())
    assert (told.name, told.cpu_milli, told.memory_bytes) == ("gpu-1", 95500, 1056 * GIB)
    assert told.disk_bytes == 3748905484 * 1024
    assert (told.ready, told.cordoned, told.reason, told.taints) == (True, False, "", ())
    assert told.labels["topology.kubernetes.io/zone"] == "east-1a"
    assert [device.name for device in told.devices] == [f"nvidia-{number}" for number in range(8)]
    assert (node_of().address, node_of().hostname, node_of().pods) == ("10.0.0.7", "gpu-1", 110)


@pytest.mark.parametrize(
    ("changes", "ready", "reason"),
    [
        ({"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady"}]}, False,
         "NotReady: KubeletNotReady"),
        ({"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}, False,
         "NotReady: NodeStatusUnknown"),
        ({"conditions": [{"type": "MemoryPressure", "status": "True", "reason": "KubeletHasInsufficientMemory"}]},
         False, "MemoryPressure: KubeletHasInsufficientMemory"),
        ({"conditions": [{"type": "NetworkUnavailable", "status": "True"}, {"type": "DiskPressure", "status": "True"}]},
         False, "NetworkUnavailable"),
        ({"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}, True, ""),
        ({"conditions": [{"type": "GpuFallenOff", "status": "True"}]}, True, ""),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, False, "BeingDeleted"),
    ],
)  # fmt: skip
def test_the_first_condition_that_matters_says_why_a_node_is_not_ready(
    changes: dict[str, Any], ready: bool, reason: str
) -> None:
    told = facts(node_of(**changes))
    assert (told.ready, told.reason) == (ready, reason)


def test_a_node_that_never_reported_is_not_ready() -> None:
    bare = reduce_node({"metadata": {"name": "new"}, "spec": {}, "status": {}})
    assert bare is not None
    assert facts(bare).reason == "NotReady: no condition is reported"
    assert reduce_node({"metadata": {}}) is None


def test_a_closed_node_says_who_closed_it() -> None:
    theirs = facts(node_of(spec={"unschedulable": True}))
    assert (theirs.cordoned, theirs.reason) == (True, "closed in Kubernetes")
    ours = facts(node_of(spec={"unschedulable": True}, annotations={"dujiang.io/closed": "row 7 is too hot"}))
    assert (ours.cordoned, ours.reason) == (True, "row 7 is too hot")
    opened = facts(node_of(annotations={"dujiang.io/closed": "an old reason"}))
    assert not opened.cordoned
    here = facts(node_of(), closed={"gpu-1": "fan"})
    assert (here.cordoned, here.reason) == (True, "fan")


def test_a_cluster_without_an_image_of_its_own_takes_jobs_that_bring_one_alone() -> None:
    assert facts(node_of(), settings={"image": ""}).taints == (NEEDS_IMAGE,)


def test_taints_are_told_but_for_those_that_other_words_say() -> None:
    taints = [
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
        {"key": "reserved", "effect": "NoExecute"},
        {"key": "old", "effect": "PreferNoSchedule"},
    ]
    node = node_of(spec={"taints": taints})
    assert facts(node).taints == ("nvidia.com/gpu=present", "reserved")
    assert facts(node, settings={"tolerations": ("nvidia.com/gpu",)}).taints == ("reserved",)
    assert facts(node, settings={"tolerations": ("nvidia.com/gpu=present", "reserved")}).taints == ()


@pytest.mark.parametrize(
    ("labels", "switch", "rack"),
    [
        ({}, None, None),
        ({f"{AWS}-1": "far", f"{AWS}-3": "leaf"}, "leaf", None),
        ({f"{AWS}-3": "up", f"{AWS}-4": "leaf"}, "leaf", None),
        ({"cloud.google.com/gce-topology-subblock": "b1"}, None, "b1"),
        ({"cloud.google.com/gce-topology-subblock": "b1", "topology.kubernetes.io/rack": "r7"}, None, None),
        ({"oci.oraclecloud.com/rdma.local_block_id": "xvl2gga", "dujiang.io/switch": "s1"}, "s1", None),
    ],
)  # fmt: skip
def test_labels_of_clouds_become_the_switch_and_rack_that_the_pool_knows(
    labels: dict[str, str], switch: str | None, rack: str | None
) -> None:
    told = facts(node_of(labels=labels)).labels
    assert (told.get("dujiang.io/switch"), told.get("dujiang.io/rack")) == (switch, rack)
    assert labels.items() <= told.items()


# -- what others hold -------------------------------------------------------------------------------------------------


def test_what_others_hold_is_taken_off() -> None:
    told = facts(node_of(), pod_of(gpus=2), pod_of(name="more", gpus=1))
    assert (told.cpu_milli, told.memory_bytes) == (95500 - 4000, 1048 * GIB)
    assert [device.name for device in told.devices] == [f"nvidia-{number}" for number in range(5)]


def test_what_is_ours_stays_and_others_get_slots_that_are_not_ours() -> None:
    meta = {"name": "r0", "labels": {"dujiang.io/mark": "here"}, "annotations": {"dujiang.io/devices": "nvidia-7"}}
    told = facts(node_of(), pod_of(gpus=1, metadata=meta), pod_of(gpus=6))
    assert told.cpu_milli == 95500 - 2000
    assert [device.name for device in told.devices] == ["nvidia-0", "nvidia-7"]
    # More than there is: what is ours is still told, since the platform knows that it holds it.
    crowded = facts(node_of(), pod_of(gpus=1, metadata=meta), pod_of(gpus=8))
    assert [device.name for device in crowded.devices] == ["nvidia-7"]


def test_others_can_be_left_out_of_account_but_not_daemons() -> None:
    daemon = pod_of(metadata={"name": "d", "ownerReferences": [{"kind": "DaemonSet", "name": "exporter"}]})
    told = facts(node_of(), pod_of(gpus=4), daemon, settings={"count_others": False})
    assert (told.cpu_milli, len(told.devices)) == (95500 - 2000, 8)


def test_a_node_never_offers_less_than_nothing() -> None:
    crowd = [pod_of(name=f"p{number}") for number in range(60)]
    told = facts(node_of(), *crowd)
    assert (told.cpu_milli, told.memory_bytes > 0) == (1, True)


def test_a_node_that_is_full_of_pods_takes_none() -> None:
    pods = [pod_of(name=f"p{number}") for number in range(3)]
    told = facts(node_of(allocatable={"pods": "3"}), *pods)
    assert (told.cordoned, told.reason) == (True, "it takes no more Pods: it has 3 of 3")
    assert not facts(node_of(allocatable={"pods": "4"}), *pods).cordoned


def test_broken_devices_are_told_as_such_and_are_none_of_those_held() -> None:
    meta = {"name": "r0", "labels": {"dujiang.io/mark": "here"}, "annotations": {"dujiang.io/devices": "nvidia-7"}}
    told = facts(node_of(allocatable={"nvidia.com/gpu": "6"}), pod_of(gpus=1, metadata=meta), pod_of(gpus=3))
    assert {device.name: device.healthy for device in told.devices} == {
        "nvidia-0": True, "nvidia-1": True, "nvidia-5": False, "nvidia-6": False, "nvidia-7": True,
    }  # fmt: skip


@given(st.lists(st.integers(0, 3), max_size=6), st.sets(st.integers(0, 7)), st.integers(0, 8))
def test_slots_of_ours_never_vanish_and_none_is_told_twice(theirs: list[int], ours: set[int], broken: int) -> None:
    names = [f"nvidia-{number}" for number in sorted(ours)]
    meta = {
        "name": "r",
        "labels": {"dujiang.io/mark": "here"},
        "annotations": {"dujiang.io/devices": ",".join(names)},
    }
    pods = [pod_of(name=f"p{number}", gpus=count) for number, count in enumerate(theirs)]
    node = node_of(allocatable={"nvidia.com/gpu": str(8 - broken)})
    told = [device.name for device in facts(node, pod_of(metadata=meta), *pods).devices]
    assert set(names) <= set(told)
    assert len(told) == len(set(told)) >= max(len(names), 8 - sum(theirs))
    assert told == sorted(told)


def test_nodes_are_told_in_order_and_pods_of_other_nodes_do_not_count() -> None:
    nodes = [node_of(name=name) for name in ("b", "a")]
    told = facts_of(nodes, [pod_of(node="b"), pod_of(node="gone")], settings=SETTINGS)
    assert [(node.name, node.cpu_milli) for node in told] == [("a", 95500), ("b", 93500)]


# -- with real kubelets and a real device plugin, whose GPUs are not there --------------------------------------------

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """A connection to the cluster; its Pods are gone afterwards, and its GPUs sound."""
    api = Api(KubernetesSettings(kubeconfig=str(cluster.kubeconfig())), clock=SystemClock())
    yield api
    await api.close()
    cluster.nodes["n1"].break_gpus()
    cluster.request("DELETE", f"{PODS}?gracePeriodSeconds=0")
    cluster.wait("no Pods", lambda: not cluster.request("GET", PODS)["items"])
    cluster.wait("sound GPUs", lambda: cluster.free_gpus("n1") == 4)


async def look(api: Api, name: str) -> NodeFacts:
    """Return what the platform is told of one node now."""
    nodes, _ = await api.list("/api/v1/nodes", reduce_node)
    pods, _ = await api.list("/api/v1/pods", partial(reduce_pod, mark=MARK))
    return next(node for node in facts_of(nodes, pods, settings=SETTINGS) if node.name == name)


def start(cluster: Cluster, name: str, gpus: int, script: str, **meta: Any) -> None:
    """Start a Pod on n1 with so many GPUs."""
    limits = {"cpu": "100m", "memory": "16Mi", "nvidia.com/gpu": str(gpus)}
    container = {
        "name": "main", "image": images.BUSYBOX, "command": ["sh", "-c", script], "resources": {"limits": limits},
    }  # fmt: skip
    spec = {"restartPolicy": "Never", "nodeSelector": {"kubernetes.io/hostname": "n1"}, "containers": [container]}
    cluster.request("POST", PODS, {"metadata": {"name": name, **meta}, "spec": spec})
    cluster.wait_for_phase(name, "Running", "Succeeded")


@pytest.mark.kubernetes
async def test_a_real_node_is_told_less_what_others_hold(cluster: Cluster, api: Api) -> None:
    empty = await look(api, "n1")
    assert (empty.ready, empty.cordoned, empty.reason, empty.taints) == (True, False, "", ())
    assert [device.name for device in empty.devices] == [f"nvidia-{number}" for number in range(4)]

    start(cluster, "theirs", 2, "sleep 600")
    told = await look(api, "n1")
    assert told.cpu_milli == empty.cpu_milli - 100
    assert told.memory_bytes == empty.memory_bytes - 16 * (1 << 20)
    assert [device.name for device in told.devices] == ["nvidia-0", "nvidia-1"]
    assert len((await look(api, "n2")).devices) == 4


@pytest.mark.kubernetes
async def test_what_a_rank_asks_for_is_what_its_container_gets(cluster: Cluster, api: Api) -> None:
    nodes, _ = await api.list("/api/v1/nodes", reduce_node)
    slots = slots_of(next(node for node in nodes if node.name == "n1"), SETTINGS)
    shares = tuple(DeviceShare(f"nvidia-{number}", number, 1000, 0) for number in (1, 3))
    asked = request_for(RankPlacement(0, "n1", 100, 1 << 24, devices=shares), slots, SETTINGS)
    assert asked.limits == {"nvidia.com/gpu": "2"}
    marked = {"labels": {"dujiang.io/mark": "here"}, "annotations": dict(asked.annotations)}
    script = "echo $NVIDIA_VISIBLE_DEVICES | tr , '\\n' | grep -c GPU-n1-; sleep 600"
    start(cluster, "ours", int(asked.limits["nvidia.com/gpu"]), script, **marked)
    cluster.wait("its word", lambda: cluster.request("GET", f"{PODS}/ours/log") == "2\n")

    start(cluster, "theirs", 1, "sleep 600")
    assert [device.name for device in (await look(api, "n1")).devices] == ["nvidia-0", "nvidia-1", "nvidia-3"]


@pytest.mark.kubernetes
async def test_a_gpu_that_its_plugin_calls_broken_is_told_as_broken(cluster: Cluster, api: Api) -> None:
    cluster.nodes["n1"].break_gpus(2)
    cluster.wait("a broken GPU", lambda: cluster.free_gpus("n1") == 3)
    told = await look(api, "n1")
    assert [device.healthy for device in told.devices] == [True, True, True, False]
