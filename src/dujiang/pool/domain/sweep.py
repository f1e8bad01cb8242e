"""Whether the whole history of the ledger holds: one pass over all starts, ends and changes of capacity.

Load on a place rises only when an allocation starts, so it is enough to look at each start: what is held then, this one
included, must be within the capacity in force at that moment. A node that shrinks under what it already holds breaks
nothing by that. At one instant ends come first, then changes of capacity, then starts: intervals are half-open, and the
ledger's time puts a change of capacity strictly after whatever started before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dujiang.pool.domain.inventory import WHOLE_DEVICE, BoolArray, IntArray

LIVE: Final = np.iinfo(np.int64).max
"""The end of what has not ended."""
MOST_VIOLATIONS: Final = 100
MOST_ROWS: Final = 50

_END, _CAPACITY, _START = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Violation:
    """Something in the ledger that must not be."""

    kind: str
    """`malformed`, `unknown_place`, `over_allocated`, `held_twice`, `closing` or `no_host_row`."""
    rows: tuple[str, ...]
    """Identifiers of rows: the one that breaks it first, then those it meets; at most 50."""
    sentence: str


@dataclass(frozen=True, slots=True)
class LedgerColumns:
    """All rows of the ledger; every array has one entry a row."""

    ids: npt.NDArray[np.bytes_]
    attempt: IntArray
    """A number for each (job, attempt, rank): equal numbers, equal rank, but for one chance in about 2^63."""
    node: IntArray
    """Index into the places, -1 for a node that is not known."""
    device: IntArray
    """Index into the places, -1 for a row without a device, -2 for a device that is not known or on another node."""
    started: IntArray
    """Microseconds."""
    ended: IntArray
    """Microseconds; LIVE for what has not ended."""
    closed_version: IntArray
    """-1 for none."""
    amounts: IntArray
    """(rows, 5): gpu_milli, device_memory_bytes, cpu_milli, memory_bytes, disk_bytes."""


@dataclass(frozen=True, slots=True)
class CapacityColumns:
    """What could be given away, since when; every array has one entry a change. Nodes and devices are places alike."""

    place: IntArray
    since: IntArray
    amounts: IntArray
    """(changes, 5), columns as in the ledger."""
    names: Sequence[str]
    """Of each place, for the sentences."""


RESOURCES: Final = ("gpu_milli", "device_memory_bytes", "cpu_milli", "memory_bytes", "disk_bytes")


def violations(ledger: LedgerColumns, capacity: CapacityColumns, *, version: int, latest: int) -> list[Violation]:
    """Check the whole history; O(rows log rows).

    Args:
        ledger: all rows.
        capacity: all changes of capacity.
        version: the pool's version; nothing can have been closed by a later one.
        latest: the latest time that was written to the ledger, microseconds.

    Returns:
        At most a hundred violations, those of single rows first.
    """
    found = _single_rows(ledger, version, latest)
    found += _twice(ledger)
    sound = ledger.ended > ledger.started  # an empty interval holds nothing
    for resource, name in enumerate(RESOURCES):
        place = ledger.device if resource < 2 else ledger.node
        rows = np.flatnonzero(sound & (place >= 0) & (ledger.amounts[:, resource] > 0))
        if len(found) < MOST_VIOLATIONS:
            found += _over(ledger, capacity, rows, place, resource, name)
    return found[:MOST_VIOLATIONS]


def _single_rows(ledger: LedgerColumns, version: int, latest: int) -> list[Violation]:
    on_device = ledger.device != -1
    milli, device_memory = ledger.amounts[:, 0], ledger.amounts[:, 1]
    closed = ledger.ended != LIVE
    checks = [
        ("malformed", ledger.ended < ledger.started, "It ends before it starts."),
        ("malformed", (ledger.amounts < 0).any(axis=1), "It holds less than nothing."),
        (
            "malformed",
            on_device & ((milli < 1) | (milli > WHOLE_DEVICE)),
            f"Its share of a device is not 1 to {WHOLE_DEVICE} thousandths.",
        ),
        (
            "malformed",
            np.where(on_device, (ledger.amounts[:, 2:] != 0).any(axis=1), (milli != 0) | (device_memory != 0)),
            "It mixes what a device gives with what its node gives.",
        ),
        ("malformed", ledger.started > latest, "It starts later than anything was written."),
        ("malformed", closed & (ledger.ended > latest), "It ends later than anything was written."),
        ("unknown_place", ledger.node == -1, "Its node is not known."),
        ("unknown_place", ledger.device == -2, "Its device is not known, or is on another node."),
        ("closing", closed != (ledger.closed_version >= 0), "It ended without a closing version, or the reverse."),
        ("closing", ledger.closed_version > version, "It was closed by a version that has not been yet."),
        ("no_host_row", on_device & ~_has_host(ledger, on_device), "Its rank has no row for CPU, memory and disk."),
    ]  # fmt: skip
    return [
        Violation(kind, (_id(ledger, row),), sentence)
        for kind, broken, sentence in checks
        for row in np.flatnonzero(broken)[:MOST_VIOLATIONS]
    ]


def _has_host(ledger: LedgerColumns, on_device: BoolArray) -> BoolArray:
    return np.isin(ledger.attempt, ledger.attempt[~on_device])


def _twice(ledger: LedgerColumns) -> list[Violation]:
    """Find ranks that hold the same device, or their node, by two rows at one time."""
    order = np.lexsort((ledger.started, ledger.device, ledger.attempt))
    attempt, device = ledger.attempt[order], ledger.device[order]
    same = (attempt[1:] == attempt[:-1]) & (device[1:] == device[:-1])
    overlap = same & (ledger.started[order][1:] < ledger.ended[order][:-1])
    return [
        Violation("held_twice", (_id(ledger, order[at + 1]), _id(ledger, order[at])), "One rank holds this twice.")
        for at in np.flatnonzero(overlap)[:MOST_VIOLATIONS]
    ]


def _over(
    ledger: LedgerColumns, capacity: CapacityColumns, rows: IntArray, place: IntArray, resource: int, name: str
) -> list[Violation]:
    ending = rows[ledger.ended[rows] != LIVE]
    amounts = ledger.amounts[:, resource]
    of = np.concatenate([place[ending], capacity.place, place[rows]])
    at = np.concatenate([ledger.ended[ending], capacity.since, ledger.started[rows]])
    kind = np.repeat(np.array([_END, _CAPACITY, _START]), [len(ending), len(capacity.place), len(rows)])
    change = np.concatenate([-amounts[ending], np.zeros(len(capacity.place), np.int64), amounts[rows]])
    source = np.concatenate([ending, np.arange(len(capacity.place)), rows])
    order = np.lexsort((kind, at, of))
    of, at, kind, change, source = of[order], at[order], kind[order], change[order], source[order]
    first = np.flatnonzero(np.diff(of, prepend=-1))
    of_first = np.repeat(first, np.diff(np.append(first, len(of))))
    # Sums run over all places and are taken apart again; both wrap around alike, so the difference is exact.
    total = np.cumsum(change)
    load = total - (total[of_first] - change[of_first])
    known = np.maximum.accumulate(np.where(kind == _CAPACITY, np.arange(len(of)), -1))
    in_force = known >= of_first
    limit = np.zeros(len(of), np.int64)
    limit[in_force] = capacity.amounts[source[known[in_force]], resource]
    broken = np.flatnonzero((kind == _START) & (load > limit))
    return [
        _over_allocated(
            ledger, capacity, place, resource, name, int(source[each]), int(at[each]), int(load[each]), int(limit[each])
        )
        for each in broken[:MOST_VIOLATIONS]
    ]


def _over_allocated(
    ledger: LedgerColumns, capacity: CapacityColumns, place: IntArray, resource: int, name: str,
    row: int, at: int, load: int, limit: int,
) -> Violation:  # fmt: skip
    holding = (place == place[row]) & (ledger.started <= at) & (ledger.ended > at) & (ledger.amounts[:, resource] > 0)
    others = [other for other in np.flatnonzero(holding) if other != row][: MOST_ROWS - 1]
    where = capacity.names[int(place[row])]
    return Violation(
        "over_allocated",
        tuple(_id(ledger, each) for each in (row, *others)),
        f"{where} holds {load} {name} at {at} microseconds, {limit} are there.",
    )


def _id(ledger: LedgerColumns, row: Any) -> str:
    return bytes(ledger.ids[int(row)]).decode()
