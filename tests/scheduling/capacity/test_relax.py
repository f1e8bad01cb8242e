"""What would have to give: cases worked out by hand, each change by name."""

from __future__ import annotations

from decimal import Decimal

import pytest

from dujiang.scheduling.capacity import Demand, Kind, Limit, Measure, Model, Term, Way, relax, relaxed
from tests.scheduling.capacity.small import a_flavor, a_model, a_service, budget, violations

A, B = a_flavor("a", 10, 0, 3), a_flavor("b", 4, 0, 2)

CASES: dict[str, tuple[Model, dict[Kind, list[str]]]] = {
    "two short": (
        a_model([A], [a_service(need=5)]),
        {
            Kind.CAPACITY: ["2 more devices of flavor a"],
            Kind.DEMAND: ["2 less of demand web (3 instead of 5)"],
        },
    ),
    "a part of a device is a device, a part of a demand is not": (
        a_model([A], [a_service(need="3.25")]),
        {
            Kind.CAPACITY: ["1 more device of flavor a"],
            Kind.DEMAND: ["0.25 less of demand web (3 instead of 3.25)"],
        },
    ),
    "fewest devices, and those that cost least": (
        a_model([A, B], [a_service(need=12, a=2, b=1)]),
        {
            Kind.CAPACITY: ["2 more devices of flavor a"],
            Kind.CAPACITY_BY_COST: ["4 more devices of flavor b"],
            Kind.DEMAND: ["4 less of demand web (8 instead of 12)"],
        },
    ),
    "of equal changes the one with the cheaper plan": (
        a_model([A, B], [a_service(need=6, a=1, b=1)]),
        {
            Kind.CAPACITY: ["1 more device of flavor b"],
            Kind.DEMAND: ["1 less of demand web (5 instead of 6)"],
        },
    ),
    "a budget that no device helps": (
        a_model([A], [a_service(need=3)], budget(25)),
        {
            Kind.DEMAND: ["0.5 less of demand web (2.5 instead of 3)"],
            Kind.LIMIT: ["limit budget at 30 instead of 25"],
        },
    ),
    "a budget that cheaper devices would help": (
        a_model([A, B], [a_service(need=5, a=1, b=1)], budget(32)),
        {
            Kind.CAPACITY: ["1 more device of flavor b"],
            Kind.DEMAND: ["0.6 less of demand web (4.4 instead of 5)"],
            Kind.LIMIT: ["limit budget at 38 instead of 32"],
        },
    ),
    "a least that nothing reaches": (
        a_model([A], [a_service(need=1)], Limit("much", Measure.DEVICES, at_least=Decimal(5))),
        {Kind.CAPACITY: ["2 more devices of flavor a"], Kind.LIMIT: ["limit much at 3 instead of 5"]},
    ),
    "a least of devices, more than there are": (
        a_model([A], [a_service(need=1, least=4)]), {Kind.CAPACITY: ["1 more device of flavor a"]}
    ),
    "a most of devices: only the demand can give": (
        a_model([A], [a_service(need=3, most=2)]), {Kind.DEMAND: ["1 less of demand web (2 instead of 3)"]}
    ),
    "whole devices serve what whole devices can": (
        a_model([A], [Demand("web", Decimal(7), (Way("a", Decimal(2)),), whole=True)]),
        {
            Kind.CAPACITY: ["1 more device of flavor a"],
            Kind.DEMAND: ["1 less of demand web (6 instead of 7)"],
        },
    ),
    "several demands": (
        a_model([A, B], [a_service("x", 5, a=1), a_service("y", 4, b=1)]),
        {
            Kind.CAPACITY: ["2 more devices of flavor a", "2 more devices of flavor b"],
            Kind.DEMAND: ["2 less of demand x (3 instead of 5)", "2 less of demand y (2 instead of 4)"],
            Kind.DEMAND_EVENLY: ["2 less of demand y (2 instead of 4)", "2.5 less of demand x (2.5 instead of 5)"],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_smallest_change_of_each_kind(case: str) -> None:
    model, expected = CASES[case]
    found = relax(model)
    told = {each.kind: sorted(change.sentence() for change in each.changes) for each in found}
    assert told == expected
    for each in found:
        assert not violations(relaxed(model, each.changes), each.plan)


def test_the_same_part_of_every_demand() -> None:
    model = a_model([a_flavor(capacity=50)], [a_service("one", 10, a="0.2"), a_service("two", 15, a="0.2")])
    found = {each.kind: each for each in relax(model)}
    assert found[Kind.CAPACITY].sentence() == "75 more devices of flavor a"
    assert found[Kind.DEMAND].amount == 15
    evenly = found[Kind.DEMAND_EVENLY]
    assert evenly.sentence() == "every demand at 40 % of its need"
    assert [(change.name, change.after) for change in evenly.changes] == [("one", 4), ("two", 6)]


def test_where_no_kind_is_enough_alone_they_give_together() -> None:
    """The limit must go up by 3, whatever else; then 9 devices are wanted and 3 are there, or 4 are not wanted."""
    model = a_model(
        [A], [a_service("one", need=4), a_service("two", need=0, least=5)],
        Limit("few", (Term(Decimal(1), "two"),), at_most=Decimal(2)),
    )  # fmt: skip
    (found,) = relax(model)
    assert (found.kind, found.amount) == (Kind.TOGETHER, 9)
    assert "limit few at 5 instead of 2" in [change.sentence() for change in found.changes]
    assert not violations(relaxed(model, found.changes), found.plan)


def test_what_is_possible_needs_no_change() -> None:
    assert relax(a_model([A], [a_service(need=3)])) == ()
