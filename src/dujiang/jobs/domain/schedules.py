"""Schedules: work that is submitted again and again, at the times of a cron expression. Pure.

Decides when a schedule is due and what becomes of it then. Expressions, and what changes of summer time do to them, are
`cronsim`'s, which follows Debian's cron: a time that is skipped runs right after, one that comes twice runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from dujiang.jobs.spec import JobSpec
from dujiang.kit.errors import Conflict, Invalid, NotFound, did_you_mean

DEFAULT_CATCH_UP_S: Final = 3600.0
LEAST_CATCH_UP_S: Final = 60.0
"""Less would miss a run when the platform is merely busy."""
MOST_CATCH_UP_S: Final = 7 * 86400.0
_FIELDS: Final = 5
_LONGEST: Final = 100
_INSTEAD: Final = 'write minute, hour, day, month and weekday, such as "0 3 * * *" for every night at three'


class BadCron(Invalid):
    """A cron expression that cannot be read, or that is never due."""

    code, title = "bad_cron", "The cron expression cannot be used"


class BadTimeZone(Invalid):
    """No time zone of that name."""

    code, title = "bad_time_zone", "There is no such time zone"


class NoSuchSchedule(NotFound):
    """No schedule of that name, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_schedule"


class ScheduleNameTaken(Conflict):
    """The project has a schedule of that name."""

    code: ClassVar[str] = "schedule_name_taken"
    title: ClassVar[str] = "The name is taken"


class RunNotOver(Conflict):
    """The run before has not ended, and the schedule lets no two run at the same time."""

    code: ClassVar[str] = "run_not_over"
    title: ClassVar[str] = "The run before has not ended"


class Overlap(StrEnum):
    """What happens when a run is due and the one before has not ended."""

    ALLOW = "allow"
    """Both run."""
    SKIP = "skip"
    """The one that is due is left out."""
    REPLACE = "replace"
    """The one before is cancelled."""


class Outcome(StrEnum):
    """What became of a time at which a schedule was due."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"
    """The run before had not ended."""
    MISSED = "missed"
    """Nobody looked in time."""
    REFUSED = "refused"
    """The work could not be submitted."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Work, and when to submit it."""

    id: str
    project_id: str
    name: str
    cron: str
    time_zone: str
    spec: JobSpec
    """Secrets are left out, as in a job."""
    overlap: Overlap
    catch_up_s: float
    """How late a run may still begin, after a time in which the platform did not run."""
    created_by: str
    """User id; runs are submitted in this user's name, and with what they may do then."""
    created_at: datetime
    looked_at: datetime
    """What was due until then has been seen to."""
    next_at: datetime | None
    """When it is due next; None while it is paused, or when that time never comes."""
    paused_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A time at which a schedule was due, or at which someone ran it."""

    schedule_id: str
    due_at: datetime
    outcome: Outcome
    work_id: str = ""
    """The job or array that was submitted."""
    by_hand: bool = False
    sentence: str = ""
    """Why nothing was submitted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look at a schedule."""

    next_at: datetime | None
    run: Run | None = None
    """None when nothing was due."""
    cancel: tuple[str, ...] = ()
    """Earlier work that has to make way."""


def look(schedule: Schedule, live: Sequence[str], *, now: datetime) -> Verdict:
    """Return what is to be done with a schedule now: never more than one run, however long nobody looked.

    Args:
        schedule: not paused.
        live: its earlier work that has not ended.
        now: the time. Before `looked_at` when the clock was set back: then nothing is due, and the next time is found
            anew, so that a clock that was wrong once does not stop the schedule. A time that was seen to before is
            known by its row.
    """
    coming = next_due(schedule.cron, schedule.time_zone, now)
    if schedule.next_at is None or schedule.next_at > now:
        return Verdict(coming)
    latest = _latest_due(schedule, now)
    if latest is None:
        sentence = f"It was due when nobody looked, more than {schedule.catch_up_s:.0f} s ago."
        return Verdict(coming, Run(schedule.id, schedule.next_at, Outcome.MISSED, sentence=sentence))
    if live and schedule.overlap is Overlap.SKIP:
        sentence = f"{live[0]} of the run before had not ended."
        return Verdict(coming, Run(schedule.id, latest, Outcome.SKIPPED, sentence=sentence))
    cancel = tuple(live) if schedule.overlap is Overlap.REPLACE else ()
    return Verdict(coming, Run(schedule.id, latest, Outcome.SUBMITTED), cancel)


def next_due(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """Return the first time after another at which an expression is due, in UTC; None when that never comes.

    Raises:
        BadCron, BadTimeZone: not such.
    """
    times = _expression(cron, after.astimezone(zone(time_zone)))
    for due in times:
        if (at := due.astimezone(UTC)) > after:
            return at
    return None


def check(cron: str, time_zone: str, *, now: datetime) -> datetime:
    """Return when an expression is due next.

    Raises:
        BadCron: it cannot be read, or is never due.
        BadTimeZone: there is no such zone.
    """
    due = next_due(cron, time_zone, now)
    if due is None:
        raise BadCron(f'"{cron}" is due at no time of the next fifty years; {_INSTEAD}.')
    return due


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    """Return a time zone.

    Raises:
        BadTimeZone: there is none of that name.
    """
    known = available_timezones()
    if name not in known:
        shown = "".join(c if c.isprintable() else "?" for c in name[:64])
        raise BadTimeZone(f'There is no time zone "{shown}".{did_you_mean(name, known)} Write such as Asia/Shanghai.')
    return ZoneInfo(name)


def _expression(cron: str, start: datetime) -> CronSim:
    shown = "".join(c if c.isprintable() else "?" for c in cron[:_LONGEST])
    if len(cron) > _LONGEST or len(cron.split()) != _FIELDS or not cron.isascii():
        raise BadCron(f'"{shown}" is no cron expression; {_INSTEAD}.')
    try:
        return CronSim(cron, start)
    except CronSimError as error:
        raise BadCron(f'"{shown}" is no cron expression ({str(error).lower()}); {_INSTEAD}.') from error


def _latest_due(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the latest time at which it was due that is not too long ago; at most a week's worth is walked."""
    assert schedule.next_at is not None, "nothing is due of a schedule that is paused"
    early = now - timedelta(seconds=max(schedule.catch_up_s, LEAST_CATCH_UP_S))
    latest = schedule.next_at if schedule.next_at >= early else None
    at = max(schedule.next_at, early)
    while (due := next_due(schedule.cron, schedule.time_zone, at)) is not None and due <= now:
        latest = at = due
    return latest
