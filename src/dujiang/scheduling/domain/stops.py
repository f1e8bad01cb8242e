"""What a plan stops so that others can start, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StopWhy(StrEnum):
    """Why running work is stopped. It waits again with its old place in the queue, and goes on from its checkpoint."""

    PREEMPTED = "Preempted"
    """For work of a higher class, or of the same where work takes turns."""
    RECLAIMED = "Reclaimed"
    """A queue takes back what it is guaranteed and had lent."""
    RESIZED = "Resized"
    """An elastic job goes on with another number of ranks."""
    MOVED = "Moved"
    """To another place, so that free devices lie together."""
    IDLE = "Idle"
    """It did not use its devices, was told so, and its grace has passed."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One running job that is to stop: it saves itself at its signal and gives everything back within its grace."""

    job_id: str
    why: StopWhy
    for_job: str = ""
    """The job that gets what it held; empty when it makes room for none in particular."""
    lost_device_s: float = 0.0
    """What it has to do again: seconds since its last checkpoint times its devices."""
    sentence: str = ""
    """The same for people."""
