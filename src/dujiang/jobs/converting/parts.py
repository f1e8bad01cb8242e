"""A mapping of somebody else's file, whose fields are taken one by one. What nobody takes is noted: nothing gets lost
by being forgotten here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from dujiang.jobs.converting.report import At, Report
from dujiang.kit.spec.problems import quote
from dujiang.kit.spec.readers import AsText, Many, Truth, Whole
from dujiang.kit.spec.yaml import Entry, Located

LONGEST: Final = 262_144
MOST: Final = 2**31 - 1
Reasons = Mapping[str, tuple[str, str]]
"""Why a field has no place here, and what to do about it."""


class Part:
    """One mapping of the original."""

    def __init__(self, value: Located, path: str, report: Report, what: str) -> None:
        """Open a mapping.

        Args:
            value: as it was read.
            path: of the mapping in the original.
            report: takes the notes.
            what: for people: `a container`.

        Raises:
            Refused: it is no mapping; the problem is noted.
        """
        if not isinstance(value.value, Mapping):
            raise report.refuse(path, f"A mapping belongs here, {what}.", at=value.at)
        self.path, self.report, self.what, self.place = path, report, what, value.at
        self._fields: Mapping[str, Entry] = value.value
        self._taken: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._fields and self._fields[name].value.value is not None

    @property
    def names(self) -> list[str]:
        """The names of the fields that say something."""
        return [name for name in self._fields if name in self]

    def at(self, name: str) -> At:
        """Return where a field stands, or the mapping when it does not."""
        return self._fields[name].at if name in self._fields else self.place

    def under(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{quote(name, 120)[1:-1]}".lstrip(".")

    def take(self, name: str) -> Located | None:
        """Return a field, None when it says nothing; it counts as seen to."""
        self._taken.add(name)
        return self._fields[name].value if name in self else None

    def text(self, name: str) -> str | None:
        """Return a field as text."""
        value = self.take(name)
        return None if value is None else AsText(LONGEST).read(value, self.under(name), self.report.problems)

    def whole(self, name: str, least: int = 0, most: int = MOST) -> int | None:
        """Return a field as a whole number."""
        value = self.take(name)
        return None if value is None else Whole(least, most).read(value, self.under(name), self.report.problems)

    def truth(self, name: str) -> bool:
        """Return a field as true or false; false when it says nothing."""
        value = self.take(name)
        return value is not None and Truth().read(value, self.under(name), self.report.problems)

    def words(self, name: str) -> list[str]:
        """Return a field as a list of texts."""
        value = self.take(name)
        reader = Many(AsText(LONGEST), "texts", 10_000)
        return [] if value is None else list(reader.read(value, self.under(name), self.report.problems))

    def part(self, name: str, what: str) -> Part | None:
        """Return a field as a mapping."""
        value = self.take(name)
        return None if value is None else Part(value, self.under(name), self.report, what)

    def parts(self, name: str, what: str) -> list[Part]:
        """Return a field as a list of mappings."""
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value.value, tuple):
            raise self.report.refuse(self.under(name), "A list belongs here.", at=value.at)
        path = self.under(name)
        return [Part(item, f"{path}[{index}]", self.report, what) for index, item in enumerate(value.value)]

    def table(self, name: str) -> dict[str, tuple[str, At]]:
        """Return a field as texts by name, each with its place."""
        part = self.part(name, "texts by name")
        if part is None:
            return {}
        return {key: (part.text(key) or "", part.at(key)) for key in part.names}

    def note(self, name: str, what: str, why: str = "", instead: str = "", *, kept: bool = False) -> None:
        """Say what became of a field; it counts as seen to."""
        self._taken.add(name)
        self.report.note(self.under(name), what, why, instead, at=self.at(name), kept=kept)

    def lose(self, name: str, why: str, instead: str = "") -> None:
        """Say that a field is not kept, if it is there."""
        if name in self:
            self.note(name, "Not kept.", why, instead)

    def close(
        self, reasons: Reasons | None = None, *, known: Collection[str] = (), plain: Mapping[str, Any] | None = None
    ) -> None:
        """Note every field that nobody took.

        Args:
            reasons: why a field is not kept, by name.
            known: further fields that there are, for near names.
            plain: values that say no more than leaving the field out does.
        """
        reasons, plain = reasons or {}, plain or {}
        every = {*reasons, *known, *self._taken, *plain}
        for name in self.names:
            if name in self._taken or (name in plain and _bare(self._fields[name].value) in _alike(plain[name])):
                continue
            if name in reasons:
                self.lose(name, *reasons[name])
                continue
            near = self.report.nearest(name, every)
            self.lose(name, f"{self.what.capitalize()} has no field of this name that is known here.", near)


def _alike(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


def _bare(value: Located) -> Any:
    if isinstance(value.value, Mapping):
        return {name: _bare(entry.value) for name, entry in value.value.items()}
    return [_bare(item) for item in value.value] if isinstance(value.value, tuple) else value.value
