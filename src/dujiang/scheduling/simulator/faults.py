"""Reads when nodes were out of service: node, start_day, end_day; times that overlap on one node are one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dujiang.scheduling.simulator.jobs_traces import read_table
from dujiang.scheduling.simulator.traces import BadTrace

_DAY_S: Final = 86_400
_MOST_DAYS: Final = 36_600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One node is away from start to end."""

    node: int
    start_s: int
    end_s: int


def read_faults(path: Path, *, origin_s: int = 0) -> tuple[Fault, ...]:
    """Read faults, .csv or .csv.gz; day 0 of the file is `origin_s` on the clock of the jobs.

    Raises:
        BadTrace: what is wrong, with row and column.
    """
    spells: dict[int, list[tuple[int, int]]] = {}
    for row in read_table(path, ("node", "start_day", "end_day")):
        node = row.whole("node", least=0, most=10_000_000)
        days = []
        for column in ("start_day", "end_day"):
            text = row.text(column)
            try:
                day = float(text)
            except ValueError:
                raise row.bad(column, f"{text!r} is not a number of days.") from None
            if not 0 <= day <= _MOST_DAYS:
                raise row.bad(column, f"{text} is not a number of days from 0 to {_MOST_DAYS:g}.")
            days.append(round(day * _DAY_S))
        if days[1] < days[0]:
            raise row.bad("end_day", "it is before start_day.")
        if days[1] > days[0]:
            spells.setdefault(node, []).append((origin_s + days[0], origin_s + days[1]))
    if not spells:
        raise BadTrace(f"{path} has no fault. Give a file with one fault a row.", file=str(path))
    return tuple(Fault(node, *spell) for node in sorted(spells) for spell in _merged(spells[node]))


def _merged(spells: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start_s, end_s in sorted(spells):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    return merged
