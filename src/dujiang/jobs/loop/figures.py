"""Reads the figures that jobs report: lines of the first rank's output, and TensorBoard event files.

Readers and stores are `telemetry`'s; here it is decided which attempt is read when, and when all of it was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dujiang.engines.contract import Engine, EngineUnavailable
from dujiang.engines.lines import Overdue
from dujiang.jobs import store
from dujiang.jobs.domain import TERMINAL, Attempt
from dujiang.kit.db import Database, Tx
from dujiang.kit.loop import TickReport
from dujiang.telemetry.eventfiles import EventsRead
from dujiang.telemetry.service import Telemetry, read_event_files

_MOST_ATTEMPTS = 1000
_MOST_BYTES = 1 << 20
"""Of one attempt in one tick."""


@dataclass(frozen=True, slots=True)
class _Read:
    attempt: Attempt
    offset: int
    data: bytes
    events: Mapping[str, EventsRead]
    is_all: bool
    """The attempt has ended and nothing is left."""


class FigureLoop:
    """Feeds what attempts report to telemetry."""

    def __init__(self, *, db: Database, telemetry: Telemetry, clusters: Mapping[str, Engine]) -> None:
        self._db, self._telemetry, self._clusters = db, telemetry, clusters

    async def look(self, cluster: str) -> TickReport:
        """Read on in every attempt of a cluster that may have reported something."""
        async with self._db.reading() as tx:
            attempts = await store.unread_attempts(tx, cluster, _MOST_ATTEMPTS)
            places = [await self._place(tx, attempt) for attempt in attempts]
        read: list[_Read | None] = []
        for attempt, place in zip(attempts, places, strict=True):
            try:
                read.append(await self._read(attempt, *place))
            except Overdue:
                break  # the others would be waited for as long; what was read is written
            except EngineUnavailable:
                continue
        news = [one for one in read if one is not None and (one.data or one.events or one.is_all)]
        if not news:
            return TickReport()
        async with self._db.transaction(cause="figures") as tx:
            for one in news:
                await self._ingest(tx, one)
            await store.mark_read(tx, [one.attempt.key for one in news if one.is_all])
        return TickReport({"read": len(news)}, again=any(len(one.data) >= _MOST_BYTES for one in news))

    async def _place(self, tx: Tx, attempt: Attempt) -> tuple[int, dict[str, int]]:
        offset = await self._telemetry.output_offset(tx, attempt.job_id, attempt.number)
        return offset, await self._telemetry.event_offsets(tx, attempt.job_id, attempt.number)

    async def _read(self, attempt: Attempt, offset: int, event_offsets: dict[str, int]) -> _Read | None:
        engine = self._clusters.get(attempt.cluster)
        if engine is None:
            return None
        kept = bytearray()
        async for chunk in engine.logs(attempt.key, offset=offset):
            kept += chunk.data
            if len(kept) >= _MOST_BYTES:
                break
        folder = Path(attempt.output_dir) if attempt.output_dir else None
        events: Mapping[str, EventsRead] = {}
        if folder is not None and await asyncio.to_thread(_has_entries, folder):
            events = await asyncio.to_thread(read_event_files, folder, event_offsets)
        has_ended = attempt.state in TERMINAL
        return _Read(attempt, offset, bytes(kept), events, has_ended and len(kept) < _MOST_BYTES)

    async def _ingest(self, tx: Tx, one: _Read) -> None:
        job_id, number = one.attempt.job_id, one.attempt.number
        if one.data:
            await self._telemetry.ingest_output(tx, job_id, number, one.data, offset=one.offset, ended=one.is_all)
        if one.events:
            await self._telemetry.ingest_events(tx, job_id, number, dict(one.events))


def _has_entries(folder: Path) -> bool:
    try:
        return next(folder.iterdir(), None) is not None
    except OSError:
        return False
