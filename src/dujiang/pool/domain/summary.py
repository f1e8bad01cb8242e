"""What the pool has in all, holds and could still give: the figures of `dujiang pool`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dujiang.pool.domain.inventory import WHOLE_DEVICE, BoolArray, Columns, IntArray, PoolView


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is of one resource."""

    total: int
    allocated: int
    free: int
    """What new work can have now: open nodes and healthy devices only, so total - allocated can be more."""


@dataclass(frozen=True, slots=True)
class KindTotals:
    """All devices that a request by vendor and model cannot tell apart."""

    vendor: str
    model: str
    memory_bytes: int
    """Of one device."""
    simulated: bool
    devices: int
    devices_open: int
    """Healthy, and on a node that takes new work."""
    devices_untouched: int
    """Open, and nothing of them allocated."""
    gpu_milli: Amount
    device_memory: Amount
    largest_free_milli: int
    """The largest share that one device can still give."""
    most_untouched_on_a_node: int
    """The largest number of whole devices that one node can still give."""


@dataclass(frozen=True, slots=True)
class HostTotals:
    """CPU, memory and disk of all nodes, real or simulated."""

    simulated: bool
    nodes: int
    nodes_open: int
    cpu_milli: Amount
    memory_bytes: Amount
    disk_bytes: Amount
    largest_free_cpu_milli: int
    """On one node; likewise below."""
    largest_free_memory_bytes: int


def kind_totals(view: PoolView) -> list[KindTotals]:
    """Add up the devices by kind, simulated ones apart, in order of vendor, model and memory. O(devices * kinds)."""
    columns = view.columns
    if not columns.kinds:
        return []
    simulated = _simulated(columns)[columns.device_node]
    found = [
        _kind(view, kind, member, is_simulated)
        for kind in range(len(columns.kinds))
        for is_simulated in (False, True)
        if (member := (columns.device_kind == kind) & (simulated == is_simulated)).any()
    ]
    return sorted(found, key=lambda totals: (totals.vendor, totals.model, totals.memory_bytes, totals.simulated))


def host_totals(view: PoolView) -> list[HostTotals]:
    """Add up the nodes, simulated ones apart."""
    simulated = _simulated(view.columns)
    return [
        _hosts(view, member, is_simulated)
        for is_simulated in (False, True)
        if (member := simulated == is_simulated).any()
    ]


def _simulated(columns: Columns) -> BoolArray:
    return np.array([cluster.simulated for cluster in columns.clusters], dtype=np.bool_)[columns.node_cluster]


def _kind(view: PoolView, at: int, member: BoolArray, simulated: bool) -> KindTotals:
    columns, kind = view.columns, view.columns.kinds[at]
    is_open = member & columns.device_open
    untouched = is_open & (view.device_free[:, 0] == WHOLE_DEVICE)
    on_nodes = np.bincount(columns.device_node[untouched])
    return KindTotals(
        vendor=kind.vendor, model=kind.model, memory_bytes=kind.memory_bytes, simulated=simulated,
        devices=int(member.sum()), devices_open=int(is_open.sum()), devices_untouched=int(untouched.sum()),
        gpu_milli=_amount(columns.device_limit[:, 0], view.device_free[:, 0], member, is_open),
        device_memory=_amount(columns.device_limit[:, 1], view.device_free[:, 1], member, is_open),
        largest_free_milli=_largest(view.device_free[:, 0], is_open),
        most_untouched_on_a_node=int(on_nodes.max(initial=0)),
    )  # fmt: skip


def _hosts(view: PoolView, member: BoolArray, simulated: bool) -> HostTotals:
    limit, free = view.columns.node_limit, view.node_free
    is_open = member & view.columns.node_open
    cpu, memory, disk = (_amount(limit[:, each], free[:, each], member, is_open) for each in range(3))
    return HostTotals(
        simulated=simulated, nodes=int(member.sum()), nodes_open=int(is_open.sum()), cpu_milli=cpu,
        memory_bytes=memory, disk_bytes=disk, largest_free_cpu_milli=_largest(free[:, 0], is_open),
        largest_free_memory_bytes=_largest(free[:, 1], is_open),
    )  # fmt: skip


def _amount(limit: IntArray, free: IntArray, member: BoolArray, is_open: BoolArray) -> Amount:
    return Amount(
        total=int(limit[member].sum()),
        allocated=int((limit[member] - free[member]).sum()),
        free=int(np.maximum(free[is_open], 0).sum()),
    )


def _largest(free: IntArray, is_open: BoolArray) -> int:
    return int(free[is_open].max(initial=0))
