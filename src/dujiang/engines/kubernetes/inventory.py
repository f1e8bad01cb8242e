"""Turns Kubernetes' nodes into ours: pure.

What Pods of others hold is taken off what a node offers, and so are the devices that they hold. Devices of a device
plugin are slots: `nvidia-0` is not a certain card, since the kubelet chooses the cards when a Pod starts; only where
HAMi or a driver of dynamic resource allocation names the devices is a slot always the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from dujiang.engines.contract import NEEDS_IMAGE, NodeFacts
from dujiang.engines.kubernetes.claims import DeviceId, KubeClaim, KubeSlice, devices_by_node
from dujiang.engines.kubernetes.devices import Slot, slots_of
from dujiang.engines.kubernetes.nodes import KubeNode, Taint
from dujiang.engines.kubernetes.others import KubePod, by_node
from dujiang.engines.kubernetes.settings import KubernetesSettings

_STATE_TAINTS = "node.kubernetes.io/"
"""Taints that say what conditions and `spec.unschedulable` say already."""
_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "dujiang.io/switch": (
        "topology.k8s.aws/network-node-layer-4",
        "topology.k8s.aws/network-node-layer-3",
        "oci.oraclecloud.com/rdma.local_block_id",
    ),
    "dujiang.io/rack": ("cloud.google.com/gce-topology-subblock", "oci.oraclecloud.com/host.rack_id"),
}
"""Labels of clouds that say which switch and rack a node hangs on, by the word that the pool knows; AWS counts its
layers from the far end, so the highest is the switch next to the node. What the pool knows already stays as it is."""
_KNOWN_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "dujiang.io/switch": ("dujiang.io/switch", "fabric.topograph.run/tier-0", "network.topology.nvidia.com/leaf"),
    "dujiang.io/rack": ("dujiang.io/rack", "topology.kubernetes.io/rack"),
}


def facts_of(
    nodes: Iterable[KubeNode],
    pods: Iterable[KubePod],
    *,
    settings: KubernetesSettings,
    closed: Mapping[str, str] | None = None,
    slices: Iterable[KubeSlice] = (),
    claims: Iterable[KubeClaim] = (),
) -> list[NodeFacts]:
    """Return all nodes by name, less what others hold. O(nodes + Pods + devices).

    Args:
        nodes: of the cluster.
        pods: all that are on a node, also ours.
        settings: of the cluster.
        closed: by node, why it takes nothing new of ours although it is open to others (we may not close it).
        slices: devices of dynamic resource allocation.
        claims: who holds those.
    """
    on_node, claimable, closed = by_node(pods), devices_by_node(slices), closed or {}
    claimed = {device for claim in claims if not claim.is_ours for device in claim.devices}
    found: list[NodeFacts] = []
    for node in sorted(nodes, key=lambda node: node.name):
        own = on_node.get(node.name, ())
        slots = free_slots(node, slots_of(node, settings, claimable.get(node.name, ())), own, claimed, settings)
        found.append(
            _facts(node, own, slots, why=_closed_why(node, closed.get(node.name), len(own)), settings=settings)
        )
    return found


def _facts(
    node: KubeNode, pods: Sequence[KubePod], slots: Sequence[Slot], *, why: str | None, settings: KubernetesSettings
) -> NodeFacts:
    # DaemonSets belong to the node: no other Pod ever gets their room.
    others = [pod for pod in pods if not pod.is_ours and (settings.count_others or pod.is_daemon)]
    return NodeFacts(
        name=node.name,
        cpu_milli=max(1, node.cpu_milli - sum(pod.cpu_milli for pod in others)),
        memory_bytes=max(1, node.memory_bytes - sum(pod.memory_bytes for pod in others)),
        disk_bytes=max(0, node.disk_bytes - sum(pod.disk_bytes for pod in others)),
        devices=tuple(slot.facts for slot in slots),
        ready=node.ready,
        cordoned=why is not None,
        reason=node.reason if not node.ready else why or "",
        labels=_labels(node.labels),
        taints=(*_taints(node.taints, settings.tolerations), *(() if settings.image else (NEEDS_IMAGE,))),
    )


def _closed_why(node: KubeNode, closed: str | None, pods: int) -> str | None:
    if closed is not None:
        return closed
    if node.unschedulable:
        return node.closed if node.closed is not None else "closed in Kubernetes"
    return f"it takes no more Pods: it has {pods} of {node.pods}" if node.pods and pods >= node.pods else None


def free_slots(
    node: KubeNode,
    slots: Sequence[Slot],
    pods: Sequence[KubePod],
    claimed: Collection[DeviceId],
    settings: KubernetesSettings,
) -> list[Slot]:
    """Return the device slots that are ours or free; those that are broken are marked so.

    A device that is known by name, and of which others hold anything, is left out. Where others hold so many of a
    resource and nobody says which, as many slots that are not ours are left out, from the end.

    Args:
        node: whose.
        slots: all of them.
        pods: that are on it.
        claimed: devices that claims of others hold.
        settings: of the cluster.
    """
    ours = {name for pod in pods if pod.is_ours for name in pod.slots}
    taken, named = _taken_by_others(pods) if settings.count_others else ({}, set[str]())
    away = claimed if settings.count_others else ()
    left = dict(node.broken)
    kept: list[Slot] = []
    for slot in reversed(slots):
        if slot.facts.name in ours:
            kept.append(slot)
        elif slot.uuid in named or (slot.device is not None and slot.device.id in away):
            continue
        elif slot.is_counted and left.get(slot.resource, 0) > 0:
            left[slot.resource] -= 1
            kept.append(slot.unhealthy())
        elif slot.is_counted and taken.get(slot.resource, 0) > 0:
            taken[slot.resource] -= 1
        else:
            kept.append(slot)
    return kept[::-1]


def _taken_by_others(pods: Sequence[KubePod]) -> tuple[dict[str, int], set[str]]:
    """Return how many of each resource others hold, and which devices HAMi gave them by name."""
    shared = {pod.kai_group for pod in pods if pod.is_ours and pod.kai_group}
    taken: dict[str, int] = {}
    named: set[str] = set()
    for pod in pods:
        if pod.is_ours or (pod.kai_reserves and pod.kai_group in shared):
            continue  # KAI's own Pod that holds a device for Pods of ours
        named.update(uuid for uuid, _, _ in pod.hami)
        for name, count in pod.extended.items():
            taken[name] = taken.get(name, 0) + count
    return taken, named


def _labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return a node's labels with its switch and rack under the names that the pool knows."""
    found: dict[str, str] = {}
    for word, keys in _PLACES.items():
        if not any(labels.get(key) for key in _KNOWN_PLACES[word]):
            found.update((word, labels[key]) for key in reversed(keys) if labels.get(key))
    return {**labels, **found} if found else labels


def _taints(taints: Sequence[Taint], tolerated: Sequence[str]) -> Iterable[str]:
    for key, value, effect in taints:
        mark = f"{key}={value}" if value else key
        if effect == "PreferNoSchedule" or key.startswith(_STATE_TAINTS) or key in tolerated or mark in tolerated:
            continue
        yield mark
