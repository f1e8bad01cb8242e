"""Cost against failure impact: curves worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from dujiang.scheduling.capacity import Impossible, at_lambdas, trade_off
from tests.scheduling.capacity.small import a_flavor, a_model, a_service

THREE = a_model(
    [a_flavor("a", 1, 9, 10), a_flavor("b", 3, 4, 4), a_flavor("c", 8, 1, 2)], [a_service(need=10, a=1, b=1, c=1)]
)


def test_every_lambda_at_which_the_plan_changes_is_found() -> None:
    """From a to b costs 2 and avoids 5: at 0.4. From a to c 7 and 8: at 0.875; there are four of b and two of c."""
    curve = trade_off(THREE)
    assert curve.is_complete
    assert [(p.from_weight, p.to_weight, p.cost, p.impact) for p in curve.points] == [
        (0, Decimal("0.4"), 10, 90),
        (Decimal("0.4"), Decimal("0.875"), 18, 70),
        (Decimal("0.875"), None, 32, 54),
    ]


def test_a_curve_without_failures_is_one_point() -> None:
    curve = trade_off(a_model([a_flavor(), a_flavor("b", 12)], [a_service(a=1, b=1)]))
    assert [(p.from_weight, p.to_weight, p.cost, p.impact) for p in curve.points] == [(0, None, 50, 0)]


def test_of_plans_that_cost_the_same_the_safer_is_on_the_curve() -> None:
    same = a_model([a_flavor("a", 2, 5), a_flavor("b", 2, 3), a_flavor("c", 2, 4)], [a_service(need=4, a=1, b=1, c=1)])
    assert [(p.cost, p.impact) for p in trade_off(same).points] == [(8, 12)]


def test_whole_devices_have_only_the_plans_that_are_best_for_some_lambda() -> None:
    """3.5 of need: four a, or two a and one b, or two b; the middle one lies on the line between the others."""
    model = a_model([a_flavor("a", 1, 4, 9), a_flavor("b", 3, 1, 9)], [a_service(need="3.5", whole=True, a=1, b=2)])
    curve = trade_off(model)
    assert [(p.cost, p.impact) for p in curve.points] == [(4, 16), (6, 2)]
    assert curve.points[1].from_weight == Decimal(1) / 7


def test_a_bound_on_the_points_is_kept_and_said() -> None:
    curve = trade_off(THREE, most_points=2)
    assert (len(curve.points), curve.is_complete) == (2, False)
    assert [(p.cost, p.impact) for p in curve.points] == [(10, 90), (32, 54)]


def test_a_bound_on_the_time_is_kept_and_said() -> None:
    curve = trade_off(THREE, time_limit_s=1e-9)
    assert (len(curve.points), curve.is_complete) == (2, False)


def test_lambdas_of_ones_own() -> None:
    curve = at_lambdas(THREE, [Decimal(9), Decimal(0), Decimal("0.5"), Decimal(0)])
    assert [(p.from_weight, p.cost, p.impact) for p in curve.points] == [
        (0, 10, 90), (Decimal("0.5"), 18, 70), (9, 32, 54)
    ]  # fmt: skip


def test_the_curve_of_what_is_impossible() -> None:
    with pytest.raises(Impossible):
        trade_off(replace(THREE, supplies=(a_flavor("a", 1, 9, 1), *THREE.supplies[1:])))
