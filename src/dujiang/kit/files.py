"""Looks at files that others write, where a file that is not there is nothing yet."""

from __future__ import annotations

import contextlib
import os


def size_of(path: str) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0


def read_at(path: str, offset: int, count: int) -> bytes:
    """Return a piece of a file, nothing where there is none.

    Args:
        path: of the file.
        offset: where to begin, in bytes.
        count: how many bytes at most; below 0 is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, max(0, count), offset)
    finally:
        os.close(fd)
