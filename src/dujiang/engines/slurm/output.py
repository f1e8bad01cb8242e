"""Reads the output of a rank from a file that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from dujiang.engines.contract import LogChunk
from dujiang.kit.clock import Clock
from dujiang.kit.files import read_at, size_of

_CHUNK_BYTES = 64 * 1024


async def read_chunks(
    path: str, rank: int, offset: int, *, follow: bool, is_over: Callable[[], Awaitable[bool]], clock: Clock,
    every_s: float,
) -> AsyncIterator[LogChunk]:  # fmt: skip
    """Yield what a file holds from an offset on; with follow, until the attempt is over. Negative counts from the end.

    The file is opened anew each time: a network file system shows what others wrote since at opening.
    """
    there = size_of(path)
    at, until = max(0, there + offset if offset < 0 else offset), None if follow else there
    while True:
        over = not follow or await is_over()  # asked first: what is written before the end is still read below
        while data := read_at(path, at, _CHUNK_BYTES if until is None else min(_CHUNK_BYTES, until - at)):
            yield LogChunk(rank, at, data)
            at += len(data)
            await asyncio.sleep(0)
        if over:
            return
        await clock.sleep(every_s)
