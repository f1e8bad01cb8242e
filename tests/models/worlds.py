"""A platform with models on it, and hands that do to jobs what an engine would."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from dujiang.engines.contract import Engine
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.simulated import SimulatedEngine, World, parse_fleet
from dujiang.jobs import store as job_store
from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.service import JobService, ended_event
from dujiang.jobs.spec import read
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids
from dujiang.kit.objects import ObjectStore, open_store
from dujiang.kit.outbox import Outbox, Subscription
from dujiang.models.api import router
from dujiang.models.artifacts import Artifacts
from dujiang.models.domain import Deployment, Model, ModelVersion
from dujiang.models.loop import DeploymentLoop, RegistrationLoop
from dujiang.models.predict import Predictor
from dujiang.models.service import DeploymentService, ModelRegistry
from dujiang.models.settings import ModelSettings
from dujiang.pool.service import PoolService
from dujiang.scheduling.service import SchedulingService
from dujiang.telemetry.domain import Point
from dujiang.telemetry.service import Telemetry
from tests.factories import Platform, a_platform, a_tenancy
from tests.models.serving import nets
from tests.pool.worlds import CLUSTER, a_node, a_rank, some_capabilities


class ModelWorld:
    """Everything that models need, on one database and in one folder."""

    def __init__(
        self, db: Database, clock: ManualClock, ids: Ids, folder: Path, http: httpx.AsyncClient, **settings: Any
    ) -> None:
        self.db, self.clock, self.ids, self.folder, self.http = db, clock, ids, folder, http
        chosen = {"python": sys.executable, "cache_folder": folder / "cache", **settings}
        self.settings = ModelSettings(**chosen)
        self.objects: ObjectStore = open_store(str(folder / "objects"), clock=clock)
        self.pool, self.telemetry = PoolService(ids), Telemetry()
        self.jobs = JobService(ids=ids, pool=self.pool, scheduling=SchedulingService())
        self.artifacts = Artifacts(self.objects, self.settings)
        self.registry = ModelRegistry(ids=ids, jobs=self.jobs, telemetry=self.telemetry)
        self.deployments = DeploymentService(ids=ids, jobs=self.jobs, settings=self.settings)
        self.engine = LocalEngine(folder / "engine", clock=clock)
        virtual = SimulatedEngine(World(parse_fleet("1x1"), seed=7, clock=clock))
        self.clusters: dict[str, Engine] = {CLUSTER: self.engine, "virtual": virtual}
        self.registration = RegistrationLoop(
            db=db, clock=clock, registry=self.registry, jobs=self.jobs, artifacts=self.artifacts,
            clusters=self.clusters, settings=self.settings,
        )  # fmt: skip
        self.deploying = DeploymentLoop(
            db=db, clock=clock, deployments=self.deployments, artifacts=self.artifacts, http=http,
            settings=self.settings,
        )  # fmt: skip
        subscription = Subscription("models", frozenset({"JobEnded"}), self.registry.job_ended)
        self.outbox = Outbox(db, [subscription])
        self.platform: Platform | None = None
        self.project_id = "prj_own"

    async def prepare(self) -> None:
        """Give it a node to place jobs on, and people."""
        tenancy = a_tenancy(self.db, self.clock, self.ids)
        predictor = Predictor(self.http, within_s=self.settings.predict_within_s)
        routes = router(self.registry, self.deployments, self.artifacts, predictor, tenancy)
        self.platform = await a_platform(self.db, self.clock, self.ids, routers=[routes])
        self.project_id = self.platform.projects["own"]
        async with self.db.transaction() as tx:
            await self.pool.sync(tx, CLUSTER, some_capabilities(), [a_node(devices=1)])

    @property
    def app(self) -> Platform:
        """Its API."""
        assert self.platform is not None
        return self.platform

    def output_of(self, job_id: str) -> Path:
        """Return the output folder of a job's first attempt, where the local engine has it."""
        return self.folder / "engine" / "attempts" / job_id / "1" / "output"

    async def train(
        self, file: Path | bytes | None = None, *, model: str = "digits", path: str = "model.onnx",
        metrics: Mapping[str, float] | None = None, facts: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None, state: JobState = JobState.COMPLETED, read_all: bool = True,
        project_id: str | None = None, cluster: str = CLUSTER,
    ) -> Job:  # fmt: skip
        """Submit a job that makes a model and let it end; its output folder holds the file, a small net by default."""
        document = {
            "name": "train", "run": "python train.py", "params": {"learning_rate": 0.1, "layers": 2},
            "outputs": {"model": {"name": model, "path": path}}, "labels": dict(labels or {}),
        }  # fmt: skip
        async with self.db.transaction() as tx:
            job = await self.jobs.submit(
                tx, read(document), project_id=project_id or self.project_id, submitted_by="usr_ann"
            )
        output = self.output_of(job.id)
        output.mkdir(parents=True)
        if file is None:
            nets.mlp(output / "model.onnx", seed=len(list(output.parents[2].iterdir())))
        elif isinstance(file, bytes):
            (output / "model.onnx").write_bytes(file)
        attempt = await self.start(job.id, facts=facts, cluster=cluster)
        async with self.db.transaction() as tx:
            points = [Point(name, 1, value) for name, value in (metrics or {"accuracy": 0.97}).items()]
            await self.telemetry.record(tx, job.id, attempt.number, points)
        return await self.end(job.id, state, read_all=read_all)

    async def start(
        self, job_id: str, *, ports: tuple[int, ...] = (), facts: Mapping[str, Any] | None = None,
        cluster: str = CLUSTER,
    ) -> Attempt:  # fmt: skip
        """Let the next attempt of a job run."""
        async with self.db.transaction() as tx:
            job = (await job_store.lock_jobs(tx, [job_id]))[job_id]
            running = replace(
                job, state=JobState.RUNNING, reason="Started", waits=False, attempt=job.attempt + 1, started_at=tx.now
            )
            attempt = Attempt(
                job_id, running.attempt, job.project_id, JobState.RUNNING, "Started", cluster, (a_rank(),), tx.now,
                started_at=tx.now, host="127.0.0.1", ports=ports, facts=facts or {},
            )  # fmt: skip
            await job_store.update_jobs(tx, [running])
            await job_store.insert_attempts(tx, [attempt])
        return attempt

    async def end(
        self, job_id: str, state: JobState = JobState.CANCELLED, *, reason: str = "Ended", read_all: bool = True,
        retry: bool = False,
    ) -> Job:  # fmt: skip
        """Let a job's attempt end, and the job with it unless it is tried again."""
        async with self.db.transaction() as tx:
            job = (await job_store.lock_jobs(tx, [job_id]))[job_id]
            attempts = (await job_store.attempts_of(tx, [job_id])).get(job_id, [])
            over = [
                replace(one, state=state, reason=reason, finished_at=tx.now, figures_complete=read_all)
                for one in attempts[-1:]
            ]
            await job_store.update_attempts(tx, over)
            if retry:
                ended = replace(job, state=JobState.PENDING, reason="Retrying", waits=True)
            else:
                ended = replace(job, state=state, reason=reason, waits=False, finished_at=tx.now)
                tx.emit(ended_event(ended))
            await job_store.update_jobs(tx, [ended])
        return ended

    async def register(self, **train: Any) -> ModelVersion:
        """Train, and let the version become what it becomes."""
        job = await self.train(**train)
        await self.outbox.tick()
        await self.registration.tick()
        return await self.version_of(job)

    async def version_of(self, job: Job) -> ModelVersion:
        """Return the version that a job made."""
        async with self.db.reading() as tx:
            for model in await self.registry.models(tx, [job.project_id]):
                for version in await self.registry.versions(tx, model.model):
                    if version.job_id == job.id:
                        return version
        raise AssertionError("the job made no version")

    async def model(self, name: str = "digits") -> Model:
        """Return a model."""
        async with self.db.reading() as tx:
            return await self.registry.model(tx, name, None)

    async def deployment(self, name: str = "digits") -> Deployment:
        """Return a deployment."""
        async with self.db.reading() as tx:
            return await self.deployments.deployment(tx, name, None)

    async def job(self, job_id: str) -> Job:
        """Return a job."""
        async with self.db.reading() as tx:
            return await self.jobs.job(tx, job_id)

    async def told(self, *types: str) -> list[journal.Record]:
        """Return the records of these kinds, in order."""
        async with self.db.reading() as tx:
            return await journal.read(tx.connection, types=types, limit=500)


@asynccontextmanager
async def a_model_world(
    db: Database, clock: ManualClock, ids: Ids, folder: Path, **settings: Any
) -> AsyncIterator[ModelWorld]:
    """Open a world with everything in place."""
    async with httpx.AsyncClient(trust_env=False) as http:
        w = ModelWorld(db, clock, ids, folder, http, **settings)
        await w.prepare()
        try:
            yield w
        finally:
            w.objects.close()
