"""Slurm has the last word on where a job runs: among nodes that are like the chosen one, and it is told which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dujiang.engines.contract import DeviceShare, EngineRefused, Launch
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness

pytestmark = pytest.mark.slurm


@pytest.fixture(params=["commands", "rest"])
async def harness(
    tmp_path: Path, cluster: Cluster, request: pytest.FixtureRequest, rest: str
) -> AsyncIterator[SlurmHarness]:  # fmt: skip
    more = {"rest_url": rest, "rest_key_file": str(cluster.jwt_key), "commands": str(tmp_path / "none")}
    by_rest = more if request.param == "rest" else {}
    harness = SlurmHarness(tmp_path, cluster, placement="delegated", **by_rest)
    yield harness
    await harness.clean()


@contextmanager
def filled(cluster: Cluster, *nodes: str) -> Iterator[Callable[[], None]]:
    """Have somebody else hold whole nodes; yields what lets go of them."""
    words = ("sbatch", "--parsable", "--exclusive", "-o", "/dev/null", "-D", "/", "--wrap", "sleep 300")
    numbers = [cluster.client(*words[:2], "-w", node, *words[2:]).strip() for node in nodes]

    def free() -> None:
        cluster.client("scancel", *numbers, check=False)

    try:
        for number in numbers:
            cluster.wait("the holder", lambda number=number: cluster.job_state(number) == "RUNNING")  # type: ignore[misc]
        yield free
    finally:
        free()


def on(launch: Launch, *nodes: str) -> Launch:
    ranks = tuple(replace(rank, node=node) for rank, node in zip(launch.ranks, nodes, strict=True))
    return replace(launch, ranks=ranks)


async def test_a_job_runs_elsewhere_when_its_node_is_full_and_says_where(harness: SlurmHarness) -> None:
    launch = on(harness.launch_text("echo $SLURMD_NODENAME $RANK sees $CUDA_VISIBLE_DEVICES"), "n1")
    devices = (DeviceShare("h100-2", 2, 1000, 0),)
    launch = replace(launch, ranks=tuple(replace(rank, devices=devices) for rank in launch.ranks))
    with filled(harness.cluster, "n1", "n2"):
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
        assert (seen.exit_code, seen.node) == (0, "n3")
        assert (await harness.printed(launch.key)).split() == [b"n3", b"0", b"sees", b"0"]
    assert any("Slurm chose n3; the platform held n1" in each.line for each in seen.evidence)


async def test_ranks_find_each_other_where_slurm_put_them(harness: SlurmHarness) -> None:
    launch = on(harness.launch_text("echo $SLURMD_NODENAME $RANK $MASTER_ADDR $WORLD_SIZE", ranks=2), "n1", "n2")
    with filled(harness.cluster, "n1"):
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
    assert (seen.exit_code, seen.node) == (0, "n2"), seen
    told = [(await harness.printed(launch.key, rank=rank)).decode().split() for rank in (0, 1)]
    assert told == [["n2", "0", "127.0.0.1", "2"], ["n3", "1", "127.0.0.1", "2"]]


async def test_it_stays_where_it_was_put_when_there_is_room(harness: SlurmHarness) -> None:
    launch = on(harness.launch_text("true"), "n1")
    await harness.engine.submit(launch)
    seen = await harness.ended(launch.key)
    assert not any("Slurm chose" in each.line for each in seen.evidence) or seen.node != "n1"


async def test_neither_closed_nodes_nor_such_that_lack_a_feature_are_taken(harness: SlurmHarness) -> None:
    """It waits: the one that is left is full."""
    harness.cluster.client("scontrol", "update", "NodeName=n2", "AvailableFeatures=ib", "ActiveFeatures=ib")
    launch = on(harness.launch_text("echo $SLURMD_NODENAME"), "n1")
    harness.engine._work.open()
    harness.engine._work.close_node("n3", "ours alone")
    try:
        with filled(harness.cluster, "n1") as free:
            await harness.engine.submit(launch)
            await harness.clock.sleep(3)
            assert harness.cluster.client("squeue", "-h", "-n", "dj-job_a.1", "-o", "%T").strip() == "PENDING"
            free()
            seen = await harness.ended(launch.key)
    finally:
        harness.cluster.client(
            "scontrol", "update", "NodeName=n2", "AvailableFeatures=ib,h100", "ActiveFeatures=ib,h100"
        )
        harness.engine._work.open_node("n3")
    assert seen.node == "n1"


async def test_closing_the_node_that_slurm_chose_stops_what_runs_there(harness: SlurmHarness) -> None:
    launch = on(harness.launch_text("echo ready; while :; do :; done"), "n1")
    with filled(harness.cluster, "n1", "n2"):
        await harness.engine.submit(launch)
        await harness.ready(launch.key)
        await harness.engine.drain("n1", "work", grace_s=0.5)
        await harness.clock.sleep(1)
        seen = (await harness.engine.observe([launch.key]))[launch.key]
        assert (str(seen.phase), seen.node) == ("RUNNING", "n3")
        assert (await harness.engine.usage([launch.key]))[launch.key].cpu != 0
        await harness.engine.drain("n3", "work", grace_s=0.5)
        assert str((await harness.ended(launch.key)).end) == "Stopped"


def test_jobs_of_other_users_are_pinned(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(EngineRefused, match="run_as"):
        SlurmHarness(tmp_path, cluster, placement="delegated", run_as={"*": "nobody"})
