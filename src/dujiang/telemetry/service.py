"""Recording and reading the metrics of jobs; the door for `jobs`, which owns the loop and the files.

Bounded by design: so many names an attempt, so many points a series. A series that grows longer loses every second
point of its older part (`domain.steps_to_drop`), so that its newest quarter is always whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dujiang.kit.db import Tx
from dujiang.telemetry import store
from dujiang.telemetry.domain import LONGEST_NAME, Flag, Point, find_flags, special_of, steps_to_drop
from dujiang.telemetry.eventfiles import EventsRead
from dujiang.telemetry.lines import MOST_NAMES, LineReader, LineState
from dujiang.telemetry.store import Series, Stored

LONGEST_SOURCE = 512
MOST_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a job is kept. Too little loses detail of long runs, too much fills the database."""

    names: int = MOST_NAMES
    """Metrics of one attempt."""
    points: int = 4000
    """Of one series."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of points handed in."""

    kept: int
    dropped: int
    """Of names beyond the limit."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over the steps of a job, its attempts joined."""

    name: str
    points: tuple[Stored, ...]
    flags: tuple[Flag, ...]


class Telemetry:
    """The metrics of jobs."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    async def record(self, tx: Tx, job_id: str, attempt: int, points: Iterable[Point]) -> Recorded:
        """Store points; the same step again replaces the value, and points without a time get that of `tx`."""
        by_name: dict[str, dict[int, Point]] = defaultdict(dict)
        total = 0
        for point in points:
            total += 1
            by_name[point.name][point.step] = point
        if not by_name:
            return Recorded(0, 0)
        known = {one.name: one for one in await store.all_series(tx, job_id, attempt)}
        room = self._limits.names - len(known)
        fresh = [name for name in by_name if name not in known]
        for name in fresh[max(0, room) :]:
            del by_name[name]
        rows = [_row(tx, job_id, attempt, point) for steps in by_name.values() for point in steps.values()]
        await store.upsert(tx, store.points, rows)
        summaries = []
        for name, steps in by_name.items():
            ordered = sorted(steps.values(), key=lambda point: point.step)
            stored = await self._thinned(tx, job_id, attempt, name, known.get(name), len(ordered))
            summaries.append(_summary(tx, job_id, attempt, ordered, known.get(name), stored))
        await store.upsert(tx, store.series, summaries)
        return Recorded(len(rows), total - sum(map(len, by_name.values())) if fresh[max(0, room) :] else 0)

    async def ingest_output(
        self, tx: Tx, job_id: str, attempt: int, data: bytes, *, offset: int, rank: int = 0, ended: bool = False
    ) -> int:
        """Take a piece of a rank's output; return the offset from which the next one is wanted.

        Bytes that were taken before are passed over, so that a piece may be given again. The offset returned may lie
        before the end of the piece: the line that has not ended is read again with what follows.

        Args:
            tx: the transaction; place and points are saved together.
            job_id: whose output it is.
            attempt: number of the attempt.
            data: any piece of the output, as written.
            offset: of its first byte.
            rank: only one rank of a job should be read: the others mostly report the same.
            ended: nothing follows, so the last line counts without its end.
        """
        source = f"output:{rank}"
        state = await store.cursor_of(tx, job_id, attempt, source)
        before = LineState.from_json(state) if state else LineState()
        reader = LineReader(LineState.from_json(before.to_json()))
        found = reader.feed(data, offset)
        if ended:
            found += reader.finish()
        await self.record(tx, job_id, attempt, found)
        if reader.state != before:
            await self._save_cursor(tx, job_id, attempt, source, reader.state.to_json())
        return reader.state.offset

    async def output_offset(self, tx: Tx, job_id: str, attempt: int, *, rank: int = 0) -> int:
        """Return the offset from which a rank's output is wanted."""
        state = await store.cursor_of(tx, job_id, attempt, f"output:{rank}")
        return int(state["offset"]) if state else 0

    async def event_offsets(self, tx: Tx, job_id: str, attempt: int) -> dict[str, int]:
        """Return how far each event file of an attempt was read, by its path under the output folder."""
        states = await store.cursors_of(tx, job_id, attempt)
        return {source[7:]: int(state["offset"]) for source, state in states.items() if source.startswith("events:")}

    async def ingest_events(self, tx: Tx, job_id: str, attempt: int, read: dict[str, EventsRead]) -> Recorded:
        """Store what was read of event files, by path under the output folder, with how far that was."""
        recorded = await self.record(tx, job_id, attempt, [point for one in read.values() for point in one.points])
        for relative, one in read.items():
            await self._save_cursor(tx, job_id, attempt, f"events:{relative}", {"offset": one.offset})
        return recorded

    async def latest(self, tx: Tx, job_id: str) -> list[Series]:
        """Return each metric of a job as its latest attempt reports it, by name."""
        return list({one.name: one for one in await store.all_series(tx, job_id)}.values())

    async def curve(
        self, tx: Tx, job_id: str, name: str, *, attempt: int | None = None, most: int = 500
    ) -> Curve | None:
        """Return a metric over the steps, or None when the job does not report it.

        Attempts are joined: from the first step of a later attempt on, only that attempt counts, since what the one
        before did beyond its checkpoint was done again. Flags are found in all points; of more than `most` points only
        some are returned, first, last and every NaN or infinity (as far as they fit) among them.
        """
        parts = [one for one in await store.all_series(tx, job_id, attempt) if one.name == name]
        joined: list[Stored] = []
        before: int | None = None
        for part in reversed(parts):
            if before is None or part.first_step < before:
                joined[:0] = await store.read_points(tx, job_id, name, part.attempt, before=before)
                before = part.first_step
        if not joined:
            return None
        flags = find_flags([Point(name, one.step, one.value, one.at) for one in joined])
        return Curve(name, tuple(_fewer(joined, most)), tuple(flags))

    async def _thinned(self, tx: Tx, job_id: str, attempt: int, name: str, known: Series | None, added: int) -> int:
        """Keep a series within its limit; return how many points it has at most (a step told twice counts twice)."""
        estimate = added + (known.points if known else 0)
        if estimate <= self._limits.points:
            return estimate
        count = await store.count_of(tx, job_id, attempt, name)
        while count > self._limits.points:
            gone = steps_to_drop(await store.steps_of(tx, job_id, attempt, name), self._limits.points)
            if not gone:
                break
            await store.drop_steps(tx, job_id, attempt, name, gone)
            count -= len(gone)
        return count

    async def _save_cursor(self, tx: Tx, job_id: str, attempt: int, source: str, state: dict[str, Any]) -> None:
        row = {"job_id": job_id, "attempt": attempt, "source": source, "state": state}
        await store.upsert(tx, store.cursors, [row])


def is_source(relative: str) -> bool:
    """Say whether it can be kept how far an event file of this path was read."""
    return len(relative) <= LONGEST_SOURCE - len("events:") and relative.isprintable()


def _row(tx: Tx, job_id: str, attempt: int, point: Point) -> dict[str, Any]:
    special = point.special
    return {
        "job_id": job_id, "attempt": attempt, "name": point.name[:LONGEST_NAME], "step": point.step,
        "value": None if special else point.value, "special": special.value if special else None,
        "at": point.at or tx.now,
    }  # fmt: skip


def _summary(
    tx: Tx, job_id: str, attempt: int, ordered: Sequence[Point], known: Series | None, stored: int
) -> dict[str, Any]:
    last = ordered[-1]
    value, step, at = last.value, last.step, last.at or tx.now
    if known is not None and known.last_step > step:
        value, step, at = known.last_value, known.last_step, known.last_at
    special = special_of(value)
    return {
        "job_id": job_id, "attempt": attempt, "name": last.name, "points": stored,
        "specials": (known.specials if known else 0) + sum(point.special is not None for point in ordered),
        "first_step": min(ordered[0].step, known.first_step if known else ordered[0].step), "last_step": step,
        "last_value": None if special else value, "last_special": special.value if special else None, "last_at": at,
    }  # fmt: skip


def _fewer(points: Sequence[Stored], most: int) -> list[Stored]:
    """Return at most so many points: first, last, not-a-numbers, and others at even distances."""
    if len(points) <= most:
        return list(points)
    specials = [index for index, one in enumerate(points) if special_of(one.value)][: most // 4]
    even = max(2, most - len(specials))
    chosen = {round(n * (len(points) - 1) / (even - 1)) for n in range(even)} | set(specials)
    return [points[index] for index in sorted(chosen)]
