"""How much of each flavor each service gets, as a linear programme: least cost plus weighted failure impact. Pure.

`optimise` makes the plan and prices each capacity, `trade_off` draws the curve over lambda, `relax` says what the least
is that makes demands possible which are not. `reading` takes the input as people write it. What runs now, and where, is
not decided here: these are plans of what to buy, reserve or share out.
"""

from dujiang.scheduling.capacity.curve import Curve, CurvePoint, at_lambdas, trade_off
from dujiang.scheduling.capacity.model import (
    Demand,
    Impossible,
    Limit,
    Measure,
    Model,
    NotSolved,
    Supply,
    Term,
    Unbounded,
    Way,
)
from dujiang.scheduling.capacity.plan import Bind, CapacityPlan, CapacityValue, Share, optimise
from dujiang.scheduling.capacity.reading import Known, read_model
from dujiang.scheduling.capacity.relax import Change, Kind, Relaxation, relax, relaxed

__all__ = [
    "Bind",
    "CapacityPlan",
    "CapacityValue",
    "Change",
    "Curve",
    "CurvePoint",
    "Demand",
    "Impossible",
    "Kind",
    "Known",
    "Limit",
    "Measure",
    "Model",
    "NotSolved",
    "Relaxation",
    "Share",
    "Supply",
    "Term",
    "Unbounded",
    "Way",
    "at_lambdas",
    "optimise",
    "read_model",
    "relax",
    "relaxed",
    "trade_off",
]
