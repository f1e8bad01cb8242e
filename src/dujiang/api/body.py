"""What a request's body may be, decided before the framework reads it: size, JSON at all, depth, numbers, characters.

A JSON body is read whole and checked by a fast parser; other bodies only have their bytes counted as they stream by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dujiang.kit.errors import DujiangError, Invalid
from dujiang.kit.http import INT64_MAX, BodyTooLarge

MAX_BODY_BYTES: Final = 8 * 2**20
MAX_DEPTH: Final = 100
# What the fast writer refuses to nest any deeper; used to measure depth at its speed.
_WRITER_DEPTH: Final = 254
_LONG_NUMBER = re.compile(rb"\d{19,}")


class MalformedJson(Invalid):
    """The body is not JSON."""

    code: ClassVar[str] = "malformed_json"
    http_status: ClassVar[int] = 400
    title: ClassVar[str] = "The body is not JSON"


class BadCharacter(Invalid):
    """The path or the query holds a NUL character."""

    code: ClassVar[str] = "bad_character"
    http_status: ClassVar[int] = 400


class BodyGuard:
    """An ASGI layer that lets only bodies pass which nothing behind it can choke on."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int = MAX_BODY_BYTES, unlimited: Sequence[str] = ()) -> None:
        """Take the limit, and the path prefixes (uploads) whose bodies are neither counted nor read here."""
        self._app, self._limit, self._unlimited = app, limit_bytes, tuple(unlimited)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check and pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            raise BadCharacter("The path or the query holds a NUL character, which no name or text here may.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS") or scope["path"].startswith(self._unlimited or "\0"):
            await self._app(scope, receive, send)
            return
        length, content_type = _headers(scope)
        if length is not None and length > self._limit:
            raise self._too_large()
        if _is_json(content_type):
            body = await self._read(receive)
            if body is None:
                return
            check_json(body)
            receive = _replay(body, receive)
        else:
            receive = self._counted(receive)
        await self._app(scope, receive, send)

    async def _read(self, receive: Receive) -> bytes | None:
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._limit:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(chunks)

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> DujiangError:
        return BodyTooLarge(f"The body is larger than {self._limit} bytes; send less at once.", limit_bytes=self._limit)


def check_json(body: bytes) -> None:
    """Let pass JSON that every layer can hold; some 5 µs for a kilobyte, 40 ms for 8 MiB.

    Raises:
        MalformedJson: not JSON (RFC 8259) in UTF-8.
        Invalid: nested deeper than 100, a whole number beyond 64 bits, or a NUL character.
    """
    if not body:
        return
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error}.", line=error.lineno, column=error.colno) from error
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _is_deep(value):
        raise Invalid(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if b"\\u0000" in body or _LONG_NUMBER.search(body):
        _check_values(json.loads(body))  # rare, so exact and slow


def _is_deep(value: Any) -> bool:
    for _ in range(_WRITER_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


def _check_values(root: Any) -> None:
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and abs(value) > INT64_MAX:
            raise Invalid(f"{str(value)[:30]}... is a larger number than 64 bits hold.")
        elif isinstance(value, str) and "\0" in value:
            raise Invalid("The body holds a NUL character (\\u0000), which no text here may.")


def _headers(scope: Scope) -> tuple[int | None, str]:
    length, content_type = None, ""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            length = int(value)
        elif name == b"content-type":
            content_type = value.decode("latin-1").partition(";")[0].strip().lower()
    return length, content_type


def _is_json(content_type: str) -> bool:
    return content_type in ("", "application/json") or content_type.endswith("+json")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # a disconnect, which a stream waits for
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
