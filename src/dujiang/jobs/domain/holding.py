"""Why a job is not even looked at by the scheduler: it waits for other jobs, or for its turn in its array. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from dujiang.jobs.domain.job import JOB_STATES, Held, Job, JobState, Waiting
from dujiang.jobs.spec import When

HELD_ADVICE: Final[Mapping[Held, str]] = {
    Held.DEPENDENCY: "Wait, or submit it anew without `after`; `dujiang explain` of the other job tells of that one.",
    Held.ARRAY_LIMIT: "Wait; an array with a larger `at_once` runs more tasks at the same time.",
}
NEVER_SATISFIED: Final = "DependencyNeverSatisfied"
"""Reason of a job that was cancelled because what it waited for has ended otherwise."""
_WANTED: Final = {
    When.OK: "has completed",
    When.ANY: "has ended",
    When.NOTOK: "has ended without completing",
}


class Answer(StrEnum):
    """What one dependency says."""

    OPEN = "open"
    MET = "met"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Edge:
    """One job waits for another, or for an array."""

    job_id: str
    on_id: str
    when: When


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job or an array stands that others wait for."""

    id: str
    name: str
    has_ended: bool
    state: str
    """Of an array that has ended: COMPLETED only when every task has."""

    @property
    def is_ok(self) -> bool:
        """Say whether it completed."""
        return self.state == JobState.COMPLETED

    @property
    def title(self) -> str:
        """Return it as people know it."""
        return f"{self.id} ({self.name})"


def standing_of(job: Job) -> Standing:
    """Return where a job stands."""
    return Standing(job.id, job.name, job.has_ended, str(job.state))


def answer(when: When, on: Standing) -> Answer:
    """Return what a dependency on that job says now."""
    if not on.has_ended:
        return Answer.OPEN
    met = when is When.ANY or on.is_ok is (when is When.OK)
    return Answer.MET if met else Answer.NEVER


def depend(job: Job, on: Sequence[tuple[When, Standing]], *, now: datetime) -> tuple[Job, list[Edge]]:
    """Return a new job as its dependencies leave it, and those that are still open.

    Args:
        job: new, and free.
        on: what it waits for; a job that has ended counts at once.
        now: the time.
    """
    answers = [(when, one, answer(when, one)) for when, one in on]
    for when, one, said in answers:
        if said is Answer.NEVER:
            return give_up(job, when, one, now=now), []
    left = [(when, one) for when, one, said in answers if said is Answer.OPEN]
    if not left:
        return job, []
    edges = [Edge(job.id, one.id, when) for when, one in left]
    return await_others(job, *left[0], others=len(left) - 1, now=now), edges


def await_others(job: Job, when: When, on: Standing, *, others: int, now: datetime) -> Job:
    """Return a job that waits for another, and for so many more."""
    more = f" {others} more {'are' if others > 1 else 'is'} awaited too." if others else ""
    return _held(job, Held.DEPENDENCY, f"It can start once {on.title} {_WANTED[when]}.{more}", on.id, now)


def await_turn(job: Job, at_once: int, *, now: datetime) -> Job:
    """Return a task of an array that waits for others of the array to end."""
    assert job.array_id is not None, "only a task has a turn"
    tasks = "1 task" if at_once == 1 else f"{at_once} tasks"
    detail = f"{tasks} of its array may be at work at once, and as many are."
    return _held(job, Held.ARRAY_LIMIT, detail, job.array_id, now)


def free(job: Job, *, now: datetime) -> Job:
    """Return a job that the scheduler may look at from now on."""
    return replace(job, held=None, reason="Queued", sentence="", waiting=None, queued_at=now)


def give_up(job: Job, when: When, on: Standing, *, now: datetime) -> Job:
    """Return a job that has ended because a dependency can never be met any more."""
    JOB_STATES.check(job.id, job.state, JobState.CANCELLED)
    sentence = f"{on.title} is {on.state}; this job was to start only once that {_WANTED[when]}."
    return replace(
        job, state=JobState.CANCELLED, reason=NEVER_SATISFIED, sentence=sentence, waits=False, held=None,
        finished_at=now, waiting=None, not_before=None,
    )  # fmt: skip


def _held(job: Job, held: Held, detail: str, blocking: str, now: datetime) -> Job:
    waiting = Waiting(str(held), detail, now, blocking=blocking, advice=HELD_ADVICE[held])
    return replace(job, held=held, reason=str(held), sentence=detail, waiting=waiting)
