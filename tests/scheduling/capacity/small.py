"""Small questions of capacity, and their answers by trying everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product

from hypothesis import strategies as st

from dujiang.scheduling.capacity import CapacityPlan, Demand, Limit, Measure, Model, Supply, Term, Way

Number = int | str | Decimal


def number(value: Number | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def a_flavor(name: str = "a", cost: Number = 10, impact: Number = 0, capacity: Number | None = 50) -> Supply:
    return Supply(name, Decimal(cost), Decimal(impact), number(capacity))


def a_service(
    name: str = "web", need: Number = 5, *, whole: bool = False, least: Number = 0, most: Number | None = None,
    **rates: Number,
) -> Demand:  # fmt: skip
    """A service; rates by flavor, else flavor a at rate 1."""
    ways = tuple(Way(flavor, Decimal(rate)) for flavor, rate in (rates or {"a": 1}).items())
    return Demand(name, Decimal(need), ways, whole, Decimal(least), number(most))


def a_model(
    supplies: Sequence[Supply], demands: Sequence[Demand], *limits: Limit, weight: Number = 1, currency: str = "EUR"
) -> Model:
    return Model(currency, tuple(supplies), tuple(demands), limits, Decimal(weight))


def budget(at_most: Number) -> Limit:
    return Limit("budget", Measure.COST, at_most=Decimal(at_most))


def violations(model: Model, plan: CapacityPlan, room: Decimal = Decimal("0.000001")) -> list[str]:
    """Say which condition of the model a plan breaks."""
    supplies = model.by_name
    at = {(share.service, share.flavor): share.devices for share in plan.shares}
    broken = [f"{key} is not positive" for key, devices in at.items() if devices <= 0]
    allowed = {(demand.name, way.flavor) for demand in model.demands for way in demand.ways}
    broken += [f"{key} cannot be" for key in at if key not in allowed]
    for demand in model.demands:
        mine = {way: at.get((demand.name, way.flavor), Decimal(0)) for way in demand.ways}
        if sum(devices * way.rate for way, devices in mine.items()) < demand.need - room:
            broken.append(f"demand {demand.name}")
        total = sum(mine.values())
        if total < demand.min_devices - room or (demand.max_devices is not None and total > demand.max_devices + room):
            broken.append(f"devices of {demand.name}")
        for way, devices in mine.items():
            if devices < way.least - room or (way.most is not None and devices > way.most + room):
                broken.append(f"{demand.name} on {way.flavor}")
            if demand.whole and devices != devices.to_integral_value():
                broken.append(f"{demand.name} on {way.flavor} is not whole")
    for supply in model.supplies:
        used = sum(devices for (_, flavor), devices in at.items() if flavor == supply.name)
        if supply.capacity is not None and used > supply.capacity + room:
            broken.append(f"capacity {supply.name}")
    for limit in model.limits:
        total = sum(devices * limit.factor(service, supplies[flavor]) for (service, flavor), devices in at.items())
        if limit.at_most is not None and total > limit.at_most + room:
            broken.append(f"limit {limit.name}")
        if limit.at_least is not None and total < limit.at_least - room:
            broken.append(f"limit {limit.name}")
    return broken


def every_plan(
    model: Model, most: int, *, needs: bool = True, extra: dict[str, int] | None = None
) -> Iterator[dict[tuple[str, str], int]]:
    """Every plan of whole devices, at most `most` of each way, that keeps capacities and limits (and needs)."""
    supplies, extra = model.by_name, extra or {}
    ways = [(demand, way) for demand in model.demands for way in demand.ways]
    for counts in product(range(most + 1), repeat=len(ways)):
        used = {supply.name: 0 for supply in model.supplies}
        served = {demand.name: Decimal(0) for demand in model.demands}
        for (demand, way), n in zip(ways, counts, strict=True):
            used[way.flavor] += n
            served[demand.name] += n * way.rate
        if any(s.capacity is not None and used[s.name] > s.capacity + extra.get(s.name, 0) for s in model.supplies):
            continue
        if needs and any(served[demand.name] < demand.need for demand in model.demands):
            continue
        sums = [
            (limit, sum(n * limit.factor(d.name, supplies[w.flavor]) for (d, w), n in zip(ways, counts, strict=True)))
            for limit in model.limits
        ]
        if all((x.at_most is None or total <= x.at_most) and (x.at_least is None or total >= x.at_least)
               for x, total in sums):  # fmt: skip
            yield {(d.name, w.flavor): n for (d, w), n in zip(ways, counts, strict=True)}


def spent(model: Model, plan: dict[tuple[str, str], int]) -> tuple[Decimal, Decimal]:
    """Cost and failure impact."""
    supplies = model.by_name
    return (
        sum((supplies[flavor].cost * n for (_, flavor), n in plan.items()), Decimal(0)),
        sum((supplies[flavor].impact * n for (_, flavor), n in plan.items()), Decimal(0)),
    )


# Strategies

quarters = st.integers(1, 12).map(lambda n: Decimal(n) / 4)
names = "abc"


@st.composite
def models(
    draw: st.DrawFn, *, whole: bool | None = None, least_flavors: int = 1, flavors: int = 3, services: int = 3,
    capacity: int = 12, need: int = 20, with_limits: bool = True,
) -> Model:  # fmt: skip
    """Questions, possible or not. Figures are quarters, so that ties and corners are common."""
    amount = st.integers(0, 40).map(lambda n: Decimal(n) / 4)
    costs = [draw(amount) + Decimal("0.25") for _ in range(draw(st.integers(least_flavors, flavors)))]
    is_opposed = draw(st.booleans())  # the dearer the safer: then the plan changes with lambda
    supplies = tuple(
        Supply(
            name,
            cost,
            11 - cost if is_opposed else draw(amount),
            Decimal(draw(st.one_of(st.integers(0, capacity), st.integers(capacity // 2, capacity)))),
        )
        for name, cost in zip(names, costs, strict=False)
    )
    demands = []
    for index in range(draw(st.integers(1, services))):
        every = [supply.name for supply in supplies]
        able = draw(st.one_of(st.just(every), st.lists(st.sampled_from(every), min_size=1, unique=True)))
        ways = tuple(Way(name, draw(quarters)) for name in sorted(able))
        is_whole = draw(st.booleans()) if whole is None else whole
        demands.append(
            Demand(
                f"s{index}",
                Decimal(draw(st.one_of(st.integers(0, need), st.integers(need // 2, need)))),
                ways,
                is_whole,
            )
        )
    limits = []
    if with_limits and draw(st.booleans()):
        limits.append(Limit("budget", draw(st.sampled_from(Measure)), at_most=Decimal(draw(st.integers(0, 120)))))
    if with_limits and draw(st.booleans()):
        term = Term(Decimal(draw(st.integers(1, 4))), flavor=supplies[0].name)
        limits.append(Limit("use", (term,), at_least=Decimal(draw(st.integers(0, 8)))))
    weight = Decimal(draw(st.integers(0, 12))) / 4
    return Model("EUR", supplies, tuple(demands), tuple(limits), weight)
