"""What Slurm turns down for good, for these nodes, and for now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import EngineRefused, EngineUnavailable, NodeRefused
from dujiang.engines.slurm.refusing import refusal
from tests.contract.harness import Exits
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Invalid partition name specified", EngineRefused),
        ("Requested node configuration is not available", EngineRefused),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", EngineRefused),
        ("Required partition not available (inactive or drain)", NodeRefused),
        ("Required node not available (down, drained or reserved)", NodeRefused),
        ("Requested nodes are busy", NodeRefused),
        ("Invalid node name specified", NodeRefused),
        ("AssocMaxSubmitJobLimit; Job violates accounting/QOS policy (job submit limit)", EngineUnavailable),
        ("QOSGrpSubmitJobsLimit; Job violates accounting/QOS policy", EngineUnavailable),
        ("Slurm temporarily unable to accept job, sleeping and retrying", EngineUnavailable),
        ("Requested partition configuration not available now", EngineUnavailable),
    ],
)  # fmt: skip
def test_words_of_slurm(said: str, kind: type[Exception]) -> None:
    error = refusal(said)
    assert type(error) is kind
    assert said in str(error)


@pytest.fixture
def partition(cluster: Cluster) -> Iterator[str]:
    """The partition that jobs go to; open again in the end."""
    name = cluster.client("sinfo", "--noheader", "--format=%R").split()[0]
    yield name
    cluster.client("scontrol", "update", f"PartitionName={name}", "State=UP")


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


@pytest.mark.slurm
async def test_a_partition_that_is_closed_meanwhile_refuses_for_its_nodes(
    harness: SlurmHarness, cluster: Cluster, partition: str
) -> None:
    await harness.engine.inventory()
    cluster.client("scontrol", "update", f"PartitionName={partition}", "State=INACTIVE")
    with pytest.raises(NodeRefused, match="not available"):
        await harness.submit(Exits(3))
    cluster.client("scontrol", "update", f"PartitionName={partition}", "State=UP")
    key = await harness.submit(Exits(3), job="job_open")
    assert (await harness.ended(key)).exit_code == 3
