"""Reading Python tracebacks out of mixed output: which exception ended it, and where in the user's own code.

Handles what real output does to them: a prefix before every line, lines of other ranks in between, chained exceptions,
and a traceback cut off by the end of what was kept. Known prefixes (`scanner.Text.plain`) are taken off before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = "Traceback (most recent call last)"
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]{1,400})", line (?P<line>\d{1,9})(?:, in (?P<where>.{1,200}))?')
_EXCEPTION = re.compile(r"^(?P<name>[A-Za-z_][\w.]{1,120})(?::\s?(?P<message>.*))?$")
_LIBRARY = re.compile(r"(?:site-packages|dist-packages|/lib(?:64)?/python\d|^<frozen |/importlib/|\\lib\\)")
_NEAR = 8
"""Lines after the header in which the prefix must come again, other ranks' lines in between."""
_MOST = 100
"""Tracebacks that are read, half of them the first and half the last."""
_LONGEST = 400
"""Lines of one traceback that are looked at."""


@dataclass(frozen=True, slots=True)
class Traceback:
    """One traceback that was printed to its end."""

    number: int
    """Line of its exception, from 0."""
    name: str
    """The exception's class, with its module where it was printed."""
    message: str
    frame: str
    """`train.py line 12 in main`: the innermost frame of the user's own code, else the innermost one."""
    start: int
    """Line of its header."""


def find_tracebacks(lines: Sequence[tuple[str, str]]) -> list[Traceback]:
    """Return every complete traceback of (tag, line) pairs, in order; lines of other tags may lie in between."""
    starts = [number for number, (_, line) in enumerate(lines) if HEADER in line]
    if len(starts) > _MOST:
        starts = starts[: _MOST // 2] + starts[-_MOST // 2 :]
    found = []
    for start in starts:
        tag, line = lines[start]
        one = _read(lines, start, tag, line[: line.find(HEADER)])
        if one is not None:
            found.append(one)
    return found


def _read(lines: Sequence[tuple[str, str]], start: int, tag: str, prefix: str) -> Traceback | None:
    near = lines[start + 1 : start + 1 + _NEAR]
    # A logger writes its prefix before the header only, some launchers before each line.
    each = bool(prefix.strip()) and any(line.startswith(prefix) for _, line in near)
    frames: list[tuple[str, str]] = []
    for number in range(start + 1, min(len(lines), start + 1 + _LONGEST)):
        whose, raw = lines[number]
        if whose != tag or (each and not raw.startswith(prefix)):
            continue  # another process' line in between
        text = raw[len(prefix) :] if each else raw
        frame = _FRAME.match(text)
        if frame:
            where = f" in {frame['where'].strip()}" if frame["where"] else ""
            frames.append((frame["file"], f"{_short(frame['file'])} line {frame['line']}{where}"))
        elif text.startswith((" ", "\t")) or not text.strip():
            continue  # source line, or carets
        elif HEADER in text:
            return None  # cut off by the next one
        elif match := _EXCEPTION.match(text.strip()):
            own = [words for file, words in frames if not _LIBRARY.search(file)]
            innermost = own[-1] if own else frames[-1][1] if frames else ""
            return Traceback(number, match["name"], match["message"] or "", innermost, start)
        else:
            return None
    return None


def _short(file: str) -> str:
    """Return the last two parts of a path: enough to know the file, short enough for a sentence."""
    return "/".join(file.replace("\\", "/").split("/")[-2:])
