"""One look at 10,000 attempts of ours that run on a Kubernetes with fake nodes, and how much memory they need.

    python benchmarks/kubernetes_observe.py [--attempts 10000]

Records and Pods are made through the engine on the real API server; KWOK lets the Pods run. Then a process of its own
looks: first when it knows nothing, then again and again, and once with nothing kept of earlier looks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _bench import machine, memory_mb, met, quantile, say, say_machine
from _kubernetes import Cluster, control_plane, each, engine_of, launch_of, on
from dujiang.engines.contract import Phase
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock

TARGET_S, PODS_A_NODE, PROJECT, MARK = 2.0, 100, "observed", "bench"
WITHIN_S = 600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("--look", type=Path, metavar="KUBECONFIG", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.look:
        print(json.dumps(asyncio.run(look(args.look, args.looks))))
        return
    print(machine())
    with control_plane(-(-args.attempts // PODS_A_NODE)) as (cluster, nodes):
        made_s, running_s = asyncio.run(fill(cluster, nodes, args.attempts))
        command = [sys.executable, __file__, "--look", str(cluster.kubeconfig()), "--looks", str(args.looks)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    report(args, told, made_s, running_s)


def report(args: argparse.Namespace, told: dict[str, Any], made_s: float, running_s: float) -> None:
    """Print what was measured."""
    assert told["running"] == args.attempts, told
    again, anew = told["again_s"], told["anew_s"]
    rows: list[list[object]] = [
        ["first look of a new process: all listed", 1, f"{told['first_s']:.2f} s", "", ""],
        ["a look with nothing kept of earlier ones, max", len(anew), _s(max(anew)), "<= 2 s", _met(max(anew))],
        ["further looks, p50", len(again), _s(quantile(again, 0.5)), "", ""],
        ["further looks, max", len(again), _s(max(again)), "<= 2 s", _met(max(again))],
        ["memory of the process (RSS)", 1, f"{told['rss_mb']:.0f} MB", "", ""],
        ["before the first look", 1, f"{told['before_mb']:.0f} MB", "", ""],
    ]
    title = f"{args.attempts:,} attempts that run (made in {made_s:.0f} s, all running after {running_s:.0f} s)"
    say(title, ["", "n", "measured", "target", "met"], rows)
    say_machine("make bench B=kubernetes_observe")


async def fill(cluster: Cluster, nodes: list[str], attempts: int) -> tuple[float, float]:
    """Make the attempts and wait until they run; return how long both took."""
    engine = engine_of(cluster)
    launches = [launch_of(f"job_{number}", on(nodes[number % len(nodes)]), PROJECT) for number in range(attempts)]
    keys = [launch.key for launch in launches]
    begun = time.perf_counter()
    made_s = await each(engine.submit, launches, 32)
    deadline = time.monotonic() + WITHIN_S
    while sum(one.phase is Phase.RUNNING for one in (await engine.observe(keys)).values()) < attempts:
        assert time.monotonic() < deadline, "they do not all run"
        await asyncio.sleep(2)
    running_s = time.perf_counter() - begun
    await engine.close()
    return made_s, running_s


async def look(kubeconfig: Path, looks: int) -> dict[str, Any]:
    """Look at everything through an engine that knows nothing yet, and say what it took."""
    settings = KubernetesSettings(kubeconfig=str(kubeconfig), request_timeout_s=120)
    engine = KubernetesEngine(settings, clock=SystemClock(), archive=kubeconfig.parent / "archive", mark=MARK)
    before_mb, begun = memory_mb(os.getpid())[0], time.perf_counter()
    keys = await engine.attempts()
    seen = await engine.observe(keys)
    first_s = time.perf_counter() - begun
    taken: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * looks):
        await asyncio.sleep(0.5)
        if is_anew := number >= looks:
            engine._seen._steady.clear()
        begun = time.perf_counter()
        seen = await engine.observe(keys)
        taken[is_anew].append(time.perf_counter() - begun)
    found = {
        "running": sum(one.phase is Phase.RUNNING for one in seen.values()), "first_s": first_s,
        "again_s": taken[False], "anew_s": taken[True], "before_mb": before_mb, "rss_mb": memory_mb(os.getpid())[0],
    }  # fmt: skip
    await engine.close()
    return found


def _s(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _met(seconds: float) -> str:
    return met(seconds <= TARGET_S)


if __name__ == "__main__":
    main()
