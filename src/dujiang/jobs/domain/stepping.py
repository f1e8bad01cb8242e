"""The next steps for attempts that have a place: what is intended, what is seen, what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dujiang.engines.contract import AttemptKey, End, Observation, Phase
from dujiang.jobs.domain.job import Attempt, JobState


@dataclass(frozen=True, slots=True)
class View:
    """An attempt that has not ended, and what the loop knows beside it."""

    attempt: Attempt
    stop: str = ""
    """Why it is to stop: `Cancelled`, `NodeDrained` ...; empty when it is to go on."""
    grace_s: float | None = None
    """None takes the launch's own."""
    unseen_s: float = 0.0
    """For how long the engine, which answered, has not shown it."""
    lost_after_s: float = 60.0
    """From when on not being shown counts as not being there; longer than the engine's view can lag."""
    may_submit: bool = True
    """Not where the engine was asked a moment ago, or does not answer."""
    stop_asked: bool = False
    """The engine was asked to stop it a moment ago."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Give it to the engine; asking again does nothing."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class Began:
    """Its first process was seen."""

    key: AttemptKey
    seen: Observation


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the engine to stop it."""

    key: AttemptKey
    why: str
    grace_s: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """It was seen to have ended."""

    key: AttemptKey
    seen: Observation


@dataclass(frozen=True, slots=True)
class Lost:
    """It ran, and the engine has not shown it for too long."""

    key: AttemptKey


@dataclass(frozen=True, slots=True)
class Never:
    """It was to stop before it started, and the engine does not have it."""

    key: AttemptKey
    why: str


Step = Submit | Began | Stop | Ended | Lost | Never
_WITHOUT_START = frozenset(
    {End.STOPPED, End.LAUNCH_FAILED, End.REFUSED, End.NODE_REFUSED, End.LOST, End.NODE_LOST, End.PREEMPTED}
)
"""How an attempt can end of which no process was ever there; after any other end it had begun, said or not."""


def plan(views: Sequence[View], seen: Mapping[AttemptKey, Observation]) -> list[Step]:
    """Return the steps, in order of attempt. The same input gives the same steps; a settled world gives none.

    Args:
        views: attempts that have not ended, of engines that answered.
        seen: what the engines show of them.
    """
    steps: list[Step] = []
    for view in sorted(views, key=lambda view: view.attempt.key):
        steps += _steps(view, seen.get(view.attempt.key))
    return steps


def _steps(view: View, seen: Observation | None) -> list[Step]:
    attempt, key = view.attempt, view.attempt.key
    stop = [Stop(key, view.stop, view.grace_s)] if view.stop and not view.stop_asked else []
    if seen is None:
        # Absent is not failed: a view can lag, and an answer can have been lost.
        is_gone = view.unseen_s >= view.lost_after_s
        if attempt.state is JobState.RUNNING:
            return [Lost(key)] if is_gone else [*stop]
        if view.stop:
            return [Never(key, view.stop)] if is_gone else [*stop]
        return [Submit(key)] if view.may_submit else []
    if seen.phase is Phase.ENDED:
        began = attempt.state is JobState.PENDING and (seen.started_at is not None or seen.end not in _WITHOUT_START)
        return [Began(key, seen), Ended(key, seen)] if began else [Ended(key, seen)]
    if seen.phase is Phase.RUNNING and attempt.state is JobState.PENDING:
        return [Began(key, seen), *stop]
    return [*stop]
