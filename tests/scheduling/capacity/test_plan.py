"""The plan, what it costs and what its capacities are worth: cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from dujiang.scheduling.capacity import (
    CapacityPlan,
    Demand,
    Impossible,
    Limit,
    Measure,
    Model,
    Supply,
    Term,
    Unbounded,
    Way,
    optimise,
)
from dujiang.scheduling.capacity.form import Condition
from tests.scheduling.capacity.small import a_flavor, a_model, a_service, budget, violations


def devices(plan: CapacityPlan) -> dict[str, Decimal]:
    return {f"{share.service} {share.flavor}": share.devices for share in plan.shares}


CHEAP, FAST = a_flavor("a", 2, 1, 10), a_flavor("b", 5, 0, 4)

CASES = {
    "the textbook's, mended": (
        a_model([a_flavor()], [a_service("one"), a_service("two")]), {"one a": 5, "two a": 5}, "100.00", "100.00"
    ),
    "nothing is needed": (a_model([a_flavor()], [a_service(need=0)]), {}, "0.00", "0.00"),
    "the cheaper flavor first, the dearer for the rest": (
        a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], weight=0), {"web a": 10, "web b": 2}, "30.00", "30.00"
    ),
    "failures weigh more than money": (
        a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], weight=4), {"web a": 8, "web b": 4}, "36.00", "68.00"
    ),
    "a device does so much": (
        a_model([CHEAP, FAST], [a_service(need=12, a=1, b=4)], weight=0), {"web b": 3}, "15.00", "15.00"
    ),
    "devices can be divided": (
        a_model([a_flavor(cost="0.10")], [a_service(need=1, a=3)]), {"web a": Decimal(1) / 3}, "0.03", "0.03"
    ),
    "or not": (a_model([a_flavor(cost="0.10")], [a_service(need=7, a=3, whole=True)]), {"web a": 3}, "0.30", "0.30"),
    "money is rounded once": (
        a_model([a_flavor(cost="0.333")], [a_service("one", 2), a_service("two", 2)]),
        {"one a": 2, "two a": 2}, "1.33", "1.33",
    ),
    "in coins of its currency": (
        a_model([a_flavor(cost="0.333")], [a_service(need=2)], currency="JPY"), {"web a": 2}, "1", "1"
    ),
    "a budget": (
        a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], budget(30), weight=4),
        {"web a": 10, "web b": 2}, "30.00", "70.00",
    ),
    "least of a service": (a_model([a_flavor()], [a_service(need=5, least=7)]), {"web a": 7}, "70.00", "70.00"),
    "one service on one flavor is limited": (
        a_model([CHEAP, FAST], [a_service(need=8, a=1, b=1)],
                Limit("some", (Term(Decimal(1), "web", "a"),), at_most=Decimal(5)), weight=0),
        {"web a": 5, "web b": 3}, "25.00", "25.00",
    ),
    "a third of the devices must be of another flavor": (
        a_model([CHEAP, FAST], [a_service(need=9, a=1, b=1)],
                Limit("mix", (Term(Decimal(-1), flavor="a"), Term(Decimal(2), flavor="b")), at_least=Decimal(0)),
                weight=0),
        {"web a": 6, "web b": 3}, "27.00", "27.00",
    ),
    "no end of a flavor": (
        a_model([replace(CHEAP, capacity=None)], [a_service(need=5000)], weight=0),
        {"web a": 5000}, "10000.00", "10000.00",
    ),
    "money of a large site, and of a small one": (
        a_model([a_flavor("a", 999_999_999, 0, 10), a_flavor("b", "0.000001", 0, 1)], [a_service(need=3, a=1, b=1)]),
        {"web a": 2, "web b": 1}, "1999999998.00", "1999999998.00",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_one_worked_out_by_hand(case: str) -> None:
    model, shares, cost, objective = CASES[case]
    plan = optimise(model)
    assert devices(plan) == shares
    assert (str(plan.cost), str(plan.objective)) == (cost, objective)
    assert not violations(model, plan)
    assert plan.gap == 0


def test_a_least_and_a_most_of_one_way() -> None:
    ways = (Way("a", least=Decimal(2)), Way("b", most=Decimal(3)))
    plan = optimise(a_model([a_flavor("a", 9), a_flavor("b", 1)], [Demand("web", Decimal(8), ways)]))
    assert devices(plan) == {"web a": 5, "web b": 3}
    assert [(b.kind, b.name, b.bound, b.price) for b in plan.binding] == [
        (Condition.DEMAND, "web", 8, 9), (Condition.WAY, "web on b", 3, -8),
    ]  # fmt: skip


def test_what_a_capacity_is_worth() -> None:
    """12 of a at 2 and b at 5: a tenth device more of a moves one unit from b to a, and saves 3."""
    plan = optimise(a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], weight=0))
    a, b = plan.capacities
    assert (a.binds, a.shadow_price, a.one_more, a.used) == (True, 3, 3, 10)
    assert (b.binds, b.shadow_price, b.one_more, b.used) == (False, 0, 0, 2)
    assert [(x.kind, x.name, x.price) for x in plan.binding] == [
        (Condition.DEMAND, "web", 5), (Condition.CAPACITY, "a", -3)
    ]  # fmt: skip


def test_one_more_is_worth_less_than_the_margin_where_it_soon_is_enough() -> None:
    """Half a unit is served by b; one more of a takes only that half over."""
    plan = optimise(a_model([CHEAP, FAST], [a_service(need="10.5", a=1, b=1)], weight=0))
    assert (plan.capacities[0].shadow_price, plan.capacities[0].one_more) == (3, Decimal("1.5"))


def test_with_whole_devices_the_shadow_price_is_of_the_relaxation_and_one_more_is_exact() -> None:
    """Seven of need by a (3 each, two there, cost 2) and b (1 each, cost 5): one of b. A third a needs no b."""
    model = a_model([a_flavor("a", 2, 0, 2), a_flavor("b", 5, 0, 9)], [a_service(need=7, whole=True, a=3, b=1)])
    plan = optimise(model)
    assert devices(plan) == {"web a": 2, "web b": 1}
    value = plan.capacities[0]
    assert plan.whole
    assert value.shadow_price == 13, "a third of b's work costs 15, of a's 2"
    assert value.one_more == 3, "9 now, 6 with a third a"


def test_a_capacity_with_room_can_be_worth_something_with_whole_devices() -> None:
    """What takes six is not begun with five, which then stand idle; so they do not bind, and a sixth saves."""
    model = a_model(
        [a_flavor("a", 1, 0, 5), a_flavor("b", 10, 0, 9)],
        [Demand("web", Decimal(1), (Way("a", Decimal(1) / 6), Way("b")), whole=True)],
    )
    plan = optimise(model)
    assert devices(plan) == {"web b": 1}
    assert (plan.capacities[0].binds, plan.capacities[0].one_more) == (False, 4)


def test_only_so_many_are_solved_again_the_dearest_first() -> None:
    plan = optimise(a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], weight=0), most_resolved=0)
    assert [value.one_more for value in plan.capacities] == [None, 0]


def test_nothing_is_solved_again_when_the_time_is_spent() -> None:
    model = a_model([CHEAP, FAST], [a_service(need=12, a=1, b=1)], weight=0)
    assert [value.one_more for value in optimise(model, time_limit_s=0).capacities] == [None, 0]


def test_the_same_question_has_the_same_answer_whatever_the_order_of_its_parts() -> None:
    model = a_model([CHEAP, FAST], [a_service("x", 6, a=1, b=2), a_service("y", 3, whole=True, a=2, b=1)], budget(90))
    turned = replace(model, supplies=model.supplies[::-1], demands=model.demands[::-1])
    first, second, again = optimise(model), optimise(turned), optimise(model)
    assert first == again
    assert (first.cost, first.impact) == (second.cost, second.impact)


@pytest.mark.parametrize(
    "model",
    [
        a_model([a_flavor(capacity=4)], [a_service(need=5)]),
        a_model([a_flavor()], [a_service(need=5)], budget("49.99")),
        a_model([a_flavor()], [a_service(need=5, most=4)]),
        a_model([a_flavor()], [a_service(need=5)], Limit("much", Measure.DEVICES, at_least=Decimal(51))),
        a_model([a_flavor(capacity=2)], [a_service(need=5, whole=True, a="2.4")]),
        a_model([a_flavor()], [a_service(need=5)], Limit("no terms", (), at_least=Decimal(1))),
    ],
)
def test_what_is_impossible_is_said(model: Model) -> None:
    with pytest.raises(Impossible, match="No plan meets all demands"):
        optimise(model)


def test_what_has_no_end_is_said() -> None:
    """A file cannot say this (costs are not below zero); a caller can."""
    with pytest.raises(Unbounded, match="give each flavor a capacity"):
        optimise(a_model([Supply("a", Decimal(-1))], [a_service(need=5)]))
    earning = optimise(a_model([Supply("a", Decimal(-1), capacity=Decimal(8))], [a_service(need=5)]))
    assert (devices(earning), str(earning.cost)) == ({"web a": 8}, "-8.00")
