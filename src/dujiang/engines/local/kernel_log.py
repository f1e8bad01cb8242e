"""Picks the kernel's own words about an attempt's processes out of its log: kills for memory, faults, device errors.

Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

_LONGEST_RECORD = 8192
_MOST_LINES = 20
_DEVICE_ERROR = re.compile(
    r"NVRM: Xid|amdgpu.*(reset|RAS)|nvidia-nvswitch.*SXid|EXT4-fs error|I/O error|Hardware Error"
)


def read_kernel_log() -> list[tuple[float, str]]:
    """Return the kernel's log, oldest first, as monotonic seconds and text; empty where it may not be read."""
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    lines: list[tuple[float, str]] = []
    try:
        while True:
            try:
                record = os.read(fd, _LONGEST_RECORD)
            except BrokenPipeError:  # overwritten while reading: go on with the oldest there is
                continue
            except OSError:
                return lines
            head, _, text = record.decode(errors="replace").partition(";")
            fields = head.split(",")
            if len(fields) >= 3 and fields[2].isdigit():
                lines.append((int(fields[2]) / 1e6, text.split("\n", 1)[0]))
    finally:
        os.close(fd)


def about(
    log: Iterable[tuple[float, str]], pids: Iterable[int], groups: Sequence[str], since_s: float
) -> list[tuple[float, str]]:
    """Return the lines since then that name one of these processes or groups, or tell of failing hardware: pure."""
    numbers = "|".join(str(pid) for pid in sorted(pids))
    named = re.compile(
        rf"(?:Killed process |pid[= :]+|\[ *)(?:{numbers})(?:\D|$)" if numbers else r"(?!)", re.IGNORECASE
    )
    names = [name for group in groups if (name := group.rpartition("/")[2])]
    found = [
        (at, line)
        for at, line in log
        if at >= since_s and (named.search(line) or _DEVICE_ERROR.search(line) or any(name in line for name in names))
    ]
    return found[-_MOST_LINES:]
