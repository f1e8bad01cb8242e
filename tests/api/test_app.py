"""The application as a whole: errors, bodies, figures, records, whatever is thrown at it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import APIRouter, Depends, Query
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from dujiang.api.app import create_app
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import StorageFull
from dujiang.kit.http import Model
from dujiang.kit.ids import Ids
from dujiang.tenancy.access import Caller, needs
from dujiang.tenancy.domain import Permission, Role
from tests.factories import Platform, a_platform

Submitter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]


class Inner(Model):
    """Nested, to find near names in."""

    gpu_milli: int = 0
    memory: float = 0.0


class Thing(Model):
    """A body of a test route."""

    name: str
    called: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = "x"
    parts: list[Inner] = []  # noqa: RUF012
    free: dict[str, Any] = {}  # noqa: RUF012


def extra_routes() -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/things", status_code=201, response_model=Thing)
    async def make_thing(body: Thing, caller: Submitter) -> Any:
        async def make(tx: Tx) -> Thing:
            if body.name == "full":
                raise StorageFull("The disk is full.")
            return body

        return await caller.once(make)

    @routes.get("/v1/broken")
    async def break_down(caller: Submitter) -> dict[str, str]:
        raise RuntimeError("a secret of the inside")

    @routes.get("/v1/things")
    async def list_things(caller: Submitter, state: Annotated[list[Literal["READY", "GONE"]], Query()]) -> list[str]:
        return list(state)

    @routes.get("/v1/things/{number}")
    async def show_thing(number: int, caller: Submitter) -> dict[str, int]:
        return {"number": number}

    return routes


@pytest.fixture
async def platform(sqlite: Database, clock: ManualClock, ids: Ids) -> Platform:
    return await a_platform(sqlite, clock, ids, routers=[extra_routes()])


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


async def refusals(platform: Platform) -> list[journal.Record]:
    async with platform.database.reading() as tx:
        return await journal.read(tx.connection, types=["CallRefused"])


async def test_unknown_paths_and_methods(platform: Platform) -> None:
    async with platform.client() as client:
        is_problem(await client.get("/v1/nothing"), 404, "no_such_route")
        is_problem(await client.get("/v1/me/"), 404, "no_such_route")
        answer = await client.put("/v1/projects")
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, POST"
        is_problem(await client.request("BREW", "/v1/projects"), 405, "method_not_allowed")


async def test_who_may_not_ask_is_told_that_first(platform: Platform) -> None:
    for content in (b"{", b"[]", b'{"name": 1}', b""):
        async with platform.client(None) as client:
            answer = await client.post("/v1/projects", content=content, headers={"Content-Type": "application/json"})
            if content != b"{":  # what is no JSON at all is not even read
                is_problem(answer, 401, "unauthenticated")
                assert answer.headers["www-authenticate"] == "Bearer"
        async with platform.client(Role.MEMBER) as client:
            answer = await client.post("/v1/projects", content=content, headers={"Content-Type": "application/json"})
            if content != b"{":
                is_problem(answer, 403, "forbidden")


async def test_an_unknown_field_names_the_nearest_one(platform: Platform) -> None:
    async with platform.client() as client:
        body = is_problem(await client.post("/v1/things", json={"nam": "x"}), 422, "invalid")
        assert {
            "field": "nam",
            "message": 'there is no such field. Did you mean "name"?',
            "type": "extra_forbidden",
        } in body["errors"]
        sent = {"name": "x", "parts": [{"gpu_milli": 1}, {"gpu_mili": 2, "memory": "much"}]}
        body = is_problem(await client.post("/v1/things", json=sent), 422, "invalid")
        by_field = {one["field"]: one["message"] for one in body["errors"]}
        assert by_field["parts[1].gpu_mili"] == 'there is no such field. Did you mean "gpu_milli"?'
        assert "number" in by_field["parts[1].memory"]
        body = is_problem(await client.post("/v1/things", json={"name": "x", "called": "X Y"}), 422, "invalid")
        assert body["detail"].startswith("called: a name has up to 63 lower-case letters, digits and dashes")
        assert "much" not in json.dumps(body)  # what was sent is not echoed: it may be a secret


async def test_a_word_that_is_none_of_those_taken_names_them_and_the_nearest(platform: Platform) -> None:
    async with platform.client() as client:
        body = is_problem(await client.get("/v1/things?state=redy"), 422, "invalid")
        assert body["detail"] == 'state[0]: write one of READY, GONE. Did you mean "READY"?'
        assert body["errors"][0]["field"] == "query.state[0]"


async def test_an_exception_says_nothing_of_the_inside(platform: Platform) -> None:
    async with platform.client() as client:
        body = is_problem(await client.get("/v1/broken", headers={"X-Request-Id": "my-id.1"}), 500, "internal_error")
        assert "secret" not in json.dumps(body)
        assert body["request_id"] == "my-id.1"


async def test_a_full_disk_is_told_and_the_refusal_recorded(platform: Platform) -> None:
    async with platform.client() as client:
        body = is_problem(await client.post("/v1/things", json={"name": "full"}), 507, "storage_full")
        assert body["retryable"] is True
    (record,) = await refusals(platform)
    assert record.payload["status"] == 507
    assert record.actor == f"user:{platform.users[Role.ADMIN]}"


async def test_bodies_too_large_are_refused_by_header_and_by_count(platform: Platform) -> None:
    async def chunks() -> Any:
        for _ in range(30):
            yield b" " * 10_000

    async with platform.client() as client:
        big = json.dumps({"name": "x" * 200_000}).encode()
        is_problem(await client.post("/v1/things", content=big), 413, "body_too_large")
        is_problem(await client.post("/v1/things", content=chunks()), 413, "body_too_large")


HOSTILE: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"name": "\xff"}', 400),
    (b'{"name": "\\ud800"}', 400),
    (b'{"name": NaN}', 400),
    (b'{"name": "x", "free": {"n": 1e999}}', 400),
    (b"\xef\xbb\xbf{}", 400),
    (b'{"name": "a\\u0000b"}', 422),
    (b'{"name": "x", "free": {"a\\u0000": 1}}', 422),
    (b'{"name": "x", "free": {"n": 9223372036854775808}}', 422),
    (b'{"name": "x", "free": {"n": -' + b"9" * 300 + b"}}", 422),
    (b'{"name": "x", "free": {"n": -' + b"9" * 5000 + b"}}", 400),  # no double holds it either
    (b'{"name": "x", "parts": [{"gpu_milli": ' + b"9" * 30 + b"}]}", 422),
    (b"[" * 50_000 + b"]" * 50_000, 400),
    (b'{"name": "x", "free": {"a": ' + b"[" * 120 + b"]" * 120 + b"}}", 422),
    (b'{"name": "x", "free": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", 422),
    (b"null", 422),
    (b'"text"', 422),
    (b"", 422),
]


@pytest.mark.parametrize(("body", "status"), HOSTILE)
async def test_hostile_bodies_are_refused(platform: Platform, body: bytes, status: int) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/things", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
        assert answer.json()["code"] in ("malformed_json", "invalid")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "\\u0000 as text, as in tr -d '\\u0000'"},
        {"name": "12345678901234567890123 in text", "free": {"n": 2**63 - 1, "m": -(2**63) + 1}},
        {"name": "x", "parts": [{}] * 500},
        {"name": "deep", "free": {"a": json.loads("[" * 90 + "]" * 90)}},
    ],
)
async def test_what_only_looks_hostile_passes(platform: Platform, body: dict[str, Any]) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/things", json=body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["name"] == body["name"]


async def test_another_media_type_is_refused(platform: Platform) -> None:
    async with platform.client() as client:
        answer = await client.post("/v1/things", content=b"name: x", headers={"Content-Type": "text/plain"})
        is_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/users/a%00b", "/v1/audit?subject=%00", "/v1/users?cursor=%00", "/v1/users?cursor=AAAA",
        "/v1/users?cursor=WzFd", "/v1/users?limit=0", "/v1/users?limit=501", "/v1/users?limit=" + "9" * 5000,
        "/v1/audit?cursor=WzFlMzBd", "/v1/audit?since=yesterday", "/v1/audit?since=2026-01-01T00:00:00",
        "/v1/audit/verify?seq=1", "/v1/audit/verify?seq=99999999999999999999999&hash=" + "0" * 64,
        "/v1/things/" + "9" * 5000, "/v1/things/x", "/v1/users/%ff%fe", "/v1/users/" + "a" * 300,
        "/v1/projects/usr_none", "/v1/projects/..%2f..%2fetc",
    ],
)  # fmt: skip
async def test_hostile_queries_are_refused(platform: Platform, path: str) -> None:
    async with platform.client() as client:
        answer = await client.get(path)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(sent=st.dictionaries(st.sampled_from(["name", "parts", "free", "x"]), JSON) | JSON | st.binary())
async def test_nothing_that_is_sent_breaks_it(platform: Platform, sent: Any) -> None:
    content = sent if isinstance(sent, bytes) else json.dumps(sent).encode("utf-8", "surrogatepass")
    async with platform.client() as client:
        for path in ("/v1/things", "/v1/users", "/v1/projects", "/v1/tokens", "/v1/login", "/v1/projects/own/members"):
            answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (path, answer.text)


@settings(max_examples=40)
@given(
    name=st.sampled_from(["cursor", "actor", "subject", "type", "project", "since", "until", "limit"]), value=st.text()
)
async def test_no_query_breaks_it(platform: Platform, name: str, value: str) -> None:
    async with platform.client() as client:
        answer = await client.get("/v1/audit", params={name: value.encode("utf-8", "replace")})
        assert answer.status_code < 500, answer.text


async def test_given_request_ids_are_kept_and_odd_ones_replaced(platform: Platform) -> None:
    async with platform.client() as client:
        assert (await client.get("/healthz", headers={"X-Request-Id": "abc-1"})).headers["x-request-id"] == "abc-1"
        for odd in ("a b", "x" * 65, "<script>", ""):
            got = (await client.get("/healthz", headers={"X-Request-Id": odd})).headers["x-request-id"]
            assert got.startswith("req_")


async def test_refused_calls_are_recorded_with_who_and_why(platform: Platform) -> None:
    async with platform.client(Role.MEMBER) as client:
        await client.post("/v1/projects", json={"name": "new"})
        await client.delete("/v1/users/the-admin")
        await client.post("/v1/nothing/\u200bodd")
        await client.get("/v1/users")  # looking is not recorded
    async with platform.client(None) as client:
        await client.post("/v1/projects", json={"name": "new"})
    records = await refusals(platform)
    member = f"user:{platform.users[Role.MEMBER]}"
    assert [
        (r.actor, r.payload["method"], r.payload["route"], r.payload["status"], r.payload["code"]) for r in records
    ] == [
        (member, "POST", "/v1/projects", 403, "forbidden"),
        (member, "DELETE", "/v1/users/{user}", 403, "forbidden"),
        (member, "POST", "", 404, "no_such_route"),
        ("anonymous", "POST", "/v1/projects", 401, "unauthenticated"),
    ]
    assert records[1].subject == "/v1/users/the-admin"
    assert records[2].subject == "/v1/nothing/?odd"
    assert records[0].cause.endswith(" POST /v1/projects")
    assert records[0].cause.startswith("req_")


async def test_strangers_cannot_fill_the_journal(platform: Platform) -> None:
    async with platform.client(None) as client:
        for _ in range(150):
            assert (await client.post("/v1/projects")).status_code == 401
    assert 60 <= len(await refusals(platform)) <= 121  # the minute may turn once in between


async def test_a_call_that_changes_nothing_leaves_a_record(platform: Platform) -> None:
    async with platform.client() as client:
        assert (await client.patch("/v1/projects/own", json={})).status_code == 200
        assert (await client.patch("/v1/projects/own", json={"description": "d"})).status_code == 200
    async with platform.database.reading() as tx:
        made = await journal.read(tx.connection, types=["CallMade"])
        changed = await journal.read(tx.connection, types=["ProjectChanged"])
    assert [one.payload["route"] for one in made] == ["/v1/projects/{project}"]
    assert len(changed) == 1


async def test_health_readiness_and_figures(platform: Platform) -> None:
    async with platform.client(None) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready", "checks": ["database"]}
        await client.get("/v1/me")
        await client.get("/v1/nothing")
        text = (await client.get("/metrics")).text
    assert 'dujiang_http_requests_total{method="GET",route="/v1/me",status="401"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "v1/nothing" not in text
    async with platform.client(None, peer="192.0.2.1") as client:
        is_problem(await client.get("/metrics"), 401, "unauthenticated")
    async with platform.client(Role.MEMBER, peer="192.0.2.1") as client:
        assert (await client.get("/metrics")).status_code == 200
    async with platform.client(None) as client:
        is_problem(await client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}), 401, "unauthenticated")


async def test_not_ready_while_shutting_down_or_a_check_fails(platform: Platform, ids: Ids) -> None:
    async def away() -> None:
        raise ConnectionRefusedError("no engine")

    app = create_app([], door=platform.door, metrics=platform.metrics, ids=ids, checks={"engine": away})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://dujiang") as client:
        body = is_problem(await client.get("/readyz"), 503, "unavailable")
        assert "no engine" in body["failing"]["engine"]
    platform.door.closing.set()
    async with platform.client(None) as client:
        assert "platform" in is_problem(await client.get("/readyz"), 503, "unavailable")["failing"]


async def test_a_route_without_a_door_stops_the_start(platform: Platform, ids: Ids) -> None:
    routes = APIRouter()

    @routes.get("/v1/open")
    async def open_to_all() -> None:
        return None

    with pytest.raises(ValueError, match="GET /v1/open"):
        create_app([routes], door=platform.door, metrics=platform.metrics, ids=ids)


async def test_two_routes_of_one_name_stop_the_start(platform: Platform, ids: Ids) -> None:
    one, two = APIRouter(), APIRouter()

    async def same(caller: Submitter) -> None:
        return None

    one.add_api_route("/v1/a", same, name="show_thing")
    two.add_api_route("/v1/b", same, name="show_thing")
    with pytest.raises(ValueError, match="two routes are named show_thing"):
        create_app([one, two], door=platform.door, metrics=platform.metrics, ids=ids)


async def test_the_description_is_whole(platform: Platform) -> None:
    async with platform.client(None) as client:
        document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/projects/{project}/members"]["post"]
    assert operation["operationId"] == "add_member"
    assert operation["x-permission"] == "project:manage"
    assert operation["security"] == [{"token": []}]
    assert {"401", "403", "404", "409", "413", "422"} <= set(operation["responses"])
    assert "security" not in document["paths"]["/v1/login"]["post"]
    assert document["x-error-codes"]["idempotency_key_reused"]["status"] == 422
    assert document["x-error-codes"]["not_found"]["status"] == 404
    assert "HTTPValidationError" not in json.dumps(document)
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            assert one.get("summary"), (method, path)
            assert one.get("tags") or path.startswith(("/v1/things", "/v1/broken")), (method, path)
