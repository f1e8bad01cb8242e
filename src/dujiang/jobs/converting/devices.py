"""What others call accelerators and their parts: names of resources, of models, of MIG slices. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """An accelerator as `resources.gpu` names it."""

    vendor: str
    model: str | None = None


WHOLE: Final[Mapping[str, Kind]] = {
    "nvidia.com/gpu": Kind("nvidia"), "amd.com/gpu": Kind("amd"), "gpu.intel.com/i915": Kind("intel"),
    "gpu.intel.com/xe": Kind("intel"), "intel.com/gpu": Kind("intel"), "habana.ai/gaudi": Kind("habana", "Gaudi"),
    "cambricon.com/mlu": Kind("cambricon"), "cambricon.com/vmlu": Kind("cambricon"), "hygon.com/dcu": Kind("hygon"),
    "hygon.com/dcunum": Kind("hygon"), "metax-tech.com/gpu": Kind("metax"), "mthreads.com/gpu": Kind("mthreads"),
    "mthreads.com/vgpu": Kind("mthreads"), "iluvatar.ai/gpu": Kind("iluvatar"), "enflame.com/gcu": Kind("enflame"),
    "kunlunxin.com/xpu": Kind("kunlunxin"), "google.com/tpu": Kind("google", "TPU"),
    "aws.amazon.com/neuron": Kind("aws"), "volcano.sh/vgpu-number": Kind("nvidia"),
}  # fmt: skip
"""Resources of Kubernetes that count devices."""
_ASCEND: Final = re.compile(r"huawei\.com/(?:Ascend)?(\d{3}[A-Za-z0-9]{0,6})", re.IGNORECASE)
_MIG: Final = re.compile(r"nvidia\.com/mig-(\d)g\.(\d{1,3})gb(?:\.me|\+me)?")


@dataclass(frozen=True, slots=True)
class Shared:
    """The names of the resources that make a share of a device, of one sharing system."""

    system: str
    memory: str
    """In MiB."""
    cores: str
    """In hundredths."""
    memory_percentage: str = ""


SHARED: Final[Mapping[str, Shared]] = {
    "nvidia.com/gpu": Shared("HAMi", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/gpumem-percentage"),
    "volcano.sh/vgpu-number": Shared(
        "Volcano", "volcano.sh/vgpu-memory", "volcano.sh/vgpu-cores", "volcano.sh/vgpu-memory-percentage"
    ),
}
"""By the resource that counts the devices."""


def whole(name: str) -> Kind | None:
    """Return what a resource of Kubernetes counts, None when it counts no devices."""
    ascend = _ASCEND.fullmatch(name)
    return Kind("huawei", ascend[1]) if ascend else WHOLE.get(name)


def mig(name: str) -> tuple[int, int] | None:
    """Return thousandths of a device and bytes of a MIG slice: `nvidia.com/mig-1g.10gb`; None when it is none."""
    match = _MIG.fullmatch(name)
    if match is None:
        return None
    slices, gib = int(match[1]), int(match[2])
    of = 4 if gib in (6, 12, 24) else 7  # an A30 has four compute slices, all later ones seven
    return max(1, min(1000, slices * 1000 // of)), gib * 2**30


_KNOWN: Final = re.compile(
    r"(?<![a-z0-9])(?:[rg]tx[-_ ]?(\d{3,4})|((?:[abhlvpt]|gb|gh|mi|mlu|bi|s)\d{2,4}[a-z]{0,3}|[tlp]4|910[abc]?|310p?"
    r"|gaudi\d?))(?![a-z0-9])",
    re.IGNORECASE,
)


def model_of(label: str) -> str | None:
    """Return the part of a device's name that a label or a type of others has: `NVIDIA-A100-SXM4-80GB` is A100."""
    match = _KNOWN.search(label)
    return (match[1] or match[2]).upper() if match else None


MODEL_LABELS: Final = frozenset(
    (
        "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "amd.com/gpu.product-name",
        "accelerator", "gpu-type", "gpu.nvidia.com/model", "aliyun.accelerator/nvidia_name",
        "node.kubernetes.io/accelerator", "k8s.amazonaws.com/accelerator", "accelerator-type",
    )
)  # fmt: skip
"""Labels of nodes that name the model of their devices."""
