"""The Kubernetes engine keeps the contract, over real nodes with real containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.engine_contract import EngineContract
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

pytestmark = pytest.mark.kubernetes


class TestKubernetes(EngineContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
        harness = KubernetesHarness(tmp_path, cluster)
        yield harness
        await harness.clean()
