"""A newer Slurm, 24.11: the contract over its slurmrestd alone, without any command, and what only it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dujiang.engines.contract import Phase
from tests.contract.engine_contract import EngineContract
from tests.contract.harness import Exits, Grows, Program, Waits
from tests.contract.process_contract import ProcessContract
from tests.slurm.conftest import scratch
from tests.slurm.harness import SlurmHarness
from tests.slurm.newer import NewerCluster, install
from tests.slurm.test_delegated import filled

pytestmark = pytest.mark.slurm


class NewerHarness(SlurmHarness):
    """The programs of jobs run in the folder of the newer Slurm, with its Python."""

    def body(self, program: Program) -> str:
        return "exec python3 -c 'x = bytearray(400 << 20)'" if program == Grows() else super().body(program)


@pytest.fixture(scope="module")
def newer() -> Iterator[NewerCluster]:
    """A cluster of three nodes."""
    root = install()
    with scratch() as folder, NewerCluster(folder / "c", root) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def newer_rest(newer: NewerCluster) -> str:
    """The URL of its slurmrestd."""
    return newer.start_rest()


class TestSlurmOverRestAlone(EngineContract, ProcessContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, newer: NewerCluster, newer_rest: str) -> AsyncIterator[NewerHarness]:
        harness = NewerHarness(
            tmp_path, newer, rest_url=newer_rest, rest_key_file=str(newer.jwt_key), commands=str(tmp_path / "none")
        )
        yield harness
        await harness.clean()


@pytest.fixture
async def by_commands(tmp_path: Path, newer: NewerCluster) -> AsyncIterator[NewerHarness]:
    harness = NewerHarness(tmp_path, newer, commands=str(newer.commands))
    yield harness
    await harness.clean()


async def test_its_commands_speak_as_the_older_ones_do(by_commands: NewerHarness) -> None:
    nodes = {one.name: one for one in await by_commands.engine.inventory()}
    assert set(nodes) == set(by_commands.cluster.nodes)
    assert [device.name for device in nodes["n1"].devices] == [f"h100-{index}" for index in range(4)]
    assert nodes["n1"].labels["dujiang.io/switch"] == "s1"
    assert (await by_commands.engine.capabilities()).version.startswith("24.11")
    key = await by_commands.submit(Waits(3))
    await by_commands.ready(key)
    assert (await by_commands.engine.observe([key]))[key].phase is Phase.RUNNING
    by_commands.release()
    assert (await by_commands.ended(key)).exit_code == 3
    await by_commands.engine.cordon("n2", "new fans")
    assert {one.name: one.reason for one in await by_commands.engine.inventory()}["n2"] == "new fans"
    await by_commands.engine.uncordon("n2")
    assert (await by_commands.ended(await by_commands.submit(Exits(4), job="job_b"))).exit_code == 4


async def test_where_slurm_may_choose_it_is_told_over_rest_what_not_to(
    tmp_path: Path, newer: NewerCluster, newer_rest: str
) -> None:
    rest = {"rest_url": newer_rest, "rest_key_file": str(newer.jwt_key), "commands": str(tmp_path / "none")}
    harness = NewerHarness(tmp_path, newer, placement="delegated", **rest)
    harness.engine._work.open()
    harness.engine._work.close_node("n2", "ours alone")
    with filled(newer, "n1"):
        seen = await harness.ended(await harness.submit(Exits(3)))
    harness.engine._work.open_node("n2")
    assert (seen.exit_code, seen.node) == (3, "n3")
    await harness.clean()
