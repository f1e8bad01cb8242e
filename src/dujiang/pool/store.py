"""The pool's tables, and the statements over clusters, nodes, devices and the version.

Those over the allocation ledger are in `ledger_store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from dujiang.engines.contract import Isolation
from dujiang.kit.clock import EPOCH
from dujiang.kit.db import Tx
from dujiang.kit.tables import ExactDecimal, Json, UtcMicros, metadata
from dujiang.pool.domain.nodes import Cluster, Device, DeviceState, Intent, Node, NodeState, Terms
from dujiang.pool.domain.sync import Limit

clusters = Table(
    "clusters",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(253), nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("limits", String(16), nullable=False),
    Column("limits_by", String(32), nullable=False),
    Column("isolation", String(16), nullable=False),
    Column("stacks_ranks", Boolean, nullable=False),
    Column("reachable", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen_at", UtcMicros, nullable=True),
    Column("price_per_device_hour", ExactDecimal, nullable=False),
    Column("is_cloud", Boolean, nullable=False),
    Column("interruptions_per_day", Float(53), nullable=False),
    Column("version", String(64), nullable=False),
    Column("images", String(32), nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("state_since", UtcMicros, nullable=True),
    Column("answer_s", Float(53), nullable=True),
    Column("answer_p95_s", Float(53), nullable=True),
)
nodes = Table(
    "nodes",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("cluster_id", ForeignKey("clusters.id"), nullable=False),
    Column("name", String(253), nullable=False),
    Column("cpu_milli", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("cpu_limit_milli", BigInteger, nullable=False),
    Column("memory_limit_bytes", BigInteger, nullable=False),
    Column("disk_limit_bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("intent", String(8), nullable=False),
    Column("intent_by", String(128), nullable=False),
    Column("intent_reason", Text, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("engine_cordoned", Boolean, nullable=False),
    Column("engine_reason", Text, nullable=False),
    Column("engine_labels", Json, nullable=False),
    Column("engine_taints", Json, nullable=False),
    Column("own_labels", Json, nullable=False),
    Column("own_taints", Json, nullable=False),
    Column("seen_at", UtcMicros, nullable=True),
    UniqueConstraint("cluster_id", "name"),
)
devices = Table(
    "devices",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("name", String(253), nullable=False),
    Column("index", Integer, nullable=False),
    Column("vendor", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("isolation", String(16), nullable=False),
    Column("labels", Json, nullable=False),
    UniqueConstraint("node_id", "name"),
)
# What could be given away, since when: the ledger's history is checked against it, and utilisation needs it.
capacities = Table(
    "capacities",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("node_id", ForeignKey("nodes.id"), nullable=False),
    Column("device_id", ForeignKey("devices.id"), nullable=True),
    Column("since", UtcMicros, nullable=False),
    Column("gpu_milli", BigInteger, nullable=False),
    Column("device_memory_bytes", BigInteger, nullable=False),
    Column("cpu_milli", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
)
# The ledger has no foreign keys: its rows outlive what they name, and 200 of them are written at a time.
allocations = Table(
    "allocations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job_id", String(40), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("project_id", String(40), nullable=False),
    Column("cluster_id", String(40), nullable=False),
    Column("node_id", String(40), nullable=False),
    Column("device_id", String(40), nullable=True),
    Column("gpu_milli", Integer, nullable=False),
    Column("device_memory_bytes", BigInteger, nullable=False),
    Column("cpu_milli", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("disk_bytes", BigInteger, nullable=False),
    Column("vendor", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("started_at", UtcMicros, nullable=False),
    Column("ended_at", UtcMicros, nullable=True),
    Column("closed_version", BigInteger, nullable=True),
)
_live = allocations.c.ended_at.is_(None)
_live_device = _live & allocations.c.device_id.is_not(None)
_live_host = _live & allocations.c.device_id.is_(None)
Index("ix_allocations_attempt", allocations.c.job_id, allocations.c.attempt)
Index("ix_allocations_project", allocations.c.project_id, allocations.c.started_at)
Index("ix_allocations_live", allocations.c.node_id, sqlite_where=_live, postgresql_where=_live)
Index("ix_allocations_live_project", allocations.c.project_id, sqlite_where=_live, postgresql_where=_live)
Index("ix_allocations_closed", allocations.c.closed_version, allocations.c.id)
Index(
    "uq_allocations_live_device", allocations.c.job_id, allocations.c.attempt, allocations.c.rank,
    allocations.c.device_id, unique=True, sqlite_where=_live_device, postgresql_where=_live_device,
)  # fmt: skip
Index(
    "uq_allocations_live_host", allocations.c.job_id, allocations.c.attempt, allocations.c.rank,
    unique=True, sqlite_where=_live_host, postgresql_where=_live_host,
)  # fmt: skip
pool_version = Table(
    "pool_version",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("stamp", String(40), nullable=False),
    Column("latest_at", UtcMicros, nullable=False),
)

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Pulse:
    """Where the pool stands."""

    version: int
    """Counts every transaction that changed what is free or placeable."""
    stamp: str
    """Names the inventory; never used twice, also not by a transaction that was rolled back."""
    latest_at: datetime
    """The latest time written into the ledger."""

    def moment(self, now: datetime, *, strictly: bool = False) -> datetime:
        """Return the ledger's time: now, or later when the clock has stepped back or another replica's runs ahead.

        Without it a start could lie before the end that made room for it. A change of capacity comes strictly after
        everything before, so that a check of the history knows which starts it applied to.
        """
        return max(now, self.latest_at + _MICROSECOND if strictly else self.latest_at)


NOWHERE = Pulse(0, "", EPOCH)


async def read_pulse(tx: Tx) -> Pulse:
    """Return where the pool stands."""
    row = (await tx.execute(_PULSE)).first()
    return Pulse(row.version, row.stamp, row.latest_at) if row else NOWHERE


async def lock_pulse(tx: Tx) -> Pulse:
    """Return where the pool stands and keep every other writer of it waiting until this transaction ends."""
    row = (await tx.execute(_PULSE.with_for_update())).first()
    if row is None:
        first = {"id": 1, "version": NOWHERE.version, "stamp": NOWHERE.stamp, "latest_at": EPOCH}
        dialect = sqlite if tx.connection.dialect.name == "sqlite" else postgresql
        await tx.execute(dialect.insert(pool_version).values(**first).on_conflict_do_nothing())
        row = (await tx.execute(_PULSE.with_for_update())).one()  # of two first looks at once, one made it
    return Pulse(row.version, row.stamp, row.latest_at)


async def write_pulse(tx: Tx, pulse: Pulse) -> None:
    """Move the version on."""
    values = {"version": pulse.version, "stamp": pulse.stamp, "latest_at": pulse.latest_at}
    await tx.execute(update(pool_version).where(pool_version.c.id == 1).values(values))


async def read_clusters(tx: Tx) -> list[Cluster]:
    """Return all clusters, in order of name."""
    return [_cluster(row) for row in await tx.execute(select(clusters).order_by(clusters.c.name))]


async def read_nodes(tx: Tx) -> list[Node]:
    """Return all nodes, those that are GONE too."""
    return [_node(row) for row in await tx.execute(select(nodes))]


async def read_devices(tx: Tx) -> list[Device]:
    """Return all devices, those that are GONE too."""
    return [_device(row) for row in await tx.execute(select(devices))]


async def save_cluster(tx: Tx, cluster: Cluster, *, is_new: bool) -> None:
    """Write a cluster."""
    terms = {field.name: getattr(cluster.terms, field.name) for field in fields(Terms)}
    facts = {field.name: getattr(cluster, field.name) for field in fields(Cluster) if field.name != "terms"}
    values = {**facts, **terms}
    if is_new:
        await tx.execute(insert(clusters).values(values))
    else:
        await tx.execute(update(clusters).where(clusters.c.id == cluster.id).values(values))


async def insert_nodes(tx: Tx, rows: Sequence[Node]) -> None:
    """Write nodes that are not there yet."""
    if rows:
        await tx.execute(insert(nodes), [_values(nodes, row) for row in rows])


async def update_nodes(tx: Tx, rows: Sequence[Node]) -> None:
    """Write nodes again."""
    if rows:
        await tx.execute(_UPDATE_NODE, [{**_values(nodes, row), "key": row.id} for row in rows])


async def insert_devices(tx: Tx, rows: Sequence[Device]) -> None:
    """Write devices that are not there yet."""
    if rows:
        await tx.execute(insert(devices), [_values(devices, row) for row in rows])


async def update_devices(tx: Tx, rows: Sequence[Device]) -> None:
    """Write devices again."""
    if rows:
        await tx.execute(_UPDATE_DEVICE, [{**_values(devices, row), "key": row.id} for row in rows])


async def insert_limits(tx: Tx, rows: Sequence[tuple[str, Limit]], since: datetime) -> None:
    """Write down what may be given away from now on; each with its identifier."""
    if rows:
        names = [column.name for column in capacities.columns if column.name not in ("id", "since")]
        await tx.execute(
            insert(capacities),
            [{"id": id, "since": since, **{name: getattr(row, name) for name in names}} for id, row in rows],
        )


_PULSE = select(pool_version.c.version, pool_version.c.stamp, pool_version.c.latest_at)
_UPDATE_NODE = update(nodes).where(nodes.c.id == bindparam("key")).values(
    {column.name: bindparam(column.name) for column in nodes.columns if column.name != "id"}
)  # fmt: skip
_UPDATE_DEVICE = update(devices).where(devices.c.id == bindparam("key")).values(
    {column.name: bindparam(column.name) for column in devices.columns if column.name != "id"}
)  # fmt: skip


def _values(table: Table, row: Node | Device) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in table.columns}


def _cluster(row: Any) -> Cluster:
    return Cluster(
        id=row.id, name=row.name, kind=row.kind, simulated=row.simulated, limits=Isolation(row.limits),
        limits_by=row.limits_by, isolation=Isolation(row.isolation), stacks_ranks=row.stacks_ranks,
        reachable=row.reachable, reason=row.reason, seen_at=row.seen_at,
        terms=Terms(row.price_per_device_hour, row.is_cloud, row.interruptions_per_day), version=row.version,
        images=row.images, degraded=row.degraded, state_since=row.state_since, answer_s=row.answer_s,
        answer_p95_s=row.answer_p95_s,
    )  # fmt: skip


def _node(row: Any) -> Node:
    values = dict(row._mapping)
    values["state"], values["intent"] = NodeState(row.state), Intent(row.intent)
    values["engine_taints"], values["own_taints"] = tuple(row.engine_taints), tuple(row.own_taints)
    return Node(**values)


def _device(row: Any) -> Device:
    values = dict(row._mapping)
    values["state"], values["isolation"] = DeviceState(row.state), Isolation(row.isolation)
    return Device(**values)
