"""The pool in the order that placement likes, without what is in use: made once for each inventory, then kept.

Nodes stand by (cluster, name), devices by (flavor, node, index), so that a cluster is a slice of the node arrays and a
flavor (the devices of one cluster that a request cannot tell apart) a slice of the device arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from dujiang.engines.contract import Isolation
from dujiang.pool.domain import Cluster, Columns, DeviceKind, PoolView
from dujiang.scheduling.domain.request import LEVELS, WHOLE, Ask, Level

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """One cluster as a row."""

    name: str
    stacks_ranks: bool = True
    """Whether several ranks of one job may share a node."""
    price: float = 0.0
    """List cost of one device for one hour, in the currency of the platform; the cheaper cluster is tried first."""
    is_cloud: bool = False
    """Rented by use: work goes there only where a policy lets it burst."""
    interruptions_per_day: float = 0.0
    """How often a node is taken away (spot capacity)."""
    images: str = ""
    """What runs container images there; empty where nothing does."""


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device as a row."""

    name: str
    index: int
    vendor: str
    model: str
    memory_bytes: int
    is_open: bool = True
    isolation: Isolation = Isolation.COUNTED_ONLY
    """What a share of it gets."""


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
    taints: tuple[str, ...] = ()
    """`key` or `key=value`: only work that tolerates each of them starts there."""
    domains: Mapping[Level, str] = field(default_factory=dict)
    """Which switch, rack and site it belongs to, as far as known."""


UNREACHABLE: Final = "UNREACHABLE"
"""The word for a node whose cluster cannot be reached."""


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
    isolation: Isolation = Isolation.COUNTED_ONLY
    """What a share of one gets."""

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
class Seats:
    """The devices of one flavor, node by node; k nodes have some, w is the most that one has."""

    nodes: IntArray
    """(k): positions of the nodes, rising."""
    devices: IntArray
    """(k, w): positions of the devices, in order of index."""
    is_real: BoolArray
    """(k, w): False where the node has fewer."""
    row_of: Mapping[int, int]
    """Node to row."""

    def of(self, node: int) -> list[int]:
        """Return the devices of one node."""
        row = self.row_of[node]
        devices: list[int] = self.devices[row][self.is_real[row]].tolist()
        return devices


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """Clusters, nodes and devices. c clusters, n nodes, d devices."""

    clusters: tuple[ClusterRow, ...]
    cluster_nodes: tuple[slice, ...]
    """Which nodes each cluster has."""
    flavors: tuple[Flavor, ...]
    """Smallest memory first: what asks for any device gets the least that will do."""
    seats: tuple[Seats, ...]
    """By flavor."""
    node_names: tuple[str, ...]
    node_states: tuple[str, ...]
    node_labels: tuple[Mapping[str, str], ...]
    node_taints: tuple[tuple[str, ...], ...]
    node_domains: IntArray
    """(levels, n): number of the switch, rack and site of each node; a node of unknown place has one of its own."""
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
    _shared: tuple[bool, ...] = ()

    @property
    def node_count(self) -> int:
        """Return n."""
        return len(self.node_names)

    @property
    def device_count(self) -> int:
        """Return d."""
        return len(self.device_names)

    def knows(self, level: Level) -> bool:
        """Say whether any two nodes are known to be in one domain of a level."""
        return self._shared[LEVELS.index(level)]

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
        _Nodes(
            cluster=np.array([position[node.cluster] for node in ordered], dtype=np.int64),
            names=[node.name for node in ordered],
            states=["" if node.is_open else node.state or "CLOSED" for node in ordered],
            labels=[node.labels for node in ordered],
            taints=[node.taints for node in ordered],
            domains=[node.domains for node in ordered],
            open=np.array([node.is_open for node in ordered], dtype=np.bool_),
            limit=np.array(limits, dtype=np.int64).reshape(-1, 3),
        ),
        _Devices(
            names=[device.name for _, device in devices],
            kinds=[_Kind(one.memory_bytes, one.vendor, one.model, one.isolation) for _, one in devices],
            index=np.array([device.index for _, device in devices], dtype=np.int64),
            node=np.array([at for at, _ in devices], dtype=np.int64),
            open=np.array([device.is_open and ordered[at].is_open for at, device in devices], dtype=np.bool_),
        ),
    )


def fleet_of_pool(columns: Columns) -> Fleet:
    """Return the fleet of the pool's columns. O(d log d); keep it while the columns are the same object."""
    pairs = list(zip(columns.device_kind.tolist(), columns.device_isolation, strict=True))
    kinds = {pair: _kind_of(columns.kinds[pair[0]], pair[1]) for pair in dict.fromkeys(pairs)}
    return _assemble(
        [_cluster_row(cluster) for cluster in columns.clusters],
        _Nodes(
            cluster=columns.node_cluster,
            names=columns.node_names,
            states=_words(columns),
            labels=columns.node_labels,
            taints=columns.node_taints,
            domains=[{Level(level): name for level, name in each.items()} for each in columns.node_domains],
            open=columns.node_open,
            limit=columns.node_limit,
        ),
        _Devices(
            names=columns.device_names,
            kinds=[kinds[pair] for pair in pairs],
            index=columns.device_index,
            node=columns.device_node,
            open=columns.device_open,
        ),
    )


def _words(columns: Columns) -> list[str]:
    """Return why nodes are closed, in a word each; empty for those that are open."""
    away = [not cluster.reachable for cluster in columns.clusters]
    placed = zip(columns.node_states, columns.node_open, columns.node_cluster.tolist(), strict=True)
    return ["" if is_open else (UNREACHABLE if away[at] else str(state)) for state, is_open, at in placed]


def free_of_pool(fleet: Fleet, view: PoolView) -> tuple[IntArray, IntArray, IntArray]:
    """Return node_free (3, n), device_milli (d) and device_memory (d) of a view, in the fleet's order."""
    source = fleet.device_source
    return view.node_free.T.copy(), view.device_free[source, 0], view.device_free[source, 1]


@dataclass(frozen=True, slots=True, order=True)
class _Kind:
    """Devices that a request cannot tell apart."""

    memory_bytes: int
    vendor: str
    model: str
    isolation: Isolation


def _kind_of(kind: DeviceKind, isolation: Isolation) -> _Kind:
    return _Kind(kind.memory_bytes, kind.vendor, kind.model, isolation)


def _cluster_row(cluster: Cluster) -> ClusterRow:
    terms = cluster.terms
    return ClusterRow(
        cluster.name, cluster.stacks_ranks, float(terms.price_per_device_hour), terms.is_cloud,
        terms.interruptions_per_day, cluster.images,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes in order of (cluster, name), as columns."""

    cluster: IntArray
    names: Sequence[str]
    states: Sequence[str]
    labels: Sequence[Mapping[str, str]]
    taints: Sequence[tuple[str, ...]]
    domains: Sequence[Mapping[Level, str]]
    open: BoolArray
    limit: IntArray


@dataclass(frozen=True, slots=True)
class _Devices:
    """Devices in any order, as columns."""

    names: Sequence[str]
    kinds: Sequence[_Kind]
    index: IntArray
    node: IntArray
    open: BoolArray


def _assemble(clusters: Sequence[ClusterRow], nodes: _Nodes, devices: _Devices) -> Fleet:
    keys = list(zip(devices.kinds, nodes.cluster[devices.node].tolist(), strict=True))
    number_of = {key: number for number, key in enumerate(sorted(set(keys)))}
    flavor = np.array([number_of[key] for key in keys], dtype=np.int64)
    source = np.lexsort((devices.index, devices.node, flavor)).astype(np.int64)
    bounds = np.searchsorted(flavor[source], np.arange(len(number_of) + 1)).tolist()
    edges = np.searchsorted(nodes.cluster, np.arange(len(clusters) + 1)).tolist()
    names = tuple(devices.names[at] for at in source.tolist())
    device_node = devices.node[source]
    flavors = tuple(
        Flavor(
            number, cluster, kind.vendor, kind.model, kind.memory_bytes,
            slice(bounds[number], bounds[number + 1]), kind.isolation,
        ) for (kind, cluster), number in number_of.items()
    )  # fmt: skip
    domains = _domains(nodes)
    return Fleet(
        clusters=tuple(clusters),
        cluster_nodes=tuple(slice(a, b) for a, b in pairwise(edges)),
        flavors=flavors,
        seats=tuple(_seats(device_node, flavor.devices) for flavor in flavors),
        node_names=tuple(nodes.names),
        node_states=tuple(nodes.states),
        node_labels=tuple(nodes.labels),
        node_taints=tuple(tuple(sorted(set(taints))) for taints in nodes.taints),
        node_domains=domains,
        node_cluster=nodes.cluster,
        node_open=nodes.open,
        node_devices=np.bincount(device_node, minlength=len(nodes.names)),
        node_limit=np.ascontiguousarray(nodes.limit.T),
        device_names=names,
        device_index=devices.index[source],
        device_node=device_node,
        device_flavor=flavor[source],
        device_open=devices.open[source],
        device_memory=np.array([devices.kinds[at].memory_bytes for at in source.tolist()], dtype=np.int64),
        device_source=source,
        node_at={
            (clusters[cluster].name, name): at
            for at, (cluster, name) in enumerate(zip(nodes.cluster.tolist(), nodes.names, strict=True))
        },
        device_at={(node, name): at for at, (node, name) in enumerate(zip(device_node.tolist(), names, strict=True))},
        _shared=tuple(bool(row.size) and int(row.max()) + 1 < row.size for row in domains),
    )  # fmt: skip


def _seats(device_node: IntArray, devices: slice) -> Seats:
    """Lay the devices of a flavor, which stand by node and index, out node by node."""
    nodes, first, counts = np.unique(device_node[devices], return_index=True, return_counts=True)
    column = np.arange(int(counts.max(initial=0)))
    is_real = column < counts[:, None]
    at = devices.start + np.where(is_real, first[:, None] + column, 0)
    return Seats(nodes, at, is_real, {node: row for row, node in enumerate(nodes.tolist())})


def _domains(nodes: _Nodes) -> IntArray:
    """Number the domains of each level, apart for each cluster; a node of unknown place is a domain of its own."""
    numbers = np.empty((len(LEVELS), len(nodes.names)), dtype=np.int64)
    for row, level in enumerate(LEVELS):
        known: dict[object, int] = {}
        for at, (cluster, domains) in enumerate(zip(nodes.cluster.tolist(), nodes.domains, strict=True)):
            name = domains.get(level)
            numbers[row, at] = known.setdefault(at if name is None else (cluster, name), len(known))
    return numbers
