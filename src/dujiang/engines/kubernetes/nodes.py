"""What is kept of a node of Kubernetes: pure, and small, for thousands of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dujiang.engines.kubernetes.hami import HamiDevice, hami_devices
from dujiang.engines.kubernetes.quantities import milli_of, whole_of
from dujiang.kit.units import BadQuantity

CLOSED: Final = "dujiang.io/closed"
"""Annotation of a node that we closed: why."""
HOSTNAME: Final = "kubernetes.io/hostname"
Taint = tuple[str, str, str]
"""Key, value, effect."""

_PRESSURES = ("NetworkUnavailable", "DiskPressure", "MemoryPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class KubeNode:
    """A node as the API server tells it, less what nobody asks for; about 4 kB each with the labels of a GPU node."""

    name: str
    uid: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    reason: str
    """Why it is not ready: the first condition that keeps Pods away."""
    address: str
    """Its InternalIP, empty when it has none."""
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pods: int
    """How many Pods it takes; capacities are what is allocatable."""
    extended: Mapping[str, int] = field(default_factory=dict)
    """Devices that can be given away, by resource."""
    broken: Mapping[str, int] = field(default_factory=dict)
    """Devices that are there and cannot: their plugin says they are unhealthy, or is gone."""
    closed: str | None = None
    """Why we closed it; None when we did not."""
    hami: tuple[HamiDevice, ...] = ()
    """The devices that HAMi shares there."""

    @property
    def hostname(self) -> str:
        """Return the value of its hostname label, which Pods are pinned by; its name where it has none."""
        return self.labels.get(HOSTNAME, self.name)


def reduce_node(node: Mapping[str, Any]) -> KubeNode | None:
    """Return what is kept of a node; None of one without a name."""
    meta, spec, status = (node.get(part) or {} for part in ("metadata", "spec", "status"))
    if not meta.get("name"):
        return None
    ready, reason = _condition(status.get("conditions") or (), is_going="deletionTimestamp" in meta)
    offered, there = _amounts(status.get("allocatable") or {}), _amounts(status.get("capacity") or {})
    notes = meta.get("annotations") or {}
    extended = {name: count for name, count in offered.items() if "/" in name}
    return KubeNode(
        name=sys.intern(meta["name"]),
        uid=meta.get("uid", ""),
        labels={sys.intern(key): sys.intern(value) for key, value in (meta.get("labels") or {}).items()},
        taints=tuple(
            (sys.intern(taint["key"]), sys.intern(taint.get("value", "")), sys.intern(taint.get("effect", "")))
            for taint in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        ready=ready,
        reason=reason,
        address=next((a["address"] for a in status.get("addresses") or () if a.get("type") == "InternalIP"), ""),
        cpu_milli=offered.get("cpu", 0),
        memory_bytes=offered.get("memory", 0),
        disk_bytes=offered.get("ephemeral-storage", 0),
        pods=offered.get("pods", 0),
        extended=extended,
        broken={n: c - extended.get(n, 0) for n, c in there.items() if "/" in n and c > extended.get(n, 0)},
        closed=notes.get(CLOSED),
        hami=hami_devices(notes),
    )


def _condition(conditions: Sequence[Mapping[str, str]], *, is_going: bool) -> tuple[bool, str]:
    """Say whether a node is ready, and which condition first says it is not.

    Messages are left out: some count seconds, and a node would be another at each heartbeat.
    """
    if is_going:
        return False, "BeingDeleted"
    found = {condition.get("type", ""): condition for condition in conditions}
    ready = found.get("Ready")
    if ready is None or ready.get("status") != "True":
        why = (ready or {}).get("reason") or "no condition is reported"
        return False, f"NotReady: {why}"
    for name in _PRESSURES:
        if found.get(name, {}).get("status") == "True":
            return False, f"{name}: {found[name].get('reason', '')}".removesuffix(": ")
    return True, ""


def _amounts(quantities: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, quantity in quantities.items():
        try:
            found[sys.intern(name)] = milli_of(quantity) if name == "cpu" else whole_of(quantity)
        except BadQuantity:  # the API server takes none; one node must not hide the others
            continue
    return found
