"""The door to the pool: what there is, what is free, and the allocation ledger.

Every change of what is free or placeable moves the pool's version, in the same transaction; who decided on an older
version is refused with `Stale`. Writers queue at the version's row, so what is checked here cannot change underneath.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from dujiang.engines.contract import AttemptKey, Capabilities, NodeFacts, RankPlacement
from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid, Stale, did_you_mean
from dujiang.kit.ids import Ids
from dujiang.kit.journal import Event
from dujiang.pool import history, ledger_store, looking, reservation_store, store
from dujiang.pool.domain.inventory import Inventory, PoolView, Used, build_inventory, revised, view
from dujiang.pool.domain.ledger import (
    Allocation,
    AllocationDiffers,
    Grant,
    LedgerFilter,
    Opened,
    check_room,
    same_shares,
    shares,
)
from dujiang.pool.domain.marks import labelled, tainted
from dujiang.pool.domain.nodes import (
    AmbiguousNode,
    Cluster,
    DeviceState,
    EngineOrder,
    Intent,
    Node,
    NodeState,
    SyncReport,
    Terms,
    UnknownCluster,
    UnknownNode,
)
from dujiang.pool.domain.reservations import Reservation
from dujiang.pool.domain.standing import REMOVED, ClusterState, Standing, missing
from dujiang.pool.domain.sweep import Violation
from dujiang.pool.domain.sync import Changes, PoolSettings, Settled, reconcile, settle, unsettled
from dujiang.pool.events import (
    CapacityShrunk,
    InventoryChanged,
    NodeCordoned,
    NodeDrainAsked,
    NodeLabelled,
    NodeStateChanged,
    NodeTainted,
    NodeUncordoned,
)
from dujiang.pool.store import Pulse

MAX_REASON = 500


class PoolService:
    """Use cases of the pool. Functions take the transaction first, and never commit."""

    def __init__(
        self, ids: Ids, settings: PoolSettings | None = None, terms: Mapping[str, Terms] = MappingProxyType({}),
        configured: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        """Take what it works with.

        Args:
            ids: for new rows.
            settings: of the pool.
            terms: of clusters, by name.
            configured: names of the clusters that there are; what else is known was removed. None: none was.
        """
        self._configured = None if configured is None else frozenset(configured)
        self._ids, self._settings, self._terms = ids, settings or PoolSettings(), dict(terms)
        self._kept: Inventory | None = None
        self._settled: dict[str, Mapping[str, Settled]] = {}

    # Inventory

    async def sync(
        self, tx: Tx, cluster_name: str, capabilities: Capabilities, facts: Sequence[NodeFacts],
        standing: Standing = Standing(),
    ) -> SyncReport:  # fmt: skip
        """Take over what an engine lists: all of it, each time. A look that changes nothing writes one row.

        Args:
            tx: the transaction.
            cluster_name: which cluster.
            capabilities: what its engine can do.
            facts: all of what it lists. What is left out is not lost: see `domain.sync`.
            standing: how the cluster stands by its answers; worse where it lists fewer nodes than before.

        Raises:
            BadInventory: the facts contradict themselves; nothing is changed.
        """
        pulse = await store.lock_pulse(tx)
        inventory = await self._inventory(tx, pulse)
        known = await self._cluster(tx, cluster_name)
        cluster = looking.as_seen(
            known, cluster_name, capabilities, known.id if known else self._ids.new("clu"), self._terms_of(cluster_name)
        )
        settled = self._settled.get(cluster_name, {})
        looked_at = unsettled(cluster, facts, inventory, settled)
        used = await ledger_store.read_used(tx, looked_at) if looked_at else Used()
        changes = reconcile(
            cluster, facts, inventory=inventory, used=used, now=tx.now, settings=self._settings, new_id=self._ids.new,
            settled=settled,
        )  # fmt: skip
        lacks = missing(changes.missing, len(facts) + len(changes.missing), changes.missing_held)
        cluster = looking.standing_so(cluster, standing.degraded(lacks), was=known, now=tx.now)
        await store.save_cluster(tx, replace(cluster, seen_at=tx.now), is_new=known is None)
        tx.emit(*looking.told(known, cluster))
        moved = looking.moves(known, cluster)
        if changes or moved:
            await self._write(tx, pulse, inventory, cluster, changes)
        self._settled[cluster_name] = changes.settled
        return changes.report(moved=moved)

    def is_removed(self, cluster: Cluster) -> bool:
        """Say whether a cluster that is known is no longer in the settings."""
        return self._configured is not None and cluster.name not in self._configured

    async def removed(self, tx: Tx) -> list[str]:
        """Return the clusters that were removed and are not let go of yet: nodes of them are known."""
        inventory = await self.inventory(tx)
        known = {node.cluster_id for node in inventory.nodes.values() if node.state is not NodeState.GONE}
        return sorted(
            one.name
            for one in inventory.clusters.values()
            if self.is_removed(one) and (one.id in known or one.reachable)
        )

    async def retire(self, tx: Tx, cluster_name: str) -> None:
        """Let go of a removed cluster: nothing new is put there, and nodes on which nothing is held are GONE.

        Asked again it lets go of what was held before; nodes that come back with the cluster are as they were.
        """
        pulse = await store.lock_pulse(tx)
        inventory = await self._inventory(tx, pulse)
        known = await self._cluster(tx, cluster_name)
        if known is None:
            return
        ids = [node.id for node in inventory.nodes.values() if node.cluster_id == known.id]
        used = await ledger_store.read_used(tx, ids) if ids else Used()
        at_once = replace(self._settings, gone_after_s=0.0)
        changes = reconcile(
            known, (), inventory=inventory, used=used, now=tx.now, settings=at_once, new_id=self._ids.new, settled={}
        )
        cluster = looking.standing_so(known, Standing(ClusterState.UNREACHABLE, REMOVED), was=known, now=tx.now)
        if cluster != known:
            await store.save_cluster(tx, cluster, is_new=False)
        if changes or looking.moves(known, cluster):
            await self._write(tx, pulse, inventory, cluster, changes)
        self._settled.pop(cluster_name, None)

    async def mark_unreachable(self, tx: Tx, cluster_name: str, reason: str, *, kind: str = "") -> None:
        """Place nothing new on a cluster that does not answer, until the next `sync`.

        One never seen is written down when its engine's kind is given, else ignored.
        """
        standing = Standing(ClusterState.UNREACHABLE, reason or "NoAnswer")
        await self._mark(tx, cluster_name, standing, kind)

    async def mark_degraded(self, tx: Tx, cluster_name: str, reason: str) -> None:
        """Note that something is the matter with a cluster that answers; one never seen is ignored."""
        await self._mark(tx, cluster_name, Standing(ClusterState.DEGRADED, reason), "")

    async def _mark(self, tx: Tx, cluster_name: str, standing: Standing, kind: str) -> None:
        pulse = await store.lock_pulse(tx)
        known = await self._cluster(tx, cluster_name)
        if known is not None and known.state is standing.state:
            return
        if known is None and not kind:
            return
        cluster = known or looking.never_seen(cluster_name, kind, self._ids.new("clu"), self._terms_of(cluster_name))
        cluster = looking.standing_so(cluster, standing, was=known, now=tx.now)
        await store.save_cluster(tx, cluster, is_new=known is None)
        tx.emit(*looking.told(known, cluster))
        if looking.moves(known, cluster):
            inventory = await self._inventory(tx, pulse)
            moved = await self._move(tx, pulse, inventory_changed=True)
            self._kept = revised(inventory, moved.stamp, clusters=[cluster])

    async def clusters(self, tx: Tx) -> list[Cluster]:
        """Return all clusters, in order of name."""
        return await store.read_clusters(tx)

    async def inventory(self, tx: Tx) -> Inventory:
        """Return everything known of clusters, nodes and devices (the clusters' `seen_at` may be older than stored)."""
        return await self._inventory(tx, await store.read_pulse(tx))

    async def nodes(
        self, tx: Tx, *, cluster: str | None = None, states: Sequence[NodeState] | None = None,
        labels: Mapping[str, str] | None = None, vendor: str | None = None, model: str | None = None,
    ) -> list[Node]:  # fmt: skip
        """Return nodes in order of cluster and name; those that are GONE only when asked for by state."""
        inventory = await self.inventory(tx)
        wanted = (labels or {}).items()
        return [
            node
            for node in inventory.nodes.values()
            if (node.state in states if states else node.state is not NodeState.GONE)
            and (cluster is None or inventory.clusters[node.cluster_id].name == cluster)
            and all(node.labels.get(key) == value for key, value in wanted)
            and ((vendor is None and model is None) or _has_device(inventory, node, vendor, model))
        ]

    async def node(self, tx: Tx, name_or_id: str) -> Node:
        """Return a node by its identifier, its name, or `CLUSTER/NAME` where several clusters have the name.

        Raises:
            UnknownNode: none.
            AmbiguousNode: several.
        """
        return _find_node(await self.inventory(tx), name_or_id)

    async def must_know(self, tx: Tx, cluster: str) -> None:
        """Refuse a name that is no cluster's.

        Raises:
            UnknownCluster: there is none, with the nearest name.
        """
        names = sorted(one.name for one in (await self.inventory(tx)).clusters.values())
        if cluster not in names:
            near = did_you_mean(cluster, names) or f" There are {', '.join(names) or 'none'}."
            raise UnknownCluster(f'There is no cluster "{cluster}".{near}')

    async def used(self, tx: Tx, node_ids: Sequence[str] | None = None) -> Used:
        """Return what live allocations hold, by node and device, on these nodes or everywhere."""
        return await ledger_store.read_used(tx, node_ids)

    async def placeable(self, tx: Tx) -> PoolView:
        """Return everything placement needs, as arrays: three statements, two of them small."""
        pulse = await store.read_pulse(tx)
        inventory = await self._inventory(tx, pulse)
        return view(inventory, await ledger_store.read_used(tx), pulse.version)

    async def version(self, tx: Tx) -> int:
        """Return the pool's version."""
        return (await store.read_pulse(tx)).version

    async def windows(self, tx: Tx) -> list[Reservation]:
        """Return the reservations and maintenance that have not ended, in order of name."""
        return await reservation_store.read_open(tx, tx.now)

    async def touch(self, tx: Tx) -> None:
        """Move the version on: what was planned until now is planned anew."""
        await self._move(tx, await store.lock_pulse(tx))

    # What operators intend

    async def cordon(self, tx: Tx, name_or_id: str, reason: str) -> Node:
        """Let nothing new start on a node; what runs goes on. A drain under way becomes a cordon."""
        node, changed = await self._intend(tx, name_or_id, Intent.CORDON, reason)
        if changed:
            tx.emit(NodeCordoned(subject=node.id, name=node.name, reason=node.intent_reason))
        return node

    async def drain(self, tx: Tx, name_or_id: str, reason: str) -> Node:
        """Let nothing new start on a node and have what runs there moved away; DRAINED once it is empty."""
        node, changed = await self._intend(tx, name_or_id, Intent.DRAIN, reason)
        if changed:
            tx.emit(NodeDrainAsked(subject=node.id, name=node.name, reason=node.intent_reason))
        return node

    async def uncordon(self, tx: Tx, name_or_id: str, reason: str = "") -> Node:
        """Open a node again; while the engine still has it cordoned it stays CORDONED until the engine has followed."""
        node, changed = await self._intend(tx, name_or_id, Intent.NONE, reason)
        if changed:
            tx.emit(NodeUncordoned(subject=node.id, name=node.name, reason=reason[:MAX_REASON]))
        return node

    async def label(self, tx: Tx, name_or_id: str, given: Mapping[str, str], removed: Sequence[str]) -> Node:
        """Set and take away an operator's labels of a node; they lie over the engine's.

        Raises:
            BadMark: see `domain.marks.labelled`.
        """
        pulse, inventory, known = await self._locked_node(tx, name_or_id)
        node = replace(known, own_labels=labelled(known.own_labels, given, removed, known.engine_labels))
        if node != known:
            await self._keep_node(tx, pulse, inventory, node)
            tx.emit(NodeLabelled(subject=node.id, name=node.name, labels=dict(node.own_labels)))
        return node

    async def taint(self, tx: Tx, name_or_id: str, given: Sequence[str], removed: Sequence[str]) -> Node:
        """Set and take away an operator's taints of a node; what runs there goes on.

        Raises:
            BadMark: see `domain.marks.tainted`.
        """
        pulse, inventory, known = await self._locked_node(tx, name_or_id)
        node = replace(known, own_taints=tainted(known.own_taints, given, removed, known.engine_taints))
        if node != known:
            await self._keep_node(tx, pulse, inventory, node)
            tx.emit(NodeTainted(subject=node.id, name=node.name, taints=node.own_taints))
        return node

    async def orders(self, tx: Tx) -> list[EngineOrder]:
        """Return what engines are still to be told; level-triggered: told until the next `sync` shows it done."""
        inventory = await self.inventory(tx)
        found: list[EngineOrder] = []
        for node in inventory.nodes.values():
            cluster = inventory.clusters[node.cluster_id]
            if not node.present or not cluster.reachable:
                continue
            if node.intent in (Intent.CORDON, Intent.DRAIN) and not node.engine_cordoned:
                found.append(EngineOrder(cluster.name, node.name, True, node.intent_reason))
            elif node.intent is Intent.OPEN and node.engine_cordoned:
                found.append(EngineOrder(cluster.name, node.name, False, node.intent_reason))
        return found

    async def to_evict(self, tx: Tx) -> list[AttemptKey]:
        """Return the attempts that hold something on a node that is DRAINING."""
        draining = [node.id for node in await self.nodes(tx, states=[NodeState.DRAINING])]
        return await ledger_store.keys_on(tx, draining) if draining else []

    async def attempts_on(self, tx: Tx, node_ids: Sequence[str]) -> list[AttemptKey]:
        """Return the attempts that hold something on any of these nodes."""
        return await ledger_store.keys_on(tx, node_ids)

    # Ledger

    async def allocate(
        self, tx: Tx, key: AttemptKey, project_id: str, ranks: Sequence[RankPlacement], cluster: str,
        expected_version: int | None = None,
    ) -> Opened:  # fmt: skip
        """Give an attempt what it holds; see `allocate_many`."""
        return await self.allocate_many(tx, [Grant(key, project_id, cluster, tuple(ranks))], expected_version)

    async def allocate_many(self, tx: Tx, grants: Sequence[Grant], expected_version: int | None = None) -> Opened:
        """Give attempts what they hold, all of them or none: five statements however many there are.

        A grant that is held already, exactly so, counts as done, also when the version has moved.

        Args:
            tx: the transaction; its time, or the ledger's when that is later, is when the rows start.
            grants: attempts with their placements.
            expected_version: what the placement was decided on (`PoolView.version`); None checks room only.

        Raises:
            Stale: the pool has changed since; decide again.
            OverAllocated: a device or node would hold more than it has, counted from the live rows now.
            NodeClosed: a node or device is closed to new work.
            AllocationDiffers: an attempt holds something else, or has given back what it held.
            UnknownCluster, UnknownNode, UnknownDevice, BadPlacement: the placement is not possible at all.
        """
        pulse = await store.lock_pulse(tx)
        inventory = await self._inventory(tx, pulse)
        fresh = await self._not_held(tx, grants, inventory)
        if not fresh:
            return Opened(pulse.version, 0)
        if expected_version is not None and expected_version != pulse.version:
            raise Stale(
                "The pool has changed since this was decided; decide again.",
                expected=expected_version, version=pulse.version,
            )  # fmt: skip
        rows = [row for grant in fresh for row in shares(grant, inventory)]
        touched = sorted({row.node_id for row in rows})
        check_room(rows, inventory, await ledger_store.read_used(tx, touched))
        started_at = pulse.moment(tx.now)
        await ledger_store.insert_rows(tx, [(self._ids.new("alc"), row) for row in rows], started_at)
        moved = await self._move(tx, pulse, at=started_at)
        return Opened(moved.version, len(rows))

    async def release(self, tx: Tx, key: AttemptKey, at: datetime | None = None) -> bool:
        """Take back what an attempt holds; see `release_many`. Say whether it held anything."""
        return await self.release_many(tx, [(key, at)]) > 0

    async def release_many(self, tx: Tx, ends: Sequence[tuple[AttemptKey, datetime | None]]) -> int:
        """Take back what attempts hold; those that hold nothing (any more) are passed over. Four statements.

        Args:
            tx: the transaction.
            ends: attempts, each with when it ended (None: now). An end before the start counts as the start, one in
                the future as now: the room is free from this moment, and no sooner held twice than billed twice.

        Returns:
            How many attempts held something.
        """
        if not ends:
            return 0
        pulse = await store.lock_pulse(tx)
        live = await ledger_store.live_keys(tx, [key.job_id for key, _ in ends])
        closing = {key: at for key, at in ends if key in live}
        if not closing:
            return 0
        now = pulse.moment(tx.now)
        moved = await self._move(tx, pulse, at=now)
        await ledger_store.close_rows(tx, [(key, min(at or now, now)) for key, at in closing.items()], moved.version)
        return len(closing)

    async def live(self, tx: Tx) -> list[AttemptKey]:
        """Return every attempt that holds something, in order."""
        return await ledger_store.keys_on(tx)

    async def held_by(self, tx: Tx, key: AttemptKey) -> list[Allocation]:
        """Return what an attempt holds now; empty when nothing."""
        rows = await ledger_store.rows_of(tx, [key.job_id], live_only=True)
        return [row for row in rows if row.share.key == key]

    async def of_jobs(self, tx: Tx, job_ids: Sequence[str]) -> list[Allocation]:
        """Return all rows of the ledger, live and closed, of these jobs."""
        return await ledger_store.rows_of(tx, job_ids)

    async def allocations(
        self, tx: Tx, wanted: LedgerFilter, *, after: str = "", limit: int | None = None
    ) -> list[Allocation]:
        """Return rows of the ledger in the order in which they were opened, from behind a row's identifier on."""
        return await ledger_store.find(tx, wanted, after=after, limit=limit)

    async def check_ledger(self, tx: Tx) -> list[Violation]:
        """Check the ledger's whole history; empty when it holds. Reads every row: seconds for a million."""
        return await history.check(tx, await self.inventory(tx))

    async def closed_after(self, tx: Tx, version: int, after: str = "", limit: int = 1000) -> list[Allocation]:
        """Return rows in the order in which they were closed, from behind a (closed version, row id) on."""
        return await ledger_store.closed_after(tx, version, after, limit)

    async def closed_uses(self, tx: Tx, version: int, after: str = "", limit: int = 1000) -> Sequence[Any]:
        """Return what was held of devices in the order in which rows were closed, from behind a place on.

        Each, as raw numbers: closed version, identifier, project, gpu_milli (0 for a row without a device), start and
        end in microseconds. The first two are the place from behind which to go on.
        """
        return await ledger_store.closed_uses(tx, version, after, limit)

    def closed_pages(self, tx: Tx) -> AsyncIterator[Sequence[Any]]:
        """Yield all closed rows in order of identifier, a page at a time, as raw numbers for checks of all of them.

        Each: identifier, closed version, start and end in microseconds, gpu_milli, device_memory_bytes, cpu_milli,
        memory_bytes, disk_bytes.
        """
        return ledger_store.closed_pages(tx)

    # Helpers

    async def _inventory(self, tx: Tx, pulse: Pulse) -> Inventory:
        """Return the inventory of this moment; read again only when its stamp is another."""
        if self._kept is None or self._kept.stamp != pulse.stamp:
            self._kept = build_inventory(
                pulse.stamp, await store.read_clusters(tx), await store.read_nodes(tx), await store.read_devices(tx)
            )
        return self._kept

    async def _cluster(self, tx: Tx, name: str) -> Cluster | None:
        return next((cluster for cluster in await store.read_clusters(tx) if cluster.name == name), None)

    def _terms_of(self, cluster_name: str) -> Terms:
        return self._terms.get(cluster_name, Terms())

    async def _not_held(self, tx: Tx, grants: Sequence[Grant], inventory: Inventory) -> list[Grant]:
        keys = [grant.key for grant in grants]
        if len(set(keys)) != len(keys):
            raise AllocationDiffers("One attempt is granted twice in one call.")
        held: dict[AttemptKey, list[Allocation]] = {}
        for row in await ledger_store.rows_of(tx, [key.job_id for key in keys]):
            held.setdefault(row.share.key, []).append(row)
        fresh: list[Grant] = []
        for grant in grants:
            rows = held.get(grant.key)
            if rows is None:
                fresh.append(grant)
            elif any(row.ended_at is not None for row in rows):
                raise AllocationDiffers(f"Attempt {grant.key} has given back what it held; start a new attempt.")
            elif not same_shares([row.share for row in rows], shares(grant, inventory, placeable=False)):
                raise AllocationDiffers(f"Attempt {grant.key} holds something else already.")
        return fresh

    async def _move(
        self, tx: Tx, pulse: Pulse, *, at: datetime | None = None, inventory_changed: bool = False
    ) -> Pulse:
        moved = Pulse(
            pulse.version + 1,
            self._ids.new("inv") if inventory_changed else pulse.stamp,
            max(pulse.latest_at, at) if at else pulse.latest_at,
        )
        await store.write_pulse(tx, moved)
        return moved

    async def _write(self, tx: Tx, pulse: Pulse, inventory: Inventory, cluster: Cluster, changes: Changes) -> None:
        await store.insert_nodes(tx, changes.new_nodes)
        await store.update_nodes(tx, changes.nodes)
        await store.insert_devices(tx, changes.new_devices)
        await store.update_devices(tx, changes.devices)
        since = pulse.moment(tx.now, strictly=True)
        await store.insert_limits(tx, [(self._ids.new("cap"), limit) for limit in changes.limits], since)
        tx.emit(*_events(cluster, changes))
        moved = await self._move(tx, pulse, at=since if changes.limits else None, inventory_changed=True)
        # Kept before the commit: should it fail, no inventory is ever of this stamp again.
        self._kept = revised(
            inventory, moved.stamp, clusters=[cluster], nodes=[*changes.nodes, *changes.new_nodes],
            devices=[*changes.devices, *changes.new_devices],
        )  # fmt: skip

    async def _intend(self, tx: Tx, name_or_id: str, intent: Intent, reason: str) -> tuple[Node, bool]:
        if len(reason) > MAX_REASON:
            raise Invalid(f"The reason is longer than {MAX_REASON} characters.")
        pulse, inventory, known = await self._locked_node(tx, name_or_id)
        if intent is Intent.NONE and (known.engine_cordoned or known.intent is not Intent.NONE):
            intent = Intent.OPEN  # the engine may have been told a moment ago, and not been looked at since
        used = await ledger_store.read_used(tx, [known.id])
        wanted = replace(known, intent=intent, intent_by=tx.actor, intent_reason=reason)
        node = settle(wanted, held=used.held(known.id))
        if node.intent is known.intent and node.intent_reason == known.intent_reason and node.state is known.state:
            return known, False
        await self._keep_node(tx, pulse, inventory, node)
        if node.state is not known.state:
            tx.emit(_state_changed(node, known.state))
        return node, True

    async def _locked_node(self, tx: Tx, name_or_id: str) -> tuple[Pulse, Inventory, Node]:
        pulse = await store.lock_pulse(tx)
        inventory = await self._inventory(tx, pulse)
        return pulse, inventory, _find_node(inventory, name_or_id)

    async def _keep_node(self, tx: Tx, pulse: Pulse, inventory: Inventory, node: Node) -> None:
        await store.update_nodes(tx, [node])
        moved = await self._move(tx, pulse, inventory_changed=True)
        self._kept = revised(inventory, moved.stamp, nodes=[node])


def _find_node(inventory: Inventory, name_or_id: str) -> Node:
    if name_or_id in inventory.nodes:
        return inventory.nodes[name_or_id]
    cluster, slash, name = name_or_id.partition("/")
    found = [
        node
        for node in inventory.nodes.values()
        if node.name == name_or_id or (slash and node.name == name and _cluster_name(inventory, node) == cluster)
    ]
    if not found:
        raise UnknownNode(f'There is no node "{name_or_id[:100]}"; `dujiang nodes` lists those there are.')
    if len(found) > 1:
        names = sorted(f"{_cluster_name(inventory, node)}/{node.name}" for node in found)
        raise AmbiguousNode(f"Several nodes have this name; write one of: {', '.join(names)}.", nodes=names)
    return found[0]


def _has_device(inventory: Inventory, node: Node, vendor: str | None, model: str | None) -> bool:
    return any(
        device.state is not DeviceState.GONE and vendor in (None, device.vendor) and model in (None, device.model)
        for device in inventory.devices_of.get(node.id, ())
    )


def _cluster_name(inventory: Inventory, node: Node) -> str:
    return inventory.clusters[node.cluster_id].name


def _events(cluster: Cluster, changes: Changes) -> list[Event]:
    events: list[Event] = []
    if changes.added:
        names = tuple(changes.added[:20])
        events.append(InventoryChanged(subject=cluster.id, added=len(changes.added), names=names))
    events += [_state_changed(node, was) for node, was in changes.moves]
    events += [
        CapacityShrunk(
            subject=cluster.id, node=each.node, device=each.device, resource=each.resource,
            allocated=each.allocated, limit=each.limit,
        )
        for each in changes.newly_shrunk
    ]  # fmt: skip
    return events


def _state_changed(node: Node, was: NodeState) -> NodeStateChanged:
    return NodeStateChanged(
        subject=node.id, name=node.name, previous=str(was), state=str(node.state), reason=node.reason
    )


__all__ = ["MAX_REASON", "LedgerFilter", "PoolService"]
