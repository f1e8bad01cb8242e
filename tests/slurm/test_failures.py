"""What happens to a Slurm cluster, and what the engine makes of it: nothing runs twice, nothing is lost by a view."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from dujiang.engines.contract import AttemptKey, DeviceShare, End, EngineUnavailable, Observation, Phase, RankPlacement
from dujiang.engines.slurm.commands import LocalCommands, Said
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from tests.contract.harness import Exits, Waits
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness

pytestmark = pytest.mark.slurm
PATIENCE_S = 90.0
"""Slurm itself takes some 30 s to call a silent node down."""


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


async def ended(harness: SlurmHarness, key: AttemptKey) -> Observation:
    """Wait for an end longer than the contract's tests do, while the controller may be away."""
    deadline = harness.clock.monotonic_s() + PATIENCE_S
    while True:
        try:
            seen = (await harness.engine.observe([key])).get(key)
        except EngineUnavailable:
            seen = None
        if seen is not None and seen.phase is Phase.ENDED:
            return seen
        assert harness.clock.monotonic_s() < deadline, seen
        await harness.engine.changed(0.5)


def number_of(harness: SlurmHarness, key: AttemptKey) -> str:
    """Return the batch job of an attempt, as Slurm's own queue tells it."""
    lines = harness.cluster.client("squeue", "-h", "-a", "-t", "all", "-o", "%i %j").splitlines()
    return max((line.split()[0] for line in lines if line.split()[1] == f"dj-{key}"), key=int)


def told(seen: Observation) -> str:
    return " ".join(evidence.line for evidence in seen.evidence)


class Lossy(LocalCommands):
    """Commands whose answers are spoiled on their way back."""

    def __init__(self, settings: SlurmSettings) -> None:
        super().__init__(settings)
        self.lose, self.empty = "", ""

    async def run(self, *words: str, env: Mapping[str, str] = MappingProxyType({})) -> Said:
        said = await super().run(*words, env=env)
        if words[0] == self.lose:
            self.lose = ""
            raise EngineUnavailable("the answer was lost")
        return Said(0, "", "") if words[0] == self.empty else said


def lossy(harness: SlurmHarness) -> Lossy:
    """Give the engine commands that can be spoiled."""
    settings = SlurmSettings(**harness.set)  # type: ignore[arg-type]
    commands = Lossy(settings)
    harness.engine = SlurmEngine(settings, clock=harness.clock, commands=commands)  # type: ignore[assignment]
    return commands


async def test_a_node_that_dies_is_a_lost_node(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    harness.cluster.kill_node(harness.node)
    try:
        seen = await ended(harness, key)
    finally:
        harness.cluster.start_node(harness.node)
    assert (seen.end, seen.exit_code) == (End.NODE_LOST, None)
    assert "NODE_FAIL" in told(seen)
    harness.cluster.wait("the node", lambda: harness.cluster.states()[harness.node] == "idle")
    assert (await harness.ended(await harness.submit(Exits(4), number=2))).exit_code == 4
    assert harness.runs(key) == 1


async def test_a_controller_that_is_away_loses_nothing(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits(5))
    await harness.ready(key)
    harness.cluster.stop("slurmctld")
    late = harness.launch(Exits(6), job="job_late")
    try:
        await harness.restart()
        with pytest.raises(EngineUnavailable):
            await harness.engine.observe([key])
        with pytest.raises(EngineUnavailable):
            await harness.engine.inventory()
        with pytest.raises(EngineUnavailable):
            await harness.engine.submit(late)
        harness.release()
        assert (await ended(harness, key)).exit_code == 5  # by its file: Slurm is not there to tell
    finally:
        harness.cluster.start_controller()
    harness.cluster.wait("the nodes", lambda: set(harness.cluster.states().values()) == {"idle"})
    await harness.engine.submit(late)
    assert (await harness.ended(late.key)).exit_code == 6
    assert harness.runs(late.key) == 1


async def test_a_job_that_is_requeued_does_not_run_again(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    number = number_of(harness, key)
    harness.cluster.client("scontrol", "update", f"JobId={number}", "Requeue=1")
    harness.cluster.client("scontrol", "requeue", number)
    seen = await ended(harness, key)
    assert seen.end is End.LOST
    assert "requeue" in told(seen)
    harness.cluster.wait("the job to be gone", lambda: harness.cluster.job_state(number) in ("", "CANCELLED"))
    assert harness.runs(key) == 1


async def test_a_requeued_job_that_nobody_watches_does_not_run_again(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    number = number_of(harness, key)
    harness.cluster.client("scontrol", "update", f"JobId={number}", "Requeue=1")
    harness.cluster.client("scontrol", "requeue", number)
    harness.cluster.wait("the second start", lambda: harness.cluster.job_state(number) == "COMPLETED")
    assert (await ended(harness, key)).end is End.LOST
    assert harness.runs(key) == 1


async def test_what_a_person_cancels_is_stopped(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    harness.cluster.client("scancel", number_of(harness, key))
    seen = await ended(harness, key)
    assert seen.end is End.STOPPED
    assert "CANCELLED" in told(seen)


async def test_what_slurm_preempts_is_lost_and_says_so(harness: SlurmHarness) -> None:
    key = await harness.submit(Waits())
    await harness.ready(key)
    other = harness.cluster.client(
        "sbatch", "--parsable", "-p", "urgent", "-w", harness.node, "--exclusive", "-o", "/dev/null",
        "--wrap", "sleep 60",
    ).strip()  # fmt: skip
    seen = await ended(harness, key)
    harness.cluster.client("scancel", other)
    assert seen.end is End.PREEMPTED
    assert "PREEMPTED" in told(seen)


async def test_a_node_that_a_person_drained_stays_theirs(harness: SlurmHarness) -> None:
    node = harness.cluster.nodes[1]
    harness.cluster.client("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=memory module 3")
    try:
        await harness.engine.cordon(node, "ours too")
        await harness.engine.uncordon(node)
        facts = {one.name: one for one in await harness.engine.inventory()}[node]
        assert (facts.cordoned, facts.reason) == (True, "memory module 3")
        assert harness.cluster.states()[node].rstrip("*") == "drained"  # a star: it has not answered for a while
    finally:
        harness.cluster.client("scontrol", "update", f"NodeName={node}", "State=RESUME")


async def test_a_node_that_we_drained_names_us(harness: SlurmHarness) -> None:
    node = harness.cluster.nodes[1]
    await harness.engine.cordon(node, "new fans")
    assert harness.cluster.client("sinfo", "-h", "-n", node, "-p", "all", "-o", "%E").strip() == "dujiang: new fans"
    assert harness.cluster.states()[node].rstrip("*") == "drained"  # a star: it has not answered for a while
    await harness.engine.uncordon(node)
    harness.cluster.wait("the node", lambda: harness.cluster.states()[node] == "idle")


async def test_jobs_of_others_are_counted_and_left_alone(harness: SlurmHarness) -> None:
    before = {one.name: one for one in await harness.engine.inventory()}[harness.node]
    key = await harness.submit(Waits(3))
    await harness.ready(key)
    other = harness.cluster.client(
        "sbatch", "--parsable", "--array=1-1000", "-w", harness.node, "-n1", "--cpus-per-task=10", "--mem=1G",
        "--gres=gpu:h100:1", "-o", "/dev/null", "--wrap", "sleep 60",
    ).strip()  # fmt: skip
    running = ("squeue", "-h", "-j", other, "-t", "RUNNING", "-r", "-o", "%i")
    harness.cluster.wait("four of them", lambda: len(harness.cluster.client(*running, check=False).split()) == 4)
    facts = {one.name: one for one in await harness.engine.inventory()}[harness.node]
    assert (len(before.devices), len(facts.devices)) == (4, 0)
    assert before.cpu_milli - facts.cpu_milli == 40_000 + 500  # ours has half a processor, and takes one
    assert before.memory_bytes - facts.memory_bytes == 4 << 30
    assert await harness.engine.attempts() == [key]
    harness.release()
    assert (await harness.ended(key)).exit_code == 3
    harness.cluster.client("scancel", other)


async def test_a_lost_answer_of_sbatch_starts_nothing_twice(harness: SlurmHarness) -> None:
    commands = lossy(harness)
    commands.lose = "sbatch"
    launch = harness.launch(Waits(2))
    with pytest.raises(EngineUnavailable):
        await harness.engine.submit(launch)
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    harness.release()
    assert (await harness.ended(launch.key)).exit_code == 2
    assert harness.runs(launch.key) == 1
    names = harness.cluster.client("squeue", "-h", "-a", "-t", "all", "-o", "%k").splitlines()
    mark = harness.engine._work.mark  # type: ignore[attr-defined]
    assert names.count(f"dujiang:{mark}:{launch.key}") == 1


async def test_a_queue_that_shows_nothing_loses_nothing(harness: SlurmHarness) -> None:
    commands = lossy(harness)
    key = await harness.submit(Waits(2))
    await harness.ready(key)
    commands.empty = "squeue"
    deadline = harness.clock.monotonic_s() + 3.0
    while harness.clock.monotonic_s() < deadline:
        assert (await harness.engine.observe([key]))[key].phase is Phase.RUNNING
        await harness.engine.changed(0.5)
    harness.release()
    assert (await harness.ended(key)).exit_code == 2


async def test_ranks_on_two_nodes_find_each_other(harness: SlurmHarness) -> None:
    say = "echo $RANK of $WORLD_SIZE on $SLURMD_NODENAME by $MASTER_ADDR $MASTER_PORT $TOKEN; cat made"
    launch = harness.launch_text(say, setup="echo once >> made", secrets={"TOKEN": "s3cret"})
    ranks = tuple(RankPlacement(nth, node, 500, 64 << 20) for nth, node in enumerate(("n2", "n1", "n2")))
    object.__setattr__(launch, "ranks", ranks)
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code, seen.node) == (End.EXITED, 0, "n2"), seen
    lines = [(await harness.printed(launch.key, rank=rank)).decode().split() for rank in range(3)]
    assert [line[:5] for line in lines] == [
        [str(nth), "of", "3", "on", node] for nth, node in enumerate(("n2", "n1", "n2"))
    ]
    assert len({tuple(line[6:8]) for line in lines}) == 1
    assert [line[8:] for line in lines] == [["s3cret", "once"]] * 3


async def test_a_rank_that_fails_on_one_node_ends_those_on_others(harness: SlurmHarness) -> None:
    launch = harness.launch_text("case $RANK in 1) exit 7;; *) exec sleep 600;; esac", grace_s=2.0)
    ranks = tuple(RankPlacement(nth, node, 500, 64 << 20) for nth, node in enumerate(("n1", "n2")))
    object.__setattr__(launch, "ranks", ranks)
    await harness.engine.submit(launch)
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code, seen.rank) == (End.EXITED, 7, 1), seen


async def test_a_job_finds_the_devices_that_slurm_gave_it(harness: SlurmHarness) -> None:
    launch = harness.launch_text("echo $CUDA_VISIBLE_DEVICES $DUJIANG_GPU_MILLI")
    shares = (DeviceShare("h100-2", 2, 1000, 0), DeviceShare("h100-3", 3, 1000, 0))
    object.__setattr__(launch, "ranks", (RankPlacement(0, harness.node, 500, 64 << 20, devices=shares),))
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    assert (await harness.printed(launch.key)).split() == [b"0,1", b"2000"]
