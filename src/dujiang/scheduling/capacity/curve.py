"""How the plan changes with lambda: cost against failure impact.

For each lambda the best plan is a corner of the lower left hull of all (impact, cost) that plans can have; between two
corners that follow one another lies the one lambda at which both are as good. All corners are found by halving: solve
at the lambda of two known corners; either nothing is below the line through them, or a corner between is found.
Source: Aneja and Nair, Bicriteria transportation problem, Management Science 25 (1979), 73-78.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, pairwise
from typing import Final

from dujiang.scheduling.capacity.form import form_of
from dujiang.scheduling.capacity.model import Model, NotSolved
from dujiang.scheduling.capacity.plan import Spending, Tell, exact, rounded, spending
from dujiang.scheduling.capacity.solver import TIME_LIMIT_S, Solver

MOST_POINTS: Final = 50
_SAME: Final = Decimal("1e-9")
"""Relative difference below which two objectives are one: what the solver can tell apart."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What the best plan comes to from one lambda to another. Money is rounded."""

    from_weight: Decimal
    to_weight: Decimal | None
    """None: for every lambda from there on."""
    cost: Decimal
    impact: Decimal


@dataclass(frozen=True, slots=True)
class Curve:
    """The points by rising lambda."""

    points: tuple[CurvePoint, ...]
    is_complete: bool
    """False: points or time ran out, and between some of these the plan changes further."""


def trade_off(
    model: Model, *, most_points: int = MOST_POINTS, time_limit_s: float = TIME_LIMIT_S, tell: Tell | None = None
) -> Curve:
    """Return every plan that is best for some lambda from 0 on, with the lambdas between which it is.

    Args:
        model: the question.
        most_points: where to stop, with the most telling points found.
        time_limit_s: of each point with whole devices, and after which no further point is begun.
        tell: hears what is being done.

    Raises:
        Impossible, Unbounded, NotSolved: as `optimise` does.
    """
    solve = _Solve(model, time_limit_s, tell)
    corners = {solve(Decimal(1), Decimal(0)), solve(Decimal(0), Decimal(1))}
    cheapest, safest = min(corners, key=_by_cost), min(corners, key=_by_impact)
    number = count()  # orders pairs of one size
    open_pairs = [(Decimal(0), next(number), cheapest, safest)]
    is_complete = True
    while open_pairs:
        *_, low, high = heapq.heappop(open_pairs)
        if not (_less(low.cost, high.cost) and _less(high.impact, low.impact)):
            continue
        weight = (high.cost - low.cost) / (low.impact - high.impact)
        try:
            found = solve(Decimal(1), weight) if len(corners) < most_points and solve.spent_s < time_limit_s else None
        except NotSolved:
            found = None
        if found is None:
            is_complete = False
            break
        if _less(found.objective(weight), low.objective(weight)):
            corners.add(found)
            for left, right in ((low, found), (found, high)):
                size = (right.cost - left.cost) * (left.impact - right.impact)
                heapq.heappush(open_pairs, (-size, next(number), left, right))
    return Curve(tuple(_points(model, _hull(corners))), is_complete)


def at_lambdas(
    model: Model, weights: Iterable[Decimal], *, time_limit_s: float = TIME_LIMIT_S, tell: Tell | None = None
) -> Curve:
    """Return what the best plan comes to at each of some lambdas.

    Raises:
        Impossible, Unbounded, NotSolved: as `optimise` does.
    """
    solve = _Solve(model, time_limit_s, tell)
    points = []
    for weight in sorted(set(weights)):
        spent = solve(Decimal(1), weight)
        points.append(CurvePoint(weight, weight, rounded(model, spent.cost), rounded(model, spent.impact)))
    return Curve(tuple(points), False)


class _Solve:
    """The same form, asked for many weights."""

    def __init__(self, model: Model, time_limit_s: float, tell: Tell | None) -> None:
        self._form = form_of(model)
        self._solver = Solver(self._form, whole=model.is_whole, time_limit_s=time_limit_s)
        self._tell, self._asked = tell or (lambda _: None), 0

    @property
    def spent_s(self) -> float:
        return self._solver.spent_s

    def __call__(self, of_cost: Decimal, of_impact: Decimal) -> Spending:
        self._asked += 1
        self._tell(f"point {self._asked} of the curve")
        answer = self._solver.solve(self._form.costs(of_cost, of_impact))
        if answer.gap:
            raise NotSolved("A point of the curve took too long. Give it more time, or leave the curve out.")
        return spending(self._form, exact(self._form, answer.x))


def _by_cost(spent: Spending) -> tuple[Decimal, Decimal]:
    return spent.cost, spent.impact


def _by_impact(spent: Spending) -> tuple[Decimal, Decimal]:
    return spent.impact, spent.cost


def _less(one: Decimal, other: Decimal) -> bool:
    return other - one > _SAME * max(abs(one), abs(other))


def _hull(corners: Iterable[Spending]) -> list[Spending]:
    """Return the corners of the lower left hull, the cheapest first."""
    hull: list[Spending] = []
    for spent in sorted(corners, key=_by_cost):
        if hull and not _less(spent.impact, hull[-1].impact):
            continue  # dearer, and no safer
        if hull and not _less(hull[-1].cost, spent.cost):
            hull.pop()  # as cheap, and safer
        while len(hull) > 1 and not _less(_weight(hull[-2], hull[-1]), _weight(hull[-1], spent)):
            hull.pop()
        hull.append(spent)
    return hull


def _weight(low: Spending, high: Spending) -> Decimal:
    return (high.cost - low.cost) / (low.impact - high.impact)


def _points(model: Model, hull: Sequence[Spending]) -> Iterable[CurvePoint]:
    changes = [Decimal(0), *(_weight(*pair) for pair in pairwise(hull)), None]
    for spent, (start, end) in zip(hull, pairwise(changes), strict=True):
        assert start is not None
        yield CurvePoint(start, end, rounded(model, spent.cost), rounded(model, spent.impact))
