"""Makes the plan and says what each capacity is worth.

The solver answers in floating point; here its answer becomes exact again (whole numbers and simple fractions are
recognised), and money is added up exactly and rounded once, each line and each total from its own exact amount.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np

from dujiang.kit.money import Money
from dujiang.scheduling.capacity.form import Column, Condition, Floats, Form, form_of
from dujiang.scheduling.capacity.model import Model
from dujiang.scheduling.capacity.solver import TIME_LIMIT_S, Answer, Solver

MOST_RESOLVED: Final = 200
"""Capacities whose worth of one more is found by solving again; those with the highest shadow prices first."""
_SNAP: Final = 1e-9
"""How near (relative to the number, at least 1) a figure of the solver must be to a simple fraction to be it."""
_MEETS: Final = 1e-7
"""How near (relative to the bound, at least 1) what is used must be to a bound to be at it."""
_MOST_PARTS: Final = 1000
"""Denominators of simple fractions: thousandths are the smallest share of a device there is."""
_PRICE_PLACES: Final = Decimal("0.000001")

_TRACE: Final = 1e-9
"""Below which a number of devices is none."""

Tell = Callable[[str], None]
Devices: TypeAlias = dict[int, Decimal]
"""How many by column, where there are any; in the order of columns."""


@dataclass(frozen=True, slots=True)
class Share:
    """Devices of one flavor for one service."""

    service: str
    flavor: str
    devices: Decimal
    served: Decimal
    """Of the service's need, in its units."""
    cost: Decimal
    impact: Decimal


@dataclass(frozen=True, slots=True)
class CapacityValue:
    """What a capacity is worth to the plan."""

    flavor: str
    capacity: Decimal | None
    used: Decimal
    binds: bool
    shadow_price: Decimal
    """What the objective falls by per device more, at the margin; with whole devices that of the relaxation."""
    one_more: Decimal | None
    """What the objective falls by with exactly one device more, solved again; None when that was not done."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A condition that the plan meets with nothing to spare."""

    kind: Condition
    name: str
    bound: Decimal
    price: Decimal
    """What the objective rises by per unit more of the bound, at the margin; of the relaxation with whole devices."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a plan comes to, exactly."""

    cost: Decimal
    impact: Decimal

    def objective(self, weight: Decimal) -> Decimal:
        """Return cost plus weighted failure impact."""
        return self.cost + weight * self.impact


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Who gets how much of what, what it costs, and what limits it. Money is rounded, in the model's currency."""

    shares: tuple[Share, ...]
    cost: Decimal
    impact: Decimal
    objective: Decimal
    capacities: tuple[CapacityValue, ...]
    binding: tuple[Bind, ...]
    whole: bool
    """Some devices had to be whole: shadow prices are those of the relaxation."""
    relaxed_objective: Decimal
    """The objective if devices could be divided: no plan is below it."""
    gap: float
    """Part of the objective that is not proven when time was short; 0 when the plan is the best there is."""
    exact: Spending


def optimise(
    model: Model, *, time_limit_s: float = TIME_LIMIT_S, most_resolved: int = MOST_RESOLVED, tell: Tell | None = None
) -> CapacityPlan:
    """Return the best plan, with the worth of each capacity.

    Args:
        model: the question.
        time_limit_s: of a solve with whole devices, and of all that is solved again for the worth of one more.
        most_resolved: for how many capacities to solve again with one device more.
        tell: hears what is being done, for a progress line.

    Raises:
        Impossible: no plan meets all demands.
        Unbounded: there is no cheapest plan.
        NotSolved: no answer in time.
    """
    tell = tell or (lambda _: None)
    form = form_of(model)
    costs = form.costs(1, model.weight)
    tell("solving")
    divided = Solver(form, whole=False)
    margin = divided.solve(costs)
    solver, answer = divided, margin
    if model.is_whole:
        solver = Solver(form, whole=True, time_limit_s=time_limit_s)
        if not _is_whole(form, margin):
            tell("solving for whole devices")
            answer = solver.solve(costs)
    devices = exact(form, answer.x)
    spent = spending(form, devices)
    values = _values(model, form, devices, margin)
    if answer.gap == 0:
        again = _Again(solver, costs, most_resolved, solver.spent_s + time_limit_s)
        values = _with_one_more(model, form, values, again, spent, tell)
    return CapacityPlan(
        shares=_shares(model, form, devices),
        cost=rounded(model, spent.cost),
        impact=rounded(model, spent.impact),
        objective=rounded(model, spent.objective(model.weight)),
        capacities=values,
        binding=_binding(model, form, devices, margin),
        whole=model.is_whole,
        relaxed_objective=rounded(model, spending(form, exact(form, margin.x, whole=False)).objective(model.weight)),
        gap=answer.gap,
        exact=spent,
    )


def exact(form: Form, x: Floats, *, whole: bool = True) -> Devices:
    """Return the solver's figures as exact numbers: whole where they must be, simple fractions where they are."""
    found: Devices = {}
    for index in np.flatnonzero(x[: len(form.columns)] > _TRACE).tolist():
        value = float(x[index])
        number = Decimal(round(value)) if whole and form.whole[index] else simple(value)
        if number:
            found[index] = number
    return found


def simple(value: float, *, within: float = _SNAP) -> Decimal:
    """Return a figure of the solver as the simple fraction it is near to, else to ten places."""
    fraction = Fraction(value).limit_denominator(_MOST_PARTS)
    if abs(float(fraction) - value) <= within * max(1.0, abs(value)):
        return Decimal(fraction.numerator) / Decimal(fraction.denominator)
    return Decimal(repr(round(value, 10)))


def spending(form: Form, devices: Devices) -> Spending:
    """Return what a plan costs and risks, exactly."""
    return Spending(
        sum((column.supply.cost * n for column, n in _used(form, devices)), Decimal(0)),
        sum((column.supply.impact * n for column, n in _used(form, devices)), Decimal(0)),
    )


def rounded(model: Model, amount: Decimal) -> Decimal:
    """Return an amount in whole smallest units of the model's currency."""
    return Money(amount, model.currency).rounded().amount + 0  # no minus zero


def _used(form: Form, devices: Devices) -> Iterator[tuple[Column, Decimal]]:
    return ((form.columns[index], n) for index, n in devices.items())


def _is_whole(form: Form, answer: Answer) -> bool:
    x = answer.x[: len(form.whole)][form.whole]
    return bool((np.abs(x - np.round(x)) <= _MEETS).all())


def _shares(model: Model, form: Form, devices: Devices) -> tuple[Share, ...]:
    return tuple(
        Share(
            column.demand.name, column.supply.name, n, n * column.way.rate,
            rounded(model, n * column.supply.cost), rounded(model, n * column.supply.impact),
        )
        for column, n in _used(form, devices)
    )  # fmt: skip


def _values(model: Model, form: Form, devices: Devices, margin: Answer) -> tuple[CapacityValue, ...]:
    used: dict[str, Decimal] = {supply.name: Decimal(0) for supply in model.supplies}
    for column, n in _used(form, devices):
        used[column.supply.name] += n
    found = []
    for supply in model.supplies:
        row = form.rows.get((Condition.CAPACITY, supply.name))
        price = Decimal(0) if row is None else _price(-margin.row_duals[row])
        binds = supply.capacity is not None and _meets(used[supply.name], supply.capacity)
        found.append(CapacityValue(supply.name, supply.capacity, used[supply.name], binds, price, None))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Again:
    """The solver, and how far it may be asked again."""

    solver: Solver
    costs: Floats
    most: int
    until_s: float


def _with_one_more(
    model: Model, form: Form, values: Sequence[CapacityValue], again: _Again, spent: Spending, tell: Tell
) -> tuple[CapacityValue, ...]:
    """Solve again with one device more of each capacity that could matter.

    Without whole devices a capacity that does not bind is worth nothing (the least cost is convex in it); with them it
    may be: five devices do not serve what takes six.
    """
    worth: dict[str, Decimal] = {}
    asked, solver = 0, again.solver
    for value in sorted(values, key=lambda each: (-each.shadow_price, not each.binds)):
        if value.capacity is None or (not model.is_whole and not value.binds):
            worth[value.flavor] = Decimal(0)
        elif asked < again.most and solver.spent_s < again.until_s:
            asked += 1
            tell(f"one more of {value.flavor}")
            with solver.row_at_most(form.rows[Condition.CAPACITY, value.flavor], float(value.capacity) + 1):
                answer = solver.solve(again.costs)
            if answer.gap == 0:
                then = spending(form, exact(form, answer.x)).objective(model.weight)
                worth[value.flavor] = max(Decimal(0), _priced(spent.objective(model.weight) - then))
    return tuple(
        CapacityValue(v.flavor, v.capacity, v.used, v.binds, v.shadow_price, worth.get(v.flavor)) for v in values
    )


def _binding(model: Model, form: Form, devices: Devices, margin: Answer) -> tuple[Bind, ...]:
    """Return the conditions met with nothing to spare. A flavor's least of zero for a service is none."""
    reached = _reached(model, form, devices)
    found = []
    for key, bounds in _bounds(model).items():
        row = form.rows[key]
        bound = next((each for each in bounds if each is not None and _meets(reached[key], each)), None)
        if bound is not None:
            found.append(Bind(*key, bound, _price(margin.row_duals[row])))
    for index, column in enumerate(form.columns):
        way, n = column.way, devices.get(index, Decimal(0))
        bound = way.most if way.most is not None and _meets(n, way.most) else way.least
        if (bound or way.most == 0) and _meets(n, bound):
            name = f"{column.demand.name} on {way.flavor}"
            found.append(Bind(Condition.WAY, name, bound, _price(margin.column_duals[index])))
    return tuple(found)


def _bounds(model: Model) -> dict[tuple[Condition, str], tuple[Decimal | None, ...]]:
    bounds: dict[tuple[Condition, str], tuple[Decimal | None, ...]] = {}
    for demand in model.demands:
        bounds[Condition.DEMAND, demand.name] = (demand.need,)
        if demand.min_devices > 0 or demand.max_devices is not None:
            bounds[Condition.DEVICES, demand.name] = (demand.min_devices or None, demand.max_devices)
    for supply in model.supplies:
        if supply.capacity is not None:
            bounds[Condition.CAPACITY, supply.name] = (supply.capacity,)
    for limit in model.limits:
        bounds[Condition.LIMIT, limit.name] = (limit.at_most, limit.at_least)
    return bounds


def _reached(model: Model, form: Form, devices: Devices) -> dict[tuple[Condition, str], Decimal]:
    reached: dict[tuple[Condition, str], Decimal] = defaultdict(Decimal)
    for column, n in _used(form, devices):
        reached[Condition.DEMAND, column.demand.name] += n * column.way.rate
        reached[Condition.DEVICES, column.demand.name] += n
        reached[Condition.CAPACITY, column.supply.name] += n
        for limit in model.limits:
            reached[Condition.LIMIT, limit.name] += n * limit.factor(column.demand.name, column.supply)
    return reached


def _price(value: float) -> Decimal:
    return _priced(simple(float(value)))


def _priced(value: Decimal) -> Decimal:
    """Return the price of one unit, to six places: of an hour's share the smallest coin is too coarse."""
    return Decimal(f"{value.quantize(_PRICE_PLACES).normalize():f}") + 0


def _meets(value: Decimal, bound: Decimal) -> bool:
    return abs(value - bound) <= Decimal(_MEETS) * max(Decimal(1), abs(bound))
