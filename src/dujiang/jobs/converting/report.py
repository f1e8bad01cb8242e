"""What a conversion says beside its result: what was not kept, or is kept in another form, each with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from dujiang.kit.errors import did_you_mean
from dujiang.kit.spec.problems import Problems, Refused

At: TypeAlias = tuple[int | None, int | None]
"""Line and column, from 1."""
NOWHERE: Final[At] = (None, None)
_MOST_LOOKS: Final = 50
MOST_NOTES: Final = 500
"""Of one piece of work; how many more there are is said."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing of the original that a job here has not, or has otherwise."""

    path: str
    """The field or option, such as `spec.template.spec.volumes[0]` or `--mail-type`."""
    what: str
    """What became of it, one sentence."""
    why: str = ""
    instead: str = ""
    """What to do, one sentence; empty when there is nothing to do."""
    line: int | None = None
    column: int | None = None
    kept: bool = False
    """It is there in another form; False: it is gone."""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        path = f"{self.path}: " if self.path else ""
        return where + path + " ".join(part for part in (self.what, self.why, self.instead) if part)


class Report:
    """Collects the notes of one piece of work; what makes it impossible goes to the problems of the whole text."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self._notes: list[Note] = []
        self._more = 0
        self._looks = 0

    def note(self, path: str, what: str, why: str = "", instead: str = "", *, at: At, kept: bool = False) -> None:
        """Say that something was not kept, or is kept in another form."""
        found = Note(path, what, why, instead, *at, kept)
        if found in self._notes[-50:]:
            return
        if len(self._notes) < MOST_NOTES:
            self._notes.append(found)
        else:
            self._more += 1

    def nearest(self, name: str, known: Iterable[str]) -> str:
        """Return a question that names the nearest of some words; the first few times, since looking takes long."""
        self._looks += 1
        return did_you_mean(name, sorted(known)).strip() if self._looks <= _MOST_LOOKS and len(name) < 100 else ""

    def refuse(self, path: str, message: str, instead: str = "", *, at: At) -> Refused:
        """Note a problem and return the exception that gives up on this piece of work."""
        return self.problems.refuse(path, message, instead, at=at)

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes in the order of the text, those without a place first."""
        ordered = sorted(self._notes, key=lambda note: (note.line or 0, note.column or 0))
        if self._more:
            ordered.append(Note("", f"{self._more} more things were not kept.", "Only the first are listed."))
        return tuple(ordered)


def names(text: str) -> frozenset[str]:
    """Return the names that stand in a text with blanks between them: tables stay readable."""
    return frozenset(text.split())
