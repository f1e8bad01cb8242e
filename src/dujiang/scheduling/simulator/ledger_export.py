"""Dujiang's own ledger as a small file: one row for each attempt of a job that has ended, to be replayed elsewhere.

`.csv`, `.csv.gz`, `.jsonl` or `.jsonl.gz`, by the ending of the name. Columns:

| column | what it holds |
| --- | --- |
| job | identifier of the job, a point, and the number of its attempt |
| project, user, class, queue | `project` by identifier; `class` is core, normal or low |
| submit, start, end | ISO 8601 with offset; of a further attempt `submit` is when the one before ended |
| gpus | devices of all ranks together, rounded up |
| ranks, gpu_milli, cpu_milli, memory_bytes | how many ranks, and what each of them held |

`simulate queue --jobs` reads the same file: it takes job, submit, start, end, gpus, project and user.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dujiang.kit.errors import Invalid
from dujiang.scheduling.domain.bands import TaskClass
from dujiang.scheduling.domain.request import MAX_AMOUNT, MAX_RANKS, WHOLE, Ask, Request
from dujiang.scheduling.simulator.jobs_traces import Cells, read_table, read_text
from dujiang.scheduling.simulator.replay_work import Work
from dujiang.scheduling.simulator.traces import BadTrace

COLUMNS: Final = ("job", "project", "user", "class", "queue", "submit", "start", "end", "gpus", "ranks", "gpu_milli",
                  "cpu_milli", "memory_bytes")  # fmt: skip
_NEEDED: Final = ("job", "submit", "start", "end", "ranks", "gpu_milli")
_FORMS: Final = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt of a job, all its ranks alike."""

    job_id: str
    attempt: int
    project: str
    user: str
    task_class: TaskClass
    queue: str
    submitted_at: datetime
    started_at: datetime
    ended_at: datetime
    ranks: int
    gpu_milli: int
    """Of each rank, like the others below."""
    cpu_milli: int
    memory_bytes: int

    def cells(self) -> dict[str, Any]:
        """Return it as a row of the file."""
        return {
            "job": f"{self.job_id}.{self.attempt}", "project": self.project, "user": self.user,
            "class": str(self.task_class), "queue": self.queue, "submit": self.submitted_at.isoformat(),
            "start": self.started_at.isoformat(), "end": self.ended_at.isoformat(),
            "gpus": -(-self.ranks * self.gpu_milli // WHOLE), "ranks": self.ranks, "gpu_milli": self.gpu_milli,
            "cpu_milli": self.cpu_milli, "memory_bytes": self.memory_bytes,
        }  # fmt: skip


def held_of(allocations: Iterable[Mapping[str, Any]], jobs: Iterable[Mapping[str, Any]]) -> tuple[list[Held], int]:
    """Return the attempts of answers of `GET /v1/allocations` and `GET /v1/jobs`, and how many still run.

    An attempt whose job is not among the jobs counts as submitted when it started.
    """
    known = {str(job["id"]): job for job in jobs}
    rows: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in allocations:
        rows.setdefault((str(row["job_id"]), int(row["attempt"])), []).append(row)
    found, running, ended_at = [], 0, dict[str, datetime]()
    for (job_id, attempt), held in sorted(rows.items()):
        if any(row["ended_at"] is None for row in held):
            running += 1
            continue
        job = known.get(job_id, {})
        spec = job.get("spec", {})
        start = min(datetime.fromisoformat(row["started_at"]) for row in held)
        submit = ended_at.get(job_id) or datetime.fromisoformat(job.get("created_at") or start.isoformat())
        ended_at[job_id] = end = max(datetime.fromisoformat(row["ended_at"]) for row in held)
        first = min(int(row["rank"]) for row in held)
        of_first = [row for row in held if int(row["rank"]) == first]
        found.append(Held(
            job_id, attempt, str(held[0]["project_id"]), str(job.get("submitted_by", "")),
            TaskClass(spec.get("class", "normal")), str(spec.get("queue") or ""), min(submit, start), start, end,
            len({int(row["rank"]) for row in held}), *(sum(int(row[name]) for row in of_first) for name in (
                "gpu_milli", "cpu_milli", "memory_bytes"
            )),
        ))  # fmt: skip
    return found, running


def write_export(path: Path, rows: Sequence[Held]) -> None:
    """Write the file, all of it or nothing.

    Raises:
        BadExport: the name does not say which form it has.
        OSError: it cannot be written.
    """
    if not path.name.endswith(_FORMS):
        raise BadExport(f"{path.name} ends in none of {', '.join(_FORMS)}; the ending says which form is written.")
    text = io.StringIO(newline="")
    if ".jsonl" in path.suffixes:
        text.writelines(json.dumps(row.cells()) + "\n" for row in rows)
    else:
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row.cells() for row in rows)
    data = text.getvalue().encode()
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_export(path: Path) -> tuple[list[Work], datetime]:
    """Return the work of a file, times counted from the first submission, and when that was.

    Rows need job, submit, start, end, ranks and gpu_milli; the rest may be left out.

    Raises:
        BadTrace: what is wrong, with row (line, in JSON) and column.
    """
    rows = [(row, _held(row)) for row in _rows(path)]
    if not rows:
        raise BadTrace(f"{path} has no attempt that ended. Give a file of `dujiang ledger export`.", file=str(path))
    seen: set[str] = set()
    for row, held in rows:
        if held.job_id in seen:
            raise row.bad("job", f"{held.job_id} is there already; give each attempt one row.")
        seen.add(held.job_id)
    origin = min(held.submitted_at for _, held in rows)
    works = [_work(row, held, origin) for row, held in rows]
    return sorted(works, key=lambda work: (work.at_s, work.request.job_id)), origin


def _rows(path: Path) -> Iterator[Cells]:
    text = read_text(path)
    if not text.lstrip().startswith("{"):
        yield from read_table(path, _NEEDED)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadTrace(f"{path}, row {number}: not JSON: {error}.", file=str(path), row=number) from error
        if not isinstance(value, dict) or not all(name in value for name in _NEEDED):
            wanted = ", ".join(_NEEDED)
            raise BadTrace(f"{path}, row {number}: it needs an object with {wanted}.", file=str(path), row=number)
        yield Cells(path, number, [str(cell) for cell in value.values()], {name: at for at, name in enumerate(value)})


def _held(row: Cells) -> Held:
    """Return a row; the attempt is a part of its name."""
    submit_s, start_s, end_s = (row.time_s(column) for column in ("submit", "start", "end"))
    if start_s < submit_s:
        raise row.bad("start", "it is before the time of submission.")
    if end_s < start_s:
        raise row.bad("end", "it is before the start.")
    word = row.text("class") or "normal"
    if word not in list(TaskClass):
        raise row.bad("class", f"{word!r} is none of {', '.join(TaskClass)}.")
    amounts = [
        row.whole(name, least=0, most=MAX_AMOUNT) if row.text(name) or name in _NEEDED else 0
        for name in ("gpu_milli", "cpu_milli", "memory_bytes")
    ]
    return Held(
        row.named("job"), 1, row.text("project") or "-", row.text("user"), TaskClass(word), row.text("queue"),
        _at(submit_s), _at(start_s), _at(end_s), row.whole("ranks", least=1, most=MAX_RANKS), *amounts,
    )  # fmt: skip


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _work(row: Cells, held: Held, origin: datetime) -> Work:
    try:
        ask = Ask(held.gpu_milli, cpu_milli=held.cpu_milli, memory_bytes=held.memory_bytes)
    except Invalid as error:
        raise row.bad("gpu_milli", error.sentence) from error
    request = Request(
        held.job_id, held.project, ask, held.submitted_at, held.ranks, held.task_class, queue=held.queue,
        may_restart=True,
    )  # fmt: skip
    runs = max(timedelta(seconds=1), held.ended_at - held.started_at)
    return Work(request, (held.submitted_at - origin).total_seconds(), runs.total_seconds())


class BadExport(Invalid):
    """A file name that says no form."""

    code, title = "bad_export", "The export cannot be written"
