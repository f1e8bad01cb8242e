"""Scores running work by its measured use, every 15 to 30 minutes: weights, notices to the idle, and what follows.

What follows is decided by `scheduling.domain.rescore`: first on a short look at all that runs, then once more on the
rows of those for which something changes, locked. Each change is an event with the figures behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import live_store, store
from dujiang.jobs.domain import Attempt, Job, JobState, Use, elastic_bounds
from dujiang.jobs.events import JobIdle, JobIdleOver, JobRescored
from dujiang.jobs.live_store import UseFacts
from dujiang.jobs.loop.stopping import ask_stops
from dujiang.jobs.loop.using import UseBook
from dujiang.jobs.settings import JobSettings
from dujiang.jobs.spec import Cause
from dujiang.kit.db import Database, Tx
from dujiang.kit.loop import TickReport
from dujiang.scheduling.domain import BANDS, TaskClass
from dujiang.scheduling.domain.rescore import Change, Idle, Policy, Reclaim, Work, rescore
from dujiang.scheduling.domain.usage import Gathered

_AT_ONCE: Final = 100
"""Jobs of one transaction."""


class RescoreLoop:
    """Judges what was measured."""

    def __init__(
        self, *, db: Database, settings: JobSettings, book: UseBook, wake: Callable[[], None] = lambda: None
    ) -> None:
        """Take what it works with; `wake` is called when something is to stop."""
        self._db, self._book, self._wake = db, book, wake
        self._policy = policy_of(settings)

    async def tick(self) -> TickReport:
        """Judge every running job of which something was measured."""
        async with self._db.reading() as tx:
            running = await live_store.use_facts(tx)
            now = tx.now
        known = [(facts, self._book.gathered.get(facts.key)) for facts in running]
        measured = {facts.key: (facts, seen) for facts, seen in known if seen is not None or facts.use is not None}
        changed = [
            key for key, (facts, seen) in measured.items() if rescore(self._work(facts, seen, now), self._policy, now)
        ]
        done: Counter[str] = Counter()
        for start in range(0, len(changed), _AT_ONCE):
            done += await self._apply(changed[start : start + _AT_ONCE])
        applied = frozenset(changed)
        rest = {
            facts.key.job_id: self._use(facts.key, facts.use, seen, now)
            for facts, seen in measured.values()
            if seen is not None and seen.samples and facts.key not in applied
        }
        await self._note(rest)
        for key in measured:
            if key in self._book.gathered:
                self._book.gathered[key].judged()
        if done["stop"]:
            self._wake()
        return TickReport({name: count for name, count in (*sorted(done.items()), ("note", len(rest))) if count})

    # -- look ------------------------------------------------------------------------------------------------------

    def _work(self, facts: UseFacts, seen: Gathered | None, now: datetime) -> Work:
        """Return a job as it is judged at first: what its specification says is not read yet."""
        seen, use = seen or Gathered(), facts.use if facts.use and facts.use.attempt == facts.key.number else None
        is_devices = self._book.of.get(facts.key) == "devices"
        return Work(
            job_id=facts.key.job_id,
            task_class=_class_of(facts.weight_milli),
            weight=facts.weight_milli / 1000,
            mean=seen.mean,
            samples=seen.samples,
            window_s=seen.window_s,
            busy_samples=seen.busy_samples,
            idle_s=seen.idle_s if is_devices else 0.0,
            idle_samples=seen.idle_samples if is_devices else 0,
            told_at=use.told_at if use else None,
            stop_at=use.stop_at if use else None,
            is_exempt=facts.exempt_until is not None and now < facts.exempt_until,
            ranks_most=facts.ranks_most,
        )

    def _use(self, key: AttemptKey, before: Use | None, seen: Gathered, now: datetime) -> Use:
        """Return the figures of a job; a notice that was given stands."""
        same = before if before is not None and before.attempt == key.number else None
        mean = None if seen.mean is None else round(seen.mean, 4)
        return Use(
            now, key.number, mean, seen.samples, round(seen.window_s, 1), self._book.of.get(key, "devices"),
            same.idle_since if same else None, same.told_at if same else None, same.stop_at if same else None,
            same.sentence if same else "",
        )  # fmt: skip

    async def _note(self, figures: Mapping[str, Use]) -> None:
        ids = sorted(figures)
        for start in range(0, len(ids), _AT_ONCE):
            async with self._db.transaction(cause="rescore") as tx:
                await live_store.note_use(tx, {job_id: figures[job_id] for job_id in ids[start : start + _AT_ONCE]})

    # -- write -----------------------------------------------------------------------------------------------------

    async def _apply(self, keys: Sequence[AttemptKey]) -> Counter[str]:
        """Judge some jobs anew on their rows, and write down what follows."""
        done: Counter[str] = Counter()
        async with self._db.transaction(cause="rescore") as tx:
            jobs = await store.lock_jobs(tx, {key.job_id for key in keys})
            attempts = await store.lock_attempts(tx, keys)
            changes: dict[str, Change] = {}
            for key in keys:
                job, attempt = jobs.get(key.job_id), attempts.get(key)
                if job is None or attempt is None or not _is_at_work(job, attempt):
                    continue
                work = self._whole_work(job, attempt, tx.now)
                if (change := rescore(work, self._policy, tx.now)) is not None:
                    changes[job.id] = change
                    jobs[job.id] = self._changed(job, attempt, work, change, tx)
                    done.update(_steps(job, change))
            await store.update_jobs(tx, [jobs[job_id] for job_id in sorted(changes)])
            stops = [change.stop for change in changes.values() if change.stop is not None]
            await ask_stops(tx, stops, jobs)
        return done

    def _whole_work(self, job: Job, attempt: Attempt, now: datetime) -> Work:
        facts = UseFacts(attempt.key, job.live_weight_milli, job.use, job.exempt_until, job.ranks_most)
        bounds = elastic_bounds(job) if Cause.PREEMPTION in job.spec.retry.on else None  # else it would not go on
        work = self._work(facts, self._book.gathered.get(attempt.key), now)
        return replace(
            work,
            task_class=TaskClass(job.spec.job_class.value),
            ranks=len(attempt.ranks),
            ranks_min=bounds[0] if bounds else None,
        )

    def _changed(self, job: Job, attempt: Attempt, work: Work, change: Change, tx: Tx) -> Job:
        """Return a job after a change; emits the events that tell it."""
        seen = self._book.gathered.get(attempt.key, Gathered())
        use = self._use(attempt.key, job.use, seen, tx.now)
        weight_milli = round(change.weight * 1000)
        if weight_milli != job.live_weight_milli or change.ranks_most != job.ranks_most:
            tx.emit(_rescored(job, attempt, work, change, use.of))
        if change.idle is Idle.TOLD:
            since = (
                tx.now if work.idle_s <= 0 else datetime.fromtimestamp(tx.now.timestamp() - work.idle_s, tx.now.tzinfo)
            )
            use = replace(use, idle_since=since, told_at=tx.now, stop_at=change.stop_at, sentence=change.sentence)
            tx.emit(
                JobIdle(
                    subject=job.id, project_id=job.project_id, attempt=attempt.number, idle_s=round(work.idle_s, 1),
                    idle_under=self._policy.idle_under, samples=work.idle_samples,
                    stop_at=change.stop_at.isoformat() if change.stop_at else None, sentence=change.sentence,
                )
            )  # fmt: skip
        elif change.idle is Idle.OVER:
            use = replace(use, idle_since=None, told_at=None, stop_at=None, sentence="")
            tx.emit(JobIdleOver(subject=job.id, project_id=job.project_id, attempt=attempt.number))
        return replace(job, use=use, weight_milli=weight_milli, ranks_most=change.ranks_most)


def policy_of(settings: JobSettings) -> Policy:
    """Return the settings as the policy they are."""
    return Policy(
        high=settings.use_high, low=settings.use_low, step=settings.weight_step, least_samples=settings.least_samples,
        idle_under=settings.idle_under, idle_after_s=settings.idle_after_s, grace_s=settings.idle_grace_s,
        reclaim=Reclaim(settings.reclaim),
    )  # fmt: skip


def _is_at_work(job: Job, attempt: Attempt) -> bool:
    return (
        attempt.state is JobState.RUNNING
        and job.attempt == attempt.number
        and not attempt.stop_reason
        and job.cancel_at is None
    )


def _steps(job: Job, change: Change) -> list[str]:
    steps = ["weight"] if round(change.weight * 1000) != job.live_weight_milli else []
    if change.idle is not None:
        steps.append(str(change.idle))
    return [*steps, "stop"] if change.stop is not None else steps


def _class_of(weight_milli: int) -> TaskClass:
    """Return the class of a weight: the bands do not touch."""
    weight = weight_milli / 1000
    return next(name for name, band in BANDS.items() if band.low <= weight <= band.high)


def _rescored(job: Job, attempt: Attempt, work: Work, change: Change, of: str) -> JobRescored:
    return JobRescored(
        subject=job.id, project_id=job.project_id, attempt=attempt.number, weight_before_milli=job.live_weight_milli,
        weight_milli=round(change.weight * 1000), mean_use=round(work.mean or 0.0, 4), samples=work.samples,
        window_s=round(work.window_s, 1), of=of, ranks_most=change.ranks_most,
    )  # fmt: skip
