"""What is kept for a job whose deadline was promised: a place, and from when on it needs it at the latest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dujiang.engines.contract import RankPlacement


@dataclass(frozen=True, slots=True)
class Slot:
    """The place and time with which a waiting job keeps its deadline; it may start sooner, there or elsewhere."""

    job_id: str
    at: datetime
    """When it has to have started."""
    cluster: str
    ranks: tuple[RankPlacement, ...]
    option: int = 0
    """Which of the job's alternatives it is for; 0 is what it would rather have."""


@dataclass(frozen=True, slots=True)
class Risk:
    """A promised deadline that can no longer be kept for sure."""

    job_id: str
    sentence: str
    """Why, and what to do."""
