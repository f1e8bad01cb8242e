"""Opens and lists what lies below a folder that somebody else may change at any moment: no link leads out of it.

Each step of a path is taken from the folder above it, and looked at before it is opened for reading: to open a pipe
would wait for who writes to it, to open a device may do something. The kernel follows no link; where one may be
followed its text is read, and taken as further steps below the folder.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Final

DEEPEST: Final = 6
"""Folders below the listed one, further down nothing is listed."""
MOST_ENTRIES: Final = 20_000
"""Entries of folders that one listing looks at: what a job leaves may be a data set."""
MOST_LINKS: Final = 8
"""On one way."""
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class LeadsOut(OSError):
    """The path is absolute or has `..`, or a step of it is a link that is not followed."""


class _Link(LeadsOut):
    """A step is a link."""


class NoRegularFile(OSError):
    """It is a folder, a pipe, a socket or a device."""


class NotTheirs(PermissionError):
    """It belongs to another user than it must, or lies on another file system."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder below a trusted one, every step of the way to which others may exchange."""

    top: str
    """Absolute path of a folder that they cannot exchange; links on the way to it are followed, it is none itself."""
    steps: tuple[str, ...]
    """Names of the folders below it, the last one the folder itself."""
    owner: int | None = None
    """User who must own all that is below `top`, on the same file system; None takes anybody's."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A regular file."""

    path: str
    """Relative, with `/`."""
    size_bytes: int


def steps_of(path: str) -> tuple[str, ...]:
    """Return the names of a relative path.

    Raises:
        LeadsOut: it is absolute, empty or has `..`.
    """
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    if not steps or path.startswith("/") or ".." in steps:
        raise LeadsOut(f"{path!r} is no path inside the folder")
    return steps


def open_folder(place: Place, more: Sequence[str] = ()) -> int:
    """Open a folder, to look and to open below it; not to be listed itself. The caller closes the descriptor.

    Args:
        place: where.
        more: names below it.

    Raises:
        OSError: `FileNotFoundError`, `NotADirectoryError`, those above, or what the file system says.
    """
    at = os.open(place.top, _LOOK | os.O_DIRECTORY)
    device = os.fstat(at).st_dev
    for step in (*place.steps, *more):
        try:
            below, mode = _look(at, step, place.owner, device)
        finally:
            os.close(at)
        at = below
        if not stat.S_ISDIR(mode):
            os.close(at)
            raise NotADirectoryError(f"{step!r} is no folder")
    return at


def open_linked_file(place: Place, steps: Sequence[str]) -> IO[bytes]:
    """Open a regular file as `open_file` does; links on the way are followed as long as they stay below the folder.

    Raises:
        OSError: as `open_file`.
    """
    for _ in range(MOST_LINKS):
        try:
            return open_file(place, steps)
        except _Link:
            steps = _led(place, steps)
    return open_file(place, steps)


def _led(place: Place, steps: Sequence[str]) -> tuple[str, ...]:
    """Return the way with its first link taken; whether what is there now can be opened, opening says.

    Raises:
        OSError: as `open_folder`; `LeadsOut` where the link does.
    """
    for nth, step in enumerate(steps):
        folder = open_folder(place, steps[:nth])
        try:
            text = os.readlink(step, dir_fd=folder)
        except OSError:  # no link, or one no more
            continue
        finally:
            os.close(folder)
        way = list(steps[:nth]) if not text.startswith("/") else None
        for further in text.split("/"):
            if way is None or (further == ".." and not way):
                raise LeadsOut(f"{step!r} is a link that leads out")
            if further == "..":
                way.pop()
            elif further not in ("", "."):
                way.append(further)
        return (*(way or ()), *steps[nth + 1 :])
    return tuple(steps)


def open_file(place: Place, steps: Sequence[str]) -> IO[bytes]:
    """Open a regular file below a folder for reading, without a buffer. No link is followed.

    Raises:
        OSError: as `open_folder`, and `NoRegularFile`.
    """
    if not steps:
        raise NoRegularFile("it is the folder itself")
    folder = open_folder(place, steps[:-1])
    try:
        found, mode = _look(folder, steps[-1], place.owner, os.fstat(folder).st_dev)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(mode):
            raise NoRegularFile(f"{steps[-1]!r} is no regular file")
        return os.fdopen(os.open(f"/proc/self/fd/{found}", _READ), "rb", buffering=0)
    finally:
        os.close(found)


def list_files(place: Place, *, prefix: str = "", most: int) -> list[Listed]:
    """Return regular files below a folder, those nearest to it first, in order of their names.

    Args:
        place: the folder.
        prefix: of the names of files.
        most: how many at most.

    Raises:
        OSError: as `open_folder`, of the folder itself; what is below and cannot be listed is left out.
    """
    found: list[Listed] = []
    waiting: deque[tuple[str, ...]] = deque([()])
    left = MOST_ENTRIES
    while waiting and left > 0 and len(found) < most:
        steps = waiting.popleft()
        try:
            entries = _entries(place, steps, left)
        except OSError:
            if not steps:
                raise
            continue  # exchanged or closed meanwhile
        left -= len(entries)
        for name, status in entries:
            if stat.S_ISDIR(status.st_mode) and len(steps) < DEEPEST:
                waiting.append((*steps, name))
            elif stat.S_ISREG(status.st_mode) and name.startswith(prefix):
                found.append(Listed("/".join((*steps, name)), status.st_size))
    return found[:most]


def _entries(place: Place, steps: Sequence[str], most: int) -> list[tuple[str, os.stat_result]]:
    folder = open_folder(place, steps)
    try:
        listed = os.open(f"/proc/self/fd/{folder}", _READ | os.O_DIRECTORY)
    finally:
        os.close(folder)
    found: list[tuple[str, os.stat_result]] = []
    try:
        with os.scandir(listed) as entries:
            for entry in islice(entries, most):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone again
                if place.owner is None or status.st_uid == place.owner:
                    found.append((entry.name, status))
    finally:
        os.close(listed)
    return sorted(found)


def _look(folder: int, name: str, owner: int | None, device: int) -> tuple[int, int]:
    """Take one step; return a descriptor that nothing is read by, and the mode of what it is."""
    if name in ("", ".", "..") or "/" in name:
        raise LeadsOut(f"{name!r} is no name")
    try:
        fd = os.open(name, _LOOK, dir_fd=folder)
    except ValueError as error:  # no name of a file: a NUL, half of a character
        raise FileNotFoundError(f"{name!r} can be no file's name") from error
    status = os.fstat(fd)
    if stat.S_ISLNK(status.st_mode):
        os.close(fd)
        raise _Link(f"{name!r} is a link")
    if owner is not None and (status.st_uid != owner or status.st_dev != device):
        os.close(fd)
        raise NotTheirs(f"{name!r} is another user's, or on another file system")
    return fd, status.st_mode
