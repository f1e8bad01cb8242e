"""The connections to one API server: kept, signed in anew when need be, with one error for each way that they fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
import structlog

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.answers import Busy, Unknown, check, object_of, telling
from dujiang.engines.kubernetes.connecting import Access, connect
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock

T = TypeVar("T")
_log = structlog.get_logger()

Parameters = Sequence[tuple[str, str]]

POOL = 64
"""Requests at a time: as many as kept an API server on two cores busy."""
_RENEW_S = 60.0
"""How often a token that may be replaced is read again; a Pod's own is replaced minutes before its end."""
_FAILED_S = 5.0
"""For how long a way in that failed is not tried again: each try may start a plugin."""
_IDLE_S = 60.0
"""An unused connection is closed after this; the API server closes its side after 90 s, under a request if need be."""
_ASKS = 4
"""How often a request is sent while the server says that it has too much to do."""


class Connection:
    """Sends requests over connections that are kept; makes them at the first request.

    What streams has connections of its own, since each holds one for as long as it lasts.
    """

    def __init__(self, settings: KubernetesSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._open: _Open | None = None
        self._lock = asyncio.Lock()
        self._turn = asyncio.Semaphore(POOL)
        self._renewed_s = self._connected_s = 0.0
        self._failed: tuple[float, str] | None = None

    @property
    def server(self) -> str:
        """Return the address, for sentences; empty before the first request."""
        return self._open.access.server if self._open else ""

    async def request(
        self, method: str, path: str, parameters: Parameters = (), body: Any = None, content_type: str = ""
    ) -> dict[str, Any]:
        """Send a request and return its answer. It waits for its turn outside its time limit.

        Raises:
            ApiError: the cluster says no.
            EngineUnavailable: no answer.
        """
        headers = {"Content-Type": content_type or "application/json"} if body is not None else {}
        data = orjson.dumps(body) if body is not None else None
        limit = aiohttp.ClientTimeout(total=self._settings.request_timeout_s)

        async def send(opened: _Open) -> dict[str, Any]:
            async with opened.requests.request(
                method,
                params=parameters,
                data=data,
                timeout=limit,
                allow_redirects=False,
                **_where(opened.access, path, headers),
            ) as answer:
                return object_of(await answer.read(), opened.access.server)

        async with self._turn:
            for _ in range(_ASKS - 1):
                try:
                    return await self._sent(send)
                except Busy as busy:
                    await self._clock.sleep(busy.after_s)
            try:
                return await self._sent(send)
            except Busy as busy:
                raise EngineUnavailable(busy.sentence) from busy

    @asynccontextmanager
    async def stream(
        self, path: str, parameters: Parameters = (), *, quiet_s: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for an answer that goes on; broken off when nothing comes for `quiet_s`.

        Raises:
            ApiError: the cluster says no.
            EngineUnavailable: no answer, or it broke off.
        """
        connect_s = self._settings.request_timeout_s
        limit = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=quiet_s)

        async def send(opened: _Open) -> tuple[aiohttp.ClientResponse, Access]:
            where = _where(opened.access, path, {})
            asking = opened.streams.request("GET", params=parameters, timeout=limit, allow_redirects=False, **where)
            # A program that is silent keeps even the first line of its output's answer waiting; nothing else does.
            answer = await asyncio.wait_for(asking, connect_s if quiet_s else None)
            return answer, opened.access

        answer, access = await self._sent(send)
        async with answer:
            with telling(access, connect_s):
                yield answer

    @asynccontextmanager
    async def websocket(
        self, path: str, parameters: Parameters, protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket.

        Raises:
            ApiError: the cluster says no.
            EngineUnavailable: no answer, or it broke off.
        """
        connect_s = self._settings.request_timeout_s

        async def send(opened: _Open) -> tuple[aiohttp.ClientWebSocketResponse, Access]:
            where = _where(opened.access, path, {})
            opening = opened.streams.ws_connect(params=parameters, protocols=protocols, max_msg_size=0, **where)
            return await asyncio.wait_for(opening, connect_s), opened.access

        opened, access = await self._sent(send)
        async with opened:
            with telling(access, connect_s):
                yield opened

    async def close(self) -> None:
        """Close every connection."""
        opened, self._open = self._open, None
        if opened:
            await opened.close()

    async def _sent(self, send: Callable[[_Open], Awaitable[T]]) -> T:
        """Send; where the cluster does not know us any more, sign in anew and send once again."""
        opened = await self._ready()
        refused = opened.access
        try:
            with telling(refused, self._settings.request_timeout_s):
                return await send(opened)
        except Unknown as unknown:
            opened = await self._ready(refused)
            if opened.access is refused:
                raise EngineUnavailable(unknown.sentence) from unknown
        try:
            with telling(opened.access, self._settings.request_timeout_s):
                return await send(opened)
        except Unknown as unknown:
            raise EngineUnavailable(unknown.sentence) from unknown

    async def _ready(self, refused: Access | None = None) -> _Open:
        """Return the sessions; where the cluster refused a way in, by another one if there is another."""
        now = self._clock.monotonic_s()
        if self._open and refused is None and now - self._renewed_s < _RENEW_S:
            return self._open
        async with self._lock:
            opened = self._open
            if opened is None:
                return await self._connected()
            if refused is None:
                if now <= self._renewed_s or await self._renewed(opened.access):
                    return opened
            elif opened.access is not refused or now - self._connected_s < _FAILED_S:
                return opened  # signed in anew meanwhile, or to no avail just now
            try:
                return await self._connected()
            except EngineUnavailable as error:
                if refused:
                    raise
                _log.warning("credentials_not_renewed", server=opened.access.server, error=error.sentence)
                return opened  # they are about to end, and have not ended

    async def _renewed(self, access: Access) -> bool:
        """Read the token again; False where all must be read anew. What fails leaves the token that there is."""
        self._renewed_s = self._clock.monotonic_s()
        try:
            authorization = await access.renew()
        except Exception as error:  # the client raises what it likes; the token may still do
            _log.warning("token_not_renewed", server=access.server, error=str(error))
            return True
        access.authorization = authorization or access.authorization
        return authorization is not None

    async def _connected(self) -> _Open:
        now = self._clock.monotonic_s()
        if self._failed and now < self._failed[0]:
            raise EngineUnavailable(self._failed[1])
        try:
            access = await connect(self._settings, self._clock)
        except EngineUnavailable as error:
            self._failed = (now + _FAILED_S, error.sentence)
            raise
        before, self._failed = self._open, None
        self._renewed_s = self._connected_s = self._clock.monotonic_s()
        if before and before.access.identity == access.identity:
            before.access = access
            return before
        self._open = _Open.of(access)
        if before:
            await before.close()
        return self._open


@dataclass(slots=True)
class _Open:
    """The sessions of one way in."""

    access: Access
    requests: aiohttp.ClientSession
    streams: aiohttp.ClientSession

    @classmethod
    def of(cls, access: Access) -> _Open:
        return cls(access, _session(access, POOL), _session(access, 0))

    async def close(self) -> None:
        await self.requests.close()
        await self.streams.close()


def _session(access: Access, connections: int) -> aiohttp.ClientSession:
    """Return a session of at most so many connections; 0 is any number."""
    connector = aiohttp.TCPConnector(
        limit=connections, ssl=access.tls or True, keepalive_timeout=_IDLE_S, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        raise_for_status=partial(check, access.server),
        proxy=access.proxy or _proxy_for(access.server),
    )


def _proxy_for(server: str) -> str | None:
    """Return the proxy that HTTPS_PROXY and NO_PROXY name, which kubectl heeds too.

    Found once: of itself aiohttp looks for it, and into .netrc, in a thread at each request, which took as much
    processor time as the rest of the request.
    """
    address = urlsplit(server)
    return None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket whose silent death is noticed within half a minute: a watch is quiet for long by itself."""
    family, kind, protocol = address[:3]
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _where(access: Access, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    signed = {"Authorization": access.authorization} if access.authorization else {}
    return {
        "url": access.server + path,
        "headers": {"Accept": "application/json, */*", "User-Agent": "dujiang", **headers, **signed},
        "server_hostname": access.server_name,
    }
