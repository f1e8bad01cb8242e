"""Metrics of jobs: what a point is, what a name may be, and how a long series is kept small.

A value may be NaN or infinite: that is news, not noise, and is kept as such. Reading points out of output, event files
and requests is for the readers; storing them for `service`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from statistics import median

LONGEST_NAME = 128
LARGEST_STEP = 2**62
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./@\- ]*")


class Special(StrEnum):
    """A value that is not a number one can draw."""

    NAN = "nan"
    INFINITE = "inf"
    MINUS_INFINITE = "-inf"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    name: str
    step: int
    value: float
    """May be NaN or infinite."""
    at: datetime | None = None
    """When the program says it was; None is when the platform read it."""

    @property
    def special(self) -> Special | None:
        """Return what kind of not-a-number it is, or None for a number."""
        return special_of(self.value)


def special_of(value: float) -> Special | None:
    """Return what kind of not-a-number a value is, or None for a number."""
    if math.isfinite(value):
        return None
    if math.isnan(value):
        return Special.NAN
    return Special.INFINITE if value > 0 else Special.MINUS_INFINITE


def value_of(value: float | None, special: str | None) -> float:
    """Return the value of a stored pair of number and special."""
    return float(special) if special else float(value or 0.0)


def clean_name(name: str) -> str | None:
    """Return a name as it is stored, or None for one that cannot be a metric's."""
    name = name.strip().rstrip(".")
    return name if len(name) <= LONGEST_NAME and _NAME.fullmatch(name) else None


def good_step(step: int) -> bool:
    """Say whether a step can be stored."""
    return -LARGEST_STEP <= step <= LARGEST_STEP


def steps_to_drop(steps: Sequence[int], keep: int) -> list[int]:
    """Return which steps of a series go so that about half of its older part is left.

    Args:
        steps: of the whole series, ascending.
        keep: how many points the series may have.

    Returns:
        Nothing while it fits. Else every second of the older ones: the newest quarter stays whole, the first point
        stays always, and thinned again and again the old end of a long series becomes coarser and coarser.
    """
    if len(steps) <= keep:
        return []
    old = list(steps[: len(steps) - keep // 4])
    return old[1::2]


class FlagKind(StrEnum):
    """What is unusual in a series."""

    NOT_A_NUMBER = "NotANumber"
    SPIKE = "Spike"


@dataclass(frozen=True, slots=True)
class Flag:
    """Something unusual in a series, for a person to look at."""

    kind: FlagKind
    name: str
    step: int
    sentence: str


SPIKE_WINDOW = 20
SPIKE_MADS = 10.0
SPIKE_TIMES = 2.0
_LOSS = re.compile(r"(?:^|[_/. ])(?:loss|nll|perplexity|ppl)\d*$", re.I)


def find_flags(points: Sequence[Point]) -> list[Flag]:
    """Return the first NaN or infinity of a series, and where a loss jumps out of its recent past.

    A jump is a value above `SPIKE_TIMES` times the median of the `SPIKE_WINDOW` points before it and farther from it
    than `SPIKE_MADS` times their median absolute deviation; of one jump only its first point is told.
    """
    flags: list[Flag] = []
    bad = next((point for point in points if point.special), None)
    if bad is not None:
        sentence = f"{bad.name} became {bad.special} at step {bad.step}."
        flags.append(Flag(FlagKind.NOT_A_NUMBER, bad.name, bad.step, sentence))
    if not points or not _LOSS.search(points[0].name):
        return flags
    finite = [point for point in points if not point.special]
    jumped = False
    for index in range(SPIKE_WINDOW, len(finite)):
        before = [point.value for point in finite[index - SPIKE_WINDOW : index]]
        middle = median(before)
        spread = median(abs(value - middle) for value in before)
        value = finite[index].value
        high = middle > 0 and value > SPIKE_TIMES * middle and value - middle > SPIKE_MADS * spread
        if high and not jumped:
            sentence = (
                f"{finite[index].name} jumped from about {middle:.4g} to {value:.4g} at step {finite[index].step}."
            )
            flags.append(Flag(FlagKind.SPIKE, finite[index].name, finite[index].step, sentence))
        jumped = high
    return flags
