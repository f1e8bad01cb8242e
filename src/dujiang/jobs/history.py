"""The proof that every job stands where its history says, and that its history is a legal one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dujiang.jobs import store
from dujiang.jobs.domain import JOB_STATES, TERMINAL, JobState
from dujiang.kit import journal
from dujiang.kit.db import Tx
from dujiang.kit.journal import Record
from dujiang.pool.service import PoolService

_TYPES = ("JobSubmitted", "JobStarted", "JobRetried", "JobEnded")
_PAGE = 5000


@dataclass(frozen=True, slots=True)
class Breach:
    """A row that does not fit."""

    row: str
    sentence: str


@dataclass(slots=True)
class _Story:
    """A job as its records tell it."""

    states: list[JobState]
    attempt: int = 0
    """The latest that began or ended."""
    breach: str = ""

    def tell(self, record: Record) -> None:
        """Add what a record says."""
        before = self.states[-1]
        match record.type:
            case "JobSubmitted":
                self.breach = self.breach or "it was submitted twice"
                return
            case "JobStarted":
                state, number = JobState.RUNNING, int(record.payload["attempt"])
                if number <= self.attempt:
                    self.breach = self.breach or f"attempt {number} began after attempt {self.attempt}"
            case "JobRetried":
                state, number = JobState.PENDING, int(record.payload["attempt"])
            case _:
                state, number = JobState(record.payload["state"]), int(record.payload["attempt"])
        self.attempt = max(self.attempt, number)
        if state is before is JobState.PENDING:
            return  # an attempt that never began was followed by another
        if state not in JOB_STATES.transitions[before]:
            self.breach = self.breach or f"record {record.seq} makes it {state} after {before}"
        self.states.append(state)


async def check_histories(tx: Tx) -> tuple[int, list[Breach]]:
    """Walk every job's records; return how many jobs there are, and those that do not fit. Reads all of both."""
    stories: dict[str, _Story] = {}
    breaches: list[Breach] = []
    after = 0
    while records := await journal.read(tx.connection, after=after, limit=_PAGE, types=_TYPES):
        after = records[-1].seq
        for record in records:
            known = stories.get(record.subject)
            if known is not None:
                known.tell(record)
            elif record.type == "JobSubmitted":
                stories[record.subject] = _Story([JOB_STATES.start])
            else:
                breaches.append(Breach(record.subject, f"record {record.seq} tells of a job that was never submitted"))
                stories[record.subject] = _Story([JOB_STATES.start])
    rows = await store.facts_of_all(tx)
    for row in rows:
        breaches += _compare(row.id, JobState(row.state), row.waits, row.finished_at is not None, stories)
    known_ids = {row.id for row in rows}
    breaches += [Breach(one, "its records are there, the job is not") for one in sorted(stories.keys() - known_ids)]
    return len(rows), breaches


def _compare(job_id: str, state: JobState, waits: bool, is_over: bool, stories: dict[str, _Story]) -> Iterable[Breach]:
    story = stories.get(job_id)
    if story is None:
        yield Breach(job_id, "it has no record of its submission")
        return
    if story.breach:
        yield Breach(job_id, story.breach)
    if story.states[-1] is not state:
        yield Breach(job_id, f"it is {state}, its records say {story.states[-1]}")
    if (state in TERMINAL) != is_over:
        yield Breach(job_id, f"it is {state} and {'has' if is_over else 'has not'} a time of its end")
    if waits and state is not JobState.PENDING:
        yield Breach(job_id, f"it is {state} and waits for a place")


async def check_allocations(tx: Tx, pool: PoolService) -> tuple[int, list[Breach]]:
    """Compare live attempts with live allocations: each holds what it was given, and nothing else is held."""
    live = {attempt.key for attempt in await store.live_attempts(tx)}
    held = set(await pool.live(tx))
    breaches = [Breach(str(key), "it holds a place and has ended, or never was") for key in sorted(held - live)]
    breaches += [Breach(str(key), "it has not ended and holds no place") for key in sorted(live - held)]
    return len(held), breaches
