"""The Slurm engine keeps the contract, over the commands of a real Slurm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.engine_contract import EngineContract
from tests.contract.process_contract import ProcessContract
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness

pytestmark = pytest.mark.slurm


class TestSlurm(EngineContract, ProcessContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, cluster: Cluster) -> AsyncIterator[SlurmHarness]:
        harness = SlurmHarness(tmp_path, cluster)
        yield harness
        await harness.clean()


class TestSlurmOverRest(EngineContract, ProcessContract):
    """With slurmrestd alone, v0.0.38: without any command."""

    @pytest.fixture
    async def harness(self, tmp_path: Path, cluster: Cluster, rest: str) -> AsyncIterator[SlurmHarness]:
        harness = SlurmHarness(tmp_path, cluster, rest_url=rest, rest_key_file=str(cluster.jwt_key),
                               commands=str(tmp_path / "none"))  # fmt: skip
        yield harness
        await harness.clean()
