"""An array: many tasks of one specification, seen as one thing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from dujiang.jobs.domain.job import TERMINAL, JobState
from dujiang.jobs.spec import JobSpec
from dujiang.kit.errors import NotFound


@dataclass(frozen=True, slots=True)
class Array:
    """What was submitted as an array. Each task is a job of its own, and has all that a job has."""

    id: str
    project_id: str
    name: str
    spec: JobSpec
    submitted_by: str
    created_at: datetime
    size: int
    at_once: int | None
    """How many tasks may be at work at the same time; None is all."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Where the tasks of an array stand."""

    states: Mapping[JobState, int] = field(default_factory=dict)
    """How many are in each state; states without any are left out."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Of those that have no place yet, how many wait for each reason."""
    started_at: datetime | None = None
    """When the first task began."""
    finished_at: datetime | None = None
    """When the last task ended; None while one has not."""

    @property
    def has_ended(self) -> bool:
        """Say whether every task has."""
        return all(state in TERMINAL for state in self.states)

    @property
    def state(self) -> JobState:
        """Return one state for all: RUNNING or PENDING while a task is, COMPLETED when all are, else how they failed.

        Tasks that failed in different ways make it FAILED.
        """
        for live in (JobState.RUNNING, JobState.PENDING):
            if self.states.get(live):
                return live
        bad = {state for state, count in self.states.items() if count} - {JobState.COMPLETED}
        if not bad:
            return JobState.COMPLETED
        return bad.pop() if len(bad) == 1 else JobState.FAILED


class NoSuchArray(NotFound):
    """No array of that identifier, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_array"

    def __init__(self, array_id: str) -> None:
        super().__init__("There is no such array; `dujiang ps --all` lists those you can see.", array=array_id[:64])
