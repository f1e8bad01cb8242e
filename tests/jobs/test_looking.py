"""Looking without touching: the snapshot that can be saved, explanations made anew, and jobs tried out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dujiang.kit.errors import Unavailable
from dujiang.kit.journal import Record
from dujiang.scheduling.domain import explain, plan
from dujiang.scheduling.domain.explaining import Explainer
from dujiang.scheduling.domain.saved import load
from dujiang.tenancy.domain import Role
from tests.jobs.test_api import a_spec
from tests.platforms import Scene

WHOLE = {"gpu": {"count": 2}, "cpu": 1, "memory": "1GiB"}
LONG = "#sim duration=1000"


async def a_full_pool(scene: Scene, **fields: Any) -> list[str]:
    """Let two jobs hold all devices; return their ids."""
    jobs = [await scene.submit(LONG, resources=WHOLE, **fields) for _ in range(2)]
    for job in jobs:
        await scene.until(job.id, "RUNNING")
    return [job.id for job in jobs]


async def count(scene: Scene) -> tuple[int, int]:
    """How many records and jobs there are."""
    records: list[Record] = await scene.records()
    async with scene.client() as client:
        return len(records), len((await client.get("/v1/jobs?all=true&limit=500")).json()["items"])


# -- the snapshot ------------------------------------------------------------------------------------------------------


async def test_a_saved_snapshot_plans_what_the_loop_plans_next(scene: Scene) -> None:
    await scene.submit(LONG, resources=WHOLE)
    await scene.submit(LONG, resources=WHOLE)
    waiting = await scene.submit(LONG, resources=WHOLE, time_limit="1h")
    async with scene.client(Role.OPERATOR) as client:
        answer = await client.get("/v1/snapshot")
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        plain = await client.get("/v1/snapshot", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    snapshot, now = load(answer.content)
    assert now == scene.clock.now()
    done = plan(snapshot, now)
    await scene.platform.starting.tick()
    for start in done.starts:
        attempts = await scene.attempts(start.job_id)
        assert (attempts[0].cluster, attempts[0].ranks) == (start.cluster, start.ranks)
    assert len(done.starts) == 2
    told = (await scene.job(waiting.id)).waiting
    wait = explain(snapshot, now, waiting.id)
    assert told is not None
    assert wait is not None
    assert (told.reason, told.detail) == (str(wait.reason), wait.sentence)


async def test_what_runs_stands_in_the_snapshot_with_its_end(scene: Scene) -> None:
    held = await a_full_pool(scene, time_limit="2h")
    async with scene.client() as client:
        snapshot, now = load((await client.get("/v1/snapshot")).content)
    assert sorted(holding.job_id for holding in snapshot.holdings) == sorted(held)
    assert all(holding.ends_at is not None and holding.ends_at > now for holding in snapshot.holdings)
    assert not snapshot.device_milli.any()


# -- explained anew ----------------------------------------------------------------------------------------------------


async def test_an_explanation_is_of_now_not_of_the_last_tick(scene: Scene) -> None:
    held = await a_full_pool(scene)
    job = await scene.submit(LONG, resources=WHOLE)
    async with scene.client(Role.MEMBER) as client:
        told = (await client.get(f"/v1/jobs/{job.id}/explain")).json()  # nothing was stored yet
        assert (told["topic"], told["cause"], told["wait"]["position"]) == ("waits", "Resources", 1)
        assert told["wait"]["blocking"] in held
        assert "largest free is 0" in told["wait"]["detail"]
        assert (
            told["wait"]["outlook"] == "When it starts cannot be told: nothing that is known to end makes room for it."
        )
        assert told["headline"].endswith("Resources.")
        await scene.cancel(held[0])
        await scene.until(held[0])
        scene.clock.advance(2)
        told = (await client.get(f"/v1/jobs/{job.id}/explain")).json()
    assert "There is room for it now on sim-000" in told["text"]


async def test_it_says_when_and_what_else_would_start_it(scene: Scene) -> None:
    await a_full_pool(scene, time_limit="2h")
    job = await scene.submit(LONG, resources=WHOLE)
    scene.clock.advance(1)
    small = await scene.submit(LONG, resources=WHOLE)
    async with scene.client() as client:
        told = (await client.get(f"/v1/jobs/{job.id}/explain")).json()["wait"]
        second = (await client.get(f"/v1/jobs/{small.id}/explain?all=true")).json()
    assert told["expected_is_certain"]
    assert (told["expected_cluster"], told["otherwise"]) == ("sim", [])
    assert told["expected_start"][:13] == told["earliest"][:13]
    assert "if all runs to its time limit" in told["outlook"]
    assert second["wait"]["position"] == 2
    assert told["outlook"] in (await _text(scene, job.id))


async def _text(scene: Scene, job_id: str) -> str:
    async with scene.client() as client:
        return str((await client.get(f"/v1/jobs/{job_id}/explain")).json()["text"])


async def test_all_tries_the_other_projects_of_the_caller(scene: Scene) -> None:
    async with scene.client() as client:
        await client.put("/v1/quotas/own", json={"gpu_milli": 2000})
        first = await scene.submit(LONG, resources=WHOLE)
        await scene.until(first.id, "RUNNING")
        job = await scene.submit(LONG, resources=WHOLE)
        everyone = (await client.get(f"/v1/jobs/{job.id}/explain?all=true")).json()
    assert everyone["cause"] == "QuotaExceeded"
    ways = {one["way"]: one["sentence"] for one in everyone["wait"]["otherwise"]}
    assert ways["OtherQueue"] == "It starts now with the project default, on sim."
    assert ways["OtherQueue"] in everyone["text"]
    scene.clock.advance(2)
    async with scene.client(Role.MEMBER) as client:  # who is in no other project
        own = (await client.get(f"/v1/jobs/{job.id}/explain?all=true")).json()
    assert "OtherQueue" not in {one["way"] for one in own["wait"]["otherwise"]}


async def test_what_was_stored_is_told_when_the_scheduler_cannot_be_asked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_full_pool(scene)
    job = await scene.submit(LONG, resources=WHOLE)
    await scene.turn()
    stored = (await scene.job(job.id)).waiting
    assert stored is not None

    async def away() -> None:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(scene.platform.live, "look", away)
    scene.clock.advance(2)  # until then the last plan tells it
    async with scene.client() as client:
        told = (await client.get(f"/v1/jobs/{job.id}/explain")).json()
    assert (told["wait"]["detail"], told["wait"]["outlook"]) == (stored.detail, "")


async def test_many_who_ask_at_once_are_told_from_one_look(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await a_full_pool(scene)
    jobs = [await scene.submit(LONG, resources=WHOLE) for _ in range(3)]
    live, looks = scene.platform.live, 0
    look = live.look

    async def counted() -> Explainer:
        nonlocal looks
        looks += 1
        return await look()

    monkeypatch.setattr(live, "look", counted)
    answers = [await live.explain(job.id) for job in jobs for _ in range(2)]
    assert looks == 1
    assert [answer and answer.job_id for answer in answers] == [job.id for job in jobs for _ in range(2)]
    scene.clock.advance(1.5)
    again = await asyncio.gather(*(live.explain(job.id) for job in jobs))
    assert [answer and answer.wait and answer.wait.position for answer in again] == [
        answer and answer.wait and answer.wait.position for answer in answers[::2]
    ]
    assert looks > 1
    newer = await scene.submit(LONG, resources=WHOLE)  # it is not in the look that is kept
    assert await live.explain(newer.id) is not None
    assert await live.explain("job_" + "0" * 26) is None


async def test_a_job_that_runs_has_nothing_that_it_waits_for(scene: Scene) -> None:
    job, _ = await a_full_pool(scene)
    async with scene.client() as client:
        told = (await client.get(f"/v1/jobs/{job}/explain?all=true")).json()
    assert (told["topic"], told["wait"]) == ("runs", None)


# -- tried out ---------------------------------------------------------------------------------------------------------


async def test_a_job_that_would_start_is_told_where_and_at_what_price(scene: Scene) -> None:
    before = await count(scene)
    async with scene.client(Role.MEMBER) as client:
        body = a_spec(resources={"gpu": {"count": 1}, "cpu": 2, "memory": "4GiB"}, time_limit="90m", name="trial")
        answer = await client.post("/v1/jobs/dry-run", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["name"], told["project"], told["starts_now"], told["waits"]) == ("trial", "own", True, None)
    assert (told["place"]["cluster"], told["place_is"]) == ("sim", "now")
    (rank,) = told["place"]["ranks"]
    assert (rank["rank"], rank["gpu_milli"], len(rank["devices"])) == (0, 1000, 1)
    price = told["price"]
    assert (price["currency"], price["per_hour"], price["total"]) == ("CNY", "10.48", "15.72")
    assert price["simulated"]
    assert {line["sku_id"]: line["per_hour"] for line in price["lines"]}["gpu"] == "10.00"
    assert await count(scene) == before


async def test_a_job_that_would_wait_is_told_why_and_until_when(scene: Scene) -> None:
    held = await a_full_pool(scene, time_limit="2h")
    before = await count(scene)
    async with scene.client(Role.MEMBER) as client:
        told = (await client.post("/v1/jobs/dry-run", json=a_spec(resources=WHOLE))).json()
        assert not told["starts_now"]
        assert (told["waits"]["reason"], told["waits"]["position"]) == ("Resources", 1)
        assert told["waits"]["blocking"] in held
        assert told["expected"]["is_certain"]
        assert (told["place_is"], told["place"]["cluster"], told["price"]["total"]) == ("expected", "sim", None)
        again = (await client.post("/v1/jobs/dry-run", json=a_spec(resources=WHOLE))).json()
    assert again == told
    assert await count(scene) == before


async def test_a_job_behind_work_without_end_is_priced_as_if_alone(scene: Scene) -> None:
    await a_full_pool(scene)
    async with scene.client(Role.MEMBER) as client:
        told = (await client.post("/v1/jobs/dry-run", json=a_spec(resources=WHOLE))).json()
    assert (told["expected"]["at"], told["expected"]["unknown"]) == (None, "UnknownEnds")
    assert (told["place_is"], told["price"]["per_hour"] > "20") == ("alone", True)


async def test_the_price_is_what_the_bill_says(scene: Scene) -> None:
    body = {"resources": {"gpu": {"fraction": 0.5}, "cpu": 2, "memory": "4GiB"}, "time_limit": "1000s"}
    async with scene.client() as client:
        told = (await client.post("/v1/jobs/dry-run", json=a_spec(**body))).json()
        job = await scene.submit("#sim duration=5000", **body)
        await scene.until(job.id, seconds=50)
        (attempt,) = await scene.attempts(job.id)
        bills = (await client.get("/v1/bills?project=own")).json()["items"]
    assert attempt.finished_at is not None
    ran_s = (attempt.finished_at - attempt.created_at).total_seconds()
    lines = {line["sku_id"]: line for line in bills[0]["lines"]}
    quoted = {line["sku_id"]: line for line in told["price"]["lines"]}
    assert lines.keys() == quoted.keys()
    for sku, line in lines.items():
        assert float(line["consumed_quantity"]) == pytest.approx(float(quoted[sku]["quantity"]) * ran_s / 3600)
        assert float(line["list_unit_price"]) == float(quoted[sku]["unit_price"])


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"resources": {"gpu": {"count": 64}}}, 422, "impossible_request"),
        ({"resources": {"gpu": {"count": 1, "model": "Z9000"}}}, 422, "impossible_request"),
        ({"time_limit": "soon"}, 422, "invalid_specification"),
        ({"workdir": "here"}, 422, "invalid_specification"),
        ({"project": "other"}, 404, "no_such_project"),
    ],
)
async def test_what_would_be_refused_is_refused_alike(
    scene: Scene, fields: dict[str, Any], status: int, code: str
) -> None:
    async with scene.client(Role.MEMBER) as client:
        tried = await client.post("/v1/jobs/dry-run", json=a_spec(**fields))
        meant = await client.post("/v1/jobs", json=a_spec(**fields))
    assert (tried.status_code, tried.json()["code"]) == (status, code), tried.text
    assert tried.json()["detail"] == meant.json()["detail"]


async def test_a_question_is_answered_from_the_last_plan(scene: Scene) -> None:
    """The start loop has just planned the same: nobody who asks waits for another plan."""
    first = await scene.submit("#sim duration=100", resources={"gpu": 2}, nodes=2)
    await scene.until(first.id, "RUNNING")
    second = await scene.submit("#sim", resources={"gpu": 2}, nodes=2)
    await scene.turns(2)
    planned, live = scene.platform.scheduling.last_plan, scene.platform.live
    assert planned is not None
    assert await live.seen(second.id) is planned
    answer = await live.explain(second.id)
    assert answer is not None
    assert answer.wait is not None
    assert (answer.at, answer.wait.reason) == (planned.now, "Resources")
    third = await scene.submit("#sim", resources={"gpu": 2}, nodes=2)  # it was not there: looked at anew
    assert await live.seen(third.id) is not planned
    scene.clock.advance(5)
    assert await live.seen(second.id) is not planned
