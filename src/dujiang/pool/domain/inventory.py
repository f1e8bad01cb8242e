"""The pool as values: everything that is known of clusters, nodes and devices, and the view that placement works on.

An `Inventory` changes only when a node, device or state does, so it is kept between calls; what is in use changes with
every start and end and is laid over it. Columns, not objects: a pool of 12,500 nodes is a dozen arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dujiang.engines.contract import Isolation
from dujiang.pool.domain.nodes import Cluster, Device, DeviceState, Node, NodeState

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

WHOLE_DEVICE = 1000
"""Thousandths of one device."""


@dataclass(slots=True)
class Used:
    """What live allocations hold, by node id (cpu_milli, memory_bytes, disk_bytes) and device id (gpu_milli, bytes)."""

    nodes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    devices: dict[str, tuple[int, int]] = field(default_factory=dict)
    device_nodes: set[str] = field(default_factory=set)
    """Nodes with an allocated device, for the rare row of a device without a row of its node."""

    def held(self, node_id: str) -> bool:
        """Say whether anything is allocated on a node."""
        return node_id in self.nodes or node_id in self.device_nodes


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """Devices that a request cannot tell apart, but for their labels."""

    vendor: str
    model: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """Clusters, nodes and devices with the arrays made of them; `stamp` changes when anything in here does.

    Nodes that are GONE and devices that are GONE are in the rows, and have no column in the arrays.
    """

    stamp: str
    clusters: Mapping[str, Cluster]
    nodes: Mapping[str, Node]
    devices: Mapping[str, Device]
    cluster_ids: Mapping[str, str]
    """Name to id."""
    node_ids: Mapping[tuple[str, str], str]
    """Cluster id and name, to id."""
    devices_of: Mapping[str, tuple[Device, ...]]
    """By node id, in order of index."""
    columns: Columns


@dataclass(frozen=True, slots=True)
class Columns:
    """The unchanging part of a `PoolView`; see there."""

    clusters: tuple[Cluster, ...]
    node_ids: tuple[str, ...]
    node_names: tuple[str, ...]
    node_states: tuple[NodeState, ...]
    node_labels: tuple[Mapping[str, str], ...]
    node_taints: tuple[tuple[str, ...], ...]
    node_domains: tuple[Mapping[str, str], ...]
    node_cluster: IntArray
    node_open: BoolArray
    node_limit: IntArray
    kinds: tuple[DeviceKind, ...]
    device_ids: tuple[str, ...]
    device_names: tuple[str, ...]
    device_labels: tuple[Mapping[str, str], ...]
    device_isolation: tuple[Isolation, ...]
    device_node: IntArray
    device_index: IntArray
    device_kind: IntArray
    device_open: BoolArray
    device_limit: IntArray
    node_at: Mapping[str, int]
    device_at: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PoolView:
    """Everything that placement needs, at one moment. Arrays are shared between views: never write to them.

    n nodes in order of (cluster name, node name); d devices in order of (node, index); nodes and devices that are GONE
    are left out. `columns` has what does not change with every start:

    `clusters`; `node_ids node_names node_states node_labels node_taints node_domains`; `node_cluster` (n) index into
    clusters; `node_open` (n) new work may start there; `node_limit` (n, 3) cpu_milli, memory_bytes, disk_bytes that may
    be given away; `kinds`; `device_ids device_names device_labels device_isolation`; `device_node` (d) index of its
    node; `device_index` (d) the engine's index; `device_kind` (d) index into kinds; `device_open` (d) healthy and on an
    open node; `device_limit` (d, 2) gpu_milli (1000) and memory_bytes; `node_at device_at` id to position.
    """

    version: int
    """Hand it to `allocate`: it is refused once anything that placement depends on has changed."""
    columns: Columns
    node_free: IntArray
    """(n, 3), same columns as node_limit; negative where a node has shrunk below what is allocated."""
    device_free: IntArray
    """(d, 2) gpu_milli, memory_bytes; negative likewise."""


def build_inventory(
    stamp: str, clusters: Sequence[Cluster], nodes: Sequence[Node], devices: Sequence[Device]
) -> Inventory:
    """Index the rows and make the arrays. O(n log n + d log d)."""
    by_cluster = {cluster.id: cluster for cluster in clusters}
    ordered = sorted(nodes, key=lambda node: (by_cluster[node.cluster_id].name, node.name))
    gathered: dict[str, list[Device]] = {}
    for device in devices:
        gathered.setdefault(device.node_id, []).append(device)
    devices_of = {node_id: tuple(sorted(group, key=lambda d: (d.index, d.name))) for node_id, group in gathered.items()}
    return Inventory(
        stamp=stamp,
        clusters=by_cluster,
        nodes={node.id: node for node in ordered},
        devices={device.id: device for device in devices},
        cluster_ids={cluster.name: cluster.id for cluster in clusters},
        node_ids={(node.cluster_id, node.name): node.id for node in ordered},
        devices_of=devices_of,
        columns=_columns(by_cluster, ordered, devices_of),
    )


def revised(
    inventory: Inventory,
    stamp: str,
    *,
    clusters: Sequence[Cluster] = (),
    nodes: Sequence[Node] = (),
    devices: Sequence[Device] = (),
) -> Inventory:
    """Return the inventory with these rows added or put in place of those of the same id; as `build_inventory`."""
    return build_inventory(
        stamp,
        list({**inventory.clusters, **{row.id: row for row in clusters}}.values()),
        list({**inventory.nodes, **{row.id: row for row in nodes}}.values()),
        list({**inventory.devices, **{row.id: row for row in devices}}.values()),
    )


def view(inventory: Inventory, used: Used, version: int) -> PoolView:
    """Lay what is in use over the inventory. O(what is in use), after two array copies."""
    columns = inventory.columns
    node_free, device_free = columns.node_limit.copy(), columns.device_limit.copy()
    _subtract(node_free, columns.node_at, used.nodes)
    _subtract(device_free, columns.device_at, used.devices)
    return PoolView(version, columns, node_free, device_free)


def _columns(
    clusters: Mapping[str, Cluster], ordered: Sequence[Node], devices_of: Mapping[str, tuple[Device, ...]]
) -> Columns:
    listed = sorted(clusters.values(), key=lambda cluster: cluster.name)
    cluster_at = {cluster.id: position for position, cluster in enumerate(listed)}
    nodes = [node for node in ordered if node.state is not NodeState.GONE]
    is_open = [node.state is NodeState.READY and clusters[node.cluster_id].reachable for node in nodes]
    rows = [
        (position, device)
        for position, node in enumerate(nodes)
        for device in devices_of.get(node.id, ())
        if device.state is not DeviceState.GONE
    ]
    kind_at: dict[DeviceKind, int] = {}
    for _, device in rows:
        kind_at.setdefault(_kind(device), len(kind_at))
    return Columns(
        clusters=tuple(listed),
        node_ids=tuple(node.id for node in nodes),
        node_names=tuple(node.name for node in nodes),
        node_states=tuple(node.state for node in nodes),
        node_labels=tuple(node.labels for node in nodes),
        node_taints=tuple(node.taints for node in nodes),
        node_domains=tuple(node.domains for node in nodes),
        node_cluster=np.array([cluster_at[node.cluster_id] for node in nodes], dtype=np.int64),
        node_open=np.array(is_open, dtype=np.bool_),
        node_limit=np.array(
            [(node.cpu_limit_milli, node.memory_limit_bytes, node.disk_limit_bytes) for node in nodes], dtype=np.int64
        ).reshape(-1, 3),
        kinds=tuple(kind_at),
        device_ids=tuple(device.id for _, device in rows),
        device_names=tuple(device.name for _, device in rows),
        device_labels=tuple(device.labels for _, device in rows),
        device_isolation=tuple(device.isolation for _, device in rows),
        device_node=np.array([position for position, _ in rows], dtype=np.int64),
        device_index=np.array([device.index for _, device in rows], dtype=np.int64),
        device_kind=np.array([kind_at[_kind(device)] for _, device in rows], dtype=np.int64),
        device_open=np.array(
            [is_open[position] and device.state is DeviceState.READY for position, device in rows], dtype=np.bool_
        ),
        device_limit=np.array(
            [(WHOLE_DEVICE, device.memory_bytes) for _, device in rows], dtype=np.int64
        ).reshape(-1, 2),
        node_at={node.id: position for position, node in enumerate(nodes)},
        device_at={device.id: position for position, (_, device) in enumerate(rows)},
    )  # fmt: skip


def _kind(device: Device) -> DeviceKind:
    return DeviceKind(device.vendor, device.model, device.memory_bytes)


def _subtract(free: IntArray, positions: Mapping[str, int], used: Mapping[str, tuple[int, ...]]) -> None:
    known = [(positions[key], amounts) for key, amounts in used.items() if key in positions]
    if known:
        at = np.fromiter((position for position, _ in known), dtype=np.int64, count=len(known))
        free[at] -= np.array([amounts for _, amounts in known], dtype=np.int64)
