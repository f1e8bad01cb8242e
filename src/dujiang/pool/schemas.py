"""What the pool's routes answer, made from the domain's values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from pydantic import Field

from dujiang.kit.errors import Invalid
from dujiang.kit.http import Model
from dujiang.pool.domain.inventory import WHOLE_DEVICE, Inventory, Used
from dujiang.pool.domain.ledger import Allocation
from dujiang.pool.domain.marks import places
from dujiang.pool.domain.nodes import Cluster, Device, DeviceState, Node, NodeState
from dujiang.pool.domain.standing import REMOVED, ClusterState
from dujiang.pool.domain.summary import HostTotals, KindTotals


class ClusterOut(Model):
    """One engine's realm."""

    id: str
    name: str
    kind: str
    version: str
    """Of its engine, as far as that says."""
    simulated: bool
    limits: str
    limits_by: str
    isolation: str
    stacks_ranks: bool
    images: str
    """What runs container images there; empty where nothing does."""
    state: ClusterState
    """`degraded`: new work may be put there, but something is the matter; `unreachable`: nothing new is; `removed`: it
    is no longer in the settings, and listed as long as work holds a place there."""
    state_since: datetime | None
    reachable: bool
    """Not `unreachable`."""
    reason: str
    """Why it is not simply reachable, in a sentence."""
    seen_at: datetime | None
    """When it last said what there is."""
    answer_age_s: float | None
    """How long ago that was."""
    answer_s: float | None
    """How long its last answer took."""
    answer_p95_s: float | None
    """How long 95 of 100 recent ones took at most."""
    price_per_device_hour: Decimal
    """List cost, in the platform's currency."""
    cloud: bool
    """Rented by use."""
    interruptions_per_day: float


class DeviceOut(Model):
    """One accelerator with what is left of it; `free_*` is what nobody holds, whether or not it is open to new work."""

    id: str
    name: str
    index: int
    vendor: str
    model: str
    memory_bytes: int
    state: str
    isolation: str
    labels: dict[str, str]
    free_gpu_milli: int
    free_memory_bytes: int
    simulated: bool


class NodeOut(Model):
    """One node with its devices; capacities are what may be given away, `free_*` is what nobody holds of them."""

    id: str
    name: str
    cluster: str
    cluster_state: ClusterState
    """What is told of a node whose cluster is `unreachable` or `removed` is what was seen last."""
    state: str
    reason: str
    schedulable: bool
    intent: str
    intent_by: str
    labels: dict[str, str]
    """All of them: the engine's, and the operators' over these."""
    own_labels: dict[str, str]
    """Those that operators gave."""
    taints: list[str]
    """`key` or `key=value`: only work that tolerates each of them starts here."""
    own_taints: list[str]
    """Those that operators gave."""
    switch: str | None
    rack: str | None
    site: str | None
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    free_cpu_milli: int
    free_memory_bytes: int
    free_disk_bytes: int
    devices: list[DeviceOut]
    seen_at: datetime | None
    simulated: bool


class AmountOut(Model):
    """How much there is of one resource; `free` is what new work can have now."""

    total: int
    allocated: int
    free: int


class KindOut(Model):
    """All devices of one vendor and model."""

    vendor: str
    model: str
    memory_bytes: int
    simulated: bool
    devices: int
    devices_open: int
    devices_untouched: int
    gpu_milli: AmountOut
    device_memory: AmountOut
    largest_free_milli: int
    most_untouched_on_a_node: int


class HostsOut(Model):
    """CPU, memory and disk of all nodes."""

    simulated: bool
    nodes: int
    nodes_open: int
    cpu_milli: AmountOut
    memory_bytes: AmountOut
    disk_bytes: AmountOut
    largest_free_cpu_milli: int
    largest_free_memory_bytes: int


class SilentOut(Model):
    """A cluster that does not answer, or was removed, with what was seen there last; 0 nodes: nothing ever was."""

    cluster: str
    state: ClusterState
    state_since: datetime | None
    nodes: int
    devices: int


class PoolOut(Model):
    """The pool in figures; what is simulated is never added to what is real."""

    version: int
    simulated: bool
    """Something here is simulated."""
    clusters: int
    node_states: dict[str, int]
    devices: list[KindOut]
    hosts: list[HostsOut]
    silent: list[SilentOut]
    """What of all this is on clusters that do not answer; nothing new is put there."""


class AllocationOut(Model):
    """One row of the ledger: CPU, memory and disk of a rank, or its share of one device."""

    id: str
    job_id: str
    attempt: int
    rank: int
    project_id: str
    cluster: str
    node: str
    device: str | None
    """Name of the device; null on the row of CPU, memory and disk."""
    device_index: int | None
    vendor: str
    model: str
    gpu_milli: int
    device_memory_bytes: int
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    started_at: datetime
    ended_at: datetime | None
    simulated: bool


class LabelsIn(Model):
    """Labels to set, over those that are there, and keys of an operator's labels to take away."""

    set: dict[str, str] = Field(default={}, max_length=64)
    remove: list[str] = Field(default=[], max_length=64)


class TaintsIn(Model):
    """Taints to set, `key` or `key=value`, and keys of an operator's taints to take away."""

    set: list[str] = Field(default=[], max_length=64)
    remove: list[str] = Field(default=[], max_length=64)


class ReasonIn(Model):
    """Why an operator does this."""

    reason: str = ""


def aware(at: datetime | None) -> datetime | None:
    """Return a time of a request.

    Raises:
        Invalid: it has no zone.
    """
    if at is not None and at.tzinfo is None:
        raise Invalid("A time needs its zone: write 2026-01-31T08:00:00Z.")
    return at


def state_out(cluster: Cluster, *, removed: bool) -> ClusterState:
    """Return how a cluster stands, as answered."""
    return ClusterState.REMOVED if removed else cluster.state


def cluster_out(cluster: Cluster, now: datetime, *, removed: bool = False) -> ClusterOut:
    """Return a cluster as answered."""
    age_s = None if cluster.seen_at is None else max(0.0, round((now - cluster.seen_at).total_seconds(), 3))
    return ClusterOut(
        id=cluster.id, name=cluster.name, kind=cluster.kind, simulated=cluster.simulated, limits=str(cluster.limits),
        limits_by=cluster.limits_by, isolation=str(cluster.isolation), stacks_ranks=cluster.stacks_ranks,
        reachable=cluster.reachable and not removed, reason=REMOVED if removed else cluster.reason,
        seen_at=cluster.seen_at, version=cluster.version, images=cluster.images,
        state=state_out(cluster, removed=removed), state_since=cluster.state_since, answer_age_s=age_s,
        answer_s=cluster.answer_s, answer_p95_s=cluster.answer_p95_s,
        price_per_device_hour=cluster.terms.price_per_device_hour, cloud=cluster.terms.is_cloud,
        interruptions_per_day=cluster.terms.interruptions_per_day,
    )  # fmt: skip


def node_out(
    node: Node, inventory: Inventory, used: Used, cluster: Cluster, *, removed: bool = False
) -> NodeOut:  # fmt: skip
    """Return a node as answered; `cluster` as just read, for when it was last seen."""
    cpu, memory, disk = used.nodes.get(node.id, (0, 0, 0))
    devices = [each for each in inventory.devices_of.get(node.id, ()) if each.state is not DeviceState.GONE]
    at, where = inventory.columns.node_at.get(node.id), places(node.labels)
    return NodeOut(
        id=node.id, name=node.name, cluster=cluster.name, state=str(node.state), reason=node.reason,
        cluster_state=state_out(cluster, removed=removed),
        schedulable=at is not None and bool(inventory.columns.node_open[at]), intent=str(node.intent),
        intent_by=node.intent_by, labels=dict(node.labels), own_labels=dict(node.own_labels),
        taints=list(node.taints), own_taints=list(node.own_taints),
        switch=where.get("switch"), rack=where.get("rack"), site=where.get("site"), cpu_milli=node.cpu_limit_milli,
        memory_bytes=node.memory_limit_bytes, disk_bytes=node.disk_limit_bytes,
        free_cpu_milli=node.cpu_limit_milli - cpu, free_memory_bytes=node.memory_limit_bytes - memory,
        free_disk_bytes=node.disk_limit_bytes - disk,
        devices=[_device_out(device, used, simulated=cluster.simulated) for device in devices],
        seen_at=cluster.seen_at if node.present else node.seen_at, simulated=cluster.simulated,
    )  # fmt: skip


def allocation_out(row: Allocation, inventory: Inventory) -> AllocationOut:
    """Return a row of the ledger as answered; places are named as they are called now."""
    share = row.share
    cluster = inventory.clusters.get(share.cluster_id)
    node = inventory.nodes.get(share.node_id)
    device = inventory.devices.get(share.device_id) if share.device_id else None
    return AllocationOut(
        id=row.id, job_id=share.key.job_id, attempt=share.key.number, rank=share.rank, project_id=share.project_id,
        cluster=cluster.name if cluster else share.cluster_id, node=node.name if node else share.node_id,
        device=device.name if device else share.device_id, device_index=device.index if device else None,
        vendor=share.vendor, model=share.model, gpu_milli=share.gpu_milli,
        device_memory_bytes=share.device_memory_bytes, cpu_milli=share.cpu_milli, memory_bytes=share.memory_bytes,
        disk_bytes=share.disk_bytes, started_at=row.started_at, ended_at=row.ended_at, simulated=share.simulated,
    )  # fmt: skip


def kind_out(totals: KindTotals) -> KindOut:
    """Return the totals of a kind of device as answered."""
    return KindOut.model_validate(totals)


def silent_out(inventory: Inventory, is_removed: Callable[[Cluster], bool]) -> list[SilentOut]:
    """Return the clusters that do not answer, with how much of what is known is there."""
    found: list[SilentOut] = []
    for cluster in sorted(inventory.clusters.values(), key=lambda one: one.name):
        nodes = [
            node for node in inventory.nodes.values()
            if node.cluster_id == cluster.id and node.state is not NodeState.GONE
        ]  # fmt: skip
        removed = is_removed(cluster)
        if (nodes or not removed) and (removed or not cluster.reachable):
            devices = [
                one for node in nodes for one in inventory.devices_of.get(node.id, ())
                if one.state is not DeviceState.GONE
            ]  # fmt: skip
            found.append(SilentOut(
                cluster=cluster.name, state=state_out(cluster, removed=removed),
                state_since=cluster.state_since, nodes=len(nodes), devices=len(devices),
            ))  # fmt: skip
    return found


def hosts_out(totals: HostTotals) -> HostsOut:
    """Return the totals of the nodes as answered."""
    return HostsOut.model_validate(totals)


def _device_out(device: Device, used: Used, *, simulated: bool) -> DeviceOut:
    milli, memory = used.devices.get(device.id, (0, 0))
    return DeviceOut(
        id=device.id, name=device.name, index=device.index, vendor=device.vendor, model=device.model,
        memory_bytes=device.memory_bytes, state=str(device.state), isolation=str(device.isolation),
        labels=dict(device.labels), free_gpu_milli=WHOLE_DEVICE - milli, free_memory_bytes=device.memory_bytes - memory,
        simulated=simulated,
    )  # fmt: skip
