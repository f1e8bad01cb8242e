"""What can be set about scheduling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from dujiang.scheduling.domain.bands import TaskClass
from dujiang.scheduling.domain.renting import BurstPolicy, Hours
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.turns import Turns

_HOURS: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]"


@dataclass(frozen=True, slots=True)
class BurstSettings:
    """When waiting work goes to clusters marked as `cloud` that it did not name."""

    on: bool = False
    """Whether waiting work ever goes to clusters marked as `cloud` that it did not name."""
    after_s: float = 1800.0
    """It bursts once it has waited so long, or is sure to. Too little rents what would have been free soon."""
    budget_per_day: Decimal = Decimal(0)
    """What the starts of a day, UTC, may be estimated to cost, in the platform's currency, at the clusters'
    `price_per_device_hour`. Everything that was started on a cloud today counts."""
    classes: tuple[Literal["core", "normal", "low"], ...] = ("core", "normal")
    """Whose work may."""
    projects: tuple[str, ...] = ()
    """Ids of projects whose work may; empty is all."""
    only_asked: bool = False
    """Whether only jobs may that say `placement: {burst: allowed}`."""
    spot: bool = True
    """Whether clusters with `interruptions_per_day` are used, by jobs with a checkpoint that are run again after a
    fault, where what is done again costs less than it saves."""
    spot_lost_s: float = 1800.0
    """What an interruption is taken to undo of a job that does not say how often it saves itself."""
    low_hours: str | None = None
    """Such as `22:00-06:00`, UTC: when work of the low class may, if it is over by the end; none has no such hours."""

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ValueError: which, and what it can be.
        """
        if min(self.after_s, self.spot_lost_s) < 0 or self.budget_per_day < 0:
            raise ValueError("after_s, spot_lost_s and budget_per_day are not negative")
        if self.low_hours is not None and not re.fullmatch(_HOURS, self.low_hours):
            raise ValueError(f"low_hours is written as 22:00-06:00, not {self.low_hours[:40]}")

    def policy(self, *, left: Decimal | None = None, currency: str = "") -> BurstPolicy | None:
        """Return the policy with what is left of today's budget (None: all of it); None when nothing bursts."""
        if not self.on:
            return None
        hours = None
        if self.low_hours is not None:
            hours = Hours(*(int(time[:2]) * 60 + int(time[3:]) for time in self.low_hours.split("-")))
        return BurstPolicy(
            after_s=self.after_s, budget_per_day=self.budget_per_day,
            left=self.budget_per_day if left is None else left, currency=currency,
            classes=tuple(TaskClass(one) for one in self.classes), projects=tuple(self.projects),
            only_asked=self.only_asked, spot=self.spot, spot_lost_s=self.spot_lost_s, low_hours=hours,
        )  # fmt: skip


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
    turn_device_s: float | None = None
    """Work of one class takes turns: who has had less goes first, and work that saves itself is stopped for it when it
    has had more by a level. The first level is so many device-seconds, each further one twice as wide; 600 is a good
    beginning. None or 0: who runs goes on. Too little stops work often, too much makes short work wait behind long."""
    turn_patience: float = 16.0
    """Waiting for so long counts as running for one against what a job has had, so that long work gets its turn."""
    turn_wait_s: float = 172_800.0
    """A job that has waited for so long in all goes first in its class, and is not stopped for a turn again. Too little
    lets long work hold up short work as without turns, too much lets it wait."""
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
    that could be, it is taken with an event that says so, or nobody looks. What was promised is kept against work of
    every class that comes later; with `off` a higher class goes first whatever a deadline says."""
    burst: BurstSettings = BurstSettings()

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
        if min(self.turn_device_s or 0.0, self.turn_wait_s) < 0 or self.turn_patience <= 0:
            raise ValueError("turn_device_s and turn_wait_s are not negative, and turn_patience is above 0")
        if (self.fair_share_half_life_s or 0) < 0 or self.fair_share_every_s < 0:
            raise ValueError("the times of fair share are not negative")

    def _turns(self) -> Turns | None:
        return Turns(self.turn_device_s, self.turn_patience, self.turn_wait_s) if self.turn_device_s else None

    def rules(self, *, lost_device_s: float = 0.0, burst: BurstPolicy | None = None) -> Rules:
        """Return what a plan may do, with what stops have cost in the last hour, and what may still be rented."""
        return Rules(
            reservations=self.reservations, preempts=self.preempts, min_run_s=self.min_run_s,
            most_lost_device_s=self.most_lost_device_s, lost_device_s=lost_device_s,
            most_stops_for=self.most_stops_for, grows=self.grows, regrow_s=self.regrow_s,
            keeps_deadlines=self.deadlines != "off", burst=burst,
            turns=self._turns(),
        )  # fmt: skip
