"""The two things asked of Linux that Python has no function for, and the score of the out-of-memory killer.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans(do: bool = True) -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets away; or no longer."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(do))


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send a signal to this process when its parent dies; kept over exec, not over fork."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def set_name(name: str) -> None:
    """Set the short name that `ps` and `top` show, at most 15 bytes of it."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def set_oom_score(adjustment: int) -> None:
    """Make this process a later (negative) or earlier choice of the out-of-memory killer, where that is allowed."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(adjustment).encode())
        finally:
            os.close(fd)


def set_namespace(fd: int, kind: int) -> None:
    """Join a namespace: `fd` of /proc/PID/ns/NAME, `kind` its CLONE_ flag. Only a process of one thread may.

    Raises:
        OSError: not allowed.
    """
    if _libc.setns(fd, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
