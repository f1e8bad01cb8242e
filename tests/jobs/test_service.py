"""The door to jobs, on both databases: submit, cancel, look."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from sqlalchemy import text

from dujiang.jobs.domain import JobEndedAlready, JobState, NoSuchAttempt, NoSuchJob
from dujiang.jobs.service import JobFilter
from dujiang.jobs.spec import SpecInvalid, parse
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.scheduling.domain import ImpossibleRequest, Quota
from dujiang.tenancy.domain import Role
from tests.platforms import Scene, a_scene

WHOLE = {"gpu": {"count": 2}}
SECRET = "hush-7f3a"


async def dump(database: Database) -> str:
    """Return everything that stands in the database, as text."""
    async with database.reading() as tx:
        if database.is_sqlite:
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        else:
            query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        names = [row[0] for row in await tx.connection.execute(text(query))]
        lines: list[str] = []
        for name in names:
            rows = await tx.connection.execute(text(f"SELECT * FROM {name}"))
            lines += [f"{name} {tuple(row)}" for row in rows]
        return "\n".join(lines)


# -- submit ------------------------------------------------------------------------------------------------------------


async def test_a_new_job_waits_and_its_record_says_who_and_what(both: Scene) -> None:
    job = await both.submit("echo hi", labels={"from": "test"}, **{"class": "core", "weight": 0.9})
    assert (job.state, job.reason, job.waits, job.attempt) == (JobState.PENDING, "Queued", True, 0)
    stored = await both.job(job.id)
    assert stored == job
    (record,) = await both.records(job.id)
    assert (record.type, record.actor, record.project_id) == ("JobSubmitted", "user:test", both.projects["own"])
    assert record.payload == {
        "name": "a-job", "kind_": "task", "task_class": "core", "weight_milli": 900,
        "submitted_by": both.users[Role.MEMBER],
    }  # fmt: skip


async def test_a_job_comes_back_as_it_went_in(both: Scene) -> None:
    job = await both.submit(
        "cat <<'X'\n\t'\"\\ é 水 \U0001f600\nX", nodes=2, setup="true", env={"A": "1\n2", "B": ""}, workdir="/data",
        params={"lr": 0.1, "deep": True, "name": "é"}, checkpoint={"interval": "10m", "signal": "SIGUSR1"},
        retry={"limit": 2, "on": ["user", "unknown"]}, time_limit="1h", grace="1m", ports=2, kind="service",
        inputs=[{"name": "d", "path": "x"}], outputs={"model": {"name": "m", "path": "m.onnx"}},
        resources={"gpu": {"fraction": 0.25}, "cpu": 0.5, "memory": "1500MiB", "disk": "1GiB"},
        labels={"a": "b"}, secrets={"TOKEN": {"value": SECRET}},
    )  # fmt: skip
    stored = await both.job(job.id)
    assert stored.spec.document() == job.spec.document()
    assert stored.labels == {"a": "b"}
    assert stored.checkpoint_dir.endswith(f"/checkpoints/{job.id}")


async def test_labels_of_the_platform_stand_over_those_of_the_job(scene: Scene) -> None:
    async with scene.db.transaction() as tx:
        (spec,) = parse("name: x\nrun: y\nlabels: {a: theirs, b: theirs}\n")
        job = await scene.platform.jobs.submit(
            tx, spec, project_id=scene.projects["own"], submitted_by="u", labels={"a": "ours"}
        )
    assert (await scene.job(job.id)).labels == {"a": "ours", "b": "theirs"}


async def test_a_batch_is_taken_whole_or_not_at_all(both: Scene) -> None:
    specs = parse("[{name: one, run: a}, {name: two, run: b}, {name: three, run: c, resources: {cpu: 9999}}]")
    own, other = both.projects["own"], both.projects["other"]
    with pytest.raises(ImpossibleRequest):
        async with both.db.transaction() as tx:
            await both.platform.jobs.submit_many(tx, specs, project_ids=[own, own, own], submitted_by="u")
    async with both.db.reading() as tx:
        assert await both.platform.jobs.jobs(tx, JobFilter()) == []
    async with both.db.transaction() as tx:
        made = await both.platform.jobs.submit_many(tx, specs[:2], project_ids=[own, other], submitted_by="u")
        assert await both.platform.jobs.submit_many(tx, [], project_ids=[], submitted_by="u") == []
    assert [(job.name, job.project_id) for job in made] == [("one", own), ("two", other)]
    assert [job.id for job in made] == sorted(job.id for job in made)
    for job in made:
        assert await both.told(job.id) == ["JobSubmitted"]


@pytest.mark.parametrize(
    ("fields", "largest", "words"),
    [
        ({"resources": {"gpu": {"count": 3}}}, {"gpu_milli": 2000}, "the largest possible is 2"),
        ({"resources": {"gpu": {"count": 1, "model": "A100"}}}, {}, "There is no device of the kind asked for (A100)"),
        ({"resources": {"gpu": {"count": 1, "memory": "96GiB"}}}, {"gpu_memory_bytes": 80 * 2**30}, "has 80GiB"),
        ({"resources": {"cpu": 129}}, {"cpu_milli": 128_000}, "the largest possible is 128"),
        ({"resources": {"memory": "2TiB"}}, {"memory_bytes": 2**40}, "the largest possible is 1TiB"),
        ({"resources": WHOLE, "nodes": 3}, {"ranks": 2}, "the largest possible is 2"),
        ({"nodes": 10_000}, {"ranks": 256}, "the largest possible is 256"),
    ],
)
async def test_what_the_pool_could_never_hold_is_refused_with_the_largest_possible(
    scene: Scene, fields: dict[str, object], largest: dict[str, int], words: str
) -> None:
    with pytest.raises(ImpossibleRequest) as refused:
        await scene.submit("true", **fields)
    assert words in refused.value.sentence
    told = refused.value.facts["largest"]
    assert {name: told[name] for name in largest} == largest
    assert await scene.held() == []


async def test_what_fits_only_on_a_closed_node_is_taken_and_waits(scene: Scene) -> None:
    async with scene.db.transaction() as tx:
        for node in ("sim-0001", "sim-0002"):
            await scene.platform.pool.cordon(tx, node, "night")
    job = await scene.submit("#sim", resources=WHOLE)
    await scene.turn()
    assert (await scene.job(job.id)).reason == "NodeUnavailable"


async def test_beyond_the_quota_is_refused_and_within_it_waits_for_room(both: Scene) -> None:
    async with both.db.transaction() as tx:
        await both.platform.scheduling.set_quota(tx, both.projects["own"], Quota(gpu_milli=2000))
    with pytest.raises(ImpossibleRequest, match="the quota of its project is 2"):
        await both.submit("true", resources=WHOLE, nodes=2)
    first = await both.submit("#sim duration=5", resources=WHOLE)
    second = await both.submit("#sim duration=5", resources=WHOLE)
    elsewhere = await both.submit("#sim duration=5", resources=WHOLE, project="other")
    await both.until(first.id, "RUNNING")
    assert (await both.job(second.id)).reason == "QuotaExceeded"
    assert (await both.job(elsewhere.id)).attempt == 1
    assert (await both.until(second.id)).state is JobState.COMPLETED


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_a_secret_is_kept_only_as_long_as_it_is_needed_and_shown_nowhere(both: Scene) -> None:
    with structlog.testing.capture_logs() as logged:
        job = await both.submit("#sim duration=3 exit=1", secrets={"TOKEN": {"value": SECRET}})
        assert job.spec.document()["secrets"] == {"TOKEN": {"variable": "TOKEN"}}
        kept = [line for line in (await dump(both.db)).splitlines() if SECRET in line]
        assert [line.split()[0] for line in kept] == ["job_secrets"]
        await both.until(job.id, "RUNNING")
        launch = both.cluster.find(both.key(job)).launch  # type: ignore[union-attr]
        assert launch.secrets == {"TOKEN": SECRET}
        assert SECRET not in str(dict(launch.env))
        await both.until(job.id)
        await both.turns(2)
    assert SECRET not in await dump(both.db)
    assert SECRET not in str(logged)
    async with both.client() as client:
        for path in (f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/explain", "/v1/jobs?all=true", "/v1/audit"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert SECRET not in answer.text


async def test_a_secret_outlives_a_retry_and_ends_with_a_cancel_in_each_state(both: Scene) -> None:
    fields = {"secrets": {"TOKEN": {"value": SECRET}}, "retry": {"limit": 3}}
    waiting = await both.submit("#sim", nodes=2, resources=WHOLE, **fields)
    retried = await both.submit("#sim duration=1000", **fields)
    await both.cancel(waiting.id)
    await both.until(retried.id, "RUNNING")
    both.cluster.kill(both.key(retried))
    await both.until(retried.id, "PENDING")
    await both.until(retried.id, "RUNNING")
    assert both.cluster.find(both.key(retried, 2)).launch.secrets == {"TOKEN": SECRET}  # type: ignore[union-attr]
    await both.cancel(retried.id)
    await both.until(retried.id)
    assert SECRET not in await dump(both.db)


async def test_a_secret_that_is_still_a_reference_is_refused_with_what_to_do(scene: Scene) -> None:
    with pytest.raises(SpecInvalid) as refused:
        await scene.submit("true", secrets={"TOKEN": "${MY_TOKEN}", "KEY": {"file": "key.pem"}})
    assert [problem.path for problem in refused.value.problems] == ["secrets.TOKEN", "secrets.KEY"]
    assert "dujiang submit" in refused.value.sentence


# -- cancel ------------------------------------------------------------------------------------------------------------


async def test_one_that_waits_ends_at_once_and_cannot_be_cancelled_again(both: Scene) -> None:
    job = await both.submit("#sim", resources=WHOLE)
    ended = await both.cancel(job.id)
    assert (ended.state, ended.reason, ended.waits) == (JobState.CANCELLED, "Cancelled", False)
    assert (ended.finished_at, ended.exit_code, ended.attempt) == (both.clock.now(), None, 0)
    assert await both.told(job.id) == ["JobSubmitted", "JobCancelAsked", "JobEnded"]
    with pytest.raises(JobEndedAlready, match="CANCELLED already"):
        await both.cancel(job.id)
    assert len(await both.records(job.id)) == 3
    await both.turns(2)
    assert await both.attempts(job.id) == []


async def test_the_reason_of_a_cancel_is_kept(scene: Scene) -> None:
    waiting = await scene.submit("#sim", resources=WHOLE)
    assert (await scene.cancel(waiting.id, reason="DeploymentRemoved")).reason == "DeploymentRemoved"
    running = await scene.submit("#sim duration=1000")
    await scene.until(running.id, "RUNNING")
    await scene.cancel(running.id, reason="DeploymentRemoved")
    ended = await scene.until(running.id)
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "DeploymentRemoved")
    assert (await scene.attempts(running.id))[0].reason == "DeploymentRemoved"


@pytest.mark.parametrize("run", ["#sim duration=1", "#sim exit=1", "#sim duration=9", "#sim memory=99GiB"])
async def test_what_has_ended_cannot_be_cancelled(scene: Scene, run: str) -> None:
    job = await scene.submit(run, time_limit="5s", grace="1s")
    ended = await scene.until(job.id)
    with pytest.raises(JobEndedAlready):
        await scene.cancel(job.id)
    assert await scene.job(job.id) == ended


async def test_what_is_not_there(both: Scene) -> None:
    for ident in ("job_nobody", "", "'; DROP TABLE jobs; --", "é" * 5000):
        with pytest.raises(NoSuchJob):
            await both.cancel(ident)
        with pytest.raises(NoSuchJob):
            await both.job(ident)
        async with both.db.reading() as tx:
            assert await both.platform.jobs.find_job(tx, ident) is None
            assert await both.platform.jobs.attempts(tx, [ident]) == {ident: []}


# -- look --------------------------------------------------------------------------------------------------------------


async def test_the_queue_is_by_weight_then_age_and_positions_are_the_same_told_one_by_one(both: Scene) -> None:
    made = []
    for name in ("low", "core", "normal", "normal", "core"):
        made.append(await both.submit("#sim", nodes=2, resources=WHOLE, **{"class": name}))
        if name != "normal":  # two of one moment
            both.clock.advance(1)
    twin = await both.submit("#sim", nodes=2, resources=WHOLE, project="other", **{"class": "normal"})
    order = [made[1], made[4], made[2], made[3], twin, made[0]]
    async with both.db.reading() as tx:
        jobs = both.platform.jobs
        assert [(n, job.id) for n, job in await jobs.queue(tx)] == [(n, job.id) for n, job in enumerate(order, 1)]
        assert [await jobs.position(tx, await jobs.job(tx, job.id)) for job in order] == [1, 2, 3, 4, 5, 6]
        own = await jobs.queue(tx, [both.projects["other"]])
        assert [(n, job.id) for n, job in own] == [(5, twin.id)]
        assert await jobs.queue(tx, []) == []
    await both.cancel(made[1].id)
    async with both.db.reading() as tx:
        assert await both.platform.jobs.position(tx, await both.platform.jobs.job(tx, twin.id)) == 4
        assert await both.platform.jobs.position(tx, await both.platform.jobs.job(tx, made[1].id)) is None


async def test_jobs_are_found_by_project_state_name_and_in_pages(both: Scene) -> None:
    ended = await both.submit("#sim duration=1")
    await both.until(ended.id)
    running = await both.submit("#sim duration=forever")
    await both.until(running.id, "RUNNING")
    waiting = await both.submit("#sim", nodes=2, resources=WHOLE, project="other")
    named = await both.submit("#sim", nodes=2, resources=WHOLE, name="named")
    find = both.platform.jobs.jobs
    async with both.db.reading() as tx:
        everything = [named, waiting, running, ended]
        for wanted, found in (
            (JobFilter(), everything),
            (JobFilter(live=True), everything[:3]),
            (JobFilter(live=False), [ended]),
            (JobFilter(states=[JobState.RUNNING]), [running]),
            (JobFilter(states=[JobState.PENDING, JobState.COMPLETED]), [named, waiting, ended]),
            (JobFilter(states=[]), []),
            (JobFilter(project_ids=[both.projects["other"]]), [waiting]),
            (JobFilter(project_ids=[]), []),
            (JobFilter(name="named"), [named]),
            (JobFilter(name="name"), []),
            (JobFilter(name="named", states=[JobState.RUNNING]), []),
        ):
            assert [job.id for job in await find(tx, wanted)] == [job.id for job in found], wanted
        page = await find(tx, JobFilter(), limit=2)
        assert [job.id for job in page] == [named.id, waiting.id]
        assert [job.id for job in await find(tx, JobFilter(), before=page[-1].id, limit=2)] == [running.id, ended.id]
        assert await both.platform.jobs.count_by_state(tx) == {"RUNNING": 1, "PENDING": 2}
        assert await both.platform.jobs.live_keys(tx) == [both.key(running)]
        assert set(await both.platform.jobs.jobs_of(tx, [named.id, "job_nobody"])) == {named.id}


async def test_an_attempt_is_named_by_number_or_is_the_latest(scene: Scene) -> None:
    job = await scene.submit("#sim exit=1", retry={"limit": 1, "on": ["unknown"]}, nodes=2)
    async with scene.db.reading() as tx:
        assert await scene.platform.jobs.attempt(tx, job, None) is None
        with pytest.raises(NoSuchAttempt, match="has had 0 attempts"):
            await scene.platform.jobs.attempt(tx, job, 1)
    await scene.until(job.id)
    async with scene.db.reading() as tx:
        latest = await scene.platform.jobs.attempt(tx, job, None, 1)
        first = await scene.platform.jobs.attempt(tx, job, 1)
        assert latest is not None
        assert first is not None
        assert (latest.number, first.number) == (2, 1)
        with pytest.raises(NoSuchAttempt, match="there is no attempt 3"):
            await scene.platform.jobs.attempt(tx, job, 3)
        with pytest.raises(NoSuchAttempt, match="there is no rank 2"):
            await scene.platform.jobs.attempt(tx, job, None, 2)


async def test_loops_are_woken_after_the_commit_and_not_when_it_is_undone(scene: Scene) -> None:
    woken: list[str] = []
    scene.platform.jobs.on_change(lambda: woken.append("now"))
    with pytest.raises(ImpossibleRequest):
        await scene.submit("true", resources={"cpu": 9999})
    assert woken == []
    (spec,) = parse("name: x\nrun: y\n")
    async with scene.db.transaction() as tx:
        await scene.platform.jobs.submit(tx, spec, project_id=scene.projects["own"], submitted_by="u")
        assert woken == []
    assert woken == ["now"]


async def test_jobs_and_attempts_outlive_a_restart(
    database: Database, clock: ManualClock, ids: Ids, tmp_path: Path
) -> None:
    """Another platform on the same database and cluster goes on where the first was cut off."""
    async with a_scene(database, clock, ids, tmp_path) as scene:
        running = await scene.submit("#sim duration=10")
        waiting = await scene.submit("#sim duration=2", resources=WHOLE, nodes=2)
        await scene.until(running.id, "RUNNING")
        before = await scene.job(running.id)
        again = type(scene.platform)(scene.platform.world, scene.platform.settings)
        scene.platform, old = again, scene.platform
        await old.http.aclose()
        assert await scene.job(running.id) == before
        assert (await scene.until(running.id)).state is JobState.COMPLETED
        assert (await scene.until(waiting.id)).state is JobState.COMPLETED
        assert scene.cluster.truth.started_twice() == []
        assert await scene.proofs() == {}
