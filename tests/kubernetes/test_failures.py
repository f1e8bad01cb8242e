"""What happens to a cluster, and what the engine makes of it: nothing runs twice, nothing is lost by a view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import (
    AttemptKey,
    Checkpointing,
    DeviceShare,
    End,
    EngineRefused,
    EngineUnavailable,
    Observation,
    Phase,
    RankPlacement,
)
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.records import name_of
from dujiang.engines.kubernetes.settings import KubernetesSettings
from tests.contract.harness import Exits, Saves, Stubborn, Waits
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

pytestmark = pytest.mark.kubernetes
PATIENCE_S = 60.0


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


async def ended(harness: KubernetesHarness, key: AttemptKey, within_s: float = PATIENCE_S) -> Observation:
    """Wait for an end longer than the contract's tests do, while the API server may be away."""
    deadline = harness.clock.monotonic_s() + within_s
    while True:
        try:
            seen = (await harness.engine.observe([key])).get(key)
        except EngineUnavailable:
            seen = None
        if seen is not None and seen.phase is Phase.ENDED:
            return seen
        assert harness.clock.monotonic_s() < deadline, seen
        await harness.engine.changed(0.5)


def told(seen: Observation) -> str:
    return " ".join(evidence.line for evidence in seen.evidence)


def path_of(harness: KubernetesHarness, key: AttemptKey, rank: int = 0) -> str:
    return f"/api/v1/namespaces/{harness.namespace}/pods/{name_of(key)}-{rank}"


def pod_of(harness: KubernetesHarness, key: AttemptKey, rank: int = 0) -> Any:
    return harness.cluster.request("GET", path_of(harness, key, rank))


def merge(harness: KubernetesHarness, path: str, change: Mapping[str, Any]) -> None:
    harness.cluster.request("PATCH", path, change, kind="application/merge-patch+json")


def take(harness: KubernetesHarness, key: AttemptKey, rank: int = 0) -> None:
    """Take a Pod away as somebody does who knows of no finalizer."""
    merge(harness, path_of(harness, key, rank), {"metadata": {"finalizers": None}})
    name = f"{name_of(key)}-{rank}"
    harness.cluster.kubectl("delete", "pod", name, "-n", harness.namespace, "--grace-period=0", "--force")


async def settled(harness: KubernetesHarness, is_so: Any, within_s: float = PATIENCE_S) -> None:
    """Wait until something of the cluster is so, while the engine goes on."""
    deadline = harness.clock.monotonic_s() + within_s
    while not is_so():
        assert harness.clock.monotonic_s() < deadline
        await asyncio.sleep(0.1)


async def unavailable(harness: KubernetesHarness, key: AttemptKey) -> None:
    """Wait until nothing can be said about an attempt."""
    deadline = harness.clock.monotonic_s() + PATIENCE_S
    while harness.clock.monotonic_s() < deadline:
        try:
            await harness.engine.observe([key])
        except EngineUnavailable:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the API server is away, and the engine goes on telling what it last saw")


async def followed(harness: KubernetesHarness, key: AttemptKey) -> bytes:
    return b"".join([chunk.data async for chunk in harness.engine.logs(key, follow=True)])


class Lossy(Api):
    """An API server whose answers to some requests are lost on their way back."""

    def __init__(self, harness: KubernetesHarness, lose: str) -> None:
        super().__init__(KubernetesSettings(**harness.set), clock=harness.clock)
        self._lose = {lose}

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await super().create(path, body)
        self._forget(f"{path}/{body.get('metadata', {}).get('name', '')}")
        return answer

    async def patch(self, path: str, body: Any, **more: Any) -> dict[str, Any]:
        answer = await super().patch(path, body, **more)
        self._forget("patch " + path)
        return answer

    def _forget(self, path: str) -> None:
        for lost in [each for each in self._lose if each in path]:
            self._lose.remove(lost)
            raise EngineUnavailable("the answer was lost")


# -- the control plane ------------------------------------------------------------------------------------------------


async def test_an_api_server_that_is_away_loses_nothing(harness: KubernetesHarness) -> None:
    harness.set["stale_after_s"] = 0.5
    await harness.restart()
    key = await harness.submit(Waits(5))
    await harness.ready(key)
    following = asyncio.ensure_future(followed(harness, key))
    harness.cluster.stop("api")
    late = harness.launch(Exits(6), job="job_late")
    try:
        with pytest.raises(EngineUnavailable):
            await harness.engine.submit(late)
        await unavailable(harness, key)  # after so long its last words do not count any more
        harness.release()
        await asyncio.sleep(1.0)  # it ends while nobody can see it
    finally:
        harness.cluster.start("api")
    assert (await ended(harness, key)).exit_code == 5
    assert await following == b"ready\n"
    await harness.engine.submit(late)
    assert (await ended(harness, late.key)).exit_code == 6
    assert (harness.runs(key), harness.runs(late.key)) == (1, 1)


async def test_a_store_that_is_away_loses_nothing(harness: KubernetesHarness) -> None:
    key = await harness.submit(Waits(5))
    await harness.ready(key)
    harness.cluster.stop("etcd")
    try:
        with pytest.raises(EngineUnavailable):
            await harness.another(request_timeout_s=2.0).submit(harness.launch(Exits(), job="job_late"))
        harness.release()
        await asyncio.sleep(1.0)
    finally:
        harness.cluster.start("etcd")
    harness.cluster.wait("the API server", lambda: harness.cluster.request("GET", "/readyz") == "ok")
    assert (await ended(harness, key)).exit_code == 5
    assert harness.runs(key) == 1


HEAVY = "\n#" + "x" * 70_000
"""Text that no annotation takes."""


@pytest.mark.parametrize("lost", ["/pods", "-files", "/secrets", "-1-1", "/services", "patch /api/v1/namespaces"])
async def test_a_submit_whose_answer_was_lost_runs_once(harness: KubernetesHarness, lost: str) -> None:
    await harness.ended(await harness.submit(Exits(0), job="job_before"))  # the namespace is there
    await harness.engine.close()
    harness.engine = harness.another(Lossy(harness, lost))  # type: ignore[assignment]
    launch = harness.launch(Exits(3), ranks=1 if lost == "/pods" else 2)  # of one Pod, nothing else is asked
    launch = replace(launch, run=launch.run + HEAVY if lost == "-files" else launch.run)
    launch = replace(launch, secrets={"A": "b"} if lost == "/secrets" else {})
    with pytest.raises(EngineUnavailable, match="lost"):
        await harness.engine.submit(launch)
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 3
    await harness.engine.submit(launch)
    assert harness.runs(launch.key) == 1


async def test_a_gang_of_which_half_was_made_is_made_whole(harness: KubernetesHarness) -> None:
    await harness.ended(await harness.submit(Exits(0), job="job_before"))
    await harness.engine.close()
    launch = harness.launch(Exits(0, "here"), ranks=3)
    harness.engine = harness.another(Lossy(harness, f"{name_of(launch.key)}-1"))  # type: ignore[assignment]
    with pytest.raises(EngineUnavailable, match="lost"):
        await harness.engine.submit(launch)
    await harness.engine.changed(0.5)
    assert harness.runs(launch.key) == 0  # none is let go before all are there
    await harness.restart()
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    assert [await harness.printed(launch.key, rank=rank) for rank in range(3)] == [b"here\n"] * 3
    assert harness.runs(launch.key) == 1


async def test_two_platforms_that_act_at_once_agree(harness: KubernetesHarness) -> None:
    key = await harness.submit(Saves(10), grace_s=3.0, checkpoint=Checkpointing(path="/tmp/c", signal=10))
    await harness.ready(key)
    second = harness.another()
    try:
        await asyncio.gather(*(engine.cancel(key) for engine in (harness.engine, second) for _ in range(3)))
        seen = await harness.ended(key)
        other = (await second.observe([key]))[key]
        while other.phase is not Phase.ENDED:
            await second.changed(1.0)
            other = (await second.observe([key]))[key]
        assert (seen.end, seen.exit_code) == (End.STOPPED, 0)
        assert other == seen
        await asyncio.gather(harness.engine.forget(key), second.forget(key))
        assert await harness.engine.attempts() == []
    finally:
        await second.close()


# -- what people and others do to it ----------------------------------------------------------------------------------


async def test_a_pod_that_a_person_deletes_saves_and_is_a_stop(harness: KubernetesHarness) -> None:
    checkpoint = Checkpointing(path="/tmp/c", signal=10)
    key = await harness.submit(Saves(10), grace_s=2.0, checkpoint=checkpoint)
    await harness.ready(key)
    name = f"{name_of(key)}-0"
    harness.cluster.kubectl("delete", "pod", name, "-n", harness.namespace, "--wait=false")
    seen = await ended(harness, key)
    assert (seen.end, seen.exit_code) == (End.STOPPED, 0)
    assert "deleted" in told(seen)
    assert b"saved" in await harness.printed(key)


async def test_a_pod_that_is_evicted_saves_and_is_preempted(harness: KubernetesHarness) -> None:
    checkpoint = Checkpointing(path="/tmp/c", signal=10)
    key = await harness.submit(Saves(10), grace_s=2.0, checkpoint=checkpoint)
    await harness.ready(key)
    name = f"{name_of(key)}-0"
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": harness.namespace},
    }
    harness.cluster.request("POST", f"{path_of(harness, key)}/eviction", eviction)
    seen = await ended(harness, key)
    assert seen.end is End.PREEMPTED
    assert "EvictionByEvictionAPI" in told(seen)
    assert b"saved" in await harness.printed(key)


async def test_a_pod_that_a_taint_drives_away_is_preempted(harness: KubernetesHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    harness.cluster.kubectl("taint", "node", harness.node, "repair=now:NoExecute")
    try:
        seen = await ended(harness, key)
    finally:
        harness.cluster.kubectl("taint", "node", harness.node, "repair-")
    assert seen.end is End.PREEMPTED
    assert "DeletionByTaintManager" in told(seen)


async def test_work_of_others_with_a_higher_priority_preempts(harness: KubernetesHarness) -> None:
    shares = tuple(DeviceShare(f"nvidia-{nth}", nth, 1000, 0) for nth in range(4))
    launch = harness.launch(Waits())
    object.__setattr__(launch, "ranks", (RankPlacement(0, harness.node, 500, 64 << 20, devices=shares),))
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": harness.mark},
        "value": 1000,
    }
    limits = {"limits": {"nvidia.com/gpu": "4"}}
    other = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": harness.namespace},
        "spec": {
            "priorityClassName": harness.mark, "nodeSelector": {"kubernetes.io/hostname": harness.node},
            "containers": [
                {"name": "c", "image": harness.set["image"], "command": ["sleep", "600"], "resources": limits}
            ],
        },
    }  # fmt: skip
    harness.cluster.apply(priority, other)
    try:
        seen = await ended(harness, launch.key)
    finally:
        harness.cluster.kubectl("delete", "pod", "other", "-n", harness.namespace, "--grace-period=0", "--force")
        harness.cluster.kubectl("delete", "priorityclass", harness.mark)
    assert seen.end is End.PREEMPTED
    assert "PreemptionByScheduler" in told(seen)


async def test_a_pod_that_vanished_without_its_end_is_lost_and_never_made_again(harness: KubernetesHarness) -> None:
    launch = harness.launch(Waits(), ranks=2)
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    await harness.ready(launch.key, rank=1)
    await harness.engine.close()
    take(harness, launch.key, rank=1)
    await harness.restart()
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code, seen.rank) == (End.LOST, None, 1)
    assert harness.runs(launch.key) == 1


async def test_what_others_write_on_a_record_is_in_nobodys_way(harness: KubernetesHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    path = path_of(harness, key)
    for nth in range(20):
        merge(harness, path, {"metadata": {"annotations": {"other": str(nth)}}})
        if nth == 10:
            await harness.engine.cancel(key)
    assert (await harness.ended(key)).end is End.STOPPED
    notes = harness.cluster.request("GET", path)["metadata"]["annotations"]
    assert notes["other"] == "19"


# -- what does not start ----------------------------------------------------------------------------------------------


async def test_what_waits_for_its_node_is_stopped_before_it_starts(harness: KubernetesHarness) -> None:
    harness.cluster.kubectl("cordon", harness.node)
    try:
        key = await harness.submit(Exits())
        waits = await harness.until(key, lambda seen: seen is not None and bool(seen.evidence))
        assert waits is not None
        assert waits.phase is Phase.PENDING
        assert "unschedulable" in told(waits)
        await harness.engine.cancel(key)
        seen = await harness.ended(key)
    finally:
        harness.cluster.kubectl("uncordon", harness.node)
    assert (seen.end, seen.started_at, seen.exit_code) == (End.STOPPED, None, None)
    assert harness.runs(key) == 0


async def test_what_waits_too_long_for_its_node_could_not_start(harness: KubernetesHarness) -> None:
    harness.set["gang_start_s"] = 2.0
    await harness.restart()
    harness.cluster.kubectl("cordon", harness.node)
    try:
        seen = await ended(harness, await harness.submit(Exits(), ranks=2))
    finally:
        harness.cluster.kubectl("uncordon", harness.node)
    assert (seen.end, seen.exit_code) == (End.LAUNCH_FAILED, None)
    assert "unschedulable" in told(seen)


async def test_an_image_that_is_nowhere_could_not_start(harness: KubernetesHarness) -> None:
    harness.set["gang_start_s"] = 4.0
    await harness.restart()
    seen = await ended(harness, await harness.submit(Exits(), image="dujiang.test/no-such-image:1"))
    assert (seen.end, seen.exit_code, seen.started_at) == (End.LAUNCH_FAILED, None, None)
    assert "no-such-image" in told(seen)


async def test_a_name_that_is_no_image_could_not_start_at_once(harness: KubernetesHarness) -> None:
    seen = await harness.ended(await harness.submit(Exits(), image="Not An Image"))
    assert seen.end is End.LAUNCH_FAILED
    assert "InvalidImageName" in told(seen)


async def test_no_image_at_all_is_refused(harness: KubernetesHarness) -> None:
    harness.set["image"] = ""
    await harness.restart()
    with pytest.raises(EngineRefused, match="image"):
        await harness.submit(Exits())
    assert await harness.engine.attempts() == []


async def test_a_gang_that_a_quota_takes_in_part_runs_nothing(harness: KubernetesHarness) -> None:
    harness.set["quota"] = {"pods": "2"}
    await harness.restart()
    waits = await harness.submit(Waits(), job="job_waits")
    await harness.ready(waits)
    gang = harness.launch(Exits(), ranks=2)
    with pytest.raises(EngineUnavailable, match="quota"):
        await harness.engine.submit(gang)
    assert harness.runs(gang.key) == 0
    names = harness.cluster.kubectl("get", "pods", "-n", harness.namespace, "-o", "name").split()
    assert names == [f"pod/{name_of(waits)}-0"]
    harness.release()
    await harness.ended(waits)
    await harness.engine.forget(waits)
    await harness.engine.submit(gang)  # there is room now
    assert (await harness.ended(gang.key)).exit_code == 0


async def test_what_a_quota_could_never_hold_is_refused(harness: KubernetesHarness) -> None:
    harness.set["quota"] = {"limits.memory": "64Mi"}
    await harness.restart()
    launch = harness.launch(Exits())
    with pytest.raises(EngineRefused, match="quota"):
        await harness.engine.submit(launch)
    assert await harness.engine.attempts() == []


# -- nodes ------------------------------------------------------------------------------------------------------------


async def test_a_kubelet_that_is_away_for_a_moment_loses_nothing(harness: KubernetesHarness) -> None:
    key = await harness.submit(Waits(5))
    await harness.ready(key)
    harness.cluster.kill(f"{harness.node}/kubelet")
    try:
        harness.release()
        await harness.engine.changed(3.0)
        assert (await harness.engine.observe([key]))[key].phase is Phase.RUNNING
    finally:
        harness.cluster.start(f"{harness.node}/kubelet")
    seen = await ended(harness, key)
    assert (seen.end, seen.exit_code) == (End.EXITED, 5)
    assert harness.runs(key) == 1


async def test_a_stop_reaches_a_node_once_its_kubelet_is_back(harness: KubernetesHarness) -> None:
    key = await harness.submit(Stubborn())
    await harness.ready(key)
    harness.cluster.kill(f"{harness.node}/kubelet")
    try:
        await harness.engine.cancel(key, grace_s=0.5)
        await asyncio.sleep(2.0)
        assert (await harness.engine.observe([key]))[key].phase is Phase.RUNNING
    finally:
        harness.cluster.start(f"{harness.node}/kubelet")
    assert (await ended(harness, key)).end is End.STOPPED


async def test_what_ran_when_its_node_went_down_for_a_moment_is_lost(harness: KubernetesHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    harness.cluster.power_off(harness.node)
    harness.cluster.power_on(harness.node)
    harness.cluster.wait("the node", lambda: harness.cluster.is_ready(harness.node))
    seen = await ended(harness, key)
    assert (seen.end, seen.exit_code, seen.signal) == (End.LOST, None, None), seen
    assert "Unknown: exit code 255" in told(seen)
    assert harness.runs(key) == 1
    assert await harness.printed(key) == b"ready\n"
