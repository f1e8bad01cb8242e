"""Reads files that another user may have put there: no link is followed, and nothing is believed but who owns them.

Each step of a path is opened by itself, from a folder that is ours on. What is no regular file of that user on the same
file system is not there: a link, a pipe, a device, a file of somebody else to which a second name was made.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn

from dujiang.kit import beneath
from dujiang.kit.beneath import Place

_MOST_BYTES = 1 << 20
_DEEPEST = 16
_LARGEST = 1 << 53


def open_file(top: str, steps: Sequence[str], uid: int) -> IO[bytes] | None:
    """Open a file of a user; None where there is none that may be read.

    Args:
        top: a folder that no user can exchange.
        steps: names below it, the last one the file's.
        uid: who must own every one of them.
    """
    with suppress(OSError):
        return beneath.open_file(Place(top, (), uid), steps)
    return None


def status_of(top: str, steps: Sequence[str], uid: int) -> os.stat_result | None:
    """Return the status of a folder of a user below a folder of ours; None where there is none."""
    try:
        fd = beneath.open_folder(Place(top, tuple(steps), uid))
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def read_object(top: str, steps: Sequence[str], uid: int) -> tuple[dict[str, Any], int] | None:
    """Return what a user's JSON file says, and when it was last changed, in microseconds; None where there is none.

    The moment is the file system's, which its owner cannot set. Strings are without NUL and lone surrogates.
    """
    file = open_file(top, steps, uid)
    if file is None:
        return None
    with file:
        try:
            data = os.pread(file.fileno(), _MOST_BYTES + 1, 0)
            changed_us = os.fstat(file.fileno()).st_ctime_ns // 1000
        except OSError:
            return None
    if len(data) > _MOST_BYTES:
        return None
    with suppress(ValueError, RecursionError):
        told = _plain(json.loads(data, parse_constant=_refuse), _DEEPEST)
        if isinstance(told, dict):
            return told, changed_us
    return None


def _plain(value: Any, deepest: int) -> Any:
    if deepest == 0:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        return value.encode(errors="replace").decode().replace("\0", "")
    if isinstance(value, dict):
        return {_plain(name, deepest - 1): _plain(each, deepest - 1) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, deepest - 1) for each in value]
    if isinstance(value, int | float) and not (abs(value) <= _LARGEST and math.isfinite(value)):
        raise ValueError("a number beyond all measure")
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
