"""Slurm with limits by cgroups: memory that is held to, and devices that a job cannot open unless they are its own."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import DeviceShare, End, Isolation, RankPlacement
from tests.contract.harness import Exits, Grows
from tests.slurm.cluster import Cluster, install
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness

GROUPS = Path("/sys/fs/cgroup")
V1 = all((GROUPS / name / "cgroup.procs").exists() for name in ("memory", "devices", "freezer"))
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0 or not V1, reason="needs root and cgroups of version 1"),
]


@pytest.fixture(scope="module")
def confined() -> Iterator[Cluster]:
    """A cluster whose jobs are held to their share by the kernel; its limit groups are gone afterwards."""
    install()
    with scratch() as folder:
        with Cluster(folder / "c", confined=True) as cluster:
            yield cluster
        assert not list(GROUPS.glob("*/slurm*"))


@pytest.fixture
async def harness(tmp_path: Path, confined: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, confined)
    yield harness
    await harness.clean()


async def test_limits_are_told_to_be_kept(harness: SlurmHarness) -> None:
    found = await harness.engine.capabilities()
    assert (found.limits, found.limits_by) == (Isolation.ENFORCED, "slurm-cgroup")
    key = await harness.submit(Exits(0))
    seen = await harness.ended(key)
    assert (seen.exit_code, seen.limits_by) == (0, "slurm-cgroup")


async def test_a_job_over_its_memory_is_out_of_memory(harness: SlurmHarness) -> None:
    seen = await harness.ended(await harness.submit(Grows()))
    assert seen.end is End.OUT_OF_MEMORY, seen
    assert (await harness.ended(await harness.submit(Exits(2), job="job_b"))).exit_code == 2  # the next is not


async def test_a_job_can_open_its_own_devices_alone(harness: SlurmHarness) -> None:
    dev = harness.cluster.folder / "dev"
    tried = (
        f"import os\nfor n in range(4):\n try: os.open('{dev}/nvidia%d' % n, 2)\n except OSError as e: print(e.errno)"
    )
    launch = harness.launch_text(f'exec python3 -c "{tried}"')
    shares = (DeviceShare("h100-1", 1, 1000, 0), DeviceShare("h100-3", 3, 1000, 0))
    object.__setattr__(launch, "ranks", (RankPlacement(0, harness.node, 500, 128 << 20, devices=shares),))
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    found = sorted((await harness.printed(launch.key)).split())
    # No driver stands behind these nodes: who gets as far as that may open the device.
    assert found == sorted(b"%d" % code for code in (errno.ENXIO, errno.ENXIO, errno.EPERM, errno.EPERM))
