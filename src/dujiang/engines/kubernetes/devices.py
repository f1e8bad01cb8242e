"""Which devices a node has, as slots that can be given away: pure.

Of one vendor's devices the most exact word is taken: those that a driver of dynamic resource allocation publishes, else
those that HAMi registered, else as many as the node's extended resource counts. The first two have names of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dujiang.engines.contract import DeviceFacts, Isolation
from dujiang.engines.kubernetes import hami, kinds
from dujiang.engines.kubernetes.claims import KubeDevice, selector_of
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.settings import KubernetesSettings

KAI: Final = "kai-scheduler"
"""The `schedulerName` of KAI: with it, shares are given by KAI's fractions unless set otherwise."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One device of a node, and how it is asked for: by a resource, as one of HAMi's, or with a claim."""

    facts: DeviceFacts
    resource: str = ""
    """Extended resource that it is asked for with; empty where a claim is needed."""
    is_counted: bool = False
    """It is one of so many of its resource, without a name of its own."""
    hami: hami.HamiDevice | None = None
    device: KubeDevice | None = None

    @property
    def uuid(self) -> str:
        """Return by which name HAMi knows it; empty when it does not."""
        return self.hami.uuid if self.hami else ""

    def unhealthy(self) -> Slot:
        """Return the same slot as one that is broken."""
        return replace(self, facts=replace(self.facts, healthy=False))


def slots_of(node: KubeNode, settings: KubernetesSettings, claimable: Sequence[KubeDevice] = ()) -> list[Slot]:
    """Return all device slots of a node, also those that others hold, those of one kind next to one another.

    Args:
        node: whose.
        settings: of the cluster.
        claimable: its devices of dynamic resource allocation.
    """
    found = _claimed(claimable, settings)
    # A vendor's devices come from one source: in the others they are the same again. On a node of HAMi the resource
    # counts tickets, ten of each card, whether or not shares are wanted.
    for read in (_registered, _counted):
        found += read(node, settings, {slot.facts.vendor for slot in found}, len(found))
    return found


def shares_by(slot: Slot, settings: KubernetesSettings) -> str:
    """Return what gives shares of a device: `hami`, `kai`, `whole`, or `refuse` where nothing does."""
    return _shares_by(slot.resource, settings, is_hami=slot.hami is not None)


def isolation_of(slot: Slot, settings: KubernetesSettings) -> Isolation:
    """Return how far a share of a device would be kept.

    HAMi's library holds programs to memory and cores (its README: "hard limit" of both); in the modes `mig` and `mps`
    the device or its server does. KAI only counts: it "does not enforce memory allocation limit" (docs/gpu-sharing),
    and whether an isolator is installed beside it cannot be seen on the nodes. Of a whole device, the share is counted.
    """
    return _isolation(slot.resource, settings, is_hami=slot.hami is not None)


def _shares_by(resource: str, settings: KubernetesSettings, *, is_hami: bool) -> str:
    if settings.fractions in ("whole", "refuse"):
        return settings.fractions
    if is_hami:
        return "hami" if settings.fractions in ("auto", "hami") else "refuse"
    by_kai = settings.fractions == "kai" or (settings.fractions == "auto" and settings.scheduler == KAI)
    return "kai" if by_kai and resource == "nvidia.com/gpu" else "refuse"


def _isolation(resource: str, settings: KubernetesSettings, *, is_hami: bool) -> Isolation:
    by = _shares_by(resource, settings, is_hami=is_hami)
    return Isolation.ENFORCED if by == "hami" else Isolation.COUNTED_ONLY


def _claimed(devices: Sequence[KubeDevice], settings: KubernetesSettings) -> list[Slot]:
    found: list[Slot] = []
    for device in devices:
        vendor = kinds.driver_vendor(device.id[0], settings)
        if vendor is not None:
            memory = device.memory_bytes or settings.device_memory_bytes.get(device.model, 0)
            # A device that no claim can name could not be asked for.
            healthy = not device.is_tainted and selector_of(device, devices) is not None
            facts = DeviceFacts(device.id[2], len(found), vendor, device.model, memory, healthy, labels=_NO_LABELS)
            found.append(Slot(facts, device=device))
    return found


def _registered(node: KubeNode, settings: KubernetesSettings, known: Collection[str], first: int) -> list[Slot]:
    found: list[Slot] = []
    for device in node.hami:
        if device.vendor in known:
            continue
        model = device.type.removeprefix("NVIDIA-").removeprefix("MLU-") or device.vendor
        memory = settings.device_memory_bytes.get(model, device.memory_mib << 20)
        resource = hami.words_of(device).count
        kept = _isolation(resource, settings, is_hami=True)
        index = first + len(found)
        facts = DeviceFacts(device.uuid, index, device.vendor, model, memory, device.healthy, kept, _NO_LABELS)
        found.append(Slot(facts, resource=resource, hami=device))
    return found


def _counted(node: KubeNode, settings: KubernetesSettings, known: Collection[str], first: int) -> list[Slot]:
    found: list[Slot] = []
    stems: dict[str, str] = {}
    for resource in sorted({*node.extended, *node.broken}):
        kind = kinds.kind_of(resource, settings)
        if kind is None or kind.vendor in known:
            continue
        named = kinds.named_of(kind, node.labels)
        memory = named.memory_bytes or settings.device_memory_bytes.get(named.model, 0) // named.shares
        kept = _isolation(resource, settings, is_hami=False)
        stem = f"{kind.vendor}-{kind.part}" if kind.part else kind.vendor
        if stems.setdefault(stem, resource) != resource:  # a vendor with two resources for whole devices
            stem += "-" + resource.rpartition("/")[2]
        for number in range(node.extended.get(resource, 0) + node.broken.get(resource, 0)):
            index = first + len(found)
            facts = DeviceFacts(f"{stem}-{number}", index, kind.vendor, named.model, memory, True, kept, _NO_LABELS)
            found.append(Slot(facts, resource=resource, is_counted=True))
    return found


_NO_LABELS: Mapping[str, str] = {}
