"""What run times of the past say of a job that has just been submitted; only of jobs that have ended by then."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import log2
from typing import Final

_A_DOUBLING: Final = 4
"""Steps in which run times are remembered: quarters of a doubling, so within 9 % of the truth."""
_STEPS: Final = 30 * _A_DOUBLING
_ENOUGH: Final = 30
"""Jobs of a group that must have ended before it is believed rather than a wider one."""


class History:
    """Remembers run times by groups of jobs, narrow ones and wider ones."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._totals: dict[tuple[str, ...], int] = {}

    def ended(self, groups: Sequence[tuple[str, ...]], run_s: int) -> None:
        """Remember one run time in each of its groups."""
        step = min(_STEPS - 1, int(_A_DOUBLING * log2(max(1, run_s))))
        for group in groups:
            self._counts.setdefault(group, [0] * _STEPS)[step] += 1
            self._totals[group] = self._totals.get(group, 0) + 1

    def typical_s(self, groups: Sequence[tuple[str, ...]]) -> int:
        """Return the median run time of the narrowest group that is known well enough, or 0."""
        for group in groups:
            total = self._totals.get(group, 0)
            if total >= _ENOUGH:
                for step, below in enumerate(accumulate(self._counts[group])):
                    if 2 * below >= total:
                        return round(2 ** ((step + 0.5) / _A_DOUBLING))
        return 0
