"""Makes true what was written down: attempts that have a place run, end, and give their place back.

Observe, plan (`domain.stepping`), apply: cluster by cluster, so one that hangs holds up no other. What is applied is
decided anew on the rows as they are, locked, so it is safe to kill at any instruction and to run twice. Engine calls
stand outside transactions and are safe to repeat.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from dujiang.engines.contract import (
    AttemptKey,
    End,
    EngineRefused,
    EngineUnavailable,
    Evidence,
    NodeRefused,
    Observation,
    Phase,
)
from dujiang.engines.lines import LateLook, Line, StillAsking
from dujiang.jobs import group_store, run_store, store
from dujiang.jobs.diagnosis import AttemptFacts, Diagnose, Diagnosis
from dujiang.jobs.domain import (
    ANY_SITE,
    BEING_STARTED,
    TERMINAL,
    Attempt,
    Began,
    Ended,
    Job,
    JobState,
    Lost,
    Never,
    Site,
    Step,
    Stop,
    Submit,
    View,
    begin,
    conclude,
    launch_of,
    plan,
    waits_in_cluster,
)
from dujiang.jobs.expecting import run_of
from dujiang.jobs.following import follow
from dujiang.jobs.loop.stopping import stop_asked
from dujiang.jobs.settings import JobSettings
from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.loop import TickReport
from dujiang.pool.service import PoolService
from dujiang.tenancy.service import Tenancy

T = TypeVar("T")
R = TypeVar("R")
DRAINED: Final = "NodeDrained"
_FEWEST_LOOKS: Final = 4
_logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class _Unseen:
    """An attempt that looks do not show."""

    for_s: float
    looked_s: float
    """When it was last looked for."""


@dataclass(slots=True)
class _Memory:
    """What the loop remembers of a cluster between ticks; forgotten at a restart, which costs only time."""

    unseen: dict[AttemptKey, _Unseen] = field(default_factory=dict)
    submitted_s: dict[AttemptKey, float] = field(default_factory=dict)
    stopped_s: dict[AttemptKey, float] = field(default_factory=dict)
    rows: dict[AttemptKey, tuple[object, Attempt]] = field(default_factory=dict)
    """Attempts as last read, each with the mark that it had: they are read again when that is another."""
    told: dict[AttemptKey, str] = field(default_factory=dict)
    """What was written down last of why an attempt waits in its cluster."""
    hidden: int = 0
    """Attempts that ran, and that the last look did not show."""
    running: int = 0

    def keep(self, live: Iterable[AttemptKey]) -> None:
        """Forget what is over."""
        wanted = set(live)
        for known in (self.unseen, self.submitted_s, self.stopped_s, self.rows, self.told):
            for key in known.keys() - wanted:
                del known[key]


@dataclass(frozen=True, slots=True)
class _End:
    """An end to write down."""

    seen: Observation
    found: Diagnosis
    checkpoint: str | None


class AttemptLoop:
    """Reconciles attempts with what their engines show."""

    def __init__(
        self, *, db: Database, pool: PoolService, tenancy: Tenancy, clusters: Mapping[str, Line], diagnose: Diagnose,
        clock: Clock, settings: JobSettings, lost_after_s: Mapping[str, float] | None = None,
        find_checkpoint: Callable[[str], str | None] = lambda _folder: None, wake: Callable[[], None] = lambda: None,
        sites: Mapping[str, Site] | None = None,
    ) -> None:  # fmt: skip
        """Take what it works with.

        Args:
            db: the database.
            pool: gives places back.
            tenancy: names projects.
            clusters: lines to engines, by the name of their cluster.
            diagnose: says why attempts ended.
            clock: the time.
            settings: of jobs.
            lost_after_s: by cluster, where it is other than the setting.
            find_checkpoint: returns the last good checkpoint in a folder; may block, runs in a thread.
            wake: called when places were given back.
            sites: what launchers have to know of clusters, by name.
        """
        self._db, self._pool, self._tenancy, self._clusters = db, pool, tenancy, clusters
        self._diagnose, self._clock, self._settings = diagnose, clock, settings
        self._lost_after_s, self._find_checkpoint, self._wake = lost_after_s or {}, find_checkpoint, wake
        self._sites = sites or {}
        self._troubles = log.Seldom(clock)
        self._memories = {name: _Memory() for name in clusters}

    async def look(self, cluster: str) -> TickReport:
        """Look at every attempt of a cluster that has not ended, and do what is next."""
        async with self._db.reading() as tx:
            live = await self._live(tx, cluster)
            if not live:
                self._memories[cluster] = _Memory()
                return TickReport()
            cancelled = await store.cancelled_among(tx, {attempt.job_id for attempt in live})
            evicted = frozenset(await self._pool.to_evict(tx))
        self._memories[cluster].keep(attempt.key for attempt in live)
        seen = await self._observe(cluster, [attempt.key for attempt in live])
        if seen is None:
            return TickReport({"unanswered": 1})
        self._count_hidden(cluster, live, seen)
        looked_for = live if not isinstance(seen, LateLook) else [one for one in live if one.key in seen]
        views = [self._view(one, cancelled, evicted, seen) for one in looked_for]
        steps = plan(views, seen)
        attempts = {attempt.key: attempt for attempt in live}
        done = await self._write(steps, attempts)
        done["tell"] = await self._tell_waits(cluster, live, seen)
        done += await self._act(steps, attempts)
        return TickReport({name: count for name, count in sorted(done.items()) if count})

    async def _live(self, tx: Tx, cluster: str) -> list[Attempt]:
        """Return the attempts that have not ended, in order; read whole only where something has changed."""
        marks = {AttemptKey(mark[0], mark[1]): mark for mark in await store.live_marks(tx, cluster)}
        rows = self._memories[cluster].rows
        fresh = [key for key, mark in marks.items() if (known := rows.get(key)) is None or known[0] != mark]
        for key, attempt in (await store.read_attempts(tx, fresh)).items() if fresh else ():
            rows[key] = (marks[key], attempt)
        return [rows[key][1] for key in marks if key in rows]

    def note(self, cluster: str) -> str:
        """Say what looks at a cluster leave out that they showed before; empty when nothing."""
        memory = self._memories[cluster]
        if not memory.hidden:
            return ""
        return f"It does not show {memory.hidden} of the {memory.running} attempts that run there."

    # -- look ------------------------------------------------------------------------------------------------------

    async def _observe(self, cluster: str, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation] | None:
        """Return what the engine shows; None when it does not answer."""
        try:
            seen = await self._clusters[cluster].observe(keys)
        except StillAsking:
            return None
        except EngineUnavailable as error:
            if self._troubles.is_due(cluster):
                _logger.warning("an engine does not answer", cluster=cluster, why=error.sentence)
            return None
        self._troubles.is_over(cluster)
        return seen

    def _count_hidden(self, cluster: str, live: Sequence[Attempt], seen: Mapping[AttemptKey, Observation]) -> None:
        if isinstance(seen, LateLook):
            return
        running = [one.key for one in live if one.state is JobState.RUNNING]
        memory = self._memories[cluster]
        memory.running, memory.hidden = len(running), sum(key not in seen for key in running)

    def _view(
        self, attempt: Attempt, cancelled: Mapping[str, str], evicted: frozenset[AttemptKey],
        seen: Mapping[AttemptKey, Observation],
    ) -> View:  # fmt: skip
        key, now_s, memory = attempt.key, self._clock.monotonic_s(), self._memories[attempt.cluster]
        lost_after_s = self._lost_after_s.get(attempt.cluster, self._settings.lost_after_s)
        unseen_s = self._unseen_s(attempt, seen, now_s, lost_after_s)
        stop = cancelled.get(attempt.job_id) or attempt.stop_reason or (DRAINED if key in evicted else "")
        again_s = self._settings.ask_again_s
        return View(
            attempt,
            stop=stop,
            unseen_s=unseen_s,
            lost_after_s=lost_after_s,
            may_submit=now_s - memory.submitted_s.get(key, -again_s) >= again_s,
            stop_asked=now_s - memory.stopped_s.get(key, -again_s) < again_s,
        )

    def _unseen_s(
        self, attempt: Attempt, seen: Mapping[AttemptKey, Observation], now_s: float, lost_after_s: float
    ) -> float:
        """Return for how long looks have not shown it.

        A time without looks counts for little: while this process stood still, another one led, or the engine did not
        answer, nobody knows what it would have shown, and its first answers may be partial. While the engine was given
        it and has not said what became of that, it counts for nothing: it may start at any moment.
        """
        key, unseen = attempt.key, self._memories[attempt.cluster].unseen
        if key in seen or self._clusters[attempt.cluster].is_submitting(key):
            unseen.pop(key, None)
            return 0.0
        before = unseen.get(key, _Unseen(0.0, now_s))
        for_s = before.for_s + min(now_s - before.looked_s, lost_after_s / _FEWEST_LOOKS)
        unseen[key] = _Unseen(for_s, now_s)
        return for_s

    # -- write -----------------------------------------------------------------------------------------------------

    async def _write(self, steps: Sequence[Step], attempts: Mapping[AttemptKey, Attempt]) -> Counter[str]:
        """Write down what was seen: starts, ends, and why the platform is about to stop something."""
        began = {step.key: step.seen for step in steps if isinstance(step, Began)}
        over = {step.key: self._seen_end(step) for step in steps if isinstance(step, Ended | Lost | Never)}
        stops = {
            step.key: step.why
            for step in steps
            if isinstance(step, Stop | Never) and step.why == DRAINED and not attempts[step.key].stop_reason
        }
        told = {key: replace(attempts[key], stop_reason=stops.get(key, attempts[key].stop_reason)) for key in over}
        ends = await self._explain([(told[key], seen) for key, seen in over.items()])
        return await self._save(began, ends, stops) if began or ends or stops else Counter()

    async def _tell_waits(self, cluster: str, live: Sequence[Attempt], seen: Mapping[AttemptKey, Observation]) -> int:
        """Write down why attempts wait in their cluster, where it says something else than before."""
        told, news = self._memories[cluster].told, dict[AttemptKey, str]()
        for attempt in live:
            found = seen.get(attempt.key)
            if attempt.state is JobState.PENDING and found is not None and found.phase is Phase.PENDING:
                sentence = waits_in_cluster(found)
                if told.get(attempt.key, BEING_STARTED) != sentence:
                    news[attempt.key] = sentence
        if not news:
            return 0
        async with self._db.transaction(cause="attempts") as tx:
            jobs = await group_store.lock_jobs(tx, {key.job_id for key in news})
            fit = [
                replace(jobs[key.job_id], sentence=sentence)
                for key, sentence in sorted(news.items())
                if jobs[key.job_id].attempt == key.number
                and (jobs[key.job_id].state, jobs[key.job_id].reason) == (JobState.PENDING, "Starting")
                and jobs[key.job_id].cancel_at is None
            ]
            await store.update_jobs(tx, fit)
        told.update(news)
        return len(fit)

    async def _save(
        self, began: Mapping[AttemptKey, Observation], ends: Mapping[AttemptKey, _End], stops: Mapping[AttemptKey, str]
    ) -> Counter[str]:
        keys = {*began, *ends, *stops}
        done: Counter[str] = Counter()
        async with self._db.transaction(cause="attempts") as tx:
            jobs = await group_store.lock_jobs(tx, {key.job_id for key in keys})
            attempts = await store.lock_attempts(tx, keys)
            current = {
                key
                for key, one in attempts.items()
                if one.state not in TERMINAL and jobs[key.job_id].attempt == key.number
            }
            for key in sorted(current):
                if key in began and attempts[key].started_at is None:
                    jobs[key.job_id], attempts[key], told = begin(
                        jobs[key.job_id], attempts[key], began[key], now=tx.now
                    )
                    tx.emit(told)
                    done["begin"] += 1
                if key in stops and not attempts[key].stop_reason:
                    attempts[key] = replace(attempts[key], stop_reason=stops[key], stop_asked_at=tx.now)
                    tx.emit(stop_asked(attempts[key]))
                if key in ends:
                    jobs[key.job_id], attempts[key] = self._conclude(tx, jobs[key.job_id], attempts[key], ends[key])
                    done["end"] += 1
            changed = [jobs[job_id] for job_id in sorted({key.job_id for key in current})]
            await store.update_jobs(tx, changed)
            await store.update_attempts(tx, [attempts[key] for key in sorted(current)])
            ran = [run_of(jobs[key.job_id], attempts[key]) for key in sorted(current) if jobs[key.job_id].has_ended]
            await run_store.insert_runs(tx, [row for row in ran if row is not None])
            await store.drop_secrets(tx, [job.id for job in changed if job.has_ended and job.spec.secrets])
            await follow(tx, [job for job in changed if job.has_ended])
            over = [key for key in sorted(current) if key in ends]
            if over:
                await self._pool.release_many(tx, [(key, attempts[key].finished_at) for key in over])
                tx.afterwards(self._wake)
        return done

    def _conclude(self, tx: Tx, job: Job, attempt: Attempt, end: _End) -> tuple[Job, Attempt]:
        job, attempt, told = conclude(job, attempt, end.seen, end.found, now=tx.now, checkpoint=end.checkpoint)
        tx.emit(told)
        return job, attempt

    def _seen_end(self, step: Ended | Lost | Never) -> Observation:
        now = self._clock.now()
        match step:
            case Ended():
                return step.seen
            case Lost():
                why = Evidence("engine", "the engine answers and no longer shows it", now)
                return Observation(step.key, Phase.ENDED, finished_at=now, end=End.LOST, evidence=(why,))
            case Never():
                why = Evidence("engine", "it was to stop before its first process, and the engine has none of it", now)
                return Observation(step.key, Phase.ENDED, finished_at=now, end=End.STOPPED, evidence=(why,))

    async def _explain(self, over: Sequence[tuple[Attempt, Observation]]) -> dict[AttemptKey, _End]:
        """Find out why attempts ended, and from where others could go on."""
        if not over:
            return {}
        async with self._db.reading() as tx:
            jobs = await store.read_jobs(tx, {attempt.job_id for attempt, _ in over})
        found = await _each(over, lambda one: self._explain_one(jobs[one[0].job_id], *one))
        return {attempt.key: end for (attempt, _), end in zip(over, found, strict=True)}

    async def _explain_one(self, job: Job, attempt: Attempt, seen: Observation) -> _End:
        stop = job.cancel_reason if job.cancel_at is not None else attempt.stop_reason
        is_success = seen.end is End.EXITED and seen.exit_code == 0
        checkpoint = None
        if job.checkpoint_dir and not is_success:
            checkpoint = await asyncio.to_thread(self._find_checkpoint, job.checkpoint_dir)
        wanted = job.spec.resources
        facts = AttemptFacts(
            seen,
            output={} if is_success else await self._ends_of_output(attempt, seen),
            stop_reason="Cancelled" if stop and job.cancel_at is not None else stop,
            stop_sentence="" if job.cancel_at is not None else attempt.stop_sentence,
            time_limit_s=job.spec.time_limit_s,
            memory_bytes=wanted.memory_bytes or None,
            gpu_memory_bytes=wanted.gpu.memory_bytes if wanted.gpu else None,
        )
        return _End(seen, self._diagnose(facts), checkpoint)

    async def _ends_of_output(self, attempt: Attempt, seen: Observation) -> dict[int, str]:
        """Return the end of what ranks printed; the one that ended the attempt first, others up to a bound."""
        engine, most = self._clusters[attempt.cluster], self._settings.diagnosed_output_bytes
        first = [seen.rank] if seen.rank is not None else []
        others = [rank.rank for rank in attempt.ranks if rank.rank not in first]
        output: dict[int, str] = {}
        for rank in [*first, *others][: self._settings.diagnosed_ranks]:
            kept = bytearray()
            try:
                async for chunk in engine.logs(attempt.key, rank=rank, offset=-most):
                    kept += chunk.data
            except EngineUnavailable:
                break
            output[rank] = bytes(kept[-most:]).decode("utf-8", "replace")
        return output

    # -- act -------------------------------------------------------------------------------------------------------

    async def _act(self, steps: Sequence[Step], attempts: Mapping[AttemptKey, Attempt]) -> Counter[str]:
        """Tell the engines: start, stop, forget."""
        done: Counter[str] = Counter()
        submits = [step.key for step in steps if isinstance(step, Submit)]
        stops = [step for step in steps if isinstance(step, Stop)]
        over = [step.key for step in steps if isinstance(step, Ended)]
        if submits:
            done += await self._submit(submits, attempts)
        done["stop"] = await self._told(stops, lambda one: self._stop(attempts[one.key], one))
        done["forget"] = await self._told(over, lambda key: self._clusters[attempts[key].cluster].forget(key))
        return done

    async def _submit(self, keys: Sequence[AttemptKey], attempts: Mapping[AttemptKey, Attempt]) -> Counter[str]:
        async with self._db.reading() as tx:
            jobs = await store.read_jobs(tx, {key.job_id for key in keys})
            secrets = await store.secrets_of(tx, [job.id for job in jobs.values() if job.spec.secrets])
            ids = {job.project_id for job in jobs.values()}
            known = await self._tenancy.projects(tx, ids=ids, archived=True, limit=len(ids))
            current = await store.states_of_attempts(tx, keys)
        names = {project.id: project.name for project in known}
        refused: dict[AttemptKey, _End] = {}

        async def submit(key: AttemptKey) -> None:
            attempt, job = attempts[key], jobs[key.job_id]
            launch = launch_of(
                job, attempt, secrets.get(job.id, {}), project=names.get(job.project_id, job.project_id),
                site=self._sites.get(attempt.cluster, ANY_SITE),
            )  # fmt: skip
            self._memories[attempt.cluster].submitted_s[key] = self._clock.monotonic_s()
            try:
                await self._clusters[attempt.cluster].submit(launch)
            except EngineRefused as error:
                now = self._clock.now()
                end = End.NODE_REFUSED if isinstance(error, NodeRefused) else End.REFUSED
                why = Evidence("engine", error.sentence, now)
                seen = Observation(key, Phase.ENDED, finished_at=now, end=end, evidence=(why,))
                refused.update(await self._explain([(attempt, seen)]))

        # Cancelled or moved away since it was looked at: not even started.
        fit = [key for key in keys if current.get(key) not in TERMINAL and jobs[key.job_id].cancel_at is None]
        done = Counter({"submit": await self._told(fit, submit)})
        if refused:
            done += await self._save({}, refused, {})
        return done

    async def _stop(self, attempt: Attempt, step: Stop) -> None:
        self._memories[attempt.cluster].stopped_s[step.key] = self._clock.monotonic_s()
        await self._clusters[attempt.cluster].cancel(step.key, grace_s=step.grace_s)

    async def _told(self, what: Sequence[T], call: Callable[[T], Awaitable[None]]) -> int:
        """Make one call for each, some at once; an engine that does not answer is asked again by a later tick."""

        async def one(each: T) -> bool:
            try:
                await call(each)
                self._troubles.is_over(each)
            except StillAsking:  # told once, when it became overdue
                return False
            except EngineUnavailable as error:
                if self._troubles.is_due(each):
                    _logger.warning("an engine did not take a call", what=str(each)[:120], why=error.sentence)
                return False
            return True

        return sum(await _each(what, one, at_once=self._settings.at_once))


async def _each(what: Iterable[T], call: Callable[[T], Awaitable[R]], *, at_once: int = 16) -> list[R]:
    """Return what calls give, so many at a time, in order."""
    turn = asyncio.Semaphore(at_once)

    async def one(each: T) -> R:
        async with turn:
            return await call(each)

    return list(await asyncio.gather(*(one(each) for each in what)))
