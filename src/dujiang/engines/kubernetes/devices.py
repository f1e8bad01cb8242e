"""Which devices a node has, as slots that can be given away: pure.

Of one vendor's devices the most exact word is taken: those that a driver of dynamic resource allocation publishes, else
those that HAMi registered, else as many as the node's extended resource counts. The first two have names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dujiang.engines.contract import DeviceFacts, Isolation
from dujiang.engines.kubernetes import hami, kinds
from dujiang.engines.kubernetes.claims import KubeDevice, selector_of
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.settings import KubernetesSettings

KAI: str = "kai-scheduler"
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
    found: list[Slot] = []
    # On a node of HAMi the resource counts tickets, ten of each card, whether or not shares are wanted.
    for slot in (*_claimed(claimable, settings), *_registered(node, settings), *_counted(node, settings)):
        # A vendor's devices come from one source: elsewhere they are the same ones again.
        if not any(known.facts.vendor == slot.facts.vendor and _source(known) != _source(slot) for known in found):
            found.append(slot)
    return [replace(slot, facts=replace(slot.facts, index=index)) for index, slot in enumerate(found)]


def shares_by(slot: Slot, settings: KubernetesSettings) -> str:
    """Return what gives shares of a device: `hami`, `kai`, `whole`, or `refuse` where nothing does."""
    if settings.fractions in ("whole", "refuse"):
        return settings.fractions
    if slot.hami is not None:
        return "hami" if settings.fractions in ("auto", "hami") else "refuse"
    by_kai = settings.fractions == "kai" or (settings.fractions == "auto" and settings.scheduler == KAI)
    return "kai" if by_kai and slot.resource == "nvidia.com/gpu" else "refuse"


def isolation_of(slot: Slot, settings: KubernetesSettings) -> Isolation:
    """Return how far a share of a device would be kept.

    HAMi's library holds programs to memory and cores (its README: "hard limit" of both); in the modes `mig` and `mps`
    the device or its server does. KAI only counts: it "does not enforce memory allocation limit" (docs/gpu-sharing),
    and whether an isolator is installed beside it cannot be seen on the nodes. Of a whole device, the share is counted.
    """
    return Isolation.ENFORCED if shares_by(slot, settings) == "hami" else Isolation.COUNTED_ONLY


def _claimed(devices: Sequence[KubeDevice], settings: KubernetesSettings) -> Iterator[Slot]:
    for device in devices:
        vendor = kinds.driver_vendor(device.id[0], settings)
        if vendor is None:
            continue
        memory = device.memory_bytes or settings.device_memory_bytes.get(device.model, 0)
        # A device that no claim can name could not be asked for.
        healthy = not device.is_tainted and selector_of(device, devices) is not None
        slot = Slot(_facts(device.id[2], vendor, device.model, memory, healthy=healthy), device=device)
        yield _with_isolation(slot, settings)


def _registered(node: KubeNode, settings: KubernetesSettings) -> Iterator[Slot]:
    for device in node.hami:
        model = device.type.removeprefix("NVIDIA-").removeprefix("MLU-") or device.vendor
        memory = settings.device_memory_bytes.get(model, device.memory_mib << 20)
        facts = _facts(device.uuid, device.vendor, model, memory, healthy=device.healthy)
        yield _with_isolation(Slot(facts, resource=hami.words_of(device).count, hami=device), settings)


def _counted(node: KubeNode, settings: KubernetesSettings) -> Iterator[Slot]:
    stems: dict[str, str] = {}
    for resource in sorted({*node.extended, *node.broken}):
        kind = kinds.kind_of(resource, settings)
        if kind is None:
            continue
        named = kinds.named_of(kind, node.labels)
        memory = named.memory_bytes or settings.device_memory_bytes.get(named.model, 0) // named.shares
        stem = f"{kind.vendor}-{kind.part}" if kind.part else kind.vendor
        if stems.setdefault(stem, resource) != resource:  # a vendor with two resources for whole devices
            stem += "-" + resource.rpartition("/")[2]
        for number in range(node.extended.get(resource, 0) + node.broken.get(resource, 0)):
            facts = _facts(f"{stem}-{number}", kind.vendor, named.model, memory, healthy=True)
            yield _with_isolation(Slot(facts, resource=resource, is_counted=True), settings)


def _with_isolation(slot: Slot, settings: KubernetesSettings) -> Slot:
    return replace(slot, facts=replace(slot.facts, isolation=isolation_of(slot, settings)))


def _facts(name: str, vendor: str, model: str, memory: int, *, healthy: bool) -> DeviceFacts:
    return DeviceFacts(name, 0, vendor, model, memory, healthy, labels=_NO_LABELS)


def _source(slot: Slot) -> str:
    return "claim" if slot.device else "hami" if slot.hami else "count"


_NO_LABELS: Mapping[str, str] = {}
