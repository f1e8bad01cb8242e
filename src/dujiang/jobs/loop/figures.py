"""Reads the figures that jobs report: lines of the first rank's output, and TensorBoard event files.

Readers and stores are `telemetry`'s; here it is decided which attempt is read when, and when all of it was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dujiang.engines.contract import AttemptKey, Engine, EngineUnavailable
from dujiang.engines.lines import Overdue
from dujiang.engines.outputs import OutputFile, OutputRefused, OutputUnreachable
from dujiang.jobs import store
from dujiang.jobs.domain import TERMINAL, Attempt
from dujiang.kit.db import Database, Tx
from dujiang.kit.loop import TickReport
from dujiang.telemetry.eventfiles import MOST_FILES, PREFIX, WINDOW_BYTES, EventsRead, prefix_of, read_events
from dujiang.telemetry.service import Telemetry, is_source

_MOST_ATTEMPTS = 1000
_MOST_BYTES = 1 << 20
"""Of one attempt's output in one tick."""
_MOST_WINDOWS = 4
"""Of one event file in one tick."""


@dataclass(frozen=True, slots=True)
class _Read:
    attempt: Attempt
    offset: int
    data: bytes
    events: Mapping[str, EventsRead]
    is_all: bool
    """The attempt has ended and nothing is left."""

    @property
    def is_much(self) -> bool:
        """Say whether more is there already."""
        return len(self.data) >= _MOST_BYTES or any(one.more for one in self.events.values())


class FigureLoop:
    """Feeds what attempts report to telemetry."""

    def __init__(self, *, db: Database, telemetry: Telemetry, clusters: Mapping[str, Engine]) -> None:
        self._db, self._telemetry, self._clusters = db, telemetry, clusters
        self._without_files: set[str] = set()
        """Clusters that said at this look that they give no files."""

    async def look(self, cluster: str) -> TickReport:
        """Read on in every attempt of a cluster that may have reported something."""
        async with self._db.reading() as tx:
            attempts = await store.unread_attempts(tx, cluster, _MOST_ATTEMPTS)
            places = [await self._place(tx, attempt) for attempt in attempts]
        read: list[_Read | None] = []
        self._without_files.discard(cluster)  # a folder may have been mounted since
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
        return TickReport({"read": len(news)}, again=any(one.is_much for one in news))

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
        read = _Read(attempt, offset, bytes(kept), await self._events(engine, attempt, event_offsets), is_all=False)
        return replace(read, is_all=attempt.state in TERMINAL and not read.is_much)

    async def _events(self, engine: Engine, attempt: Attempt, offsets: dict[str, int]) -> Mapping[str, EventsRead]:
        if attempt.cluster in self._without_files:
            return {}
        try:
            return await read_event_files(engine, attempt.key, offsets)
        except OutputUnreachable:
            self._without_files.add(attempt.cluster)
        except OutputRefused:
            pass  # it has no folder yet, or none that may be read
        return {}

    async def _ingest(self, tx: Tx, one: _Read) -> None:
        job_id, number = one.attempt.job_id, one.attempt.number
        if one.data:
            await self._telemetry.ingest_output(tx, job_id, number, one.data, offset=one.offset, ended=one.is_all)
        if one.events:
            await self._telemetry.ingest_events(tx, job_id, number, dict(one.events))


async def read_event_files(engine: Engine, key: AttemptKey, offsets: Mapping[str, int]) -> dict[str, EventsRead]:
    """Read on in every event file of an attempt's output folder.

    Args:
        engine: that ran it.
        key: of the attempt.
        offsets: what `Telemetry.event_offsets` returned.

    Returns:
        By relative path, only files in which something was read.

    Raises:
        OutputRefused, EngineUnavailable: the folder cannot be listed, or not now.
    """
    found: dict[str, EventsRead] = {}
    for file in await engine.outputs(key, prefix=PREFIX, most=MOST_FILES):
        offset = offsets.get(file.path, 0)
        if file.size_bytes <= offset or not is_source(file.path):
            continue
        read = await _read_on(engine, key, file, offset)
        if read.offset != offset:
            found[file.path] = read
    return found


async def _read_on(engine: Engine, key: AttemptKey, file: OutputFile, offset: int) -> EventsRead:
    whole = EventsRead((), offset)
    for _ in range(_MOST_WINDOWS):
        try:
            pieces = engine.output(key, file.path, offset=whole.offset, most_bytes=WINDOW_BYTES)
            data = b"".join([piece async for piece in pieces])
        except OutputRefused:  # exchanged since it was listed
            return replace(whole, more=False)
        read = await asyncio.to_thread(
            read_events, data, whole.offset, file.size_bytes, prefix=prefix_of(file.path)
        )  # fmt: skip
        if read.offset == whole.offset:
            return replace(whole, broken=read.broken, more=False)
        whole = replace(read, points=whole.points + read.points)
        if not read.more:
            break
    return whole
