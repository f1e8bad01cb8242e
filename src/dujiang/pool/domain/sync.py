"""What one look at an engine's inventory changes in ours: decided here, written by the service.

Level-triggered: only the difference between what is known and what is seen counts, so a look that was lost or repeated
does no harm. A node that is absent is not gone: a view can lag. It becomes NOT_READY, and GONE only when it has stayed
away for `gone_after_s` with nothing allocated on it. What shrinks below what is allocated is taken so and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from dujiang.engines.contract import DeviceFacts, NodeFacts
from dujiang.pool.domain.inventory import WHOLE_DEVICE, Inventory, Used
from dujiang.pool.domain.nodes import (
    NODE_STATES,
    BadInventory,
    Cluster,
    Device,
    DeviceState,
    Intent,
    Node,
    NodeState,
    Shrunk,
    SyncReport,
    state_of,
)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How the pool treats what engines report."""

    gone_after_s: float = 300.0
    """How long a node stays NOT_READY after it left the inventory; too short turns a lagging view into lost nodes."""
    answer_within_s: float = 10.0
    """How long is waited for an engine's answer before its cluster counts as unreachable; the call goes on, and its
    answer is taken when it comes. Too little and a slow cluster is never used; too much and one that hangs is noticed
    late."""
    cpu_overcommit_milli: int = 1000
    """Thousandths of a node's cores that may be given away; 1500 gives 1.5 times. Too much slows everybody down."""
    memory_overcommit_milli: int = 1000
    """Likewise for memory; above 1000, programs that really use their share can be killed."""
    disk_overcommit_milli: int = 1000
    """Likewise for local disk."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of a node or device may be given away from now on, kept for checking history."""

    node_id: str
    device_id: str | None
    gpu_milli: int = 0
    device_memory_bytes: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


Settled = tuple[NodeFacts, Node]
"""What an engine said of a node, and the node as it followed from it. A pool of 12,500 nodes that did not change is
passed over in 0.07 s; comparing it anew takes 2 s."""


@dataclass(slots=True)
class Changes:
    """What is to be written."""

    new_nodes: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    new_devices: list[Device] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    moves: list[tuple[Node, NodeState]] = field(default_factory=list)
    """Nodes whose state changed, with the state until now."""
    shrunk: list[Shrunk] = field(default_factory=list)
    newly_shrunk: list[Shrunk] = field(default_factory=list)
    """Those of them whose limit is another than at the look before."""
    missing: list[str] = field(default_factory=list)
    """Nodes that are known, not GONE, and not listed."""
    missing_held: int = 0
    """Those of them on which something is allocated."""
    settled: dict[str, Settled] = field(default_factory=dict)
    """By node name: what, seen again, changes nothing while the node is the one that follows from it."""

    def report(self, *, moved: bool) -> SyncReport:
        """Return what a caller wants to know of them."""
        changed = tuple((node.name, was, node.state) for node, was in self.moves)
        return SyncReport(tuple(self.added), changed, tuple(self.shrunk), moved or bool(self))

    def __bool__(self) -> bool:
        return bool(self.new_nodes or self.nodes or self.new_devices or self.devices)


def reconcile(
    cluster: Cluster,
    facts: Sequence[NodeFacts],
    *,
    inventory: Inventory,
    used: Used,
    now: datetime,
    settings: PoolSettings,
    new_id: Callable[[str], str],
    settled: Mapping[str, Settled] = MappingProxyType({}),
) -> Changes:
    """Compare an engine's inventory with ours.

    Args:
        cluster: as it was until now; its `seen_at` is when absent nodes were last seen.
        facts: all of what the engine lists.
        inventory: what is known.
        used: what live allocations hold on the nodes that `unsettled` names.
        now: the time of the look.
        settings: how long absence is borne, overcommit.
        new_id: makes identifiers from a prefix.
        settled: `Changes.settled` of the look before; what is equal is passed over.

    Raises:
        BadInventory: a name twice, or a capacity below zero.
    """
    _check(facts)
    changes = Changes()
    listed = {fact.name: fact for fact in facts}
    for name in sorted(listed):
        node_id = inventory.node_ids.get((cluster.id, name))
        if node_id is not None and _is_settled(settled.get(name), listed[name], inventory.nodes[node_id]):
            changes.settled[name] = settled[name]
            continue
        known = inventory.nodes[node_id] if node_id is not None else _joining(cluster, name, new_id("nod"))
        node = _seen(known, listed[name], settings, held=used.held(known.id))
        _note(changes, known, node, is_new=node_id is None)
        _note_shrunk(changes, node.name, "", _node_limit(node), _node_limit(known), used.nodes.get(node.id, (0, 0, 0)))
        _devices(changes, node, listed[name].devices, inventory, used, new_id)
        if node.intent is not Intent.DRAIN and all(each.node != name for each in changes.shrunk[-1:]):
            # Its state does not hang on what is allocated.
            changes.settled[name] = (listed[name], known if node == known else node)
    for (cluster_id, name), node_id in inventory.node_ids.items():
        if cluster_id == cluster.id and name not in listed:
            known, held = inventory.nodes[node_id], used.held(node_id)
            node = _absent(known, cluster, now, settings, held=held)
            _note(changes, known, node, is_new=False)
            if node.state is not NodeState.GONE:
                changes.missing.append(name)
                changes.missing_held += held
    return changes


def unsettled(
    cluster: Cluster, facts: Sequence[NodeFacts], inventory: Inventory, settled: Mapping[str, Settled]
) -> list[str]:
    """Return the identifiers of the cluster's known nodes that `reconcile` will look at."""
    listed = {fact.name: fact for fact in facts}
    return [
        node_id
        for (cluster_id, name), node_id in inventory.node_ids.items()
        if cluster_id == cluster.id and not _is_settled(settled.get(name), listed.get(name), inventory.nodes[node_id])
    ]


def settle(node: Node, *, held: bool, long_gone: bool = False) -> Node:
    """Return the node with the state and reason that its facts and the operator's intent give it.

    Raises:
        IllegalTransition: the table has no such step (a bug: every derived state can be reached).
    """
    state = state_of(
        was=node.state, intent=node.intent, present=node.present, ready=node.ready,
        engine_cordoned=node.engine_cordoned, held=held, long_gone=long_gone,
    )  # fmt: skip
    if state is not node.state:
        NODE_STATES.check(f"Node {node.name}", node.state, state)
    return replace(node, state=state, reason=_reason(node, state))


def _is_settled(settled: Settled | None, fact: NodeFacts | None, node: Node) -> bool:
    # The very same node, not an equal one: whatever is read from the database or changed is another object.
    return settled is not None and settled[1] is node and settled[0] == fact


def _reason(node: Node, state: NodeState) -> str:
    if state is NodeState.READY:
        return ""
    if not node.present:
        return "NotInInventory"
    if state is NodeState.NOT_READY:
        return node.engine_reason or "NotReady"
    return (node.intent_reason if node.intent in (Intent.CORDON, Intent.DRAIN) else node.engine_reason) or "Cordoned"


def _check(facts: Sequence[NodeFacts]) -> None:
    names = [fact.name for fact in facts]
    if len(set(names)) != len(names):
        raise BadInventory("The inventory lists a node twice.")
    for fact in facts:
        devices = [device.name for device in fact.devices]
        if len(set(devices)) != len(devices):
            raise BadInventory(f"Node {fact.name} lists a device twice.")
        smallest = min(fact.cpu_milli, fact.memory_bytes, fact.disk_bytes, *(d.memory_bytes for d in fact.devices))
        if smallest < 0 or not fact.name:
            raise BadInventory(f'Node "{fact.name}" has no name, or less than nothing of something.')


def _joining(cluster: Cluster, name: str, node_id: str) -> Node:
    return Node(
        id=node_id, cluster_id=cluster.id, name=name, cpu_milli=0, memory_bytes=0, disk_bytes=0, cpu_limit_milli=0,
        memory_limit_bytes=0, disk_limit_bytes=0, state=NODE_STATES.start, reason="", intent=Intent.NONE, intent_by="",
        intent_reason="", present=False, ready=False, engine_cordoned=False, engine_reason="",
        engine_labels={}, engine_taints=(), own_labels={}, own_taints=(), seen_at=None,
    )  # fmt: skip


def _seen(known: Node, fact: NodeFacts, settings: PoolSettings, *, held: bool) -> Node:
    intent = known.intent
    if intent is Intent.OPEN and not fact.cordoned:
        intent = Intent.NONE  # the engine has followed
    node = replace(
        known, cpu_milli=fact.cpu_milli, memory_bytes=fact.memory_bytes, disk_bytes=fact.disk_bytes,
        cpu_limit_milli=fact.cpu_milli * settings.cpu_overcommit_milli // 1000,
        memory_limit_bytes=fact.memory_bytes * settings.memory_overcommit_milli // 1000,
        disk_limit_bytes=fact.disk_bytes * settings.disk_overcommit_milli // 1000,
        intent=intent, present=True, ready=fact.ready, engine_cordoned=fact.cordoned, engine_reason=fact.reason,
        engine_labels=dict(fact.labels), engine_taints=tuple(sorted(set(fact.taints))), seen_at=None,
    )  # fmt: skip
    return settle(node, held=held)


def _absent(known: Node, cluster: Cluster, now: datetime, settings: PoolSettings, *, held: bool) -> Node:
    seen_at = known.seen_at if not known.present and known.seen_at is not None else (cluster.seen_at or now)
    long_gone = now - seen_at >= timedelta(seconds=settings.gone_after_s)
    return settle(replace(known, present=False, ready=False, seen_at=seen_at), held=held, long_gone=long_gone)


def _note(changes: Changes, known: Node, node: Node, *, is_new: bool) -> None:
    if is_new:
        changes.new_nodes.append(node)
    elif node != known:
        changes.nodes.append(node)
    if is_new or (known.state is NodeState.GONE and node.state is not NodeState.GONE):
        changes.added.append(node.name)
    elif node.state is not known.state:
        changes.moves.append((node, known.state))
    limit = _node_limit(node)
    if is_new or limit != _node_limit(known):
        changes.limits.append(limit)


def _node_limit(node: Node) -> Limit:
    if node.state is NodeState.GONE:
        return Limit(node.id, None)
    return Limit(
        node.id, None, cpu_milli=node.cpu_limit_milli, memory_bytes=node.memory_limit_bytes,
        disk_bytes=node.disk_limit_bytes,
    )  # fmt: skip


def _device_limit(device: Device) -> Limit:
    if device.state is DeviceState.GONE:
        return Limit(device.node_id, device.id)
    return Limit(device.node_id, device.id, gpu_milli=WHOLE_DEVICE, device_memory_bytes=device.memory_bytes)


def _devices(
    changes: Changes,
    node: Node,
    facts: Sequence[DeviceFacts],
    inventory: Inventory,
    used: Used,
    new_id: Callable[[str], str],
) -> None:
    known = {device.name: device for device in inventory.devices_of.get(node.id, ())}
    for fact in facts:
        was = known.pop(fact.name, None)
        device = Device(
            id=was.id if was else new_id("dev"), node_id=node.id, name=fact.name, index=fact.index,
            vendor=fact.vendor, model=fact.model, memory_bytes=fact.memory_bytes,
            state=DeviceState.READY if fact.healthy else DeviceState.UNHEALTHY, isolation=fact.isolation,
            labels=dict(fact.labels),
        )  # fmt: skip
        _note_device(changes, node, was, device, used)
    for was in known.values():
        _note_device(changes, node, was, replace(was, state=DeviceState.GONE), used)


def _note_device(changes: Changes, node: Node, was: Device | None, device: Device, used: Used) -> None:
    if was is None:
        changes.new_devices.append(device)
    elif device != was:
        changes.devices.append(device)
    limit = _device_limit(device)
    if was is None or limit != _device_limit(was):
        changes.limits.append(limit)
    before = _device_limit(was) if was else limit
    _note_shrunk(changes, node.name, device.name, limit, before, used.devices.get(device.id, (0, 0)))


def _note_shrunk(changes: Changes, node: str, device: str, limit: Limit, before: Limit, held: tuple[int, ...]) -> None:
    names = ("gpu_milli", "device_memory_bytes") if device else ("cpu_milli", "memory_bytes", "disk_bytes")
    for name, allocated in zip(names, held, strict=True):
        most = getattr(limit, name)
        if allocated > most:
            found = Shrunk(node, device, name, allocated, most)
            changes.shrunk.append(found)
            if most != getattr(before, name):
                changes.newly_shrunk.append(found)
