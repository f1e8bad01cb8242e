"""Reads traces of gang jobs: Philly and ITP tables, SWF, and Dujiang's own ledger; all times become whole seconds.

The forms, told apart by what is in the file; a name that ends in .gz is decompressed:

| form | what it holds |
| --- | --- |
| table | columns job, submit_s, duration_s, num_gpus; also vc, user, name, deadline_s, model, batch_size, iterations |
| ledger table | columns job, submit, start, end, gpus (ISO 8601 times with offset); optional project, user, name;
|              | what `dujiang ledger export` writes is one |
| ledger JSON | the answer of `GET /v1/allocations`, or its `items`, or a list of several answers |
| SWF | 18 numbers a line, comments behind `;` (Standard Workload Format, Chapin et al. 1999) |
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dujiang.scheduling.simulator.traces import BadTrace

MOST_S: Final = 100 * 366 * 86_400
"""A time or a run time beyond a hundred years is a mistake."""
MOST_GPUS: Final = 1_000_000
_SWF_FIELDS: Final = 18
_MILLI: Final = 1000


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One gang job of a trace: all its devices start together."""

    job: str
    submit_s: int
    duration_s: int
    """How long it runs once it runs, without interruption."""
    num_gpus: int
    vc: str = ""
    """Virtual cluster, queue or project."""
    user: str = ""
    name: str = ""
    deadline_s: int | None = None
    """On the clock of submit_s."""
    model: str = ""
    batch_size: int = 0
    iterations: int = 0


@dataclass(frozen=True, slots=True)
class Jobs:
    """A trace in one fixed order, and what of the file is not in it."""

    jobs: tuple[TraceJob, ...]
    """By submission; of one second by run time, devices, name: the order of rows in the file does not matter."""
    form: str
    left_out: int = 0
    """Rows that never ran: cancelled before they started, or still running."""


def read_jobs(path: Path) -> Jobs:
    """Read a trace in any of the forms of this module.

    Raises:
        BadTrace: what is wrong, with the row (the first line is 1) and the column.
    """
    text = read_text(path)
    start = text.lstrip()[:1]
    if start in ("{", "["):
        found, left_out, form = *_ledger_json(path, text), "ledger"
    elif start == ";" or ".swf" in [suffix.lower() for suffix in path.suffixes]:
        found, left_out, form = *_swf(path, text), "swf"
    else:
        found, left_out, form = _table(path, text)
    if not found:
        raise BadTrace(f"{path} has no job that ran. Give a file with one job a row.", file=str(path))
    seen: dict[str, int] = {}
    for job in found:
        seen[job.job] = seen.get(job.job, 0) + 1
        if seen[job.job] > 1:
            raise BadTrace(
                f"{path}: job {job.job} is there twice. Give each job one row.", file=str(path), column="job"
            )
    found.sort(key=lambda job: (job.submit_s, job.duration_s, job.num_gpus, len(job.job), job.job))
    return Jobs(tuple(found), form, left_out)


def read_text(path: Path) -> str:
    """Return the text of a file, compressed with gzip or not.

    Raises:
        BadTrace: it cannot be read.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise BadTrace(f"There is no file {path}. Give the path of a trace.", file=str(path)) from None
    except (OSError, EOFError) as error:
        raise BadTrace(f"{path} cannot be read: {error}.", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path} is not text in UTF-8 (byte {error.start}).", file=str(path)) from error


@dataclass(frozen=True, slots=True)
class Cells:
    """One row of a table, and what is wrong with it."""

    path: Path
    row: int
    cells: Sequence[str]
    where: Mapping[str, int]

    def bad(self, column: str, why: str) -> BadTrace:
        """Return the error that names row and column."""
        return BadTrace(f"{self.path}, row {self.row}, column {column}: {why}", file=str(self.path), row=self.row,
                        column=column)  # fmt: skip

    def text(self, column: str) -> str:
        """Return what stands in a column; empty when there is none."""
        index = self.where.get(column)
        return self.cells[index].strip() if index is not None else ""

    def named(self, column: str) -> str:
        """The name of a job, which is needed."""
        name = self.text(column)
        if not name:
            raise self.bad(column, "it is empty; every job needs a name.")
        return name

    def whole(self, column: str, *, least: int, most: int) -> int:
        """A whole number in a range."""
        text = self.text(column)
        try:
            value = int(text)
        except ValueError:
            try:
                number = float(text)
            except ValueError:
                raise self.bad(
                    column, f"{text!r} is not a number; write a whole number from {least} to {most}."
                ) from None
            if number != number or number in (float("inf"), float("-inf")):
                raise self.bad(column, f"{text} is not a whole number from {least} to {most}.") from None
            value = round(number)
        if not least <= value <= most:
            raise self.bad(column, f"{text} is not from {least} to {most}.")
        return value

    def time_s(self, column: str) -> int:
        """A time in seconds since 1970, UTC."""
        text = self.text(column)
        at = _moment(text)
        if at is None:
            raise self.bad(column, f"{text!r} is not a time with its offset; write it like 2026-01-31T12:00:00+00:00.")
        return at


_TABLE: Final = ("job", "submit_s", "duration_s", "num_gpus")
_LEDGER: Final = ("job", "submit", "start", "end", "gpus")


def table_rows(path: Path, text: str) -> Iterator[Cells]:
    """Yield the rows of a table below its header; the first has number 2.

    Raises:
        BadTrace: a row has more or fewer cells than the header, or a quote is not closed.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    where: dict[str, int] = {}
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if not where:
                where = {cell.strip(): index for index, cell in enumerate(cells)}
            elif cells:
                if len(cells) != len(where):
                    column = list(where)[min(len(cells), len(where) - 1)]
                    raise BadTrace(f"{path}, row {number}, column {column}: {len(cells)} cells where the header has "
                                   f"{len(where)}.", file=str(path), row=number, column=column)  # fmt: skip
                yield Cells(path, number, cells, where)
    except csv.Error as error:
        raise BadTrace(f"{path}, row {number + 1}: {error}.", file=str(path), row=number + 1) from error


def need_columns(path: Path, text: str, columns: Sequence[str]) -> None:
    """Check that a table has columns.

    Raises:
        BadTrace: naming the first that is not there.
    """
    header = [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline="")), [])]
    if not header:
        raise BadTrace(f"{path} is empty; its first row names the columns.", file=str(path), row=1)
    for column in columns:
        if column not in header:
            raise BadTrace(f"{path}, row 1: there is no column {column}; it needs {', '.join(columns)}.",
                           file=str(path), row=1, column=column)  # fmt: skip


def read_table(path: Path, columns: Sequence[str]) -> Iterator[Cells]:
    """Read a table that has certain columns, .csv or .csv.gz.

    Raises:
        BadTrace: what is wrong, with row and column.
    """
    text = read_text(path)
    need_columns(path, text, columns)
    return table_rows(path, text)


def _table(path: Path, text: str) -> tuple[list[TraceJob], int, str]:
    header = {cell.strip() for cell in next(csv.reader(io.StringIO(text, newline="")), [])}
    if {"submit", "start"} <= header:
        need_columns(path, text, _LEDGER)
        found = [_ledger_row(row) for row in table_rows(path, text)]
        return [job for job in found if job is not None], found.count(None), "ledger"
    need_columns(path, text, _TABLE)
    return [_job(row) for row in table_rows(path, text)], 0, "table"


def _job(row: Cells) -> TraceJob:
    deadline = row.whole("deadline_s", least=0, most=MOST_S) if row.text("deadline_s") else None
    return TraceJob(
        job=row.named("job"), submit_s=row.whole("submit_s", least=0, most=MOST_S),
        duration_s=row.whole("duration_s", least=1, most=MOST_S),
        num_gpus=row.whole("num_gpus", least=1, most=MOST_GPUS),
        vc=row.text("vc"), user=row.text("user"), name=row.text("name"), deadline_s=deadline, model=row.text("model"),
        batch_size=row.whole("batch_size", least=1, most=1 << 31) if row.text("batch_size") else 0,
        iterations=row.whole("iterations", least=1, most=1 << 53) if row.text("iterations") else 0,
    )  # fmt: skip


def _ledger_row(row: Cells) -> TraceJob | None:
    if not row.text("end"):
        return None  # it still runs: how long it will is not known
    submit_s, start_s, end_s = (row.time_s(column) for column in ("submit", "start", "end"))
    if start_s < submit_s:
        raise row.bad("start", "it is before the time of submission.")
    if end_s < start_s:
        raise row.bad("end", "it is before the start.")
    gpus = row.whole("gpus", least=0, most=MOST_GPUS)
    if not gpus:
        return None
    return TraceJob(row.named("job"), submit_s, max(1, end_s - start_s), gpus, row.text("project"), row.text("user"),
                    row.text("name"))  # fmt: skip


def _ledger_json(path: Path, text: str) -> tuple[list[TraceJob], int]:
    """Make one job of each attempt in the ledger; fractions of devices are summed and rounded up to whole ones.

    The ledger does not hold when a job was submitted: its start stands for it, unless rows carry `submitted_at`.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadTrace(f"{path} is not JSON: {error}.", file=str(path)) from error
    held: dict[tuple[str, int], list[tuple[int, Mapping[str, Any]]]] = {}
    for number, row in enumerate(_items(value), start=1):
        if not isinstance(row, Mapping):
            raise BadTrace(f"{path}, row {number}: an object is needed.", file=str(path), row=number)
        for column in ("job_id", "started_at", "gpu_milli"):
            if column not in row:
                raise BadTrace(f"{path}, row {number}: there is no {column}; it needs the rows of GET /v1/allocations.",
                               file=str(path), row=number, column=column)  # fmt: skip
        if not isinstance(row["gpu_milli"], int):
            raise BadTrace(f"{path}, row {number}, column gpu_milli: {row['gpu_milli']!r} is not a whole number.",
                           file=str(path), row=number, column="gpu_milli")  # fmt: skip
        held.setdefault((str(row["job_id"]), int(row.get("attempt") or 1)), []).append((number, row))
    jobs, left_out = [], 0
    for (job_id, attempt), rows in held.items():
        milli = sum(int(row["gpu_milli"]) for _, row in rows)
        if milli <= 0 or any(row.get("ended_at") is None for _, row in rows):
            left_out += 1
            continue
        starts = [_field(path, number, row, "started_at") for number, row in rows]
        ends = [_field(path, number, row, "ended_at") for number, row in rows]
        number, first = rows[0]
        submit_s = _field(path, number, first, "submitted_at") if first.get("submitted_at") else min(starts)
        jobs.append(TraceJob(f"{job_id}.{attempt}", submit_s, max(1, max(ends) - min(starts)), -(-milli // _MILLI),
                             str(first.get("project_id") or "")))  # fmt: skip
    return jobs, left_out


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.get("items", [])
        return
    for each in value if isinstance(value, list) else []:
        if isinstance(each, Mapping) and "items" in each:
            yield from each["items"]
        else:
            yield each


def _field(path: Path, number: int, row: Mapping[str, Any], column: str) -> int:
    at = _moment(row.get(column))
    if at is None:
        raise BadTrace(f"{path}, row {number}, column {column}: {row.get(column)!r} is not a time with its offset.",
                       file=str(path), row=number, column=column)  # fmt: skip
    return at


def _moment(text: Any) -> int | None:
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return round(at.astimezone(UTC).timestamp()) if at.tzinfo is not None else None


_SWF: Final = ("job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time",
               "used memory", "requested processors", "requested time", "requested memory", "status", "user", "group",
               "executable", "queue", "partition", "preceding job", "think time")  # fmt: skip


def _swf(path: Path, text: str) -> tuple[list[TraceJob], int]:
    where = {name: index for index, name in enumerate(_SWF)}
    jobs, left_out = [], 0
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split(";")[0].split()
        if not cells:
            continue
        if len(cells) != _SWF_FIELDS:
            column = _SWF[min(len(cells), _SWF_FIELDS - 1)]
            raise BadTrace(f"{path}, row {number}, column {column}: {len(cells)} fields where SWF has {_SWF_FIELDS}.",
                           file=str(path), row=number)  # fmt: skip
        row = Cells(path, number, cells, where)
        duration_s = row.whole("run time", least=-1, most=MOST_S)
        asked = row.whole("requested processors", least=-1, most=MOST_GPUS)
        devices = asked if asked > 0 else row.whole("allocated processors", least=-1, most=MOST_GPUS)
        if duration_s <= 0 or devices <= 0:
            left_out += 1
            continue
        submit_s = row.whole("submit time", least=0, most=MOST_S)
        vc, user, name = (_word(row, column) for column in ("queue", "user", "executable"))
        jobs.append(TraceJob(row.text("job number"), submit_s, duration_s, devices, vc, user, name))
    return jobs, left_out


def _word(row: Cells, column: str) -> str:
    return "" if row.text(column) == "-1" else row.text(column)
