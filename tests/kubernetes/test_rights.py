"""The engine with an account that may what manifest/rbac.yaml says and no more, and with one that may less."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.engines.contract import Checkpointing, End, EngineUnavailable
from tests.contract.harness import Exits, Saves, Waits
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

pytestmark = pytest.mark.kubernetes


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster)
    await harness.confine()
    yield harness
    await harness.clean()


async def test_the_rights_of_the_manifest_are_enough(harness: KubernetesHarness) -> None:
    assert (await harness.engine.capabilities()).missing == ()
    gang = harness.launch_text('echo "$TOKEN"; [ $RANK = 0 ] || sleep 0.2', ranks=2, secrets={"TOKEN": "s3cret"})
    await harness.engine.submit(gang)
    assert (await harness.ended(gang.key)).exit_code == 0
    assert await harness.printed(gang.key, rank=1) == b"s3cret\n"
    await harness.engine.forget(gang.key)
    saves = await harness.submit(Saves(signal.SIGUSR2, code=6), job="job_saves")
    await harness.ready(saves)
    await harness.engine.signal(saves, signal.SIGUSR2)
    assert (await harness.ended(saves)).exit_code == 6
    waits = await harness.submit(Waits(), job="job_waits")
    await harness.ready(waits)
    await harness.engine.drain(harness.node, "repair", grace_s=1.0)
    assert (await harness.ended(waits)).end is End.STOPPED


async def test_an_odd_end_is_told_with_the_clusters_events(harness: KubernetesHarness) -> None:
    harness.set["gang_start_s"] = 3.0
    await harness.restart()
    key = await harness.submit(Exits(), image="dujiang.test/no-such-image:1")
    seen = await harness.ended(key)
    assert seen.end is End.LAUNCH_FAILED
    assert any("Failed: " in evidence.line for evidence in seen.evidence)


async def test_without_exec_a_stop_is_the_kubelets_and_still_saves(harness: KubernetesHarness) -> None:
    checkpoint = Checkpointing(path="/tmp/c", signal=signal.SIGUSR1)
    key = await harness.submit(Saves(signal.SIGUSR1), checkpoint=checkpoint, grace_s=2.0)
    await harness.ready(key)
    role = harness.cluster.request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/dujiang-work")
    role["rules"] = [rule for rule in role["rules"] if "pods/exec" not in rule["resources"]]
    harness.cluster.request("PUT", "/apis/rbac.authorization.k8s.io/v1/clusterroles/dujiang-work", role)
    with pytest.raises(EngineUnavailable, match="exec"):
        await harness.engine.signal(key, signal.SIGUSR2)
    await harness.engine.cancel(key)
    seen = await harness.ended(key)
    assert (seen.end, seen.exit_code) == (End.STOPPED, 0)
    assert b"saved" in await harness.printed(key)
    assert any("exec" in sentence for sentence in (await harness.engine.capabilities()).missing)
