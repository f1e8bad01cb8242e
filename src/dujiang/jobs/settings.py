"""What can be set about jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
    at_once: int = 16
    """Calls to one engine that are under way at the same time."""
