"""Hands out loopback ports that no other attempt of this home has, and that nothing on the machine listens on.

A port is held by a lock on the byte of that number in one shared file, for as long as the supervisor lives: between its
choice and the moment the job listens on it, nobody else is given it. The range lies below the kernel's own range for
outgoing connections, so that none of those takes it either. Standard library only: the supervisor imports this.
"""

from __future__ import annotations

import fcntl
import os
import socket
import zlib

FIRST, LAST = 20_000, 31_999


def take(lock_file: str, count: int, seed: str) -> tuple[int, list[int]]:
    """Return the descriptor that holds the ports, to be kept open, and the ports.

    Raises:
        OSError: not that many are free.
    """
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    taken: list[int] = []
    first = zlib.crc32(seed.encode())
    for nth in range(LAST - FIRST + 1):
        port = FIRST + (first + nth) % (LAST - FIRST + 1)
        if _lock(fd, port) and _is_free(port):
            taken.append(port)
            if len(taken) == count:
                return fd, taken
    os.close(fd)
    raise OSError(0, f"fewer than {count} ports are free between {FIRST} and {LAST}")


def _lock(fd: int, port: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
