"""What a question about capacity consists of: flavors, services, limits, and how much failure weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from dujiang.kit.errors import Conflict, DujiangError, Invalid


class Impossible(Conflict):
    """No plan meets all demands within the capacities and limits; `relax` says what would have to give."""

    code, title = "plan_impossible", "No plan meets these demands"


class Unbounded(Invalid):
    """Some device earns money and there is no end of it, so that there is no cheapest plan."""

    code, title = "plan_unbounded", "The plan has no end"


class NotSolved(DujiangError):
    """The solver stopped without an answer: out of time, or at the end of its precision."""

    code, title = "plan_not_solved", "The plan could not be solved"


class Measure(StrEnum):
    """What a limit can add up over the whole plan without naming anything."""

    COST = "cost"
    FAILURE_IMPACT = "failure_impact"
    DEVICES = "devices"


@dataclass(frozen=True, slots=True)
class Supply:
    """A flavor: devices that are alike, what one costs, and what its failures are expected to cost."""

    name: str
    cost: Decimal
    """c_i: of one device in use, for the period of the plan."""
    impact: Decimal = Decimal(0)
    """s_i: expected loss by failures of one device in use, for the same period; may be failure rate x loss."""
    capacity: Decimal | None = None
    """Devices; None when there is no end of them."""
    vendor: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """One flavor that can serve a service."""

    flavor: str
    rate: Decimal = Decimal(1)
    """Units of the service's need that one device serves; above zero."""
    least: Decimal = Decimal(0)
    most: Decimal | None = None
    """Bounds on the devices of this flavor for this service."""


@dataclass(frozen=True, slots=True)
class Demand:
    """A service: how much it needs, and of what it can be served."""

    name: str
    need: Decimal
    ways: tuple[Way, ...]
    whole: bool = False
    """Only whole devices."""
    min_devices: Decimal = Decimal(0)
    max_devices: Decimal | None = None
    """Bounds on the devices of all flavors together."""


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a limit: each device of a flavor, or for a service, or both, counts so much."""

    factor: Decimal
    service: str | None = None
    flavor: str | None = None


Summed: TypeAlias = Measure | tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Limit:
    """A further linear condition on the plan, such as a budget."""

    name: str
    of: Summed
    at_most: Decimal | None = None
    at_least: Decimal | None = None

    def factor(self, service: str, supply: Supply) -> Decimal:
        """Return what one device of a flavor for a service counts."""
        if isinstance(self.of, Measure):
            return {
                Measure.COST: supply.cost, Measure.FAILURE_IMPACT: supply.impact, Measure.DEVICES: Decimal(1)
            }[self.of]  # fmt: skip
        return sum(
            (t.factor for t in self.of if t.service in {None, service} and t.flavor in {None, supply.name}),
            Decimal(0),
        )


@dataclass(frozen=True, slots=True)
class Model:
    """The whole question: minimise sum(cost x devices) + lambda x sum(impact x devices)."""

    currency: str
    supplies: tuple[Supply, ...]
    demands: tuple[Demand, ...]
    limits: tuple[Limit, ...] = ()
    weight: Decimal = Decimal(1)
    """Lambda."""
    weights: tuple[Decimal, ...] = ()
    """Lambdas to draw the curve at; none: wherever the plan changes."""
    period: str = ""
    """For people: the time that costs are for, such as `hour`."""

    @property
    def by_name(self) -> Mapping[str, Supply]:
        """The flavors by name."""
        return {supply.name: supply for supply in self.supplies}

    @property
    def is_whole(self) -> bool:
        """Whether any service takes only whole devices."""
        return any(demand.whole for demand in self.demands)
