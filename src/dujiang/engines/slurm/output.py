"""Reads the output of a rank from a file that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from dujiang.engines.contract import LogChunk
from dujiang.engines.slurm.folder import Folder
from dujiang.kit.clock import Clock

_CHUNK_BYTES = 64 * 1024


async def read_chunks(
    folder: Folder, rank: int, offset: int, *, follow: bool, is_over: Callable[[], Awaitable[bool]], clock: Clock,
    every_s: float,
) -> AsyncIterator[LogChunk]:  # fmt: skip
    """Yield what a rank printed from an offset; with follow, until the attempt is over. Below 0 counts from the end.

    The file is opened anew each time: a network file system shows what others wrote since at opening.
    """
    there = folder.output_size(rank)
    at, until = max(0, there + offset if offset < 0 else offset), None if follow else there
    while True:
        over = not follow or await is_over()  # asked first: what is written before the end is still read below
        while data := folder.read_output(rank, at, _CHUNK_BYTES if until is None else min(_CHUNK_BYTES, until - at)):
            yield LogChunk(rank, at, data)
            at += len(data)
            await asyncio.sleep(0)
        if over:
            return
        await clock.sleep(every_s)
