"""The pool in the order that placement likes, without what is in use: made once for each inventory, then kept.

Nodes stand by (cluster, name), devices by (flavor, node, index), so that a cluster is a slice of the node arrays and a
flavor (the devices of one cluster that a request cannot tell apart) a slice of the device arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dujiang.pool.domain import Columns, PoolView
from dujiang.scheduling.domain.request import WHOLE, Ask

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """One cluster as a row."""

    name: str
    stacks_ranks: bool = True
    """Whether several ranks of one job may share a node."""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device as a row."""

    name: str
    index: int
    vendor: str
    model: str
    memory_bytes: int
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node as a row, with what it may give away when nothing runs."""

    cluster: str
    name: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = 0
    devices: tuple[DeviceRow, ...] = ()
    is_open: bool = True
    """New work may start there."""
    state: str = ""
    """`CORDONED`, `NOT_READY` ...: the word for it when it is not open."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flavor:
    """Devices of one cluster that are alike. A job's devices are all of one flavor."""

    number: int
    cluster: int
    vendor: str
    model: str
    memory_bytes: int
    devices: slice
    """Of the device arrays."""

    def matches(self, ask: Ask) -> bool:
        """Say whether its devices are of the kind asked for, and large enough."""
        return self.is_called(ask) and self.memory_bytes >= ask.gpu_memory_bytes

    def is_called(self, ask: Ask) -> bool:
        """Say whether vendor and model are those asked for."""
        if ask.vendor and ask.vendor.casefold() != self.vendor.casefold():
            return False
        wanted, model, vendor = ask.model.casefold(), self.model.casefold(), self.vendor.casefold()
        return model.startswith(wanted) or model.removeprefix(vendor).lstrip(" -_").startswith(wanted)

    def share_bytes(self, ask: Ask) -> int:
        """Return how much memory of each device goes with the ask."""
        if not ask.is_fraction:
            return self.memory_bytes
        return ask.gpu_memory_bytes or ask.gpu_milli * self.memory_bytes // WHOLE


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Clusters, nodes and devices. c clusters, n nodes, d devices."""

    clusters: tuple[ClusterRow, ...]
    cluster_nodes: tuple[slice, ...]
    """Which nodes each cluster has."""
    flavors: tuple[Flavor, ...]
    """Smallest memory first: what asks for any device gets the least that will do."""
    node_names: tuple[str, ...]
    node_states: tuple[str, ...]
    node_labels: tuple[Mapping[str, str], ...]
    node_cluster: IntArray
    """(n)"""
    node_open: BoolArray
    """(n)"""
    node_devices: IntArray
    """(n): how many devices each node has."""
    node_limit: IntArray
    """(3, n): cpu_milli, memory_bytes, disk_bytes."""
    device_names: tuple[str, ...]
    device_index: IntArray
    """(d): the engine's index."""
    device_node: IntArray
    """(d)"""
    device_flavor: IntArray
    """(d)"""
    device_open: BoolArray
    """(d): healthy, and on an open node."""
    device_memory: IntArray
    """(d)"""
    device_source: IntArray
    """(d): where each device stood in the arrays or rows that this was made of."""
    node_at: Mapping[tuple[str, str], int]
    """(cluster, node) to position."""
    device_at: Mapping[tuple[int, str], int]
    """(node position, device name) to position."""

    @property
    def node_count(self) -> int:
        """Return n."""
        return len(self.node_names)

    @property
    def device_count(self) -> int:
        """Return d."""
        return len(self.device_names)

    def models(self) -> list[str]:
        """Return the devices that exist, as `vendor model memory`, sorted."""
        from_flavors = {(f.vendor, f.model, f.memory_bytes) for f in self.flavors}
        return [f"{vendor} {model} {memory / 2**30:.4g}GiB" for vendor, model, memory in sorted(from_flavors)]


def fleet_of_rows(clusters: Sequence[ClusterRow], nodes: Sequence[NodeRow]) -> Fleet:
    """Return the fleet of simple rows; their order does not matter.

    Raises:
        KeyError: a node of a cluster that is not listed.
    """
    listed = sorted(clusters, key=lambda cluster: cluster.name)
    position = {cluster.name: number for number, cluster in enumerate(listed)}
    ordered = sorted(nodes, key=lambda node: (node.cluster, node.name))
    devices = [
        (at, device)
        for at, node in enumerate(ordered)
        for device in sorted(node.devices, key=lambda each: (each.index, each.name))
    ]
    limits = [(node.cpu_milli, node.memory_bytes, node.disk_bytes) for node in ordered]
    return _assemble(
        listed,
        np.array([position[node.cluster] for node in ordered], dtype=np.int64),
        [node.name for node in ordered],
        ["" if node.is_open else node.state or "CLOSED" for node in ordered],
        [node.labels for node in ordered],
        np.array([node.is_open for node in ordered], dtype=np.bool_),
        np.array(limits, dtype=np.int64).reshape(-1, 3),
        [device.name for _, device in devices],
        [(device.vendor, device.model, device.memory_bytes) for _, device in devices],
        np.array([device.index for _, device in devices], dtype=np.int64),
        np.array([at for at, _ in devices], dtype=np.int64),
        np.array([device.is_open and ordered[at].is_open for at, device in devices], dtype=np.bool_),
    )


def fleet_of_pool(columns: Columns) -> Fleet:
    """Return the fleet of the pool's columns. O(d log d); keep it while the columns are the same object."""
    return _assemble(
        [ClusterRow(cluster.name, cluster.stacks_ranks) for cluster in columns.clusters],
        columns.node_cluster,
        columns.node_names,
        ["" if is_open else str(state) for state, is_open in zip(columns.node_states, columns.node_open, strict=True)],
        columns.node_labels,
        columns.node_open,
        columns.node_limit,
        columns.device_names,
        [_kind(columns, number) for number in columns.device_kind.tolist()],
        columns.device_index,
        columns.device_node,
        columns.device_open,
    )


def free_of_pool(fleet: Fleet, view: PoolView) -> tuple[IntArray, IntArray, IntArray]:
    """Return node_free (3, n), device_milli (d) and device_memory (d) of a view, in the fleet's order."""
    source = fleet.device_source
    return view.node_free.T.copy(), view.device_free[source, 0], view.device_free[source, 1]


def _kind(columns: Columns, number: int) -> tuple[str, str, int]:
    kind = columns.kinds[number]
    return kind.vendor, kind.model, kind.memory_bytes


def _assemble(
    clusters: Sequence[ClusterRow], node_cluster: IntArray, node_names: Sequence[str], node_states: Sequence[str],
    node_labels: Sequence[Mapping[str, str]], node_open: BoolArray, node_limit: IntArray, device_names: Sequence[str],
    device_kinds: Sequence[tuple[str, str, int]], device_index: IntArray, device_node: IntArray,
    device_open: BoolArray,
) -> Fleet:  # fmt: skip
    """Put nodes already in order of (cluster, name) and devices in any order of node and index into a fleet."""
    clusters_of = node_cluster[device_node].tolist()
    keys = [(kind[2], kind[0], kind[1], cluster) for kind, cluster in zip(device_kinds, clusters_of, strict=True)]
    number_of = {key: number for number, key in enumerate(sorted(set(keys)))}
    flavor = np.array([number_of[key] for key in keys], dtype=np.int64)
    source = np.lexsort((device_index, device_node, flavor)).astype(np.int64)
    bounds = np.searchsorted(flavor[source], np.arange(len(number_of) + 1))
    edges = np.searchsorted(node_cluster, np.arange(len(clusters) + 1))
    names = tuple(device_names[at] for at in source.tolist())
    device_node = device_node[source]
    return Fleet(
        clusters=tuple(clusters),
        cluster_nodes=tuple(slice(int(a), int(b)) for a, b in pairwise(edges)),
        flavors=tuple(
            Flavor(number, key[3], key[1], key[2], key[0], slice(int(bounds[number]), int(bounds[number + 1])))
            for key, number in number_of.items()
        ),
        node_names=tuple(node_names),
        node_states=tuple(node_states),
        node_labels=tuple(node_labels),
        node_cluster=node_cluster,
        node_open=node_open,
        node_devices=np.bincount(device_node, minlength=len(node_names)),
        node_limit=np.ascontiguousarray(node_limit.T),
        device_names=names,
        device_index=device_index[source],
        device_node=device_node,
        device_flavor=flavor[source],
        device_open=device_open[source],
        device_memory=np.array([device_kinds[at][2] for at in source.tolist()], dtype=np.int64),
        device_source=source,
        node_at={
            (clusters[cluster].name, name): at
            for at, (cluster, name) in enumerate(zip(node_cluster.tolist(), node_names, strict=True))
        },
        device_at={(node, name): at for at, (node, name) in enumerate(zip(device_node.tolist(), names, strict=True))},
    )
