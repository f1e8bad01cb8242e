"""What would have to give where demands are impossible: the least change of one kind, and each by name.

Three kinds are looked at, each alone: more devices (counted, and by what they cost), less demand (in all, and the same
part of each), wider limits; all together only when none of them is enough alone. Every condition of the kind may be
missed for a price, and the sum of what is missed is made least (an elastic programme, Chinneck, Feasibility and
Infeasibility in Optimization, 2008, chapter 5). Among equal changes the one whose plan is best is taken. Every change
is then made and the plan solved again: what is told has been tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import Final

import numpy as np

from dujiang.scheduling.capacity.form import Condition, Floats, Form, form_of
from dujiang.scheduling.capacity.model import Impossible, Limit, Model, NotSolved
from dujiang.scheduling.capacity.plan import CapacityPlan, Tell, optimise, simple
from dujiang.scheduling.capacity.solver import TIME_LIMIT_S, TOLERANCE, Answer, Solver

_FINEST: Final = Decimal("0.000001")
"""Changes of demands and limits are rounded up to this."""
_SLACKS: Final = (1e-9, 1e-8)
"""Relative room in a sum that is held while the best of equals is looked for; more where the first is too little."""
_MOST_WORDS: Final = 6
_TRACE: Final = 1e-7
"""Relative size of what is taken for a trace of rounding first."""


class Kind(StrEnum):
    """What may give."""

    CAPACITY = "capacity"
    CAPACITY_BY_COST = "capacity_by_cost"
    """Devices too, counted by what they cost."""
    DEMAND = "demand"
    DEMAND_EVENLY = "demand_evenly"
    """The same part of every demand."""
    LIMIT = "limit"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Change:
    """One condition that gives."""

    condition: Condition
    name: str
    by: Decimal
    """Always above zero: devices more, units of need less, a limit wider."""
    before: Decimal
    after: Decimal

    def sentence(self) -> str:
        """Return the change in words: `2 more devices of flavor A100`."""
        amount = plain(self.by)
        match self.condition:
            case Condition.CAPACITY:
                return f"{amount} more device{'' if self.by == 1 else 's'} of flavor {self.name}"
            case Condition.DEMAND:
                return f"{amount} less of demand {self.name} ({plain(self.after)} instead of {plain(self.before)})"
        return f"limit {self.name} at {plain(self.after)} instead of {plain(self.before)}"


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Changes that together make a plan possible, and that plan."""

    kind: Kind
    changes: tuple[Change, ...]
    amount: Decimal
    """What was made least: the sum of the changes, what the devices cost, or the part of every demand."""
    plan: CapacityPlan
    is_proven: bool = True
    """False: time was short, and a smaller change may be enough."""

    def sentence(self) -> str:
        """Return the changes in words, the first of them where there are many."""
        if self.kind is Kind.DEMAND_EVENLY:
            return f"every demand at {plain(100 * (1 - self.amount))} % of its need"
        words = [change.sentence() for change in self.changes[:_MOST_WORDS]]
        left = len(self.changes) - len(words)
        return " and ".join(words) + (f" and {left} further changes" if left else "")


def relax(model: Model, *, time_limit_s: float = TIME_LIMIT_S, tell: Tell | None = None) -> tuple[Relaxation, ...]:
    """Return the smallest changes that make an impossible question possible, the best of each kind that can.

    None when it is possible as it is.

    Raises:
        NotSolved: no answer in time.
    """
    tell = tell or (lambda _: None)
    found: list[Relaxation] = []
    for kind in (Kind.CAPACITY, Kind.CAPACITY_BY_COST, Kind.DEMAND, Kind.DEMAND_EVENLY, Kind.LIMIT, Kind.TOGETHER):
        if kind is Kind.TOGETHER and found:
            break
        tell(f"looking for the smallest change: {kind.value.replace('_', ' ')}")
        relaxation = _smallest(model, kind, time_limit_s)
        if relaxation is not None and not relaxation.changes:
            return ()  # it is possible as it is
        if relaxation is not None and all(relaxation.changes != each.changes for each in found):
            found.append(relaxation)
    return tuple(found)


def relaxed(model: Model, changes: tuple[Change, ...]) -> Model:
    """Return the question with changes made."""
    after = {(change.condition, change.name): change.after for change in changes}

    def limit(each: Limit) -> Limit:
        bound = after.get((Condition.LIMIT, each.name))
        if bound is None:
            return each
        if each.at_most is not None and bound > each.at_most:
            return replace(each, at_most=bound)
        return replace(each, at_least=bound)

    return replace(
        model,
        supplies=tuple(
            replace(s, capacity=after.get((Condition.CAPACITY, s.name), s.capacity)) for s in model.supplies
        ),
        demands=tuple(replace(d, need=after.get((Condition.DEMAND, d.name), d.need)) for d in model.demands),
        limits=tuple(map(limit, model.limits)),
    )


def plain(number: Decimal) -> str:
    """Return a number without an exponent or idle zeros, to six places."""
    text = f"{number.quantize(_FINEST):f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) if Decimal(text) else "0"


@dataclass(frozen=True, slots=True)
class _Miss:
    """One condition that may be missed: by how much, per unit of what gives."""

    condition: Condition
    name: str
    before: Decimal
    direction: int
    """Of the bound: +1 when it would rise."""
    each: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True)
class _Give:
    """What may give, in its own unit and at its own price."""

    misses: tuple[_Miss, ...]
    most: float = np.inf
    price: float = 1.0
    whole: bool = False


def _gives(model: Model, kind: Kind) -> Iterator[_Give]:
    if kind in {Kind.CAPACITY, Kind.CAPACITY_BY_COST, Kind.TOGETHER}:
        for supply in model.supplies:
            if supply.capacity is not None:
                price = float(supply.cost) if kind is Kind.CAPACITY_BY_COST else 1.0
                miss = _Miss(Condition.CAPACITY, supply.name, supply.capacity, 1)
                yield _Give((miss,), price=price, whole=True)
    needs = [(demand.name, demand.need) for demand in model.demands if demand.need > 0]
    if kind in {Kind.DEMAND, Kind.TOGETHER}:
        for name, need in needs:
            yield _Give((_Miss(Condition.DEMAND, name, need, -1),), most=float(need))
    if kind is Kind.DEMAND_EVENLY and len(needs) > 1:
        yield _Give(tuple(_Miss(Condition.DEMAND, name, need, -1, need) for name, need in needs), most=1.0)
    if kind in {Kind.LIMIT, Kind.TOGETHER}:
        for limit in model.limits:
            for bound, direction in ((limit.at_most, 1), (limit.at_least, -1)):
                if bound is not None:
                    yield _Give((_Miss(Condition.LIMIT, limit.name, bound, direction),))


def _smallest(model: Model, kind: Kind, time_limit_s: float) -> Relaxation | None:
    """Return the least changes of a kind and the plan they allow, or None when no change of that kind is enough."""
    gives = list(_gives(model, kind))
    if not gives:
        return None
    base = form_of(model)
    form = base.with_columns(
        [{base.rows[m.condition, m.name]: -float(m.direction * m.each) for m in give.misses} for give in gives],
        upper=[give.most for give in gives],
        whole=[give.whole for give in gives],
    )
    prices = np.zeros(len(form.lower))
    prices[len(base.lower) :] = [give.price for give in gives]
    try:
        least = Solver(form, whole=True, time_limit_s=time_limit_s).solve(prices)
    except Impossible:
        return None
    given = _best_of_equals(model, form, prices, least, time_limit_s)[len(base.lower) :].tolist()
    for finely in (False, True):
        amounts = [_given(give, value, finely=finely) for give, value in zip(gives, given, strict=True)]
        changes = tuple(
            Change(miss.condition, miss.name, by, miss.before, miss.before + miss.direction * by)
            for give, amount in zip(gives, amounts, strict=True)
            for miss in give.misses
            if (by := amount * miss.each)
        )
        try:
            plan = optimise(relaxed(model, changes), time_limit_s=time_limit_s, most_resolved=0)
        except Impossible:
            continue  # what looked like a trace of rounding was needed
        amount = sum((n * Decimal(repr(give.price)) for n, give in zip(amounts, gives, strict=True)), Decimal(0))
        return Relaxation(kind, changes, amount, plan, is_proven=least.gap == 0)
    raise NotSolved("The smallest change lies within the precision of the solver. Bring the figures nearer together.")


def _best_of_equals(model: Model, form: Form, prices: Floats, least: Answer, time_limit_s: float) -> Floats:
    """Return, of the solutions that miss as little as the least does, one with the best plan."""
    objective = np.zeros(len(form.lower))
    costs = form.costs(1, model.weight)
    objective[: len(costs)] = costs
    # Where devices cost nothing, more of them than needed would be as good: a little for each keeps them away.
    objective[len(costs) :] = max(1.0, float(costs.max(initial=0.0))) * 1e-6
    for slack in _SLACKS:
        held = form.with_row(prices, at_most=least.objective + slack * max(1.0, abs(least.objective)))
        try:
            return Solver(held, whole=True, time_limit_s=time_limit_s).solve(objective).x
        except Impossible:
            continue  # the least lies at the end of the solver's precision
    return least.x


def _given(give: _Give, value: float, *, finely: bool) -> Decimal:
    """Return how much gives: a simple number if it is near one, or finely; rounded up, so that it is enough."""
    size = max([1.0, *(abs(float(miss.before)) for miss in give.misses if miss.each == 1)])
    if value <= (TOLERANCE if finely else _TRACE * size):
        return Decimal(0)
    if give.whole:
        return Decimal(round(value))
    amount = (Decimal(repr(value)) if finely else simple(value, within=_TRACE)).quantize(_FINEST, ROUND_CEILING)
    return min(amount, Decimal(repr(give.most)))
