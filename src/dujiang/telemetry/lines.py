"""Output as it comes, in any pieces -> points, without losing or counting twice.

The reader is a fold: its state, which is a few numbers and fits into one row, and the next bytes give points and the
next state. Where the bytes are cut makes no difference. After a restart, reading goes on from `state.offset`: the bytes
of a line that had not ended are read again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dujiang.telemetry.domain import Point, clean_name, good_step
from dujiang.telemetry.forms import LONGEST_LINE, read_line

MOST_NAMES = 200
"""Metrics of one attempt; further names are counted, not kept."""
_LINE_ENDS = re.compile(rb"[\r\n\x08]")
"""A progress bar starts its line again with a return or with backspaces; each of its showings is a line of its own."""
_LONGEST_BYTES = 4 * LONGEST_LINE
_ESCAPES = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")


@dataclass(slots=True)
class LineState:
    """Where reading stands."""

    offset: int = 0
    """Of the next byte that is needed."""
    skipping: bool = False
    """Inside a line that is too long to be looked at."""
    epoch: int | None = None
    steps: dict[str, int] = field(default_factory=dict)
    """The step at which each name came last; where a line names no step, the one after it is taken."""
    dropped: int = 0
    """Points of names beyond `MOST_NAMES`."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "offset": self.offset, "skipping": self.skipping, "epoch": self.epoch, "steps": self.steps,
            "dropped": self.dropped,
        }  # fmt: skip

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LineState:
        """Return the state of a stored row."""
        return cls(row["offset"], row["skipping"], row["epoch"], dict(row["steps"]), row["dropped"])


class LineReader:
    """Reads the output of one rank."""

    def __init__(self, state: LineState | None = None) -> None:
        self.state = state or LineState()
        self._partial = b""

    def feed(self, data: bytes, offset: int | None = None) -> list[Point]:
        """Take the next bytes; return the points of the lines that ended in them.

        Args:
            data: any piece of the output.
            offset: of its first byte. What was read before is passed over; after a gap, the line that was cut is left
                out. None takes the data as what follows.
        """
        expected = self.state.offset + len(self._partial)
        if offset is not None and offset < expected:
            data = data[expected - offset :]
        elif offset is not None and offset > expected:
            self.state.offset, self._partial, self.state.skipping = offset, b"", offset > 0
        points: list[Point] = []
        begin = 0
        for match in _LINE_ENDS.finditer(data):
            self._end_line(self._partial + data[begin : match.start()], points)
            self.state.offset += len(self._partial) + match.end() - begin
            self._partial, begin = b"", match.end()
        self._partial += data[begin:]
        if self.state.skipping or len(self._partial) > _LONGEST_BYTES:
            self.state.offset += len(self._partial)
            self._partial, self.state.skipping = b"", bool(self._partial) or self.state.skipping
        return points

    def finish(self) -> list[Point]:
        """Take what is left as the last line: the program has ended without a line end."""
        points: list[Point] = []
        self._end_line(self._partial, points)
        self.state.offset += len(self._partial)
        self._partial = b""
        return points

    def _end_line(self, line: bytes, points: list[Point]) -> None:
        if self.state.skipping or len(line) > _LONGEST_BYTES:
            self.state.skipping = False
            return
        text = line.decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        reading = read_line(text, self.state.epoch)
        if reading.epoch is not None:
            self.state.epoch = reading.epoch
        for raw, value in reading.values:
            name = clean_name(raw)
            if name is None:
                continue
            if name not in self.state.steps and len(self.state.steps) >= MOST_NAMES:
                self.state.dropped += 1
                continue
            step = self.state.steps.get(name, 0) + 1 if reading.step is None else reading.step
            if good_step(step):
                self.state.steps[name] = step
                points.append(Point(name, step, value))
