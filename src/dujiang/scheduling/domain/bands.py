"""Task classes and their weights: under scarcity, core work is served before normal work before experiments.

The bands do not touch, so a weight alone says the class and orders the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dujiang.kit.errors import Invalid


class TaskClass(StrEnum):
    """What kind of work a job is."""

    CORE = "core"
    """Training of large models, production."""
    NORMAL = "normal"
    LOW = "low"
    """Experiments."""


@dataclass(frozen=True, slots=True)
class Band:
    """The weights that a task class may have, both ends included."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Return the weight of a job that names none."""
        return round((self.low + self.high) / 2, 3)


BANDS: Final[Mapping[TaskClass, Band]] = {
    TaskClass.CORE: Band(0.8, 1.0),
    TaskClass.NORMAL: Band(0.4, 0.6),
    TaskClass.LOW: Band(0.1, 0.3),
}


class WeightOutsideBand(Invalid):
    """A weight that does not belong to the class of the job."""

    code, title = "weight_outside_band", "The weight is outside the band of its class"


def weight_of(task_class: TaskClass, weight: float | None) -> float:
    """Return the weight of a job: the one asked for, or the middle of its band.

    Raises:
        WeightOutsideBand: the class does not have that weight.
    """
    band = BANDS[task_class]
    if weight is None:
        return band.middle
    if not band.low <= weight <= band.high:  # also refuses NaN
        owner = next((name for name, other in BANDS.items() if other.low <= weight <= other.high), None)
        hint = f" {weight:g} is a weight of class {owner}." if owner else ""
        raise WeightOutsideBand(
            f"Class {task_class} has weights from {band.low:g} to {band.high:g}, not {weight:g}.{hint}",
            task_class=str(task_class), low=band.low, high=band.high,
        )  # fmt: skip
    return float(weight)
