"""A Kubernetes of 5,000 nodes of eight GPUs: how long one look at all of it takes, and how much memory that needs.

    python benchmarks/kubernetes_inventory.py [--nodes 5000] [--pods 10000]

etcd and API server are the real ones; KWOK lets the nodes live. Nodes have the labels and the list of images of real
GPU nodes. A process of its own looks through the engine, while the cluster beats beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _bench import ROOT, machine, memory_mb, met, quantile, say, say_machine

sys.path.insert(0, str(ROOT))

LOOK_TARGET_S, MEMORY_TARGET_MB = 5.0, 300.0
READY_WITHIN_S, PAUSE_S = 300.0, 2.0
FEATURES = 60
"""Labels of feature discovery that a GPU node has beside its own: CPU flags, PCI classes, driver and card."""


def main() -> None:
    """Start the cluster, let a process of its own look at it, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=10_000, help="of others, each of one GPU")
    parser.add_argument("--looks", type=int, default=10)
    parser.add_argument("--look", type=Path, metavar="KUBECONFIG", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.look:
        print(json.dumps(asyncio.run(look(args.look, args.looks))))
        return
    print(machine())
    from tests.kubernetes.cluster import Cluster  # needs root and compilers: not for those who only look

    folder = Path(tempfile.mkdtemp(prefix="dujiang-bench-kubernetes-"))
    try:
        with Cluster(folder / "c", nodes=0, with_fakes=True) as cluster:
            taken_s = fill(cluster, args.nodes, args.pods)
            command = [sys.executable, __file__, "--look", str(cluster.kubeconfig()), "--looks", str(args.looks)]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(args, told, taken_s)


def report(args: argparse.Namespace, told: dict[str, Any], taken_s: float) -> None:
    """Print what was measured."""
    assert (told["nodes"], told["devices"]) == (args.nodes, args.nodes * 8 - args.pods), told
    first, again, rss, peak = told["first_s"], told["again_s"], told["rss_mb"], told["peak_mb"]
    slowest = max(again)
    rows: list[list[object]] = [
        ["first look: all listed and told", 1, f"{first:.2f} s", "<= 5 s", met(first <= LOOK_TARGET_S)],
        ["its processor time here", 1, f"{told['first_cpu_s']:.2f} s", "", ""],
        ["further looks, p50", len(again), f"{quantile(again, 0.5):.2f} s", "", ""],
        ["further looks, max", len(again), f"{slowest:.2f} s", "<= 5 s", met(slowest <= LOOK_TARGET_S)],
        [f"of a core, with a look each {PAUSE_S:g} s", len(again), f"{told['cpu_share']:.2f}", "", ""],
        ["memory of the process (RSS)", 1, f"{rss:.0f} MB", "<= 300 MB", met(rss <= MEMORY_TARGET_MB)],
        ["its highest (VmHWM)", 1, f"{peak:.0f} MB", "<= 300 MB", met(peak <= MEMORY_TARGET_MB)],
        ["before the first look", 1, f"{told['before_mb']:.0f} MB", "", ""],
    ]
    nodes = f"{args.nodes:,} nodes of 8 GPUs ({told['ready']:,} ready)"
    title = f"{nodes}, {args.pods:,} Pods of others (made in {taken_s:.0f} s)"
    say(title, ["", "n", "measured", "target", "met"], rows)
    say_machine("make bench B=kubernetes_inventory")


def fill(cluster: Any, nodes: int, pods: int) -> float:
    """Make the nodes and the Pods, and wait until they are ready; return how long that took."""
    from tests.kubernetes import fakes

    begun = time.perf_counter()
    names = [f"gpu-{number:05}" for number in range(nodes)]

    def add_node(name: str) -> None:
        node: Any = fakes.node(name, 8)
        node["metadata"]["labels"] |= features(int(name.rpartition("-")[2]))
        node["status"]["images"] = [
            {"names": [f"registry.example/team/image-{n}@sha256:{n:064x}"], "sizeBytes": 10**9 + n} for n in range(50)
        ]
        cluster.request("POST", "/api/v1/nodes", node)

    def add_pod(number: int) -> None:
        resources = {"requests": {"cpu": "8", "memory": "64Gi"}, "limits": {"nvidia.com/gpu": "1"}}
        spec = {
            "nodeName": names[number % nodes],
            "containers": [{"name": "main", "image": "none", "resources": resources}],
        }
        cluster.request("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": f"p{number}"}, "spec": spec})

    # Without them nodes whose beats come late on a busy machine stay ready; a look asks neither.
    for program in ("controllers", "scheduler"):
        cluster.stop(program)
    for many, add, what in ((names, add_node, "nodes"), (range(pods), add_pod, "Pods")):
        _each(add, many)
        print(f"{len(many):,} {what} made, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    deadline = time.monotonic() + READY_WITHIN_S
    while (ready := sum(1 for _ in cluster._ready_nodes())) < nodes and time.monotonic() < deadline:
        print(f"{ready:,} nodes ready, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        time.sleep(10)
    return time.perf_counter() - begun


def features(number: int) -> dict[str, str]:
    """Return the labels of a node's features, as node and GPU feature discovery write them."""
    found = {f"feature.node.kubernetes.io/cpu-cpuid.FEATURE{n}": "true" for n in range(FEATURES)}
    return found | {
        "nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.family": "hopper", "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gfd.timestamp": str(1_700_000_000 + number), "nvidia.com/cuda.driver-version.full": "580.126.20",
        "topology.kubernetes.io/zone": f"zone-{number % 3}", "topology.kubernetes.io/rack": f"rack-{number // 16:04}",
        "network.topology.nvidia.com/leaf": f"leaf-{number // 32:04}", "node.kubernetes.io/instance-type": "gpu.8x",
    }  # fmt: skip


async def look(kubeconfig: Path, looks: int) -> dict[str, Any]:
    """Look at a cluster through the engine, and say what it took."""
    from dujiang.engines.kubernetes.engine import KubernetesEngine
    from dujiang.engines.kubernetes.settings import KubernetesSettings
    from dujiang.kit.clock import SystemClock

    settings = KubernetesSettings(kubeconfig=str(kubeconfig), request_timeout_s=120)
    engine = KubernetesEngine(settings, clock=SystemClock(), archive=kubeconfig.parent / "archive", mark="bench")
    before_mb, taken, begun = memory_mb(os.getpid())[0], list[float](), time.perf_counter()
    ran_s = time.process_time()
    told = await engine.inventory()
    first_s, first_cpu_s, ran_s = time.perf_counter() - begun, time.process_time() - ran_s, time.process_time()
    for _ in range(looks):
        await asyncio.sleep(PAUSE_S)  # they beat: some have changed meanwhile
        begun = time.perf_counter()
        told = await engine.inventory()
        taken.append(time.perf_counter() - begun)
    ran_s = time.process_time() - ran_s
    found = {
        "nodes": len(told), "ready": sum(node.ready for node in told),
        "devices": sum(len(node.devices) for node in told), "first_s": first_s, "again_s": taken,
        "first_cpu_s": first_cpu_s,
        "cpu_share": ran_s / (looks * PAUSE_S + sum(taken)), "before_mb": before_mb,
        "rss_mb": memory_mb(os.getpid())[0], "peak_mb": _peak_mb(),
    }  # fmt: skip
    await engine.close()
    return found


def _each(add: Callable[[Any], None], many: Any) -> None:
    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(add, many):
            pass


def _peak_mb() -> float:
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(rows["VmHWM"].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
