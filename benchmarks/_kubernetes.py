"""What benchmarks of the Kubernetes engine share: a real control plane with fake nodes, launches, plain requests."""

from __future__ import annotations

import asyncio
import copy
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from _bench import ROOT, _children, cpu_seconds, scratch

sys.path.insert(0, str(ROOT))  # the cluster is the one of the tests
from tests.kubernetes import fakes
from tests.kubernetes.cluster import Cluster

from dujiang.engines.contract import AttemptKey, Launch, RankPlacement
from dujiang.engines.kubernetes import records
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock

__all__ = ["Cluster", "fakes"]
T = TypeVar("T")

CPU_MILLI, MEMORY_BYTES = 100, 128 << 20
MARK = "bench"


@contextmanager
def control_plane(nodes: int, *, gpus: int = 8, prefix: str = "fake") -> Iterator[tuple[Cluster, list[str]]]:
    """Start etcd, API server, controllers, scheduler and KWOK; give the cluster and the names of its fake nodes."""
    with scratch("kubernetes") as folder, Cluster(folder / "c", nodes=0, with_fakes=True) as cluster:
        yield cluster, cluster.add_fake_nodes(nodes, gpus, prefix=prefix)


def settings_of(cluster: Cluster, **more: Any) -> KubernetesSettings:
    """Return how the engine reaches it; a network policy is nothing that is measured here."""
    chosen = {"image": "none", "namespace_prefix": "", "isolate": False, "request_timeout_s": 120.0, **more}
    return KubernetesSettings(kubeconfig=str(cluster.kubeconfig()), **chosen)


def engine_of(cluster: Cluster, *, api: Api | None = None, mark: str = MARK, **more: Any) -> KubernetesEngine:
    """Return an engine over it."""
    archive = cluster.folder / "archive"
    return KubernetesEngine(settings_of(cluster, **more), clock=SystemClock(), archive=archive, mark=mark, api=api)


def launch_of(job: str, ranks: Sequence[RankPlacement], project: str) -> Launch:
    """Return a launch as the platform makes it of a plain job."""
    return Launch(AttemptKey(job, 1), "bench", project, "exec sleep 60", tuple(ranks), time_limit_s=3600.0)


def on(node: str) -> tuple[RankPlacement, ...]:
    """Return one rank without devices on a node."""
    return (RankPlacement(0, node, CPU_MILLI, MEMORY_BYTES),)


class Bodies(Api):
    """An API server, asked as ever, that keeps what was created: the same can then be created without an engine."""

    def __init__(self, settings: KubernetesSettings) -> None:
        super().__init__(settings, clock=SystemClock())
        self.made: dict[str, list[tuple[str, dict[str, Any]]]] = {}

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create, and keep what."""
        self.made.setdefault(path.rpartition("/")[2], []).append((path, dict(body)))
        return await super().create(path, body)


def renamed(body: Mapping[str, Any], name: str, node: str | None, mark: str) -> dict[str, Any]:
    """Return an object of the engine under another name, on another node, of nobody, and no record."""
    meta = {key: value for key, value in body["metadata"].items() if key not in ("ownerReferences", "finalizers")}
    meta |= {"name": name, "labels": {**meta["labels"], records.MARK: mark}}
    notes = dict(meta["annotations"])
    for note in (records.LAUNCH, records.MADE):
        notes.pop(note, None)
    meta["annotations"] = notes
    found = {**body, "metadata": meta}
    if node is not None:
        affinity = copy.deepcopy(body["spec"]["affinity"])
        (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        term["matchFields"][0]["values"] = [node]
        found["spec"] = {**body["spec"], "affinity": affinity}
    return found


async def each(do: Callable[[T], Awaitable[object]], many: Sequence[T], at_once: int) -> float:
    """Do it for each, so many at once; return how long that took, s."""
    waiting = iter(many)

    async def worker() -> None:
        for one in waiting:
            await do(one)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - began


def cpu_of(cluster: Cluster, *names: str) -> float:
    """Return the processor time of programs of the control plane so far, s; of one that was stopped none."""
    started = cluster._control._programs
    there = [started[name] for name in names if name in started]
    return sum(cpu_seconds(pid) for program in there for pid in _children(program.pid))


def count(cluster: Cluster, path: str, is_so: Callable[[dict[str, Any]], bool], **query: str) -> int:
    """Return of how many objects something is so, from what the API server has in memory."""
    asked = "&".join(f"{key}={value}" for key, value in {"resourceVersion": "0", **query}.items())
    return sum(map(is_so, cluster.request("GET", f"{path}?{asked}")["items"]))


def is_bound(pod: dict[str, Any]) -> bool:
    """Say whether a Pod has its node."""
    return bool(pod["spec"].get("nodeName"))
