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
class JobDeadlineUnsure(Event):
    """It was taken though its deadline cannot be promised."""

    deadline: str
    earliest: str | None
    """The earliest that could be promised; None when none could."""
    endangered: tuple[str, ...]
    """Jobs whose deadline was promised before, and that may be late with it; the first 20."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeadlineAtRisk(Event):
    """Its deadline was promised, and can no longer be kept for sure."""

    deadline: str
    sentence: str
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobBurst(Event):
    """It got a place on a rented cluster that it did not name."""

    attempt: int
    cluster: str
    cost: str
    """What it is estimated to cost at most, to its time limit."""
    per_hour: str
    currency: str
    waited_s: float
    """Since it was submitted."""
    budget_per_day: str
    budget_left: str
    """Of the day, after it."""


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
class JobRescored(Event):
    """Its use moved its weight, within the band of its class."""

    attempt: int
    weight_before_milli: int
    weight_milli: int
    mean_use: float
    """Of its devices, or of its cores where it has none, 0 to 1."""
    samples: int
    window_s: float
    of: str
    """`devices` or `cpu`."""
    ranks_most: int | None = None
    """The most ranks that it gets from now on; None is all that it wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdle(Event):
    """Its devices have been idle, and its owner is told so."""

    attempt: int
    idle_s: float
    idle_under: float
    samples: int
    stop_at: str | None
    """When what it leaves idle is taken back; None when that is not done here."""
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdleOver(Event):
    """It was told to be idle, and is not any more."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobExempted(Event):
    """An operator had it count as busy until a date, or took that back."""

    until: str | None
    """None: no longer."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStopAsked(Event):
    """The platform itself asked for an attempt to stop."""

    attempt: int
    reason: str
    for_job: str = ""
    """The job that gets its place; empty when none in particular does."""
    sentence: str = ""
    lost_device_s: float = 0.0
    """What it has to do again: seconds since its last checkpoint times its devices."""
