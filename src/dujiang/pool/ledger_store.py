"""Statements over the allocation ledger. Reads of many rows take raw integers, because a datetime each costs more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Select,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)

from dujiang.engines.contract import AttemptKey
from dujiang.kit.db import Tx
from dujiang.pool.domain.inventory import Used
from dujiang.pool.domain.ledger import Allocation, LedgerFilter, Share
from dujiang.pool.store import allocations

_CHUNK = 5000  # values in one IN list; both databases take 32,766


async def read_used(tx: Tx, node_ids: Sequence[str] | None = None) -> Used:
    """Return what live rows hold, on these nodes or everywhere."""
    used = Used()
    if node_ids is None:
        _gather(used, await tx.execute(_USED))
    else:
        for chunk in _chunks(node_ids):
            _gather(used, await tx.execute(_USED_ON, {"ids": chunk}))
    return used


async def insert_rows(tx: Tx, rows: Sequence[tuple[str, Share]], started_at: datetime) -> None:
    """Open rows, each with its identifier."""
    await tx.execute(insert(allocations), [_values(id, share, started_at) for id, share in rows])


async def close_rows(tx: Tx, ends: Sequence[tuple[AttemptKey, datetime]], closed_version: int) -> None:
    """Close what is live of these attempts, never before it started."""
    await tx.execute(
        _CLOSE,
        [{"job": key.job_id, "number": key.number, "at": at, "closing": closed_version} for key, at in ends],
    )


async def rows_of(tx: Tx, job_ids: Iterable[str], *, live_only: bool = False) -> list[Allocation]:
    """Return the rows of these jobs, all attempts."""
    found: list[Allocation] = []
    for chunk in _chunks(sorted(set(job_ids))):
        query = _LIVE_OF_JOBS if live_only else _OF_JOBS
        found += [allocation(row) for row in await tx.execute(query, {"ids": chunk})]
    return found


async def live_keys(tx: Tx, job_ids: Iterable[str]) -> set[AttemptKey]:
    """Return which attempts of these jobs hold something."""
    found: set[AttemptKey] = set()
    for chunk in _chunks(sorted(set(job_ids))):
        found.update(AttemptKey(row.job_id, row.attempt) for row in await tx.execute(_KEYS_OF_JOBS, {"ids": chunk}))
    return found


async def keys_on(tx: Tx, node_ids: Sequence[str] | None = None) -> list[AttemptKey]:
    """Return the attempts that hold something on these nodes, or anywhere."""
    found: set[AttemptKey] = set()
    for query in (
        [_KEYS] if node_ids is None else [_KEYS.where(allocations.c.node_id.in_(c)) for c in _chunks(node_ids)]
    ):
        found.update(AttemptKey(row.job_id, row.attempt) for row in await tx.execute(query))
    return sorted(found)


async def find(tx: Tx, wanted: LedgerFilter, *, after: str = "", limit: int | None = None) -> list[Allocation]:
    """Return rows in order of identifier, which is the order in which they were opened."""
    query = select(allocations).where(*_conditions(wanted), allocations.c.id > after).order_by(allocations.c.id)
    if limit is not None:
        query = query.limit(limit)
    return [allocation(row) for row in await tx.execute(query)]


async def closed_after(tx: Tx, version: int, after: str, limit: int) -> list[Allocation]:
    """Return rows in the order in which they were closed, from behind a (closed version, row id) on."""
    place = tuple_(allocations.c.closed_version, allocations.c.id)
    query = select(allocations).where(place > tuple_(version, after)).order_by(*place.clauses).limit(limit)
    return [allocation(row) for row in await tx.execute(query)]


async def closed_uses(tx: Tx, version: int, after: str, limit: int) -> Sequence[Any]:
    """Return raw numbers of closed rows in the order of `closed_after`; see `PoolService.closed_uses`."""
    a = allocations.c
    place = tuple_(a.closed_version, a.id)
    query = select(
        a.closed_version, a.id, a.project_id, a.gpu_milli,
        type_coerce(a.started_at, BigInteger), type_coerce(a.ended_at, BigInteger),
    )  # fmt: skip
    return (await tx.execute(query.where(place > tuple_(version, after)).order_by(*place.clauses).limit(limit))).all()


async def pages(tx: Tx, query: Select[Any], *, page: int = 20_000) -> AsyncIterator[Sequence[Any]]:
    """Yield the rows of a query over the ledger (its first column the identifier), a page at a time, in its order."""
    after = ""
    while rows := (
        await tx.execute(query.where(allocations.c.id > after).order_by(allocations.c.id).limit(page))
    ).all():
        yield rows
        after = rows[-1][0]


def closed_pages(tx: Tx) -> AsyncIterator[Sequence[Any]]:
    """Yield all closed rows in order of identifier as raw numbers; see `PoolService.closed_pages`."""
    a = allocations.c
    query = select(
        a.id, a.closed_version, type_coerce(a.started_at, BigInteger), type_coerce(a.ended_at, BigInteger),
        a.gpu_milli, a.device_memory_bytes, a.cpu_milli, a.memory_bytes, a.disk_bytes,
    )  # fmt: skip
    return pages(tx, query.where(a.closed_version.is_not(None)))


def allocation(row: Any) -> Allocation:
    """Return a row of the table as a value."""
    share = Share(
        key=AttemptKey(row.job_id, row.attempt), rank=row.rank, project_id=row.project_id, cluster_id=row.cluster_id,
        node_id=row.node_id, device_id=row.device_id, gpu_milli=row.gpu_milli,
        device_memory_bytes=row.device_memory_bytes, cpu_milli=row.cpu_milli, memory_bytes=row.memory_bytes,
        disk_bytes=row.disk_bytes, vendor=row.vendor, model=row.model, simulated=row.simulated,
    )  # fmt: skip
    return Allocation(row.id, share, row.started_at, row.ended_at, row.closed_version)


_USED = (
    select(
        allocations.c.node_id,
        allocations.c.device_id,
        func.sum(allocations.c.gpu_milli),
        func.sum(allocations.c.device_memory_bytes),
        func.sum(allocations.c.cpu_milli),
        func.sum(allocations.c.memory_bytes),
        func.sum(allocations.c.disk_bytes),
    )
    .where(allocations.c.ended_at.is_(None))
    .group_by(allocations.c.node_id, allocations.c.device_id)
)
_KEYS = select(allocations.c.job_id, allocations.c.attempt).where(allocations.c.ended_at.is_(None)).distinct()
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_USED_ON = _USED.where(allocations.c.node_id.in_(_IDS))
_KEYS_OF_JOBS = _KEYS.where(allocations.c.job_id.in_(_IDS))
_OF_JOBS = select(allocations).where(allocations.c.job_id.in_(_IDS)).order_by(allocations.c.id)
_LIVE_OF_JOBS = _OF_JOBS.where(allocations.c.ended_at.is_(None))
_AT = bindparam("at", type_=allocations.c.ended_at.type)
_CLOSE = (
    update(allocations)
    .where(
        allocations.c.job_id == bindparam("job"),
        allocations.c.attempt == bindparam("number"),
        allocations.c.ended_at.is_(None),
    )
    .values(
        ended_at=case((allocations.c.started_at > _AT, allocations.c.started_at), else_=_AT),
        closed_version=bindparam("closing"),
    )
)


def _conditions(wanted: LedgerFilter) -> list[ColumnElement[bool]]:
    columns = allocations.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.project_ids is not None:
        conditions.append(columns.project_id.in_(wanted.project_ids))
    if wanted.job_id is not None:
        conditions.append(columns.job_id == wanted.job_id)
    if wanted.node_id is not None:
        conditions.append(columns.node_id == wanted.node_id)
    if wanted.live is not None:
        conditions.append(columns.ended_at.is_(None) if wanted.live else columns.ended_at.is_not(None))
    if wanted.since is not None:
        conditions.append(or_(columns.ended_at.is_(None), columns.ended_at > wanted.since))
    if wanted.until is not None:
        conditions.append(columns.started_at < wanted.until)
    return conditions


def _gather(used: Used, rows: Iterable[Any]) -> None:
    for node_id, device_id, milli, device_memory, cpu, memory, disk in rows:
        # PostgreSQL sums integers to numeric.
        if device_id is None:
            used.nodes[node_id] = (int(cpu), int(memory), int(disk))
        else:
            used.devices[device_id] = (int(milli), int(device_memory))
            used.device_nodes.add(node_id)


def _values(id: str, share: Share, started_at: datetime) -> dict[str, Any]:
    return {
        "id": id, "job_id": share.key.job_id, "attempt": share.key.number, "rank": share.rank,
        "project_id": share.project_id, "cluster_id": share.cluster_id, "node_id": share.node_id,
        "device_id": share.device_id, "gpu_milli": share.gpu_milli, "device_memory_bytes": share.device_memory_bytes,
        "cpu_milli": share.cpu_milli, "memory_bytes": share.memory_bytes, "disk_bytes": share.disk_bytes,
        "vendor": share.vendor, "model": share.model, "simulated": share.simulated, "started_at": started_at,
    }  # fmt: skip


def _chunks(values: Sequence[str]) -> list[Sequence[str]]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
