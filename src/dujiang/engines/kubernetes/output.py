"""What ranks printed: read from the nodes through the API server, and kept here.

Kubernetes knows no byte offsets, throws away what is older than some 10 MiB (`containerLogMaxSize`), and has nothing
any more when a Pod is deleted or its node is gone. So whatever was read is kept in a folder of the engine, at the
offset at which it was printed, and only what is new is asked for: from the second of the last line that is known. Of
each rank the last 64 MiB are kept. What a node threw away before anybody read it is missing, and no offset counts it.

    JOB/NUMBER/RANK/00000000000000000000       the output, in pieces named by the offset at which they begin
    JOB/NUMBER/RANK/at.json                    how far it was read, and by which platform

What is old is removed by `clearing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from dujiang.engines.contract import AttemptKey, EngineUnavailable, LogChunk
from dujiang.engines.kubernetes.apart import Apart
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, Invalid
from dujiang.engines.kubernetes.records import Record
from dujiang.engines.kubernetes.seeing import CONTAINER, Pod
from dujiang.kit.clock import Clock
from dujiang.kit.files import read_at

PIECE_BYTES: Final = 4 << 20
PIECES: Final = 16
_CHUNK_BYTES: Final = 64 * 1024
_LONGEST_STAMP: Final = 64


@dataclass(frozen=True, slots=True)
class At:
    """How far a rank's output was read. Times are nanoseconds since 1970, of the node that the rank runs on."""

    uid: str = ""
    """Of the Pod."""
    size: int = 0
    """Bytes of all that was read."""
    last_ns: int = 0
    """Of the last line."""
    first_ns: int = 0
    """Of the first line in the second of the last one."""
    bytes_since: int = 0
    """Of all lines from that one on."""
    is_whole: bool = False
    """Nothing more will come."""
    mark: str = ""
    """Of the platform that read it."""


class Output:
    """The output of all ranks."""

    def __init__(self, api: Api, folder: Path, *, clock: Clock, every_s: float, mark: str) -> None:
        self._api, self._folder, self._clock, self._every_s, self._mark = api, folder, clock, every_s, mark
        self._apart: Apart[tuple[AttemptKey, int]] = Apart()
        self._pulled_s: dict[str, float] = {}

    async def pull(self, record: Record, rank: int, pod: Pod) -> None:
        """Read what is new of a rank's output; of one that runs, no more often than was set.

        Raises:
            ApiError: the cluster no longer has it.
            EngineUnavailable: the cluster or the node does not answer.
        """
        key = (record.key, rank)
        async with self._apart.hold(key):
            at, has_ended = self._at(*key), pod.is_over
            if at.is_whole or pod.box.started_us is None:
                return
            now_s = self._clock.monotonic_s()
            if not has_ended and now_s - self._pulled_s.get(pod.uid, -1e9) < self._every_s:
                return
            self._pulled_s[pod.uid] = now_s
            if at.uid not in ("", pod.uid):  # somebody deleted the record, and the attempt was made anew
                shutil.rmtree(self._path(*key), ignore_errors=True)
                at = At()
            writer = Writer(self._path(*key), replace(at, uid=pod.uid, mark=self._mark))
            try:
                since = _second(at.last_ns) if at.last_ns else ""
                log = self._api.log(pod.namespace, pod.name, CONTAINER, since=since, timestamps=True)
                async with aclosing(log):
                    async for piece in log:
                        writer.take(piece)
            except Invalid:  # the container has not started after all
                return
            finally:
                writer.close(is_whole=False)
            if has_ended:
                writer.close(is_whole=True)
                self._pulled_s.pop(pod.uid, None)

    def size(self, key: AttemptKey, rank: int) -> int:
        """Return how many bytes of a rank's output were read so far."""
        return self._at(key, rank).size

    async def chunks(
        self, key: AttemptKey, rank: int, offset: int, *, follow: bool, bring: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[LogChunk]:
        """Yield a rank's output from an offset on; negative counts from the end.

        Args:
            key: of the attempt.
            rank: whose.
            offset: in bytes.
            follow: go on until nothing more will come.
            bring: reads what is new, and says whether that was the last.

        Raises:
            EngineUnavailable: nothing of it is here, and it cannot be read now.
        """
        at = -1
        while True:
            over = False
            try:
                over = await bring()
            except (EngineUnavailable, ApiError) as error:
                if not follow and not self.size(key, rank):
                    raise error if isinstance(error, EngineUnavailable) else EngineUnavailable(str(error)) from error
            until = self.size(key, rank)
            if at < 0:
                at = max(0, until + offset if offset < 0 else offset)
            while at < until:
                at, data = self._read(key, rank, at, min(_CHUNK_BYTES, until - at))
                if not data:
                    break
                yield LogChunk(rank, at, data)
                at += len(data)
                await asyncio.sleep(0)
            if over or not follow:
                return
            await self._clock.sleep(self._every_s)

    def _read(self, key: AttemptKey, rank: int, offset: int, count: int) -> tuple[int, bytes]:
        """Return a piece from an offset on, or from the first that is still there."""
        folder = self._path(key, rank)
        for start in _starts(folder):
            if start + PIECE_BYTES > offset:
                begin = max(offset, start)
                data = read_at(str(folder / _name(start)), begin - start, count)
                if data:
                    return begin, data
        return offset, b""

    def _path(self, key: AttemptKey, rank: int) -> Path:
        return self._folder / key.job_id / str(key.number) / str(rank)

    def _at(self, key: AttemptKey, rank: int) -> At:
        with contextlib.suppress(OSError, orjson.JSONDecodeError, TypeError):
            return At(**orjson.loads((self._path(key, rank) / "at.json").read_bytes()))
        return At()


class Writer:
    """Takes output that comes with a time before each line, and appends what is new of it to the pieces of a folder."""

    def __init__(self, folder: Path, at: At) -> None:
        self._folder, self._at = folder, at
        self._rest = b""
        self._in_line = False
        self._line_ns = 0
        self._seeks = at.last_ns > 0  # what is known already comes first
        self._skip = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def take(self, piece: bytes) -> None:
        """Take a piece of it, cut anywhere."""
        data = self._rest + piece
        self._rest = b""
        while data:
            if not self._in_line:
                stamp, space, after = data.partition(b" ")
                if not space and len(data) < _LONGEST_STAMP:
                    self._rest = data
                    return
                self._begin_line(_nanos(stamp))
                data = after
            line, end, data = data.partition(b"\n")
            self._in_line = not end
            self._content(line + end)
        if self._kept_bytes >= _CHUNK_BYTES:
            self._flush()

    def _begin_line(self, at_ns: int) -> None:
        self._in_line, self._line_ns = True, at_ns
        if not self._seeks or not at_ns:
            return
        if at_ns == self._at.first_ns:
            self._seeks, self._skip = False, self._at.bytes_since
        elif at_ns > self._at.last_ns:  # the node has thrown away what lay between
            self._seeks = False

    def _content(self, data: bytes) -> None:
        if self._seeks or not self._line_ns:
            return  # known, or without a time: then a kubelet says, in the place of output, that it has none any more
        known = min(self._skip, len(data))
        self._skip -= known
        data = data[known:]
        if not data:
            return
        at = self._at
        if at.last_ns == 0 or self._line_ns // 10**9 != at.first_ns // 10**9:
            at = replace(at, first_ns=self._line_ns, bytes_since=0)
        self._at = replace(
            at, size=at.size + len(data), last_ns=self._line_ns, bytes_since=at.bytes_since + len(data)
        )  # fmt: skip
        self._kept.append(data)
        self._kept_bytes += len(data)

    def close(self, *, is_whole: bool) -> None:
        """Write what was taken so far, and how far that is."""
        self._flush()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._at = replace(self._at, is_whole=is_whole)
        draft = self._folder / "at.json.new"
        draft.write_bytes(orjson.dumps(asdict(self._at)))
        draft.replace(self._folder / "at.json")

    def _flush(self) -> None:
        data, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        if not data:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        offset = self._at.size - len(data)
        while data:
            start = offset - offset % PIECE_BYTES
            part, data = data[: start + PIECE_BYTES - offset], data[start + PIECE_BYTES - offset :]
            fd = os.open(self._folder / _name(start), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fd, part, offset - start)
            finally:
                os.close(fd)
            offset += len(part)
        for start in _starts(self._folder)[:-PIECES]:
            (self._folder / _name(start)).unlink(missing_ok=True)


def _starts(folder: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    return []


def _name(start: int) -> str:
    return f"{start:020}"


def _nanos(stamp: bytes) -> int:
    """Return nanoseconds since 1970 of `2026-01-31T12:00:00.123456789Z`, exactly; 0 of what is no time."""
    text = stamp.decode("ascii", "replace")
    whole, _, rest = text.partition(".")
    digits = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    zone = rest[len(digits) :]
    try:
        seconds = datetime.fromisoformat(whole + (zone or "")).timestamp()
        return int(seconds) * 10**9 + int(digits.ljust(9, "0")[:9])
    except ValueError:
        return 0


def _second(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
