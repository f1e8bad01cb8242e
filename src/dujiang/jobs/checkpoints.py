"""Finds the last good checkpoint in a folder: the newest entry that is whole as far as its name and size tell."""

from __future__ import annotations

import os
from datetime import UTC, datetime

_UNFINISHED = (".tmp", ".temp", ".partial", ".part", ".incomplete", ".lock", "~")
_MOST_ENTRIES = 100_000


def saved_at(folder: str) -> datetime | None:
    """Return when the newest checkpoint of a folder was written, None where there is none; blocking."""
    newest = _newest(folder)
    return None if newest is None else datetime.fromtimestamp(newest[0] / 1e9, UTC)


def find_checkpoint(folder: str) -> str | None:
    """Return the path of the newest checkpoint, or None where there is none; blocking.

    Programs write to a hidden or temporary name and rename, so a name of that kind, an empty file or an empty folder is
    not one. What the bytes hold only the program can tell, which goes back to the one before when it cannot read it.
    """
    newest = _newest(folder)
    return newest[1] if newest else None


def _newest(folder: str) -> tuple[int, str] | None:
    """Return (written at in nanoseconds, path)."""
    newest: tuple[int, str] | None = None
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= _MOST_ENTRIES:
                    break
                if (at_ns := _written_at(entry)) is not None:
                    newest = max(newest or (0, ""), (at_ns, entry.path))
    except OSError:
        return None
    return newest


def _written_at(entry: os.DirEntry[str]) -> int | None:
    if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
        return None
    try:
        found = entry.stat()
        if entry.is_dir():
            with os.scandir(entry.path) as inside:
                return found.st_mtime_ns if any(inside) else None
    except OSError:
        return None
    return found.st_mtime_ns if found.st_size else None
