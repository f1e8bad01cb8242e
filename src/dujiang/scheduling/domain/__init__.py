"""Scheduling's types and decisions: who may start what where now, and why everything else waits. Pure.

`plan(snapshot, now)` is the whole of it; the live loop, a what-if, a replay and the simulation call this same function.
"""

from dujiang.scheduling.domain.bands import BANDS, Band, TaskClass, WeightOutsideBand, weight_of
from dujiang.scheduling.domain.changes import apply_change
from dujiang.scheduling.domain.decide import Start
from dujiang.scheduling.domain.fleet import (
    ClusterRow,
    DeviceRow,
    Flavor,
    Fleet,
    NodeRow,
    fleet_of_pool,
    fleet_of_rows,
)
from dujiang.scheduling.domain.plan import CHANGES, Plan, explain, plan
from dujiang.scheduling.domain.possible import ImpossibleRequest, Largest, check_possible, largest_possible
from dujiang.scheduling.domain.reasons import ADVICE, FOR_GOOD, Change, Reason, Remedy, Shortage, Wait
from dujiang.scheduling.domain.request import (
    ANYWHERE,
    LEVELS,
    Ask,
    BadAsk,
    Constraints,
    Level,
    Request,
    Shape,
)
from dujiang.scheduling.domain.snapshot import (
    COUNTED,
    UNLIMITED,
    About,
    Dependent,
    Holding,
    Quota,
    Snapshot,
    Snapshots,
    Window,
    holdings_of_ledger,
    snapshot_of_rows,
)
from dujiang.scheduling.domain.stops import Stop, StopWhy

__all__ = [
    "ADVICE",
    "ANYWHERE",
    "BANDS",
    "CHANGES",
    "COUNTED",
    "FOR_GOOD",
    "LEVELS",
    "UNLIMITED",
    "About",
    "Ask",
    "BadAsk",
    "Band",
    "Change",
    "ClusterRow",
    "Constraints",
    "Dependent",
    "DeviceRow",
    "Flavor",
    "Fleet",
    "Holding",
    "ImpossibleRequest",
    "Largest",
    "Level",
    "NodeRow",
    "Plan",
    "Quota",
    "Reason",
    "Remedy",
    "Request",
    "Shape",
    "Shortage",
    "Snapshot",
    "Snapshots",
    "Start",
    "Stop",
    "StopWhy",
    "TaskClass",
    "Wait",
    "WeightOutsideBand",
    "Window",
    "apply_change",
    "check_possible",
    "explain",
    "fleet_of_pool",
    "fleet_of_rows",
    "holdings_of_ledger",
    "largest_possible",
    "plan",
    "snapshot_of_rows",
    "weight_of",
]
