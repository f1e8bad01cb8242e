"""Turns within a class: who has had little goes before who has had much, and may have it stopped.

Nobody knows how long a job will run, but what it has had tells: of those that have run for an hour most go on for long.
So jobs sink from level to level as their service grows (devices times time, over all attempts), and the lower level
goes first: least attained service, in its discretized form (Tiresias, Gu et al., NSDI 2019), with a level for each
doubling. What others like a job needed in all counts as service beforehand, so that known long work starts lower.

Nobody starves: waiting counts against service. A job that has waited `patience` times as long as it ran is as fresh as
a new one, and older; one that has waited `most_wait_s` in all stays on the first level, and is not stopped for a turn
again. All of it is worked out from the ledger and the clock alone, so there is nothing to keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dujiang.scheduling.domain.bands import BANDS, TaskClass

CORE_PER_DEVICE: Final = 0.05
"""What a processor core counts beside a device where work without devices is weighed."""
LOWEST: Final = 15
"""The last level: from 2^14 times the first one on, some 114 days of a device at 10 minutes."""


def width(gpu_milli: int, cpu_milli: int) -> float:
    """Return how many devices something counts as; work without devices counts by its processors."""
    return gpu_milli / 1000 or cpu_milli / 1000 * CORE_PER_DEVICE


@dataclass(frozen=True, slots=True)
class Turns:
    """How work of one class takes turns."""

    first_device_s: float = 600.0
    """Device-seconds of the first level; each further one is twice as wide."""
    patience: float = 16.0
    """Waiting for so long undoes running for one: less makes long work get its turn sooner, and short work wait."""
    most_wait_s: float = 172_800.0
    """After waiting for so long in all a job goes first. Where there is far too much work for the pool most has waited
    so long, and the oldest goes first."""

    def level(self, had_device_s: float, width: float, age_s: float, expected_s: float | None = None) -> int:
        """Return the level of a job, 0 the first.

        Args:
            had_device_s: what it has had in all attempts.
            width: how many devices it asks for or holds.
            age_s: since it was submitted.
            expected_s: how long others like it ran; None when unknown.
        """
        if waited_s(had_device_s, width, age_s) >= self.most_wait_s:
            return 0
        service = self.service(had_device_s, width, age_s, expected_s)
        return 0 if service < self.first_device_s else min(int(service // self.first_device_s).bit_length(), LOWEST)

    def service(self, had_device_s: float, width: float, age_s: float, expected_s: float | None = None) -> float:
        """Return what counts as the service of a job, in device-seconds, maybe negative; arguments as of `level`."""
        waited = waited_s(had_device_s, width, age_s)
        return had_device_s + (expected_s or 0.0) * width - waited * width / self.patience

    def edges(self) -> list[float]:
        """Return the services at which levels after the first begin, in device-seconds."""
        return [self.first_device_s * 2**level for level in range(LOWEST)]


def waited_s(had_device_s: float, width: float, age_s: float) -> float:
    """Return for how long of its age a job has not run; 0 for what asks for nothing that counts."""
    return max(age_s - had_device_s / width, 0.0) if width else 0.0


def weight_at(weight: float, task_class: TaskClass, level: int) -> float:
    """Return a weight in the part of its class's band that its level has, the first level the highest part."""
    band = BANDS[task_class]
    inside = (weight - band.low) / (band.high - band.low)
    return band.low + (band.high - band.low) * (LOWEST - level + inside) / (LOWEST + 1)


def age_s(submitted_at: datetime, now: datetime) -> float:
    """Return how long ago a job was submitted, in seconds; never negative, whatever the clock did."""
    return max((now - submitted_at).total_seconds(), 0.0)
