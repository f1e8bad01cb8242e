"""Routes of the pool: clusters, nodes and what operators do with them, totals, and the allocation ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.http import Moment, Page, Paged
from dujiang.pool.domain.nodes import Node, NodeState
from dujiang.pool.domain.summary import host_totals, kind_totals
from dujiang.pool.schemas import (
    AllocationOut,
    ClusterOut,
    LabelsIn,
    NodeOut,
    PoolOut,
    ReasonIn,
    TaintsIn,
    allocation_out,
    aware,
    cluster_out,
    hosts_out,
    kind_out,
    node_out,
    silent_out,
)
from dujiang.pool.service import LedgerFilter, PoolService
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.POOL_READ))]
Operator = Annotated[Caller, Depends(needs(Permission.POOL_OPERATE))]
ClusterName = Annotated[str | None, Query(max_length=253, description="Name of the node's cluster.")]


def router(pool: PoolService, tenancy: Tenancy) -> APIRouter:
    """Return the pool's routes."""
    routes = APIRouter(prefix="/v1", tags=["pool"])
    _look(routes, pool)
    _operate(routes, pool)
    _mark(routes, pool)
    _ledger(routes, pool, tenancy)
    return routes


def _look(routes: APIRouter, pool: PoolService) -> None:
    @routes.get("/clusters")
    async def list_clusters(caller: Reader, paging: Paged) -> Page[ClusterOut]:
        """List the clusters in order of name: how each stands, since when and why, and how it answers."""
        after = paging.after(str)
        async with caller.reading() as tx:
            now = tx.now
            gone = await _let_go(pool, tx)
            rows = [
                row for row in await pool.clusters(tx)
                if (after is None or row.name > after[0]) and row.id not in gone
            ]  # fmt: skip
        kept, next_cursor = paging.page(rows, lambda row: [row.name])
        return Page(
            items=[cluster_out(row, now, removed=pool.is_removed(row)) for row in kept], next_cursor=next_cursor
        )

    @routes.get("/nodes")
    async def list_nodes(
        caller: Reader,
        paging: Paged,
        cluster: ClusterName = None,
        state: Annotated[list[NodeState] | None, Query(description="Any of these; GONE only when named.")] = None,
        label: Annotated[list[str] | None, Query(max_length=16, description="`key=value`; all of them.")] = None,
        vendor: Annotated[str | None, Query(max_length=64, description="Has a device of this vendor.")] = None,
        model: Annotated[str | None, Query(max_length=128, description="Has a device of this model.")] = None,
    ) -> Page[NodeOut]:
        """List the nodes in order of cluster and name, with their devices and what is left of them."""
        after = paging.after(str, str)
        async with caller.reading() as tx:
            inventory = await pool.inventory(tx)
            if cluster is not None:
                await pool.must_know(tx, cluster)
            found = await pool.nodes(
                tx, cluster=cluster, states=state, labels=_labels(label), vendor=vendor, model=model
            )

            def key(node: Node) -> tuple[str, str]:
                return inventory.clusters[node.cluster_id].name, node.name

            rows = [node for node in found if after is None or key(node) > after]
            kept, next_cursor = paging.page(rows, key)
            items = await _nodes_out(pool, tx, kept)
        return Page(items=items, next_cursor=next_cursor)

    @routes.get("/nodes/{name}")
    async def show_node(caller: Reader, name: str, cluster: ClusterName = None) -> NodeOut:
        """Show a node by its identifier or name; `cluster` tells nodes of one name apart."""
        async with caller.reading() as tx:
            return (await _nodes_out(pool, tx, [await pool.node(tx, _full(name, cluster))]))[0]

    @routes.get("/pool")
    async def show_pool(caller: Reader) -> PoolOut:
        """Show what the pool has in all, what is held, and what new work can have now."""
        async with caller.reading() as tx:
            view, inventory, gone = await pool.placeable(tx), await pool.inventory(tx), await _let_go(pool, tx)
        return PoolOut(
            version=view.version,
            simulated=any(cluster.simulated for cluster in view.columns.clusters),
            clusters=sum(cluster.id not in gone for cluster in view.columns.clusters),
            node_states=dict(sorted(Counter(str(state) for state in view.columns.node_states).items())),
            devices=[kind_out(totals) for totals in kind_totals(view)],
            hosts=[hosts_out(totals) for totals in host_totals(view)],
            silent=silent_out(inventory, pool.is_removed),
        )


def _operate(routes: APIRouter, pool: PoolService) -> None:
    async def _apply(
        caller: Caller, name: str, cluster: str | None, act: Callable[[Tx, str, str], Awaitable[Node]], body: ReasonIn
    ) -> Response:
        async def make(tx: Tx) -> NodeOut:
            node = await act(tx, _full(name, cluster), body.reason)
            return (await _nodes_out(pool, tx, [node]))[0]

        return await caller.once(make, status_code=200)

    @routes.post("/nodes/{name}/cordon", response_model=NodeOut)
    async def cordon_node(caller: Operator, name: str, body: ReasonIn, cluster: ClusterName = None) -> Response:
        """Let nothing new start on a node; what runs goes on."""
        return await _apply(caller, name, cluster, pool.cordon, body)

    @routes.post("/nodes/{name}/uncordon", response_model=NodeOut)
    async def uncordon_node(caller: Operator, name: str, body: ReasonIn, cluster: ClusterName = None) -> Response:
        """Open a node again; ends a drain too."""
        return await _apply(caller, name, cluster, pool.uncordon, body)

    @routes.post("/nodes/{name}/drain", response_model=NodeOut)
    async def drain_node(caller: Operator, name: str, body: ReasonIn, cluster: ClusterName = None) -> Response:
        """Let nothing new start on a node and move away what runs there, saving first."""
        return await _apply(caller, name, cluster, pool.drain, body)


def _mark(routes: APIRouter, pool: PoolService) -> None:
    @routes.post("/nodes/{name}/labels", response_model=NodeOut)
    async def label_node(caller: Operator, name: str, body: LabelsIn, cluster: ClusterName = None) -> Response:
        """Set labels of a node over those of its engine, and take such ones away; they outlive a new look at it."""

        async def make(tx: Tx) -> NodeOut:
            node = await pool.label(tx, _full(name, cluster), body.set, body.remove)
            return (await _nodes_out(pool, tx, [node]))[0]

        return await caller.once(make, status_code=200)

    @routes.post("/nodes/{name}/taints", response_model=NodeOut)
    async def taint_node(caller: Operator, name: str, body: TaintsIn, cluster: ClusterName = None) -> Response:
        """Keep new work away from a node unless it tolerates this, or take that back; what runs there goes on."""

        async def make(tx: Tx) -> NodeOut:
            node = await pool.taint(tx, _full(name, cluster), body.set, body.remove)
            return (await _nodes_out(pool, tx, [node]))[0]

        return await caller.once(make, status_code=200)


def _ledger(routes: APIRouter, pool: PoolService, tenancy: Tenancy) -> None:
    @routes.get("/allocations")
    async def list_allocations(
        caller: Reader,
        paging: Paged,
        live: Annotated[bool | None, Query(description="true: held now; false: given back.")] = None,
        since: Annotated[Moment | None, Query(description="Held at or after this time.")] = None,
        until: Annotated[Moment | None, Query(description="Held before this time.")] = None,
        project: Annotated[str | None, Query(max_length=253)] = None,
        job: Annotated[str | None, Query(max_length=64, description="Identifier of the job.")] = None,
        node: Annotated[str | None, Query(max_length=253)] = None,
        cluster: ClusterName = None,
    ) -> Page[AllocationOut]:
        """List rows of the ledger in the order in which they were opened; a tenant sees those of their projects."""
        after = paging.after(str)
        reach = caller.reach(Permission.POOL_READ)
        async with caller.reading() as tx:
            project_ids: Sequence[str] | None = None if reach is None else sorted(reach)
            if project is not None:
                project_ids = [(await tenancy.project_for(tx, caller.principal, project, Permission.POOL_READ)).id]
            wanted = LedgerFilter(
                project_ids=project_ids, job_id=job, live=live, since=aware(since), until=aware(until),
                node_id=(await pool.node(tx, _full(node, cluster))).id if node else None,
            )  # fmt: skip
            rows = await pool.allocations(tx, wanted, after=after[0] if after else "", limit=paging.limit + 1)
            inventory = await pool.inventory(tx)
        kept, next_cursor = paging.page(rows, lambda row: [row.id])
        return Page(items=[allocation_out(row, inventory) for row in kept], next_cursor=next_cursor)


async def _nodes_out(pool: PoolService, tx: Tx, nodes: Sequence[Node]) -> list[NodeOut]:
    inventory = await pool.inventory(tx)
    used = await pool.used(tx, [node.id for node in nodes])
    clusters = {cluster.id: cluster for cluster in await pool.clusters(tx)}
    at = {node.id: clusters[node.cluster_id] for node in nodes}
    return [
        node_out(node, inventory, used, at[node.id], removed=pool.is_removed(at[node.id])) for node in nodes
    ]  # fmt: skip


async def _let_go(pool: PoolService, tx: Tx) -> set[str]:
    """Return the removed clusters, by identifier, of which nothing is left."""
    inventory = await pool.inventory(tx)
    left = {node.cluster_id for node in inventory.nodes.values() if node.state is not NodeState.GONE}
    return {one.id for one in inventory.clusters.values() if pool.is_removed(one) and one.id not in left}


def _full(name: str, cluster: str | None) -> str:
    return f"{cluster}/{name}" if cluster else name


def _labels(pairs: Sequence[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals:
            raise Invalid(f'A label is written key=value, not "{pair[:60]}".')
        labels[key] = value
    return labels
