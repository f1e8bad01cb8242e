"""A batch script of Slurm as text: its interpreter, its `#SBATCH` lines as options, its commands.

The rules are those of sbatch 22.05 as it was seen to behave: the lines count up to the first that is neither blank nor
a comment, an unquoted `#` ends one, quotes join, long options may be cut short while they stay unique.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dujiang.jobs.converting.report import Report
from dujiang.jobs.converting.slurm.words import ALIASES, OPTIONS, SHORT, Takes
from dujiang.kit.spec.problems import SHOWN, Refused, quote

MAGIC: Final = "#SBATCH"
_OTHERS: Final = re.compile(r"#(PBS|BSUB|\$)(?=\s)")
_HETEROGENEOUS: Final = ("hetjob", "packjob")


@dataclass(frozen=True, slots=True)
class Option:
    """One option as it was given."""

    name: str
    value: str
    line: int
    column: int

    @property
    def at(self) -> tuple[int, int]:
        """Its place."""
        return self.line, self.column

    @property
    def path(self) -> str:
        """How people know it."""
        return f"--{self.name}"


@dataclass(frozen=True, slots=True)
class Script:
    """A batch script."""

    interpreter: str
    """After `#!`."""
    options: Sequence[Option]
    body: str
    """What follows the first line, without the `#SBATCH` lines that were read."""
    lines: Sequence[int]
    """The line of the text that each line of the body was."""


def looks_like_script(text: str) -> bool:
    """Say whether a text is a batch script rather than YAML or JSON."""
    return text.startswith("#!") or re.search(r"^#SBATCH(?=\s|-|$)", text, re.MULTILINE) is not None


def read_script(text: str, report: Report) -> Script:
    """Return a script with its options.

    Raises:
        Refused: Slurm would not take it either, or it is a heterogeneous job; the problems are noted.
    """
    lines = text.split("\n")
    interpreter = lines[0].removeprefix("#!").strip()
    if not lines[0].startswith("#!") or not interpreter:
        message = "This does not look like a batch script: the first line must be #! and the path of an interpreter."
        raise report.refuse("", message, "Write #!/bin/sh.", at=(1, 1))
    options: list[Option] = []
    body: list[str] = []
    numbers: list[int] = []
    is_over, wrong = False, False
    for number, line in enumerate(lines[1:], 2):
        if line.startswith(MAGIC) and not is_over:
            try:
                options += _options(line, number, report)
            except Refused:
                wrong = True
                if len(report.problems) >= SHOWN:
                    break
            continue
        if line.startswith(MAGIC):
            why = "Slurm reads no options after the first command."
            report.note(MAGIC, f"{quote(line, 60)} is not read.", why, "Write it above.", at=(number, 1))
        elif not is_over and _OTHERS.match(line):
            what = f"{quote(line, 60)} is not read."
            report.note(line.split()[0], what, "It is for another scheduler.", "Write it as #SBATCH.", at=(number, 1))
        is_over = is_over or bool(line.strip() and not line.lstrip().startswith("#"))
        body.append(line)
        numbers.append(number)
    if wrong:
        raise Refused
    return Script(interpreter, options, "\n".join(body), numbers)


def _options(line: str, number: int, report: Report) -> list[Option]:
    words = _words(line, number, report)
    found: list[Option] = []
    position = 0
    while position < len(words):
        word, column = words[position]
        position += 1
        if word in _HETEROGENEOUS:
            message = "This is a heterogeneous job, whose parts differ, and a job here has the same on all nodes."
            raise report.refuse(word, message, "Write jobs that wait for one another, or one of the parts.",
                                at=(number, column))  # fmt: skip
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            raise report.refuse(quote(word)[1:-1], f"{quote(word)} is no option, and Slurm takes nothing else here.",
                                "Put values with blanks in quotes.", at=(number, column))  # fmt: skip
        rest = words[position:]
        used = _long(word, column, rest, number, report) if word.startswith("--") else _cluster(
            word, column, rest, number, report
        )  # fmt: skip
        found += used[0]
        position += used[1]
    return found


def _long(
    word: str, column: int, rest: Sequence[tuple[str, int]], number: int, report: Report
) -> tuple[list[Option], int]:  # fmt: skip
    written, equals, value = word[2:].partition("=")
    name = _full(written, (number, column), report)
    takes = OPTIONS[name][1]
    if takes is Takes.NOTHING and equals:
        raise report.refuse(f"--{name}", "This option has no value.", f"Write --{name}.", at=(number, column))
    if takes is Takes.VALUE and not equals:
        if not rest:
            raise report.refuse(f"--{name}", "This option needs a value.", f"Write --{name}=...", at=(number, column))
        return [Option(name, rest[0][0], number, column)], 1
    return [Option(name, value, number, column)], 0


def _full(written: str, at: tuple[int, int], report: Report) -> str:
    if written in OPTIONS or written in ALIASES:
        return ALIASES.get(written, written)
    alike = [name for name in OPTIONS if written and name.startswith(written)]
    if len(alike) == 1:
        return alike[0]
    if alike:
        message = f"--{written} is the beginning of several options."
        raise report.refuse(f"--{written}", message, f"Write --{' or --'.join(alike[:5])}.", at=at)
    near = report.nearest(written, OPTIONS).replace('"', "")
    shown = quote(f"--{written}")
    raise report.refuse(shown[1:-1], f"sbatch has no option {shown}.", near, at=at)


def _cluster(
    word: str, column: int, rest: Sequence[tuple[str, int]], number: int, report: Report
) -> tuple[list[Option], int]:  # fmt: skip
    """Read short options, of which several may stand in one word: `-Hn2`."""
    found: list[Option] = []
    for index, letter in enumerate(word[1:], 1):
        at = (number, column + index)
        if letter not in SHORT:
            raise report.refuse(f"-{letter}"[:10], f"sbatch has no option {quote('-' + letter)}.", at=at)
        name = SHORT[letter]
        takes, left = OPTIONS[name][1], word[index + 1 :]
        if takes is Takes.NOTHING or (takes is Takes.PERHAPS and not left):
            found.append(Option(name, "", *at))
            continue
        if left:
            return [*found, Option(name, left, *at)], 0
        if not rest:
            raise report.refuse(f"-{letter}", "This option needs a value.", f"Write -{letter} ...", at=at)
        return [*found, Option(name, rest[0][0], *at)], 1
    return found, 0


def _words(line: str, number: int, report: Report) -> list[tuple[str, int]]:
    """Return the words of an `#SBATCH` line, each with its column."""
    found: list[tuple[str, int]] = []
    word: list[str] | None = None
    mark, start = "", 0
    for column, letter in enumerate(line[len(MAGIC) :], len(MAGIC) + 1):
        if mark:
            if letter == mark:
                mark = ""
            else:
                assert word is not None
                word.append(letter)
            continue
        if letter in "\"'":
            mark = letter
            word, start = ([], column) if word is None else (word, start)
        elif letter == "#":
            break
        elif letter.isspace():
            if word is not None:
                found.append(("".join(word), start))
            word = None
        else:
            word, start = ([], column) if word is None else (word, start)
            word.append(letter)
    if mark:
        raise report.refuse(MAGIC, f"The quote {mark} is not closed.", at=(number, start))
    return [*found, ("".join(word), start)] if word is not None else found
