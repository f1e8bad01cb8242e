"""Slurm with slurmdbd: what the controller forgot is told by `sacct`, and the ledger is compared with its accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dujiang.engines.contract import Accounts, DeviceShare, End, EngineRefused, EngineUnavailable, RankPlacement
from dujiang.engines.slurm.commands import LocalCommands, Said
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.kit.clock import SystemClock
from tests.chaos.process import PlatformProcess, until
from tests.contract.harness import Exits, Waits
from tests.slurm import database
from tests.slurm.cluster import Cluster, install
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness
from tests.slurm.test_platform import SETTINGS

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def books() -> Iterator[Cluster]:
    """A cluster with accounts, whose controller soon forgets."""
    install()
    install(database.PROGRAMS, database.PACKAGES)
    with scratch() as folder, Cluster(folder / "c", accounting=True, min_job_age_s=2) as cluster:
        yield cluster


@pytest.fixture
async def harness(tmp_path: Path, books: Cluster) -> AsyncIterator[SlurmHarness]:
    harness = SlurmHarness(tmp_path, books)
    yield harness
    await harness.clean()


class Counting(LocalCommands):
    """Commands that are counted by name."""

    def __init__(self, settings: SlurmSettings) -> None:
        super().__init__(settings)
        self.ran: list[str] = []

    async def run(self, *words: str, env: Mapping[str, str] = MappingProxyType({})) -> Said:
        self.ran.append(words[0])
        return await super().run(*words, env=env)


async def test_a_job_that_the_controller_forgot_is_told_by_the_accounts(harness: SlurmHarness) -> None:
    settings = SlurmSettings(**harness.set)  # type: ignore[arg-type]
    commands = Counting(settings)
    harness.engine = SlurmEngine(settings, clock=harness.clock, commands=commands)  # type: ignore[assignment]
    key = await harness.submit(Waits())
    await harness.ready(key)
    number = harness.cluster.client("squeue", "-h", "-o", "%i").strip()
    harness.cluster.client("scancel", number)
    known = ("scontrol", "show", "job", number)
    harness.cluster.wait("it to be forgotten", lambda: not harness.cluster.client(*known, check=False))
    assert "sacct" not in commands.ran
    seen = await harness.ended(key)
    assert (seen.end, "sacct" in commands.ran) == (End.STOPPED, True)
    assert "Slurm says CANCELLED" in " ".join(one.line for one in seen.evidence)


async def test_the_accounts_of_an_attempt(harness: SlurmHarness) -> None:
    began = harness.clock.now()
    launch = harness.launch(Exits(3))
    shares = (DeviceShare("h100-1", 1, 1000, 0), DeviceShare("h100-2", 2, 1000, 0))
    ranks = tuple(RankPlacement(nth, node, 1500, 64 << 20, devices=shares) for nth, node in enumerate(("n1", "n3")))
    object.__setattr__(launch, "ranks", ranks)
    await harness.engine.submit(launch)
    await harness.ended(launch.key)
    engine = harness.engine
    assert isinstance(engine, SlurmEngine)
    assert isinstance(engine, Accounts)
    until_s = harness.clock.monotonic_s() + 30
    while not (found := [one for one in await engine.accounted(began, harness.clock.now()) if one.ended_at]):
        assert harness.clock.monotonic_s() < until_s
        await harness.clock.sleep(0.3)
    (one,) = found
    assert (one.key, one.cpu_milli, one.devices, one.nodes, one.state) == (launch.key, 4000, 4, ("n1", "n3"), "FAILED")
    assert one.started_at is not None
    assert one.ended_at is not None
    assert began - timedelta(seconds=1) <= one.started_at <= one.ended_at <= harness.clock.now()
    assert one.elapsed_s == (one.ended_at - one.started_at).total_seconds()


async def test_accounts_that_are_away_are_an_engine_that_does_not_answer(harness: SlurmHarness) -> None:
    engine = harness.engine
    assert isinstance(engine, SlurmEngine)
    now = harness.clock.now()
    harness.cluster.stop("slurmdbd")
    try:
        with pytest.raises(EngineUnavailable, match="accounting does not answer"):
            await engine.accounted(now - timedelta(hours=1), now)
        key = await harness.submit(Exits(0))  # work goes on without
        assert (await harness.ended(key)).exit_code == 0
    finally:
        harness.cluster.start_accounts()
    assert await engine.accounted(now - timedelta(hours=1), now - timedelta(minutes=30)) == []


async def test_a_cluster_without_slurmdbd_says_so(tmp_path: Path, cluster: Cluster) -> None:
    clock = SystemClock()
    engine = SlurmEngine(SlurmSettings(work_dir=str(tmp_path), conf=str(cluster.conf)), clock=clock)
    with pytest.raises(EngineRefused, match="keeps no accounts"):
        await engine.accounted(clock.now() - timedelta(hours=1), clock.now())


JOB = """\
name: counted-{nth}
placement: {{cluster: hpc}}
resources: {{gpu: {gpus}, memory: 128MiB}}
time_limit: 10m
run: sleep 3
"""


def test_the_ledger_is_compared_with_the_accounts(tmp_path: Path, books: Cluster) -> None:
    home, shared = tmp_path / "home", tmp_path / "shared"
    platform = PlatformProcess(home)
    (home / "dujiang.toml").write_text(SETTINGS.format(shared=shared, conf=books.conf))
    platform.start()
    try:
        for nth, gpus in enumerate((1, 2, 4)):
            (tmp_path / "job.yaml").write_text(JOB.format(nth=nth, gpus=gpus))
            assert platform.run("submit", str(tmp_path / "job.yaml")).code == 0
        until(lambda: {job["state"] for job in platform.jobs()} == {"COMPLETED"}, 60, "the jobs to end")
        until(lambda: _reconciled(platform)[0] == 0, 30, "both sides to say the same")
        code, found = _reconciled(platform)
        assert (code, found["holds"], found["attempts"], found["differing"]) == (0, True, 3, 0)
        assert found["accounts_gpu_s"] >= 7 * 3
        assert abs(found["difference_gpu_s"]) <= 7 * found["tolerance_s"]

        made = ("sbatch", "--parsable", "-J", "dj-job_unknown.1", f"--chdir={shared}/dujiang", "-o", "/dev/null")
        number = books.client(*made, "--gres=gpu:h100:3", "--wrap", "sleep 8").strip()
        until(lambda: _reconciled(platform)[0] == 7, 60, "what only Slurm has to be told")
        books.wait("it to end", lambda: books.job_state(number) in ("", "COMPLETED"))
        code, found = _reconciled(platform)
        (stray,) = found["items"]
        assert (code, stray["job_id"], stray["ledger"], stray["accounts"][0]["devices"]) == (7, "job_unknown", None, 3)
        assert found["difference_gpu_s"] < -3 * 5
        said = platform.run("ledger", "reconcile", "--cluster", "hpc")
        assert (said.code, f"as job {number}" in said.out) == (7, True), said
        refused = platform.run("ledger", "reconcile", "--cluster", "local")
        assert (refused.code, "keeps no accounts" in refused.err) == (6, True), refused
    finally:
        platform.stop()


def _reconciled(platform: PlatformProcess) -> tuple[int, dict[str, Any]]:
    said = platform.run("ledger", "reconcile", "--cluster", "hpc", "--json")
    assert said.code in (0, 7), said
    return said.code, said.json["clusters"][0]
