"""Shares of a device as Slurm's GRES `mps`: counted by Slurm, and told to the job in the words of NVIDIA's MPS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dujiang.engines.contract import EngineRefused, Launch, Phase
from tests.slurm.cluster import Cluster, install
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness
from tests.slurm.test_shards import asking, sees

pytestmark = pytest.mark.slurm
MEMORY = 10 << 30


@pytest.fixture(scope="module")
def sharing() -> Iterator[Cluster]:
    """A cluster whose four devices a node count 100 parts each."""
    install()
    with scratch() as folder, Cluster(folder / "c", shards=400, shared_as="mps") as cluster:
        yield cluster


@pytest.fixture
async def harness(tmp_path: Path, sharing: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, sharing, fractions="mps")
    yield harness
    await harness.clean()


def telling(launch: Launch, harness: SlurmHarness, *, hold: bool = True) -> Launch:
    """Return the launch with a program that says what MPS is told, too."""
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
    says = " ".join(f"${name}" for name in (*names, "CUDA_MPS_PIPE_DIRECTORY"))
    wait = f"until [ -e {harness.folder}/released ]; do sleep 0.05; done" if hold else ""
    ranks = tuple(
        replace(rank, devices=tuple(replace(share, memory_bytes=MEMORY) for share in rank.devices))
        for rank in launch.ranks
    )
    return replace(launch, run=f"echo sees {says}; {wait}", ranks=ranks)


async def test_a_share_is_counted_by_slurm_and_told_to_the_job(harness: SlurmHarness) -> None:
    launch = telling(asking(harness, "job_a", {"h100-0": 300}), harness)
    await harness.engine.submit(launch)
    assert await sees(harness, launch.key) == ["0", "30", "0=10240M", "/tmp/nvidia-mps"]
    told = harness.cluster.client("scontrol", "show", "job", "-d", "-o")
    assert " GRES=mps:30(IDX:0)" in told, told
    harness.release()
    assert (await harness.ended(launch.key)).exit_code == 0


async def test_each_rank_is_told_its_own_share_of_the_one_device(harness: SlurmHarness) -> None:
    launch = telling(asking(harness, "job_a", {"h100-1": 500}, {"h100-1": 250}), harness, hold=False)
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    told = [await sees(harness, launch.key, rank) for rank in (0, 1)]
    assert [each[1] for each in told] == ["50", "25"]
    assert told[0][0] == told[1][0]


async def test_a_whole_device_is_never_the_one_that_is_shared(harness: SlurmHarness) -> None:
    shared = telling(asking(harness, "job_a", {"h100-0": 500}), harness)
    whole = telling(asking(harness, "job_b", {"h100-1": 1000}), harness)
    for launch in (shared, whole):
        await harness.engine.submit(launch)
    one, other = await sees(harness, shared.key), await sees(harness, whole.key)
    assert one[0] != other[0]
    assert len(other) == 1  # a whole device is held to nothing


async def test_one_device_of_a_node_is_shared_at_a_time(harness: SlurmHarness) -> None:
    """By the ledger the second fits on a card of its own; Slurm lets it wait for the card that is shared already."""
    first = telling(asking(harness, "job_a", {"h100-0": 700}), harness)
    second = telling(asking(harness, "job_b", {"h100-1": 700}), harness, hold=False)
    await harness.engine.submit(first)
    card = (await sees(harness, first.key))[0]
    await harness.engine.submit(second)
    await harness.clock.sleep(3)
    assert (await harness.engine.observe([second.key]))[second.key].phase is Phase.PENDING
    harness.release()
    assert (await harness.ended(second.key)).exit_code == 0
    assert (await sees(harness, second.key))[0] == card


async def test_shares_of_two_devices_are_refused(harness: SlurmHarness) -> None:
    with pytest.raises(EngineRefused, match="one device a node"):
        await harness.engine.submit(asking(harness, "job_a", {"h100-0": 500, "h100-1": 500}))


async def test_a_cluster_without_mps_refuses_shares(tmp_path: Path, cluster: Cluster) -> None:
    plain = SlurmHarness(tmp_path, cluster, fractions="mps")
    with pytest.raises(EngineRefused, match=r"no shares in Slurm .GRES `mps`"):
        await plain.engine.submit(asking(plain, "job_a", {"h100-0": 500}))
    await plain.clean()
