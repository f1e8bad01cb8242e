"""Stands between the engine and slurmrestd on loopback, and spoils answers on their way back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

_LONGEST = 1 << 20


class Proxy:
    """Passes requests on; the next answer to a request that begins with `spoil` is spoiled, once."""

    def __init__(self, upstream: str) -> None:
        there = urlsplit(upstream)
        self._host, self._port = there.hostname or "", there.port or 0
        self.spoil, self.how = b"", ""
        self.asked: list[bytes] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    def lose(self, request: bytes) -> None:
        """Let the next answer to such a request be lost after it was carried out."""
        self.spoil, self.how = request, "lose"

    def halve(self, request: bytes) -> None:
        """Let the next answer to such a request be cut in half, well formed as HTTP."""
        self.spoil, self.how = request, "halve"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                request = await _message(reader)
                self.asked.append(request.partition(b"\r\n")[0])
                up_reader, up_writer = await asyncio.open_connection(self._host, self._port, limit=_LONGEST)
                up_writer.write(request)
                answer = await _message(up_reader)
                up_writer.close()
                if self.spoil and request.startswith(self.spoil):
                    self.spoil = b""
                    if self.how == "lose":
                        break
                    head, _, body = answer.partition(b"\r\n\r\n")
                    half = body[: len(body) // 2]
                    head = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(half))
                    answer = head + b"\r\n\r\n" + half
                writer.write(answer)
                await writer.drain()
        writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)
