"""What can be set about jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

KEPT_OUTPUT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The settings of jobs and their loops."""

    checkpoint_root: str = ""
    """Where jobs that name no folder save themselves; every node must see it under this path. Empty is a folder in the
    platform's home."""
    lost_after_s: float = 60.0
    """How long an engine that answers may leave out a running attempt before it counts as lost. Too little and a view
    that lags fails work that runs; too much and a lost node is noticed late."""
    ask_again_s: float = 5.0
    """How long a submit or stop that was asked for is given before it is asked for again."""
    diagnosed_output_bytes: int = KEPT_OUTPUT_BYTES
    """How much of the end of each rank's output is read for a diagnosis."""
    diagnosed_ranks: int = 16
    """Of how many ranks the output is read; the one that ended the attempt is always among them."""
    told_every_s: float = 0.5
    """How often it is found out why jobs wait. Too often costs a busy platform more than its starts do."""
    waits_retold_s: float = 5.0
    """How old the stored figures of why a job waits may become. Too little writes much, too much tells old figures."""
    most_retold: int = 500
    """How many jobs' reasons are written in one look at the queue."""
    resize_s: float = 30.0
    """How often running elastic work is looked at while nothing waits. Too seldom and free devices idle longer."""
    reclaim: Literal["off", "notify", "stop"] = "notify"
    """What becomes of jobs whose devices are idle: nothing, their owner is told, or they also shrink or stop."""
    idle_under: float = 0.05
    """Use of devices, 0 to 1, below which a job counts as idle. Too much takes from those who load data."""
    idle_after_s: float = 1800.0
    """For how long every measurement has to be below, before its owner is told."""
    idle_grace_s: float = 1800.0
    """From the notice until an idle job shrinks or is stopped."""
    use_high: float = 0.7
    """Mean use from which on the weight of a job rises within the band of its class."""
    use_low: float = 0.3
    """Mean use up to which it falls; between the two it stays."""
    weight_step: float = 0.05
    """How far a weight moves at one look."""
    least_samples: int = 10
    """With fewer measurements nothing is said about a job's use."""
    at_once: int = 16
    """Calls to one engine that are under way at the same time."""

    def __post_init__(self) -> None:
        """Refuse figures of use that mean nothing together.

        Raises:
            ValueError: which, and what it can be.
        """
        if not 0 <= self.use_low < self.use_high <= 1:
            raise ValueError(f"use_low ({self.use_low:g}) must be below use_high ({self.use_high:g}), both from 0 to 1")
        if not 0 <= self.idle_under <= 1:
            raise ValueError(f"idle_under is from 0 to 1, not {self.idle_under:g}")
        if self.weight_step < 0 or self.least_samples < 1 or min(self.idle_after_s, self.idle_grace_s) < 0:
            raise ValueError("weight_step, idle_after_s and idle_grace_s are not negative, least_samples is at least 1")
