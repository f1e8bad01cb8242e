"""A plan as one value of JSON: money as text with its decimals, quantities as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from dujiang.scheduling.capacity.curve import Curve
from dujiang.scheduling.capacity.model import Model
from dujiang.scheduling.capacity.plan import CapacityPlan
from dujiang.scheduling.capacity.relax import Relaxation, plain


def told(model: Model, plan: CapacityPlan, curve: Curve | None = None) -> dict[str, Any]:
    """Return a plan, and the curve where there is one."""
    of = {supply.name: supply for supply in model.supplies}
    return {
        **_about(model),
        "feasible": True,
        **_sums(plan),
        "whole_devices": plan.whole,
        "objective_if_divisible": str(plan.relaxed_objective),
        "unproven_part": plan.gap,
        "shares": _shares(plan),
        "capacities": [
            {
                "flavor": value.flavor, "vendor": of[value.flavor].vendor, "model": of[value.flavor].model,
                "capacity": _number(value.capacity), "used": _number(value.used), "binds": value.binds,
                "shadow_price": plain(value.shadow_price),
                "one_more_saves": None if value.one_more is None else plain(value.one_more),
            }
            for value in plan.capacities
        ],
        "shadow_prices_of": "the relaxation without whole devices" if plan.whole else "the plan",
        "binding": [
            {"kind": b.kind.value, "name": b.name, "bound": _number(b.bound), "price": plain(b.price)}
            for b in plan.binding
        ],
        "curve": None if curve is None else [
            {
                "from_lambda": plain(point.from_weight),
                "to_lambda": None if point.to_weight is None else plain(point.to_weight),
                "cost": str(point.cost), "failure_impact": str(point.impact),
            }
            for point in curve.points
        ],
        "curve_is_complete": None if curve is None else curve.is_complete,
    }  # fmt: skip


def told_impossible(model: Model, relaxations: Sequence[Relaxation]) -> dict[str, Any]:
    """Return the smallest changes that would make a plan possible."""
    return {
        **_about(model),
        "feasible": False,
        "relaxations": [
            {
                "kind": each.kind.value,
                "amount": _number(each.amount),
                "words": each.sentence(),
                "proven": each.is_proven,
                "changes": [
                    {
                        "kind": change.condition.value, "name": change.name, "by": _number(change.by),
                        "before": _number(change.before), "after": _number(change.after), "words": change.sentence(),
                    }
                    for change in each.changes
                ],
                **_sums(each.plan),
                "shares": _shares(each.plan),
            }
            for each in relaxations
        ],
    }  # fmt: skip


def _about(model: Model) -> dict[str, Any]:
    return {"currency": model.currency, "period": model.period, "lambda": plain(model.weight)}


def _sums(plan: CapacityPlan) -> dict[str, Any]:
    return {"cost": str(plan.cost), "failure_impact": str(plan.impact), "objective": str(plan.objective)}


def _shares(plan: CapacityPlan) -> list[dict[str, Any]]:
    return [
        {
            "service": share.service, "flavor": share.flavor, "devices": _number(share.devices),
            "serves": _number(share.served), "cost": str(share.cost), "failure_impact": str(share.impact),
        }
        for share in plan.shares
    ]  # fmt: skip


def _number(value: Decimal | None) -> int | float | None:
    if value is None:
        return None
    return int(value) if value == value.to_integral_value() else float(value)
