"""The whole platform over a virtual cluster and a clock to turn: for tests that need more than one context.

Loops are ticked by hand, so what happens is the same every time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from dujiang.bootstrap.platform import Platform, World
from dujiang.bootstrap.settings import ClusterSettings, Settings
from dujiang.engines.contract import AttemptKey, Engine
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.domain import Attempt, Job
from dujiang.jobs.loop import Planner
from dujiang.jobs.settings import JobSettings
from dujiang.jobs.spec import parse
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.objects import open_store
from dujiang.scheduling.domain import plan
from dujiang.scheduling.settings import SchedulingSettings
from dujiang.tenancy.credentials import Passwords
from dujiang.tenancy.domain import Role
from tests.factories import FAST_HASHER

SIM = "sim"
NODE = "sim-0001"


@dataclass(slots=True)
class Scene:
    """A platform, its cluster, and one user of each role; the member belongs to `own`, nobody to `other`."""

    platform: Platform
    cluster: Cluster
    clock: ManualClock
    projects: dict[str, str] = field(default_factory=dict)
    """Ids by name: `own`, `other`, `default`."""
    users: dict[Role, str] = field(default_factory=dict)
    tokens: dict[Role, str] = field(default_factory=dict)

    @property
    def db(self) -> Database:
        """Its database."""
        return self.platform.world.db

    def client(self, role: Role | None = Role.ADMIN) -> httpx.AsyncClient:
        """Return a client signed in as the user of that role, or as nobody."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        transport = httpx.ASGITransport(app=self.platform.app, client=("127.0.0.1", 4242), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://dujiang", headers=headers)

    # -- time ------------------------------------------------------------------------------------------------------

    async def turn(self, seconds: float = 1.0) -> dict[str, int]:
        """Let time pass and every loop of jobs tick once; return what they did, counted by name."""
        self.clock.advance(seconds)
        done: dict[str, int] = {}
        platform = self.platform
        for loop in (platform.inventory, platform.starting, platform.running, platform.figures):
            done |= (await loop.tick()).steps
        return done

    async def turns(self, count: int, seconds: float = 1.0) -> None:
        """Turn several times."""
        for _ in range(count):
            await self.turn(seconds)

    async def until(self, job_id: str, *states: str, most: int = 300, seconds: float = 1.0) -> Job:
        """Turn until the job is in one of these states, or has ended when none is given."""
        for _ in range(most):
            job = await self.job(job_id)
            if job.has_ended if not states else str(job.state) in states:
                return job
            await self.turn(seconds)
        raise AssertionError(f"the job is still {job.state} ({job.reason}: {job.sentence})")

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def submit(self, run: str = "#sim", *, project: str = "own", labels: Any = None, **fields: Any) -> Job:
        """Submit a job whose program is told by its text (see `engines.simulated.program`)."""
        document = {"name": "a-job", "run": run, **fields}
        (spec,) = parse(_json(document))
        async with self.db.transaction(actor="user:test", cause="test") as tx:
            return await self.platform.jobs.submit(
                tx, spec, project_id=self.projects[project], submitted_by=self.users[Role.MEMBER], labels=labels
            )

    async def cancel(self, job_id: str, **options: Any) -> Job:
        """Cancel a job."""
        async with self.db.transaction(actor="user:test", cause="test") as tx:
            return await self.platform.jobs.cancel(tx, job_id, **options)

    async def job(self, job_id: str) -> Job:
        """Return a job as it is."""
        async with self.db.reading() as tx:
            return await self.platform.jobs.job(tx, job_id)

    async def attempts(self, job_id: str) -> list[Attempt]:
        """Return its attempts."""
        async with self.db.reading() as tx:
            return (await self.platform.jobs.attempts(tx, [job_id]))[job_id]

    async def told(self, subject: str) -> list[str]:
        """Return the types of the records of a job, in order."""
        return [record.type for record in await self.records(subject)]

    async def records(self, subject: str | None = None) -> list[journal.Record]:
        """Return the records of a job, or all."""
        async with self.db.reading() as tx:
            return await journal.read(tx.connection, subject=subject, limit=1000)

    async def held(self) -> list[AttemptKey]:
        """Return what holds a place."""
        async with self.db.reading() as tx:
            return await self.platform.pool.live(tx)

    def key(self, job: Job, number: int = 1) -> AttemptKey:
        """Return the key of an attempt of a job."""
        return AttemptKey(job.id, number)

    async def proofs(self) -> dict[str, list[dict[str, str]]]:
        """Return the breaches that `dujiang verify` finds, and what it could not look at, by proof."""
        async with self.client() as client:
            checks = (await client.get("/v1/verify")).json()["checks"]
        return {check["name"]: check["breaches"] + check["unseen"] for check in checks if not check["holds"]}


@asynccontextmanager
async def a_scene(
    database: Database, clock: ManualClock, ids: Ids, folder: Path, *, fleet: str = "2x2", seed: int = 7,
    engines: Mapping[str, Engine] | None = None, lost_after_s: float = 10.0, jobs: JobSettings | None = None,
    planner: Planner = plan, scheduling: SchedulingSettings | None = None,
    terms: Mapping[str, ClusterSettings] | None = None,
) -> AsyncIterator[Scene]:  # fmt: skip
    """Build the platform with one virtual cluster, and look at it once.

    Args:
        database: with all tables.
        clock, ids: of the test.
        folder: for objects, caches and checkpoints.
        fleet: what the cluster consists of.
        seed: of the cluster.
        engines: further clusters by name, or another engine in place of the virtual one (`sim`).
        lost_after_s: of every cluster.
        jobs: settings of jobs; the checkpoint root is replaced.
        planner: what decides on starts and stops.
        scheduling: settings of scheduling.
        terms: of clusters, by name.
    """
    cluster = Cluster(parse_fleet(fleet), seed=seed, clock=clock)
    clusters: dict[str, Engine] = {SIM: SimulatedEngine(cluster, sleep=clock.sleep), **(engines or {})}
    world = World(
        db=database, clock=clock, ids=ids, objects=open_store(str(folder / "objects"), clock=clock), clusters=clusters,
        door_secret=b"a secret for tests", cache=folder / "cache", lost_after_s={},
        passwords=Passwords(FAST_HASHER), planner=planner,
    )  # fmt: skip
    chosen = replace(jobs or JobSettings(), checkpoint_root=str(folder / "checkpoints"), lost_after_s=lost_after_s)
    platform = Platform(world, Settings(
        jobs=chosen, scheduling=scheduling or SchedulingSettings(), clusters=dict(terms or {}),
    ))  # fmt: skip
    scene = Scene(platform, cluster, clock)
    await platform.install()
    async with database.transaction() as tx:
        tenancy = platform.tenancy
        for name in ("own", "other"):
            scene.projects[name] = (await tenancy.create_project(tx, name=name)).id
        scene.projects["default"] = (await tenancy.project(tx, "default")).id
        for role in Role:
            user = await tenancy.create_user(tx, name=f"the-{role}", role=role)
            scene.users[role] = user.id
            scene.tokens[role] = (await tenancy.make_token(tx, user.id, name="test"))[1]
        await tenancy.add_member(tx, scene.projects["own"], scene.users[Role.MEMBER])
    await platform.inventory.tick()
    try:
        yield scene
    finally:
        await platform.http.aclose()
        world.objects.close()


def _json(document: Mapping[str, Any] | Sequence[Any]) -> str:
    import json

    return json.dumps(document)
