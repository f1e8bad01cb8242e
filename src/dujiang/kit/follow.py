"""The journal as a live stream: records after a number, as they are written, by whichever replica."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from dujiang.kit import journal
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.errors import Invalid
from dujiang.kit.http import INT64_MAX, ServerEvent
from dujiang.kit.journal import Record

_LOOK_EVERY_S: Final = 0.25
_BATCH: Final = 500


async def follow(
    db: Database, clock: Clock, *, after: int | None, subject: str | None = None,
    project_ids: Sequence[str] | None = None, types: Sequence[str] | None = None, live: bool = True,
    is_last: Callable[[Record], bool] = lambda _record: False,
) -> AsyncIterator[ServerEvent]:  # fmt: skip
    """Yield records as server-sent events; the event's id is the record's number.

    Args:
        db: the database.
        clock: for the pause between looks.
        after: number of the last record that is known; None begins with what is written from now on.
        subject: only records of this object.
        project_ids: only records of these projects; None is all.
        types: only records of these types.
        live: go on with what is still to be written; else the stream ends with what there is.
        is_last: says after which record the stream ends.
    """
    at = after
    while True:
        async with db.reading() as tx:
            if at is None:
                at = await journal.latest_seq(tx.connection)
            records = await journal.read(
                tx.connection, after=at, limit=_BATCH, subject=subject, project_ids=project_ids, types=types
            )
        for record in records:
            at = record.seq
            yield ServerEvent(_told(record), event=record.type, id=str(record.seq))
            if is_last(record):
                return
        if len(records) < _BATCH:
            if not live:
                return
            await clock.sleep(_LOOK_EVERY_S)


def last_seen(header: str | None, query: int | None) -> int | None:
    """Return after which record a stream starts: what `Last-Event-ID` says, else the query.

    Raises:
        Invalid: the header is not a number that this stream gave.
    """
    if not header:
        return query
    if not (header.isascii() and header.isdecimal() and len(header) < 20) or int(header) > INT64_MAX:
        raise Invalid("Last-Event-ID is the `id` of the last event that came; leave it out to begin anew.")
    return int(header)


def _told(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq, "at": record.at.isoformat(), "actor": record.actor, "type": record.type,
        "subject": record.subject, "project_id": record.project_id, "payload": record.payload,
    }  # fmt: skip
