"""The door, the caller's transactions, and POSTs that take effect once, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends
from sqlalchemy import func, select

from dujiang.kit import idempotency, journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Conflict
from dujiang.kit.http import Model, ServerEvent
from dujiang.kit.idempotency import idempotency_keys
from dujiang.kit.ids import Ids
from dujiang.tenancy import events
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Role
from tests.factories import Platform, a_platform

Member = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]


class Counted(Model):
    """What the test route answers."""

    number: int
    text: str = "汉字"


class Ask(Model):
    """What the test route takes."""

    fail: bool = False
    note: str = ""


class Counter:
    """A route whose effect can be counted: each call that takes effect emits one event."""

    def __init__(self) -> None:
        self.made = 0

    def router(self) -> APIRouter:
        routes = APIRouter()

        @routes.post("/v1/counts", response_model=Counted, status_code=201)
        async def count(body: Ask, caller: Member) -> Any:
            async def make(tx: Tx) -> Counted:
                self.made += 1
                number = self.made
                tx.emit(events.MemberAdded(subject="count", user_id=str(number)))
                await asyncio.sleep(0)
                if body.fail:
                    raise Conflict("not this time")
                return Counted(number=number)

            return await caller.once(make, status_code=202)

        @routes.get("/v1/numbers")
        async def stream_numbers(caller: Member) -> Any:
            async def numbers() -> AsyncIterator[ServerEvent]:
                for number in range(3):
                    yield ServerEvent({"n": number}, id=str(number))

            return caller.stream(numbers())

        return routes


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
async def platform(database: Database, clock: ManualClock, ids: Ids, counter: Counter) -> Platform:
    return await a_platform(database, clock, ids, routers=[counter.router()])


async def effects(platform: Platform) -> int:
    async with platform.database.reading() as tx:
        query = select(func.count()).select_from(journal.journal).where(journal.journal.c.subject == "count")
        return int((await tx.execute(query)).scalar_one())


async def post(client: httpx.AsyncClient, key: str | None, **body: Any) -> httpx.Response:
    return await client.post("/v1/counts", json=body, headers={} if key is None else {"Idempotency-Key": key})


async def test_without_a_key_every_call_takes_effect(platform: Platform) -> None:
    async with platform.client() as client:
        answers = [await post(client, None) for _ in range(2)]
    assert [(one.status_code, one.json()["number"]) for one in answers] == [(202, 1), (202, 2)]
    assert await effects(platform) == 2


async def test_with_a_key_the_first_answer_is_given_again(platform: Platform) -> None:
    async with platform.client() as client:
        first, second = await post(client, "k"), await post(client, "k")
        assert (first.status_code, first.content) == (second.status_code, second.content)
        assert first.json() == {"number": 1, "text": "汉字"}
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        assert (await post(client, "other")).json()["number"] == 2
    assert await effects(platform) == 2


async def test_concurrent_duplicates_have_one_effect(platform: Platform) -> None:
    async with platform.client() as client:
        answers = await asyncio.gather(*(post(client, "k") for _ in range(12)))
    assert {one.status_code for one in answers} == {202}
    assert len({one.content for one in answers}) == 1
    assert sum("idempotency-replayed" in one.headers for one in answers) == 11
    assert await effects(platform) == 1


async def test_a_key_with_another_body_or_route_is_refused(platform: Platform) -> None:
    async with platform.client() as client:
        await post(client, "k", note="a")
        answers = [await post(client, "k", note="b")]
        answers.append(await client.post("/v1/counts?x=1", json={"note": "a"}, headers={"Idempotency-Key": "k"}))
        answers.append(await client.post("/v1/projects", json={"name": "p"}, headers={"Idempotency-Key": "k"}))
    assert [(one.status_code, one.json()["code"]) for one in answers] == [(422, "idempotency_key_reused")] * 3
    assert await effects(platform) == 1


async def test_users_do_not_share_keys(platform: Platform) -> None:
    for role in (Role.ADMIN, Role.MEMBER):
        async with platform.client(role) as client:
            assert "idempotency-replayed" not in (await post(client, "k")).headers
    assert await effects(platform) == 2


async def test_a_failed_call_may_be_tried_again_with_its_key(platform: Platform, counter: Counter) -> None:
    async with platform.client() as client:
        assert (await post(client, "k", fail=True)).status_code == 409
        assert (await post(client, "k", fail=True)).status_code == 409
    assert counter.made == 2
    assert await effects(platform) == 0
    async with platform.database.reading() as tx:
        assert (await tx.execute(select(idempotency_keys))).all() == []


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
async def test_odd_keys_are_refused(platform: Platform, key: str) -> None:
    async with platform.client() as client:
        answer = await post(client, key)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_idempotency_key")


async def test_keys_are_forgotten_after_a_day(platform: Platform, clock: ManualClock) -> None:
    async with platform.client() as client:
        for key in "abc":
            await post(client, key)
            clock.advance(3600)
        clock.advance(22 * 3600)  # a is 25 h old, b 24 h, c 23 h
        async with platform.database.transaction() as tx:
            assert await idempotency.prune(tx) == 1
        assert "idempotency-replayed" not in (await post(client, "a")).headers
        assert "idempotency-replayed" in (await post(client, "b")).headers
        clock.advance(48 * 3600)
        async with platform.database.transaction() as tx:
            assert await idempotency.prune(tx, limit=1) >= 1
            assert await idempotency.prune(tx) >= 1
            assert await idempotency.prune(tx) == 0


async def test_the_journal_names_the_caller_the_request_and_the_route(platform: Platform) -> None:
    async with platform.client(Role.MEMBER) as client:
        await client.post("/v1/counts", json={}, headers={"X-Request-Id": "r-1"})
    async with platform.database.reading() as tx:
        (record,) = await journal.read(tx.connection, subject="count")
    assert (record.actor, record.cause) == (f"user:{platform.users[Role.MEMBER]}", "r-1 POST /v1/counts")


async def test_a_stream_ends_by_itself_and_at_shutdown(platform: Platform) -> None:
    async with platform.client() as client:
        answer = await client.get("/v1/numbers")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [line for line in answer.text.splitlines() if line.startswith(("id", "data"))] == [
            "id: 0", 'data: {"n":0}', "id: 1", 'data: {"n":1}', "id: 2", 'data: {"n":2}',
        ]  # fmt: skip
        platform.door.closing.set()
        assert "data" not in (await client.get("/v1/numbers")).text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "x"},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer dj_x"},
    ],
)
async def test_nobody_gets_in_without_a_good_token(platform: Platform, headers: dict[str, str]) -> None:
    async with platform.client(None) as client:
        answer = await client.get("/v1/me", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] in ("unauthenticated", "token_refused")
