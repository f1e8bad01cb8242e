"""Every object of a running platform, by name, and who hears what. Nothing here decides anything."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from fastapi import FastAPI

from dujiang.api import stream
from dujiang.api import verify as verify_api
from dujiang.api.app import create_app
from dujiang.billing import api as billing_api
from dujiang.billing.service import BillingService
from dujiang.bootstrap.housekeeping import Gauges, Housekeeping
from dujiang.bootstrap.proofs import proofs
from dujiang.bootstrap.quoting import price_of
from dujiang.bootstrap.settings import Settings
from dujiang.bootstrap.views import explained, placed
from dujiang.engines.contract import Engine
from dujiang.engines.lines import Lines
from dujiang.health import api as health_api
from dujiang.health.diagnose import Diagnoser
from dujiang.health.signatures import Library, load_folder, load_shipped
from dujiang.jobs import api as jobs_api
from dujiang.jobs import converting_api, looking_api, moves_api, schedule_api, scoring_api
from dujiang.jobs.checkpoints import find_checkpoint, saved_at
from dujiang.jobs.diagnosis import Diagnose
from dujiang.jobs.domain import Site
from dujiang.jobs.looking import Live
from dujiang.jobs.loop import (
    AttemptLoop,
    FigureLoop,
    Outlook,
    Planner,
    RescoreLoop,
    StartLoop,
    SweepLoop,
    UseBook,
    UseLoop,
)
from dujiang.jobs.loop.defragmenting import DefragmentLoop
from dujiang.jobs.loop.scheduled import ScheduleLoop
from dujiang.jobs.promising import Promises
from dujiang.jobs.schedules import ScheduleService
from dujiang.jobs.service import JobService
from dujiang.jobs.trying import Trials
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database, Tx
from dujiang.kit.ids import Ids
from dujiang.kit.journal import Record
from dujiang.kit.loop import Lanes, Loop, TickReport
from dujiang.kit.metrics import Metrics
from dujiang.kit.objects import ObjectStore
from dujiang.kit.outbox import Outbox, Subscription
from dujiang.models import api as models_api
from dujiang.models.artifacts import Artifacts
from dujiang.models.loop import DeploymentLoop, RegistrationLoop
from dujiang.models.predict import Predictor
from dujiang.models.service import DeploymentService, ModelRegistry
from dujiang.models.settings import ModelSettings
from dujiang.pool import accounts_api, reservations_api
from dujiang.pool import api as pool_api
from dujiang.pool.domain import Terms
from dujiang.pool.loop import InventoryLoop
from dujiang.pool.reserving import Reservations
from dujiang.pool.service import PoolService
from dujiang.scheduling import api as scheduling_api
from dujiang.scheduling import queues_api
from dujiang.scheduling.domain import plan
from dujiang.scheduling.service import SchedulingService
from dujiang.telemetry import api as telemetry_api
from dujiang.telemetry.service import Telemetry
from dujiang.tenancy.access import Door
from dujiang.tenancy.api import router as tenancy_router
from dujiang.tenancy.audit import Audit
from dujiang.tenancy.credentials import Passwords
from dujiang.tenancy.service import Tenancy

_SHORT_REST_S = 0.01
"""Of the loops that start and end work: what happens in this time, starts and ends of short jobs, is seen together."""
_REST_S = 0.1
"""Of the loops that nobody waits for: without it a thousand short jobs make them tick thousands of times."""


@dataclass(frozen=True, slots=True)
class World:
    """What a platform is built on, real or simulated."""

    db: Database
    clock: Clock
    ids: Ids
    objects: ObjectStore
    clusters: Mapping[str, Engine]
    door_secret: bytes
    cache: Path
    """Folder for copies of artifacts that services read."""
    lost_after_s: Mapping[str, float]
    """By cluster, where its view cannot lag as long as `jobs.lost_after_s` allows for."""
    passwords: Passwords | None = None
    diagnose: Diagnose | None = None
    """None takes the signatures that come with the platform."""
    planner: Planner = plan
    """What decides on starts and stops."""
    http: httpx.AsyncClient | None = None
    """For asking services; None makes one."""


class Platform:
    """The platform."""

    def __init__(self, world: World, settings: Settings) -> None:
        db, clock, ids = world.db, world.clock, world.ids
        rhythm = settings.loops
        self.world, self.settings, self.metrics = world, settings, Metrics()
        self.lines = clusters = Lines(
            world.clusters, clock=clock, within_s=settings.pool.answer_within_s, heard=self._heard,
            news=self._wake_cluster,
        )  # fmt: skip
        self.http = world.http or httpx.AsyncClient(
            trust_env=False, limits=httpx.Limits(max_connections=1000, max_keepalive_connections=200)
        )

        self.tenancy = Tenancy(db=db, clock=clock, ids=ids, passwords=world.passwords)
        self.audit = Audit(db)
        self.pool = PoolService(ids, settings.pool, _terms(settings), world.clusters)
        self.reservations = Reservations(ids, self.pool)
        self.scheduling = SchedulingService(self.pool, settings.scheduling, currency=settings.billing.currency)
        self.telemetry = Telemetry()
        promises = Promises(
            outlook=Outlook(pool=self.pool, scheduling=self.scheduling), scheduling=self.scheduling
        )  # fmt: skip
        self.jobs = JobService(
            ids=ids, pool=self.pool, scheduling=self.scheduling, settings=settings.jobs, promises=promises
        )
        self.schedules = ScheduleService(ids=ids, jobs=self.jobs, tenancy=self.tenancy)
        model_settings = ModelSettings(python=sys.executable, cache_folder=world.cache)
        self.artifacts = Artifacts(world.objects, model_settings)
        self.registry = ModelRegistry(ids=ids, jobs=self.jobs, telemetry=self.telemetry)
        self.deployments = DeploymentService(ids=ids, jobs=self.jobs, settings=model_settings)
        self.predictor = Predictor(self.http, within_s=model_settings.predict_within_s)
        self.billing = BillingService(ids, self.pool, settings.billing)
        outlook = Outlook(pool=self.pool, scheduling=self.scheduling)
        self.live = Live(db=db, clock=clock, outlook=outlook, scheduling=self.scheduling)
        self.trials = Trials(
            db=db, pool=self.pool, live=self.live, price=partial(price_of, self.billing), scheduling=self.scheduling,
        )  # fmt: skip

        starting = StartLoop(
            db=db, pool=self.pool, scheduling=self.scheduling, clock=clock, settings=settings.jobs,
            wake=self._wake_attempts, planner=world.planner,
        )  # fmt: skip
        running = AttemptLoop(
            db=db, pool=self.pool, tenancy=self.tenancy, clusters=clusters,
            diagnose=world.diagnose or Diagnoser(_signatures(settings)), clock=clock, settings=settings.jobs,
            lost_after_s=world.lost_after_s, find_checkpoint=find_checkpoint, wake=self._wake_after_end,
            sites=_sites(world, settings),
        )  # fmt: skip
        inventory = InventoryLoop(
            db=db, pool=self.pool, reservations=self.reservations, clusters=clusters, clock=clock,
            wake=self._wake_start, notes=running.note,
        )  # fmt: skip
        figures = FigureLoop(db=db, telemetry=self.telemetry, clusters=clusters)
        book = UseBook()
        using = UseLoop(
            db=db, clusters=clusters, clock=clock, settings=settings.jobs, book=book, saved_at=saved_at
        )  # fmt: skip
        rescoring = RescoreLoop(db=db, settings=settings.jobs, book=book, wake=self._wake_attempts)
        defragmenting = DefragmentLoop(
            db=db, pool=self.pool, live=self.live, settings=settings.scheduling, wake=self._wake_attempts
        )
        sweep = SweepLoop(db=db, clusters=clusters, clock=clock)
        scheduled = ScheduleLoop(db=db, schedules=self.schedules)
        registration = RegistrationLoop(
            db=db, clock=clock, registry=self.registry, jobs=self.jobs, artifacts=self.artifacts,
            clusters=clusters, settings=model_settings,
        )  # fmt: skip
        deployment = DeploymentLoop(
            db=db, clock=clock, deployments=self.deployments, artifacts=self.artifacts, http=self.http,
            settings=model_settings,
        )  # fmt: skip
        housekeeping = Housekeeping(db=db, tenancy=self.tenancy, registry=self.registry, objects=world.objects)
        gauges = Gauges(db=db, metrics=self.metrics, jobs=self.jobs, pool=self.pool)
        self.outbox = Outbox(
            db,
            [Subscription("models.job_ended", frozenset({"JobStarted", "JobEnded"}), self._models_hear)],
        )

        def each(look: Callable[[str], Awaitable[TickReport]]) -> dict[str, Callable[[], Awaitable[TickReport]]]:
            return {name: partial(look, name) for name in clusters}

        self.inventory = Lanes("inventory", each(inventory.look), every_s=rhythm.inventory_s)
        self.starting = Loop("start", starting.tick, every_s=rhythm.start_s, rest_s=_SHORT_REST_S)
        self.running = Lanes("attempts", each(running.look), every_s=rhythm.attempts_s, rest_s=_SHORT_REST_S)
        self.figures = Lanes("figures", each(figures.look), every_s=rhythm.figures_s, rest_s=_REST_S)
        self.using = Lanes("use", each(using.look), every_s=rhythm.use_s)
        self.rescoring = Loop("rescore", rescoring.tick, every_s=rhythm.rescore_s)
        self.defragmenting = Loop("defragment", defragmenting.tick, every_s=rhythm.defragment_s)
        self.scheduled = Loop("schedules", scheduled.tick, every_s=rhythm.schedules_s, rest_s=_REST_S)
        self.models = (
            Loop("registration", registration.tick, every_s=rhythm.models_s, rest_s=_REST_S),
            Loop("deployments", deployment.tick, every_s=rhythm.models_s, rest_s=_REST_S),
        )
        self.loops = (
            self.inventory,
            self.starting,
            self.running,
            self.figures,
            self.using,
            self.rescoring,
            self.defragmenting,
            self.scheduled,
            Lanes("sweep", each(sweep.look), every_s=rhythm.sweep_s),
            Loop("strangers", sweep.strangers, every_s=rhythm.sweep_s),
            Loop("reservations", inventory.turn, every_s=rhythm.inventory_s),
            Loop("answers", self.lines.tick, every_s=rhythm.answers_s),
            *self.outbox.loops(every_s=rhythm.outbox_s, rest_s=_REST_S),
            *self.models,
            Loop("rating", partial(_rate, db, self.billing), every_s=rhythm.rating_s),
            Loop("housekeeping", housekeeping.tick, every_s=rhythm.housekeeping_s),
            Loop("gauges", gauges.tick, every_s=rhythm.gauges_s),
        )
        self.jobs.on_change(self._wake_start)
        self.jobs.on_change(self._wake_attempts)

        self.door = Door(db, self.tenancy, world.door_secret)
        self.app = self._app()

    async def install(self) -> str:
        """Give a new platform its first administrator, project and prices; return a token for this account."""
        async with self.world.db.transaction(cause="start") as tx:
            await self.billing.install_defaults(tx)
            _, token = await self.tenancy.ensure_first_admin(tx)
        return token

    async def close(self) -> None:
        """Let go of what was opened; what runs goes on."""
        for line in self.lines.values():
            await line.close()
        if self.world.http is None:
            await self.http.aclose()
        self.world.objects.close()
        await self.world.db.close()

    def _app(self) -> FastAPI:
        world, tenancy = self.world, self.tenancy
        db, clock, clusters = world.db, world.clock, self.lines
        routers = (
            tenancy_router(tenancy, self.audit),
            pool_api.router(self.pool, tenancy),
            accounts_api.router(self.pool, clusters),
            reservations_api.router(self.reservations, tenancy),
            scheduling_api.router(self.scheduling, tenancy, self.pool),
            queues_api.router(self.scheduling, tenancy, self.pool, self.jobs.named_queues),
            jobs_api.router(self.jobs, tenancy, db=db, clusters=clusters, clock=clock),
            scoring_api.router(self.jobs, tenancy),
            schedule_api.router(self.schedules, tenancy),
            converting_api.router(),
            telemetry_api.router(self.telemetry, partial(placed, self.jobs)),
            looking_api.router(self.jobs, tenancy, live=self.live, trials=self.trials),
            moves_api.router(self.settings.scheduling),
            health_api.router(partial(explained, self.jobs), self.live.explain, tenancy),
            models_api.router(self.registry, self.deployments, self.artifacts, self.predictor, tenancy),
            billing_api.router(self.billing, tenancy),
            stream.router(db, clock),
            verify_api.router(
                proofs(db=db, pool=self.pool, billing=self.billing, audit=self.audit, clusters=clusters)
            ),
        )  # fmt: skip
        return create_app(routers, door=self.door, metrics=self.metrics, ids=world.ids)

    async def _models_hear(self, tx: Tx, record: Record) -> None:
        """Let the registry know of ends; services that began and versions that are proposed are looked at at once."""
        if record.type == "JobEnded":
            await self.registry.job_ended(tx, record)
        for loop in self.models:
            tx.afterwards(loop.wake)

    def _heard(self, cluster: str, call: str, seconds: float) -> None:
        self.metrics.cluster_answer_seconds.labels(cluster, call).observe(seconds)

    def _wake_cluster(self, cluster: str) -> None:
        self.inventory.wake(cluster)
        self.running.wake(cluster)

    def _wake_start(self) -> None:
        self.starting.wake()

    def _wake_attempts(self) -> None:
        self.running.wake()

    def _wake_after_end(self) -> None:
        self.starting.wake()
        self.figures.wake()


def _sites(world: World, settings: Settings) -> dict[str, Site]:
    """Return what launchers have to know of each cluster."""
    terms = settings.clusters
    return {
        name: Site(engine.kind, terms[name].fabric if name in terms else None)
        for name, engine in world.clusters.items()
    }


def new_ids(clock: Clock, seed: int | None = None) -> Ids:
    """Return identifiers seeded by the operating system, or by a number for tests."""
    return Ids(clock, np.random.default_rng(seed))


def _terms(settings: Settings) -> dict[str, Terms]:
    return {
        name: Terms(each.price_per_device_hour, each.cloud, each.interruptions_per_day)
        for name, each in settings.clusters.items()
    }


async def _rate(db: Database, billing: BillingService) -> TickReport:
    async with db.transaction(cause="rating") as tx:
        report = await billing.rate_closed(tx)
    return TickReport({"charge": report.charges} if report.charges else {}, again=report.more)


def _signatures(settings: Settings) -> Library:
    shipped, own = load_shipped(), settings.health.signatures_dir
    return Library.of([*shipped.signatures, *load_folder(Path(own)).signatures]) if own else shipped
