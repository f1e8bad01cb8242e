"""Pages and cursors, problems, server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dujiang.kit.errors import DujiangError, Unavailable
from dujiang.kit.http import (
    BadCursor,
    Flag,
    Model,
    Moment,
    Page,
    Paging,
    ServerEvent,
    decode_cursor,
    encode_cursor,
    problem_response,
    sse,
)

KEYS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.integers(-(2**63) + 1, 2**63 - 1)
)


@given(KEYS)
def test_a_cursor_gives_back_its_key(key: list[str | int]) -> None:
    assert decode_cursor(encode_cursor(key), *(type(value) for value in key)) == tuple(key)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    try:
        (value,) = decode_cursor(text, int)
    except BadCursor:
        return
    assert type(value) is int


@pytest.mark.parametrize("key", [["a", 1], [1], [1, 2, 3], [None, 1], [True, 1]])
def test_a_cursor_of_another_listing_is_refused(key: list[Any]) -> None:
    with pytest.raises(BadCursor):
        decode_cursor(encode_cursor(key), int, int)


@given(total=st.integers(0, 40), limit=st.integers(1, 15))
def test_pages_show_every_row_once(total: int, limit: int) -> None:
    rows, seen, cursor = list(range(total)), [], None
    for _ in range(total + 2):
        paging = Paging(limit, cursor)
        after = paging.after(int)
        fetched = [row for row in rows if after is None or row > after[0]][: limit + 1]
        items, cursor = paging.page(fetched, lambda row: (row,))
        seen += items
        if cursor is None:
            break
    assert seen == rows


def test_a_problem_is_said_in_the_words_of_rfc_9457() -> None:
    class Later(Unavailable):
        code, title = "later", "Not now"

    answer = problem_response(Later("Wait.", retry_after_s=0.2, node="n1"), request_id="r", instance="/v1/x")
    assert (answer.status_code, answer.media_type) == (503, "application/problem+json")
    assert answer.headers["retry-after"] == "1"
    assert orjson.loads(answer.body) == {
        "type": "https://dujiang.invalid/problems/later", "title": "Not now", "status": 503, "detail": "Wait.",
        "code": "later", "retryable": True, "retry_after_s": 0.2, "node": "n1", "instance": "/v1/x", "request_id": "r",
    }  # fmt: skip


def test_facts_that_are_no_json_do_not_break_a_problem() -> None:
    assert b"object" in problem_response(DujiangError("x", thing=object(), nested={1: {"a"}})).body


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (ServerEvent("a"), b"data: a\n\n"),
        (
            ServerEvent("a\nb\r\nc\rd", event="log", id="7"),
            b"id: 7\nevent: log\ndata: a\ndata: b\ndata: c\ndata: d\n\n",
        ),
        (ServerEvent({"n": 1}, event="x\ny"), b'event: x y\ndata: {"n":1}\n\n'),
        (ServerEvent(Page[int](items=[1])), b'data: {"items":[1],"next_cursor":null}\n\n'),
        (ServerEvent("\ud800"), b"data: ?\n\n"),
        (ServerEvent(""), b"data: \n\n"),
    ],
)
def test_events_on_the_line(event: ServerEvent, lines: bytes) -> None:
    assert event.encode() == lines


async def chunks(response: Any) -> list[bytes]:
    return [chunk async for chunk in response.body_iterator]


async def test_a_stream_gives_all_events_and_ends() -> None:
    async def events() -> AsyncIterator[ServerEvent]:
        for n in range(3):
            yield ServerEvent(str(n))

    assert await chunks(sse(events(), retry_ms=5)) == [b"retry: 5\n\n", b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_quiet_stream_is_kept_alive_without_losing_an_event() -> None:
    go, closed = asyncio.Event(), []

    async def events() -> AsyncIterator[ServerEvent]:
        try:
            await go.wait()
            yield ServerEvent("late")
        finally:
            closed.append(True)

    got: list[bytes] = []
    async for chunk in sse(events(), keepalive_s=0.01).body_iterator:  # type: ignore[attr-defined]
        got.append(chunk)
        if got.count(b": keep-alive\n\n") == 3:
            go.set()
    assert got[-1] == b"data: late\n\n"
    assert closed == [True]


async def test_a_stream_ends_at_shutdown_and_its_source_is_closed() -> None:
    closing, closed = asyncio.Event(), []

    async def events() -> AsyncIterator[ServerEvent]:
        try:
            yield ServerEvent("first")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    got = []
    async with asyncio.timeout(5):
        async for chunk in sse(events(), closing=closing).body_iterator:  # type: ignore[attr-defined]
            got.append(chunk)
            if chunk == b"data: first\n\n":
                closing.set()
    assert got[1:] == [b"data: first\n\n"]
    assert closed == [True]


async def test_a_client_that_goes_closes_the_source() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncIterator[ServerEvent]:
        try:
            while True:
                yield ServerEvent("x")
                await asyncio.sleep(0)
        finally:
            closed.set()

    stream = sse(events()).body_iterator  # type: ignore[attr-defined]
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert closed.is_set()


async def test_an_error_in_the_source_ends_the_stream_with_it() -> None:
    async def events() -> AsyncIterator[ServerEvent]:
        yield ServerEvent("x")
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await chunks(sse(events()))


def test_unknown_fields_are_refused() -> None:
    class Small(Model):
        name: str

    with pytest.raises(ValueError, match="extra"):
        Small.model_validate({"name": "x", "other": 1})


@pytest.mark.parametrize("value", [0, 1.5, "0", "0.5", " 12 ", "1e9", "-1", "nan", True])
def test_a_number_is_no_time(value: object) -> None:
    with pytest.raises(ValidationError, match="a time is written"):
        TypeAdapter(Moment).validate_python(value)
    assert TypeAdapter(Moment).validate_python("2026-01-31T08:00:00Z") == datetime(2026, 1, 31, 8, tzinfo=UTC)


@pytest.mark.parametrize("value", [0, 1, "true", "yes", 1.0])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Flag).validate_python(value)
