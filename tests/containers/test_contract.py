"""A job in an image is to the platform as one without: the engine's contract, in containers of each runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.containers.harness import ImageHarness
from tests.containers.runtimes import Store
from tests.contract.engine_contract import EngineContract
from tests.contract.process_contract import ProcessContract

pytestmark = pytest.mark.containers


class _InImages(EngineContract, ProcessContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, store: Store) -> AsyncIterator[ImageHarness]:
        harness = ImageHarness(tmp_path, store)
        yield harness
        await harness.clean()

    async def test_which_runtime_it_is_is_told(self, harness: ImageHarness, store: Store) -> None:
        assert (await harness.engine.capabilities()).images == store.name


class TestPodman(_InImages):
    runtime = "podman"


class TestContainerd(_InImages):
    runtime = "containerd"


class TestDocker(_InImages):
    runtime = "docker"
