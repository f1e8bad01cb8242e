"""Schedules on both databases, under a clock to turn: each time once, whoever is killed and however the clock goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dujiang.jobs.domain import Job, JobState
from dujiang.jobs.domain.schedules import Outcome, Overlap, Run, RunNotOver, Schedule, ScheduleNameTaken
from dujiang.jobs.loop.scheduled import ScheduleLoop
from dujiang.jobs.schedules import KEPT_RUNS, LABEL, ScheduleService
from dujiang.jobs.service import JobFilter
from dujiang.jobs.spec import SpecInvalid, parse
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import Unavailable
from dujiang.tenancy.domain import Role
from tests.platforms import Scene

HOURLY = "0 * * * *"


async def create(
    scene: Scene, name: str = "hourly", *, cron: str = HOURLY, role: Role = Role.MEMBER, **options: Any
) -> Schedule:
    (spec,) = parse(options.pop("spec", "name: work\nrun: '#sim duration=1'\n"))
    async with scene.db.transaction(actor="user:test") as tx:
        return await scene.platform.schedules.create(
            tx, name, spec, project_id=scene.projects["own"], by=scene.users[role], cron=cron, **options
        )


async def runs(scene: Scene, one: Schedule) -> list[Run]:
    async with scene.db.reading() as tx:
        return await scene.platform.schedules.runs(tx, one.id, limit=1000)


async def jobs(scene: Scene) -> list[Job]:
    async with scene.db.reading() as tx:
        return await scene.platform.jobs.jobs(tx, JobFilter())


async def current(scene: Scene, one: Schedule) -> Schedule:
    async with scene.db.reading() as tx:
        return await scene.platform.schedules.schedule(tx, one.id, None)


async def to(scene: Scene, hour: int, minute: int = 0, *, day: int = 1) -> dict[str, int]:
    """Let the time come, and the loop look."""
    then = datetime(2026, 1, day, hour, minute, tzinfo=UTC)
    scene.clock.advance((then - scene.clock.now()).total_seconds())
    return dict((await scene.platform.scheduled.tick()).steps)


async def test_a_time_comes_and_its_work_is_submitted_in_its_owners_name(both: Scene) -> None:
    one = await create(both, spec="name: work\nrun: '#sim duration=1'\nsecrets: {TOKEN: {value: hush}}\n")
    assert one.next_at == datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert await to(both, 0, 59) == {}
    assert await to(both, 1) == {"submitted": 1}
    assert await to(both, 1) == {}
    (run,) = await runs(both, one)
    (job,) = await jobs(both)
    assert (run.outcome, run.work_id, run.due_at) == (Outcome.SUBMITTED, job.id, datetime(2026, 1, 1, 1, tzinfo=UTC))
    assert (job.submitted_by, job.labels[LABEL], job.name) == (both.users[Role.MEMBER], one.id, "work")
    async with both.db.reading() as tx:
        rows = (await tx.connection.exec_driver_sql("SELECT secrets FROM job_secrets")).all()
    assert "hush" in str(rows)
    assert (await both.until(job.id)).state is JobState.COMPLETED
    assert await to(both, 2, 10) == {"submitted": 1}
    assert await both.told(one.id) == ["ScheduleCreated", "ScheduleRan", "ScheduleRan"]
    assert "hush" not in str([record.payload for record in await both.records()])
    assert await both.proofs() == {}


async def test_after_a_time_away_only_the_latest_runs_and_only_if_it_is_not_too_late(both: Scene) -> None:
    short = await create(both, "short", catch_up_s=600)
    long = await create(both, "long", catch_up_s=7200)
    assert await to(both, 9, 30, day=5) == {"missed": 1, "submitted": 1}
    assert [str(run.outcome) for run in await runs(both, short)] == ["missed"]
    (run,) = await runs(both, long)
    assert run.due_at == datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert await to(both, 10, day=5) == {"submitted": 1, "skipped": 1}
    assert len(await jobs(both)) == 2


@pytest.mark.parametrize("overlap", list(Overlap))
async def test_what_becomes_of_the_run_before(both: Scene, overlap: Overlap) -> None:
    one = await create(both, overlap=overlap, spec="name: work\nrun: '#sim duration=forever'\narray: 2\n")
    await to(both, 1)
    await both.turns(3)
    await to(both, 2)
    first, second = [run.outcome for run in reversed(await runs(both, one))]
    assert first is Outcome.SUBMITTED
    assert second is (Outcome.SKIPPED if overlap is Overlap.SKIP else Outcome.SUBMITTED)
    await both.turns(5)
    reasons = sorted(job.reason for job in await jobs(both) if job.has_ended)
    assert reasons == (["Replaced", "Replaced"] if overlap is Overlap.REPLACE else [])
    assert len(await jobs(both)) == (2 if overlap is Overlap.SKIP else 4)
    if overlap is Overlap.SKIP:
        assert (await runs(both, one))[0].sentence.startswith("arr_")


async def test_a_pause_is_not_made_up_for(both: Scene) -> None:
    one = await create(both)
    service = both.platform.schedules
    async with both.db.transaction() as tx:
        assert (await service.pause(tx, one.id)).next_at is None
        await service.pause(tx, one.id)
    assert await to(both, 5) == {}
    async with both.db.transaction() as tx:
        assert (await service.resume(tx, one.id)).next_at == datetime(2026, 1, 1, 6, tzinfo=UTC)
        await service.resume(tx, one.id)
    assert await to(both, 5, 59) == {}
    assert await to(both, 6) == {"submitted": 1}
    assert await both.told(one.id) == ["ScheduleCreated", "SchedulePaused", "ScheduleResumed", "ScheduleRan"]


async def test_run_now_leaves_its_times_as_they_are(both: Scene) -> None:
    one = await create(both)
    async with both.db.transaction() as tx:
        owner = await both.platform.tenancy.principal(tx, both.users[Role.ADMIN])
        run = await both.platform.schedules.run_now(tx, one.id, owner)
    assert run.by_hand
    assert (await both.job(run.work_id)).submitted_by == both.users[Role.ADMIN]
    assert (await current(both, one)).next_at == one.next_at
    with pytest.raises(RunNotOver, match=run.work_id):
        async with both.db.transaction() as tx:
            await both.platform.schedules.run_now(tx, one.id, owner)
    assert await to(both, 1) == {"skipped": 1}


async def test_a_name_is_taken_once_in_a_project_until_it_is_deleted(both: Scene) -> None:
    one = await create(both)
    with pytest.raises(ScheduleNameTaken):
        await create(both)
    await to(both, 1)
    async with both.db.transaction() as tx:
        await both.platform.schedules.delete(tx, one.id)
    assert await to(both, 2) == {}
    assert len(await jobs(both)) == 1, "what it submitted stays"
    await create(both)


async def test_what_still_refers_to_the_submitters_machine_is_refused_at_once(scene: Scene) -> None:
    for spec in ("run: x\nworkdir: here\n", "run: x\nsecrets: {A: '${A}'}\n"):
        with pytest.raises(SpecInvalid):
            await create(scene, spec=spec)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["closed", "no member", "archived", "too large", "no such job"])
async def test_what_cannot_be_submitted_is_noted_and_the_next_time_awaited(both: Scene, why: str) -> None:
    specs = {
        "too large": "name: work\nrun: x\nresources: {gpu: 9}\n", "no such job": "name: work\nrun: x\nafter: [gone]\n",
    }  # fmt: skip
    one = await create(both, spec=specs.get(why, "name: work\nrun: '#sim'\n"))
    other = await create(both, "other", role=Role.ADMIN)
    tenancy = both.platform.tenancy
    async with both.db.transaction() as tx:
        if why == "closed":
            await tenancy.change_user(tx, both.users[Role.MEMBER], disabled=True)
        if why == "no member":
            await tenancy.remove_member(tx, both.projects["own"], both.users[Role.MEMBER])
        if why == "archived":
            await tenancy.change_project(tx, both.projects["own"], archived=True)
    await to(both, 1)
    (run,) = await runs(both, one)
    assert (run.outcome, run.work_id) == (Outcome.REFUSED, "")
    assert run.sentence.endswith(".")
    assert (await current(both, one)).next_at == datetime(2026, 1, 1, 2, tzinfo=UTC)
    assert [str(one.outcome) for one in await runs(both, other)] == ["refused" if why == "archived" else "submitted"]
    assert len(await jobs(both)) == (0 if why == "archived" else 1)


class Killed(Exception):
    """Stands for the end of the process."""


class Dying:
    """A database whose transactions end before their commit, or whose process ends right after it."""

    def __init__(self, db: Database, *, after_commit: bool, at: int) -> None:
        self._db, self._after_commit, self._at, self._count = db, after_commit, at, 0

    def reading(self) -> Any:
        return self._db.reading()

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Tx]:
        self._count += 1
        dies = self._count == self._at
        async with self._db.transaction(**options) as tx:
            yield tx
            if dies and not self._after_commit:
                raise Killed
        if dies:
            raise Killed


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("at", [1, 2])
async def test_a_kill_before_or_after_the_commit_submits_each_time_once(
    both: Scene, after_commit: bool, at: int
) -> None:
    made = [await create(both, f"s{number}") for number in range(2)]
    both.clock.advance(3600)
    db: Any = Dying(both.db, after_commit=after_commit, at=at)
    with pytest.raises(Killed):
        await ScheduleLoop(db=db, schedules=both.platform.schedules).tick()
    again = ScheduleLoop(db=both.db, schedules=both.platform.schedules)
    for _ in range(2):
        await again.tick()
    assert [len(await runs(both, one)) for one in made] == [1, 1]
    assert len(await jobs(both)) == 2


async def test_two_processes_that_look_at_once_submit_once(both: Scene) -> None:
    one = await create(both)
    both.clock.advance(3600)
    loops = [ScheduleLoop(db=both.db, schedules=both.platform.schedules) for _ in range(4)]
    await asyncio.gather(*(loop.tick() for loop in loops))
    assert len(await runs(both, one)) == len(await jobs(both)) == 1


async def test_a_clock_that_goes_wrong_neither_repeats_a_run_nor_stops_the_schedule(both: Scene) -> None:
    one = await create(both, overlap=Overlap.ALLOW)
    assert await to(both, 1) == {"submitted": 1}
    both.clock.step(-600)  # back before the time that was seen to
    assert await to(both, 1) == {}
    both.clock.step(400 * 86400)  # a year ahead: what was missed is one run at most
    assert sum((await both.platform.scheduled.tick()).steps.values()) == 1
    both.clock.step(-400 * 86400)
    await both.platform.scheduled.tick()
    assert (await current(both, one)).next_at == datetime(2026, 1, 1, 2, tzinfo=UTC)
    assert await to(both, 2) == {"submitted": 1}
    due = [run.due_at for run in await runs(both, one)]
    assert len(due) == len(set(due)) == 3


async def test_a_database_that_is_away_for_a_moment_costs_no_run(scene: Scene) -> None:
    class Away(ScheduleService):
        async def see_to(self, tx: Tx, schedule_id: str) -> Run | None:
            raise Unavailable("away")

    one = await create(scene)
    scene.clock.advance(3600)
    platform = scene.platform
    away = Away(ids=platform.world.ids, jobs=platform.jobs, tenancy=platform.tenancy)
    with pytest.raises(Unavailable):
        await ScheduleLoop(db=scene.db, schedules=away).tick()
    assert await runs(scene, one) == []
    assert (await platform.scheduled.tick()).steps == {"submitted": 1}


async def test_only_the_latest_runs_are_kept(scene: Scene) -> None:
    one = await create(scene, cron="* * * * *")
    for _ in range(KEPT_RUNS + 30):
        scene.clock.advance(60)
        await scene.platform.scheduled.tick()
    kept = await runs(scene, one)
    assert KEPT_RUNS <= len(kept) <= KEPT_RUNS + 1
    assert kept[0].due_at == scene.clock.now() - timedelta(seconds=0)


# -- the API -----------------------------------------------------------------------------------------------------------


async def test_a_schedule_from_its_making_to_its_end(both: Scene) -> None:
    body = {
        "name": "nightly", "cron": "0  3 * * *", "time_zone": "Asia/Shanghai",
        "spec": {"run": "#sim", "project": "own", "secrets": {"T": {"value": "hush"}}},
    }  # fmt: skip
    async with both.client(Role.MEMBER) as client:
        made = await client.post("/v1/schedules", json=body)
        assert made.status_code == 201, made.text
        told = made.json()
        assert (told["cron"], told["next_at"], told["overlap"], told["catch_up_s"], told["created_by"]) == (
            "0 3 * * *", "2026-01-01T19:00:00Z", "skip", 3600.0, "the-member",
        )  # fmt: skip
        assert told["spec"]["name"] == "nightly"
        assert "hush" not in made.text
        assert (await client.post("/v1/schedules", json=body)).json()["code"] == "schedule_name_taken"
        run = (await client.post("/v1/schedules/nightly/run")).json()
        assert run["by_hand"]
        again = await client.post("/v1/schedules/nightly/run")
        assert (again.status_code, again.json()["code"], again.json()["work"]) == (409, "run_not_over", run["work_id"])
        shown = (await client.get(f"/v1/schedules/{told['id']}")).json()
        assert [one["work_id"] for one in shown["runs"]] == [run["work_id"]]
        assert (await client.post("/v1/schedules/nightly/pause")).json()["paused_at"] is not None
        assert (await client.post("/v1/schedules/nightly/resume")).json()["next_at"] == told["next_at"]
        (listed,) = (await client.get("/v1/schedules?project=own")).json()["items"]
        assert (listed["name"], len(listed["runs"])) == ("nightly", 1)
        assert (await client.delete("/v1/schedules/nightly")).status_code == 204
        gone = await client.get("/v1/schedules/nightly")
        assert (gone.status_code, gone.json()["code"]) == (404, "no_such_schedule")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cron": "every night"}, "bad_cron"),
        ({"cron": "0 0 31 2 *"}, "bad_cron"),
        ({"cron": "* * *"}, "bad_cron"),
        ({"cron": ""}, None),
        ({"time_zone": "Mars/Base"}, "bad_time_zone"),
        ({"overlap": "queue"}, None),
        ({"catch_up_s": 5}, None),
        ({"catch_up_s": 1e9}, None),
        ({"name": "A B"}, None),
        ({"spec": {"run": ""}}, "invalid_specification"),
        ({"spec": {"run": "x", "project": "other"}}, "no_such_project"),
        ({"paused": True}, None),
    ],
)
async def test_what_means_nothing_is_refused(scene: Scene, changes: dict[str, Any], code: str | None) -> None:
    body = {"name": "nightly", "cron": "0 3 * * *", "spec": {"run": "#sim"}} | changes
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/schedules", json=body)
        assert answer.status_code in (404, 422), answer.text
        assert code is None or answer.json()["code"] == code
        assert (await client.get("/v1/schedules")).json()["items"] == []
