"""Scheduling: the time of one plan on small and large fleets, and of one look at a queue of 1,000 jobs.

    python benchmarks/plan.py [--looks 20]

The plan is a pure function, measured by itself. The look is the platform's own loop over SQLite and a virtual cluster:
read, plan, write what starts and why the rest waits. Its clock is turned by hand, nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from _bench import machine, quantile, say, say_machine, scratch
from dujiang.bootstrap.platform import Platform, World, new_ids
from dujiang.bootstrap.settings import Settings
from dujiang.engines.simulated import SimulatedEngine, parse_fleet
from dujiang.engines.simulated import World as Cluster
from dujiang.jobs.spec import read
from dujiang.kit.clock import ManualClock
from dujiang.kit.db import Database
from dujiang.kit.objects import open_store
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    DeviceRow,
    Holding,
    NodeRow,
    Request,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)

GIB = 1 << 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = ((100, 100), (100, 1000), (1000, 1000), (1000, 10_000))
"""Nodes of 8 devices, and jobs that wait."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=20)
    args = parser.parse_args()
    print(machine())
    say(
        "One plan; nodes of 8 GPUs, jobs of shares, 1, 2, 4, 8 and 16 GPUs",
        ["nodes", "waiting", "the fleet is", "started", "n", "p50", "max"],
        [_plan(nodes, jobs, full, args.looks) for nodes, jobs in SIZES for full in (False, True)],
    )
    with scratch("plan") as folder:
        rows = asyncio.run(_looks(folder, args.looks))
    say("One look of the platform at its queue, on SQLite; 100 virtual nodes", ["", "n", "p50", "max"], rows)
    say_machine("make bench B=plan")


def _plan(nodes: int, waiting: int, full: bool, looks: int) -> list[Any]:
    rng = np.random.default_rng(nodes + waiting)
    devices = tuple(DeviceRow(f"g{n}", n, "nvidia", "H100", 80 * GIB) for n in range(8))
    fleet = fleet_of_rows(
        [ClusterRow("c")],
        [NodeRow("c", f"n{n:05d}", 128_000, 1024 * GIB, 4096 * GIB, devices) for n in range(nodes)],
    )
    requests = [_request(f"job_{n:06d}", n, rng) for n in range(waiting)]
    holdings: list[Holding] = []
    if full:  # what a first plan over many whole-node jobs would start
        whole = [
            Request(f"run_{n:06d}", "p", Ask(8000, 0, "", "", 64_000, 512 * GIB), NOW, runs_at_most_s=3600 + n)
            for n in range(nodes)
        ]
        started = plan(snapshot_of_rows(fleet, requests=whole), NOW).starts
        ends = {one.job_id: NOW + timedelta(seconds=one.runs_at_most_s or 0) for one in whole}
        holdings = [Holding(s.job_id, s.project_id, s.cluster, s.ranks, NOW, ends[s.job_id]) for s in started]
    snapshot = snapshot_of_rows(fleet, requests=requests, holdings=holdings)
    taken = []
    for _ in range(looks if nodes * waiting < 10**7 else max(3, looks // 4)):
        begun = time.perf_counter()
        done = plan(snapshot, NOW)
        taken.append(time.perf_counter() - begun)
    return [nodes, waiting, "full" if full else "empty", len(done.starts), len(taken), *_ms(taken)]


def _request(id: str, number: int, rng: np.random.Generator) -> Request:
    milli, ranks = ((125, 1), (500, 1), (1000, 1), (2000, 1), (4000, 1), (8000, 1), (8000, 2))[int(rng.integers(7))]
    ask = Ask(milli, 0, "", "", max(1000, 8 * milli), max(1, milli // 125) * 8 * GIB)
    limit = float(rng.choice([600, 3600, 86_400])) if number % 2 else None
    return Request(id, f"p{number % 7}", ask, NOW + timedelta(seconds=number), ranks=ranks, runs_at_most_s=limit)


async def _looks(folder: Path, looks: int) -> list[list[Any]]:
    clock = ManualClock(NOW)
    cluster = Cluster(parse_fleet("100x8"), seed=7, clock=clock)
    db = Database(f"sqlite+aiosqlite:///{folder}/dujiang.db", clock=clock, journal_key=b"bench")
    await db.create_all()
    world = World(
        db=db, clock=clock, ids=new_ids(clock, 7), objects=open_store(str(folder / "objects"), clock=clock),
        clusters={"sim": SimulatedEngine(cluster, sleep=clock.sleep)}, door_secret=b"bench", cache=folder / "cache",
        lost_after_s={},
    )  # fmt: skip
    platform = Platform(world, Settings())
    await platform.install()
    await platform.inventory.tick()
    rows: list[list[Any]] = []
    try:
        async with db.reading() as tx:
            project = (await platform.tenancy.projects(tx))[0].id
        await _submit(platform, project, 800, gpus=1)
        rows.append(["800 jobs start at once", 1, *_ms([await _tick(platform)])])
        await _submit(platform, project, 1000, gpus=1)
        rows.append(["1,000 new ones wait: their reasons are written", 1, *_ms([await _tick(platform)])])
        taken = []
        for _ in range(looks):
            clock.advance(0.05)
            taken.append(await _tick(platform))
        rows.append(["the 1,000 still wait", len(taken), *_ms(taken)])
    finally:
        await platform.close()
    return rows


async def _submit(platform: Platform, project: str, count: int, *, gpus: int) -> None:
    specs = [read({"name": "bench", "run": "#sim run=24h", "resources": {"gpu": {"count": gpus}}})] * count
    async with platform.world.db.transaction(cause="bench") as tx:
        await platform.jobs.submit_many(tx, specs, project_ids=[project] * count, submitted_by="bench")


async def _tick(platform: Platform) -> float:
    begun = time.perf_counter()
    await platform.starting.tick()
    return time.perf_counter() - begun


def _ms(taken: list[float]) -> tuple[str, str]:
    return f"{quantile(taken, 0.5) * 1000:.1f} ms", f"{max(taken) * 1000:.1f} ms"


if __name__ == "__main__":
    main()
