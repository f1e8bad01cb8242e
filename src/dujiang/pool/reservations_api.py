"""Routes of reservations and maintenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.responses import Response

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid
from dujiang.kit.http import Flag, Model, Moment, Page, Paged
from dujiang.pool.domain.reservations import MAX_NODES, MAX_PROJECTS, Reservation
from dujiang.pool.reserving import Reservations, Wanted
from dujiang.pool.schemas import aware
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.POOL_READ))]
Operator = Annotated[Caller, Depends(needs(Permission.POOL_OPERATE))]


class ReservationIn(Model):
    """A time in which nodes are for some projects only, or for nobody."""

    name: str = Field(max_length=63)
    cluster: str | None = Field(default=None, max_length=253)
    """May be left out where there is one."""
    nodes: list[str] = Field(default=[], max_length=MAX_NODES)
    all_nodes: Flag = False
    """Every node of the cluster, instead of `nodes`."""
    begins_at: Moment | None = None
    """Left out: now."""
    ends_at: Moment
    projects: list[str] = Field(default=[], max_length=MAX_PROJECTS)
    """Names or ids; none is maintenance: nothing starts there."""
    reason: str = ""


class ReservationChange(Model):
    """What is to be another; what is left out stays."""

    begins_at: Moment | None = None
    ends_at: Moment | None = None
    reason: str | None = None


class ReservationOut(Model):
    """A reservation as it stands now."""

    id: str
    name: str
    state: str
    """PLANNED, ACTIVE or ENDED."""
    cluster: str
    nodes: list[str]
    """Empty when it is all of the cluster."""
    all_nodes: bool
    begins_at: datetime
    ends_at: datetime
    maintenance: bool
    """For nobody."""
    projects: list[str]
    """Those it is for, by name, as far as the caller may know of them."""
    reason: str
    made_by: str
    made_at: datetime
    warnings: list[str]
    """What is odd about it, told when it is made or changed."""


def router(reservations: Reservations, tenancy: Tenancy) -> APIRouter:
    """Return the routes of reservations."""
    routes = APIRouter(prefix="/v1/reservations", tags=["pool"])
    _look(routes, reservations, tenancy)
    _operate(routes, reservations, tenancy)
    return routes


def _look(routes: APIRouter, reservations: Reservations, tenancy: Tenancy) -> None:
    @routes.get("")
    async def list_reservations(
        caller: Reader, paging: Paged, ended: Annotated[bool, Query(description="Those that ended too.")] = False
    ) -> Page[ReservationOut]:
        """List reservations and maintenance in order of name."""
        after = paging.after(str)
        async with caller.reading() as tx:
            found = await reservations.reservations(tx, with_ended=ended)
            rows = [row for row in found if after is None or row.name > after[0]]
            kept, next_cursor = paging.page(rows, lambda row: [row.name])
            names = await _names(tx, caller, tenancy, kept)
            items = [_out(row, names, tx.now) for row in kept]
        return Page(items=items, next_cursor=next_cursor)

    @routes.get("/{reservation}")
    async def show_reservation(caller: Reader, reservation: str) -> ReservationOut:
        """Show a reservation by its name or identifier."""
        async with caller.reading() as tx:
            found = await reservations.reservation(tx, reservation)
            return _out(found, await _names(tx, caller, tenancy, [found]), tx.now)


def _operate(routes: APIRouter, reservations: Reservations, tenancy: Tenancy) -> None:
    @routes.post("", response_model=ReservationOut, status_code=201)
    async def make_reservation(caller: Operator, body: ReservationIn) -> Response:
        """Keep nodes for some projects, or free for maintenance; what could still run then is not started there."""
        if body.all_nodes == bool(body.nodes):
            raise Invalid("Give either nodes or all_nodes: true.")

        async def make(tx: Tx) -> ReservationOut:
            projects = [
                await tenancy.project_for(tx, caller.principal, ref, Permission.POOL_READ) for ref in body.projects
            ]
            wanted = Wanted(
                name=body.name, begins_at=aware(body.begins_at) or tx.now, ends_at=aware(body.ends_at) or tx.now,
                cluster=body.cluster, nodes=tuple(body.nodes), projects=tuple(each.id for each in projects),
                reason=body.reason,
            )  # fmt: skip
            made, told = await reservations.make(tx, wanted)
            return _out(made, await _names(tx, caller, tenancy, [made]), tx.now, told)

        return await caller.once(make)

    @routes.patch("/{reservation}")
    async def change_reservation(caller: Operator, reservation: str, body: ReservationChange) -> ReservationOut:
        """Give a reservation other times or another reason."""
        async with caller.transaction() as tx:
            changed, told = await reservations.change(
                tx, reservation, begins_at=aware(body.begins_at), ends_at=aware(body.ends_at), reason=body.reason
            )
            return _out(changed, await _names(tx, caller, tenancy, [changed]), tx.now, told)

    @routes.delete("/{reservation}", status_code=204)
    async def drop_reservation(caller: Operator, reservation: str) -> None:
        """Take a reservation back: the nodes are for everybody again."""
        async with caller.transaction() as tx:
            await reservations.drop(tx, reservation)


async def _names(tx: Tx, caller: Caller, tenancy: Tenancy, rows: Sequence[Reservation]) -> dict[str, str]:
    """Return the names of the projects that the caller may know of."""
    ids, reach = {project for row in rows for project in row.projects}, caller.reach(Permission.POOL_READ)
    wanted = ids if reach is None else ids & reach
    if not wanted:
        return {}
    return {each.id: each.name for each in await tenancy.projects(tx, ids=wanted, archived=True, limit=len(wanted))}


def _out(row: Reservation, names: Mapping[str, str], now: datetime, warnings: Sequence[str] = ()) -> ReservationOut:
    return ReservationOut(
        id=row.id, name=row.name, state=str(row.state_at(now)), cluster=row.cluster, nodes=list(row.nodes),
        all_nodes=not row.nodes, begins_at=row.begins_at, ends_at=row.ends_at, maintenance=row.is_maintenance,
        projects=sorted(names[project] for project in row.projects if project in names), reason=row.reason,
        made_by=row.made_by, made_at=row.made_at, warnings=list(warnings),
    )  # fmt: skip
