"""Reads the whole ledger into columns for the check of its history; a million rows in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, select, type_coerce

from dujiang.kit.clock import to_micros
from dujiang.kit.db import Tx
from dujiang.pool import ledger_store, store
from dujiang.pool.domain.inventory import Inventory
from dujiang.pool.domain.sweep import LIVE, CapacityColumns, LedgerColumns, Violation, violations
from dujiang.pool.store import allocations, capacities


async def check(tx: Tx, inventory: Inventory) -> list[Violation]:
    """Return what in the ledger must not be, over its whole history; empty when it holds."""
    pulse = await store.read_pulse(tx)
    names = [f"node {node.name}" for node in inventory.nodes.values()] + [
        f"device {device.index} of node {inventory.nodes[device.node_id].name}" for device in inventory.devices.values()
    ]
    places = {id: at for at, id in enumerate([*inventory.nodes, *inventory.devices])}
    capacity = await _capacity(tx, places, names)
    ledger = await _ledger(tx, places, {device.id: device.node_id for device in inventory.devices.values()})
    # Sorting a million rows takes a second: not on the thread that answers requests.
    return await asyncio.to_thread(
        violations, ledger, capacity, version=pulse.version, latest=to_micros(pulse.latest_at)
    )


async def _capacity(tx: Tx, places: dict[str, int], names: Sequence[str]) -> CapacityColumns:
    c = capacities.c
    query = select(
        c.node_id, c.device_id, type_coerce(c.since, BigInteger), c.gpu_milli, c.device_memory_bytes, c.cpu_milli,
        c.memory_bytes, c.disk_bytes,
    ).order_by(c.since, c.id)  # fmt: skip
    rows: Sequence[Any] = (await tx.execute(query)).all()
    return CapacityColumns(
        place=np.array([places[row[1] or row[0]] for row in rows], np.int64),
        since=np.array([row[2] for row in rows], np.int64),
        amounts=np.array([row[3:] for row in rows], np.int64).reshape(-1, 5),
        names=names,
    )


async def _ledger(tx: Tx, places: dict[str, int], nodes_of: dict[str, str]) -> LedgerColumns:
    parts = [_columns(rows, places, nodes_of) async for rows in ledger_store.pages(tx, _ROWS)]
    parts = parts or [_columns([], places, nodes_of)]
    names = ("ids", "attempt", "node", "device", "started", "ended", "closed_version", "amounts")
    return LedgerColumns(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _columns(rows: Sequence[Any], places: dict[str, int], nodes_of: dict[str, str]) -> LedgerColumns:
    def device_at(device_id: str | None, node_id: str) -> int:
        if device_id is None:
            return -1
        return places[device_id] if nodes_of.get(device_id) == node_id else -2

    return LedgerColumns(
        ids=np.array([row[0].encode() for row in rows], "S40"),
        attempt=np.array([hash(row[1:4]) for row in rows], np.int64),
        node=np.array([places.get(row[4], -1) for row in rows], np.int64),
        device=np.array([device_at(row[5], row[4]) for row in rows], np.int64),
        started=np.array([row[6] for row in rows], np.int64),
        ended=np.array([LIVE if row[7] is None else row[7] for row in rows], np.int64),
        closed_version=np.array([-1 if row[8] is None else row[8] for row in rows], np.int64),
        amounts=np.array([row[9:] for row in rows], np.int64).reshape(-1, 5),
    )


_A = allocations.c
_ROWS = select(
    _A.id, _A.job_id, _A.attempt, _A.rank, _A.node_id, _A.device_id, type_coerce(_A.started_at, BigInteger),
    type_coerce(_A.ended_at, BigInteger), _A.closed_version, _A.gpu_milli, _A.device_memory_bytes, _A.cpu_milli,
    _A.memory_bytes, _A.disk_bytes,
)  # fmt: skip
