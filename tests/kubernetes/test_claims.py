"""Dynamic resource allocation: ResourceSlices read, and claims for devices that the platform chose."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import DeviceShare, EngineRefused, RankPlacement
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.claims import (
    GROUP,
    VERSIONS,
    KubeDevice,
    KubeSlice,
    claim_spec,
    devices_by_node,
    reduce_claim,
    reduce_slice,
    selector_of,
)
from dujiang.engines.kubernetes.devices import slots_of
from dujiang.engines.kubernetes.inventory import facts_of
from dujiang.engines.kubernetes.nodes import reduce_node
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import request_for
from dujiang.kit.clock import SystemClock
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.test_devices import GIB, H100, a_node

DRIVER = "gpu.nvidia.com"
SETTINGS = KubernetesSettings()


def a_device(number: int, **changes: Any) -> dict[str, Any]:
    """Return a device as NVIDIA's driver publishes it in v1."""
    return {
        "name": f"gpu-{number}",
        "attributes": {
            "type": {"string": "gpu"},
            "uuid": {"string": f"GPU-e89d84ee-{number}"},
            "productName": {"string": "NVIDIA A100-SXM4-80GB"},
            "architecture": {"string": "Ampere"},
            "driverVersion": {"version": "580.126.20"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
        }
        | changes.pop("attributes", {}),
        "capacity": {"memory": {"value": "80Gi"}},
        **changes,
    }


def a_slice(*devices: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Return a ResourceSlice of node n1."""
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1, **spec.pop("pool", {})}
    return {
        "metadata": {"name": "n1-gpu.nvidia.com-x"},
        "spec": {"driver": DRIVER, "nodeName": "n1", "pool": pool, "devices": list(devices), **spec},
    }


def beta(piece: dict[str, Any]) -> dict[str, Any]:
    """Return the slice as v1beta1 writes it."""
    devices = [
        {"name": device["name"], "basic": {key: value for key, value in device.items() if key != "name"}}
        for device in piece["spec"]["devices"]
    ]
    return {**piece, "spec": {**piece["spec"], "devices": devices}}


def read(*pieces: dict[str, Any]) -> list[KubeSlice]:
    """Return slices that are kept."""
    return [piece for one in pieces if (piece := reduce_slice(one)) is not None]


def of_n1(*pieces: dict[str, Any]) -> list[KubeDevice]:
    """Return the devices of node n1."""
    return devices_by_node(read(*pieces)).get("n1", [])


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_devices_of_a_driver_are_told_by_name(version: str) -> None:
    piece = a_slice(a_device(0), a_device(1, taints=[{"key": "broken", "effect": "NoSchedule"}]))
    slices = read(beta(piece) if version == "v1beta1" else piece)
    node = a_node({"nvidia.com/gpu": "2"}, H100)  # the same cards once more, by a device plugin: not counted twice
    (told,) = facts_of([node], [], settings=SETTINGS, slices=slices)
    assert [(d.name, d.vendor, d.model, d.memory_bytes, d.healthy) for d in told.devices] == [
        ("gpu-0", "nvidia", "NVIDIA A100-SXM4-80GB", 80 * GIB, True),
        ("gpu-1", "nvidia", "NVIDIA A100-SXM4-80GB", 80 * GIB, False),
    ]


def test_devices_that_claims_of_others_hold_are_not_told() -> None:
    claims = [
        reduce_claim(
            {
                "metadata": {"name": f"c{number}", "namespace": "x", "labels": labels},
                "status": {"allocation": {"devices": {"results": [
                    {"request": "r", "driver": DRIVER, "pool": "n1", "device": f"gpu-{number}", **more},
                ]}}},
            },
            mark=("dujiang.io/mark", "here"),
        )
        for number, labels, more in (
            (0, {}, {}), (1, {"dujiang.io/mark": "here"}, {}), (2, {}, {"adminAccess": True}),
        )
    ]  # fmt: skip
    assert claims[2] is None
    held = [claim for claim in claims if claim is not None]
    slices = read(a_slice(*(a_device(number) for number in range(4))))
    (told,) = facts_of([a_node({})], [], settings=SETTINGS, slices=slices, claims=held)
    assert [device.name for device in told.devices] == ["gpu-1", "gpu-2", "gpu-3"]
    free = replace(SETTINGS, count_others=False)
    assert len(facts_of([a_node({})], [], settings=free, slices=slices, claims=held)[0].devices) == 4
    assert reduce_claim({"metadata": {"name": "waits"}}, mark=("x", "")) is None


def test_only_the_newest_generation_of_a_pool_counts() -> None:
    old = a_slice(a_device(0), a_device(7))
    new = [a_slice(a_device(0), pool={"generation": 2}), a_slice(a_device(1), pool={"generation": 2})]
    assert [device.id[2] for device in of_n1(old, *new)] == ["gpu-0", "gpu-1"]


def test_what_is_not_a_nodes_own_accelerator_is_passed_over() -> None:
    fabric = a_slice(a_device(0), driver="compute-domain.nvidia.com")
    anywhere = a_slice(a_device(1), nodeName=None, allNodes=True)
    machine = a_slice(a_device(2, attributes={"type": {"string": "vfio"}}))
    empty = {"spec": {"driver": DRIVER, "nodeName": "n1", "sharedCounters": [{"name": "gpu-0"}]}}
    slices = read(fabric, anywhere, machine, empty)
    assert facts_of([a_node({})], [], settings=SETTINGS, slices=slices)[0].devices == ()
    named = replace(SETTINGS, resources={"fabric": "compute-domain.nvidia.com"})
    assert [d.vendor for d in facts_of([a_node({})], [], settings=named, slices=slices)[0].devices] == ["fabric"]


def test_devices_of_single_nodes_in_a_slice_of_many_are_told_of_theirs() -> None:
    piece = a_slice(a_device(0, nodeName="n1"), a_device(1, nodeName="n2"), nodeName=None, perDeviceNodeSelection=True)
    assert {node: len(devices) for node, devices in devices_by_node(read(piece)).items()} == {"n1": 1, "n2": 1}


def test_parts_that_a_card_could_become_are_not_told_beside_the_card() -> None:
    used = {"consumesCounters": [{"counterSet": "gpu-0-counters", "counters": {"memory": {"value": "10Gi"}}}]}
    parts = [
        a_device(number, **used, attributes={"type": {"string": "mig"}}) | {"capacity": {"memory": {"value": "10Gi"}}}
        for number in range(1, 4)
    ]
    assert [device.id[2] for device in of_n1(a_slice(a_device(0, **used), *parts, a_device(9)))] == ["gpu-0", "gpu-9"]


def test_a_claim_names_each_device_by_what_tells_it_from_the_others() -> None:
    devices = of_n1(a_slice(a_device(0), a_device(1)))
    expression = (
        'device.driver == "gpu.nvidia.com" && "uuid" in device.attributes["gpu.nvidia.com"] && '
        'device.attributes["gpu.nvidia.com"].uuid == "GPU-e89d84ee-1"'
    )
    assert selector_of(devices[1], devices) == expression
    asked = {"deviceClassName": DRIVER, "selectors": [{"cel": {"expression": expression}}]}
    assert claim_spec(devices[1:], devices, "v1") == {
        "devices": {"requests": [{"name": "device-0", "exactly": asked}]}
    }  # fmt: skip
    assert claim_spec(devices[1:], devices, "v1beta1") == {"devices": {"requests": [{"name": "device-0", **asked}]}}


def test_a_qualified_attribute_is_asked_for_under_its_own_domain() -> None:
    bus = [
        a_device(number, attributes={"uuid": {}, "resource.kubernetes.io/pciBusID": {"string": f"0000:0{number}:00.0"}})
        for number in range(2)
    ]
    devices = of_n1(a_slice(*bus))
    assert selector_of(devices[0], devices) == (
        'device.driver == "gpu.nvidia.com" && "pciBusID" in device.attributes["resource.kubernetes.io"] && '
        'device.attributes["resource.kubernetes.io"].pciBusID == "0000:00:00.0"'
    )


def test_devices_that_nothing_tells_apart_cannot_be_asked_for() -> None:
    twins = [{"name": f"d{number}", "attributes": {"model": {"string": "X"}}} for number in range(2)]
    devices = of_n1(a_slice(*twins))
    assert claim_spec(devices[:1], devices, "v1") is None
    slots = slots_of(a_node({}), SETTINGS, devices)
    assert [(slot.facts.model, slot.facts.healthy) for slot in slots] == [("X", False), ("X", False)]
    rank = RankPlacement(0, "n1", 1000, GIB, devices=(DeviceShare("d0", 0, 1000, 0),))
    with pytest.raises(EngineRefused, match="no attribute by which a claim could tell it"):
        request_for(rank, slots, SETTINGS, claimable=devices)
    alone = of_n1(a_slice(twins[0]))
    assert claim_spec(alone, alone, "v1") is not None


def test_a_rank_asks_for_its_devices_by_a_claim() -> None:
    devices = of_n1(a_slice(*(a_device(number) for number in range(3))))
    slots = slots_of(a_node({}), SETTINGS, devices)
    rank = RankPlacement(
        0, "n1", 1000, GIB, devices=(DeviceShare("gpu-2", 2, 1000, 0), DeviceShare("gpu-0", 0, 1000, 0))
    )
    asked = request_for(rank, slots, SETTINGS, claimable=devices)
    assert asked.limits == {}
    assert asked.claim == claim_spec([devices[2], devices[0]], devices, "v1")
    half = replace(rank, devices=(DeviceShare("gpu-2", 2, 500, 0),))
    with pytest.raises(EngineRefused, match="Nothing in this cluster gives shares"):
        request_for(half, slots, SETTINGS, claimable=devices)
    whole = replace(SETTINGS, fractions="whole")
    assert request_for(half, slots_of(a_node({}), whole, devices), whole, claimable=devices).claim is not None


def test_parts_of_nvidias_cards_are_of_a_class_of_their_own() -> None:
    devices = of_n1(a_slice(a_device(0, attributes={"type": {"string": "mig"}})))
    spec = claim_spec(devices, devices, "v1")
    assert spec is not None
    assert spec["devices"]["requests"][0]["exactly"]["deviceClassName"] == "mig.nvidia.com"


# -- with a real API server and scheduler -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def allocating() -> Iterator[Cluster]:
    """A cluster that serves every version of the API, with a class for the devices of a driver that is not there."""
    folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))
    served = ",".join(f"{GROUP}/{version}=true" for version in VERSIONS)
    try:
        with Cluster(folder / "c", nodes=0, with_fakes=True, flags={"api": [f"--runtime-config={served}"]}) as cluster:
            of_driver = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
            cluster.request(
                "POST", f"/apis/{GROUP}/v1/deviceclasses",
                {"metadata": {"name": DRIVER}, "spec": {"selectors": [of_driver]}},
            )  # fmt: skip
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def api(allocating: Cluster) -> AsyncIterator[Api]:
    """A connection to it."""
    api = Api(KubernetesSettings(kubeconfig=str(allocating.kubeconfig())), clock=SystemClock())
    yield api
    await api.close()


def publish(cluster: Cluster, name: str) -> None:
    """Add a node, and say as a driver would which devices it has: one of them has no uuid."""
    (node,) = cluster.add_fake_nodes(1, gpus=0, prefix=name)
    bare = a_device(3)
    del bare["attributes"]["uuid"]
    piece = a_slice(*(a_device(number) for number in range(3)), bare, nodeName=node, pool={"name": node})
    cluster.request("POST", f"/apis/{GROUP}/v1/resourceslices", piece | {"metadata": {"name": f"{node}-slice"}})


def start(cluster: Cluster, name: str, node: str, version: str, spec: Any) -> None:
    """Start a Pod with a claim."""
    claim = {"apiVersion": f"{GROUP}/{version}", "kind": "ResourceClaim", "metadata": {"name": name}, "spec": spec}
    cluster.request("POST", f"/apis/{GROUP}/{version}/namespaces/default/resourceclaims", claim)
    pod = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "resourceClaims": [{"name": "devices", "resourceClaimName": name}],
        "containers": [{"name": "main", "image": "none", "resources": {"claims": [{"name": "devices"}]}}],
    }
    cluster.request("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": name}, "spec": pod})


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_scheduler_gives_exactly_the_devices_that_were_chosen(
    allocating: Cluster, api: Api, version: str
) -> None:
    publish(allocating, version)
    node = f"{version}-0000"
    assert await api.serves(f"{GROUP}/{version}")
    path = f"/apis/{GROUP}/{version}"
    slices, _ = await api.list(f"{path}/resourceslices", reduce_slice)
    own = devices_by_node(slices)[node]
    slots = slots_of(a_node({}), SETTINGS, own)
    assert [(slot.facts.name, slot.facts.memory_bytes, slot.facts.healthy) for slot in slots] == [
        ("gpu-0", 80 * GIB, True), ("gpu-1", 80 * GIB, True), ("gpu-2", 80 * GIB, True), ("gpu-3", 80 * GIB, False),
    ]  # fmt: skip

    rank = RankPlacement(
        0, node, 1000, GIB, devices=(DeviceShare("gpu-2", 2, 1000, 0), DeviceShare("gpu-0", 0, 1000, 0))
    )
    asked = request_for(rank, slots, SETTINGS, claimable=own, version=version)
    start(allocating, f"first-{version}", node, version, asked.claim)
    allocating.wait_for_phase(f"first-{version}", "Running")

    claims, _ = await api.list(f"{path}/resourceclaims", partial(reduce_claim, mark=("dujiang.io/mark", "here")))
    (held,) = (claim for claim in claims if claim.name == f"first-{version}")
    assert held.devices == ((DRIVER, node, "gpu-2"), (DRIVER, node, "gpu-0"))
    kept = reduce_node(allocating.request("GET", f"/api/v1/nodes/{node}"))
    assert kept is not None
    (told,) = facts_of([kept], [], settings=SETTINGS, slices=slices, claims=claims)
    assert [device.name for device in told.devices] == ["gpu-1", "gpu-3"]

    # What is held is given to nobody else, although another device is free.
    again = request_for(replace(rank, devices=rank.devices[:1]), slots, SETTINGS, claimable=own, version=version)
    start(allocating, f"second-{version}", node, version, again.claim)

    def refused() -> bool:
        conditions = allocating.pod(f"second-{version}")["status"].get("conditions", [])
        return any("cannot allocate all claims" in one.get("message", "") for one in conditions)

    allocating.wait("the scheduler to refuse", refused)
