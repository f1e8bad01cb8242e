"""What Pods hold of nodes, from their requests: pure.

Of Pods of others, all of it is taken off what their node offers. Of ours, only the names of the device slots are
needed: the platform itself counts what it gave away.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dujiang.engines.kubernetes.quantities import milli_of, whole_of
from dujiang.kit.units import BadQuantity

DEVICES: Final = "dujiang.io/devices"
"""Annotation of our Pods: the device slots of their rank, separated by commas."""
HAMI_HOLDS: Final = "hami.io/vgpu-devices-allocated"
"""Annotation by which HAMi says which devices it gave a Pod: `UUID,TYPE,MiB,percent:` for each device of a container,
`;` after each container. Source: HAMi, docs/develop/protocol.md."""
KAI_GROUP: Final = "runai-gpu-group"
"""Label that KAI puts on all Pods which share a device, and on the Pod that reserves it.

Source: KAI, pkg/common/constants."""
KAI_RESERVES: Final = "kai-resource-reservation"
"""Namespace of KAI's Pods that hold a whole device for those that share it. Source: KAI, docs/gpu-sharing."""
ENDED: Final = frozenset({"Succeeded", "Failed"})
"""Phases of Pods that hold nothing any more."""

_EMPTY: Mapping[str, int] = {}
_PLAIN = frozenset({"cpu", "memory", "ephemeral-storage"})


@dataclass(frozen=True, slots=True)
class KubePod:
    """What a Pod that is on a node holds of it."""

    namespace: str
    name: str
    node: str
    is_ours: bool
    is_daemon: bool
    """Of a DaemonSet: it is on its node for as long as the node is there."""
    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    extended: Mapping[str, int] = field(default_factory=dict)
    """Devices and the like, by resource."""
    slots: tuple[str, ...] = ()
    """Of ours: the device slots that the platform gave it."""
    hami: tuple[tuple[str, int, int], ...] = ()
    """Of others: (device's UUID, MiB, percent of its cores) that HAMi gave it."""
    kai_group: str = ""
    """The device that it shares with other Pods under KAI."""
    kai_reserves: bool = False
    """It is KAI's own Pod, which holds the device of its group for others."""


def reduce_pod(pod: Mapping[str, Any], *, mark: tuple[str, str]) -> KubePod | None:
    """Return what a Pod holds of its node; None when it is on none, or has ended.

    Args:
        pod: as the API server gives it.
        mark: the label by which Pods of this platform are known, and its value; an empty value takes any.
    """
    meta, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    node = spec.get("nodeName")
    if not node or (pod.get("status") or {}).get("phase") in ENDED:
        return None
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    is_ours = mark[0] in labels and mark[1] in ("", labels[mark[0]])
    namespace = meta.get("namespace", "")
    holds = effective_requests(spec)
    return KubePod(
        namespace=sys.intern(namespace),
        name=meta.get("name", ""),
        node=sys.intern(node),
        is_ours=is_ours,
        is_daemon=any(owner.get("kind") == "DaemonSet" for owner in meta.get("ownerReferences") or ()),
        cpu_milli=holds.pop("cpu", 0),
        memory_bytes=holds.pop("memory", 0),
        disk_bytes=holds.pop("ephemeral-storage", 0),
        extended=holds or _EMPTY,
        slots=tuple(filter(None, notes.get(DEVICES, "").split(","))) if is_ours else (),
        hami=() if is_ours else tuple(_hami_holds(notes.get(HAMI_HOLDS, ""))),
        kai_group=labels.get(KAI_GROUP, ""),
        kai_reserves=namespace == KAI_RESERVES,
    )


def effective_requests(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return what the scheduler counts for a Pod: cores in thousandths, all else in units; `pods` is not among it.

    The larger of what its containers ask for together and of what each init container asks for while it runs; sidecars
    (init containers that always restart) go with both. What the Pod as a whole asks for comes before its containers,
    and its overhead on top.

    Source: Kubernetes, KEP-753, and component-helpers/resource (AggregateContainerRequests).
    """
    running: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(running, _requests(container))
    starting: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        asked = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(running, asked)
            _add(sidecars, asked)
            asked = sidecars
        else:
            asked = {**sidecars, **{name: amount + sidecars.get(name, 0) for name, amount in asked.items()}}
        for name, amount in asked.items():
            starting[name] = max(starting.get(name, 0), amount)
    total = {name: max(running.get(name, 0), starting.get(name, 0)) for name in running | starting}
    total.update({name: amount for name, amount in _requests(spec).items() if name in _PLAIN})
    _add(total, _amounts(spec.get("overhead") or {}))
    return {name: amount for name, amount in total.items() if amount > 0}


def by_node(pods: Iterable[KubePod]) -> dict[str, list[KubePod]]:
    """Return the Pods of each node."""
    found: dict[str, list[KubePod]] = {}
    for pod in pods:
        found.setdefault(pod.node, []).append(pod)
    return found


def _requests(holder: Mapping[str, Any]) -> dict[str, int]:
    """Return the requests of a container; a limit without a request is one (the API server writes it so itself)."""
    resources = holder.get("resources") or {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(quantities: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, quantity in quantities.items():
        try:
            found[sys.intern(name)] = milli_of(quantity) if name == "cpu" else whole_of(quantity)
        except BadQuantity:  # the API server takes none; one Pod must not hide the whole cluster
            continue
    return found


def _add(to: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        to[name] = to.get(name, 0) + amount


def _hami_holds(text: str) -> Iterable[tuple[str, int, int]]:
    for device in text.replace(";", ":").split(":"):
        fields = device.split(",")
        if len(fields) >= 4 and fields[2].isdecimal() and fields[3].isdecimal():
            yield sys.intern(fields[0]), int(fields[2]), int(fields[3])
