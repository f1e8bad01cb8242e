"""The kinds of devices that Kubernetes clusters know, by extended resource and by driver, and what labels say of them.

Only resources that stand for whole devices or fixed parts of them are here: the memory and cores that HAMi counts as
resources too are no devices. None of these vendors' plugins was seen running: the names are those of their documents.

Sources: NVIDIA k8s-device-plugin (README, docs/gpu-feature-discovery, MIG and sharing) and dra-driver-nvidia-gpu; AMD
k8s-device-plugin and node labeller; Intel device plugins (gpu_plugin); Habana gaudi-device-plugin; Huawei MindCluster,
"Native Kubernetes Objects"; Cambricon device plugin (README); Hygon, MetaX, Moore Threads, Biren, Iluvatar, Enflame and
Kunlunxin by their Kubernetes guides and HAMi's; AWS Neuron, Google GKE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dujiang.engines.kubernetes.settings import KubernetesSettings

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """What devices of one resource are."""

    vendor: str
    part: str = ""
    """Of which part of a device, such as `mig-1g.10gb`; empty for whole devices."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the labels of a node say of its devices of one kind."""

    model: str
    memory_bytes: int
    """0 where nothing says it."""
    shares: int = 1
    """How many slots one card was cut into by time slicing or MPS; memory is that of one slot."""


_WHOLE: Final[Mapping[str, str]] = {
    "nvidia.com/gpu": "nvidia",
    "nvidia.com/gpu.shared": "nvidia",
    "amd.com/gpu": "amd",
    "gpu.intel.com/i915": "intel",
    "gpu.intel.com/xe": "intel",
    "habana.ai/gaudi": "habana",
    "huawei.com/npu": "huawei",
    "cambricon.com/mlu": "cambricon",
    "cambricon.com/vmlu": "cambricon",
    "cambricon.com/mlunum": "cambricon",
    "hygon.com/dcu": "hygon",
    "hygon.com/dcunum": "hygon",
    "metax-tech.com/gpu": "metax",
    "mthreads.com/gpu": "mthreads",
    "mthreads.com/vgpu": "mthreads",
    "birentech.com/gpu": "biren",
    "iluvatar.com/gpu": "iluvatar",
    "iluvatar.ai/gpu": "iluvatar",
    "enflame.com/gcu": "enflame",
    "kunlunxin.com/xpu": "kunlunxin",
    "aws.amazon.com/neuron": "aws",
    "google.com/tpu": "google",
}
_PARTS: Final = (
    (re.compile(r"nvidia\.com/(mig-\d+[cg]\.[\w.+-]+)", re.ASCII), "nvidia"),
    (re.compile(r"amd\.com/((?:spx|dpx|qpx|cpx)_nps\d)", re.ASCII), "amd"),
    (re.compile(r"huawei\.com/(Ascend\d+[A-Z]?\d?(?:-1)?(?:-\d+c(?:\.\d+cpu(?:\.ndvpp)?)?)?)", re.ASCII), "huawei"),
    (re.compile(r"cambricon\.com/(mlu\d+(?:\.(?:share|mim-[\w.]+))?)", re.ASCII), "cambricon"),
    (re.compile(r"birentech\.com/(1-[24]-gpu)", re.ASCII), "biren"),
    (re.compile(r"hygon\.com/(dcu-(?:mig|share)-[\w-]+)", re.ASCII), "hygon"),
)
DRIVERS: Final[Mapping[str, str]] = {
    "gpu.nvidia.com": "nvidia",
    "gpu.amd.com": "amd",
    "gpu.intel.com": "intel",
    "gaudi.intel.com": "habana",
    "neuron.aws.com": "aws",
}
"""Drivers of dynamic resource allocation whose devices are accelerators, by name."""


def kind_of(resource: str, settings: KubernetesSettings) -> Kind | None:
    """Return what an extended resource stands for; None when it is no device, or its vendor has another name here."""
    for vendor, name in settings.resources.items():
        if name == resource:
            return Kind(vendor)
    if (maker := _WHOLE.get(resource)) is not None:
        return Kind(maker) if maker not in settings.resources else None
    for pattern, maker in _PARTS:
        if match := pattern.fullmatch(resource):
            return Kind(maker, match[1])
    return None


def driver_vendor(driver: str, settings: KubernetesSettings) -> str | None:
    """Return the vendor of a driver's devices; None when they are no accelerators that we know.

    `resources` of the settings name further ones: a name without a slash is a driver's, not an extended resource.
    """
    for vendor, name in settings.resources.items():
        if name == driver:
            return vendor
    return DRIVERS.get(driver)


def named_of(kind: Kind, labels: Mapping[str, str]) -> Named:
    """Return model and memory of a node's devices as its labels say them; the resource's own words where none does."""
    reader = _READERS.get(kind.vendor)
    return reader(kind, labels) if reader else Named(kind.part or kind.vendor, 0)


def _nvidia(kind: Kind, labels: Mapping[str, str]) -> Named:
    product = labels.get("nvidia.com/gpu.product") or labels.get("cloud.google.com/gke-accelerator") or "nvidia"
    if kind.part:  # strategy `mixed`: each profile has labels of its own
        memory = _number(labels.get(f"nvidia.com/{kind.part}.memory")) * _MIB or _profile_bytes(kind.part)
        card = product.partition("-MIG-")[0].removesuffix("-SHARED")
        profile = kind.part.removeprefix("mig-")
        return Named(labels.get(f"nvidia.com/{kind.part}.product") or f"{card}-MIG-{profile}", memory)
    memory = _number(labels.get("nvidia.com/gpu.memory")) * _MIB
    strategy = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    shares = _number(labels.get("nvidia.com/gpu.replicas")) if strategy in ("time-slicing", "mps") else 1
    return Named(product, memory // max(1, shares), max(1, shares))


def _amd(kind: Kind, labels: Mapping[str, str]) -> Named:
    product = labels.get("amd.com/gpu.product-name") or labels.get("beta.amd.com/gpu.product-name") or "amd"
    memory = _size(labels.get("amd.com/gpu.vram") or labels.get("beta.amd.com/gpu.vram"))
    model = re.sub(r"^AMD[_-]Instinct[_-]", "", product)
    return Named(f"{model}-{kind.part.upper()}" if kind.part else model, 0 if kind.part else memory)


def _huawei(kind: Kind, labels: Mapping[str, str]) -> Named:
    family, _, cut = kind.part.partition("-")
    chip = labels.get("node.kubernetes.io/npu.chip.name", "").removeprefix("Ascend")
    memory = _size(labels.get("mind-cluster/npu-chip-memory"))
    if cut.partition("c")[0].isdecimal() and cut != "1":  # a virtual NPU of so many cores
        return Named(f"Ascend{chip}-{cut}" if chip else kind.part, 0)
    exact = family not in ("", "Ascend910", "Ascend310", "Ascend310P")
    return Named(kind.part if exact or not chip else f"Ascend{chip}", memory)


def _cambricon(kind: Kind, labels: Mapping[str, str]) -> Named:
    size = re.search(r"\.(\d+)gb$", kind.part)
    return Named(
        kind.part.upper().replace(".MIM", "-mim").replace("GB", "gb") or "MLU", int(size[1]) * _GIB if size else 0
    )


def _plain(model: str, memory: str = "", *, default: str) -> Callable[[Kind, Mapping[str, str]], Named]:
    def read(kind: Kind, labels: Mapping[str, str]) -> Named:
        said = labels.get(model) or default
        return Named(f"{said}-{kind.part}" if kind.part else said, 0 if kind.part else _size(labels.get(memory)))

    return read


_READERS: Final[Mapping[str, Callable[[Kind, Mapping[str, str]], Named]]] = {
    "nvidia": _nvidia,
    "amd": _amd,
    "huawei": _huawei,
    "cambricon": _cambricon,
    "intel": _plain("gpu.intel.com/product", default="intel"),
    "habana": _plain("", default="Gaudi"),
    "hygon": _plain("hygon.com/dcu.name", "hygon.com/dcu.vram", default="DCU"),
    "aws": _plain("node.kubernetes.io/instance-type", default="Neuron"),
    "google": _plain("cloud.google.com/gke-tpu-accelerator", default="TPU"),
}


def _profile_bytes(profile: str) -> int:
    """Return the memory that the name of a MIG profile tells: `mig-1g.10gb` has 10 GB (their GB are 2^30 bytes)."""
    size = re.search(r"\.(\d+)gb", profile)
    return int(size[1]) * _GIB if size else 0


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _size(text: str | None) -> int:
    """Return bytes of `192G`, as AMD's and Huawei's labels give them: whole GiB."""
    match = re.fullmatch(r"(\d{1,6})\s*([MGT])i?B?", text or "", re.ASCII)
    return int(match[1]) * {"M": _MIB, "G": _GIB, "T": _GIB << 10}[match[2]] if match else 0
