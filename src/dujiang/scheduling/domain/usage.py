"""The figures of use of one running job, gathered sample by sample in a fixed room, whatever the time between looks."""

from __future__ import annotations

from dataclasses import dataclass

GAP_S = 180.0
"""Between samples; after a longer time without any nobody knows what was, so idleness counts anew."""


@dataclass(slots=True)
class Gathered:
    """What was measured of a job since the last verdict, and since it was last busy."""

    total: float = 0.0
    samples: int = 0
    busy_samples: int = 0
    """How many of these were not idle."""
    began_s: float = 0.0
    """Of the figures since the last verdict."""
    last_s: float = -1.0
    idle_from_s: float = 0.0
    """Since when every sample was idle."""
    idle_samples: int = 0

    def add(self, at_s: float, value: float, *, idle_under: float) -> None:
        """Take a sample.

        Args:
            at_s: when, on a clock that does not jump.
            value: use, 0 to 1, since the sample before.
            idle_under: below this it counts as idle.
        """
        if self.last_s < 0 or at_s - self.last_s > GAP_S:
            self.idle_from_s, self.idle_samples = at_s, 0
        if not self.samples:
            self.began_s = at_s if self.last_s < 0 else max(self.last_s, at_s - GAP_S)
        self.total += value
        self.samples += 1
        if value >= idle_under:
            self.idle_from_s, self.idle_samples = at_s, 0
            self.busy_samples += 1
        else:
            self.idle_samples += 1
        self.last_s = at_s

    @property
    def mean(self) -> float | None:
        """Return the mean since the last verdict; None when nothing was measured."""
        return self.total / self.samples if self.samples else None

    @property
    def window_s(self) -> float:
        """Return over how long."""
        return max(0.0, self.last_s - self.began_s) if self.samples else 0.0

    @property
    def idle_s(self) -> float:
        """Return for how long every sample has been idle."""
        return max(0.0, self.last_s - self.idle_from_s) if self.idle_samples else 0.0

    def judged(self) -> None:
        """Begin anew after a verdict; idleness goes on."""
        self.total, self.samples, self.busy_samples = 0.0, 0, 0
