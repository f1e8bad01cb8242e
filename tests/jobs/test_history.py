"""The proof of histories: it holds for what the platform does, and finds each kind of forged row."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from sqlalchemy import delete, insert, select, text, update

from dujiang.engines.contract import AttemptKey
from dujiang.jobs import store
from dujiang.jobs.history import check_allocations, check_histories
from dujiang.jobs.spec import parse
from dujiang.kit.journal import journal
from tests.platforms import Scene


async def breaches(scene: Scene) -> list[tuple[str, str]]:
    """Return what is found: row and sentence, jobs by their name."""
    async with scene.db.reading() as tx:
        _, found = await check_histories(tx)
    return [(one.row, one.sentence) for one in found]


async def a_past(scene: Scene) -> dict[str, str]:
    """Let one job of each kind have happened; return their ids by name."""
    runs = {"done": "#sim duration=1", "failed": "#sim exit=1", "runs": "#sim duration=forever"}
    made = {name: (await scene.submit(run, resources={"gpu": {"count": 1}})).id for name, run in runs.items()}
    made["retried"] = (await scene.submit("#sim exit=1", retry={"limit": 2, "on": ["unknown"]})).id
    made["refused"] = (await scene.submit("#sim nonsense=1", retry={"limit": 0})).id
    for name in ("done", "failed", "retried", "refused"):
        await scene.until(made[name])
    await scene.until(made["runs"], "RUNNING")
    made["waits"] = (await scene.submit(resources={"gpu": {"count": 2}}, nodes=2)).id
    made["dropped"] = (await scene.submit(resources={"gpu": {"count": 2}}, nodes=2)).id
    await scene.cancel(made["dropped"])
    made["between"] = (await scene.submit("#sim duration=forever")).id
    await scene.until(made["between"], "RUNNING")
    scene.cluster.kill(AttemptKey(made["between"], 1))
    await scene.until(made["between"], "PENDING")
    await scene.cancel(made["between"])
    return made


async def test_what_the_platform_does_is_legal(both: Scene) -> None:
    made = await a_past(both)
    async with both.db.reading() as tx:
        count, found = await check_histories(tx)
    assert (count, found) == (len(made), [])
    assert await both.proofs() == {}


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("done", {"state": "FAILED"}, "it is FAILED, its records say COMPLETED"),
        ("runs", {"state": "PENDING"}, "it is PENDING, its records say RUNNING"),
        ("runs", {"state": "BANANA"}, "it is BANANA, its records say RUNNING"),
        ("done", {"finished_at": None}, "it is COMPLETED and has not a time of its end"),
        ("done", {"waits": True}, "it is COMPLETED and waits for a place"),
        ("retried", {"attempt": 2}, "its latest attempt is 2, there are [1, 2, 3]"),
        ("waits", {"attempt": 1}, "its latest attempt is 1, there are none"),
    ],
)
async def test_a_forged_job(scene: Scene, name: str, change: dict[str, Any], sentence: str) -> None:
    job_id = (await a_past(scene))[name]
    async with scene.db.transaction() as tx:
        await tx.execute(update(store.jobs).where(store.jobs.c.id == job_id).values(**change))
    assert (job_id, sentence) in await breaches(scene)


@pytest.mark.parametrize(
    ("name", "number", "state", "sentence"),
    [
        ("retried", 1, "RUNNING", "it is RUNNING, and attempt 2 followed it"),
        ("done", 1, "RUNNING", "it is RUNNING, the job is COMPLETED"),
        ("done", 1, "FAILED", "it is FAILED, the job is COMPLETED"),
        ("runs", 1, "COMPLETED", "it is COMPLETED, the job is RUNNING"),
        ("runs", 1, "BANANA", "it is BANANA, the job is RUNNING"),
    ],
)
async def test_a_forged_attempt(scene: Scene, name: str, number: int, state: str, sentence: str) -> None:
    job_id = (await a_past(scene))[name]
    c = store.attempts.c
    async with scene.db.transaction() as tx:
        await tx.execute(update(store.attempts).where(c.job_id == job_id, c.number == number).values(state=state))
    assert await breaches(scene) == [(f"{job_id}.{number}", sentence)]


async def test_a_removed_attempt(scene: Scene) -> None:
    job_id = (await a_past(scene))["retried"]
    c = store.attempts.c
    async with scene.db.transaction() as tx:
        await tx.execute(delete(store.attempts).where(c.job_id == job_id, c.number == 2))
    assert await breaches(scene) == [(job_id, "its latest attempt is 3, there are [1, 3]")]


async def test_a_removed_job(scene: Scene) -> None:
    job_id = (await a_past(scene))["done"]
    async with scene.db.transaction() as tx:
        await tx.execute(delete(store.jobs).where(store.jobs.c.id == job_id))
    assert await breaches(scene) == [
        (job_id, "its attempts are there, the job is not"),
        (job_id, "its records are there, the job is not"),
    ]


async def test_an_inserted_job(scene: Scene) -> None:
    job_id = (await a_past(scene))["waits"]
    async with scene.db.transaction() as tx:
        row = dict((await tx.execute(select(text("* from jobs")).where(text(f"id = '{job_id}'")))).mappings().one())
        names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
        await tx.execute(text(f"INSERT INTO jobs ({names}) VALUES ({values})").bindparams(**{**row, "id": "job_new"}))
    assert await breaches(scene) == [("job_new", "it has no record of its submission")]


@pytest.mark.parametrize(
    ("name", "kind", "change", "sentence"),
    [
        ("done", "JobStarted", None, "record {seq} makes it COMPLETED after PENDING"),
        ("done", "JobEnded", None, "it is COMPLETED, its records say RUNNING"),
        ("done", "JobEnded", {"state": "PENDING"}, "it is COMPLETED, its records say PENDING"),
        ("done", "JobEnded", {"state": "BANANA"}, "record {seq} does not say what a JobEnded says"),
        ("done", "JobEnded", {"attempt": None}, "record {seq} does not say what a JobEnded says"),
        ("retried", "JobRetried", None, "record {later} makes it RUNNING after RUNNING"),
        ("retried", "JobStarted", {"attempt": 0}, "attempt 0 began after attempt 0"),
    ],
)
async def test_a_forged_record(
    scene: Scene, name: str, kind: str, change: dict[str, Any] | None, sentence: str
) -> None:
    """Whoever holds the key of the trail could write one that its chain does not show."""
    job_id = (await a_past(scene))[name]
    records = await scene.records(job_id)
    place = next(number for number, one in enumerate(records) if one.type == kind)
    seq = records[place].seq
    later = records[place + 1].seq if place + 1 < len(records) else seq
    this = journal.c.seq == seq
    async with scene.db.transaction() as tx:
        if change is None:
            await tx.execute(delete(journal).where(this))
        else:
            payload = orjson.dumps({**records[place].payload, **change}).decode()
            await tx.execute(update(journal).where(this).values(payload=payload))
    told = sentence.format(seq=later if change is None else seq, later=later)
    assert (job_id, told) in await breaches(scene)
    assert {"jobs", "audit"} <= (await scene.proofs()).keys()


async def test_a_submission_told_twice_or_never(scene: Scene) -> None:
    made = await a_past(scene)
    first = (await scene.records(made["done"]))[0]
    lost = (await scene.records(made["failed"]))[0]
    async with scene.db.transaction() as tx:
        row = dict((await tx.execute(select(journal).where(journal.c.seq == first.seq))).mappings().one())
        await tx.execute(insert(journal).values({**row, "seq": 10**6}))
        await tx.execute(delete(journal).where(journal.c.seq == lost.seq))
    found = await breaches(scene)
    assert (made["done"], "it was submitted twice") in found
    started = (await scene.records(made["failed"]))[0]
    assert (made["failed"], f"record {started.seq} tells of a job that was never submitted") in found


async def test_a_place_that_nobody_holds_and_an_attempt_without_one(scene: Scene) -> None:
    made = await a_past(scene)
    key = AttemptKey(made["runs"], 1)
    (attempt,) = await scene.attempts(made["runs"])
    async with scene.db.transaction() as tx:
        await scene.platform.pool.release(tx, key)
        stray = AttemptKey("job_nobody", 1)
        await scene.platform.pool.allocate(tx, stray, scene.projects["own"], attempt.ranks, attempt.cluster)
    async with scene.db.reading() as tx:
        count, found = await check_allocations(tx, scene.platform.pool)
    assert count == 1
    assert [(one.row, one.sentence) for one in found] == [
        (str(stray), "it holds a place and has ended, or never was"),
        (str(key), "it has not ended and holds no place"),
    ]


async def test_rows_that_cannot_even_be_read_are_told_and_break_no_other_proof(scene: Scene) -> None:
    made = await a_past(scene)
    records = await scene.records(made["done"])
    async with scene.db.transaction() as tx:
        await tx.execute(update(journal).where(journal.c.seq == records[0].seq).values(payload="{not json"))
    found = await scene.proofs()
    assert {"jobs", "audit"} <= found.keys() <= {"jobs", "audit"}


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE job_dependencies SET is_open = false", "for none of all"),
        ("UPDATE jobs SET held = 'ArrayLimit' WHERE array_index IS NOT NULL", "0 of its tasks are at work"),
        ("UPDATE jobs SET state = 'COMPLETED', waits = false, finished_at = 1 WHERE name = 'first'", "which has ended"),
    ],
)
async def test_what_is_held_for_nothing_is_found(both: Scene, statement: str, sentence: str) -> None:
    await both.submit("#sim", name="first")
    await both.submit("#sim", name="second", after=["first"])
    specs = parse("name: many\nrun: '#sim'\narray: 0-3%2\n")
    async with both.db.transaction() as tx:
        await both.platform.jobs.submit_many(tx, specs, project_ids=[both.projects["own"]], submitted_by="u")
    assert await breaches(both) == []
    async with both.db.transaction() as tx:
        await tx.connection.exec_driver_sql(statement)
    assert any(sentence in told for _, told in await breaches(both))
