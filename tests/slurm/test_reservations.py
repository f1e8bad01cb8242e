"""Reservations of Slurm: nodes that are kept for others are shown and closed, and ours are used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import EngineRefused, NodeFacts, Phase
from tests.contract.harness import Exits
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness

pytestmark = pytest.mark.slurm
LABEL = "slurm.schedmd.com/reservation-"


@pytest.fixture
def reserved(cluster: Cluster) -> Iterator[None]:
    """`theirs` has n1 and begins now, `ours` has n2 and n3, `later` has all of them tomorrow."""
    create = ("scontrol", "create", "reservation", "Duration=30")
    cluster.client(*create, "ReservationName=theirs", "Users=nobody", "Nodes=n1", "StartTime=now")
    cluster.client(*create, "ReservationName=ours", "Users=root", "Nodes=n2,n3", "StartTime=now")
    cluster.client(*create, "ReservationName=later", "Users=nobody", "Nodes=n1,n2,n3", "StartTime=tomorrow")
    yield
    for name in ("theirs", "ours", "later"):
        cluster.client("scontrol", "delete", f"ReservationName={name}")


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster, reserved: None) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


async def shown(harness: SlurmHarness) -> dict[str, NodeFacts]:
    return {one.name: one for one in await harness.engine.inventory()}


async def test_what_is_kept_for_others_is_closed_and_told(harness: SlurmHarness) -> None:
    nodes = await shown(harness)
    assert {name: (node.cordoned, node.reason) for name, node in nodes.items()} == {
        "n1": (True, "reserved in Slurm: theirs"), "n2": (True, "reserved in Slurm: ours"),
        "n3": (True, "reserved in Slurm: ours"),
    }  # fmt: skip
    assert [name for name in nodes["n1"].labels if name.startswith(LABEL)] == [f"{LABEL}theirs"]


async def test_jobs_run_in_a_reservation_of_ours(tmp_path: Path, harness: SlurmHarness) -> None:
    within = SlurmHarness(tmp_path / "within", harness.cluster, reservation="ours")
    nodes = await shown(within)
    assert {name: node.cordoned for name, node in nodes.items()} == {"n1": True, "n2": False, "n3": False}
    assert nodes["n1"].reason == "not in the reservation ours now"
    within.folder.mkdir(exist_ok=True)
    within.node = "n2"
    launch = within.launch(Exits(3), time_limit_s=60.0)
    await within.engine.submit(launch)
    assert (await within.ended(launch.key)).exit_code == 3
    with pytest.raises(EngineRefused, match="outside of the reservation"):  # without an end it would run into `later`
        await within.submit(Exits(3), job="job_endless")
    await within.clean()
    waits = await harness.submit(Exits(4), job="job_b")  # on n1, which is kept for somebody else
    await harness.clock.sleep(1.0)
    assert (await harness.engine.observe([waits]))[waits].phase is Phase.PENDING


async def test_the_same_is_told_over_rest(tmp_path: Path, harness: SlurmHarness, rest: str) -> None:
    other = SlurmHarness(tmp_path / "rest", harness.cluster, rest_url=rest, rest_key_file=str(harness.cluster.jwt_key))
    found = {name: (node.reason, node.labels) for name, node in (await shown(other)).items()}
    assert found == {name: (node.reason, node.labels) for name, node in (await shown(harness)).items()}
    await other.clean()
