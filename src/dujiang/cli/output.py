"""How the command line writes: tables for people, JSON for programs, times, amounts and states in one form everywhere.

A terminal gets colours and a width; a pipe gets plain columns that are never cut. Nothing that came from the server or
from a job reaches a terminal with control characters in it, the logs of jobs apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dujiang.kit.clock import SystemClock
from dujiang.kit.units import format_bytes, format_duration, format_milli

Row = Mapping[str, Any]

_WIDEST = 32
"""Characters of a word that a table keeps whole; an id has 30."""
_COLOURS = {
    **dict.fromkeys(("COMPLETED", "READY", "RUNNING", "ACTIVE", "ok"), "green"),
    **dict.fromkeys(("PENDING", "QUEUED", "STARTING", "CORDONED", "DRAINING", "warn"), "yellow"),
    **dict.fromkeys(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DOWN", "GONE", "missing"), "red"),
    **dict.fromkeys(("CANCELLED", "PREEMPTED"), "magenta"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a listing."""

    title: str
    value: Callable[[Row], Any]
    right: bool = False
    """Numbers stand to the right."""
    below: bool = False
    """Sentences: on a terminal they stand under the table, each with the first column of its row."""


def col(title: str, name: str | None = None, *, right: bool = False) -> Column:
    """Return the column of a plain field."""
    field = name or title.lower().replace(" ", "_")
    return Column(title, lambda row: row.get(field), right)


def listing(rows: Iterable[Row], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """Write rows as a table, or as one JSON array and nothing else; `empty` says what to do when there are none."""
    found = list(rows)
    if as_json:
        write_json(found)
    elif not found:
        say(empty)
    else:
        is_terminal = sys.stdout.isatty()
        beside = [column for column in columns if not (column.below and is_terminal)]
        write_table([column.title for column in beside], [[_cell(c.value(row)) for c in beside] for row in found],
                    right=[column.right for column in beside])  # fmt: skip
        for row, column in ((row, column) for row in found for column in columns if column not in beside):
            if (text := column.value(row)) is not None:
                console().print(f"{clean(beside[0].value(row))}: {clean(text)}")


def _cell(value: Any) -> str:
    """Return a value for a table, where a row is one line whatever people write into a reason or a description."""
    return " ".join(clean(value).split("\n"))


def write_json(value: Any) -> None:
    """Write one JSON value on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> None:
    """Write a table, coloured and fitted on a terminal, plain and whole elsewhere."""
    if sys.stdout.isatty():
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        least = [max(_longest_word(line[i]) for line in [titles, *rows]) for i in range(len(titles))]
        for title, is_right, width in zip(titles, right, least, strict=True):
            table.add_column(title, justify="right" if is_right else "left", overflow="fold", min_width=width)
        for row in rows:
            table.add_row(*(Text(cell, style=_COLOURS.get(cell.split(" ")[0], "")) for cell in row))
        terminal = console()
        # Where not even the words fit, the terminal breaks the lines: a state or an id in two parts is no word at all.
        if sum(least) + 2 * len(least) > terminal.width:
            terminal.width = terminal.measure(table).maximum
        terminal.print(table, crop=False)
        return
    widths = [max(len(line[i]) for line in [titles, *rows]) for i in range(len(titles))]
    for line in [titles, *rows]:
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _longest_word(text: str) -> int:
    """Return how wide a column has to be for a cell; very long words (paths, addresses) may be broken."""
    return min(_WIDEST, max((len(word) for word in text.split()), default=0))


def write_facts(facts: Iterable[tuple[str, Any]], *, indent: int = 0) -> None:
    """Write `name  value` lines, leaving out what is None or empty."""
    shown = [(name, clean(value)) for name, value in facts if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        first, *more = value.split("\n")
        sys.stdout.write(f"{' ' * indent}{name.ljust(width)}  {paint(first)}\n")
        for line in more:
            sys.stdout.write(f"{' ' * (indent + width + 2)}{line}\n")


def heading(text: str) -> None:
    """Write the heading of a part."""
    sys.stdout.write(("\x1b[1m" + text + "\x1b[0m" if coloured() else text) + "\n")


def say(text: str) -> None:
    """Write a sentence for people on standard output."""
    sys.stdout.write(clean(text) + "\n")


def note(text: str) -> None:
    """Write a sentence beside the answer, on standard error."""
    sys.stdout.flush()
    sys.stderr.write(clean(text) + "\n")


def paint(text: str) -> str:
    """Return a text in the colour of the state it begins with, on a terminal."""
    colour = _COLOURS.get(text.split(" ")[0])
    codes = {"green": 32, "yellow": 33, "red": 31, "magenta": 35}
    return f"\x1b[{codes[colour]}m{text}\x1b[0m" if colour and coloured() else text


def coloured() -> bool:
    """Say whether standard output takes colours."""
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def console() -> Any:
    """Return a console of Rich on standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False, soft_wrap=False)


def nodes_of(attempt: Row) -> str | None:
    """Return where an attempt runs: its first node, and how many others there are (`n1 +3`)."""
    others = set(attempt.get("nodes") or []) - {attempt.get("node")}
    return f"{attempt['node']} +{len(others)}" if attempt.get("node") and others else attempt.get("node") or None


def clean(value: Any) -> str:
    """Return a value as text without control characters; lines stay lines."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else str(value)
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else f"\\x{ord(c):02x}" for c in text)


def now() -> datetime:
    """Return the time as this machine has it."""
    return SystemClock().now()


def parse_time(text: Any) -> datetime | None:
    """Return the time of the API's text, or None."""
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def stated(found: Row) -> str:
    """Return a state with its reason: `PENDING (QuotaExceeded)`."""
    return f"{found.get('state')} ({found['reason']})" if found.get("reason") else str(found.get("state"))


def moment(text: Any) -> str:
    """Return a time as people here read it: `10:31:05 (3m ago)`, with its date when that is not today."""
    at = parse_time(text)
    if at is None:
        return "-"
    local, today = at.astimezone(), now().astimezone()
    form = "%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d %H:%M:%S"
    return f"{local.strftime(form)} ({ago(text)})"


def ago(text: Any) -> str:
    """Return how long ago a time was, in one unit: `3m ago`, `in 2h`."""
    at = parse_time(text)
    if at is None:
        return "-"
    seconds = (now() - at).total_seconds()
    return f"{_short(seconds)} ago" if seconds >= 0 else f"in {_short(-seconds)}"


def lasted(start: Any, end: Any) -> str:
    """Return the time from start to end, or until now while there is no end."""
    began = parse_time(start)
    if began is None:
        return "-"
    return _short(max(0.0, ((parse_time(end) or now()) - began).total_seconds()))


def size(value: Any) -> str:
    """Return bytes with their unit."""
    return format_bytes(value) if isinstance(value, int) else "-"


def milli(value: Any) -> str:
    """Return thousandths as a number."""
    return format_milli(value) if isinstance(value, int) else "-"


def seconds(value: Any) -> str:
    """Return seconds with their unit."""
    return format_duration(float(value)) if isinstance(value, int | float) else "-"


def figure(value: Any) -> str:
    """Return a measured number with up to six figures."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(span: float) -> str:
    if span < 1:
        return f"{span * 1000:.0f}ms"
    if span < 10:
        return f"{span:.1f}s"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if span >= 2 * length:
            return f"{int(span // length)}{unit}"
    return f"{int(span)}s"
