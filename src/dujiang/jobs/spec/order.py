"""What a job waits for, and the tasks of an array: values, and how index expressions are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from dujiang.kit.errors import Invalid

MOST_TASKS: Final = 10_000
"""Of one array; indices are below it."""
MOST_AFTER: Final = 1000
"""Jobs that one job waits for; an array counts once."""
INDICES: Final = r"[0-9]{1,4}(-[0-9]{1,4}(:[1-9][0-9]{0,3})?)?(,[0-9]{1,4}(-[0-9]{1,4}(:[1-9][0-9]{0,3})?)?)*"
"""The form of an index expression."""
_PART = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4})(?::([1-9][0-9]{0,3}))?)?")


class BadIndices(Invalid):
    """An index expression that cannot be read."""

    code, title = "bad_indices", "The indices cannot be read"


class When(StrEnum):
    """Which end of another job lets a job start."""

    OK = "ok"
    """It completed."""
    ANY = "any"
    """It ended, however it did."""
    NOTOK = "notok"
    """It ended in any other way than completed."""


@dataclass(frozen=True, slots=True)
class After:
    """Another job, or an array, that must have ended first."""

    job: str
    """Id or name; of what was submitted, the id."""
    when: When = When.OK

    def document(self) -> str | dict[str, str]:
        """Return it as it is written in a specification."""
        return self.job if self.when is When.OK else {"job": self.job, "when": self.when.value}


@dataclass(frozen=True, slots=True)
class JobArray:
    """Many tasks of one specification, told apart by their index."""

    indices: str
    """Such as `0-9,15,20-30:2`."""
    at_once: int | None = None
    """How many may run at the same time; None is all."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The indices, in order."""
        return parse_indices(self.indices)

    @property
    def size(self) -> int:
        """How many tasks there are."""
        return len(self.numbers)

    def document(self) -> Mapping[str, Any]:
        """Return it as it is written in a specification."""
        limit = {} if self.at_once is None else {"at_once": self.at_once}
        return {"indices": self.indices, **limit}


@lru_cache(256)
def parse_indices(text: str) -> tuple[int, ...]:
    """Return the indices of an expression in order, each once.

    Parts stand between commas: one index, a range with both ends, a range with a step that counts from its first end. A
    range may be written from either end; new jobs are held to the smaller one first (`upwards`).

    Raises:
        BadIndices: not such an expression.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            shown = "".join(c if c.isprintable() else "?" for c in part[:20])
            raise BadIndices(f'"{shown}" is no index; write such as 0-9,15,20-30:2, each below {MOST_TASKS}.')
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        found.update(range(first, last + 1, step) if first <= last else range(first, last - 1, -step))
    return tuple(sorted(found))


def upwards(text: str) -> str:
    """Return an index expression that can be read with the smaller end of each range first: `9-0:4` as `1-9:4`."""
    parts = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        assert match is not None
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        least = last + (first - last) % step
        parts.append(part if first <= last else f"{least}-{first}" + (f":{step}" if step > 1 else ""))
    return ",".join(parts)
