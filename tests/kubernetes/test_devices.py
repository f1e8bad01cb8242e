"""Devices of every vendor, from nodes in the forms of the vendors' documents (none of their plugins runs here)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dujiang.engines.contract import DeviceFacts, Isolation
from dujiang.engines.kubernetes.devices import slots_of
from dujiang.engines.kubernetes.nodes import KubeNode, reduce_node
from dujiang.engines.kubernetes.settings import KubernetesSettings

GIB = 1 << 30
MIB = 1 << 20
V100 = "NVIDIA-Tesla V100-PCIE-32GB"
HAMI_TEXT = (
    f"GPU-00552014-5c87,10,32768,100,{V100},0,true,0,hami-core:"
    f"GPU-0fc3eda5-e98b,10,32768,100,{V100},0,false,1,hami-core:"
)
HAMI_OLD_TEXT = f"GPU-00552014-5c87,10,32768,100,{V100},0,true:GPU-0fc3eda5-e98b,10,32768,100,{V100},0,true:"
HAMI_JSON = (
    '[{"id":"GPU-32f85ff6","count":10,"devmem":12288,"devcore":100,"type":"NVIDIA GeForce RTX 3060","health":true},'
    '{"id":"GPU-b","index":1,"count":10,"devmem":12288,"devcore":100,"type":"NVIDIA GeForce RTX 3060","mode":"mig"}]'
)
HAMI_ASCEND = (
    '[{"id":"Ascend910B4-0","count":4,"devmem":32768,"devcore":20,"type":"Ascend910B4","health":true},'
    '{"index":1,"id":"Ascend910B4-1","count":4,"devmem":32768,"devcore":20,"type":"Ascend910B4","health":true}]'
)


def a_node(
    amounts: dict[str, str], labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None
) -> KubeNode:
    """Return a ready node with so many of some extended resources."""
    node = reduce_node({
        "metadata": {"name": "n1", "uid": "u", "labels": labels or {}, "annotations": annotations or {}},
        "spec": {},
        "status": {
            "capacity": {"cpu": "8", "memory": "64Gi", **amounts},
            "allocatable": {"cpu": "8", "memory": "64Gi", **amounts},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })  # fmt: skip
    assert node is not None
    return node


def devices(node: KubeNode, **settings: Any) -> list[DeviceFacts]:
    """Return the devices of a node."""
    return [slot.facts for slot in slots_of(node, replace(KubernetesSettings(), **settings))]


H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}


@pytest.mark.parametrize(
    ("amounts", "labels", "name", "vendor", "model", "memory"),
    [
        # NVIDIA: GPU feature discovery; MIG `single` and `mixed`; time slicing and MPS; without its labels.
        ({"nvidia.com/gpu": "1"}, H100, "nvidia-0", "nvidia", "NVIDIA-H100-80GB-HBM3", 81559 * MIB),
        ({"nvidia.com/gpu": "1"},
         {"nvidia.com/gpu.product": "A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.memory": "5120",
          "nvidia.com/mig.strategy": "single"},
         "nvidia-0", "nvidia", "A100-SXM4-40GB-MIG-1g.5gb", 5120 * MIB),
        ({"nvidia.com/mig-1g.10gb": "1"},
         {**H100, "nvidia.com/mig-1g.10gb.memory": "9984",
          "nvidia.com/mig-1g.10gb.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"},
         "nvidia-mig-1g.10gb-0", "nvidia", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", 9984 * MIB),
        ({"nvidia.com/mig-1g.10gb.me": "1"}, H100,
         "nvidia-mig-1g.10gb.me-0", "nvidia", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me", 10 * GIB),
        ({"nvidia.com/gpu": "1"},
         {"nvidia.com/gpu.product": "NVIDIA-H100-NVL-SHARED", "nvidia.com/gpu.memory": "95830",
          "nvidia.com/gpu.replicas": "5", "nvidia.com/gpu.sharing-strategy": "time-slicing"},
         "nvidia-0", "nvidia", "NVIDIA-H100-NVL-SHARED", 95830 * MIB // 5),
        ({"nvidia.com/gpu.shared": "1"},
         {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360", "nvidia.com/gpu.replicas": "4",
          "nvidia.com/gpu.sharing-strategy": "mps"},
         "nvidia-0", "nvidia", "Tesla-T4", 3840 * MIB),
        ({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu.product": "Quadro-P400", "nvidia.com/gpu.memory": "2048",
          "nvidia.com/gpu.replicas": "1", "nvidia.com/gpu.sharing-strategy": "none"},
         "nvidia-0", "nvidia", "Quadro-P400", 2048 * MIB),
        ({"nvidia.com/gpu": "1"}, {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
         "nvidia-0", "nvidia", "nvidia-h100-80gb", 0),
        ({"nvidia.com/gpu": "1"}, {}, "nvidia-0", "nvidia", "nvidia", 0),
        # AMD: node labeller; partitions by `mixed` names.
        ({"amd.com/gpu": "1"}, {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"},
         "amd-0", "amd", "MI300X_OAM", 192 * GIB),
        ({"amd.com/gpu": "1"}, {"beta.amd.com/gpu.vram": "16G"}, "amd-0", "amd", "amd", 16 * GIB),
        ({"amd.com/cpx_nps4": "1"}, {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"},
         "amd-cpx_nps4-0", "amd", "MI300X_OAM-CPX_NPS4", 0),
        # Huawei: MindCluster's one resource per family, HAMi's one per chip, virtual NPUs.
        ({"huawei.com/Ascend910": "1"},
         {"accelerator": "huawei-Ascend910", "node.kubernetes.io/npu.chip.name": "910B3",
          "mind-cluster/npu-chip-memory": "64G"},
         "huawei-Ascend910-0", "huawei", "Ascend910B3", 64 * GIB),
        ({"huawei.com/Ascend910": "1"}, {}, "huawei-Ascend910-0", "huawei", "Ascend910", 0),
        ({"huawei.com/Ascend310P": "1"}, {"node.kubernetes.io/npu.chip.name": "310P3"},
         "huawei-Ascend310P-0", "huawei", "Ascend310P3", 0),
        ({"huawei.com/Ascend910B4-1": "1"}, {}, "huawei-Ascend910B4-1-0", "huawei", "Ascend910B4-1", 0),
        ({"huawei.com/Ascend910-2c": "1"}, {}, "huawei-Ascend910-2c-0", "huawei", "Ascend910-2c", 0),
        # Others.
        ({"cambricon.com/mlu": "1"}, {}, "cambricon-0", "cambricon", "MLU", 0),
        ({"cambricon.com/mlu370": "1"}, {}, "cambricon-mlu370-0", "cambricon", "MLU370", 0),
        ({"cambricon.com/mlu370.mim-2m.8gb": "1"}, {},
         "cambricon-mlu370.mim-2m.8gb-0", "cambricon", "MLU370-mim-2M.8gb", 8 * GIB),
        ({"gpu.intel.com/i915": "1"}, {"gpu.intel.com/product": "Max_1550"}, "intel-0", "intel", "Max_1550", 0),
        ({"habana.ai/gaudi": "1"}, {}, "habana-0", "habana", "Gaudi", 0),
        ({"hygon.com/dcu": "1"}, {"hygon.com/dcu.name": "Z100L", "hygon.com/dcu.vram": "32G"},
         "hygon-0", "hygon", "Z100L", 32 * GIB),
        ({"metax-tech.com/gpu": "1"}, {}, "metax-0", "metax", "metax", 0),
        ({"google.com/tpu": "1"}, {"cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice"},
         "google-0", "google", "tpu-v5p-slice", 0),
    ],
)  # fmt: skip
def test_each_vendors_devices_are_told_by_model_and_memory(
    amounts: dict[str, str], labels: dict[str, str], name: str, vendor: str, model: str, memory: int
) -> None:
    (device,) = devices(a_node(amounts, labels))
    assert (device.name, device.vendor, device.model, device.memory_bytes) == (name, vendor, model, memory)
    assert device.healthy
    assert device.isolation is Isolation.COUNTED_ONLY


@pytest.mark.parametrize(
    "resource",
    [
        "rdma/hca_shared_devices_a", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/gpumem-percentage",
        "huawei.com/Ascend910B3-memory", "huawei.com/Ascend910B3-core", "huawei.com/npu-core", "intel.com/sriov",
        "cambricon.com/mlu.smlu.vmemory", "cambricon.com/mlu370.smlu.vcore", "example.com/dongle", "squat.ai/fuse",
    ],
)  # fmt: skip
def test_resources_that_are_no_devices_are_passed_over(resource: str) -> None:
    assert devices(a_node({resource: "8"})) == []


def test_devices_of_several_kinds_have_names_and_indexes_of_their_own() -> None:
    amounts = {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": "2", "nvidia.com/mig-3g.40gb": "1", "amd.com/gpu": "1"}
    found = devices(a_node(amounts, H100))
    assert [(device.name, device.index) for device in found] == [
        ("amd-0", 0), ("nvidia-0", 1), ("nvidia-1", 2), ("nvidia-mig-1g.10gb-0", 3), ("nvidia-mig-1g.10gb-1", 4),
        ("nvidia-mig-3g.40gb-0", 5),
    ]  # fmt: skip
    twins = devices(a_node({"gpu.intel.com/i915": "1", "gpu.intel.com/xe": "1"}))
    assert [device.name for device in twins] == ["intel-0", "intel-xe-0"]


def test_unknown_vendors_and_renamed_resources_are_named_in_the_settings() -> None:
    node = a_node({"acme.ai/npu": "1", "nvidia.com/gpu": "1", "corp.example/gpu": "1"}, H100)
    found = devices(node, resources={"acme": "acme.ai/npu", "nvidia": "corp.example/gpu"})
    assert [(device.name, device.model) for device in found] == [
        ("acme-0", "acme"), ("nvidia-0", "NVIDIA-H100-80GB-HBM3"),
    ]  # fmt: skip
    assert (
        slots_of(node, KubernetesSettings(resources={"nvidia": "corp.example/gpu"}))[0].resource == "corp.example/gpu"
    )


def test_memory_that_no_label_tells_is_taken_from_the_settings() -> None:
    node = a_node({"huawei.com/Ascend910": "1"}, {"node.kubernetes.io/npu.chip.name": "910B3"})
    assert devices(node, device_memory_bytes={"Ascend910B3": 64 * GIB})[0].memory_bytes == 64 * GIB
    labelled = a_node({"nvidia.com/gpu": "1"}, H100)
    assert devices(labelled, device_memory_bytes={"NVIDIA-H100-80GB-HBM3": 1})[0].memory_bytes == 81559 * MIB


# -- HAMi -------------------------------------------------------------------------------------------------------------


def test_hami_names_its_devices() -> None:
    node = a_node({"nvidia.com/gpu": "20"}, annotations={"hami.io/node-nvidia-register": HAMI_TEXT})
    assert [(d.name, d.index, d.model, d.memory_bytes, d.healthy, d.isolation) for d in devices(node)] == [
        ("GPU-00552014-5c87", 0, "Tesla V100-PCIE-32GB", 32 * GIB, True, Isolation.ENFORCED),
        ("GPU-0fc3eda5-e98b", 1, "Tesla V100-PCIE-32GB", 32 * GIB, False, Isolation.ENFORCED),
    ]


@pytest.mark.parametrize(
    ("key", "text", "names", "vendor"),
    [
        ("node-nvidia-register", HAMI_OLD_TEXT, ["GPU-00552014-5c87", "GPU-0fc3eda5-e98b"], "nvidia"),
        ("node-nvidia-register", HAMI_JSON, ["GPU-32f85ff6", "GPU-b"], "nvidia"),
        ("node-register-Ascend910B4", HAMI_ASCEND, ["Ascend910B4-0", "Ascend910B4-1"], "huawei"),
        ("node-mlu-register", "MLU-45013011-2257,10,23308,0,MLU-MLU370-X4,0,true,0,hami-core:", ["MLU-45013011-2257"],
         "cambricon"),
        ("node-nvidia-register", "[{broken", [], ""),
        ("node-nvidia-register", "GPU-1,ten,much,0,x,0,true:", [], ""),
        ("node-nvidia-register", "", [], ""),
        ("node-nvidia-score", HAMI_JSON, [], ""),
        ("node-handshake", "Reported_2026-01-01 00:00:00", [], ""),
    ],
)  # fmt: skip
def test_hami_registers_in_forms_old_and_new(key: str, text: str, names: list[str], vendor: str) -> None:
    found = devices(a_node({}, annotations={f"hami.io/{key}": text}))
    assert [device.name for device in found] == names
    assert {device.vendor for device in found} <= {vendor}


def test_the_tickets_that_hami_makes_of_a_card_are_no_devices() -> None:
    node = a_node({"nvidia.com/gpu": "20"}, H100, {"hami.io/node-nvidia-register": HAMI_TEXT})
    for fractions in ("auto", "whole", "refuse", "kai"):
        assert [device.index for device in devices(node, fractions=fractions)] == [0, 1]
