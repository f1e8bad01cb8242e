"""How well run times were told: the error of expectations, in figures that say what a planner may count on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

SHORTEST_S: Final = 1.0
"""Times below count as this: that a job of 10 ms was told as 100 ms matters to nobody."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was expected of a job, and what was."""

    expected_s: float
    ran_s: float

    @property
    def ratio(self) -> float:
        """Return expected to real; above 1 was too long."""
        return max(self.expected_s, SHORTEST_S) / max(self.ran_s, SHORTEST_S)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The errors of many."""

    jobs: int
    mean_ratio: float
    """Of expected to real; few jobs that end at once make it large."""
    median_ratio: float
    within_factor_2: float
    """The part of jobs that ran between half and twice as long as expected."""
    closeness: float
    """The mean of the smaller of expected and real to the larger: 1 is exact (Tsafrir et al. 2007)."""
    mean_error_s: float
    """Of the absolute differences."""
    p90_error_s: float
    """A tenth of the jobs was further off."""


def accuracy(told: Sequence[Told]) -> Accuracy | None:
    """Return the errors; None of nothing."""
    if not told:
        return None
    ratios = [one.ratio for one in told]
    errors = sorted(abs(one.expected_s - one.ran_s) for one in told)
    return Accuracy(
        jobs=len(told),
        mean_ratio=fmean(ratios),
        median_ratio=median(ratios),
        within_factor_2=sum(0.5 <= ratio <= 2 for ratio in ratios) / len(told),
        closeness=fmean(min(ratio, 1 / ratio) for ratio in ratios),
        mean_error_s=fmean(errors),
        p90_error_s=errors[min(len(errors) - 1, int(0.9 * len(errors)))],
    )
