"""What passes between us and Kueue, the cluster's own queue for Pods: pure.

Kueue puts a gate on each Pod with the label of a queue, and makes a Workload of it, or of the gang that it is of: that
is admitted whole. Then Kueue takes the gates off, and the cluster's scheduler goes on. A Pod shows only that something
holds it; why, and since when it may run, its Workload says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dujiang.engines.contract import EngineRefused, RankPlacement
from dujiang.engines.kubernetes.sharing import DeviceRequest
from dujiang.kit.clock import to_micros

MANAGED: Final = "kueue.x-k8s.io/managed"
"""Label that Kueue puts on a Pod which it manages, and its finalizer."""
HOLD: Final = "kueue.x-k8s.io/admission"
"""Its scheduling gate."""
_QUEUE = "kueue.x-k8s.io/queue-name"
_GROUP, _GROUP_SIZE = "kueue.x-k8s.io/pod-group-name", "kueue.x-k8s.io/pod-group-total-count"
_RETRIABLE, _ROLE = "kueue.x-k8s.io/retriable-in-group", "kueue.x-k8s.io/role-hash"
Flavor = Mapping[str, str]
"""The labels of the nodes that a ResourceFlavor is of."""
_MOST_ROLES = 8
"""Kinds of Pods that Kueue takes in a group; where nothing says otherwise, Pods of two nodes are of two kinds."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is kept of a Workload."""

    owners: tuple[str, ...]
    """The uids of its Pods."""
    admitted_us: int | None
    """Since when it may run, in microseconds since 1970; None: it waits."""
    says: str
    """Why it waits, in Kueue's words."""


def labels(queue: str, gang: str) -> dict[str, str]:
    """Return the labels by which Kueue takes a Pod.

    Args:
        queue: the LocalQueue, in the Pod's namespace.
        gang: the name of the Pod's gang; empty of one that stands alone.
    """
    return {_QUEUE: queue, **({_GROUP: gang} if gang else {})}


def notes(size: int, role: str) -> dict[str, str]:
    """Return the annotations by which Kueue takes a Pod of a gang.

    A Pod that failed is never made again: else Kueue keeps the quota of its gang for one that never comes.

    Args:
        size: Pods of the gang.
        role: what it counts as; empty leaves that to Kueue.
    """
    return {_GROUP_SIZE: str(size), _RETRIABLE: "false", **({_ROLE: role} if role else {})}


def roles(ranks: Sequence[RankPlacement], devices: Sequence[DeviceRequest], like: Sequence[object]) -> list[str]:
    """Return what each rank counts as for Kueue, empty where Kueue may tell by itself.

    It tells Pods apart by all that decides where they go: pinned ones by their nodes. Beyond eight kinds it takes no
    group, so ranks on more nodes count as one kind where they ask for the same.

    Args:
        ranks: of a gang.
        devices: what each asks for to get its devices.
        like: what else decides which quota holds each.

    Raises:
        EngineRefused: they ask for too many different things.
    """
    asked = [
        (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes, sorted(device.limits.items()), rank.rank == 0, more)
        for rank, device, more in zip(ranks, devices, like, strict=True)
    ]
    own = {(rank.node, repr(each), rank.rank if device.claim is not None else 0)
           for rank, device, each in zip(ranks, devices, asked, strict=True)}  # fmt: skip
    if len(own) <= _MOST_ROLES:
        return [""] * len(ranks)
    found = [hashlib.sha256(repr(each).encode()).hexdigest()[:8] for each in asked]
    if len(set(found)) > _MOST_ROLES:
        raise EngineRefused(
            f"Kueue, the queue of this cluster, takes gangs of at most {_MOST_ROLES} kinds of ranks, and here are"
            f" {len(set(found))}: give ranks the same resources, or place the job on another cluster."
        )
    return found


def flavors_of(node: Mapping[str, str], flavors: Mapping[str, Flavor]) -> tuple[str, ...]:
    """Return the names of the flavors that a node with these labels is of."""
    return tuple(name for name, flavor in sorted(flavors.items()) if flavor.items() <= node.items())


def flavored(node: Mapping[str, str], flavors: Mapping[str, Flavor]) -> list[dict[str, Any]]:
    """Return what makes Kueue take the quota of a flavor that a node is of, as expressions of an affinity.

    Args:
        node: labels of the node that a Pod is pinned to.
        flavors: those of the cluster, by name.
    """
    keys = {key for flavor in flavors.values() for key in flavor}
    return [
        {"key": key, "operator": "In", "values": [node[key]]} if key in node
        else {"key": key, "operator": "DoesNotExist"}
        for key in sorted(keys)
    ]  # fmt: skip


def reduce_flavor(obj: Mapping[str, Any]) -> Flavor:
    """Return the labels by which a ResourceFlavor tells its nodes."""
    return dict((obj.get("spec") or {}).get("nodeLabels") or {})


def reduce_workload(obj: Mapping[str, Any]) -> Workload | None:
    """Return what is kept of a Workload; None of one that is of no Pods."""
    meta, status = obj["metadata"], obj.get("status") or {}
    owners = tuple(each["uid"] for each in meta.get("ownerReferences") or () if each.get("kind") == "Pod")
    if not owners:
        return None
    told = {each["type"]: each for each in status.get("conditions") or ()}
    admitted = told.get("Admitted", {})
    if admitted.get("status") == "True":
        return Workload(owners, to_micros(datetime.fromisoformat(admitted["lastTransitionTime"])), "")
    spec = obj.get("spec") or {}
    where = f"Kueue, queue {spec.get('queueName', '')} of namespace {meta.get('namespace', '')}"
    return Workload(owners, None, f"{where}: {_waits(spec, told, status.get('admissionChecks') or ())}")


def _waits(spec: Mapping[str, Any], told: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> str:
    if spec.get("active") is False:
        return "its Workload is set to inactive; it starts once whoever runs the cluster sets it to active"
    reserved = told.get("QuotaReserved", {})
    if reserved.get("status") == "True":
        left = [check for check in checks if check.get("state") != "Ready"]
        found = [" ".join((check["name"], check.get("state", ""), check.get("message", ""))).strip() for check in left]
        return f"it has its quota and is not admitted yet ({'; '.join(found) or 'nothing says why'})"
    said = ": ".join(filter(None, (reserved.get("reason"), reserved.get("message")))) or "not looked at yet"
    if reserved.get("reason") == "Inadmissible":
        said += "; it starts once whoever runs the cluster has made that right"
    return said
