"""How a site wants its queue to behave: values that a plan is made by."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.scheduling.domain.renting import BurstPolicy
from dujiang.scheduling.domain.turns import Turns


@dataclass(frozen=True, slots=True)
class Rules:
    """What a plan may do beside starting jobs in their order."""

    reservations: int = 1
    """For how many waiting jobs a start is prepared: 0 none (first come that fits), 1 the first (EASY), more: towards
    the conservative kind, which delays nobody and fills fewer gaps."""
    preempts: bool = True
    """Whether work is stopped for work of a higher class, and for what a queue is guaranteed."""
    min_run_s: float = 300.0
    """Nothing is stopped that has run for less: no start is for nothing. Too little thrashes, too much makes core work
    wait."""
    most_lost_device_s: float | None = None
    """Device-seconds of work that stops may cost in one hour; None sets no limit."""
    lost_device_s: float = 0.0
    """What stops have cost in the last hour."""
    most_stops_for: int = 4
    """For how many waiting jobs one plan stops others."""
    grows: bool = True
    """Whether an elastic job that runs is given more ranks when nobody waits."""
    regrow_s: float = 900.0
    """An elastic job that runs for less is not resized."""
    keeps_deadlines: bool = True
    """Whether a place is kept for each waiting job whose deadline was promised, against work of every class."""
    burst: BurstPolicy | None = None
    """When waiting work goes to rented clusters that it did not name; None: never."""
    turns: Turns | None = None
    """How work of one class takes turns; None: who runs goes on, in the order of weights and submission."""


DEFAULT_RULES = Rules()
