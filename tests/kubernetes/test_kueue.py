"""The engine behind a real Kueue: what waits, runs, is preempted and is forgotten there, and that nothing is left."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable, Launch, Observation, Phase, RankPlacement
from dujiang.engines.kubernetes.records import name_of
from tests.contract.harness import Dies, Exits, Waits
from tests.kubernetes import fakes, images
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness
from tests.kubernetes.kueue import Kueue

pytestmark = pytest.mark.kueue
QUOTA = {"cpu": "1", "memory": "4Ti"}
"""Of each test's queue: two ranks of half a processor."""
HELD = "kueue.x-k8s.io/admission"


@pytest.fixture(scope="module")
def kueue() -> Iterator[Kueue]:
    folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))
    try:
        with Cluster(folder / "c", nodes=2, with_fakes=True) as cluster, Kueue(cluster) as kueue:
            kueue.flavor("any", {})
            kueue.priority("high", 1000)
            cluster.namespace("theirs")
            yield kueue
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Queued(KubernetesHarness):
    """A harness whose jobs go through a queue of the test's own."""

    def __init__(self, folder: Path, kueue: Kueue, **settings: Any) -> None:
        super().__init__(folder, kueue.cluster, **settings)
        self.kueue, self.set["queue"] = kueue, self.mark
        self.engine = self._new()  # type: ignore[assignment]

    def open(self, namespace: str = "") -> None:
        """Make the LocalQueue of the project's namespace, which is made for it, or of another."""
        if not namespace:
            labels, notes = {"app.kubernetes.io/managed-by": "dujiang"}, {"dujiang.io/project": "a-project"}
            body = {"metadata": {"name": self.namespace, "labels": labels, "annotations": notes}}
            self.cluster.request("POST", "/api/v1/namespaces", body)
        self.kueue.local_queue(namespace or self.namespace, self.mark)

    def pods(self) -> list[Any]:
        found: list[Any] = self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return found

    async def waits(self, key: AttemptKey, words: str) -> Observation:
        """Wait until it is told why an attempt waits."""
        seen = await self.until(key, lambda seen: seen is not None and any(words in e.line for e in seen.evidence))
        assert seen is not None
        assert (seen.phase, seen.started_at) == (Phase.PENDING, None)
        return seen

    async def gone(self, within_s: float = 40.0) -> None:
        """Wait until no Pod and no Workload is left; of a deleted gang that never ran Kubernetes takes up to 20 s."""
        await until(lambda: not self.pods() and not self.kueue.workloads(self.namespace), within_s)

    def preempt(self) -> str:
        """Have somebody else ask for half of the quota with a higher priority; returns the name of the Pod."""
        labels = {"kueue.x-k8s.io/queue-name": self.mark, "kueue.x-k8s.io/priority-class": "high"}
        asked = {"requests": {"cpu": "500m", "memory": "16Mi"}}
        box = {"name": "c", "image": images.BUSYBOX, "command": ["true"], "resources": asked}
        body = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.mark, "labels": labels},
            "spec": {"restartPolicy": "Never", "containers": [box]},
        }  # fmt: skip
        self.cluster.request("POST", "/api/v1/namespaces/theirs/pods", body)
        return self.mark


async def until(is_so: Callable[[], object], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - it is the cluster that is asked
            await asyncio.sleep(0.2)


@pytest.fixture
async def harness(tmp_path: Path, kueue: Kueue) -> AsyncIterator[Queued]:
    harness = Queued(tmp_path, kueue)
    kueue.cluster_queue(harness.mark, any=QUOTA)
    yield harness
    await harness.clean()


def on_both(launch: Launch) -> Launch:
    """Return the launch with a rank on each of the two nodes."""
    return replace(launch, ranks=tuple(RankPlacement(rank, f"n{rank + 1}", 500, 128 << 20) for rank in (0, 1)))


async def test_without_a_local_queue_it_is_told_who_has_to_do_what(harness: Queued) -> None:
    key = await harness.submit(Exits(3))
    seen = await harness.waits(key, "doesn't exist")
    (told,) = seen.evidence
    assert told.line == (
        f"rank 0 waits: Kueue, queue {harness.mark} of namespace {harness.namespace}: Inadmissible: LocalQueue"
        f" {harness.mark} doesn't exist; it starts once whoever runs the cluster has made that right"
    )
    harness.kueue.local_queue(harness.namespace, harness.mark)
    assert (await harness.ended(key)).exit_code == 3
    assert harness.runs(key) == 1


async def test_a_job_that_runs_past_kueue_is_told(harness: Queued) -> None:
    harness.open()
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/kueue-mutating-webhook-configuration"
    (hook,) = [each for each in harness.cluster.request("GET", path)["webhooks"] if each["name"] == "mpod.kb.io"]
    selector = hook["namespaceSelector"]
    apart = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [harness.namespace]}
    for number, expressions in enumerate(([*selector["matchExpressions"], apart], selector["matchExpressions"])):
        change = [{"name": "mpod.kb.io", "namespaceSelector": {"matchExpressions": expressions}}]
        patch = {"webhooks": change}
        harness.cluster.request("PATCH", path, patch, kind="application/strategic-merge-patch+json")
        await asyncio.sleep(2.0)  # the API server heeds it a moment later
        key = await harness.submit(Exits(), number=number + 1)
        assert ("Kueue did not take the last Pod" in harness.engine.trouble()) is (number == 0)
        assert (await harness.ended(key)).exit_code == 0


async def test_time_in_the_queue_does_not_count_as_a_start_that_does_not_come(harness: Queued) -> None:
    harness.open()
    harness.set["gang_start_s"] = 6.0
    await harness.restart()
    first, second = [await harness.submit(Waits(), job=f"job_{nth}") for nth in range(2)]
    await harness.ready(first)
    await harness.ready(second)
    key = await harness.submit(Exits(4), job="job_waits")
    await harness.waits(key, "insufficient unused quota for cpu in flavor any, 500m more needed")
    await harness.restart()
    await asyncio.sleep(8.0)
    seen = (await harness.engine.observe([key]))[key]
    assert (seen.phase, seen.started_at) == (Phase.PENDING, None)
    harness.release()
    assert (await harness.ended(key)).exit_code == 4
    assert harness.runs(key) == 1


async def test_what_is_admitted_and_fits_nowhere_is_given_up(harness: Queued) -> None:
    """The condition of its Pod keeps the time of when Kueue began to hold it, so the Workload has to tell."""
    harness.open()
    harness.set["gang_start_s"] = 4.0
    await harness.restart()
    key = await harness.submit(Waits(), job="job_fills")
    second = await harness.submit(Waits(), job="job_too")
    await harness.ready(key)
    await harness.ready(second)
    large = replace(harness.launch(Exits(), job="job_large"), ranks=(RankPlacement(0, "n1", 500, 2 << 40),))
    await harness.engine.submit(large)
    await harness.waits(large.key, "insufficient unused quota")
    await asyncio.sleep(5.0)
    harness.release()
    began = harness.clock.monotonic_s()
    seen = await harness.ended(large.key)
    assert seen.end is End.LAUNCH_FAILED
    assert any("Insufficient memory" in each.line for each in seen.evidence)
    assert harness.clock.monotonic_s() - began > 3.0


async def test_a_gang_is_admitted_whole_or_not_at_all(harness: Queued) -> None:
    harness.open()
    alone = await harness.submit(Waits(), job="job_alone")
    await harness.ready(alone)
    gang = on_both(harness.launch(Exits(5)))
    await harness.engine.submit(gang)
    seen = await harness.waits(gang.key, "500m more needed")
    assert len(seen.evidence) == 1
    held = [pod for pod in harness.pods() if pod["metadata"]["name"].startswith(name_of(gang.key))]
    assert [HELD in {gate["name"] for gate in pod["spec"]["schedulingGates"]} for pod in held] == [True, True]
    harness.release()
    seen = await harness.ended(gang.key)
    assert seen.exit_code == 5, seen
    assert {pod["spec"]["nodeName"] for pod in harness.pods()} == {"n1", "n2"}
    # A gang that failed gives its quota back before it is forgotten.
    dies = on_both(harness.launch(Dies(9), number=2))
    await harness.engine.submit(dies)
    assert (await harness.ended(dies.key)).signal == 9
    after = on_both(harness.launch(Exits(6), number=3))
    await harness.engine.submit(after)
    seen = await harness.ended(after.key)
    assert seen.exit_code == 6, seen
    for key in (alone, gang.key, dies.key, after.key):
        await harness.engine.forget(key)
    await harness.gone()


@pytest.mark.parametrize("ranks", [1, 2])
async def test_who_is_preempted_is_told_and_never_runs_again(harness: Queued, ranks: int) -> None:
    harness.open()
    harness.open("theirs")
    launch = harness.launch(Waits(), ranks=ranks)
    rank = replace(launch.ranks[0], cpu_milli=1000 // ranks)
    launch = replace(launch, ranks=tuple(replace(rank, rank=nth) for nth in range(ranks)))
    await harness.engine.submit(launch)
    for nth in range(ranks):
        await harness.ready(launch.key, rank=nth)
    other = harness.preempt()
    seen = await harness.ended(launch.key)
    assert seen.end is End.PREEMPTED
    assert any("WorkloadEvictedDueToPreempted: Preempted to accommodate" in each.line for each in seen.evidence)
    harness.cluster.wait_for_phase(other, "Succeeded", namespace="theirs")
    harness.release()
    again = await harness.submit(Exits(7), number=2)
    assert (await harness.ended(again)).exit_code == 7
    assert (harness.runs(launch.key), harness.runs(again)) == (1, 1)
    for key in (launch.key, again):
        await harness.engine.forget(key)
    await harness.gone()
    harness.cluster.kubectl("delete", "pod", other, "-n", "theirs")


async def test_what_is_cancelled_while_it_waits_is_gone(harness: Queued) -> None:
    harness.open()
    fills = [await harness.submit(Waits(), job=f"job_{nth}") for nth in range(2)]
    for key in fills:
        await harness.ready(key)
    alone, gang = await harness.submit(Exits(), job="job_alone"), await harness.submit(Exits(), ranks=2, job="job_gang")
    for key in (alone, gang):
        await harness.waits(key, "insufficient unused quota")
        await harness.engine.cancel(key)
        assert (await harness.ended(key)).end is End.STOPPED
        await harness.engine.forget(key)
    harness.release()  # there is room for both now, and they do not come back
    for key in fills:
        await harness.ended(key)
        await harness.engine.forget(key)
    await harness.gone()
    assert [harness.runs(key) for key in (alone, gang)] == [0, 0]


async def test_a_pinned_job_takes_the_quota_of_its_node(harness: Queued) -> None:
    """Kueue tries its flavors in their order: without a word from us it would send the Pod to the first, n1's."""
    here = {name: f"{harness.mark}-{name}" for name in ("n1", "n2")}
    for name, flavor in here.items():
        harness.kueue.flavor(flavor, {"kubernetes.io/hostname": name})
    harness.cluster.request("DELETE", f"/apis/kueue.x-k8s.io/v1beta2/clusterqueues/{harness.mark}")
    await until(lambda: harness.mark not in harness.cluster.kubectl("get", "clusterqueues", "-o", "name"), 20.0)
    harness.kueue.cluster_queue(harness.mark, **dict.fromkeys(here.values(), QUOTA))
    harness.open()
    harness.node = "n2"
    key = await harness.submit(Exits(8))
    assert (await harness.ended(key)).exit_code == 8
    (workload,) = harness.kueue.workloads(harness.namespace)
    (given,) = workload["status"]["admission"]["podSetAssignments"]
    assert given["flavors"] == {"cpu": here["n2"], "memory": here["n2"]}
    gang = on_both(harness.launch(Exits(9), number=2))
    await harness.engine.submit(gang)
    assert (await harness.ended(gang.key)).exit_code == 9


async def test_a_gang_on_more_nodes_than_kueue_takes_kinds_runs(harness: Queued) -> None:
    harness.open()
    nodes = harness.cluster.add_fake_nodes(10, prefix=harness.mark)
    await harness.engine.inventory()
    ranks = tuple(RankPlacement(nth, node, 100, 16 << 20) for nth, node in enumerate(nodes))
    gang = replace(harness.launch(Waits()), ranks=ranks)
    await harness.engine.submit(gang)
    await harness.until(gang.key, lambda seen: seen is not None and seen.phase is Phase.RUNNING)
    await until(lambda: all(pod["status"]["phase"] == "Running" for pod in harness.pods()), 20.0)
    assert sorted(pod["spec"]["nodeName"] for pod in harness.pods()) == sorted(nodes)
    change = {"metadata": {"annotations": {fakes.ENDS_AFTER: "0s"}}}
    paths = [f"/api/v1/namespaces/{harness.namespace}/pods/{pod['metadata']['name']}" for pod in harness.pods()]
    for path in paths:
        harness.cluster.request("PATCH", path, change, kind="application/merge-patch+json")
    assert (await harness.ended(gang.key)).exit_code == 0
    await harness.engine.close()
    for path in sorted(paths, reverse=True):  # its record last; not by forgetting, as a fake node tells no output
        harness.cluster.request("PATCH", path, {"metadata": {"finalizers": []}}, kind="application/merge-patch+json")
        harness.cluster.request("DELETE", path)
    await harness.restart()
    await harness.gone()
    harness.cluster.kubectl("delete", "node", *nodes, "--wait=false")


async def test_while_kueue_is_away_nothing_new_is_made_and_no_end_is_lost(harness: Queued) -> None:
    """Then the cluster refuses each new Pod, and each change of one: its webhooks say so."""
    harness.open()
    key = await harness.submit(Waits(3))
    await harness.ready(key)
    harness.cluster.stop("kueue")
    try:
        with pytest.raises(EngineUnavailable):
            await harness.submit(Exits(), job="job_new")
        harness.release()
        await asyncio.sleep(2.0)
    finally:
        harness.cluster.start("kueue")
        await asyncio.to_thread(harness.kueue.wait)
    assert (await harness.ended(key)).exit_code == 3
    again = await harness.submit(Exits(2), job="job_new")
    assert (await harness.ended(again)).exit_code == 2
    assert (harness.runs(key), harness.runs(again)) == (1, 1)


async def test_the_rights_of_the_manifest_are_enough_and_fewer_are_told(harness: Queued) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/dujiang"
    await harness.confine()
    assert (await harness.engine.capabilities()).missing == ()
    key = await harness.submit(Exits(1))
    await harness.waits(key, "doesn't exist")
    body = harness.cluster.request("GET", role)
    body["rules"] = [rule for rule in body["rules"] if "workloads" not in rule["resources"]]
    harness.cluster.request("PUT", role, body)
    await harness.restart()
    assert any("may not watch workloads" in said for said in (await harness.engine.capabilities()).missing)
    await harness.waits(key, "Kueue holds it back, and does not show us why")
    harness.kueue.local_queue(harness.namespace, harness.mark)
    assert (await harness.ended(key)).exit_code == 1
