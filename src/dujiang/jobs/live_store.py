"""Short looks at running attempts: what changes while they run, without the specifications and places that do not.

With 20,000 of them a look at whole rows takes seconds; these take a few columns each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import BigInteger, bindparam, func, select, type_coerce, update

from dujiang.engines.contract import AttemptKey
from dujiang.jobs.domain import TERMINAL, JobState, Use
from dujiang.jobs.store import attempts, jobs
from dujiang.kit.db import Tx
from dujiang.kit.tables import Json, UtcMicros

_LIVE: Final = sorted(frozenset(JobState) - TERMINAL)


class LiveFacts(NamedTuple):
    """What changes of an attempt that has not ended. Times are microseconds since 1970: most are only compared."""

    job_id: str
    number: int
    created_us: int
    started_us: int | None
    stop_asked_us: int | None
    """When the platform asked it to stop."""
    saved_us: int | None
    expected_s: float | None
    weight_milli: int
    ranks_most: int | None
    """What an elastic job was shrunk to; None when it may have all that it wants."""
    cancel_us: int | None
    """When someone asked for its job's end."""


async def live_facts(tx: Tx) -> list[LiveFacts]:
    """Return the attempts that have not ended, in no order."""
    return [LiveFacts._make(row) for row in await tx.execute(_FACTS)]


async def checkpointing(tx: Tx) -> list[tuple[AttemptKey, str, datetime | None]]:
    """Return (attempt, folder, last seen save) of running attempts that save themselves, in order."""
    return [(AttemptKey(row.job_id, row.number), row.checkpoint_dir, row.saved_at) for row in await tx.execute(_SAVING)]


async def note_saves(tx: Tx, saves: Mapping[AttemptKey, datetime]) -> None:
    """Write down when attempts saved themselves; those that have ended are passed over."""
    if saves:
        rows = [{"of_job": key.job_id, "of_number": key.number, "at": at} for key, at in sorted(saves.items())]
        await tx.execute(_NOTE_SAVE, rows)


async def running_keys(tx: Tx) -> Sequence[tuple[AttemptKey, str]]:
    """Return running attempts with the cluster of each, in order."""
    return [(AttemptKey(row.job_id, row.number), row.cluster) for row in await tx.execute(_RUNNING)]


@dataclass(frozen=True, slots=True)
class UseFacts:
    """What is judged of a running attempt beside what was measured."""

    key: AttemptKey
    weight_milli: int
    use: Use | None
    exempt_until: datetime | None
    ranks_most: int | None


async def use_facts(tx: Tx) -> list[UseFacts]:
    """Return running attempts that nobody has asked to stop, in order."""
    return [
        UseFacts(
            AttemptKey(row.job_id, row.number), row.weight_milli, Use.from_json(row.use) if row.use else None,
            row.exempt_until, row.ranks_most,
        )
        for row in await tx.execute(_USE)
    ]  # fmt: skip


async def note_use(tx: Tx, figures: Mapping[str, Use]) -> None:
    """Write down what jobs use; those that have ended are passed over."""
    if figures:
        await tx.execute(
            _NOTE_USE, [{"of_id": job_id, "use_": use.to_json()} for job_id, use in sorted(figures.items())]
        )


async def lost_device_s(tx: Tx, since: datetime) -> float:
    """Return what the stops that were asked for since then cost, in device-seconds."""
    return float((await tx.execute(_LOST, {"since": since})).scalar_one())


async def stops_since(tx: Tx, since: datetime, reason: str) -> int:
    """Return how many attempts were asked to stop for a reason since then."""
    return int((await tx.execute(_STOPS, {"since": since, "reason": reason})).scalar_one())


_a, _j = attempts.c, jobs.c
_JOINED = attempts.join(jobs, _j.id == _a.job_id)
_FACTS = (
    select(
        _a.job_id, _a.number, *(type_coerce(time, BigInteger) for time in (
            _a.created_at, _a.started_at, _a.stop_asked_at, _a.saved_at)),
        _a.expected_s, _j.weight_milli, _j.ranks_most, type_coerce(_j.cancel_at, BigInteger),
    )
    .select_from(_JOINED)
    .where(_a.state.in_(_LIVE))
)  # fmt: skip
_SAVING = (
    select(_a.job_id, _a.number, _j.checkpoint_dir, _a.saved_at)
    .select_from(_JOINED)
    .where(_a.state == JobState.RUNNING, _j.checkpoint_dir != "")
    .order_by(_a.job_id, _a.number)
)
_RUNNING = (
    select(_a.job_id, _a.number, _a.cluster).where(_a.state == JobState.RUNNING).order_by(_a.job_id, _a.number)
)  # fmt: skip
_USE = (
    select(_a.job_id, _a.number, _j.weight_milli, _j.use, _j.exempt_until, _j.ranks_most)
    .select_from(_JOINED)
    .where(_a.state == JobState.RUNNING, _a.stop_reason == "", _j.cancel_at.is_(None))
    .order_by(_a.job_id, _a.number)
)
_SINCE = _a.stop_asked_at >= bindparam("since", type_=UtcMicros())
_LOST = select(func.coalesce(func.sum(_a.stop_lost_device_s), 0.0)).where(_SINCE)
_STOPS = select(func.count()).select_from(attempts).where(_SINCE, _a.stop_reason == bindparam("reason"))
_NOTE_USE = (
    update(jobs)
    .where(_j.id == bindparam("of_id"), _j.state == JobState.RUNNING)
    .values(use=bindparam("use_", type_=Json))
)
_NOTE_SAVE = (
    update(attempts)
    .where(_a.job_id == bindparam("of_job"), _a.number == bindparam("of_number"), _a.state == JobState.RUNNING)
    .values(saved_at=bindparam("at", type_=UtcMicros()))
)
