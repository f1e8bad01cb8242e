"""Slurm through the engine against plain `sbatch`, on a real Slurm of this run: submit, observe, inventory.

    python benchmarks/slurm.py [--jobs 1000] [--nodes 20]

The partition takes jobs and starts none (`State=DOWN`), so that both sides meet the same idle controller. Plain: the
same batch script through `sbatch --parsable`, one process a job, likewise one after another or several at once.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from _bench import ROOT, machine, met, say, scratch

sys.path.insert(0, str(ROOT))  # the cluster is the one of the tests
from tests.slurm.cluster import Cluster, install

from dujiang.engines.contract import AttemptKey, Launch, RankPlacement
from dujiang.engines.slurm.commands import LocalCommands
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import SystemClock

MOST_OVERHEAD = 1.3
AT_ONCE = (1, 8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=20)
    args = parser.parse_args()
    print(machine())
    install()
    with scratch("slurm") as folder, Cluster(folder / "c", nodes=args.nodes) as cluster:
        cluster.client("scontrol", "update", "PartitionName=all", "State=DOWN")
        rows = asyncio.run(measure(folder, cluster, args.jobs))
    say(
        f"{args.jobs} jobs to Slurm, {args.nodes} nodes",
        ["what", "ours", "plain sbatch", "ours to plain", f"met: <= {MOST_OVERHEAD}"],
        rows,
    )


async def measure(folder: Path, cluster: Cluster, count: int) -> list[list[str]]:
    """Return the rows."""
    rows: list[list[str]] = []
    settings = SlurmSettings(work_dir="", conf=str(cluster.conf), allow_root=True, poll_s=0.2)
    script = folder / "job.sh"
    script.write_text("#!/bin/sh\nexec sleep 1\n")
    options = ("--parsable", "--no-requeue", "--job-name=plain", "--nodes=1", "--mem=128", "--cpus-per-task=1")
    commands = LocalCommands(settings)
    for at_once in AT_ONCE:
        engine = SlurmEngine(replace(settings, work_dir=str(folder / f"work{at_once}")), clock=SystemClock())
        launches = [_launch(cluster, number, at_once) for number in range(count)]
        await engine.submit(_launch(cluster, count, at_once))  # the nodes are known from here on
        ours_s = plain_s = 0.0
        for part in (launches[: count // 2], launches[count // 2 :]):  # by turns: the queue is as long for both
            plain_s += await _each(lambda _: commands.run("sbatch", *options, str(script)), part, at_once)
            ours_s += await _each(engine.submit, part, at_once)
        words = "one by one" if at_once == 1 else f"{at_once} at once"
        ratio = ours_s / plain_s
        rates = [f"{count / ours_s:.0f}/s", f"{count / plain_s:.0f}/s", f"{ratio:.2f} times as long"]
        rows.append([f"submit, {words}", *rates, met(ratio <= MOST_OVERHEAD)])
        keys = [launch.key for launch in launches]
        began = time.perf_counter()
        seen = await engine.observe(keys)
        rows.append([f"observe {len(seen)} that wait", f"{time.perf_counter() - began:.2f} s", "", "", ""])
        began = time.perf_counter()
        nodes = await engine.inventory()
        rows.append([f"inventory of {len(nodes)} nodes", f"{time.perf_counter() - began:.2f} s", "", "", ""])
        await engine.close()
        cluster.client("scancel", "--quiet", "--state=PENDING", "--partition=all", check=False)
    return rows


def _launch(cluster: Cluster, number: int, at_once: int) -> Launch:
    node = cluster.nodes[number % len(cluster.nodes)]
    return Launch(
        AttemptKey(f"job_{at_once}x{number}", 1),
        "bench",
        "bench",
        "exec sleep 1",
        (RankPlacement(0, node, 1000, 128 << 20),),
        time_limit_s=3600.0,
    )


async def _each(do: Callable[[Launch], Awaitable[object]], launches: list[Launch], at_once: int) -> float:
    """Do it for each, so many at once; return how long that took, s."""
    gate = asyncio.Semaphore(at_once)

    async def one(launch: Launch) -> None:
        async with gate:
            await do(launch)

    began = time.perf_counter()
    await asyncio.gather(*map(one, launches))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
