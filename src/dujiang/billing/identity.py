"""Reads ledger and charges into columns for the proof that they are the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from dujiang.billing import store
from dujiang.billing.domain.check import MOST_OFFENCES, RESOURCES, ChargeRows, Offence, RatedRows, Verdict, compare
from dujiang.kit.db import Tx
from dujiang.pool.service import PoolService


async def check(tx: Tx, pool: PoolService) -> Verdict:
    """Compare all charges with all rows of the ledger up to where rating has come."""
    place = await store.read_place(tx)
    ledger, waiting = await _ledger(tx, pool, place)
    charges = await _charges(tx)
    verdict = await asyncio.to_thread(compare, ledger, charges, waiting=waiting)
    room = MOST_OFFENCES - len(verdict.offences)
    repriced = tuple(_repriced(id) for id in await store.repriced(tx, room)) if room > 0 else ()
    return replace(verdict, offences=verdict.offences + repriced)


async def _ledger(tx: Tx, pool: PoolService, place: store.Place) -> tuple[RatedRows, int]:
    ids: list[bytes] = []
    numbers: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]] = []
    waiting = 0
    async for rows in pool.closed_pages(tx):
        rated = [row for row in rows if (row[1], row[0]) <= (place.closed_version, place.allocation_id)]
        waiting += len(rows) - len(rated)
        ids += [row[0].encode() for row in rated]
        numbers.append(np.array([row[2:] for row in rated], np.int64).reshape(-1, 2 + len(RESOURCES)))
    table = np.concatenate(numbers) if numbers else np.zeros((0, 2 + len(RESOURCES)), np.int64)
    names = np.array(ids, "S40")
    order = np.argsort(names, kind="stable")  # a database may sort by other rules than bytes
    return RatedRows(names[order], table[order, 0], table[order, 1], table[order, 2:]), waiting


async def _charges(tx: Tx) -> ChargeRows:
    codes = {str(resource): code for code, resource in enumerate(RESOURCES)}
    ids: list[bytes] = []
    allocation_ids: list[bytes] = []
    numbers: list[np.ndarray[tuple[int, int], np.dtype[np.int64]]] = []
    async for rows in store.charge_pages(tx):
        ids += [row[0].encode() for row in rows]
        allocation_ids += [row[1].encode() for row in rows]
        numbers.append(np.array([(codes[row[2]], *row[3:]) for row in rows], np.int64).reshape(-1, 4))
    table = np.concatenate(numbers) if numbers else np.zeros((0, 4), np.int64)
    return ChargeRows(
        np.array(ids, "S40"), np.array(allocation_ids, "S40"), table[:, 0], table[:, 1], table[:, 2], table[:, 3]
    )


def _repriced(charge_id: str) -> Offence:
    return Offence("", None, 0, 0, (charge_id,), "This charge's unit price is not the one of the price it names.")
