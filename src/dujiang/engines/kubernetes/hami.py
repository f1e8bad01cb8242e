"""What HAMi writes on nodes and wants of Pods: pure. By its documents; HAMi itself was not seen running here.

HAMi's device plugin writes the devices of a node into an annotation: as JSON, formerly as text. Its scheduler gives
shares of them by memory and by percent of their cores, and its library inside the container holds programs to both.

Source: HAMi, docs/develop/protocol.md, pkg/device/devices.go, pkg/device/nvidia/device.go; docs of Ascend, Cambricon.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_REGISTER = re.compile(r"hami\.io/node-(?:(nvidia|mlu)-register|register-(Ascend[\w-]+))", re.ASCII)


@dataclass(frozen=True, slots=True)
class HamiDevice:
    """A device as HAMi registered it."""

    uuid: str
    index: int
    vendor: str
    type: str
    """As HAMi calls it, such as `NVIDIA-Tesla V100-PCIE-32GB`."""
    memory_mib: int
    healthy: bool
    mode: str
    """`hami-core`, `mig` or `mps`."""


@dataclass(frozen=True, slots=True)
class HamiWords:
    """What the shares of one vendor's devices are asked for with."""

    count: str
    """Resource: how many devices."""
    memory: str
    """Resource: memory of each."""
    cores: str
    """Resource: percent of the cores of each; empty where cores are given with the memory."""
    uuids: str
    """Annotation: only these devices, separated by commas; empty where there is none."""
    memory_is_percent: bool = False


_NVIDIA: Final = HamiWords("nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/use-gpuuuid")
_CAMBRICON: Final = HamiWords(
    "cambricon.com/vmlu", "cambricon.com/mlu.smlu.vmemory", "cambricon.com/mlu.smlu.vcore", "", memory_is_percent=True
)


def words_of(device: HamiDevice) -> HamiWords:
    """Return how shares of a device are asked for."""
    if device.vendor == "huawei":
        resource = f"huawei.com/{device.type}"
        return HamiWords(resource, f"{resource}-memory", "", f"hami.io/use-{device.type}-uuid")
    return _NVIDIA if device.vendor == "nvidia" else _CAMBRICON


def hami_devices(annotations: Mapping[str, str]) -> tuple[HamiDevice, ...]:
    """Return the devices that HAMi registered on a node; what cannot be read is left out."""
    found: list[HamiDevice] = []
    for key, text in annotations.items():
        match = _REGISTER.fullmatch(key)
        if match:
            vendor = {"nvidia": "nvidia", "mlu": "cambricon"}.get(match[1] or "", "huawei")
            read = _of_json if text.lstrip().startswith("[") else _of_text
            found += read(text, vendor)
    return tuple(sorted(found, key=lambda device: (device.vendor, device.index, device.uuid)))


def _of_json(text: str, vendor: str) -> Iterator[HamiDevice]:
    try:
        listed = json.loads(text)
    except ValueError:
        return
    for one in listed:
        if isinstance(one, dict) and one.get("id"):
            yield _device(one, vendor)


def _of_text(text: str, vendor: str) -> Iterator[HamiDevice]:
    """Read `UUID,split,MiB,cores,type,numa,healthy[,index,mode]:` for each device."""
    for place, part in enumerate(filter(None, text.strip().split(":"))):
        fields = part.split(",")
        if len(fields) not in (7, 9) or not fields[2].isdecimal():
            continue
        uuid, _, memory, _, type_, _, healthy = fields[:7]
        index, mode = fields[7:] if len(fields) == 9 else (str(place), "hami-core")
        yield _device(
            {"id": uuid, "devmem": int(memory), "type": type_, "health": healthy == "true",
             "index": int(index) if index.isdecimal() else place, "mode": mode},
            vendor,
        )  # fmt: skip


def _device(one: Mapping[str, Any], vendor: str) -> HamiDevice:
    return HamiDevice(
        uuid=sys.intern(str(one["id"])),
        index=int(one.get("index") or 0),  # Go leaves out a zero
        vendor=vendor,
        type=sys.intern(str(one.get("type", ""))),
        memory_mib=int(one.get("devmem") or 0),
        healthy=bool(one.get("health")),
        mode=sys.intern(str(one.get("mode") or "hami-core")),
    )
