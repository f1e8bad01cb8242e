"""Kubernetes through the engine against plain creation of the same Pods, on a real control plane of this run.

    python benchmarks/kubernetes_submit.py [--jobs 2000] [--nodes 100]

Plain: the Pods that the engine would make, less what makes them records (finalizer, two annotations), over the same
client and as many connections, and nothing else: no watch. By turns, so that the cluster is as full for both. Scheduler
and controllers stand still while it is measured, so that both sides meet the same API server; KWOK goes on. Then what
each part costs by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from typing import Any

from _bench import machine, met, say, say_machine
from _kubernetes import (
    MARK,
    Bodies,
    Cluster,
    control_plane,
    cpu_of,
    each,
    engine_of,
    launch_of,
    on,
    renamed,
    settings_of,
)
from dujiang.engines.kubernetes import records
from dujiang.engines.kubernetes.api import Api
from dujiang.kit.clock import SystemClock

MOST_OVERHEAD = 1.3
AT_ONCE = (1, 16, 64)
TURNS = 4
SETTLE_S = 2.0
"""Before each turn: what the side before and a new engine's first lists left to the API server's garbage collector."""
PROJECT = "bench"
Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--at-once", type=int, nargs="*", default=AT_ONCE)
    parser.add_argument("--profile", action="store_true", help="of the engine's side, to standard output")
    args = parser.parse_args()
    print(machine())
    with control_plane(args.nodes) as (cluster, nodes):
        for program in ("controllers", "scheduler"):
            cluster.stop(program)
        rows, parts = asyncio.run(measure(cluster, nodes, args))
    title = f"{args.jobs:,} jobs to Kubernetes, {args.nodes} nodes"
    say(title, ["submit", "ours", "plain Pods", "ours to plain", f"met: <= {MOST_OVERHEAD}", *CPU], rows)
    say("What each part costs by itself, 16 at once", ["", "n", "a second", "ms of processors each"], parts)
    say_machine("make bench B=kubernetes_submit")


CPU = ("processor ms a job, ours: platform", "API server and etcd", "plain: client", "API server and etcd")


async def measure(cluster: Cluster, nodes: list[str], args: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Return the rows of submits, and of parts."""
    first = await bodies(cluster, nodes)
    rows = [await compared(cluster, nodes, first, args, at_once) for at_once in args.at_once]
    return rows, await parts(cluster, nodes, first, args.jobs)


async def bodies(cluster: Cluster, nodes: list[str]) -> Bodies:
    """Return what the engine creates for one job."""
    api = Bodies(settings_of(cluster))
    engine = engine_of(cluster, api=api)
    await engine.submit(launch_of("first", on(nodes[0]), PROJECT))
    await engine.close()
    return api


async def compared(
    cluster: Cluster, nodes: list[str], first: Bodies, args: argparse.Namespace, at_once: int
) -> list[object]:
    """Return one row: so many at once."""
    ours, plain = Figures(), Figures()
    size = args.jobs // TURNS
    for turn in range(TURNS):
        names = [f"{at_once}x{turn}x{number}" for number in range(size)]
        await plainly(cluster, nodes, first, names, at_once, plain)
        await through_engine(cluster, nodes, names, at_once, ours, args.profile)
    total = size * TURNS
    ratio = ours["s"] / plain["s"]
    words = "one by one" if at_once == 1 else f"{at_once} at once"
    rates = [f"{total / ours['s']:.0f}/s", f"{total / plain['s']:.0f}/s", f"{ratio:.2f} times as long"]
    cpu = [f"{side[what] / total * 1e3:.1f}" for side in (ours, plain) for what in ("own", "servers")]
    return [words, *rates, met(ratio <= MOST_OVERHEAD), *cpu]


async def plainly(
    cluster: Cluster, nodes: list[str], first: Bodies, names: list[str], at_once: int, figures: Figures
) -> None:
    """Create Pods, and nothing else."""
    api = Api(settings_of(cluster), clock=SystemClock())
    path, body = first.made["pods"][0]
    made = [renamed(body, f"plain-{name}", nodes[at % len(nodes)], "plain") for at, name in enumerate(names)]
    await each(lambda _: api.get("/version"), range(at_once), at_once)  # connections are there
    async with Taking(cluster, figures):
        await each(lambda pod: api.create(path, pod), made, at_once)
    await api.close()


async def through_engine(
    cluster: Cluster, nodes: list[str], names: list[str], at_once: int, figures: Figures, profile: bool
) -> None:
    """Submit to an engine that has looked at the cluster and knows the project."""
    engine = engine_of(cluster)
    launches = [launch_of(f"ours-{name}", on(nodes[at % len(nodes)]), PROJECT) for at, name in enumerate(names)]
    warm = [launch_of(f"warm-{names[0]}-{number}", on(nodes[0]), PROJECT) for number in range(at_once)]
    await engine.inventory()
    await each(engine.submit, warm, at_once)
    await engine.observe([launch.key for launch in warm])  # by now all has been listed
    taken = cProfile.Profile()
    if profile:
        taken.enable()
    async with Taking(cluster, figures):
        await each(engine.submit, launches, at_once)
    if profile:
        taken.disable()
        pstats.Stats(taken).sort_stats("tottime").print_stats(45)
    seen = await engine.observe([launch.key for launch in launches])
    assert len(seen) == len(launches), f"{len(launches) - len(seen)} are not there"
    await engine.close()


async def parts(cluster: Cluster, nodes: list[str], first: Bodies, jobs: int) -> list[list[object]]:
    """Return what the Pod that is a record costs, without what makes it one and with it, and a note on it."""
    api = Api(settings_of(cluster), clock=SystemClock())
    path, record = first.made["pods"][0]
    stone = records.tombstone(record_of(record), MARK, SystemClock().now())
    maps = path.replace("/pods", "/configmaps")
    names = [f"part-{number}" for number in range(jobs)]
    change = {"metadata": {"annotations": {"dujiang.io/verdict": "x" * 300}}}

    def whole(name: str) -> dict[str, Any]:
        plain = renamed(record, name, nodes[0], "parts")
        kept = {"annotations": record["metadata"]["annotations"], "finalizers": record["metadata"]["finalizers"]}
        return {**plain, "metadata": {**plain["metadata"], **kept}}

    tried = {
        "POST of a plain Pod": lambda name: api.create(path, renamed(record, f"{name}-plain", nodes[0], "parts")),
        "POST of a Pod that is a record": lambda name: api.create(path, whole(name)),
        "PATCH of a Pod: its verdict": lambda name: api.patch(f"{path}/{name}", change, kind="strategic"),
        "POST of a tombstone (ConfigMap)": lambda name: api.create(maps, renamed(stone, name, None, "parts")),
    }
    rows: list[list[object]] = []
    for what, do in tried.items():
        figures = Figures()
        async with Taking(cluster, figures):
            await each(do, names, 16)
        cpu_ms = (figures["own"] + figures["servers"]) / jobs * 1e3
        rows.append([what, jobs, f"{jobs / figures['s']:.0f}/s", f"{cpu_ms:.2f}"])
    await api.close()
    return rows


def record_of(pod: dict[str, Any]) -> records.Record:
    """Return a Pod of the engine as the record that it is."""
    meta = {**pod["metadata"], "uid": "", "resourceVersion": "0"}
    found = records.reduce_record({**pod, "metadata": meta})
    assert found is not None
    return found


class Taking:
    """Adds what passes inside to figures: seconds, and processor time here and of API server and etcd."""

    def __init__(self, cluster: Cluster, figures: Figures) -> None:
        self._cluster, self._figures = cluster, figures

    async def __aenter__(self) -> None:
        await asyncio.sleep(SETTLE_S)
        self._began = self._now()

    async def __aexit__(self, *_: object) -> None:
        for name, before, now in zip(("s", "own", "servers"), self._began, self._now(), strict=True):
            self._figures[name] = self._figures.get(name, 0.0) + now - before

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), cpu_of(self._cluster, "api", "etcd")


if __name__ == "__main__":
    main()
