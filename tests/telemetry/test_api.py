"""The routes of job metrics, asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import DujiangError, Unauthenticated
from dujiang.kit.http import problem_response
from dujiang.telemetry.api import JobPlace, router
from dujiang.telemetry.domain import Point
from dujiang.telemetry.service import Telemetry
from dujiang.tenancy.access import Door
from dujiang.tenancy.domain import Principal, Role

PEOPLE = {
    "member": Principal("usr_m", "max", Role.MEMBER, frozenset({"prj_a"})),
    "stranger": Principal("usr_s", "sue", Role.MEMBER, frozenset({"prj_b"})),
    "auditor": Principal("usr_d", "dora", Role.AUDITOR),
}
MEMBER = {"Authorization": "Bearer member"}


class _Tokens:
    async def authenticate(self, token: str) -> Principal:
        if token not in PEOPLE:
            raise Unauthenticated("Nobody.")
        return PEOPLE[token]


async def _find_job(_tx: Tx, job_id: str) -> JobPlace | None:
    return JobPlace("prj_a", 2) if job_id == "job_1" else None


@pytest.fixture
async def client(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    telemetry = Telemetry()
    async with database.transaction() as tx:
        await telemetry.record(tx, "job_1", 1, [Point("loss", step, 1 / (step + 1)) for step in range(10)])
        await telemetry.record(tx, "job_1", 1, [Point("acc", 1, float("nan"))])
    app = FastAPI()
    app.state.door = Door(database, _Tokens(), b"secret")
    app.include_router(router(telemetry, _find_job))

    @app.exception_handler(DujiangError)
    async def render(_request: Request, error: DujiangError) -> Response:
        return problem_response(error)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as opened:
        yield opened


async def test_latest_values_and_the_curves_asked_for(client: httpx.AsyncClient) -> None:
    told = (await client.get("/v1/jobs/job_1/metrics?name=loss&name=none&max_points=3", headers=MEMBER)).json()
    assert [(one["name"], one["step"], one["value"], one["special"]) for one in told["metrics"]] == [
        ("acc", 1, None, "nan"), ("loss", 9, 0.1, None),
    ]  # fmt: skip
    (curve,) = told["series"]
    assert [one["step"] for one in curve["points"]] == [0, 4, 9]
    acc = (await client.get("/v1/jobs/job_1/metrics?name=acc", headers=MEMBER)).json()["series"][0]
    assert (acc["points"][0]["value"], acc["points"][0]["special"]) == (None, "nan")
    assert acc["flags"][0]["kind"] == "NotANumber"


async def test_values_are_reported_to_the_latest_attempt_or_the_named_one(client: httpx.AsyncClient) -> None:
    body = {"points": [{"name": "loss", "step": 20, "value": 0.01}, {"name": "acc", "step": 2, "value": "inf"}]}
    answer = await client.post("/v1/jobs/job_1/metrics", json=body, headers=MEMBER)
    assert (answer.status_code, answer.json()) == (201, {"kept": 2, "dropped": 0})
    told = (await client.get("/v1/jobs/job_1/metrics", headers=MEMBER)).json()["metrics"]
    assert [(one["name"], one["attempt"], one["step"]) for one in told] == [("acc", 2, 2), ("loss", 2, 20)]
    timed = {"attempt": 1, "points": [{"name": "lr", "step": 1, "value": 1e-3, "at": "2026-01-01T01:00:00+01:00"}]}
    assert (await client.post("/v1/jobs/job_1/metrics", json=timed, headers=MEMBER)).status_code == 201
    told = (await client.get("/v1/jobs/job_1/metrics", headers=MEMBER)).json()["metrics"]
    assert (told[2]["attempt"], told[2]["at"]) == (1, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "body",
    [
        {"points": []}, {}, {"points": [{"name": "x", "step": 1}]},
        {"points": [{"name": "x", "step": 1, "value": "big"}]},
        {"points": [{"name": "x", "step": 2**63, "value": 1}]}, {"points": [{"name": "\0", "step": 1, "value": 1}]},
        {"points": [{"name": "x" * 200, "step": 1, "value": 1}]},
        {"points": [{"name": "x", "step": 1, "value": 1}] * 1001},
        {"points": [{"name": "x", "step": 1, "value": 1}], "attempt": 3},
        {"points": [{"name": "x", "step": 1, "value": 1, "at": "0001-01-01T00:00:00+14:00"}]},
    ],
)  # fmt: skip
async def test_what_cannot_be_stored_is_refused(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    assert (await client.post("/v1/jobs/job_1/metrics", json=body, headers=MEMBER)).status_code == 422


async def test_who_may(client: httpx.AsyncClient) -> None:
    body = {"points": [{"name": "loss", "step": 1, "value": 1}]}
    stranger, auditor = {"Authorization": "Bearer stranger"}, {"Authorization": "Bearer auditor"}
    assert (await client.get("/v1/jobs/job_1/metrics")).status_code == 401
    assert (await client.get("/v1/jobs/job_1/metrics", headers=stranger)).status_code == 404
    assert (await client.post("/v1/jobs/job_1/metrics", json=body, headers=stranger)).status_code == 404
    assert (await client.get("/v1/jobs/job_2/metrics", headers=MEMBER)).status_code == 404
    assert (await client.get("/v1/jobs/job_1/metrics", headers=auditor)).status_code == 200
    assert (await client.post("/v1/jobs/job_1/metrics", json=body, headers=auditor)).status_code == 403
