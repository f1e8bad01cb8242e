"""Plays a story: the real platform, with all its services, stores and loops, over a virtual cluster in virtual time.

A step lets time pass, does what users and operators do by now, and runs some loops of some replicas: one after another,
or at once, so that they meet at every await. The process may die at any of those. Then the faults end, and time runs
until all is quiet. What is true is asked of the virtual cluster (`checks`).
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx

from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.settings import Settings
from dujiang.engines.contract import AttemptKey
from dujiang.engines.simulated import Faults, FleetSpec, Run, SimulatedEngine
from dujiang.engines.simulated import World as Cluster
from dujiang.health.diagnose import Diagnoser
from dujiang.health.signatures import load_shipped
from dujiang.jobs.service import JobFilter
from dujiang.jobs.settings import JobSettings
from dujiang.kit import journal
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database, Tx
from dujiang.kit.errors import DujiangError, Unavailable
from dujiang.kit.loop import TickReport
from dujiang.kit.objects import open_store
from dujiang.pool.service import PoolService
from dujiang.scheduling.domain import ImpossibleRequest, Plan, Snapshot, Stop, StopWhy, plan
from tests.factories import FAST_HASHER
from tests.sim.script import LOST_AFTER_S, Arrival, Script, write
from tests.sim.stage import Dice, HeldClock, InPlace, Mishaps, on_stage

CLUSTER: Final = "simulated"
RENTED: Final = "rented"
RENT_PER_DEVICE_HOUR: Final = Decimal(1)
KEY: Final = b"a key for the simulation"
SETTINGS: Final = Settings(
    jobs=JobSettings(
        checkpoint_root="/nowhere", lost_after_s=LOST_AFTER_S, reclaim="stop", idle_after_s=15.0, idle_grace_s=10.0,
        least_samples=2, resize_s=5.0,
    )
)  # fmt: skip
MOST_QUIET_STEPS: Final = 600
_OFTEN: Final = {
    "attempts": 0.85, "start": 0.65, "inventory": 0.25, "sweep": 0.1, "rating": 0.08, "figures": 0.08,
    "outbox.models.job_ended": 0.08,
}  # fmt: skip
_SELDOM: Final = 0.02
_USING: Final = {"use": 0.3, "rescore": 0.1}
"""Loops with dice of their own."""
_MOVING: Final = {"defragment": 0.4}
"""Likewise; only where moves are made."""
_MINDING: Final = {"answers": 0.3, "reservations": 0.1, "strangers": 0.02}
"""Likewise."""
_GOES_ON: Final = ("Stopped to go on with ", "Stopped to go on elsewhere")


class Broken(AssertionError):
    """The platform did what it must not."""


class Whims:
    """Decides as the scheduler does, and stops work beside that, for no good reason, as long as the storm lasts."""

    def __init__(self, rng: random.Random, chance: float) -> None:
        self._rng, self.chance = rng, chance
        self.decided = 0

    def __call__(self, snapshot: Snapshot, now: datetime, *, telling: bool = True) -> Plan:
        """Return the scheduler's plan, with more to stop."""
        done = plan(snapshot, now, telling=telling)
        running = sorted(holding.job_id for holding in snapshot.holdings)
        if not running or self._rng.random() >= self.chance:
            return done
        chosen = {self._rng.choice(running) for _ in range(self._rng.randint(1, 2))} - {
            one.job_id for one in done.stops
        }
        more = tuple(Stop(job_id, self._rng.choice(list(StopWhy)), sentence="So it was.") for job_id in sorted(chosen))
        self.decided += len(more)
        return replace(done, stops=done.stops + more)


class BarePlatform(Platform):
    """The platform without the routes of its API, which nobody calls here and which take longest to make."""

    def _app(self) -> Any:
        return None


@dataclass(slots=True)
class Wanted:
    """A job as its owner knows it."""

    arrival: Arrival
    job_id: str | None = None
    asked: int = 0
    refused: bool = False
    cancelled: bool = False


@dataclass(slots=True)
class Story:
    """What came of a seed."""

    seed: int
    head: tuple[int, str] = (0, "")
    """Number and hash of the journal's last record, which covers all before it: the story in one line."""
    counted: Counter[str] = field(default_factory=Counter)


class Simulation:
    """One seed."""

    def __init__(self, seed: int, folder: Path, template: Path) -> None:
        self.dice = Dice(seed)
        self.script: Script = write(self.dice)
        self.rng = self.dice.stream("play")
        self.mishaps = Mishaps(self.dice.stream("database"))
        self.wall = ManualClock()
        self.clock = HeldClock(self.wall)
        self.story = Story(seed)
        self.wanted = [Wanted(arrival) for arrival in self.script.arrivals]
        self.steps_of_clock = 0.0
        """How far the wall clock was ever from the cluster's, either way."""
        self.is_quiet = False
        path = folder / f"{seed}.db"
        shutil.copyfile(template, path)
        with on_stage(self.mishaps):
            self.db = Database(f"sqlite+aiosqlite:///{path}", clock=self.clock, journal_key=KEY, durable=False)
        self.clusters = {CLUSTER: Cluster(self.script.fleet, seed=seed, clock=self.wall)}
        if self.script.rented is not None:
            self.clusters[RENTED] = Cluster(self.script.rented, seed=seed + 1, clock=self.wall)
        self._folder, self._lives, self._skew_s = folder, 0, 0.0
        self.whims = Whims(self.dice.stream("whims"), self.script.storm.stops)
        self.using = self.dice.stream("using")
        self.moving = self.dice.stream("moving")
        self.minding = self.dice.stream("minding")
        self.replicas = [self._born() for _ in range(self.script.replicas)]

    # -- the play --------------------------------------------------------------------------------------------------

    async def play(self) -> Story:
        """Play it to the end; what must not be raises."""
        await self._open()
        self._brew()
        while self.wall.monotonic_s() < self.script.active_s:
            await self._step()
        self._calm()
        for _ in range(MOST_QUIET_STEPS):
            await self._step()
            if await self._is_over():
                break
        else:
            raise Broken(f"it does not come to rest: {await self._restless()}")
        await self._settle()
        async with self.db.reading() as tx:
            self.story.head = await journal.latest(tx.connection)
            await self._count_ends(tx)
        self.story.counted.update({f"database {name}": count for name, count in self.mishaps.counted.items()})
        return self.story

    async def close(self) -> None:
        """Let go of the file."""
        await self.db.close()

    async def _open(self) -> None:
        platform = self.replicas[0]
        await platform.inventory.tick()
        async with self.db.transaction(cause="test") as tx:
            project = await platform.tenancy.create_project(tx, name="narrow")
            for quota in self.script.quotas.values():
                await platform.scheduling.set_quota(tx, project.id, quota)
            self.projects = {one.name: one.id for one in await platform.tenancy.projects(tx)}

    def _brew(self) -> None:
        storm = self.script.storm
        for cluster in self.clusters.values():
            cluster.set_faults(storm.world)
        self.mishaps.busy, self.mishaps.refused = storm.busy, storm.refused
        self.mishaps.unheard, self.mishaps.full = storm.unheard, storm.full

    def _calm(self) -> None:
        self.is_quiet = True
        self.whims.chance = 0.0
        self.mishaps.calm()
        for cluster in self.clusters.values():
            cluster.set_faults(Faults(notice_s=self.script.storm.world.notice_s))
        for name, fleet in self.fleets.items():
            for node in fleet.build():
                self.clusters[name].restore_node(node.name)

    async def _step(self) -> None:
        storm, rng = self.script.storm, self.rng
        self._pass(min(rng.expovariate(1 / 4.5), 12.0) if not self.is_quiet else self._to_next_s())
        if storm.clock_steps and not self.is_quiet and rng.random() < 0.05:
            self._step_clock(rng.choice((-1, 1)) * rng.choice((0.5, 5.0, 60.0)))
        people = [self._users]
        if self.is_quiet or rng.random() < storm.operator:
            people.append(self._operator)
        if rng.random() < 0.2:  # people do not wait until the loops are done
            await self._together([tick for platform in self.replicas for tick in self._choose(platform)], people)
        else:
            for does in people:
                await does()
        for platform in rng.sample(self.replicas, len(self.replicas)):
            if rng.random() < (0.6 if len(self.replicas) > 1 else 1.0):
                ticks = self._choose(platform)
                if not self.is_quiet and rng.random() < storm.kill:
                    await self._die(platform, ticks)
                elif rng.random() < 0.5:
                    await self._together(ticks)
                else:
                    for tick in ticks:
                        await self._safely(tick)
        if not self.is_quiet and rng.random() < 0.015:
            await self._look_in()

    def _to_next_s(self) -> float:
        """Return how long nothing will happen; not longer than loops may be apart."""
        return min(max(min(cluster.next_s() for cluster in self.clusters.values()), 2.0), 10.0)

    def _pass(self, seconds: float) -> None:
        self.wall.advance(round(seconds, 3))

    def _step_clock(self, seconds: float) -> None:
        self.wall.step(seconds)
        self._skew_s += seconds
        self.steps_of_clock = max(self.steps_of_clock, abs(self._skew_s))
        self.story.counted["clock step"] += 1

    # -- loops -----------------------------------------------------------------------------------------------------

    def _choose(self, platform: Platform) -> list[Callable[[], Awaitable[TickReport]]]:
        rng = self.rng
        loops = [loop for loop in platform.loops if loop.name not in _MOVING | _MINDING]
        usual = [loop for loop in loops if loop.name not in _USING]
        chosen = [loop.tick for loop in usual if rng.random() < _OFTEN.get(loop.name, _SELDOM)]
        if not self.is_quiet:  # idle work is stopped and run again for ever; what is to end must not be measured
            chosen += [
                loop.tick for loop in loops if self.using.random() < _USING.get(loop.name, 0.0)
            ]  # fmt: skip
            if SETTINGS.scheduling.defragment == "act":
                chosen += [
                    loop.tick for loop in platform.loops if self.moving.random() < _MOVING.get(loop.name, 0.0)
                ]  # fmt: skip
        chosen += [loop.tick for loop in platform.loops if self.minding.random() < _MINDING.get(loop.name, 0.0)]
        rng.shuffle(chosen)
        return chosen

    async def _safely(self, tick: Callable[[], Awaitable[TickReport]]) -> TickReport:
        """Run a tick as the runner does: what passes by itself is left to the next one."""
        try:
            report = await tick()
        except DujiangError as error:
            if not error.retryable or self.is_quiet:
                raise
            self.story.counted["failed tick"] += 1
            return TickReport()
        if report.failed and self.is_quiet:
            raise Broken(f"a tick failed: {report.failed}")
        self.story.counted.update(report.steps)
        self.story.counted["tick"] += 1
        return report

    async def _together(
        self, ticks: list[Callable[[], Awaitable[TickReport]]], people: Sequence[Callable[[], Awaitable[None]]] = ()
    ) -> None:
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._safely(tick)) for tick in ticks]
        tasks += [asyncio.ensure_future(does()) for does in people]
        if not self.is_quiet and self.rng.random() < 0.5:
            for _ in range(self.rng.randrange(60)):
                await asyncio.sleep(0)
            self._pass(self.rng.uniform(0, 2.0))  # a slow machine: time goes on while they are under way
        await asyncio.gather(*tasks)

    async def _die(self, platform: Platform, ticks: list[Callable[[], Awaitable[TickReport]]]) -> None:
        """Have a process end while it is at work, and another take its place over the same database."""
        tasks = [asyncio.ensure_future(self._safely(tick)) for tick in ticks]
        for _ in range(self.rng.randrange(120)):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        if len(self.replicas) == 1:
            self.clock.forget()
        self.replicas[self.replicas.index(platform)] = self._born()
        self.story.counted["killed"] += 1

    def _born(self) -> BarePlatform:
        self._lives += 1
        world = World(
            db=self.db, clock=self.clock, ids=new_ids(self.clock, self.dice.seed * 1000 + self._lives),
            objects=_objects(self._folder, self.clock),
            clusters={name: SimulatedEngine(cluster) for name, cluster in self.clusters.items()},
            door_secret=b"door", cache=self._folder / "cache", lost_after_s={}, diagnose=_diagnoser(), http=_http(),
            passwords=_passwords(), planner=self.whims,
        )  # fmt: skip
        return BarePlatform(world, SETTINGS)

    # -- people ----------------------------------------------------------------------------------------------------

    async def _users(self) -> None:
        now_s = self.wall.monotonic_s()
        for one in self.wanted:
            if one.refused or one.arrival.at_s > now_s:
                continue
            if one.job_id is None:
                await self._submit(one)
            elif (at_s := one.arrival.cancel_at_s) is not None and at_s <= now_s and not one.cancelled:
                one.cancelled = await self._told(lambda tx, platform, id=one.job_id: platform.jobs.cancel(tx, id))

    async def _submit(self, one: Wanted) -> None:
        spec = one.arrival.spec
        project_id = self.projects[spec.project or "default"]

        async def submit(tx: Tx, platform: Platform) -> None:
            # An answer may have been lost.
            found = await platform.jobs.jobs(tx, JobFilter(name=spec.name)) if one.asked > 1 else []
            job = found[0] if found else await platform.jobs.submit(
                tx, spec, project_id=project_id, submitted_by="usr_somebody"
            )  # fmt: skip
            made.append(job.id)

        made: list[str] = []
        one.asked += 1
        try:
            if await self._told(submit):
                one.job_id = made[-1]
        except ImpossibleRequest:
            one.refused = True
            self.story.counted["impossible"] += 1

    async def _operator(self) -> None:
        rng = self.rng
        if self.is_quiet:
            async with self.db.reading() as tx:
                nodes = await self.replicas[0].pool.nodes(tx)
            for node in nodes:
                if node.intent != "none" and node.intent != "open":
                    await self._told(lambda tx, platform, id=node.id: platform.pool.uncordon(tx, id))
            return
        name = rng.choice(self.script.fleet.build()).name
        what = rng.choice((PoolService.cordon, PoolService.drain, PoolService.uncordon, PoolService.uncordon))
        await self._told(lambda tx, platform: what(platform.pool, tx, f"{CLUSTER}/{name}", "maintenance"))
        self.story.counted[what.__name__] += 1

    async def _told(self, do: Callable[[Tx, Any], Awaitable[Any]]) -> bool:
        """Do something as a person does through some replica; say whether it was answered."""
        platform = self.rng.choice(self.replicas)
        try:
            async with self.db.transaction(actor="somebody", cause="request") as tx:
                await do(tx, platform)
        except Unavailable:
            if self.is_quiet:
                raise
            return False
        except ImpossibleRequest:
            raise
        except DujiangError as error:
            if error.code not in ("job_ended", "unknown_node"):
                raise
        return True

    # -- what is true ----------------------------------------------------------------------------------------------

    @property
    def fleets(self) -> dict[str, FleetSpec]:
        """Return what there is, by cluster."""
        return {CLUSTER: self.script.fleet} | ({} if self.script.rented is None else {RENTED: self.script.rented})

    def runs(self) -> dict[AttemptKey, Run]:
        """Return what really ran, on any cluster."""
        return {key: run for cluster in self.clusters.values() for key, run in cluster.truth.runs.items()}

    def running(self) -> list[AttemptKey]:
        """Return what really runs now."""
        return [key for cluster in self.clusters.values() for key in cluster.truth.running()]

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _is_over(self) -> bool:
        if any(one.job_id is None and not one.refused for one in self.wanted) or self.running():
            return False
        async with self.db.reading() as tx:
            return not await self.replicas[0].jobs.count_by_state(tx)

    async def _restless(self) -> str:
        async with self.db.reading() as tx:
            jobs = await self.replicas[0].jobs.jobs(tx, JobFilter(live=True))
        told = [f"{job.name} {job.state} {job.reason} waits={job.waits} {job.waiting}" for job in jobs]
        return "; ".join(told[:5]) or f"it runs: {self.running()}"

    async def _settle(self) -> None:
        """Let every loop do what is left; then none finds anything to do."""
        for _ in range(2):
            for loop in self.replicas[0].loops:
                while (await self._safely(loop.tick)).again:
                    pass
            self._pass(10.0)
        for loop in self.replicas[-1].loops:
            report = await self._safely(loop.tick)
            if any(report.steps.values()):
                raise Broken(f"all is done, and the loop {loop.name} does {dict(report.steps)}")

    async def _count_ends(self, tx: Tx) -> None:
        platform = self.replicas[0]
        jobs = await platform.jobs.jobs(tx, JobFilter())
        for job in jobs:
            self.story.counted["gang"] += job.spec.nodes > 1
            self.story.counted["retried"] += job.retries > 0
        for attempts in (await platform.jobs.attempts(tx, [job.id for job in jobs])).values():
            self.story.counted.update(f"ended {attempt.state}" for attempt in attempts)
            self.story.counted.update(f"on {attempt.cluster}" for attempt in attempts)
            self.story.counted.update(f"stopped {attempt.stop_reason}" for attempt in attempts if attempt.stop_reason)
            self.story.counted.update(
                f"planned {attempt.stop_reason}" for attempt in attempts if attempt.stop_sentence.startswith(_GOES_ON)
            )
            self.story.counted["took turns"] += sum("take turns" in attempt.stop_sentence for attempt in attempts)

    async def _look_in(self) -> None:
        from tests.sim.checks import check_any_time

        self.story.counted["looked in"] += 1
        await check_any_time(self)


async def make_template(folder: Path) -> Path:
    """Return a database with its tables, first project and prices."""
    wall, mishaps = ManualClock(), Mishaps(random.Random(0))
    with on_stage(mishaps):
        db = Database(f"sqlite+aiosqlite:///{folder / 'template.db'}", clock=wall, journal_key=KEY, durable=False)
        await db.create_all()
        world = World(
            db=db, clock=wall, ids=new_ids(wall, 0), objects=_objects(folder, wall), clusters={}, door_secret=b"door",
            cache=folder / "cache", lost_after_s={}, diagnose=_diagnoser(), http=_http(), passwords=_passwords(),
        )  # fmt: skip
        await BarePlatform(world, SETTINGS).install()
        await db.close()
    return folder / "template.db"


def run(seed: int, folder: Path, template: Path) -> Story:
    """Play a seed and check all of it.

    Raises:
        AssertionError: what must not be, was.
    """

    async def whole() -> Story:
        from tests.sim.checks import check_all

        asyncio.get_running_loop().set_default_executor(InPlace())
        simulation = Simulation(seed, folder, template)
        with on_stage(simulation.mishaps):
            try:
                story = await simulation.play()
                await check_all(simulation)
                return story
            finally:
                await simulation.close()

    return asyncio.run(whole())


@cache
def _diagnoser() -> Diagnoser:
    return Diagnoser(load_shipped())


@cache
def _http() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(503)))


@cache
def _passwords() -> Any:
    from dujiang.tenancy.credentials import Passwords

    return Passwords(FAST_HASHER)


def _objects(folder: Path, clock: Any) -> Any:
    return open_store(str(folder / "objects"), clock=clock, staging=folder / "staging")
