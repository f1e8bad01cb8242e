"""A cluster that is dead or hangs is known as such within seconds, whatever its mirrors still show."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dujiang.engines.contract import EngineUnavailable
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

pytestmark = pytest.mark.kubernetes
WITHIN_S = 20.0
"""Three seconds between questions, five for an answer; the machine may be busy. Mirrors go on telling for a minute."""


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster, stale_after_s=60.0)
    yield harness
    async with asyncio.timeout(20.0):
        await harness.engine.close()  # nothing was made


async def away(harness: KubernetesHarness) -> tuple[float, str]:
    """Look at the cluster again and again until it does not answer; return how long that took, and what is said."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < WITHIN_S:
        try:
            await harness.engine.inventory()
        except EngineUnavailable as error:
            return time.monotonic() - began_s, error.sentence
        await asyncio.sleep(0.2)
    raise AssertionError("the mirrors go on telling what they saw last")


async def back(harness: KubernetesHarness) -> None:
    for _ in range(150):
        try:
            assert harness.node in {node.name for node in await harness.engine.inventory()}
            return
        except EngineUnavailable:
            await asyncio.sleep(0.2)
    raise AssertionError("it is not back")


async def test_a_dead_api_server_is_noticed_within_seconds(harness: KubernetesHarness) -> None:
    assert await harness.engine.inventory()
    harness.cluster.stop("api")
    try:
        took_s, said = await away(harness)
    finally:
        harness.cluster.start("api")
    assert took_s < WITHIN_S
    assert "answer" in said or "reached" in said, said
    await back(harness)


async def test_one_that_hangs_too(harness: KubernetesHarness) -> None:
    assert await harness.engine.inventory()
    harness.cluster.signal("api", signal.SIGSTOP)
    try:
        took_s, said = await away(harness)
    finally:
        harness.cluster.signal("api", signal.SIGCONT)
    assert took_s < WITHIN_S
    assert "its version within 5 s" in said
    await back(harness)
