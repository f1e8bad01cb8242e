"""What Slurm turns down for good, for these nodes, and for now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import EngineRefused, EngineUnavailable, NodeRefused, Phase
from dujiang.engines.slurm.refusing import refusal
from tests.contract.harness import Exits, Waits
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


@pytest.mark.slurm
@pytest.mark.parametrize("by_rest", [False, True])
async def test_why_a_job_waits_in_slurm_is_told(
    tmp_path: Path, cluster: Cluster, rest: str, by_rest: bool
) -> None:  # fmt: skip
    """Others have the whole node: the engine says so in Slurm's word, and nothing more once the job has begun."""
    more = {"rest_url": rest, "rest_key_file": str(cluster.jwt_key)} if by_rest else {}
    harness = SlurmHarness(tmp_path / "waits", cluster, **more)
    harness.folder.mkdir(exist_ok=True)
    await harness.engine.inventory()
    other = cluster.client("sbatch", "--parsable", "--exclusive", "-w", harness.node, "-o", "/dev/null", "--wrap",
                           "sleep 600").strip()  # fmt: skip
    cluster.wait("the other", lambda: cluster.client("squeue", "-h", "-j", other, "-o", "%T").strip() == "RUNNING")
    key = await harness.submit(Waits(3))
    for _ in range(40):
        (seen,) = (await harness.engine.observe([key])).values()
        if seen.evidence:
            break
        await harness.clock.sleep(0.5)
    assert seen.phase is Phase.PENDING
    (line,) = [one.line for one in seen.evidence]
    assert line in ("Slurm says PENDING: Resources", "Slurm says PENDING: Priority")
    cluster.client("scancel", other)
    await harness.ready(key)
    (seen,) = (await harness.engine.observe([key])).values()
    assert (seen.phase, seen.evidence) == (Phase.RUNNING, ())
    harness.release()
    assert (await harness.ended(key)).exit_code == 3
    await harness.clean()
