"""Pods bound a second: our plan and the engine against kube-scheduler alone, on 500 fake nodes of 8 GPUs; and gangs.

    python benchmarks/kubernetes_binding.py [--nodes 500] [--pods 2000] [--gangs 40]

Peer: kube-scheduler binds one-GPU Pods that were all there before it was started; and it binds them while they are
created. Ours: one plan over the inventory, each job submitted through the engine, until the last Pod
has its node. Then gangs of 16 times 8 GPUs; and two of them on 20 nodes, as plain Pods and through us.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from _bench import machine, met, say, say_machine
from _kubernetes import (
    Cluster,
    control_plane,
    count,
    cpu_of,
    each,
    engine_of,
    fakes,
    is_bound,
    launch_of,
    on,
    settings_of,
)
from dujiang.engines.contract import AttemptKey, NodeFacts, Phase, RankPlacement
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.kit.clock import SystemClock
from dujiang.scheduling.domain import (
    Ask,
    ClusterRow,
    DeviceRow,
    NodeRow,
    Request,
    fleet_of_rows,
    plan,
    snapshot_of_rows,
)

AT_ONCE, RANKS, DEADLOCK_NODES, DEADLOCK_S = 64, 16, 20, 30.0
WITHIN_S = 300.0
ONE = {"requests": {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}
WHOLE = {"requests": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "8"}, "limits": {"nvidia.com/gpu": "8"}}
PLAIN = "/api/v1/namespaces/default/pods"
PROGRAMS = {"us": (), "API server and etcd": ("api", "etcd"), "scheduler": ("scheduler",), "KWOK": ("kwok",)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--gangs", type=int, default=40)
    args = parser.parse_args()
    print(machine())
    with control_plane(args.nodes) as (cluster, _):
        rows = asyncio.run(binding(cluster, args.pods))
        gangs = asyncio.run(whole_gangs(cluster, args.gangs, args.nodes // RANKS))
    title = f"{args.pods:,} Pods of one GPU, {args.nodes} nodes of 8, {AT_ONCE} requests at once"
    say(
        title,
        [
            "",
            "Pods",
            "s until all are bound",
            "bound a second",
            "s until all run",
            f"processor ms a Pod: {', '.join(PROGRAMS)}",
        ],
        rows,
    )
    say(f"Gangs of {RANKS} ranks of 8 GPUs, {args.nodes} nodes", ["", ""], gangs)
    with control_plane(DEADLOCK_NODES) as (cluster, _):
        told = asyncio.run(deadlock(cluster))
    say(f"Two gangs of {RANKS} times 8 GPUs, {DEADLOCK_NODES} nodes", ["", "gang a", "gang b"], told)
    say_machine("make bench B=kubernetes_binding")


# -- one GPU each -----------------------------------------------------------------------------------------------------


async def binding(cluster: Cluster, pods: int) -> list[list[object]]:
    """Return the rows of what binds how many a second."""
    before, beside = ([plain_pod(f"{way}{number}", ONE) for number in range(pods)] for way in "ab")
    rows: list[list[object]] = []
    async with asking(cluster) as api:
        cluster.stop("scheduler")
        await each(lambda body: api.create(PLAIN, body), before, AT_ONCE)
        async with Bound(cluster, api, PLAIN) as bound:
            cluster.start("scheduler")
            used = processors(cluster)
            await bound.wait(pods)
            what = "kube-scheduler, all there before it was started; first to last"
            peer = await rate(rows, what, bound.first_s, bound, used)
        await clear(cluster, api)

        async with Bound(cluster, api, PLAIN) as bound:
            began, used = time.perf_counter(), processors(cluster)
            await each(lambda body: api.create(PLAIN, body), beside, AT_ONCE)
            await bound.wait(pods)
            whole = await rate(rows, "kube-scheduler, while they are created; all of it", began, bound, used)
        await clear(cluster, api)
    bound_first = await ours_binds(cluster, pods, rows, before=True)
    ours = await ours_binds(cluster, pods, rows, before=False)
    named = await ours_binds(cluster, pods, rows, before=False, placement="bound")
    for what, mine, theirs in (
        ("binding alone, ours to the peer's", bound_first, peer),
        ("all of it, ours to the peer's", ours, whole),
        ("all of ours to the peer's binding alone", ours, peer),
        ('all of it with placement = "bound", ours to the peer\'s', named, whole),
        ('all of ours with placement = "bound" to the peer\'s binding alone', named, peer),
    ):
        rows.append([what, "", f"{mine / theirs:.2f} times as many", met(mine >= theirs), "", ""])
    return rows


async def ours_binds(
    cluster: Cluster, pods: int, rows: list[list[object]], *, before: bool, placement: str = "pinned"
) -> float:
    """Return how many Pods we have bound a second: from the plan on, or after all were submitted before."""
    project = f"ours-{placement}-{before}".lower()
    engine = engine_of(cluster, mark=project, placement=placement)
    first = launch_of("first", on((await engine.inventory())[0].name), project)
    await engine.submit(first)
    await phase(engine, [first.key], Phase.RUNNING)  # the namespace is there, and everything is connected
    path = f"/api/v1/namespaces/{project}/pods"
    if before:
        cluster.stop("scheduler")
    async with asking(cluster) as api, Bound(cluster, api, path) as bound:
        requests = [request(f"job_{number}", ask(1000)) for number in range(pods)]
        facts = await engine.inventory()
        planned(facts, requests[:1])  # compiled, as the platform does before the first is wanted
        began, used = time.perf_counter(), processors(cluster)
        starts = planned(facts, requests)
        planned_s = time.perf_counter() - began
        assert len(starts) == pods, f"{len(starts)} planned"
        launches = [launch_of(job, ranks, project) for job, ranks in starts.items()]
        submitted_s = await each(engine.submit, launches, AT_ONCE)
        if before:
            await engine.close()  # what it does of each start is not binding
            cluster.start("scheduler")
            used = processors(cluster)
        await bound.wait(pods)
        if before:
            what = "ours, all submitted before kube-scheduler was started, the engine away; first to last"
            found = await rate(rows, what, bound.first_s, bound, used)
            engine = engine_of(cluster, mark=project, placement=placement)
        else:
            found = await rate(rows, f"ours, {placement}: plan, submit, until all are bound", began, bound, used)
            rows.append(["of that: the plan", pods, f"{planned_s:.2f}", f"{pods / planned_s:.0f}/s", "", ""])
            rows.append(["of that: until all submits were answered", pods, f"{submitted_s:.1f}", "", "", ""])
        await finish(engine, [launch.key for launch in launches], api, project)
        await engine.close()
        await each(
            lambda name: api.patch(f"{path}/{name}", {"metadata": {"finalizers": None}}), list(bound.nodes), AT_ONCE
        )
        await clear(cluster, api, path)
    return found


async def rate(rows: list[list[object]], what: str, began: float, bound: Bound, used: list[float]) -> float:
    """Add a row once all that are bound run, and return how many were bound a second."""
    taken, pods = bound.last_s - began, len(bound.nodes)
    await bound.wait(pods, run=True)
    ms = [(now - before) / pods * 1e3 for now, before in zip(processors(bound.cluster), used, strict=True)]
    told = [f"{pods / taken:.0f}/s", f"{bound.run_s - began:.1f}", ", ".join(f"{each:.1f}" for each in ms)]
    rows.append([what, pods, f"{taken:.1f}", *told])
    print(rows[-1], file=sys.stderr)
    return pods / taken


def processors(cluster: Cluster) -> list[float]:
    """Return the processor time of each program so far, s."""
    return [cpu_of(cluster, *names) if names else time.process_time() for names in PROGRAMS.values()]


# -- gangs ------------------------------------------------------------------------------------------------------------


async def whole_gangs(cluster: Cluster, gangs: int, fit: int) -> list[list[object]]:
    """Ask for more gangs than fit, and return how many stand whole."""
    engine = engine_of(cluster, mark="gangs")
    await engine.inventory()
    requests = [request(f"gang_{number}", ask(8000), ranks=RANKS) for number in range(gangs)]
    async with asking(cluster) as api, Bound(cluster, api, "/api/v1/namespaces/gangs/pods") as bound:
        began = time.perf_counter()
        starts = planned(await engine.inventory(), requests)
        launches = [launch_of(job, ranks, "gangs") for job, ranks in starts.items()]
        await each(engine.submit, launches, AT_ONCE)
        await bound.wait(len(starts) * RANKS)
        taken = bound.last_s - began
        await asyncio.sleep(5)
        sizes = Counter(Counter(name.rpartition("-")[0] for name in bound.nodes).values())
        await finish(engine, [launch.key for launch in launches], api, "gangs")
    await engine.close()
    assert len(starts) == fit, f"{len(starts)} of {fit} gangs planned"
    return [
        ["asked for, fit", f"{gangs}, {fit}"],
        ["started by one plan", len(starts)],
        [f"whole: all {RANKS} Pods bound", f"{sizes[RANKS]}, after {taken:.1f} s"],
        ["a part of them bound", sum(sizes.values()) - sizes[RANKS]],
    ]


async def deadlock(cluster: Cluster) -> list[list[object]]:
    """Return how many Pods of two gangs that do not fit together are bound, as plain Pods and through us."""
    async with asking(cluster) as api:
        mixed = [plain_pod(f"{gang}-{rank}", WHOLE) for rank in range(RANKS) for gang in "ab"]
        async with Bound(cluster, api, PLAIN) as bound:
            await each(lambda body: api.create(PLAIN, body), mixed, 1)
            await asyncio.sleep(DEADLOCK_S)
            alone = bound.by_gang()
        await clear(cluster, api)
        rows: list[list[object]] = [[f"plain Pods, kube-scheduler: bound after {DEADLOCK_S:g} s", *alone]]
        engine = engine_of(cluster, mark="ours")
        waiting = {f"job_{gang}": request(f"job_{gang}", ask(8000), ranks=RANKS) for gang in "ab"}
        async with Bound(cluster, api, "/api/v1/namespaces/ours/pods") as bound:
            while waiting:
                starts = planned(await engine.inventory(), list(waiting.values()))
                assert len(starts) == 1, starts
                ((job, ranks),) = starts.items()
                del waiting[job]
                launch = launch_of(job, ranks, "ours")
                await engine.submit(launch)
                await bound.wait(RANKS * (2 - len(waiting)))
                await phase(engine, [launch.key], Phase.RUNNING)
                rows.append([f"ours, {job[-1]} runs: bound", *bound.by_gang()])
                await finish(engine, [launch.key], api, "ours")
        await engine.close()
    return rows


# -- helpers ----------------------------------------------------------------------------------------------------------


class Bound:
    """Counts the Pods of a namespace as they get their nodes, and as they run."""

    def __init__(self, cluster: Cluster, api: Api, path: str) -> None:
        self.cluster, self._api, self._path = cluster, api, path
        self.nodes: dict[str, str] = {}
        self.running: set[str] = set()
        self.first_s = self.last_s = self.run_s = 0.0

    async def __aenter__(self) -> Bound:
        _, version = await self._api.list(self._path, lambda _: None)
        self._task = asyncio.create_task(self._watch(version))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def wait(self, pods: int, *, run: bool = False) -> None:
        """Wait until so many are bound, or run."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.running if run else self.nodes) < pods:
                assert not self._task.done(), self._task
                await asyncio.sleep(0.02)

    def by_gang(self) -> list[str]:
        """Return of how many Pods each gang's are, of the names `...a-...` and `...b-...`."""
        gangs = Counter(name.split("-")[0] if name[1] == "-" else name.split("-")[2] for name in self.nodes)
        return [f"{gangs['a']} of {RANKS}", f"{gangs['b']} of {RANKS}"]

    async def _watch(self, version: str) -> None:
        while True:  # a server with much to do ends a watch that is slow to read
            async with contextlib.aclosing(self._api.watch(self._path, version=version, timeout_s=3000)) as events:
                async for kind, pod in events:
                    version = pod["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK" and is_bound(pod):
                        self._note(pod["metadata"]["name"], pod["spec"]["nodeName"], pod["status"].get("phase"))

    def _note(self, name: str, node: str, phase: str) -> None:
        if name not in self.nodes:
            self.last_s = time.perf_counter()
            self.first_s = self.first_s or self.last_s
            self.nodes[name] = node
        if phase == "Running" and name not in self.running:
            self.run_s = time.perf_counter()
            self.running.add(name)


@contextlib.asynccontextmanager
async def asking(cluster: Cluster) -> AsyncIterator[Api]:
    """Give an API of its own."""
    api = Api(settings_of(cluster), clock=SystemClock())
    try:
        yield api
    finally:
        await api.close()


def planned(facts: Sequence[NodeFacts], requests: Sequence[Request]) -> dict[str, tuple[RankPlacement, ...]]:
    """Return what one plan starts on what the engine shows, and where."""
    rows = [
        NodeRow(
            "c", node.name, node.cpu_milli, node.memory_bytes, node.disk_bytes,
            tuple(DeviceRow(one.name, one.index, one.vendor, one.model, one.memory_bytes) for one in node.devices),
            node.ready and not node.cordoned,
        ) for node in facts
    ]  # fmt: skip
    made = plan(snapshot_of_rows(fleet_of_rows([ClusterRow("c")], rows), requests=requests), datetime.now(UTC))
    return {start.job_id: start.ranks for start in made.starts}


def ask(gpu_milli: int) -> Ask:
    """Return what a rank wants."""
    return Ask(gpu_milli, 0, "", "", gpu_milli, gpu_milli // 1000 * 8 << 30)


def request(job: str, each_rank: Ask, *, ranks: int = 1) -> Request:
    """Return a job that waits."""
    return Request(job, "bench", each_rank, datetime.now(UTC), ranks=ranks)


def plain_pod(name: str, resources: dict[str, Any]) -> dict[str, Any]:
    """Return a Pod that goes anywhere."""
    box = {"name": "job", "image": "none", "resources": resources}
    spec = {"containers": [box], "restartPolicy": "Never", "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def phase(engine: KubernetesEngine, keys: Sequence[AttemptKey], wanted: Phase) -> None:
    """Wait until all attempts are in a phase."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            seen = await engine.observe(keys)
            if len(seen) == len(keys) and all(one.phase is wanted for one in seen.values()):
                return
            await engine.changed(5.0)


async def finish(engine: KubernetesEngine, keys: Sequence[AttemptKey], api: Api, namespace: str) -> None:
    """Let the Pods of attempts end by themselves, and wait for their ends."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    change = {"metadata": {"annotations": {fakes.ENDS_AFTER: "0s"}}}
    await phase(engine, keys, Phase.RUNNING)
    names, _ = await api.list(path, lambda pod: str(pod["metadata"]["name"]))
    await each(lambda name: api.patch(f"{path}/{name}", change), names, AT_ONCE)
    await phase(engine, keys, Phase.ENDED)


async def clear(cluster: Cluster, api: Api, path: str = PLAIN) -> None:
    """Delete all Pods of a namespace, and wait until they are gone: none is in the way of the next."""
    await api.delete(path, grace_s=0)
    async with asyncio.timeout(WITHIN_S):
        while count(cluster, path, lambda _: True):  # noqa: ASYNC110 - the cluster tells it of itself
            await asyncio.sleep(0.5)


if __name__ == "__main__":
    main()
