"""Dependencies and arrays over a virtual cluster, from the submission to the last end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.jobs import group_store
from dujiang.jobs.domain import NEVER_SATISFIED, Array, Held, Job, JobEndedAlready, JobState, NoSuchArray
from dujiang.jobs.service import JobFilter
from dujiang.jobs.spec import SpecInvalid, parse
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.tenancy.domain import Role
from tests.conftest import _sqlite
from tests.platforms import Scene, a_scene


async def submit(
    scene: Scene, *documents: dict[str, Any], project: str = "own", reach: Sequence[str] | None = ()
) -> list[Job | Array]:
    """Submit several together."""
    specs = parse(json.dumps([{"run": "#sim", **one} for one in documents]))
    async with scene.db.transaction() as tx:
        return await scene.platform.jobs.submit_many(
            tx, specs, project_ids=[scene.projects[project]] * len(specs), submitted_by=scene.users[Role.MEMBER],
            reach=reach,
        )  # fmt: skip


async def tasks(scene: Scene, array_id: str) -> list[Job]:
    """Return the tasks of an array by index."""
    async with scene.db.reading() as tx:
        found = await scene.platform.jobs.jobs(tx, JobFilter(array_id=array_id), limit=20_000)
    return sorted(found, key=lambda job: job.array_index or 0)


async def refused(scene: Scene, *documents: dict[str, Any], **options: Any) -> list[str]:
    """Return what is said when this is submitted."""
    with pytest.raises(SpecInvalid) as error:
        await submit(scene, *documents, **options)
    return [str(one) for one in error.value.problems]


# -- dependencies ------------------------------------------------------------------------------------------------------


async def test_a_job_waits_for_another_and_goes_on_in_the_moment_of_its_end(both: Scene) -> None:
    first = await both.submit("#sim duration=3", name="first")
    second = await both.submit("#sim", name="second", after=["first"])
    assert (second.held, second.reason, second.waits) == (Held.DEPENDENCY, "Dependency", True)
    assert second.waiting is not None
    assert second.waiting.blocking == first.id
    assert await both.job(second.id) == second
    async with both.db.reading() as tx:
        assert await both.platform.jobs.position(tx, second) is None
        assert second.id not in [job.id for _, job in await both.platform.jobs.queue(tx)]
    while not (await both.job(first.id)).has_ended:
        assert (await both.job(second.id)).held is Held.DEPENDENCY
        await both.turn()
    released = await both.job(second.id)
    assert (released.held, released.reason, released.waiting) == (None, "Queued", None)
    assert released.queued_at > released.created_at
    assert (await both.until(second.id)).state is JobState.COMPLETED
    assert await both.told(second.id) == ["JobSubmitted", "JobStarted", "JobEnded"]
    assert await both.proofs() == {}


@pytest.mark.parametrize(
    ("run", "when", "state"),
    [
        ("#sim", "ok", "COMPLETED"),
        ("#sim exit=3", "ok", "CANCELLED"),
        ("#sim", "any", "COMPLETED"),
        ("#sim exit=3", "any", "COMPLETED"),
        ("#sim", "notok", "CANCELLED"),
        ("#sim exit=3", "notok", "COMPLETED"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
async def test_each_condition_over_each_end_before_and_after_the_submission(
    scene: Scene, run: str, when: str, state: str, before: bool
) -> None:
    first = await scene.submit(run)
    if before:
        await scene.until(first.id)
    second = await scene.submit("#sim", after=[{"job": first.id, "when": when}])
    ended = await scene.until(second.id)
    assert str(ended.state) == state
    if state == "CANCELLED":
        assert (ended.reason, ended.attempt) == (NEVER_SATISFIED, 0)
        assert first.id in ended.sentence
        assert await scene.told(second.id) == ["JobSubmitted", "JobEnded"]
    assert await scene.proofs() == {}


async def test_what_waits_for_what_was_given_up_is_given_up_too(both: Scene) -> None:
    a, b, c, d, e = await submit(
        both, {"name": "a", "run": "#sim exit=1"}, {"name": "b", "after": ["a"], "secrets": {"S": {"value": "x"}}},
        {"name": "c", "after": ["b"]}, {"name": "d", "after": ["c:notok"]}, {"name": "e", "after": ["b:any", "a:any"]},
    )  # fmt: skip
    await both.until(a.id)
    ended = {one.name: await both.job(one.id) for one in (b, c)}
    assert {job.reason for job in ended.values()} == {NEVER_SATISFIED}
    assert b.id in ended["c"].sentence
    assert str((await both.until(d.id)).state) == str((await both.until(e.id)).state) == "COMPLETED"
    async with both.db.reading() as tx:
        assert (await tx.connection.exec_driver_sql("SELECT job_id FROM job_secrets")).all() == []
        assert await group_store.open_edges(tx, [one.id for one in (a, b, c, d, e)]) == {}
    assert await both.proofs() == {}


async def test_a_job_waits_for_many_and_names_one_that_is_left(both: Scene) -> None:
    (slow, fast) = [await both.submit(f"#sim duration={seconds}") for seconds in (6, 1)]
    last = await both.submit("#sim", after=[fast.id, slow.id])
    assert last.waiting is not None
    assert last.waiting.blocking == fast.id
    assert "1 more" in last.sentence
    await both.until(fast.id)
    told = await both.job(last.id)
    assert told.waiting is not None
    assert (told.held, told.waiting.blocking, "more" in told.sentence) == (Held.DEPENDENCY, slow.id, False)
    await both.until(slow.id)
    assert (await both.job(last.id)).held is None


async def test_cancelling_what_others_wait_for_settles_them_at_once(both: Scene) -> None:
    a, b, c = await submit(both, {"name": "a"}, {"name": "b", "after": ["a"]}, {"name": "c", "after": ["a:any"]})
    await both.cancel(a.id)
    assert (await both.job(b.id)).reason == NEVER_SATISFIED
    assert (await both.job(c.id)).held is None
    held = await both.submit("#sim", after=[c.id])
    ended = await both.cancel(held.id)
    assert (ended.state, ended.reason, ended.held) == (JobState.CANCELLED, "Cancelled", None)
    await both.until(c.id)
    assert await both.job(held.id) == ended, "an end is not followed by another"
    assert await both.proofs() == {}


async def test_a_job_that_is_run_again_has_not_ended(scene: Scene) -> None:
    first = await scene.submit("#sim duration=50", retry={"limit": 1})
    second = await scene.submit("#sim", after=[first.id])
    await scene.until(first.id, "RUNNING")
    scene.cluster.kill(scene.key(first))
    await scene.until(first.id, "PENDING")
    assert (await scene.job(second.id)).held is Held.DEPENDENCY
    await scene.until(first.id)
    assert (await scene.job(second.id)).held is None


async def test_the_explanation_names_the_job_and_says_what_to_do(scene: Scene) -> None:
    first = await scene.submit("#sim duration=9", name="first")
    second = await scene.submit("#sim", after=["first"])
    third = await scene.submit("#sim", after=[{"job": "first", "when": "notok"}])
    async with scene.client() as client:
        told = (await client.get(f"/v1/jobs/{second.id}/explain")).json()
        shown = (await client.get(f"/v1/jobs/{second.id}")).json()
        await scene.until(first.id)
        ended = (await client.get(f"/v1/jobs/{third.id}/explain")).json()
    assert (told["cause"], told["topic"]) == ("Dependency", "waits")
    assert told["why"][0] == f"It can start once {first.id} (first) has completed."
    assert told["advice"]
    assert (shown["reason"], shown["waiting"]["blocking"]) == ("Dependency", first.id)
    assert (ended["cause"], first.id in ended["why"][0]) == (NEVER_SATISFIED, True)


# -- names -------------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_meant_is_refused_with_what_to_do(both: Scene) -> None:
    twice = [await both.submit("#sim", name="twice") for _ in range(2)]
    foreign = await both.submit("#sim", name="foreign", project="other")
    (said,) = await refused(both, {"after": ["nobody"]})
    assert "nobody" in said
    assert "dujiang ps" in said
    (said,) = await refused(both, {"after": ["twice"]})
    assert all(job.id in said for job in twice)
    absent = foreign.id[:-4] + "0000"
    for ident in (foreign.id, absent, "arr" + absent[3:]):
        (said,) = await refused(both, {"after": [ident]})
        assert said.startswith(f"after[0]: There is no job {ident}, or none that you may see. ")
    (said,) = await refused(both, {"after": ["foreign"]})
    assert "no job" in said
    said_twice = await refused(both, {"after": ["nobody", twice[0].id, "twice"]})
    assert [one[:8] for one in said_twice] == ["after[0]", "after[2]"]
    (said,) = await refused(both, {"name": "x", "after": ["y"]}, {"name": "y"})
    assert said.startswith("specs[0].after[0]")
    assert "Put it first" in said
    (said,) = await refused(both, {"name": "x"}, {"name": "x"}, {"name": "z", "after": ["x"]})
    assert "2 jobs of this submission" in said
    (said,) = await refused(both, {"name": "self", "after": ["self"]})
    assert "no job" in said


async def test_another_projects_job_may_be_waited_for_where_it_may_be_seen(both: Scene) -> None:
    foreign = await both.submit("#sim duration=2", project="other")
    for reach in (None, [both.projects["other"]]):
        (job,) = await submit(both, {"after": [foreign.id]}, reach=reach)
        assert isinstance(job, Job)
        assert job.held is Held.DEPENDENCY
    async with both.client(Role.MEMBER) as member, both.client(Role.ADMIN) as admin:
        spec = {"run": "#sim", "project": "own", "after": [foreign.id]}
        unseen = await member.post("/v1/jobs", json={"spec": spec})
        assert (unseen.status_code, unseen.json()["problems"][0]["path"]) == (422, "after[0]")
        assert (await admin.post("/v1/jobs", json={"spec": spec})).status_code == 201


async def test_an_earlier_job_of_the_submission_goes_before_older_ones_of_its_name(both: Scene) -> None:
    for _ in range(2):
        old, new = await submit(both, {"name": "prepare"}, {"name": "train", "after": ["prepare"]})
        assert isinstance(new, Job)
        assert [one.job for one in new.spec.after] == [old.id]


async def test_the_same_job_by_name_and_id_is_said_to_be_twice(scene: Scene) -> None:
    job = await scene.submit("#sim", name="one")
    (said,) = await refused(scene, {"after": ["one", job.id]})
    assert "twice" in said


# -- arrays ------------------------------------------------------------------------------------------------------------


async def test_each_task_is_a_job_that_knows_its_index(both: Scene) -> None:
    (array,) = await submit(both, {"name": "many", "array": "1-5:2", "checkpoint": "/data/many", "env": {"A": "1"}})
    assert isinstance(array, Array)
    found = await tasks(both, array.id)
    assert [(job.array_id, job.array_index, job.name, job.held) for job in found] == [
        (array.id, index, "many", None) for index in (1, 3, 5)
    ]
    assert [job.checkpoint_dir for job in found] == [f"/data/many/{index}" for index in (1, 3, 5)]
    for job in found:
        assert (await both.until(job.id)).state is JobState.COMPLETED
        assert await both.told(job.id) == ["JobSubmitted", "JobStarted", "JobEnded"]
    async with both.db.reading() as tx:
        tally = (await both.platform.jobs.tallies(tx, [array.id]))[array.id]
        assert await both.platform.jobs.array(tx, array.id) == array
    assert (tally.states, tally.has_ended) == ({JobState.COMPLETED: 3}, True)
    assert tally.started_at is not None
    assert tally.finished_at is not None
    assert await both.proofs() == {}


async def test_no_more_tasks_are_at_work_than_may_be_and_all_have_their_turn(both: Scene) -> None:
    (array,) = await submit(both, {"array": "0-6%2", "run": "#sim duration=2", "resources": {"cpu": 0.1}})
    order: list[int] = []
    for _ in range(60):
        found = await tasks(both, array.id)
        live = [job for job in found if not job.has_ended]
        at_work = [job for job in live if job.held is None]
        assert len(at_work) == min(2, len(live))
        assert all((job.held, job.reason) == (Held.ARRAY_LIMIT, "ArrayLimit") for job in live if job not in at_work)
        order += [job.array_index or 0 for job in at_work if (job.array_index or 0) not in order]
        if not live:
            break
        await both.turn()
    assert order == list(range(7)), "in the order of their indices"
    assert {job.state for job in await tasks(both, array.id)} == {JobState.COMPLETED}
    assert await both.proofs() == {}


async def test_a_task_that_is_run_again_keeps_its_turn(scene: Scene) -> None:
    (array,) = await submit(scene, {"array": "0-2%1", "run": "#sim duration=9", "retry": {"limit": 2}})
    first, second, _ = await tasks(scene, array.id)
    await scene.until(first.id, "RUNNING")
    scene.cluster.kill(scene.key(first))
    await scene.until(first.id, "PENDING")
    assert (await scene.job(first.id)).held is None
    assert (await scene.job(second.id)).held is Held.ARRAY_LIMIT


async def test_an_array_waits_as_a_whole_and_is_waited_for_as_a_whole(both: Scene) -> None:
    first, array, last, other = await submit(
        both, {"name": "first", "run": "#sim duration=2"}, {"name": "many", "array": "0-4%2", "after": ["first"]},
        {"name": "last", "after": ["many"]}, {"name": "other", "after": ["many:notok"]},
    )  # fmt: skip
    assert {(job.held, job.reason) for job in await tasks(both, array.id)} == {(Held.DEPENDENCY, "Dependency")}
    await both.until(first.id)
    assert [job.held for job in await tasks(both, array.id)] == [None, None, *[Held.ARRAY_LIMIT] * 3]
    for job in await tasks(both, array.id):
        assert (await both.job(last.id)).held is Held.DEPENDENCY
        await both.until(job.id)
    assert (await both.until(last.id)).state is JobState.COMPLETED
    given_up = await both.job(other.id)
    assert (given_up.reason, array.id in given_up.sentence) == (NEVER_SATISFIED, True)


async def test_one_task_that_fails_makes_the_array_fail_for_those_that_wait(both: Scene) -> None:
    array, good, bad = await submit(
        both,
        {"name": "many", "array": 3},
        {"name": "good", "after": ["many"]},
        {"name": "bad", "after": ["many:notok"]},
    )
    (task, *_) = await tasks(both, array.id)
    await both.cancel(task.id)
    assert (await both.job(good.id)).held is Held.DEPENDENCY, "until every task has ended"
    for job in await tasks(both, array.id):
        await both.until(job.id)
    assert (await both.job(good.id)).reason == NEVER_SATISFIED
    assert (await both.until(bad.id)).state is JobState.COMPLETED
    (late,) = await submit(both, {"name": "late", "after": [array.id]})
    assert isinstance(late, Job)
    assert late.reason == NEVER_SATISFIED


async def test_an_array_that_waited_in_vain_is_over_with_what_waited_for_it(both: Scene) -> None:
    first, array, last = await submit(
        both,
        {"name": "first"},
        {"name": "many", "array": "0-4%2", "after": ["first"]},
        {"name": "last", "after": ["many"]},
    )
    await both.cancel(first.id)
    assert {job.reason for job in await tasks(both, array.id)} == {NEVER_SATISFIED}
    ended = await both.job(last.id)
    assert (ended.reason, array.id in ended.sentence) == (NEVER_SATISFIED, True)
    again, more = await submit(both, {"name": "a", "array": 2, "after": [first.id]}, {"name": "b", "after": ["a"]})
    assert {job.reason for job in await tasks(both, again.id)} == {NEVER_SATISFIED}
    assert isinstance(more, Job)
    assert more.reason == NEVER_SATISFIED


async def test_tasks_are_cancelled_together_or_by_their_indices(both: Scene) -> None:
    (array,) = await submit(both, {"array": "0-9%2", "run": "#sim duration=30"})
    await both.turns(3)
    service = both.platform.jobs
    async with both.db.transaction() as tx:
        stopped = await service.cancel_array(tx, array.id, {0, 4, 77})
    assert [(job.array_index, job.reason) for job in sorted(stopped, key=lambda job: job.id)] == [
        (0, "Cancelling"), (4, "Cancelled"),
    ]  # fmt: skip
    await both.until((await tasks(both, array.id))[0].id)
    assert [job.held for job in await tasks(both, array.id)][:4] == [None, None, None, Held.ARRAY_LIMIT]
    async with both.db.transaction() as tx:
        assert len(await service.cancel_array(tx, array.id)) == 8
    for job in await tasks(both, array.id):
        assert (await both.until(job.id)).state is JobState.CANCELLED
    with pytest.raises(JobEndedAlready):
        async with both.db.transaction() as tx:
            await service.cancel_array(tx, array.id)
    with pytest.raises(NoSuchArray):
        async with both.db.transaction() as tx:
            await service.cancel_array(tx, "arr_none")
    assert await both.proofs() == {}


async def test_two_ends_at_the_same_time_see_one_another(both: Scene) -> None:
    """The last two tasks end in transactions that overlap; what waits for the array is let go all the same."""
    array, last = await submit(both, {"name": "many", "array": "0-3%2"}, {"name": "last", "after": ["many:any"]})
    while any(not job.has_ended for job in await tasks(both, array.id)):
        live = [job for job in await tasks(both, array.id) if not job.has_ended and job.held is None]
        await asyncio.gather(*(both.cancel(job.id) for job in live))
    assert (await both.job(last.id)).held is None


async def test_more_than_one_transaction_should_write_is_refused(scene: Scene) -> None:
    (said,) = await refused(scene, {"array": 9000}, {"array": 1001})
    assert "10001 jobs" in said
    assert "several parts" in said


# -- the API -----------------------------------------------------------------------------------------------------------


async def test_an_array_is_one_row_unless_its_tasks_are_asked_for(both: Scene) -> None:
    async with both.client(Role.MEMBER) as client:
        made = (await client.post("/v1/jobs", json={"spec": {"name": "m", "run": "#sim", "array": "0-3%1"}})).json()
        single = (await client.post("/v1/jobs", json={"spec": {"name": "s", "run": "#sim"}})).json()
        assert made["id"].startswith("arr_")
        assert (made["states"], made["reasons"]) == ({"PENDING": 4}, {"ArrayLimit": 3, "Queued": 1})
        rows = (await client.get("/v1/jobs?arrays=true")).json()["items"]
        assert [row["id"] for row in rows] == [single["id"], made["id"]]
        pages: list[str] = []
        cursor = ""
        while cursor is not None:
            answer = await client.get(
                "/v1/jobs", params={"arrays": "true", "limit": 1} | ({"cursor": cursor} if cursor else {})
            )
            pages += [row["id"] for row in answer.json()["items"]]
            cursor = answer.json()["next_cursor"]
        assert pages == [single["id"], made["id"]]
        flat = (await client.get("/v1/jobs")).json()["items"]
        assert len(flat) == 5
        of_array = (await client.get("/v1/jobs", params={"array": made["id"]})).json()["items"]
        assert sorted(row["array_index"] for row in of_array) == [0, 1, 2, 3]
        (third,) = (await client.get("/v1/jobs", params={"array": made["id"], "index": 2})).json()["items"]
        assert (third["array_index"], third["reason"], third["waiting"]["blocking"]) == (2, "ArrayLimit", made["id"])
        assert (await client.get(f"/v1/arrays/{made['id']}")).json()["sentence"] == "0 of 4 tasks have ended."
        bad = await client.post(f"/v1/arrays/{made['id']}/cancel", json={"indices": "2..3"})
        assert (bad.status_code, bad.json()["code"]) == (422, "bad_indices")
        some = (await client.post(f"/v1/arrays/{made['id']}/cancel", json={"indices": "2-3"})).json()
        assert some["states"] == {"CANCELLED": 2, "PENDING": 2}
        everything = (await client.post(f"/v1/arrays/{made['id']}/cancel")).json()
        assert (everything["state"], everything["states"]) == ("CANCELLED", {"CANCELLED": 4})
        again = await client.post(f"/v1/arrays/{made['id']}/cancel")
        assert (again.status_code, again.json()["code"]) == (409, "job_ended")
        assert [row["id"] for row in (await client.get("/v1/jobs?arrays=true")).json()["items"]] == [single["id"]]
        ended = (await client.get("/v1/jobs?arrays=true&state=CANCELLED")).json()["items"]
        assert [row["id"] for row in ended] == [made["id"]]


async def test_a_key_gives_the_same_array_again(scene: Scene) -> None:
    body = {"spec": {"name": "m", "run": "#sim", "array": 3}}
    async with scene.client(Role.MEMBER) as client:
        told = [await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        assert told[0].json() == told[1].json()
        assert len((await client.get("/v1/jobs")).json()["items"]) == 3


# -- whatever is submitted ---------------------------------------------------------------------------------------------

_RUNS = ("#sim", "#sim exit=1", "#sim duration=2", "#sim duration=3 exit=2")


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return a submission in which jobs and arrays wait for those before them."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 7))):
        on = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        one: dict[str, Any] = {
            "name": f"n{number}", "run": draw(st.sampled_from(_RUNS)), "resources": {"cpu": 0.1, "memory": "64MiB"},
            "after": [{"job": f"n{other}", "when": draw(st.sampled_from(["ok", "any", "notok"]))} for other in on],
        }  # fmt: skip
        if draw(st.booleans()):
            one["array"] = {"size": draw(st.integers(1, 4)), "at_once": draw(st.integers(1, 3))}
        made.append(one)
    return made


@pytest.mark.slow
@given(graphs(), st.lists(st.integers(0, 40), max_size=3))
@settings(max_examples=10)
def test_every_job_ends_and_no_limit_is_passed_on_the_way(
    tmp_path_factory: pytest.TempPathFactory, graph: list[dict[str, Any]], cancels: list[int]
) -> None:
    asyncio.run(_live_through(tmp_path_factory.mktemp("graph"), graph, cancels))


async def _live_through(folder: Path, graph: list[dict[str, Any]], cancels: list[int]) -> None:
    clock = ManualClock()
    db: Database = _sqlite(folder, clock)
    await db.create_all()
    async with a_scene(db, clock, Ids(clock, np.random.default_rng(7)), folder) as scene:
        works = await submit(scene, *graph)
        for turn in range(120):
            jobs = await _all_jobs(scene)
            _check(works, jobs)
            if all(job.has_ended for job in jobs):
                break
            if turn in cancels:
                await scene.cancel(next(job.id for job in jobs if not job.has_ended))
            await scene.turn()
        else:
            raise AssertionError(f"these never end: {[job for job in jobs if not job.has_ended]}")
        assert await scene.proofs() == {}
    await db.close()


async def _all_jobs(scene: Scene) -> list[Job]:
    async with scene.db.reading() as tx:
        return await scene.platform.jobs.jobs(tx, JobFilter(), limit=1000)


def _check(works: Sequence[Job | Array], jobs: Sequence[Job]) -> None:
    """Limits hold, and what is held waits for something that has not ended."""
    of: dict[str, list[Job]] = {work.id: [] for work in works}
    for job in jobs:
        of[job.array_id or job.id].append(job)
    for work in works:
        live = [job for job in of[work.id] if not job.has_ended]
        at_work = [job for job in live if job.held is None]
        if isinstance(work, Array) and work.at_once is not None:
            assert len(at_work) <= work.at_once
            if any(job.held is Held.ARRAY_LIMIT for job in live):
                assert len(at_work) == work.at_once, "a turn that nobody takes"
        for job in live:
            if job.held is Held.DEPENDENCY:
                assert job.waiting is not None
                assert any(not other.has_ended for other in of[job.waiting.blocking]), "it waits for what is over"
        for job in of[work.id]:
            if job.reason == NEVER_SATISFIED:
                assert job.attempt == 0
            elif job.attempt:
                for after in job.spec.after:
                    assert all(other.has_ended for other in of[after.job]), "it ran before what it waits for ended"
