"""A job, its attempts, and the states both go through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from dujiang.engines.contract import AttemptKey, RankPlacement
from dujiang.jobs.diagnosis import Diagnosis
from dujiang.jobs.spec import JobSpec
from dujiang.kit.errors import Conflict, NotFound
from dujiang.kit.state import Machine


class JobState(StrEnum):
    """Where a job or one of its attempts stands, in Slurm's words."""

    PENDING = "PENDING"
    """A job: waits for its place, or for the first process of an attempt that has one. An attempt: the latter."""
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"


_S = JobState
TERMINAL = frozenset(JobState) - {_S.PENDING, _S.RUNNING}

ATTEMPT_STATES = Machine(
    "attempt",
    {
        # Not started at all: refused by the engine, cancelled or moved away before, or lost with its node.
        _S.PENDING: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED, _S.NODE_FAIL, _S.PREEMPTED}),
        _S.RUNNING: TERMINAL,
        **{state: frozenset[JobState]() for state in sorted(TERMINAL)},
    },
    start=_S.PENDING,
)
JOB_STATES = Machine(
    "job",
    {
        **ATTEMPT_STATES.transitions,
        _S.RUNNING: TERMINAL | {_S.PENDING},  # a retry waits again
    },
    start=_S.PENDING,
)


class Held(StrEnum):
    """Why a job that waits is kept from the scheduler; also its reason for waiting."""

    DEPENDENCY = "Dependency"
    """Another job has to end first."""
    ARRAY_LIMIT = "ArrayLimit"
    """As many tasks of its array as may be at once run already, or wait for a place."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job was not started: as the scheduler found it last, or why the scheduler does not look at it."""

    reason: str
    detail: str
    at: datetime
    blocking: str = ""
    """The job or project in the way."""
    earliest: datetime | None = None
    suggestion: str = ""
    """The smallest change that would start it; empty when none was looked for."""
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "reason": self.reason, "detail": self.detail, "at": self.at.isoformat(), "blocking": self.blocking,
            "earliest": self.earliest and self.earliest.isoformat(), "suggestion": self.suggestion,
            "advice": self.advice,
        }  # fmt: skip

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Waiting:
        """Return what `to_json` gave."""
        earliest = row.get("earliest")
        return cls(
            row["reason"], row["detail"], datetime.fromisoformat(row["at"]), row.get("blocking", ""),
            datetime.fromisoformat(earliest) if earliest else None, row.get("suggestion", ""), row.get("advice", ""),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """What a running job did with what it holds, over the time before it was looked at."""

    at: datetime
    attempt: int
    mean: float | None
    """Of its shares, 0 to 1, each by its size; None when too little was measured."""
    samples: int
    window_s: float
    of: str
    """`devices`, or `cpu` for a job without."""
    idle_since: datetime | None = None
    """Since when it has counted as idle, without a break."""
    told_at: datetime | None = None
    """When its owner was told so."""
    stop_at: datetime | None = None
    """When what it does not use is taken back, unless it works until then."""
    sentence: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "at": self.at.isoformat(), "attempt": self.attempt, "mean": self.mean, "samples": self.samples,
            "window_s": self.window_s, "of": self.of, "idle_since": self.idle_since and self.idle_since.isoformat(),
            "told_at": self.told_at and self.told_at.isoformat(), "stop_at": self.stop_at and self.stop_at.isoformat(),
            "sentence": self.sentence,
        }  # fmt: skip

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Use:
        """Return what `to_json` gave."""
        times = {name: row.get(name) for name in ("idle_since", "told_at", "stop_at")}
        return cls(
            datetime.fromisoformat(row["at"]), row["attempt"], row["mean"], row["samples"], row["window_s"], row["of"],
            sentence=row.get("sentence", ""),
            **{name: datetime.fromisoformat(at) if at else None for name, at in times.items()},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What someone wants to have run."""

    id: str
    project_id: str
    name: str
    spec: JobSpec
    """Secrets are left out: each stands as a reference to a variable of its own name."""
    state: JobState
    reason: str
    """Why it is in its state, PascalCase."""
    sentence: str
    """The same for people; empty where the reason says it all."""
    submitted_by: str
    """User id."""
    created_at: datetime
    queued_at: datetime
    """Since when it waits, or waited last."""
    started_at: datetime | None = None
    """Of its first attempt."""
    finished_at: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    attempt: int = 0
    """Number of the latest attempt, 0 before the first."""
    retries: int = 0
    """Attempts that followed a failure; those that followed a preemption do not count."""
    ran_s: float = 0.0
    """For how long its attempts that are over have run, together."""
    expected_s: float | None = None
    """How long it was expected to run, all its attempts together, when it first got its place."""
    expected_by: str = ""
    """By which group of jobs like it that was expected."""
    weight_milli: int | None = None
    """Within the band of its class, as last scored by its use; None is the one that it was submitted with."""
    ranks_most: int | None = None
    """Elastic: it gets no more ranks than these for now, as it did not use more. None is as many as it wants."""
    use: Use | None = None
    """What its devices did when last looked at."""
    exempt_until: datetime | None = None
    """Until then it counts as busy, whatever it uses."""
    exempt_reason: str = ""
    waits: bool = True
    """It is PENDING and has no place."""
    not_before: datetime | None = None
    """A retry waits until then."""
    cancel_at: datetime | None = None
    """When someone asked to stop it."""
    cancel_reason: str = ""
    checkpoint_dir: str = ""
    resume_from: str | None = None
    """The last good checkpoint that its attempts left."""
    avoid: tuple[tuple[str, str], ...] = ()
    """(cluster, node) pairs that failed it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    waiting: Waiting | None = None
    held: Held | None = None
    """It waits, and not for a place."""
    array_id: str | None = None
    """The array that it is a task of."""
    array_index: int | None = None

    @property
    def live_weight_milli(self) -> int:
        """Return the weight that counts now."""
        return self.spec.weight_milli if self.weight_milli is None else self.weight_milli

    @property
    def has_ended(self) -> bool:
        """Say whether nothing more happens to it."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job."""

    job_id: str
    number: int
    """1 for the first."""
    project_id: str
    state: JobState
    reason: str
    cluster: str
    ranks: tuple[RankPlacement, ...]
    created_at: datetime
    """When it got its place."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    ports: tuple[int, ...] = ()
    output_dir: str = ""
    workdir: str = ""
    limits_by: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the engine found out: `inputs`, `environment`, `peak_memory_bytes`, `cpu_seconds` ..."""
    diagnosis: Diagnosis | None = None
    resume_from: str | None = None
    """The checkpoint that it was told to go on from."""
    stop_reason: str = ""
    """Why the platform asked the engine to stop it: `Preempted`, `NodeDrained` ...; empty when it did not."""
    stop_sentence: str = ""
    """The same for people."""
    stop_for: str = ""
    """The job that gets its place; empty when none in particular does."""
    stop_asked_at: datetime | None = None
    stop_lost_device_s: float = 0.0
    """What the stop costs: device-seconds of work that have to be done again."""
    saved_at: datetime | None = None
    """When it last wrote a checkpoint, as far as was seen."""
    expected_s: float | None = None
    """How long it was expected to run when it got its place."""
    figures_complete: bool = False
    """Everything that it reported has been read."""

    @property
    def key(self) -> AttemptKey:
        """Return its identity at the engine."""
        return AttemptKey(self.job_id, self.number)

    @property
    def node(self) -> str:
        """Return the first rank's node."""
        return self.ranks[0].node if self.ranks else ""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return the addresses of its ports."""
        return tuple(f"http://{self.host or '127.0.0.1'}:{port}" for port in self.ports)


class NoSuchJob(NotFound):
    """No job of that identifier, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_job"

    def __init__(self, job_id: str) -> None:
        super().__init__("There is no such job; `dujiang ps --all` lists those you can see.", job=job_id[:64])


class NoSuchAttempt(NotFound):
    """The job has no attempt of that number, or the attempt no such rank."""

    code: ClassVar[str] = "no_such_attempt"


class JobEndedAlready(Conflict):
    """The job has ended: there is nothing left to stop."""

    code: ClassVar[str] = "job_ended"
    title: ClassVar[str] = "The job has ended"
