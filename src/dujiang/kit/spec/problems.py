"""What is wrong with a specification: every problem at once, each with its place, and how a person sees it.

Decides the form of a problem and of the typed error; what counts as a problem is for the readers to say. Whatever of
the sender's text is repeated here is cut short and stripped of control characters, so that no terminal obeys it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dujiang.kit.errors import Invalid

SHOWN = 50
"""How many problems are carried; a file with more is told so."""
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    path: str
    """The field, such as `resources.gpu.count`; empty for the text as a whole."""
    message: str
    """What is wrong, one sentence."""
    instead: str = ""
    """What to write instead, one sentence; empty when there is nothing to suggest."""
    line: int | None = None
    """From 1; None when there was no text, only a value."""
    column: int | None = None
    """From 1, in characters."""

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line is not None else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{path}{self.message}{' ' + self.instead if self.instead else ''}"


class SpecInvalid(Invalid):
    """A specification with at least one problem; `problems` holds them in the order of the text."""

    code, title = "invalid_specification", "The specification is not valid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        ordered = tuple(sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
        self.problems: tuple[Problem, ...] = ordered[:SHOWN]
        count = len(ordered)
        sentence = (
            str(ordered[0])
            if count == 1
            else f"The specification has {count} problems"
            + (f", the first {SHOWN} of which are" if count > SHOWN else "")
            + ": "
            + " | ".join(str(p) for p in self.problems[:3])
            + (" | ..." if count > 3 else "")
        )
        super().__init__(sentence, problems=[asdict(p) for p in self.problems], problem_count=count)


class Refused(Exception):
    """A value could not be read; its problem is already noted. Never leaves this package."""


class Problems:
    """Collects what is wrong while reading goes on."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: str, message: str, instead: str = "", *, at: tuple[int | None, int | None]) -> None:
        """Note a problem at a (line, column)."""
        self._found.append(Problem(path, message, instead, *at))

    def refuse(self, path: str, message: str, instead: str = "", *, at: tuple[int | None, int | None]) -> Refused:
        """Note a problem and return the exception that gives up on this value alone."""
        self.add(path, message, instead, at=at)
        return Refused(message)

    def raise_if_any(self) -> None:
        """Raise what was found.

        Raises:
            SpecInvalid: something was.
        """
        if self._found:
            raise SpecInvalid(self._found)


def quote(value: Any, limit: int = 40) -> str:
    """Return the sender's text in quotes, cut short, without anything a terminal could obey."""
    text = value if isinstance(value, str) else repr(value)
    cut = text[:limit]
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cut)
    return f'"{shown}{"..." if len(text) > limit else ""}"'


def excerpt(problem: Problem, text: str) -> list[str]:
    """Return the line of the text a problem is on and a caret below it, or nothing when it has no place there."""
    lines = text.removeprefix("\ufeff").splitlines()
    if problem.line is None or problem.column is None or not 0 < problem.line <= len(lines):
        return []
    line = "".join(c if c.isprintable() else " " for c in lines[problem.line - 1])
    start = max(0, problem.column - 1 - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = line[start : start + _WIDTH]
    before = shown[: max(0, problem.column - 1 - start)]
    pad = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in before)
    gutter = f"{problem.line:>5} | "
    return [gutter + shown.rstrip(), " " * (len(gutter) - 2) + "| " + " " * pad + "^"]
