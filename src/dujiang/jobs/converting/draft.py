"""A job specification that is being put together from somebody else's words; each value knows where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dujiang.jobs.converting.report import NOWHERE, At, Note, Report
from dujiang.jobs.spec import JobSpec, mended_name
from dujiang.jobs.spec.model import exact_duration
from dujiang.jobs.spec.read import job_reader
from dujiang.kit.spec.yaml import Entry, Located, from_value

_ORDER: Final = (
    "name", "project", "queue", "kind", "class", "image", "resources", "nodes", "array", "after", "placement",
    "distributed", "workdir", "env", "secrets", "setup", "run", "checkpoint", "retry", "time_limit", "deadline",
    "grace", "ports", "labels",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Converted:
    """One piece of work in our words."""

    source: str
    """What it was: `batch/v1 Job "train"`."""
    line: int | None
    spec: JobSpec
    document: Mapping[str, Any]
    """As short as it can be written; it reads to `spec`."""
    notes: tuple[Note, ...]


class Draft:
    """Fields as they are found; `finish` has them read by the reader of all specifications."""

    def __init__(self, source: str, report: Report, at: At) -> None:
        self.source, self.report, self._at = source, report, at
        self._fields: dict[str, Any] = {}
        self._places: dict[str, At] = {}

    def put(self, value: Any, *path: str, at: At = NOWHERE) -> None:
        """Set a field, such as `put(2, "resources", "cpu", at=...)`."""
        inner = self._fields
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
        if at != NOWHERE:
            self._places[".".join(path)] = at

    def get(self, *path: str) -> Any:
        """Return what a field has so far, None when nothing."""
        inner: Any = self._fields
        for name in path:
            inner = inner.get(name) if isinstance(inner, dict) else None
        return inner

    def drop(self, *path: str) -> None:
        """Take a field away again."""
        inner = self.get(*path[:-1]) if len(path) > 1 else self._fields
        if isinstance(inner, dict):
            inner.pop(path[-1], None)

    def place(self, *path: str) -> At:
        """Return where a field came from."""
        return self._places.get(".".join(path), self._at)

    def name(self, text: str, path: str, at: At) -> None:
        """Name the job after the original, as nearly as a name here may be."""
        mended = mended_name(text) or "job"
        if mended != text:
            why = "A name has up to 63 lower-case letters, digits and dashes."
            self.report.note(path, f"The job is called {mended}.", why, at=at, kept=True)
        self.put(mended, "name", at=at)

    def finish(self) -> Converted:
        """Return the job.

        Raises:
            Refused: it says what no job here may; the problems are noted at the lines of the original.
        """
        fields: dict[str, Any] = {name: self._fields[name] for name in _ORDER if name in self._fields}
        for name in ("time_limit", "grace", "deadline"):
            if isinstance(fields.get(name), int):
                fields[name] = exact_duration(fields[name])
        document = {name: value for name, value in fields.items() if value not in ({}, [], None, "")}
        located = self._located(from_value(document), "")
        spec = job_reader("job").read(located, "", self.report.problems)
        return Converted(self.source, self._at[0], spec, document, self.report.notes)

    def _located(self, value: Located, path: str, at: At | None = None) -> Located:
        at = self._places.get(path, at or self._at)
        inner = value.value
        if isinstance(inner, tuple):
            inner = tuple(self._located(item, f"{path}[{index}]", at) for index, item in enumerate(inner))
        elif isinstance(inner, Mapping):
            entries: dict[str, Entry] = {}
            for name, entry in inner.items():
                item = self._located(entry.value, f"{path}.{name}".lstrip("."), at)
                entries[name] = Entry(item.line, item.column, item)
            inner = entries
        return replace(value, value=inner, line=at[0], column=at[1])
