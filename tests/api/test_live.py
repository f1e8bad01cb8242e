"""The live stream of everything, and the proofs of everything, as the API gives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from dujiang.engines.simulated import Faults
from dujiang.jobs import store
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.journal import journal
from dujiang.pool import ledger_store
from dujiang.tenancy.domain import Role
from tests.platforms import SIM, Scene, a_scene

PROOFS = ["ledger", "allocations", "jobs", "audit", "charges", "processes"]


@pytest.fixture
async def scene(sqlite: Database, clock: ManualClock, ids: Ids, tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_scene(sqlite, clock, ids, tmp_path) as made:
        yield made


async def heard(
    scene: Scene, role: Role, query: str = "", headers: dict[str, str] | None = None
) -> list[tuple[str, str]]:
    """Return (id, type) of what a stream gives that the end of the process cuts off after a while."""

    async def close() -> None:
        for _ in range(30):
            await asyncio.sleep(0.01)
        scene.platform.door.closing.set()

    async with scene.client(role) as client:
        answer, _ = await asyncio.gather(client.get(f"/v1/events?{query}", headers=headers), close())
    scene.platform.door.closing.clear()
    assert answer.status_code == 200, answer.text
    return events_of(answer)


def events_of(answer: httpx.Response) -> list[tuple[str, str]]:
    found = []
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "event" in lines:
            assert json.loads(lines["data"])["type"] == lines["event"]
            found.append((lines["id"], lines["event"]))
    return found


# -- what happens ------------------------------------------------------------------------------------------------------


async def test_members_hear_what_happens_in_their_own_projects_alone(scene: Scene) -> None:
    own, other = await scene.submit("#sim duration=1"), await scene.submit("#sim duration=1", project="other")
    await scene.until(own.id)
    await scene.until(other.id)
    kinds = "type=JobSubmitted&type=JobStarted&type=JobEnded&after=0"
    assert [kind for _, kind in await heard(scene, Role.MEMBER, kinds)] == ["JobSubmitted", "JobStarted", "JobEnded"]
    assert len(await heard(scene, Role.OPERATOR, kinds)) == 6
    everything = await heard(scene, Role.MEMBER, "after=0")
    async with scene.db.reading() as tx:
        rows = {str(row.seq): row.project_id for row in await tx.execute(journal.select())}
    assert {rows[ident] for ident, _ in everything} == {scene.projects["own"]}


async def test_a_stream_goes_on_after_what_came_or_begins_with_what_is_new(scene: Scene) -> None:
    await scene.submit("#sim")
    events = await heard(scene, Role.ADMIN, "after=0")
    assert await heard(scene, Role.ADMIN, f"after={events[3][0]}") == events[4:]
    assert await heard(scene, Role.ADMIN, "after=0", {"Last-Event-ID": events[5][0]}) == events[6:]
    assert await heard(scene, Role.ADMIN) == []
    assert await heard(scene, Role.ADMIN, f"after={2**63 - 1}") == []


@pytest.mark.parametrize("query", ["after=-1", f"after={2**63}", "after=x", "&".join(["type=A"] * 33)])
async def test_what_no_stream_can_begin_with(scene: Scene, query: str) -> None:
    async with scene.client() as client:
        answer = await client.get(f"/v1/events?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize("header", ["x", "-1", "1.5", "٣", "9" * 5000, str(2**63), "1 2"])
async def test_what_is_no_number_of_an_event(scene: Scene, header: str) -> None:
    async with scene.client() as client:
        answer = await client.get("/v1/events", headers={"Last-Event-ID": header.encode()})
    assert answer.status_code == 422
    assert "leave it out" in answer.json()["detail"]


# -- proofs ------------------------------------------------------------------------------------------------------------


async def a_past(scene: Scene) -> str:
    """Let a job have run and been charged, and another run; return the first."""
    done = await scene.submit("#sim duration=5", resources={"gpu": {"count": 1}})
    await scene.until(done.id)
    await scene.until((await scene.submit("#sim duration=forever")).id, "RUNNING")
    rating = next(loop for loop in scene.platform.loops if loop.name == "rating")
    while (await rating.tick()).again:
        pass
    return done.id


async def test_everything_holds_and_says_how_much_was_looked_at(scene: Scene) -> None:
    await a_past(scene)
    async with scene.client(Role.OPERATOR) as client:
        told = (await client.get("/v1/verify")).json()
    assert told["holds"] is True
    assert [check["name"] for check in told["checks"]] == PROOFS
    assert all(check["holds"] and check["count"] > 0 and not check["breaches"] for check in told["checks"])


async def test_each_proof_names_the_row_that_breaks_it(scene: Scene) -> None:
    job_id = await a_past(scene)
    async with scene.db.transaction() as tx:
        await tx.execute(update(store.jobs).where(store.jobs.c.id == job_id).values(state="FAILED"))
        rows = ledger_store.allocations
        await tx.execute(update(rows).where(rows.c.job_id == job_id, rows.c.gpu_milli > 0).values(gpu_milli=1500))
        await tx.execute(update(journal).where(journal.c.seq == 3).values(actor="user:somebody"))
    broken = await scene.proofs()
    assert broken.keys() == {"ledger", "jobs", "audit", "charges"}
    assert broken["jobs"][0]["row"] == job_id
    assert broken["audit"][0]["row"] == "3"
    assert all(one["row"] and one["sentence"] for breaches in broken.values() for one in breaches)


async def test_what_cannot_be_looked_at_is_not_proved(scene: Scene) -> None:
    await a_past(scene)
    scene.cluster.set_faults(Faults(before=1.0))
    async with scene.client(Role.OPERATOR) as client:
        told = (await client.get("/v1/verify")).json()
    assert (told["holds"], told["verdict"]) == (False, "unseen")  # a cluster that is away breaks no ledger
    (away,) = (check for check in told["checks"] if not check["holds"])
    assert (away["name"], away["verdict"], away["breaches"]) == ("processes", "unseen", [])
    assert [one["row"] for one in away["unseen"]] == [SIM]
    assert "could not be looked at" in away["unseen"][0]["sentence"]
    async with scene.db.transaction() as tx:
        await tx.execute(update(store.jobs).values(state="FAILED"))
    async with scene.client(Role.OPERATOR) as client:
        told = (await client.get("/v1/verify")).json()
    assert (told["holds"], told["verdict"]) == (False, "broken")  # which counts more


async def test_no_more_rows_are_shown_than_people_can_read(scene: Scene) -> None:
    for _ in range(105):
        await scene.submit("#sim", nodes=2, resources={"gpu": {"count": 2}})
    async with scene.db.transaction() as tx:
        await tx.execute(update(store.jobs).values(state="BANANA"))
    assert len((await scene.proofs())["jobs"]) == 100
