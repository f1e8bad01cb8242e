"""What a queueing policy sees of a cluster in virtual time, and what it answers: which jobs stop and which start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

NEVER: Final = 1 << 62


@dataclass(slots=True)
class Watch:
    """What is known of each job, by its number in order of submission. The engine keeps it; policies read it.

    `duration_s` and `remaining_s` are for policies that say they know run times, and for nobody else.
    """

    size: Sequence[int]
    """Devices of the gang."""
    submit_s: Sequence[int]
    groups: Sequence[tuple[tuple[str, ...], ...]]
    """Names under which the run times of a job are remembered, the most telling first."""
    duration_s: Sequence[int]
    served_s: list[int]
    """Time run until the last change of state, lost work included."""
    since_s: list[int]
    """When the state last changed."""
    running: list[bool]
    left_s: list[int]
    """Work that was left at the last change of state."""
    capacity: int = 0
    """Devices that are up."""
    free: int = 0
    restart_s: int = 0
    """Work that each interruption adds."""

    def served_at(self, job: int, now: int) -> int:
        """Return how long a job has run until now."""
        return self.served_s[job] + (now - self.since_s[job] if self.running[job] else 0)

    def remaining_s(self, job: int, now: int) -> int:
        """Return how long a job would run from now on."""
        return self.left_s[job] - (now - self.since_s[job] if self.running[job] else 0)


class QueuePolicy(Protocol):
    """Decides at each event. The engine does what it says, and stops with a fault if that does not fit."""

    round_s: int
    """Decisions come only at multiples of this; 0: at every event."""

    def submitted(self, job: int, now: int) -> None:
        """A job waits from now on."""

    def ended(self, job: int, now: int) -> None:
        """A running job is done; its devices are free."""

    def interrupted(self, job: int, now: int) -> None:
        """A running job lost its node and waits again."""

    def decide(self, now: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the jobs that stop and the jobs that start, in order; each gang whole or not at all."""

    def wakes_at(self, now: int) -> int:
        """Return when it wants to decide again if nothing happens before, or NEVER."""
