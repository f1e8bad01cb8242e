"""The proof that every job stands where its history says, and that its history is a legal one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dujiang.jobs import group_store, store
from dujiang.jobs.domain import JOB_STATES, TERMINAL, Held, JobState
from dujiang.kit import journal
from dujiang.kit.db import Tx
from dujiang.kit.journal import Record
from dujiang.pool.service import PoolService

_TYPES = ("JobSubmitted", "JobStarted", "JobRetried", "JobEnded")
_AFTER = {"JobStarted": JobState.RUNNING, "JobRetried": JobState.PENDING}
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
        if record.type == "JobSubmitted":
            self.breach = self.breach or "it was submitted twice"
            return
        try:
            number = int(record.payload["attempt"])
            state = _AFTER.get(record.type) or JobState(record.payload["state"])
        except (KeyError, TypeError, ValueError):
            self.breach = self.breach or f"record {record.seq} does not say what a {record.type} says"
            return
        if record.type == "JobStarted" and number <= self.attempt:
            self.breach = self.breach or f"attempt {number} began after attempt {self.attempt}"
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
    attempts = await store.states_of_all_attempts(tx)
    for row in rows:
        breaches += _compare(row, stories)
        breaches += _compare_attempts(row, attempts.pop(row.id, []))
    breaches += [Breach(one, "its attempts are there, the job is not") for one in sorted(attempts)]
    known_ids = {row.id for row in rows}
    breaches += [Breach(one, "its records are there, the job is not") for one in sorted(stories.keys() - known_ids)]
    breaches += await _check_held(tx)
    return len(rows), breaches


async def _check_held(tx: Tx) -> list[Breach]:
    """Return jobs that are held for nothing: what they wait for has ended, or nobody takes the turn of their array."""
    held = await group_store.all_held(tx)
    waiting = {job_id for job_id, why, _ in held if why is Held.DEPENDENCY}
    edges = [edge for edge in await group_store.all_open(tx) if edge.job_id in waiting]
    on = await group_store.standings(tx, {edge.on_id for edge in edges})
    over = [edge for edge in edges if edge.on_id not in on or on[edge.on_id].has_ended]
    breaches = [Breach(edge.job_id, f"it waits for {edge.on_id}, which has ended") for edge in over]
    waits = {edge.job_id for edge in edges}
    breaches += [Breach(job_id, "it waits for a job, and for none of all") for job_id in sorted(waiting - waits)]
    turns = {array_id for _, why, array_id in held if why is Held.ARRAY_LIMIT and array_id is not None}
    for array in (await group_store.read_arrays(tx, turns)).values():
        if (at_work := await group_store.at_work(tx, array.id)) < (array.at_once or 0):
            breaches.append(Breach(array.id, f"{at_work} of its tasks are at work, {array.at_once} may be"))
    return breaches


def _compare(row: Any, stories: Mapping[str, _Story]) -> Iterable[Breach]:
    story = stories.get(row.id)
    if story is None:
        yield Breach(row.id, "it has no record of its submission")
        return
    if story.breach:
        yield Breach(row.id, story.breach)
    if story.states[-1] != row.state:
        yield Breach(row.id, f"it is {row.state}, its records say {story.states[-1]}")
    is_over = row.finished_at is not None
    if (row.state in TERMINAL) != is_over:
        yield Breach(row.id, f"it is {row.state} and {'has' if is_over else 'has not'} a time of its end")
    if row.waits and row.state != JobState.PENDING:
        yield Breach(row.id, f"it is {row.state} and waits for a place")


def _compare_attempts(row: Any, attempts: Sequence[tuple[int, str]]) -> Iterable[Breach]:
    """Compare a job with its attempts: all but the last have ended, and the last stands where the job stands."""
    numbers = [number for number, _ in attempts]
    if numbers != list(range(1, row.attempt + 1)):
        yield Breach(row.id, f"its latest attempt is {row.attempt}, there are {numbers or 'none'}")
        return
    for number, state in attempts[:-1]:
        if state not in TERMINAL:
            yield Breach(f"{row.id}.{number}", f"it is {state}, and attempt {number + 1} followed it")
    if not attempts:
        return
    number, last = attempts[-1]
    if row.state == JobState.PENDING:
        fits = (last in TERMINAL) if row.waits else last == JobState.PENDING
    else:  # a job that was cancelled while it waited ends otherwise than its last attempt
        fits = last == row.state or (row.state == JobState.CANCELLED and last in TERMINAL)
    if not fits:
        waits = " and waits" if row.waits else ""
        yield Breach(f"{row.id}.{number}", f"it is {last}, the job is {row.state}{waits}")


async def check_allocations(tx: Tx, pool: PoolService) -> tuple[int, list[Breach]]:
    """Compare live attempts with live allocations: each holds what it was given, and nothing else is held."""
    live = {attempt.key for attempt in await store.live_attempts(tx)}
    held = set(await pool.live(tx))
    breaches = [Breach(str(key), "it holds a place and has ended, or never was") for key in sorted(held - live)]
    breaches += [Breach(str(key), "it has not ended and holds no place") for key in sorted(live - held)]
    return len(held), breaches
