"""What every route shares: the base of schemas, pages with opaque cursors, problem answers, server-sent events.

Who may call is for `tenancy.access`; how errors of the framework become problems is for `api`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar

import orjson
from fastapi import Depends, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from dujiang.kit.errors import DujiangError, Invalid

PROBLEM_JSON: Final = "application/problem+json"
MAX_PAGE: Final = 500
INT64_MAX: Final = 2**63 - 1

T = TypeVar("T")
Cursor = Sequence[str | int | None]


class Model(BaseModel):
    """Base of every request and answer: unknown fields are refused, dataclasses of the domain are read by attribute."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def as_written(value: Any) -> Any:
    """Refuse a bare number: it would be taken for seconds since 1970."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    raise ValueError("a time is written 2026-01-31T08:00:00Z")


Moment = Annotated[datetime, BeforeValidator(as_written)]
"""A time in a request: RFC 3339 text, never a number."""
Flag = Annotated[bool, Field(strict=True)]
"""true or false in a body, and no word or number that could be meant so."""


class BadCursor(Invalid):
    """The cursor was not given out by this listing."""

    code: ClassVar[str] = "bad_cursor"
    title: ClassVar[str] = "The cursor cannot be used"


class BodyTooLarge(DujiangError):
    """The request's body is larger than the platform takes."""

    code: ClassVar[str] = "body_too_large"
    http_status: ClassVar[int] = 413
    title: ClassVar[str] = "The body is too large"


class Page(Model, Generic[T]):
    """Some of a listing, and where the rest starts."""

    items: list[T]
    next_cursor: str | None = None
    """Ask again with this `cursor` for what follows; null at the end."""


@dataclass(frozen=True, slots=True)
class Paging:
    """How much of a listing to give, after where."""

    limit: int
    cursor: str | None

    def after(self, *types: type[str] | type[int]) -> tuple[Any, ...] | None:
        """Return the sort key after which the page starts, one value for each type; None for the first page.

        Raises:
            BadCursor: the cursor is not one of this listing.
        """
        return None if self.cursor is None else decode_cursor(self.cursor, *types)

    def page(self, rows: Sequence[T], key: Callable[[T], Cursor]) -> tuple[list[T], str | None]:
        """Split `limit + 1` fetched rows into the page and the cursor of the next; `key` gives a row's sort key."""
        if len(rows) <= self.limit:
            return list(rows), None
        kept = list(rows[: self.limit])
        return kept, encode_cursor(key(kept[-1]))


def paging(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Items in a page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=1024, description="`next_cursor` of the page before.")] = None,
) -> Paging:
    """Read `limit` and `cursor`; use it as `Paged`."""
    return Paging(limit, cursor)


Paged = Annotated[Paging, Depends(paging)]
"""Route parameter of every listing: `paging: Paged`."""


def encode_cursor(key: Cursor) -> str:
    """Return an opaque cursor that holds a sort key."""
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).rstrip(b"=").decode()


def decode_cursor(text: str, *types: type[str] | type[int]) -> tuple[Any, ...]:
    """Return the sort key of a cursor.

    Raises:
        BadCursor: not a cursor, or not one with values of these types.
    """
    try:
        values = orjson.loads(base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
    except (ValueError, binascii.Error) as error:
        raise BadCursor("This is not a cursor; take `next_cursor` of the page before as it is.") from error
    fits = (
        isinstance(values, list)
        and len(values) == len(types)
        and all(type(value) is wanted for value, wanted in zip(values, types, strict=True))
        and all(abs(value) <= INT64_MAX for value in values if isinstance(value, int))
        and not any("\0" in value for value in values if isinstance(value, str))
    )
    if not fits:
        raise BadCursor("This cursor is of another listing; start again without one.")
    return tuple(values)


def problem_response(
    error: DujiangError, *, request_id: str = "", instance: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Return the RFC 9457 answer of an error; a fact named `retry_after_s` also becomes the `Retry-After` header."""
    body = error.problem()
    if instance:
        body["instance"] = instance
    if request_id:
        body["request_id"] = request_id
    told = dict(headers or {})
    if (wait_s := error.facts.get("retry_after_s")) is not None:
        told["Retry-After"] = str(max(1, int(wait_s)))
    content = orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Response(content, status_code=error.http_status, media_type=PROBLEM_JSON, headers=told)


def json_response(model: BaseModel, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a model as JSON without the framework's second validation of it; for long listings."""
    content = model.__pydantic_serializer__.to_json(model)
    return Response(content, status_code=status_code, media_type="application/json", headers=dict(headers or {}))


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of a stream."""

    data: Any
    """Text as it is, or any JSON value or model."""
    event: str | None = None
    """Type of the event; none is `message`."""
    id: str | None = None
    """What a client gives back as `Last-Event-ID` to go on after this event."""

    def encode(self) -> bytes:
        """Return the lines of the event; a line break in the data starts another data line."""
        if isinstance(self.data, BaseModel):
            text = self.data.model_dump_json()
        else:
            text = self.data if isinstance(self.data, str) else orjson.dumps(self.data, default=str).decode()
        head = "".join(
            f"{name}: {_one_line(value)}\n" for name, value in (("id", self.id), ("event", self.event)) if value
        )
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return (head + "".join(f"data: {line}\n" for line in lines) + "\n").encode("utf-8", "replace")


def sse(
    events: AsyncIterable[ServerEvent],
    *,
    closing: asyncio.Event | None = None,
    keepalive_s: float = 15.0,
    retry_ms: int = 2000,
) -> Response:
    """Answer with a stream of server-sent events.

    Args:
        events: what to send; closed (its `finally` blocks run) when the client goes, the stream ends or we shut down.
        closing: set when the process shuts down; the stream then ends at once, and the client comes back by `retry_ms`.
        keepalive_s: a comment goes out after so much silence: proxies keep the line open, a gone client shows.
        retry_ms: how long a client should wait before it connects again.
    """
    return StreamingResponse(
        _stream(events, closing, keepalive_s, retry_ms),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(
    events: AsyncIterable[ServerEvent], closing: asyncio.Event | None, keepalive_s: float, retry_ms: int
) -> AsyncIterator[bytes]:
    yield f"retry: {retry_ms}\n\n".encode()
    stop = asyncio.ensure_future(closing.wait()) if closing else None
    source = _as_generator(events)
    step: asyncio.Future[ServerEvent] | None = None
    try:
        while closing is None or not closing.is_set():
            step = step or asyncio.ensure_future(anext(source))
            waits = [step] if stop is None else [step, stop]
            await asyncio.wait(waits, timeout=keepalive_s, return_when=asyncio.FIRST_COMPLETED)
            if step.done():
                done, step = step, None
                try:
                    yield done.result().encode()
                except StopAsyncIteration:
                    return
            elif closing is None or not closing.is_set():
                yield b": keep-alive\n\n"
    finally:
        for task in (step, stop):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
                    await task
        await source.aclose()


async def _as_generator(events: AsyncIterable[ServerEvent]) -> Any:
    if hasattr(events, "aclose"):
        async with aclosing(events):  # type: ignore[type-var]
            async for item in events:
                yield item
    else:
        async for item in events:
            yield item


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ").replace("\0", " ")
