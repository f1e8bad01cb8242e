"""Turns Slurm's nodes into ours: pure.

Slurm says how much of a node it has given out, and not to whom. What it gave out and we did not ask for belongs to
others, and to the rounding up of our own (half a processor takes a whole one): it is taken off what the node offers.
Devices are slots: `h100-0` is not a certain card, since Slurm chooses the cards when a job starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dujiang.engines.contract import DeviceFacts, Isolation, NodeFacts
from dujiang.engines.slurm.asking import MINE
from dujiang.engines.slurm.reading import Gres, Reservation, SlurmNode
from dujiang.engines.slurm.settings import SlurmSettings

_MIB = 1 << 20
_DISK_BYTES = 1 << 40
"""Where Slurm counts no local disk, jobs are not held to any: this much is shown."""
_NOT_READY = frozenset({"DOWN", "ERROR", "UNKNOWN", "FUTURE", "FAIL", "FAILING", "NOT_RESPONDING", "INVAL"})
_CLOSED = frozenset({"DRAIN", "MAINT", "DRAINED", "DRAINING"})
_LABEL = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(slots=True)
class Held:
    """What our running attempts hold of one node, as the platform counts it."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    devices: set[str] = field(default_factory=set)
    shared: dict[str, int] = field(default_factory=dict)
    """Those of them of which only shares are held, with thousandths."""


def facts_of(
    node: SlurmNode, *, held: Held, closed: str | None, switch: str, settings: SlurmSettings,
    reserved: Sequence[str] = (), kept: str = "",
) -> NodeFacts:  # fmt: skip
    """Return one node.

    Args:
        node: as Slurm tells it.
        held: by our running attempts.
        closed: why it takes nothing new of ours, None when it is open to us.
        switch: its lowest switch, empty when none is known.
        settings: of the cluster.
        reserved: the reservations that it is in now.
        kept: why none of our jobs may start there because of reservations; empty when they may.
    """
    ready = not node.states & _NOT_READY
    drained = bool(node.states & _CLOSED)
    cpu_milli, memory = node.cpus * 1000, node.memory_mib * _MIB
    if settings.count_others:
        cpu_milli -= max(0, node.cpus_used * 1000 - held.cpu_milli)
        memory -= max(0, node.memory_used_mib * _MIB - held.memory_bytes)
    reason = node.reason.removeprefix(MINE) if drained or not ready else ""
    labels = {f"slurm.schedmd.com/feature-{_LABEL.sub('-', name)}": "true" for name in node.features}
    labels |= {f"slurm.schedmd.com/partition-{_LABEL.sub('-', name)}": "true" for name in node.partitions}
    labels |= {f"slurm.schedmd.com/reservation-{_LABEL.sub('-', name)}": "true" for name in reserved}
    ours = closed if closed is not None else kept or None
    return NodeFacts(
        name=node.name,
        cpu_milli=max(1, cpu_milli),
        memory_bytes=max(1, memory),
        disk_bytes=node.disk_mib * _MIB or _DISK_BYTES,
        devices=tuple(_devices(node, held, settings)),
        ready=ready,
        cordoned=drained or ours is not None,
        reason=ours if ours is not None and not (drained and is_persons(node)) else reason,
        labels={**labels, **({"dujiang.io/switch": switch} if switch else {})},
    )


def reservations_now(found: Sequence[Reservation], now_s: float) -> dict[str, list[str]]:
    """Return the reservations that each node is in now, by node."""
    reserved: dict[str, list[str]] = {}
    for one in found:
        if one.starts_s <= now_s < one.ends_s:
            for node in one.nodes:
                reserved.setdefault(node, []).append(one.name)
    return reserved


def why_kept(reserved: Sequence[str], own: str) -> str:
    """Return why a node's reservations keep our jobs away; empty when they do not.

    Args:
        reserved: those that it is in now.
        own: the one that our jobs run in; empty when in none.
    """
    if own:
        return "" if own in reserved else f"not in the reservation {own} now"
    return f"reserved in Slurm: {', '.join(reserved)}" if reserved else ""


def is_persons(node: SlurmNode) -> bool:
    """Say whether somebody else has closed a node, or written why: then its state is not ours to change."""
    return bool(node.reason) and not node.reason.startswith(MINE)


def devices_of(node: SlurmNode) -> dict[str, str]:
    """Return the names of all device slots of a node, with their types of GRES."""
    return {
        f"{gres.type or gres.name}-{index}": gres.type
        for gres in node.gres
        if gres.name == "gpu"
        for index in range(gres.count)
    }


def shards_of(node: SlurmNode, shared_as: str) -> int:
    """Return how many parts of a GRES each device of a node has; 0 where Slurm counts none."""
    devices = sum(gres.count for gres in node.gres if gres.name == "gpu")
    return sum(gres.count for gres in node.gres if gres.name == shared_as) // devices if devices else 0


def _devices(node: SlurmNode, held: Held, settings: SlurmSettings) -> list[DeviceFacts]:
    found: list[DeviceFacts] = []
    first = 0
    each = shards_of(node, settings.shared_as) if settings.shared_as else 0
    shared = held.shared if each else {}  # else Slurm gave them whole devices
    sharing = _shared_by_others(node, shared, each, settings.shared_as) if each and settings.count_others else 0
    for gres in node.gres:
        if gres.name != "gpu":
            continue
        names = [f"{gres.type or gres.name}-{index}" for index in range(gres.count)]
        ours = [name for name in names if name in held.devices]
        whole = len([name for name in ours if name not in shared])
        others = max(0, _used(node.gres_used, gres) - whole) + sharing if settings.count_others else 0
        free = [name for name in names if name not in held.devices]
        shown = {*ours, *free[: max(0, len(free) - others)]}
        found += [_device(name, first + index, gres, settings) for index, name in enumerate(names) if name in shown]
        first += gres.count
    return found


def _shared_by_others(node: SlurmNode, shared: Mapping[str, int], each: int, shared_as: str) -> int:
    """Return how many devices others have parts of, at the least; 22.05 tells too few of them."""
    ours = sum(-(-milli * each // 1000) for milli in shared.values())
    used = sum(gres.count for gres in node.gres_used if gres.name == shared_as)
    return -(-max(0, used - ours) // each)


def _device(name: str, index: int, gres: Gres, settings: SlurmSettings) -> DeviceFacts:
    return DeviceFacts(
        name=name,
        index=index,
        vendor=settings.vendor,
        model=gres.type or gres.name,
        memory_bytes=settings.device_memory_bytes.get(gres.type or gres.name, 0),
        isolation=Isolation.COUNTED_ONLY,
    )


def _used(used: Sequence[Gres], of: Gres) -> int:
    return sum(gres.count for gres in used if (gres.name, gres.type) == (of.name, of.type))


def held_by(launches: Sequence[Mapping[str, object]]) -> dict[str, Held]:
    """Return what launch records hold, by node."""
    found: dict[str, Held] = {}
    for launch in launches:
        ranks = launch["ranks"]
        assert isinstance(ranks, list)
        for rank in ranks:
            held = found.setdefault(rank["node"], Held())
            held.cpu_milli += rank["cpu_milli"]
            held.memory_bytes += rank["memory_bytes"]
            held.devices |= {share["name"] for share in rank["devices"]}
            for share in rank["devices"]:
                if share["gpu_milli"] < 1000:
                    held.shared[share["name"]] = held.shared.get(share["name"], 0) + share["gpu_milli"]
    return found
