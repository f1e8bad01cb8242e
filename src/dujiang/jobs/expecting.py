"""How long jobs will run: what is remembered of those that have ended, and how well that told.

`scheduling.domain.expected` decides; here rows are read and written. What is remembered is only a copy of the table, so
each process has its own, and one that starts anew learns it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dujiang.jobs import run_store
from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.run_store import RunRow
from dujiang.jobs.spec import JobSpec
from dujiang.kit.db import Tx
from dujiang.scheduling.domain.accuracy import Accuracy, Told, accuracy
from dujiang.scheduling.domain.expected import Expectation, Likeness, RunTimes, corrected, stem_of

_REMEMBERED: Final = 50_000
"""Runs that are read at a start: more than the groups keep of most."""
_PAGE: Final = 5000
_LEAST_LEFT_S: Final = 1.0


class Expectations:
    """What is known of run times."""

    def __init__(self) -> None:
        self._times = RunTimes()
        self._seq: int | None = None

    async def catch_up(self, tx: Tx) -> None:
        """Learn from what has ended since the last time."""
        while rows := await self._more(tx):
            for row in rows:
                self._times.learn(row.who, row.ran_s, is_whole=row.is_whole)
            self._seq = rows[-1].seq
            if len(rows) < _PAGE:
                break
        self._seq = self._seq or 0

    async def _more(self, tx: Tx) -> Sequence[RunRow]:
        if self._seq is None:
            return await run_store.newest(tx, _REMEMBERED)
        return await run_store.after(tx, self._seq, _PAGE)

    def expect(self, job: Job) -> Expectation | None:
        """Return how long a job will run from its start on, all its attempts together."""
        return self._times.expect(likeness_of(job), limit_s=job.spec.time_limit_s)


def left_s(job: Job, expected_s: float) -> float:
    """Return how long the next attempt of a job will run: the rest, for one that goes on from a checkpoint."""
    if not job.checkpoint_dir or not job.ran_s:
        return expected_s
    return max(corrected(expected_s, job.ran_s) - job.ran_s, _LEAST_LEFT_S)


def likeness_of(job: Job) -> Likeness:
    """Return by what a job is compared with others."""
    return Likeness(job.project_id, job.submitted_by, stem_of(job.name), shape_of(job.spec))


def shape_of(spec: JobSpec) -> str:
    """Return the size of a job in words: `2 x 1000 gpu H100, 4000 cpu`."""
    wanted = spec.resources
    model = wanted.gpu.model or "" if wanted.gpu else ""
    return f"{spec.nodes} x {wanted.gpu_milli} gpu {model[:40]}, {wanted.cpu_milli} cpu"


def run_of(job: Job, attempt: Attempt) -> RunRow | None:
    """Return what a job that has ended tells of run times; None for one that never ran."""
    if attempt.started_at is None or attempt.finished_at is None or job.finished_at is None:
        return None
    last_s = (attempt.finished_at - attempt.started_at).total_seconds()
    ran_s = max(job.ran_s, last_s) if job.checkpoint_dir else last_s
    is_whole = job.state is JobState.COMPLETED
    return RunRow(job.id, likeness_of(job), ran_s, is_whole, job.finished_at, job.expected_s, job.expected_by)


@dataclass(frozen=True, slots=True)
class Report:
    """How well run times were told, of jobs that completed in some time."""

    since: datetime
    overall: Accuracy | None
    """None when there is nothing to compare."""
    by_project: tuple[tuple[str, Accuracy], ...] = ()
    """By identifier of the project, those with most jobs first."""
    by_group: tuple[tuple[str, Accuracy], ...] = ()
    """By what the jobs had in common with those by which they were told."""


async def report(tx: Tx, *, days: float, project_ids: Sequence[str] | None = None, most: int = 100_000) -> Report:
    """Compare what was expected with what was, for jobs that completed in the last days."""
    begin = tx.now - timedelta(days=days)
    rows = await run_store.since(tx, begin, project_ids, most)
    told = [(row, Told(row.expected_s or 0.0, row.ran_s)) for row in rows]
    return Report(
        begin, accuracy([one for _, one in told]), _grouped((row.who.project, one) for row, one in told),
        _grouped((row.expected_by, one) for row, one in told),
    )  # fmt: skip


def _grouped(told: Iterable[tuple[str, Told]]) -> tuple[tuple[str, Accuracy], ...]:
    groups: dict[str, list[Told]] = {}
    for name, one in told:
        groups.setdefault(name, []).append(one)
    found = [(name, found) for name, each in groups.items() if (found := accuracy(each)) is not None]
    return tuple(sorted(found, key=lambda one: (-one[1].jobs, one[0])))
