"""The state file of an attempt: its lock, its start, the requests to it and its end; safe under a kill at any time.

One file of fixed size, all of it allocated before the attempt is accepted, so that a full disk loses neither a request
nor an exit status. Every record is written by one `pwrite` with its length and checksum; a torn one reads as absent.

The supervisor holds an open-file-description lock on the file for life. Whether an attempt is alive is asked of that
lock, never of a process number: numbers are used again, locks are not. Asking does not take it (`F_OFD_GETLK`), so a
question can never make a start fail.

Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
import zlib
from typing import Any

STARTED_AT, STARTED_BYTES = 0, 4096
STOP_AT, SIGNALS_AT, REQUESTS_BYTES = 4096, 4160, 4096
END_AT, END_BYTES = 8192, 16384
STATE_BYTES = END_AT + END_BYTES

_HEADER = struct.Struct("<4sII")
_MAGIC = b"DJ1\n"
_STOP = struct.Struct("<4sIdd")
_RING = 64
_SIGNALS = struct.Struct(f"<I{_RING}B")
_FLOCK = struct.Struct("hhqqi4x")


def create_state(path: str) -> int:
    """Open the state file, made and allocated when missing; the caller closes the descriptor.

    Raises:
        OSError: ENOSPC when the whole file cannot be allocated.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < STATE_BYTES:
            os.posix_fallocate(fd, 0, STATE_BYTES)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_state(path: str) -> int | None:
    """Open an existing state file, None when there is none; the caller closes the descriptor."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def write_record(fd: int, offset: int, room: int, payload: dict[str, Any]) -> None:
    """Write a record in one piece into its allocated room.

    Raises:
        ValueError: it does not fit.
    """
    body = json.dumps(payload, separators=(",", ":")).encode()
    if len(body) + _HEADER.size > room:
        raise ValueError(f"the record has {len(body)} bytes, its room is {room - _HEADER.size}")
    os.pwrite(fd, _HEADER.pack(_MAGIC, len(body), zlib.crc32(body)) + body, offset)


def read_record(fd: int, offset: int, room: int) -> dict[str, Any] | None:
    """Return the record, None when it was never written whole."""
    head = os.pread(fd, _HEADER.size, offset)
    if len(head) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack(head)
    if magic != _MAGIC or length > room - _HEADER.size:
        return None
    body = os.pread(fd, length, offset + _HEADER.size)
    if len(body) != length or zlib.crc32(body) != checksum:
        return None
    record = json.loads(body)
    return record if isinstance(record, dict) else None


def read_started(fd: int) -> dict[str, Any] | None:
    """Return the start record: from here on the attempt may have run, and never starts again."""
    return read_record(fd, STARTED_AT, STARTED_BYTES)


def read_end(fd: int) -> dict[str, Any] | None:
    """Return the end record; `final` is False until everything that the attempt started is gone."""
    return read_record(fd, END_AT, END_BYTES)


def write_end(fd: int, end: dict[str, Any]) -> None:
    """Write the end record, with as much of its evidence as fits; the exit status always does."""
    evidence = [[source, line[:1000], at] for source, line, at in end.get("evidence", [])]
    facts = dict(end.get("facts", {}))
    while True:
        try:
            write_record(fd, END_AT, END_BYTES, {**end, "evidence": evidence, "facts": facts})
            return
        except ValueError:
            if evidence:
                evidence.pop()
            elif facts:
                facts.popitem()
            else:
                raise


def take_lock(fd: int) -> bool:
    """Take the lock for as long as any copy of this descriptor is open; False when another has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(fd: int) -> bool:
    """Say whether another open file holds the lock, without taking it."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return int(_FLOCK.unpack(answer)[0]) != fcntl.F_UNLCK


def request_stop(fd: int, grace_s: float) -> None:
    """Ask the attempt to stop; the first request sets the start of the grace, later ones can only shorten it."""
    now = monotonic_s()
    asked = read_stop(fd)
    begun, deadline = asked if asked is not None else (now, now + grace_s)
    body = struct.pack("<dd", begun, min(deadline, now + grace_s))
    os.pwrite(fd, _STOP.pack(_MAGIC, zlib.crc32(body), begun, min(deadline, now + grace_s)), STOP_AT)


def read_stop(fd: int) -> tuple[float, float] | None:
    """Return when a stop was first asked for and when everything must be gone, in this boot's monotonic seconds."""
    raw = os.pread(fd, _STOP.size, STOP_AT)
    if len(raw) < _STOP.size:
        return None
    magic, checksum, begun, deadline = _STOP.unpack(raw)
    if magic != _MAGIC or zlib.crc32(struct.pack("<dd", begun, deadline)) != checksum:
        return None
    return begun, deadline


def request_signal(fd: int, number: int) -> None:
    """Ask for a signal to the program; the last 64 requests are kept, each is done once."""
    count, *ring = _read_signals(fd)
    ring[count % _RING] = number
    os.pwrite(fd, _SIGNALS.pack(count + 1, *ring), SIGNALS_AT)


def read_signals(fd: int, done: int) -> tuple[int, list[int]]:
    """Return how many signals were asked for in all, and the numbers of those after the first `done`."""
    count, *ring = _read_signals(fd)
    return count, [ring[nth % _RING] for nth in range(max(done, count - _RING), count)]


def _read_signals(fd: int) -> tuple[int, ...]:
    raw = os.pread(fd, _SIGNALS.size, SIGNALS_AT)
    return _SIGNALS.unpack(raw.ljust(_SIGNALS.size, b"\0"))


def monotonic_s() -> float:
    """Return seconds since this boot, the same in every process of the machine."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970.

    The supervisor is a process of its own, outside the platform: no clock can be handed in to it.
    """
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000


def boot_id() -> str:
    """Return what names this boot of the machine; empty where the kernel does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
