"""What holds of every plan, tried on questions by chance and against trying everything."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from itertools import product

import pytest
from hypothesis import assume, event, given, settings

from dujiang.scheduling.capacity import (
    CapacityPlan,
    Impossible,
    Kind,
    Model,
    at_lambdas,
    optimise,
    relax,
    relaxed,
    trade_off,
)
from tests.scheduling.capacity.small import every_plan, models, spent, violations

NEAR = Decimal("0.0001")
STEP = Decimal("0.125")


def plan_or_none(model: Model) -> CapacityPlan | None:
    try:
        return optimise(model)
    except Impossible:
        return None


def least(model: Model) -> Decimal | None:
    plan = plan_or_none(model)
    return None if plan is None else plan.exact.objective(model.weight)


def possible(model: Model) -> CapacityPlan:
    plan = plan_or_none(model)
    event("possible" if plan else "impossible")
    assume(plan is not None)
    assert plan is not None
    return plan


def with_capacity(model: Model, index: int, more: Decimal) -> Model:
    supplies = list(model.supplies)
    capacity = supplies[index].capacity
    assert capacity is not None
    supplies[index] = replace(supplies[index], capacity=capacity + more)
    return replace(model, supplies=tuple(supplies))


@given(models())
def test_a_plan_meets_every_condition(model: Model) -> None:
    plan = possible(model)
    assert not violations(model, plan)
    cost = sum((model.by_name[share.flavor].cost * share.devices for share in plan.shares), Decimal(0))
    impact = sum((model.by_name[share.flavor].impact * share.devices for share in plan.shares), Decimal(0))
    assert (plan.exact.cost, plan.exact.impact) == (cost, impact)
    assert abs(plan.objective - (cost + model.weight * impact)) <= Decimal("0.005")
    assert plan.relaxed_objective <= plan.objective


@given(models(whole=False))
def test_the_prices_of_the_conditions_add_up_to_the_objective(model: Model) -> None:
    """Strong duality: what is met with nothing to spare, at its price, is worth exactly what the plan costs."""
    plan = possible(model)
    worth = sum((bind.price * bind.bound for bind in plan.binding), Decimal(0))
    assert abs(worth - plan.exact.objective(model.weight)) <= NEAR


@given(models())
def test_more_demand_never_costs_less(model: Model) -> None:
    plan = possible(model)
    for index, demand in enumerate(model.demands):
        demands = list(model.demands)
        demands[index] = replace(demand, need=demand.need + 1)
        more = least(replace(model, demands=tuple(demands)))
        assert more is None or more >= plan.exact.objective(model.weight) - NEAR


@given(models(whole=False, least_flavors=2, capacity=8, need=9, with_limits=False))
def test_a_shadow_price_lies_between_what_a_step_up_saves_and_a_step_down_costs(model: Model) -> None:
    """Where both are the same the corner is not degenerate, and the price is exactly that difference."""
    plan = possible(model)
    now = plan.exact.objective(model.weight)
    for index, value in enumerate(plan.capacities):
        above = least(with_capacity(model, index, STEP))
        assert above is not None
        saved = (now - above) / STEP
        assert saved <= value.shadow_price + NEAR
        if value.capacity is None or value.capacity < STEP:
            continue
        below = least(with_capacity(model, index, -STEP))
        if below is None:
            continue
        lost = (below - now) / STEP
        assert value.shadow_price <= lost + NEAR
        if abs(saved - lost) <= NEAR / 10:
            event("not degenerate" if saved else "worth nothing")
            assert abs(value.shadow_price - saved) <= NEAR


@given(models())
def test_one_more_is_worth_what_solving_again_says(model: Model) -> None:
    plan = possible(model)
    for index, value in enumerate(plan.capacities):
        more = least(with_capacity(model, index, Decimal(1)))
        assert more is not None
        assert value.one_more is not None
        assert abs(value.one_more - (plan.exact.objective(model.weight) - more)) <= NEAR


@settings(max_examples=60)
@given(models(whole=True, flavors=2, services=2, capacity=4, need=8))
def test_whole_devices_cost_what_trying_everything_finds(model: Model) -> None:
    costs = [cost + model.weight * impact for cost, impact in (spent(model, p) for p in every_plan(model, 4))]
    found = plan_or_none(model)
    event("possible" if costs else "impossible")
    assert (found is None) == (not costs)
    if found is not None:
        assert found.exact.objective(model.weight) == min(costs)


@settings(max_examples=60)
@given(models(whole=True, least_flavors=2, flavors=2, services=2, capacity=6, need=6, with_limits=False))
def test_the_curve_is_the_best_of_everything_at_every_lambda(model: Model) -> None:
    every = [spent(model, plan) for plan in every_plan(model, 6)]
    assume(every)
    curve = trade_off(model)
    assert curve.is_complete
    assert curve.points[0].from_weight == 0
    assert curve.points[-1].to_weight is None
    event(f"{len(curve.points)} points")
    for before, after in zip(curve.points, curve.points[1:], strict=False):
        assert before.to_weight == after.from_weight
        assert before.cost < after.cost
        assert before.impact > after.impact
    for point in curve.points:
        end = point.from_weight + 7 if point.to_weight is None else point.to_weight
        for weight in (point.from_weight, (point.from_weight + end) / 2, end):
            best = min(cost + weight * impact for cost, impact in every)
            # The point's own amounts are rounded to coins.
            assert abs(point.cost + weight * point.impact - best) <= Decimal("0.005") * (1 + weight) + NEAR


@given(models(whole=False, least_flavors=2, capacity=30, need=9, with_limits=False))
def test_the_curve_agrees_with_plans_made_at_its_lambdas(model: Model) -> None:
    assume(plan_or_none(model) is not None)
    curve = trade_off(model)
    event(f"{len(curve.points)} points")
    weights = [p.from_weight if p.to_weight is None else (p.from_weight + p.to_weight) / 2 for p in curve.points]
    single = at_lambdas(model, weights)
    for point, alone in zip(curve.points, single.points, strict=True):
        weight = alone.from_weight
        difference = (point.cost + weight * point.impact) - (alone.cost + weight * alone.impact)
        assert abs(difference) <= Decimal("0.02") * (1 + weight)


@given(models(need=60))
def test_what_would_have_to_give_is_enough(model: Model) -> None:
    assume(plan_or_none(model) is None)
    found = relax(model)
    assert found, "dropping demands and widening everything is always enough"
    for each in found:
        event(each.kind.value)
        assert each.changes
        assert all(change.by > 0 for change in each.changes)
        again = relaxed(model, each.changes)
        assert not violations(again, optimise(again))
        assert not violations(again, each.plan)


def needed(model: Model, most: int) -> int | None:
    """The least number of further devices, by trying."""
    names = [supply.name for supply in model.supplies]
    for total in range(most + 1):
        for extra in product(range(total + 1), repeat=len(names)):
            if sum(extra) == total and any(
                True for _ in every_plan(model, 6, extra=dict(zip(names, extra, strict=True)))
            ):
                return total
    return None


@settings(max_examples=40)
@given(models(whole=True, flavors=2, services=2, capacity=3, need=6, with_limits=False))
def test_nothing_smaller_would_have_been_enough(model: Model) -> None:
    assume(next(every_plan(model, 6), None) is None)
    found = {each.kind: each for each in relax(model)}
    fewest = needed(model, 6)
    if fewest is not None:
        event("devices")
        assert found[Kind.CAPACITY].amount == fewest
    short = min(
        sum(max(Decimal(0), d.need - sum(plan[d.name, w.flavor] * w.rate for w in d.ways)) for d in model.demands)
        for plan in every_plan(model, 6, needs=False)
    )
    event("demand")
    if Kind.DEMAND_EVENLY in found:
        part = min(
            max(1 - sum(plan[d.name, w.flavor] * w.rate for w in d.ways) / d.need for d in model.demands if d.need)
            for plan in every_plan(model, 6, needs=False)
        )
        event("evenly")
        assert abs(found[Kind.DEMAND_EVENLY].amount - part) <= Decimal("0.00001")
    assert abs(found[Kind.DEMAND].amount - short) <= Decimal("0.00001")


@pytest.mark.parametrize("whole", [False, True])
def test_questions_by_chance_are_possible_and_impossible_often_enough(whole: bool) -> None:
    seen = {True: 0, False: 0}

    @settings(max_examples=100, database=None, derandomize=True)
    @given(models(whole=whole))
    def count(model: Model) -> None:
        seen[plan_or_none(model) is not None] += 1

    count()
    assert min(seen.values()) >= 15, seen
