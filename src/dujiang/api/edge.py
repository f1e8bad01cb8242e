"""The outermost layer: a request's id, its figures, its record in the journal, and an answer whatever happens.

Every mutating call leaves a record. One that succeeded is in the journal by its own transaction (or by `CallMade` when
that changed nothing); one that was refused or failed is written here as `CallRefused`, before the answer leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dujiang.kit import log
from dujiang.kit.errors import DujiangError
from dujiang.kit.http import problem_response
from dujiang.kit.metrics import Metrics
from dujiang.tenancy.access import JOURNALED, MUTATING, PRINCIPAL, REQUEST_ID, Door, cause_of, route_of
from dujiang.tenancy.events import CallMade, CallRefused

CODE: Final = "dujiang.code"
"""Scope member: the error code that was answered."""
_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_ID_CHARACTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_STRANGERS_A_MINUTE: Final = 60
_logger = log.get(__name__)


class Edge:
    """The ASGI layer that every request passes first and every answer last."""

    def __init__(self, app: ASGIApp, *, door: Door, metrics: Metrics, new_id: Callable[[], str]) -> None:
        self._app, self._door, self._metrics, self._new_id = app, door, metrics, new_id
        self._strangers = _Allowance(_STRANGERS_A_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = _given_id(scope) or self._new_id()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status, streams = time.perf_counter(), 0, False

        async def answer(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                streams = any(name == b"content-type" and value.startswith(b"text/event") for name, value in headers)
                headers.append((b"x-request-id", request_id.encode()))
                headers.append((b"x-content-type-options", b"nosniff"))
                if scope["method"] in MUTATING:
                    await self._record(scope, status)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if status:  # the answer has begun: nothing can be said any more but that it broke
                _logger.error("the answer broke off", path=scope["path"], exc_info=error)
                raise
            await _render(error, scope)(scope, receive, answer)
        finally:
            self._count(scope, status, None if streams else time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id")

    def _count(self, scope: Scope, status: int, seconds: float | None) -> None:
        route = route_of(scope) or "unmatched"
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.requests_total.labels(method, route, str(status or 499)).inc()  # 499: the client went away
        if seconds is not None:
            self._metrics.request_seconds.labels(route).observe(seconds)

    async def _record(self, scope: Scope, status: int) -> None:
        refused = status >= 400
        if not refused and scope.get(JOURNALED):
            return
        try:
            actor = await self._actor(scope)
            event: CallMade | CallRefused
            if not refused:
                event = CallMade(subject=_subject(scope), method=scope["method"], route=route_of(scope))
            else:
                unrecorded = 0
                if actor == "anonymous":
                    if not self._strangers.take():
                        return
                    unrecorded = self._strangers.missed()
                event = CallRefused(
                    subject=_subject(scope), method=scope["method"][:16], route=route_of(scope), status=status,
                    code=scope.get(CODE, ""), unrecorded=unrecorded,
                )  # fmt: skip
            async with self._door.db.transaction(actor=actor, cause=cause_of(scope)) as tx:
                tx.emit(event)
        except DujiangError as error:  # a full disk must not turn one refusal into another
            _logger.error("a call could not be recorded", path=scope["path"], status=status, why=str(error))

    async def _actor(self, scope: Scope) -> str:
        if PRINCIPAL not in scope:
            try:
                await self._door.principal(scope)
            except DujiangError:
                return "anonymous"
        return str(scope[PRINCIPAL].actor)


class Broken(DujiangError):
    """Something broke inside the platform."""


def _render(error: Exception, scope: Scope) -> Any:
    if not isinstance(error, DujiangError):
        _logger.error("a request broke", method=scope["method"], path=scope["path"], exc_info=error)
        error = Broken("The platform could not handle this request; its log says why, under the request's id.")
    scope[CODE] = error.code
    return problem_response(error, request_id=scope[REQUEST_ID], instance=scope["path"])


class _Allowance:
    """So many records a minute for callers nobody knows, and a count of those beyond."""

    def __init__(self, a_minute: int) -> None:
        self._a_minute, self._minute, self._taken, self._missed = a_minute, -1, 0, 0

    def take(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._taken = minute, 0
        self._taken += 1
        if self._taken > self._a_minute:
            self._missed += 1
            return False
        return True

    def missed(self) -> int:
        missed, self._missed = self._missed, 0
        return missed


def _given_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if 0 < len(value) <= 64 and _ID_CHARACTERS.issuperset(value) else ""
    return ""


def _subject(scope: Scope) -> str:
    path: str = scope["path"][:200]
    return path if path.isprintable() else "".join(c if c.isprintable() else "?" for c in path)
