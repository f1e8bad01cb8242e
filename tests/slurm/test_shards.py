"""Shares of a device as Slurm's GRES `shard`: counted by Slurm, on the card that Slurm chose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, DeviceShare, EngineRefused, Isolation, Launch, Phase, RankPlacement
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import SystemClock
from tests.slurm.cluster import Cluster, install
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def sharing() -> Iterator[Cluster]:
    """A cluster whose four devices a node have four shards each."""
    install()
    with scratch() as folder, Cluster(folder / "c", shards=16) as cluster:
        yield cluster


@pytest.fixture
async def harness(tmp_path: Path, sharing: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, sharing, fractions="shard")
    yield harness
    await harness.clean()


def asking(harness: SlurmHarness, job: str, *ranks: Mapping[str, int], hold: bool = True) -> Launch:
    """Return a launch that says which devices it sees; each rank maps names of devices to thousandths."""
    wait = f"until [ -e {harness.folder}/released ]; do sleep 0.05; done" if hold else ""
    launch = harness.launch_text(f"echo sees $CUDA_VISIBLE_DEVICES $DUJIANG_GPU_MILLI; {wait}", job=job)
    placed = tuple(
        RankPlacement(
            nth, harness.node, 500, 64 << 20,
            devices=tuple(DeviceShare(name, int(name[-1]), milli, 0) for name, milli in shares.items()),
        )
        for nth, shares in enumerate(ranks)
    )  # fmt: skip
    object.__setattr__(launch, "ranks", placed)
    return launch


async def sees(harness: SlurmHarness, key: AttemptKey, rank: int = 0) -> list[str]:
    """Return what a rank printed, once it has."""
    deadline = harness.clock.monotonic_s() + 20
    while not (printed := (await harness.printed(key, rank=rank)).decode().split()):
        assert harness.clock.monotonic_s() < deadline, (await harness.engine.observe([key]))[key]
        await harness.clock.sleep(0.05)
    assert printed[0] == "sees"
    return printed[1:]


async def test_shares_and_whole_devices_are_never_on_one_card(harness: SlurmHarness) -> None:
    asked = {"job_a": {"h100-0": 500}, "job_b": {"h100-0": 500}, "job_c": {"h100-1": 1000}, "job_d": {"h100-2": 250}}
    keys = {}
    for name, shares in asked.items():
        launch = asking(harness, name, shares)
        await harness.engine.submit(launch)
        keys[name] = launch.key
    seen = {name: await sees(harness, key) for name, key in keys.items()}
    assert [told[1] for told in seen.values()] == ["500", "500", "1000", "250"]
    cards = {name: told[0] for name, told in seen.items()}
    assert all(card in "0123" for card in cards.values())
    assert cards["job_c"] not in (cards["job_a"], cards["job_b"], cards["job_d"])
    per_card: dict[str, int] = {}
    for name, told in seen.items():
        per_card[told[0]] = per_card.get(told[0], 0) + sum(asked[name].values())
    assert max(per_card.values()) <= 1000
    facts = {one.name: one for one in await harness.engine.inventory()}[harness.node]
    assert {device.name for device in facts.devices} == {f"h100-{index}" for index in range(4)}
    assert {device.isolation for device in facts.devices} == {Isolation.COUNTED_ONLY}
    harness.release()
    for key in keys.values():
        assert (await harness.ended(key)).exit_code == 0


async def test_ranks_that_share_one_device_see_one_device(harness: SlurmHarness) -> None:
    launch = asking(harness, "job_a", {"h100-3": 500}, {"h100-3": 250}, hold=False)
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    first, second = await sees(harness, launch.key), await sees(harness, launch.key, 1)
    assert (first[0], first[1], second[1]) == (second[0], "500", "250")


async def test_a_full_device_lets_the_next_share_wait_in_slurm(harness: SlurmHarness) -> None:
    """Shares that the ledger would place and others took meanwhile: nothing runs above what Slurm counts."""
    others = harness.cluster.client(
        "sbatch", "--parsable", "-w", harness.node, "--mem=64M", "--gres=gpu:4", "-o", "/dev/null", "--wrap", "sleep 60"
    ).strip()  # fmt: skip
    harness.cluster.wait("the other job", lambda: harness.cluster.job_state(others) == "RUNNING")
    facts = {one.name: one for one in await harness.engine.inventory()}[harness.node]
    assert facts.devices == ()
    launch = asking(harness, "job_a", {"h100-0": 250}, hold=False)
    await harness.engine.submit(launch)
    assert (await harness.engine.observe([launch.key]))[launch.key].phase is Phase.PENDING
    harness.cluster.client("scancel", others)
    assert (await harness.ended(launch.key)).exit_code == 0


@pytest.mark.parametrize(
    "shares",
    [({"h100-0": 500, "h100-1": 500},), ({"h100-0": 500}, {"h100-1": 500}), ({"h100-0": 500, "h100-1": 1000},)],
)
async def test_shares_of_several_devices_of_a_node_are_refused(
    harness: SlurmHarness, shares: tuple[dict[str, int], ...]
) -> None:
    with pytest.raises(EngineRefused, match="one device a node"):
        await harness.engine.submit(asking(harness, "job_a", *shares))


async def test_a_node_without_shards_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    plain = SlurmHarness(tmp_path, cluster, fractions="shard")
    with pytest.raises(EngineRefused, match="no shares"):
        await plain.engine.submit(asking(plain, "job_a", {"h100-0": 500}))
    await plain.clean()
    settings = SlurmSettings(work_dir=str(tmp_path), conf=str(cluster.conf))
    assert (await SlurmEngine(settings, clock=SystemClock()).capabilities()).device_isolation is Isolation.COUNTED_ONLY
