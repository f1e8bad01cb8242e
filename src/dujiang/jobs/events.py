"""What happened to jobs. Subject: the job."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(Event):
    """Someone wants it run."""

    name: str
    kind_: str
    """`task` or `service`."""
    task_class: str
    weight_milli: int
    submitted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(Event):
    """The first process of an attempt was seen."""

    attempt: int
    cluster: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRetried(Event):
    """An attempt ended and another follows: the job waits again."""

    attempt: int
    """The one that ended."""
    state: str
    reason: str
    exit_code: int | None
    signal: int | None
    resume_from: str | None
    """The checkpoint from which the next goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(Event):
    """Nothing more happens to it."""

    attempt: int
    """The last one; 0 when there was none."""
    state: str
    reason: str
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelAsked(Event):
    """Someone asked to stop it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStopAsked(Event):
    """The platform itself asked for an attempt to stop."""

    attempt: int
    reason: str
