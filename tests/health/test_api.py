"""The route that explains jobs, asked over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from dujiang.health.api import SeenJob, router
from dujiang.health.diagnose import Diagnoser
from dujiang.health.explain import AttemptView, JobView
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import MEMORY, Database, Tx
from dujiang.kit.errors import DujiangError, Unauthenticated
from dujiang.kit.http import problem_response
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain.explaining import Answer
from dujiang.tenancy.access import Door
from dujiang.tenancy.domain import Principal, Role
from dujiang.tenancy.service import Tenancy
from tests.health.builders import facts

PEOPLE = {
    "member": Principal("usr_m", "max", Role.MEMBER, frozenset({"prj_a"})),
    "stranger": Principal("usr_s", "sue", Role.MEMBER, frozenset({"prj_b"})),
}


class _Tokens:
    async def authenticate(self, token: str) -> Principal:
        if token not in PEOPLE:
            raise Unauthenticated("Nobody.")
        return PEOPLE[token]


@pytest.fixture
async def client(clock: ManualClock, ids: Ids, diagnoser: Diagnoser) -> AsyncIterator[httpx.AsyncClient]:
    database = Database(MEMORY, clock=clock, journal_key=b"key")
    await database.create_all()
    found = diagnoser(facts("OSError: [Errno 28] No space left on device"))
    job = JobView("job_1", "train", "FAILED", found.cause, True, attempts=(AttemptView(1, "FAILED", diagnosis=found),))

    async def find_job(_tx: Tx, job_id: str) -> SeenJob | None:
        return SeenJob("prj_a", job) if job_id == "job_1" else None

    app = FastAPI()
    app.state.door = Door(database, _Tokens(), b"secret")

    async def ask(job_id: str, **_: object) -> Answer | None:
        raise AssertionError(f"{job_id} does not wait")

    app.include_router(router(find_job, ask, Tenancy(db=database, clock=clock, ids=ids)))

    @app.exception_handler(DujiangError)
    async def render(_request: Request, error: DujiangError) -> Response:
        return problem_response(error)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as opened:
        yield opened
    await database.close()


async def test_a_failure_is_explained_to_those_who_may_see_the_job(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/jobs/job_1/explain", headers={"Authorization": "Bearer member"})
    told = answer.json()
    assert (answer.status_code, told["topic"], told["cause"], told["blame"]) == (
        200, "failed", "DiskFull", "infrastructure",
    )  # fmt: skip
    assert told["evidence"][0]["line"] == "OSError: [Errno 28] No space left on device"
    assert told["text"].startswith("job_1 (train) is FAILED, DiskFull.")


async def test_others_are_told_nothing(client: httpx.AsyncClient) -> None:
    stranger, member = {"Authorization": "Bearer stranger"}, {"Authorization": "Bearer member"}
    assert (await client.get("/v1/jobs/job_1/explain", headers=stranger)).status_code == 404
    assert (await client.get("/v1/jobs/job_2/explain", headers=member)).status_code == 404
    assert (await client.get("/v1/jobs/job_1/explain")).status_code == 401
