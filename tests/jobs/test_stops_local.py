"""Running work that stops for other work on this machine: real processes, a real save at the signal, a real bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.proofs import proofs
from dujiang.bootstrap.settings import Settings
from dujiang.engines.contract import Phase
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.local.settings import LocalSettings
from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.settings import JobSettings
from dujiang.jobs.spec import parse
from dujiang.kit.clock import SystemClock
from dujiang.kit.db import Database
from dujiang.kit.objects import open_store
from dujiang.scheduling.domain import Plan, Snapshot, Stop, StopWhy, plan
from dujiang.tenancy.credentials import Passwords
from tests.conftest import JOURNAL_KEY
from tests.factories import FAST_HASHER

WITHIN_S = 60.0
COUNTS = r"""
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["DUJIANG_CHECKPOINT_DIR"])
resume = os.environ.get("DUJIANG_RESUME_FROM")
done = int(pathlib.Path(resume).read_text()) if resume else 0
print("goes on from", done, flush=True)
def save(*_):
    draft = folder / ".draft"
    draft.write_text(str(done))
    draft.rename(folder / f"step-{done}")
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
goal = int(os.environ["DUJIANG_PARAM_STEPS"])
while done < goal:
    time.sleep(0.02)
    done += 1
    print("step", done, flush=True)
"""
"""Counts steps; saves how far it is at the signal alone."""


@dataclass(slots=True)
class Here:
    """The platform over the local engine of this machine, its loops ticked by hand."""

    platform: Platform
    engine: LocalEngine
    clock: SystemClock
    project_id: str
    stops: list[Stop] = field(default_factory=list)

    async def submit(self, document: str) -> Job:
        (spec,) = parse(document)
        async with self.platform.world.db.transaction(cause="test") as tx:
            return await self.platform.jobs.submit(tx, spec, project_id=self.project_id, submitted_by="usr_test")

    async def attempts(self, job: Job) -> list[Attempt]:
        async with self.platform.world.db.reading() as tx:
            return (await self.platform.jobs.attempts(tx, [job.id]))[job.id]

    async def printed(self, attempt: Attempt) -> str:
        return b"".join([chunk.data async for chunk in self.engine.logs(attempt.key)]).decode()

    async def until(self, job: Job, *states: JobState) -> Job:
        deadline = self.clock.monotonic_s() + WITHIN_S
        while self.clock.monotonic_s() < deadline:
            for loop in (self.platform.starting, self.platform.running, self.platform.using):
                await loop.tick()
            async with self.platform.world.db.reading() as tx:
                found = await self.platform.jobs.job(tx, job.id)
            if found.state in states:
                return found
            await self.engine.changed(0.1)
        raise AssertionError(f"the job is still {found.state} ({found.reason}: {found.sentence})")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    clock = SystemClock()
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'here.db'}", clock=clock, journal_key=JOURNAL_KEY, durable=False)
    await db.create_all()
    settings = LocalSettings(node_name="here", reserve_memory_bytes=0, reserve_disk_bytes=0)
    engine = LocalEngine(tmp_path / "engine", clock=clock, settings=settings)
    stops: list[Stop] = []

    def planner(snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        done = plan(snapshot, now, telling=False)
        return Plan(done.starts, (), done.version, stops=tuple(stops))

    world = World(
        db=db, clock=clock, ids=new_ids(clock), objects=open_store(str(tmp_path / "objects"), clock=clock),
        clusters={"local": engine}, door_secret=b"door", cache=tmp_path / "cache", lost_after_s={},
        passwords=Passwords(FAST_HASHER), planner=planner,
    )  # fmt: skip
    platform = Platform(world, Settings(jobs=JobSettings(checkpoint_root=str(tmp_path / "checkpoints"))))
    await platform.install()
    async with db.reading() as tx:
        project_id = (await platform.tenancy.project(tx, "default")).id
    await platform.inventory.tick()
    yield Here(platform, engine, clock, project_id, stops)
    for key in await engine.attempts():
        await engine.cancel(key, grace_s=0.0)
        while (seen := (await engine.observe([key])).get(key)) is not None and seen.phase is not Phase.ENDED:
            await engine.changed(0.1)
    await platform.close()


async def test_low_work_saves_at_its_signal_and_the_next_attempt_counts_on_from_there(
    here: Here, tmp_path: Path
) -> None:
    program = tmp_path / "counts.py"
    program.write_text(COUNTS)
    (node,) = await here.engine.inventory()
    cores = node.cpu_milli / 1000
    low = await here.submit(f"""
name: low
class: low
resources: {{cpu: {cores}, memory: 128MiB}}
run: exec python3 {program}
params: {{steps: 150}}
checkpoint: {{signal: SIGUSR1}}
grace: 20s
""")
    await here.until(low, JobState.RUNNING)
    deadline = here.clock.monotonic_s() + WITHIN_S
    while "step 10\n" not in await here.printed((await here.attempts(low))[0]):
        assert here.clock.monotonic_s() < deadline
        await here.engine.changed(0.1)
    core = await here.submit(f"""
name: core
class: core
resources: {{cpu: {cores}, memory: 128MiB}}
run: echo core work
""")
    here.stops.append(Stop(low.id, StopWhy.PREEMPTED, core.id, 3.5, "Core work needs its place."))
    waiting = await here.until(low, JobState.PENDING)
    here.stops.clear()
    assert (waiting.retries, waiting.created_at) == (0, low.created_at)
    (first,) = await here.attempts(low)
    assert (first.state, first.reason, first.stop_for) == (JobState.PREEMPTED, "Preempted", core.id)
    await here.until(core, JobState.COMPLETED)
    await here.until(low, JobState.COMPLETED)
    first, second = await here.attempts(low)
    (core_attempt,) = await here.attempts(core)
    assert core_attempt.started_at is not None
    assert first.finished_at is not None
    assert first.finished_at <= core_attempt.created_at
    said = (await here.printed(first)).split("\n"), (await here.printed(second)).split("\n")
    last = int([line for line in said[0] if line.startswith("step")][-1].split()[1])
    assert last >= 10
    start = int(said[1][0].removeprefix("goes on from "))
    assert last <= start <= last + 1  # what it was about to print when the signal came
    assert second.resume_from == waiting.resume_from == str(Path(waiting.checkpoint_dir) / f"step-{start}")
    assert [line for line in said[1] if line.startswith("step")] == [f"step {n}" for n in range(start + 1, 151)]
    (rating,) = [loop for loop in here.platform.loops if loop.name == "rating"]
    await rating.tick()
    wanted = proofs(
        db=here.platform.world.db, pool=here.platform.pool, billing=here.platform.billing, audit=here.platform.audit,
        clusters=here.platform.lines,
    )  # fmt: skip
    for proof in wanted:
        found = await proof.prove()
        assert list(found.breaches) == [], proof.name


async def test_a_folder_that_was_named_and_is_not_there_ends_the_job_at_once(here: Here) -> None:
    job = await here.submit("run: echo hello\nworkdir: /not/there\nresources: {cpu: 0.1, memory: 64MiB}\nretry: 3")
    found = await here.until(job, JobState.FAILED)
    (attempt,) = await here.attempts(job)
    assert (found.reason, found.retries, found.started_at, attempt.started_at) == ("Refused", 0, None, None)
    assert "make it before the job starts, or change `workdir`" in found.sentence
    assert attempt.diagnosis is not None
    assert attempt.diagnosis.blame == "user"
