"""A question of capacity as columns and rows: one column for each way to serve, one row for each condition.

Rows are scaled by powers of two so that their largest factor is between one and two: exact, and the solver's absolute
tolerances then mean the same in each. Duals are scaled back by whoever reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dujiang.scheduling.capacity.model import Demand, Model, Supply, Way

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


class Condition(StrEnum):
    """What a plan must keep to: rows of the form, and bounds of its columns."""

    DEMAND = "demand"
    CAPACITY = "capacity"
    DEVICES = "devices"
    """Least and most devices of a service."""
    LIMIT = "limit"
    WAY = "way"
    """Least and most devices of one flavor for one service; a bound of a column, no row."""


@dataclass(frozen=True, slots=True)
class Column:
    """Devices of one flavor for one service."""

    demand: Demand
    supply: Supply
    way: Way


@dataclass(frozen=True, slots=True)
class Form:
    """Minimise costs @ x, lower <= x <= upper, row_lower <= A x <= row_upper; A by entries."""

    columns: tuple[Column, ...]
    supplies: tuple[Supply, ...]
    flavor_of: Ints
    """The index in `supplies`, by column."""
    lower: Floats
    upper: Floats
    whole: Bools
    rows: Mapping[tuple[Condition, str], int]
    row_lower: Floats
    row_upper: Floats
    scale: Floats
    """What each row was multiplied by."""
    at_row: Ints
    at_column: Ints
    values: Floats

    def with_columns(
        self, entries: Sequence[Mapping[int, float]], upper: Iterable[float], whole: Iterable[bool]
    ) -> Form:
        """Return the form with further columns from 0 on, each with its (unscaled) factors by row."""
        first = len(self.lower)
        found = [(row, first + i, factor) for i, column in enumerate(entries) for row, factor in column.items()]
        rows = np.array([row for row, _, _ in found], dtype=np.int32)
        return replace(
            self,
            lower=np.append(self.lower, np.zeros(len(entries))),
            upper=np.append(self.upper, list(upper)),
            whole=np.append(self.whole, list(whole)).astype(bool),
            at_row=np.append(self.at_row, rows),
            at_column=np.append(self.at_column, np.array([column for _, column, _ in found], dtype=np.int32)),
            values=np.append(self.values, np.array([factor for _, _, factor in found]) * self.scale[rows]),
        )

    def with_row(self, factors: Floats, *, at_most: float) -> Form:
        """Return the form with a further row, which has no name."""
        at_column = np.flatnonzero(factors).astype(np.int32)
        scale = _power_of_two(float(np.abs(factors).max(initial=0.0)))
        return replace(
            self,
            row_lower=np.append(self.row_lower, -np.inf),
            row_upper=np.append(self.row_upper, at_most * scale),
            scale=np.append(self.scale, scale),
            at_row=np.append(self.at_row, np.full(len(at_column), len(self.scale), dtype=np.int32)),
            at_column=np.append(self.at_column, at_column),
            values=np.append(self.values, factors[at_column] * scale),
        )

    def costs(self, of_cost: Decimal | int, of_impact: Decimal | int) -> Floats:
        """Return what each column counts in the objective, for weights of cost and of failure impact."""
        per_flavor = [float(of_cost * supply.cost + of_impact * supply.impact) for supply in self.supplies]
        return np.array(per_flavor, dtype=np.float64)[self.flavor_of]


class _Rows:
    """Collects rows and their entries."""

    def __init__(self) -> None:
        self.names: dict[tuple[Condition, str], int] = {}
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.scale: list[float] = []
        self.at: list[Ints] = []
        self.columns: list[Ints] = []
        self.values: list[Floats] = []

    def add(
        self, kind: Condition, name: str, columns: Iterable[int], values: Iterable[Decimal | int],
        *, least: Decimal | None = None, most: Decimal | None = None,
    ) -> None:  # fmt: skip
        at = np.fromiter(columns, dtype=np.int32)
        factors = np.array([float(value) for value in values], dtype=np.float64)
        scale = _power_of_two(float(np.abs(factors).max(initial=0.0)))
        index = self.names[kind, name] = len(self.lower)
        self.lower.append(-math.inf if least is None else float(least) * scale)
        self.upper.append(math.inf if most is None else float(most) * scale)
        self.scale.append(scale)
        self.at.append(np.full(len(at), index, dtype=np.int32))
        self.columns.append(at)
        self.values.append(factors * scale)


def form_of(model: Model) -> Form:
    """Return the columns and rows of a question. O(ways + limits * ways) time, O(ways) memory and what limits name."""
    by_name = model.by_name
    columns = tuple(Column(d, by_name[way.flavor], way) for d in model.demands for way in d.ways)
    number = {supply.name: index for index, supply in enumerate(model.supplies)}
    rows = _Rows()
    _demand_rows(model, rows)
    of_flavor: dict[str, list[int]] = {supply.name: [] for supply in model.supplies}
    for index, column in enumerate(columns):
        of_flavor[column.supply.name].append(index)
    for supply in model.supplies:
        if supply.capacity is not None:
            at = of_flavor[supply.name]
            rows.add(Condition.CAPACITY, supply.name, at, (1 for _ in at), most=supply.capacity)
    for limit in model.limits:
        factors = [(i, f) for i, c in enumerate(columns) if (f := limit.factor(c.demand.name, c.supply))]
        at, values = [i for i, _ in factors], [f for _, f in factors]
        rows.add(Condition.LIMIT, limit.name, at, values, least=limit.at_least, most=limit.at_most)
    return Form(
        columns=columns,
        supplies=model.supplies,
        flavor_of=np.array([number[c.supply.name] for c in columns], dtype=np.int32),
        lower=np.array([float(c.way.least) for c in columns]),
        upper=np.array([math.inf if c.way.most is None else float(c.way.most) for c in columns]),
        whole=np.array([c.demand.whole for c in columns], dtype=bool),
        rows=rows.names,
        row_lower=np.array(rows.lower), row_upper=np.array(rows.upper), scale=np.array(rows.scale),
        at_row=np.concatenate([*rows.at, np.zeros(0, dtype=np.int32)]),
        at_column=np.concatenate([*rows.columns, np.zeros(0, dtype=np.int32)]),
        values=np.concatenate([*rows.values, np.zeros(0)]),
    )  # fmt: skip


def _demand_rows(model: Model, rows: _Rows) -> None:
    first = 0
    for demand in model.demands:
        at = range(first, first + len(demand.ways))
        first += len(demand.ways)
        rows.add(Condition.DEMAND, demand.name, at, (way.rate for way in demand.ways), least=demand.need)
        if demand.min_devices > 0 or demand.max_devices is not None:
            rows.add(Condition.DEVICES, demand.name, at, (1 for _ in at),
                     least=demand.min_devices or None, most=demand.max_devices)  # fmt: skip


def _power_of_two(largest: float) -> float:
    return 2.0 ** -math.floor(math.log2(largest)) if largest > 0 else 1.0
