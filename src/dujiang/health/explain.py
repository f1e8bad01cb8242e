"""`dujiang explain JOB`: one answer to "why does it wait" and "why did it fail", in plain words and with the proof.

Composes what others found out: the scheduler's reason for waiting, the diagnosis of each attempt, what the platform did
and does next. Pure; where the job comes from is for `api`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any

from dujiang.jobs.diagnosis import Blame, Diagnosis, Exhibit
from dujiang.jobs.domain import turned_away
from dujiang.kit.units import format_duration
from dujiang.scheduling.domain import FOR_GOOD

LONGEST_SHOWN = 300
"""Characters of an evidence line in the text; the answer's own field holds all of it."""
_AWAY = "NodeRefused"


class Topic(StrEnum):
    """Which question the job's situation raises."""

    WAITS = "waits"
    RUNS = "runs"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class WaitView:
    """Why a job is not started, as the scheduler told it."""

    reason: str
    """PascalCase, the scheduler's word."""
    detail: str
    """One sentence with its figures."""
    blocking: str = ""
    """The job or project in the way."""
    position: int | None = None
    suggestion: str = ""
    """The smallest change that would start it."""
    advice: str = ""
    earliest: datetime | None = None
    """The reserved start."""
    outlook: str = ""
    """When it starts by a plan of the future, in words; empty when none was made."""
    expected_at: datetime | None = None
    expected_after: datetime | None = None
    """It did not start yet then, and what is between was not looked at; None when `expected_at` is exact."""
    is_certain: bool | None = None
    """Whether that rests on time limits alone; None when it cannot be told."""
    expected_on: str = ""
    """The cluster."""
    otherwise: tuple[tuple[str, str], ...] = ()
    """What else would start it now: a word and a sentence for each way."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> WaitView:
        """Return the view of what `jobs` stores about a waiting job; members it does not give are left empty."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if row.get(name) is not None}
        earliest = known.get("earliest")
        if isinstance(earliest, str):
            known["earliest"] = datetime.fromisoformat(earliest)
        return cls(**{"reason": "", "detail": "", **known})


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt of a job."""

    number: int
    state: str
    node: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    diagnosis: Diagnosis | None = None
    """None while it runs, and for attempts whose verdict was not stored."""
    others: int = 0
    """How many nodes it has besides."""

    @property
    def where(self) -> str:
        """Return ` on n1 and 3 others`, or nothing where it has no node."""
        more = f" and {self.others} other{'s' if self.others > 1 else ''}" if self.others else ""
        return f" on {self.node}{more}" if self.node else ""

    @property
    def failed(self) -> bool:
        """Say whether it ended in another way than by success."""
        return self.diagnosis is not None and self.diagnosis.cause != "Succeeded"


@dataclass(frozen=True, slots=True)
class JobView:
    """What an explanation needs to know of a job."""

    id: str
    name: str
    state: str
    reason: str = ""
    """Why it is in that state, PascalCase."""
    is_final: bool = False
    since: datetime | None = None
    """When it came into its state."""
    attempts: tuple[AttemptView, ...] = ()
    wait: WaitView | None = None
    retry_limit: int | None = None
    """How often it may be run again after a failure; None when unknown."""
    resumes_from: str = ""
    """The checkpoint from which the next attempt goes on, or this one went on."""
    sentence: str = ""
    """Why it is in its state, for people; empty when nothing more is to be said."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer."""

    job_id: str
    topic: Topic
    headline: str
    """One line: state and the short of it."""
    why: tuple[str, ...]
    """Sentences, the most important first."""
    cause: str = ""
    """The reason as a word: the scheduler's while it waits, the diagnosis' once it ended."""
    blame: Blame | None = None
    confidence: float | None = None
    evidence: tuple[Exhibit, ...] = ()
    platform: tuple[str, ...] = ()
    """What the platform did and will do."""
    advice: tuple[str, ...] = ()
    """What the person can do."""
    weighed: tuple[str, ...] = ()
    """Other explanations, and why they were not taken."""
    history: tuple[str, ...] = ()
    """One line for each attempt before."""
    wait: WaitView | None = None
    """What the scheduler says, while it waits."""

    @property
    def text(self) -> str:
        """Return it as text for a terminal."""
        return "\n".join(_lines(self))


def explain(job: JobView, now: datetime) -> Explanation:
    """Return why a job is where it is.

    Args:
        job: with its attempts in order.
        now: for how long it has been so.
    """
    last = job.attempts[-1] if job.attempts else None
    ended = next((one for one in reversed(job.attempts) if one.failed), None)
    if not job.is_final and (last is None or last.diagnosis is not None):
        return _waiting(job, ended, now)
    if not job.is_final:
        return _running(job, last, ended, now)
    if last is None or last.diagnosis is None:
        topic = Topic.CANCELLED if job.state == "CANCELLED" else Topic.FAILED
        return Explanation(
            job.id,
            topic,
            _headline(job),
            (job.sentence or "It ended before it was started.",),
            job.reason,
            history=_history(job, 0),
        )
    if not last.failed:
        why = ("Its program reported success.",)
        return Explanation(job.id, Topic.COMPLETED, _headline(job), why, "Succeeded", history=_history(job, -1))
    return _failed(job, last, last.diagnosis)


def _waiting(job: JobView, ended: AttemptView | None, now: datetime) -> Explanation:
    wait = job.wait
    why, advice = ["The scheduler has not looked at it yet; it does within moments."], [""]
    if wait is not None:
        why = [wait.detail]
        if wait.position is not None:
            why.append(f"It is number {wait.position} of those that wait.")
        if wait.earliest is not None and wait.earliest != wait.expected_at:
            why.append(f"If nothing else changes it starts by {_time(wait.earliest)}.")
        why.append(wait.outlook)
        advice = [wait.suggestion, *(sentence for _, sentence in wait.otherwise), wait.advice]
    if refused := turned_away([(_cause(one), one.node) for one in job.attempts]):
        why.append(refused)
        advice = [*advice[:-1], f"Look at {job.attempts[-1].node}, and {_REFUSED}"]
    platform: list[str] = []
    if ended is not None and ended.diagnosis is not None:
        platform.append(f"Attempt {ended.number} ended: {ended.diagnosis.sentence}")
        platform.append(f"It is run again as attempt {ended.number + 1}{_resume(job)}.")
    elif wait is not None and wait.reason and wait.position is None:  # held: the scheduler does not look at it
        platform.append("After that it is looked at by itself, and starts as soon as there is room.")
    elif wait is not None and wait.advice == FOR_GOOD:
        platform.append("It waits until that limit is raised; it starts by itself then, as soon as there is room.")
    else:
        platform.append("It starts by itself as soon as there is room.")
    found = ended.diagnosis if ended else None
    return Explanation(
        job.id, Topic.WAITS, _headline(job, now), tuple(one for one in why if one), wait.reason if wait else job.reason,
        found.blame if found else None, found.confidence if found else None, found.evidence if found else (),
        tuple(platform), tuple(dict.fromkeys(one for one in advice if one)), history=_history(job, -1), wait=wait,
    )  # fmt: skip


_REFUSED = (
    "keep work off it while it takes none (`dujiang nodes cordon`), or name other nodes in the job (`placement`); the"
    " evidence has its cluster's own words."
)


def _running(job: JobView, last: AttemptView | None, ended: AttemptView | None, now: datetime) -> Explanation:
    number, where = (last.number, last.where) if last else (1, "")
    why = [f"Attempt {number} is {'running' if job.state == 'RUNNING' else job.state.lower()}{where}."]
    if job.sentence:
        why.append(job.sentence)
    if ended is not None and ended.diagnosis is not None:
        why.append(f"Attempt {ended.number} before it ended: {ended.diagnosis.sentence}")
    return Explanation(
        job.id, Topic.RUNS, _headline(job, now), tuple(why), job.reason,
        evidence=ended.diagnosis.evidence if ended and ended.diagnosis else (),
        platform=(f"It was run again{_resume(job)}.",) if ended else (), history=_history(job, -1),
    )  # fmt: skip


def _failed(job: JobView, last: AttemptView, found: Diagnosis) -> Explanation:
    topic = Topic.CANCELLED if job.state == "CANCELLED" else Topic.FAILED
    why = [found.sentence, _BLAME[found.blame]] if topic is Topic.FAILED else [found.sentence]
    if found.confidence < 0.5 and topic is Topic.FAILED:
        why.append("This is a guess: nothing proves it.")
    return Explanation(
        job.id, topic, _headline(job), tuple(why), found.cause, found.blame, found.confidence, found.evidence,
        tuple(_no_retry(job, last, found)) if topic is Topic.FAILED else (), (found.advice,) if found.advice else (),
        tuple(f"{one.cause}: {one.why_not}. ({_cut(one.line)})" for one in found.rivals), _history(job, -1),
    )  # fmt: skip


_BLAME = {
    Blame.USER: "The cause lies in the program, its input or what it asked for.",
    Blame.INFRASTRUCTURE: "The cause lies in the machines, not in the program.",
    Blame.PLATFORM: "The cause lies in the set-up of the platform, not in the program.",
    Blame.UNKNOWN: "Whose doing it was cannot be told.",
}


def _no_retry(job: JobView, last: AttemptView, found: Diagnosis) -> Iterator[str]:
    """Yield what the platform did, and why it does not run the job again."""
    if len(job.attempts) > 1:
        yield f"It was run {len(job.attempts)} times."
    if found.retryable is False:
        yield "It is not run again by itself: the same work would fail again."
    elif job.retry_limit is not None and last.number > job.retry_limit:
        allowed = "no retry was" if job.retry_limit == 0 else f"{job.retry_limit} of them were"
        yield f"It is not run again by itself: {allowed} allowed (retry.limit)."
    elif found.retryable is None:
        yield "It is not run again by itself: nothing says why it ended. `unknown` in `retry.on` would run it again."
    else:
        yield "It is not run again by itself: its retry policy does not take this cause."


def _resume(job: JobView) -> str:
    return f", from the checkpoint {job.resumes_from}" if job.resumes_from else ""


def _headline(job: JobView, now: datetime | None = None) -> str:
    name = f" ({job.name})" if job.name and job.name != job.id else ""
    reason = f", {job.reason}" if job.reason else ""
    since = (
        f" for {format_duration((now - job.since).total_seconds())}" if now and job.since and now > job.since else ""
    )
    return f"{job.id}{name} is {job.state}{since}{reason}."


def _history(job: JobView, end: int) -> tuple[str, ...]:
    """Return a line for each attempt but the last ones; one for several in a row that their nodes turned away."""
    lines: list[str] = []
    for is_refused, several in groupby(job.attempts[:end] if end else job.attempts, lambda one: _cause(one) == _AWAY):
        found = list(several)
        if is_refused and len(found) > 1:
            last = found[-1]
            lines.append(f"attempts {found[0].number} to {_attempt_line(last).removeprefix('attempt ')}")
        else:
            lines += map(_attempt_line, found)
    return tuple(lines)


def _cause(one: AttemptView) -> str:
    return one.diagnosis.cause if one.diagnosis else ""


def _attempt_line(one: AttemptView) -> str:
    took = ""
    if one.started_at and one.finished_at and one.finished_at >= one.started_at:
        took = f" after {format_duration((one.finished_at - one.started_at).total_seconds())}"
    said = f": {one.diagnosis.cause}, {one.diagnosis.sentence}" if one.diagnosis else ""
    return f"attempt {one.number}{one.where} {one.state}{took}{said}"


def _lines(told: Explanation) -> Iterator[str]:
    yield told.headline
    yield from (f"  {sentence}" for sentence in told.why)
    if told.evidence:
        yield "Evidence"
        for one in told.evidence:
            yield f"  [{one.source}] {_cut(one.line)}" + (f"  ({one.where})" if one.where else "")
    for title, sentences in (
        ("What the platform does", told.platform), ("What you can do", told.advice),
        ("Also weighed", told.weighed), ("Before", told.history),
    ):  # fmt: skip
        if sentences:
            yield title
            yield from (f"  {sentence}" for sentence in _wrapped(sentences))


def _wrapped(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        yield " ".join(sentence.split())


def _cut(line: str) -> str:
    """Return a line fit for a terminal: no control characters, not too long."""
    shown = "".join(char if char.isprintable() else " " for char in line.strip())
    return shown if len(shown) <= LONGEST_SHOWN else shown[: LONGEST_SHOWN - 3] + "..."


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
