"""The allocation ledger: who holds how much of which device and node, from when to when.

One row per (attempt, rank) for CPU, memory and disk, and one per (attempt, rank, device) for thousandths of the device
and its memory. Intervals are half-open: what ends at an instant makes room for what starts at it. Rows are opened and
closed, never changed otherwise, and carry what pricing needs (vendor, model, simulated), so that a bill does not depend
on what becomes of the inventory. Whether the whole history holds is decided in `sweep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dujiang.engines.contract import AttemptKey, DeviceShare, RankPlacement
from dujiang.kit.errors import Conflict, Invalid
from dujiang.pool.domain.inventory import WHOLE_DEVICE, Inventory, Used
from dujiang.pool.domain.nodes import Device, DeviceState, Node, NodeState, UnknownCluster, UnknownDevice, UnknownNode


@dataclass(frozen=True, slots=True)
class Grant:
    """What an attempt is to hold."""

    key: AttemptKey
    project_id: str
    cluster: str
    """Name."""
    ranks: tuple[RankPlacement, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """What one row of the ledger holds, before it has an identifier and a time."""

    key: AttemptKey
    rank: int
    project_id: str
    cluster_id: str
    node_id: str
    device_id: str | None
    """None for the row of CPU, memory and disk."""
    gpu_milli: int
    device_memory_bytes: int
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    vendor: str
    """Of the device; empty on a row without one."""
    model: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class Allocation:
    """One row of the ledger."""

    id: str
    share: Share
    started_at: datetime
    ended_at: datetime | None
    """None while it is live."""
    closed_version: int | None = None
    """The pool version that closed it: rows can be read in the order in which they were closed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What `allocate` did."""

    version: int
    """The pool's version now; hand it on when the same transaction allocates again."""
    rows: int
    """How many rows of the ledger were opened; 0 when all of it was held already."""


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which rows of the ledger; None of a member means any."""

    project_ids: Sequence[str] | None = None
    job_id: str | None = None
    node_id: str | None = None
    live: bool | None = None
    since: datetime | None = None
    """Held at some moment from here on."""
    until: datetime | None = None
    """Held at some moment before here."""


class OverAllocated(Conflict):
    """There is not that much left on a node or device."""

    code, retryable, title = "over_allocated", True, "Not enough left"


class NodeClosed(Conflict):
    """Nothing new may start on that node or device now."""

    code, retryable, title = "node_closed", True, "Nothing new may start there"


class AllocationDiffers(Conflict):
    """The attempt holds something else, or has already given back what it held."""

    code, title = "allocation_differs", "The attempt holds something else"


class BadPlacement(Invalid):
    """A placement that no node could ever hold: amounts out of range, a rank or device twice."""

    code, title = "bad_placement", "The placement is not valid"


def shares(grant: Grant, inventory: Inventory, *, placeable: bool = True) -> list[Share]:
    """Return the ledger rows of a grant.

    Args:
        grant: what to hold.
        inventory: where.
        placeable: refuse nodes and devices that are closed to new work.

    Raises:
        BadPlacement: it contradicts itself.
        UnknownCluster, UnknownNode, UnknownDevice: no such place.
        NodeClosed: the node or device is closed to new work.
    """
    _check_form(grant)
    cluster_id = inventory.cluster_ids.get(grant.cluster)
    if cluster_id is None:
        raise UnknownCluster(f'There is no cluster "{grant.cluster}".')
    cluster = inventory.clusters[cluster_id]
    rows: list[Share] = []
    for rank in grant.ranks:
        node_id = inventory.node_ids.get((cluster_id, rank.node))
        if node_id is None:
            raise UnknownNode(f'Cluster "{grant.cluster}" has no node "{rank.node}".')
        node = inventory.nodes[node_id]
        if placeable and (node.state is not NodeState.READY or not cluster.reachable):
            state = node.state if cluster.reachable else "in a cluster that cannot be reached"
            raise NodeClosed(f"Node {node.name} is {state}: nothing new may start there.", node=node.name)
        rows.append(_host_share(grant, rank, node, simulated=cluster.simulated))
        for share in rank.devices:
            device = _device(inventory, node, share, placeable=placeable)
            rows.append(_device_share(grant, rank, share, device, cluster_id, simulated=cluster.simulated))
    return rows


def check_room(rows: Iterable[Share], inventory: Inventory, used: Used) -> None:
    """Let rows pass that fit beside what is held already, all of them together.

    Raises:
        OverAllocated: a device would exceed 1000 thousandths or its memory, or a node its CPU, memory or disk.
    """
    nodes, devices = dict(used.nodes), dict(used.devices)
    for row in rows:
        node = inventory.nodes[row.node_id]
        if row.device_id is None:
            cpu, memory, disk = nodes.get(node.id, (0, 0, 0))
            # What asks for nothing fits anywhere, also on a node that has shrunk below what is held.
            _fit(row, node.name, "cpu_milli", row.cpu_milli, node.cpu_limit_milli - cpu)
            _fit(row, node.name, "memory_bytes", row.memory_bytes, node.memory_limit_bytes - memory)
            _fit(row, node.name, "disk_bytes", row.disk_bytes, node.disk_limit_bytes - disk)
            nodes[node.id] = (cpu + row.cpu_milli, memory + row.memory_bytes, disk + row.disk_bytes)
        else:
            device = inventory.devices[row.device_id]
            milli, memory = devices.get(device.id, (0, 0))
            place = f"{node.name} device {device.index}"
            _fit(row, place, "gpu_milli", row.gpu_milli, WHOLE_DEVICE - milli)
            _fit(row, place, "device_memory_bytes", row.device_memory_bytes, device.memory_bytes - memory)
            devices[device.id] = (milli + row.gpu_milli, memory + row.device_memory_bytes)


def same_shares(first: Sequence[Share], second: Sequence[Share]) -> bool:
    """Say whether two sets of rows hold the same amounts of the same places, whatever their order and labels."""
    return sorted(map(_essence, first)) == sorted(map(_essence, second))


def _essence(row: Share) -> tuple[object, ...]:
    return (
        str(row.key), row.rank, row.node_id, row.device_id or "", row.gpu_milli, row.device_memory_bytes,
        row.cpu_milli, row.memory_bytes, row.disk_bytes, row.project_id,
    )  # fmt: skip


def _fit(row: Share, place: str, resource: str, asked: int, free: int) -> None:
    if asked > max(free, 0):
        raise OverAllocated(
            f"{place} has {max(free, 0)} {resource} left, attempt {row.key} asks for {asked}.",
            attempt=str(row.key), place=place, resource=resource, asked=asked, free=max(free, 0),
        )  # fmt: skip


def _check_form(grant: Grant) -> None:
    ranks = [rank.rank for rank in grant.ranks]
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 0:
        raise BadPlacement(f"Attempt {grant.key} needs at least one rank, each with a number of its own.")
    for rank in grant.ranks:
        if min(rank.cpu_milli, rank.memory_bytes, rank.disk_bytes) < 0:
            raise BadPlacement(f"Rank {rank.rank} of attempt {grant.key} asks for less than nothing.")
        names = [share.name for share in rank.devices]
        if len(set(names)) != len(names):
            raise BadPlacement(f"Rank {rank.rank} of attempt {grant.key} names a device twice.")
        for share in rank.devices:
            if not 1 <= share.gpu_milli <= WHOLE_DEVICE or share.memory_bytes < 0:
                raise BadPlacement(
                    f"A share of a device is 1 to {WHOLE_DEVICE} thousandths, not {share.gpu_milli}; "
                    "more than a device is several whole devices."
                )


def _device(inventory: Inventory, node: Node, share: DeviceShare, *, placeable: bool) -> Device:
    device = next((each for each in inventory.devices_of.get(node.id, ()) if each.name == share.name), None)
    if device is None:
        raise UnknownDevice(f'Node {node.name} has no device "{share.name}".')
    if placeable and device.state is not DeviceState.READY:
        raise NodeClosed(f"Device {device.index} of node {node.name} is {device.state}.", node=node.name)
    return device


def _host_share(grant: Grant, rank: RankPlacement, node: Node, *, simulated: bool) -> Share:
    return Share(
        key=grant.key, rank=rank.rank, project_id=grant.project_id, cluster_id=node.cluster_id, node_id=node.id,
        device_id=None, gpu_milli=0, device_memory_bytes=0, cpu_milli=rank.cpu_milli, memory_bytes=rank.memory_bytes,
        disk_bytes=rank.disk_bytes, vendor="", model="", simulated=simulated,
    )  # fmt: skip


def _device_share(
    grant: Grant, rank: RankPlacement, share: DeviceShare, device: Device, cluster_id: str, *, simulated: bool
) -> Share:
    return Share(
        key=grant.key, rank=rank.rank, project_id=grant.project_id, cluster_id=cluster_id, node_id=device.node_id,
        device_id=device.id, gpu_milli=share.gpu_milli, device_memory_bytes=share.memory_bytes, cpu_milli=0,
        memory_bytes=0, disk_bytes=0, vendor=device.vendor, model=device.model, simulated=simulated,
    )  # fmt: skip
