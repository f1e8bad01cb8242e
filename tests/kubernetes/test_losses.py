"""Nodes that go away for good and logs that nodes throw away, on a cluster that gives up on nodes within seconds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import End, Phase
from tests.contract.harness import Exits, Waits
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness
from tests.kubernetes.test_failures import ended, path_of, told

pytestmark = pytest.mark.kubernetes
PATIENCE_S = 150.0
"""Kubernetes itself takes some 10 s here to call a node silent, and 40 s to believe that one is gone."""
HASTY = [f"--default-{what}-toleration-seconds=1" for what in ("unreachable", "not-ready")]
ROTATING = {"containerLogMaxSize": "256Ki", "containerLogMaxFiles": 2, "containerLogMonitorInterval": "3s"}


@pytest.fixture(scope="module")
def hasty() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))
    try:
        with Cluster(folder / "c", nodes=2, flags={"api": HASTY}, kubelet=ROTATING) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def harness(tmp_path: Path, hasty: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, hasty)
    yield harness
    await harness.clean()


async def test_a_node_without_power_is_a_lost_node(harness: KubernetesHarness) -> None:
    gang = await harness.submit(Waits(), ranks=2, job="job_gang")
    alone = await harness.submit(Waits())
    await harness.ready(alone)
    await harness.ready(gang, rank=1)
    harness.cluster.power_off(harness.node)
    try:
        seen = [await ended(harness, key, PATIENCE_S) for key in (alone, gang)]
        kept = await harness.printed(alone)
    finally:
        harness.cluster.power_on(harness.node)
    assert [(one.end, one.exit_code) for one in seen] == [(End.NODE_LOST, None)] * 2
    assert "does not answer" in told(seen[0])
    assert kept == b"ready\n"  # it had been read before
    harness.cluster.wait("the node", lambda: harness.cluster.is_ready(harness.node))
    assert (await ended(harness, await harness.submit(Exits(4), number=2), PATIENCE_S)).exit_code == 4
    assert harness.runs(alone) == 1


async def test_output_that_the_node_throws_away_was_read_before(harness: KubernetesHarness) -> None:
    """Some 600 KB in pieces, where the node keeps 256 KB of a container's log at hand."""
    line = "x" * 99
    text = f"n=0; while [ $n -lt 6000 ]; do echo $n {line}; n=$((n + 1)); [ $((n % 500)) != 0 ] || sleep 1; done"
    launch = harness.launch_text(text)
    await harness.engine.submit(launch)
    printed = b""
    async for chunk in harness.engine.logs(launch.key, follow=True):
        assert chunk.offset == len(printed)
        printed += chunk.data
    assert (await harness.ended(launch.key)).exit_code == 0
    assert printed.decode().split("\n")[:-1] == [f"{nth} {line}" for nth in range(6000)]
    raw = harness.cluster.request("GET", f"{path_of(harness, launch.key)}/log")
    assert len(raw) < len(printed)  # else nothing was thrown away here
    assert await harness.printed(launch.key) == printed
    await harness.restart()
    assert await harness.printed(launch.key, offset=-50) == printed[-50:]


async def test_a_lost_log_is_a_gap_and_not_an_error(harness: KubernetesHarness) -> None:
    line = "y" * 99
    text = (
        f"echo first; n=0; while [ $n -lt 8000 ]; do echo {line}; n=$((n + 1)); [ $((n % 1000)) != 0 ] || sleep 1; done"
    )
    launch = harness.launch_text(f"{text}; echo last")
    await harness.engine.submit(launch)
    seen = await harness.until(launch.key, lambda seen: seen is not None and seen.phase is Phase.ENDED)
    assert seen is not None
    printed = await harness.printed(launch.key)
    assert printed.endswith(b"last\n")
    assert len(printed) < 800_000


async def test_a_node_that_a_person_deletes_is_a_lost_node(harness: KubernetesHarness) -> None:
    node = list(harness.cluster.nodes)[1]
    harness.node = node
    key = await harness.submit(Waits())
    await harness.ready(key)
    harness.cluster.kubectl("delete", "node", node)
    try:
        seen = await ended(harness, key, PATIENCE_S)
    finally:
        harness.cluster.kill(f"{node}/kubelet")  # it registers anew when it starts
        harness.cluster.start(f"{node}/kubelet")
        harness.cluster._introduce(node)
    assert seen.end is End.NODE_LOST
    assert "DeletionByPodGC" in told(seen)
