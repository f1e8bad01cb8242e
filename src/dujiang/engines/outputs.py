"""The words of what attempts leave in their output folder: its files, and why one cannot be had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dujiang.kit.errors import DujiangError

MOST_LISTED: Final = 64
"""Files that a listing returns unless it is asked for more."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A regular file in an output folder."""

    path: str
    """Relative to the folder, with `/`; bytes that are no text are escaped as Python does (surrogates)."""
    size_bytes: int


class OutputRefused(DujiangError):
    """The file is there and cannot be read: its owner, or who owns a folder on the way, does not let the platform."""

    code, http_status, title = "output_refused", 409, "The file cannot be read"


class OutputMissing(OutputRefused):
    """There is no such file; or no output folder (any more), which a listing tells."""

    code, http_status, title = "output_missing", 404, "There is no such file"


class OutputNotAFile(OutputRefused):
    """It is a folder, a pipe, a socket or a device."""

    code, title = "output_not_a_file", "It is no regular file"


class OutputOutside(OutputRefused):
    """The path is no relative one, has `..`, or leads out of the folder through a link."""

    code, title = "output_outside", "The path leads out of the output folder"


class OutputUnreachable(OutputRefused):
    """This engine can give no file of any attempt, as it is set up; the sentence says what to set."""

    code, title = "output_unreachable", "Output folders cannot be reached"
