"""Looking at what runs: one tick over many live attempts, and what a restart costs the first look at them.

    python benchmarks/observe.py [--attempts 10000] [--looks 5]

The platform's own loops over SQLite and a virtual cluster that answers from memory; their clock is turned by hand, and
nothing else runs there. The look is told part by part: reading rows, the engine's answer, deciding. Seconds are
of the processor, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _bench import machine, quantile, say, say_machine, scratch
from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.settings import Settings
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs import store
from dujiang.jobs.domain import View, plan
from dujiang.jobs.loop import Outlook
from dujiang.jobs.spec import read
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.objects import open_store

CLUSTER = "sim"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    with scratch("observe") as folder:
        looks, parts, restart = asyncio.run(_measure(folder, args.attempts, args.looks))
    say("One look at attempts that run", ["attempts", "", "n", "p50, s", "max, s"], looks)
    say("Its parts, one by one", ["part", "n", "p50, s", "max, s"], parts)
    say("What the scheduler is told of them", ["look", "s"], restart)
    say_machine("make bench B=observe")


async def _measure(folder: Path, attempts: int, looks: int) -> tuple[list[list[Any]], list[list[Any]], list[list[Any]]]:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    nodes = -(-attempts // 16)
    async with _platform(folder, clock, nodes) as (platform, db):
        rows = [["start", await _start(platform, attempts)]]
        rows.append(["submit to the engine", await _timed(platform.running.tick)])
        clock.advance(1.0)
        rows.append(["begin", await _timed(platform.running.tick)])
        live = await _live(db)
        assert len(live) == attempts, f"{len(live)} run"
        taken, ticks = [], []
        for _ in range(looks):
            clock.advance(1.0)
            begun = time.process_time()
            report = await platform.running.tick()
            taken.append(time.process_time() - begun)
            ticks.append(dict(report.steps))
        assert not any(ticks), f"a settled look does something: {ticks}"
        told = [[attempts, "first: they are submitted", 1, *_s([rows[1][1]])],
                [attempts, "second: their start is written", 1, *_s([rows[2][1]])],
                [attempts, "settled", looks, *_s(taken)]]  # fmt: skip
        parts = await _parts(platform, db, clock, looks)
        restart = await _restart(platform, db)
    return told, parts, restart


async def _parts(platform: Platform, db: Database, clock: ManualClock, looks: int) -> list[list[Any]]:
    found: dict[str, list[float]] = {"read the rows": [], "the engine answers": [], "decide": []}
    for _ in range(looks):
        clock.advance(1.0)
        begun = time.process_time()
        live = await _live(db)
        found["read the rows"].append(time.process_time() - begun)
        begun = time.process_time()
        seen = await platform.lines[CLUSTER].observe([one.key for one in live])
        found["the engine answers"].append(time.process_time() - begun)
        begun = time.process_time()
        assert plan([View(one) for one in live], seen) == []
        found["decide"].append(time.process_time() - begun)
    return [[part, looks, *_s(taken)] for part, taken in found.items()]


async def _restart(platform: Platform, db: Database) -> list[list[Any]]:
    """Look as a scheduler does that has just been started: nothing is remembered of what runs."""
    outlook = Outlook(pool=platform.pool, scheduling=platform.scheduling)
    rows: list[list[Any]] = []
    for name in ("first after a restart", "second"):
        async with db.reading() as tx:
            rows.append([name, f"{await _timed(lambda tx=tx: outlook.look(tx)):.2f}"])  # type: ignore[misc]
    return rows


async def _start(platform: Platform, attempts: int) -> float:
    async with platform.world.db.reading() as tx:
        project = (await platform.tenancy.projects(tx))[0].id
    for begin in range(0, attempts, 1000):
        count = min(1000, attempts - begin)
        specs = [
            read({"name": f"bench-{begin + at}", "run": "#sim duration=forever", "resources": {"gpu": {"count": 1}}})
            for at in range(count)
        ]  # fmt: skip
        async with platform.world.db.transaction(cause="bench") as tx:
            await platform.jobs.submit_many(tx, specs, project_ids=[project] * count, submitted_by="bench")
    begun = time.process_time()
    while (await platform.starting.tick()).steps.get("start"):
        pass
    return time.process_time() - begun


async def _live(db: Database) -> list[Any]:
    async with db.reading() as tx:
        return await store.live_attempts(tx, CLUSTER)


async def _timed(do: Any) -> float:
    begun = time.process_time()
    await do()
    return time.process_time() - begun


def _s(taken: list[float]) -> tuple[str, str]:
    return f"{quantile(taken, 0.5):.2f}", f"{max(taken):.2f}"


@asynccontextmanager
async def _platform(folder: Path, clock: ManualClock, nodes: int) -> AsyncIterator[tuple[Platform, Database]]:
    cluster = Cluster(parse_fleet(f"{nodes}x16"), seed=7, clock=clock)
    db = Database(f"sqlite+aiosqlite:///{folder}/dujiang.db", clock=clock, journal_key=b"bench")
    await db.create_all()
    world = World(
        db=db, clock=clock, ids=new_ids(clock, 7), objects=open_store(str(folder / "objects"), clock=clock),
        clusters={CLUSTER: SimulatedEngine(cluster, sleep=clock.sleep)}, door_secret=b"bench", cache=folder / "cache",
        lost_after_s={},
    )  # fmt: skip
    platform = Platform(world, Settings())
    await platform.install()
    await platform.inventory.tick()
    try:
        yield platform, db
    finally:
        await platform.close()


if __name__ == "__main__":
    main()
