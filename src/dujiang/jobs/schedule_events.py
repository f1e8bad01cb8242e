"""What happened to schedules. Subject: the schedule."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleCreated(Event):
    """Work is to be submitted again and again."""

    name: str
    cron: str
    time_zone: str
    overlap: str
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePaused(Event):
    """Nothing more is submitted until it is resumed."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleResumed(Event):
    """It goes on with the next time at which it is due."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleDeleted(Event):
    """It is gone; what it submitted stays."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRan(Event):
    """A time at which it was due has been seen to, or someone ran it."""

    name: str
    due_at: str
    outcome: str
    """`submitted`, `skipped`, `missed` or `refused`."""
    work_id: str
    """The job or array; empty when none was submitted."""
    by_hand: bool
    sentence: str
