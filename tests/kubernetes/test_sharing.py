"""What Pods ask for: whole devices, and shares by HAMi and KAI in the forms of their documents (neither runs here)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from dujiang.engines.contract import DeviceShare, EngineRefused, Isolation, RankPlacement
from dujiang.engines.kubernetes.devices import Slot, shares_by, slots_of
from dujiang.engines.kubernetes.inventory import facts_of
from dujiang.engines.kubernetes.others import reduce_pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import DeviceRequest, request_for
from tests.kubernetes.test_devices import GIB, H100, HAMI_ASCEND, HAMI_TEXT, a_node

V100S = [f"GPU-0055{number}" for number in range(3)]
HAMI_V100S = ":".join(
    f"{uuid},10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,{number},hami-core" for number, uuid in enumerate(V100S)
)
PLAIN = a_node({"nvidia.com/gpu": "4", "nvidia.com/mig-1g.10gb": "2"}, H100)
HAMI = a_node({"nvidia.com/gpu": "30"}, annotations={"hami.io/node-nvidia-register": f"{HAMI_V100S}:"})
ASCEND = a_node({"huawei.com/Ascend910B4": "8"}, annotations={"hami.io/node-register-Ascend910B4": HAMI_ASCEND})
MLU = a_node({}, annotations={"hami.io/node-mlu-register": "MLU-1,10,23308,0,MLU-MLU370-X4,0,true,0,hami-core:"})


def ask(node: Any, *shares: tuple[str, int] | tuple[str, int, int], **settings: Any) -> DeviceRequest:
    """Return what a rank with such shares (name, thousandths, bytes) of a node's devices asks for."""
    chosen = replace(KubernetesSettings(), **settings)
    devices = tuple(
        DeviceShare(name, number, milli, *(memory or (0,))) for number, (name, milli, *memory) in enumerate(shares)
    )
    return request_for(RankPlacement(0, node.name, 1000, GIB, devices=devices), slots_of(node, chosen), chosen)


def test_whole_devices_are_asked_for_by_their_resource() -> None:
    asked = ask(PLAIN, ("nvidia-0", 1000), ("nvidia-2", 1000), ("nvidia-mig-1g.10gb-1", 1000))
    assert asked.limits == {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": "1"}
    assert asked.annotations == {"dujiang.io/devices": "nvidia-0,nvidia-2,nvidia-mig-1g.10gb-1"}
    assert (asked.scheduler, asked.claim, asked.env) == ("", None, {})
    assert asked.isolation is Isolation.ENFORCED


def test_work_without_devices_is_kept_from_those_that_its_image_asks_for() -> None:
    assert ask(PLAIN) == DeviceRequest(env={"NVIDIA_VISIBLE_DEVICES": "void"})
    assert ask(a_node({"amd.com/gpu": "1"})) == DeviceRequest()


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(EngineRefused, match=re.escape("Node 'n1' has no device 'nvidia-9'.")):
        ask(PLAIN, ("nvidia-9", 1000))


def test_shares_are_refused_where_nothing_gives_them() -> None:
    for settings in ({}, {"fractions": "refuse"}, {"fractions": "hami"}, {"scheduler": "volcano"}):
        with pytest.raises(EngineRefused, match=r"set `fractions` to `whole`"):
            ask(PLAIN, ("nvidia-0", 500), **settings)
    with pytest.raises(EngineRefused, match="install HAMi or KAI"):
        ask(HAMI, (V100S[0], 500), fractions="refuse")


def test_a_share_can_be_given_a_whole_device() -> None:
    asked = ask(PLAIN, ("nvidia-0", 250), fractions="whole")
    assert asked.limits == {"nvidia.com/gpu": "1"}
    assert asked.isolation is Isolation.COUNTED_ONLY


# -- HAMi -------------------------------------------------------------------------------------------------------------


def test_hami_is_asked_for_memory_and_cores_of_the_chosen_device() -> None:
    asked = ask(HAMI, (V100S[0], 250, 8 * GIB))
    assert asked.limits == {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "8192", "nvidia.com/gpucores": "25"}
    assert asked.annotations["nvidia.com/use-gpuuuid"] == V100S[0]
    assert asked.isolation is Isolation.ENFORCED


def test_hami_gives_several_devices_the_same_share_or_none() -> None:
    asked = ask(HAMI, (V100S[0], 500), (V100S[2], 500))
    assert asked.limits == {"nvidia.com/gpu": "2", "nvidia.com/gpumem": "16384", "nvidia.com/gpucores": "50"}
    assert asked.annotations["nvidia.com/use-gpuuuid"] == f"{V100S[0]},{V100S[2]}"
    with pytest.raises(EngineRefused, match="HAMi gives a Pod the same share of each device; rank 0 asks for unlike"):
        ask(HAMI, (V100S[0], 500), (V100S[1], 1000))


def test_eight_eighths_fit_on_one_device_of_hami() -> None:
    asked = ask(HAMI, (V100S[0], 125))
    assert int(asked.limits["nvidia.com/gpucores"]) * 8 <= 100
    assert int(asked.limits["nvidia.com/gpumem"]) * 8 <= 32768
    assert ask(HAMI, (V100S[0], 1)).limits["nvidia.com/gpucores"] == "1"


def test_whole_devices_of_hami_are_asked_for_whole() -> None:
    # Without an amount HAMi gives its default, which a site may have set to a piece.
    asked = ask(HAMI, (V100S[1], 1000))
    assert asked.limits == {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "32768", "nvidia.com/gpucores": "100"}
    assert ask(HAMI, (V100S[1], 200), fractions="whole").limits == asked.limits
    assert ask(ASCEND, ("Ascend910B4-1", 1000)).limits == {"huawei.com/Ascend910B4": "1"}


def test_hami_gives_shares_of_ascend_by_memory_and_of_cambricon_by_percent() -> None:
    asked = ask(ASCEND, ("Ascend910B4-0", 250))
    assert asked.limits == {"huawei.com/Ascend910B4": "1", "huawei.com/Ascend910B4-memory": "8192"}
    assert asked.annotations["hami.io/use-Ascend910B4-uuid"] == "Ascend910B4-0"
    assert ask(MLU, ("MLU-1", 200)).limits == {
        "cambricon.com/vmlu": "1", "cambricon.com/mlu.smlu.vmemory": "20", "cambricon.com/mlu.smlu.vcore": "20",
    }  # fmt: skip


def test_a_device_of_which_hami_gave_others_anything_is_not_told() -> None:
    notes = {"hami.io/vgpu-devices-allocated": f"{V100S[1]},NVIDIA,3000,0:;{V100S[1]},NVIDIA,5000,0:;"}
    theirs = reduce_pod(
        {
            "metadata": {"name": "p", "namespace": "others", "annotations": notes},
            "spec": {"nodeName": "n1", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]},
            "status": {"phase": "Running"},
        },
        mark=("dujiang.io/mark", "here"),
    )
    assert theirs is not None
    assert theirs.hami == ((V100S[1], 3000, 0), (V100S[1], 5000, 0))
    (told,) = facts_of([HAMI], [theirs], settings=KubernetesSettings())
    assert [device.name for device in told.devices] == [V100S[0], V100S[2]]


# -- KAI --------------------------------------------------------------------------------------------------------------


def kai(*shares: Any, **settings: Any) -> DeviceRequest:
    return ask(PLAIN, *shares, scheduler="kai-scheduler", **settings)


def test_kai_is_asked_by_annotations_and_not_by_resources() -> None:
    asked = kai(("nvidia-0", 500))
    assert asked.limits == {}
    assert asked.annotations == {"dujiang.io/devices": "nvidia-0", "gpu-fraction": "0.5"}
    assert (asked.scheduler, asked.isolation) == ("kai-scheduler", Isolation.COUNTED_ONLY)
    assert kai(("nvidia-0", 125), ("nvidia-1", 125)).annotations["gpu-fraction-num-devices"] == "2"
    assert kai(("nvidia-0", 125)).annotations["gpu-fraction"] == "0.125"


def test_kai_is_asked_for_memory_where_a_share_has_more_than_its_part() -> None:
    assert kai(("nvidia-0", 100, 20 * GIB)).annotations["gpu-memory"] == "20480"
    assert "gpu-fraction" not in kai(("nvidia-0", 100, 20 * GIB)).annotations
    assert kai(("nvidia-0", 500, 20 * GIB)).annotations["gpu-fraction"] == "0.5"


def test_kai_is_set_or_seen_by_its_scheduler() -> None:
    assert ask(PLAIN, ("nvidia-0", 500), fractions="kai").scheduler == "kai-scheduler"
    with pytest.raises(EngineRefused, match="whole devices or shares, not both"):
        kai(("nvidia-0", 500), ("nvidia-1", 1000))
    with pytest.raises(EngineRefused, match="KAI gives a Pod the same share"):
        kai(("nvidia-0", 500), ("nvidia-1", 250))


def a_pod(name: str, namespace: str, group: str, *, ours: bool = False, gpus: int = 0) -> Any:
    labels = {"runai-gpu-group": group} | ({"dujiang.io/mark": "here"} if ours else {})
    resources = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    notes = {"dujiang.io/devices": "nvidia-0"} if ours else {}
    return reduce_pod(
        {
            "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": notes},
            "spec": {"nodeName": "n1", "containers": [resources]},
            "status": {"phase": "Running"},
        },
        mark=("dujiang.io/mark", "here"),
    )


def test_a_device_that_kai_reserves_for_us_is_not_held_by_others() -> None:
    pods = [
        a_pod("r0", "dujiang-team", "g1", ours=True),
        a_pod("gpu-reservation-n1-abcde", "kai-resource-reservation", "g1", gpus=1),
        a_pod("gpu-reservation-n1-fghij", "kai-resource-reservation", "g2", gpus=1),
        a_pod("theirs", "others", "g2"),
    ]
    node = a_node({"nvidia.com/gpu": "4"}, H100)
    (told,) = facts_of([node], pods, settings=KubernetesSettings(scheduler="kai-scheduler"))
    assert [device.name for device in told.devices] == ["nvidia-0", "nvidia-1", "nvidia-2"]


@pytest.mark.parametrize(
    ("node", "settings", "by"),
    [
        (PLAIN, {}, "refuse"),
        (PLAIN, {"scheduler": "kai-scheduler"}, "kai"),
        (PLAIN, {"fractions": "hami"}, "refuse"),
        (PLAIN, {"fractions": "whole", "scheduler": "kai-scheduler"}, "whole"),
        (HAMI, {}, "hami"),
        (HAMI, {"fractions": "kai"}, "refuse"),
        (HAMI, {"fractions": "whole"}, "whole"),
    ],
)
def test_who_gives_shares_is_chosen_or_seen(node: Any, settings: dict[str, Any], by: str) -> None:
    chosen = KubernetesSettings(**settings)
    slots: list[Slot] = slots_of(node, chosen)
    assert shares_by(slots[0], chosen) == by
    assert slots[0].facts.isolation is (Isolation.ENFORCED if by == "hami" else Isolation.COUNTED_ONLY)


def test_the_documented_example_of_hami_is_read_whole() -> None:
    node = a_node({}, annotations={"hami.io/node-nvidia-register": HAMI_TEXT})
    assert ask(node, ("GPU-00552014-5c87", 300)).limits["nvidia.com/gpumem"] == "9830"
