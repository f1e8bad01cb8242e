"""What can be set about scheduling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dujiang.scheduling.domain.rules import Rules


@dataclass(frozen=True, slots=True)
class SchedulingSettings:
    """Fair share, what a plan may do beside starting jobs in their order, and moves of running work."""

    fair_share_half_life_s: float | None = 604_800.0
    """After how long a gpu-second that was used counts half against its project. Too short forgets who has used much,
    too long punishes what is long past; none or 0 turns fair share off."""
    fair_share_part: float = 0.5
    """How much of a job's place in the band of its class fair share decides, 0 to 1; the rest is the job's own weight.
    1 leaves the weights of jobs without effect."""
    fair_share_every_s: float = 30.0
    """How often the shares are worked out anew. Too seldom lets one project start much before it shows."""

    reservations: int = 1
    """For how many waiting jobs a start is prepared. 0 starves large jobs, 1 delays nobody but the first as little as
    can be told, many fill fewer gaps and cost each plan more."""
    preempts: bool = True
    """Whether running work is stopped for work of a higher class, and for what a queue is guaranteed."""
    min_run_s: float = 300.0
    """What has run for less is not stopped. Too little starts work for nothing, too much makes core work wait."""
    most_lost_device_s: float | None = None
    """Device-seconds of work that stops may cost within one hour; none sets no limit. Too little makes core work and
    guarantees wait, too much lets a busy hour undo what others did."""
    most_stops_for: int = 4
    """For how many waiting jobs one plan stops others, and how many elastic jobs it resizes. Too many at once empty and
    fill the pool in waves."""
    grows: bool = True
    """Whether a running elastic job is stopped to go on with more ranks when nobody waits."""
    regrow_s: float = 900.0
    """An elastic job that has run for less is not resized. Too little stops it over and over, too much leaves devices
    idle."""
    defragment: Literal["off", "advise", "act"] = "advise"
    """Whether running work that could make room elsewhere is looked for; `act` also stops it to start there."""
    fresh_s: float = 600.0
    """Only work that saved itself within this time is moved. Too little finds nobody, too much repeats work."""
    most_moves: int = 4
    """Moves that one look proposes."""
    most_moves_hourly: int = 12
    """Jobs that are stopped to be moved within one hour. Too many keep work from getting on."""

    deadlines: Literal["refuse", "warn", "off"] = "refuse"
    """What becomes of a deadline that cannot be promised beside those that were: the job is refused with the earliest
    that could be, it is taken with an event that says so, or nobody looks."""

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ValueError: which, and what it can be.
        """
        counts = self.reservations, self.most_stops_for, self.most_moves, self.most_moves_hourly
        if min(counts) < 0:
            raise ValueError("reservations, most_stops_for, most_moves and most_moves_hourly are not negative")
        if min(self.min_run_s, self.regrow_s, self.fresh_s, self.most_lost_device_s or 0.0) < 0:
            raise ValueError("min_run_s, regrow_s, fresh_s and most_lost_device_s are not negative")
        if not 0 <= self.fair_share_part <= 1:
            raise ValueError("fair_share_part is between 0 and 1")
        if (self.fair_share_half_life_s or 0) < 0 or self.fair_share_every_s < 0:
            raise ValueError("the times of fair share are not negative")

    def rules(self, *, lost_device_s: float = 0.0) -> Rules:
        """Return what a plan may do, with what stops have cost in the last hour."""
        return Rules(
            reservations=self.reservations, preempts=self.preempts, min_run_s=self.min_run_s,
            most_lost_device_s=self.most_lost_device_s, lost_device_s=lost_device_s,
            most_stops_for=self.most_stops_for, grows=self.grows, regrow_s=self.regrow_s,
        )  # fmt: skip
