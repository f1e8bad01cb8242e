"""All that can be said about one job of a snapshot: whether it starts, why not, when, and what else would start it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from dujiang.scheduling.domain.decide import Round, Start
from dujiang.scheduling.domain.forecast import LEAST_STEPS, Expected, forecast, steps_for
from dujiang.scheduling.domain.otherwise import Otherwise, otherwise
from dujiang.scheduling.domain.plan import decided, plan
from dujiang.scheduling.domain.preempt import Preemption
from dujiang.scheduling.domain.reasons import Wait
from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.snapshot import Dependent, Snapshot, snapshot_of_rows
from dujiang.scheduling.domain.telling import tell


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said about one job that waits in a snapshot."""

    job_id: str
    start: Start | None = None
    """It starts now, there."""
    wait: Wait | None = None
    """Why it does not start now."""
    expected: Expected | None = None
    """When it does; None when that was not asked."""
    ways: tuple[Otherwise, ...] = ()
    """What else would start it now."""
    at: datetime | None = None
    """As of when."""
    is_held: bool = False
    """It waits for other jobs to end, and takes no part before."""


class Explainer:
    """Answers about the jobs of one snapshot. The plan is made once, whatever is asked of it."""

    def __init__(self, snapshot: Snapshot, now: datetime, outcome: tuple[Round, Preemption] | None = None) -> None:
        """Take a snapshot, its time, and what was decided on it, where it has been planned already."""
        self.snapshot, self.now = snapshot, now
        self._outcome = outcome

    @cached_property
    def requests(self) -> dict[str, Request]:
        """Return the jobs that wait, by identifier."""
        return {request.job_id: request for request in self.snapshot.requests}

    @cached_property
    def dependents(self) -> dict[str, Dependent]:
        """Return the jobs that wait for others to end, by identifier."""
        return {one.request.job_id: one for one in self.snapshot.dependents}

    @property
    def is_small(self) -> bool:
        """Say whether a forecast takes moments: then it is told without being asked for."""
        return steps_for(self.snapshot) > LEAST_STEPS

    def answer(
        self, job_id: str, *, expecting: bool = False, widely: bool = False, projects: Sequence[tuple[str, str]] = ()
    ) -> Answer | None:  # fmt: skip
        """Return what is to be said about a job; None for one that does not wait here.

        Args:
            job_id: the job.
            expecting: also when it will start: up to `steps_for` plans.
            widely: also what else would start it: as many again.
            projects: others that it may be submitted in, as (id, name).
        """
        if job_id in self.dependents:
            return Answer(job_id, expected=self._expected(job_id) if expecting else None, at=self.now, is_held=True)
        if job_id not in self.requests:
            return None
        done, preemption = self._decided
        start = next((start for start in done.starts if start.job_id == job_id), None)
        if start is not None:
            return Answer(job_id, start, at=self.now)
        wait = next(iter(tell(done, preemption.awaited, changes=1, only=job_id)), None)
        ways = otherwise(self.snapshot, self.now, job_id, projects=projects) if widely else []
        return Answer(job_id, None, wait, self._expected(job_id) if expecting else None, tuple(ways), self.now)

    def _expected(self, job_id: str) -> Expected | None:
        return forecast(self.snapshot, self.now, job_id=job_id, outcome=self._decided).get(job_id)

    @cached_property
    def _decided(self) -> tuple[Round, Preemption]:
        return self._outcome or decided(self.snapshot, self.now)

    def starts(self, job_id: str) -> bool:
        """Say whether the plan of this snapshot starts a job; plans where that was not done yet."""
        return any(start.job_id == job_id for start in self._decided[0].starts)


def try_out(snapshot: Snapshot, now: datetime, request: Request) -> Answer:
    """Return what would be said about a job if it waited too."""
    answer = Explainer(with_request(snapshot, request), now).answer(request.job_id, expecting=True)
    assert answer is not None, "it was just put there"
    return answer


def with_request(snapshot: Snapshot, request: Request) -> Snapshot:
    """Return the snapshot in which one more job waits."""
    return replace(snapshot, requests=(*snapshot.requests, request))


def likely_place(snapshot: Snapshot, now: datetime, request: Request, answer: Answer) -> Start | None:
    """Return where a job goes: where it starts, or is expected to, or would go if nothing else ran."""
    if answer.start is not None:
        return answer.start
    if answer.expected is not None and answer.expected.start is not None:
        return answer.expected.start
    alone = snapshot_of_rows(snapshot.fleet, requests=[replace(request, not_before=None)])
    return next(iter(plan(alone, now, telling=False).starts), None)


def in_the_way(wait: Wait) -> str:
    """Return what a job waits for by name: another job, else a project, a queue or a window."""
    return wait.blocking_job or wait.blocking_project or wait.blocking_queue or wait.window
