"""Where the ranks of an attempt run, with what, and how they find one another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.engines.contract import DeviceShare, End, RankPlacement
from tests.contract.harness import Exits, Waits
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness
from tests.kubernetes.test_failures import ended

pytestmark = pytest.mark.kubernetes


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


# -- gangs ------------------------------------------------------------------------------------------------------------


async def test_ranks_on_two_nodes_find_one_another_by_name(harness: KubernetesHarness) -> None:
    talk = (
        'if [ "$RANK" = 0 ]; then nc -l -p "$MASTER_PORT"; else'
        ' until echo "from $RANK of $WORLD_SIZE" | nc -w 5 "$MASTER_ADDR" "$MASTER_PORT"; do sleep 0.2; done; fi'
    )
    launch = harness.launch_text(talk)
    ranks = tuple(RankPlacement(nth, node, 500, 64 << 20) for nth, node in enumerate(harness.cluster.nodes))
    object.__setattr__(launch, "ranks", ranks)
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code) == (End.EXITED, 0), seen
    assert await harness.printed(launch.key) == b"from 1 of 2\n"


async def test_without_a_shared_folder_the_other_ranks_wait_for_the_setup_too(harness: KubernetesHarness) -> None:
    log = harness.folder / "order"
    launch = harness.launch_text(f"echo run >> {log}", ranks=2, setup=f"sleep 1; echo setup >> {log}")
    await harness.engine.submit(launch)
    assert (await ended(harness, launch.key)).exit_code == 0
    assert log.read_text().split() == ["setup", "run", "run"]


async def test_a_setup_that_fails_starts_no_rank_of_a_gang(harness: KubernetesHarness) -> None:
    launch = harness.launch(Exits(), ranks=3, setup="exit 9")
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code, seen.rank) == (End.SETUP_FAILED, 9, 0)
    assert [await harness.printed(launch.key, rank=rank) for rank in range(3)] == [b""] * 3
    assert harness.runs(launch.key) == 0


# -- places -----------------------------------------------------------------------------------------------------------


async def test_a_job_finds_the_devices_that_kubernetes_gave_it(harness: KubernetesHarness) -> None:
    launch = harness.launch_text('echo "$NVIDIA_VISIBLE_DEVICES" "$DUJIANG_GPU_MILLI"')
    shares = (DeviceShare("nvidia-1", 1, 1000, 0), DeviceShare("nvidia-3", 3, 1000, 0))
    object.__setattr__(launch, "ranks", (RankPlacement(0, harness.node, 500, 64 << 20, devices=shares),))
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    devices, milli = (await harness.printed(launch.key)).decode().split()
    assert (len(set(devices.split(","))), milli) == (2, "2000")


async def test_delegated_work_goes_elsewhere_when_its_node_takes_nothing(harness: KubernetesHarness) -> None:
    harness.set["placement"] = "delegated"
    await harness.restart()
    harness.cluster.kubectl("cordon", harness.node)
    try:
        seen = await harness.ended(await harness.submit(Exits(3)))
    finally:
        harness.cluster.kubectl("uncordon", harness.node)
    assert seen.exit_code == 3
    assert seen.node in set(harness.cluster.nodes) - {harness.node}


async def test_on_the_nodes_network_a_gang_has_the_nodes_addresses(harness: KubernetesHarness) -> None:
    harness.set["network"] = "host"
    await harness.restart()
    launch = harness.launch_text('echo "$MASTER_ADDR $DUJIANG_HOSTS"', ports=1)
    ranks = tuple(RankPlacement(nth, node, 500, 64 << 20) for nth, node in enumerate(harness.cluster.nodes))
    object.__setattr__(launch, "ranks", ranks)
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code) == (End.EXITED, 0), seen
    nodes = harness.cluster.request("GET", "/api/v1/nodes")["items"]
    internal = [
        address["address"]
        for node in nodes
        for address in node["status"]["addresses"]
        if address["type"] == "InternalIP"
    ]
    assert (await harness.printed(launch.key, rank=1)).decode() == f"{internal[0]} {','.join(internal)}\n"
    assert seen.host == internal[0]


# -- nodes that only the platform fills -------------------------------------------------------------------------------


async def test_a_job_that_is_bound_at_its_creation_needs_no_scheduler(harness: KubernetesHarness) -> None:
    harness.set["placement"] = "bound"
    await harness.restart()
    await harness.ended(await harness.submit(Exits(0)))  # the namespace and its quota are there
    harness.cluster.stop("scheduler")
    try:
        launch = harness.launch_text('echo "$NVIDIA_VISIBLE_DEVICES"', number=2)
        shares = (DeviceShare("nvidia-2", 2, 1000, 0),)
        object.__setattr__(launch, "ranks", (RankPlacement(0, harness.node, 500, 64 << 20, devices=shares),))
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
    finally:
        harness.cluster.start("scheduler")
    assert (seen.end, seen.exit_code, seen.node) == (End.EXITED, 0, harness.node)
    assert (await harness.printed(launch.key)).strip()


async def test_a_kubelet_that_has_no_room_for_a_bound_job_turns_it_away_unrun(harness: KubernetesHarness) -> None:
    harness.set["placement"] = "bound"
    await harness.restart()
    node = harness.cluster.request("GET", f"/api/v1/nodes/{harness.node}")
    devices = int(node["status"]["allocatable"]["nvidia.com/gpu"])
    shares = tuple(DeviceShare(f"nvidia-{nth}", nth, 1000, 0) for nth in range(devices))
    rank = RankPlacement(0, harness.node, 500, 64 << 20, devices=shares)
    first, second = harness.launch(Waits()), harness.launch_text(f"echo ran > {harness.folder}/second", number=2)
    for launch in (first, second):
        object.__setattr__(launch, "ranks", (rank,))
        await harness.engine.submit(launch)
        if launch is first:
            await harness.ready(first.key)
    seen = await harness.ended(second.key)
    assert (seen.end, seen.started_at, seen.exit_code) == (End.NODE_REFUSED, None, None)
    assert "UnexpectedAdmissionError" in seen.evidence[0].line  # of a device plugin's; without one it is OutOf...
    assert not (harness.folder / "second").exists()
    await harness.engine.cancel(first.key, grace_s=0.0)
    assert (await harness.ended(first.key)).end is End.STOPPED
