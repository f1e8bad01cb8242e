"""The server on a real socket: it stops cleanly with streams open, and says when it cannot listen."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, Response

from dujiang.api.server import PortInUse, Server, listen
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.errors import Unavailable
from dujiang.kit.http import ServerEvent
from dujiang.kit.ids import Ids
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Role
from tests.factories import Platform, a_platform

Reader = Annotated[Caller, Depends(needs(Permission.EVENTS_READ))]


class Endless:
    """A stream that never ends by itself."""

    def __init__(self) -> None:
        self.opened, self.closed, self.answering, self.gone = 0, 0, asyncio.Event(), asyncio.Event()

    def router(self) -> APIRouter:
        routes = APIRouter()

        @routes.get("/v1/endless")
        async def stream_endlessly(caller: Reader) -> Response:
            async def events() -> AsyncIterator[ServerEvent]:
                self.opened += 1
                try:
                    yield ServerEvent("first")
                    await asyncio.Event().wait()
                finally:
                    self.closed += 1
                    self.gone.set()

            return caller.stream(events())

        @routes.get("/v1/slow")
        async def answer_slowly(caller: Reader) -> str:
            await self.answering.wait()
            return "done"

        return routes


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
async def platform(sqlite: Database, clock: ManualClock, ids: Ids, endless: Endless) -> Platform:
    return await a_platform(sqlite, clock, ids, routers=[endless.router()])


async def test_it_stops_with_streams_open_and_finishes_what_it_answers(platform: Platform, endless: Endless) -> None:
    sock = listen("127.0.0.1", 0)
    server = Server(platform.app, closing=platform.door.closing)
    serving = asyncio.create_task(server.run_on(sock))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {platform.tokens[Role.MEMBER]}"}
    lines: list[str] = []

    async def follow(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/v1/endless") as answer:
            async for line in answer.aiter_lines():
                lines.append(line)
                if line == "data: first" and lines.count(line) == 5:
                    server.stop()
                    endless.answering.set()

    async with asyncio.timeout(20), httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as client:
        slow = asyncio.create_task(client.get("/v1/slow"))
        await asyncio.gather(*(follow(client) for _ in range(5)))  # each ends without an error at the client
        assert (await slow).json() == "done"
        await serving
    assert (endless.opened, endless.closed) == (5, 5)


async def test_a_client_that_goes_ends_its_stream(platform: Platform, endless: Endless) -> None:
    sock = listen("127.0.0.1", 0)
    server = Server(platform.app, closing=platform.door.closing)
    serving = asyncio.create_task(server.run_on(sock))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {platform.tokens[Role.MEMBER]}"}
    async with asyncio.timeout(20):
        client = httpx.AsyncClient(base_url=url, headers=headers)
        async with client, client.stream("GET", "/v1/endless") as answer:
            async for line in answer.aiter_lines():
                if line == "data: first":
                    break
        await endless.gone.wait()
        server.stop()
        await serving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server_and_not_the_process(platform: Platform, number: signal.Signals) -> None:
    server = Server(platform.app, closing=platform.door.closing)
    with listen("127.0.0.1", 0) as sock:
        serving = asyncio.create_task(server.run_on(sock))
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{sock.getsockname()[1]}/healthz")
        signal.raise_signal(number)
        await serving  # uvicorn's own way would end this process here
    assert platform.door.closing.is_set()
    assert not server.force_exit


def test_a_taken_port_is_said() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(PortInUse, match=str(taken.getsockname()[1])):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_port_just_left_can_be_taken_again() -> None:
    first = listen("127.0.0.1", 0)
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        first.accept()[0].close()
        assert client.recv(1) == b""
        first.close()
    listen("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(Unavailable, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)
