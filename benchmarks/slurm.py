"""Slurm through the engine, by commands and over REST, against plain `sbatch`: submit, observe, inventory.

    python benchmarks/slurm.py [--jobs 1000] [--nodes 20] [--others 1000] [--newer]

The partition takes jobs and starts none (`State=DOWN`), and jobs of others wait in the queue already, so that all sides
meet the same idle controller. Plain: the same batch script through `sbatch --parsable`, one process a job. The sides
take turns, 25 jobs each, one after another or 8 at once. `--newer` takes Slurm 24.11 (v0.0.42), commands by `chroot`.
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
from tests.slurm import newer
from tests.slurm.cluster import Cluster, install
from tests.slurm.newer import NewerCluster

from dujiang.engines.contract import AttemptKey, Launch, RankPlacement
from dujiang.engines.slurm.commands import LocalCommands
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import SystemClock

MOST_OVERHEAD = 1.3
AT_ONCE = (1, 8)
TURN = 25


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--others", type=int, default=1000)
    parser.add_argument("--newer", action="store_true")
    args = parser.parse_args()
    print(machine())
    install()
    with scratch("slurm") as folder:
        folder.chmod(0o755)
        made = NewerCluster(folder / "c", newer.install()) if args.newer else Cluster(folder / "c", nodes=args.nodes)
        with made as cluster:
            cluster.client("scontrol", "update", "PartitionName=all", "State=DOWN")
            others = ("sbatch", "--parsable", f"--array=1-{args.others}", "-o", "/dev/null", "--wrap", "true")
            if args.others:
                cluster.client(*others, "--comment=others")
            rows = asyncio.run(measure(folder, cluster, args.jobs))
    say(
        f"{args.jobs} jobs a side to Slurm{' 24.11' if args.newer else ''}, {len(cluster.nodes)} nodes, "
        f"{args.others} jobs of others in the queue",
        ["what", "ours", "over REST", "plain sbatch", "ours to plain", f"met: <= {MOST_OVERHEAD}"],
        rows,
    )


async def measure(folder: Path, cluster: Cluster, count: int) -> list[list[str]]:
    """Return the rows."""
    rows: list[list[str]] = []
    commands = str(cluster.commands) if isinstance(cluster, NewerCluster) else ""
    settings = SlurmSettings(work_dir="", conf=str(cluster.conf), allow_root=True, poll_s=0.2, commands=commands)
    script = folder / "job.sh"
    script.write_text("#!/bin/sh\nexec sleep 1\n")
    options = ("--parsable", "--no-requeue", "--job-name=plain", "--nodes=1", "--mem=128", "--cpus-per-task=1")
    plain = LocalCommands(settings)
    url = cluster.start_rest()
    for at_once in AT_ONCE:
        by_rest = replace(
            settings, work_dir=str(folder / f"rest{at_once}"), rest_url=url, rest_key_file=str(cluster.jwt_key),
            commands=str(folder / "none"),
        )  # fmt: skip
        ours = SlurmEngine(replace(settings, work_dir=str(folder / f"work{at_once}")), clock=SystemClock())
        rest = SlurmEngine(by_rest, clock=SystemClock())
        launches = [_launch(cluster, number, at_once) for number in range(count)]
        for engine in (ours, rest):
            await engine.submit(_launch(cluster, count, at_once))  # the nodes are known from here on
        took = {"plain": 0.0, "ours": 0.0, "rest": 0.0}
        for begin in range(0, count, TURN):  # by turns: the queue is as long for all
            part = launches[begin : begin + TURN]
            took["plain"] += await _each(lambda _: plain.run("sbatch", *options, str(script)), part, at_once)
            took["ours"] += await _each(ours.submit, part, at_once)
            took["rest"] += await _each(rest.submit, part, at_once)
        words = "one by one" if at_once == 1 else f"{at_once} at once"
        ratio = took["ours"] / took["plain"]
        rates = [f"{count / took[side]:.0f}/s" for side in ("ours", "rest", "plain")]
        rows.append([f"submit, {words}", *rates, f"{ratio:.2f} times as long", met(ratio <= MOST_OVERHEAD)])
        keys = [launch.key for launch in launches]
        for words in (
            "observe",
            "observe again",
        ):  # at first slurmrestd lists every job, then states alone where it can
            looks = [await _timed(engine.observe(keys)) for engine in (ours, rest)]
            rows.append([f"{words} {count} that wait", *looks, "", "", ""])
            await asyncio.sleep(2 * settings.poll_s)
        looks = [await _timed(engine.inventory()) for engine in (ours, rest)]
        rows.append([f"inventory of {len(cluster.nodes)} nodes", *looks, "", "", ""])
        for engine in (ours, rest):
            await engine.close()
        cluster.client("scancel", "--quiet", "--state=PENDING", "--name=plain", check=False)
        numbers = cluster.client("squeue", "-h", "-o", "%i %k").splitlines()
        mine = [line.split()[0] for line in numbers if line.split()[1].startswith("dujiang:")]
        cluster.client("scancel", "--quiet", *mine, check=False)
    return rows


async def _timed(asked: Awaitable[object]) -> str:
    began = time.perf_counter()
    await asked
    return f"{time.perf_counter() - began:.2f} s"


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
