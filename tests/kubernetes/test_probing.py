"""A cluster that is dead or hangs is known as such within seconds, whatever its mirrors still show."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.probing import Probe
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import ManualClock
from tests.kubernetes.answering import answering, kubeconfig, status
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

real = pytest.mark.kubernetes
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


@real
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


@real
async def test_one_that_hangs_too(harness: KubernetesHarness) -> None:
    assert await harness.engine.inventory()
    harness.cluster.signal("api", signal.SIGSTOP)
    try:
        took_s, said = await away(harness)
    finally:
        harness.cluster.signal("api", signal.SIGCONT)
    assert took_s < WITHIN_S
    assert "whether it is ready within 5 s" in said
    await back(harness)


@real
async def test_and_an_api_server_whose_etcd_does_not_answer(harness: KubernetesHarness) -> None:
    """It goes on telling its version, which is all that was asked for before."""
    assert await harness.engine.inventory()
    harness.cluster.signal("etcd", signal.SIGSTOP)
    try:
        took_s, said = await away(harness)
        assert harness.cluster.request("GET", "/version")["gitVersion"]
    finally:
        harness.cluster.signal("etcd", signal.SIGCONT)
    assert took_s < WITHIN_S
    assert "its etcd does not" in said
    await back(harness)


# -- what a server says of itself -------------------------------------------------------------------------------------

READY = "[+]ping ok\n[+]log ok\n[{etcd}]etcd {said}\n[{hook}]poststarthook/start-it {told}\n"


def readiness(*, etcd: bool = True, hook: bool = True) -> web.Response:
    """Return what a server tells that is not ready, as 1.36.3 has it."""
    words = {True: ("+", "ok"), False: ("-", "failed: reason withheld")}
    text = READY.format(etcd=words[etcd][0], said=words[etcd][1], hook=words[hook][0], told=words[hook][1])
    return web.Response(status=500, text=text + "readyz check failed\n")


async def probed(folder: Path, ready: web.Response) -> tuple[Probe, list[str]]:
    """Ask a server once that says so of its readiness; return the probe, and what was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return ready if request.path == "/readyz" else web.json_response({"gitVersion": "v1.36.3"})

    async with answering(answer) as server:
        clock = ManualClock()
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(folder, server)), clock=clock)
        probe = Probe(api, clock)
        try:
            await probe.check()
        finally:
            await api.close()
    return probe, asked


async def test_one_that_is_ready_is_asked_nothing_more(tmp_path: Path) -> None:
    probe, asked = await probed(tmp_path, web.Response(text="ok"))
    assert (probe.trouble, asked) == ("", ["/readyz"])


async def test_one_without_its_etcd_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="look at etcd"):
        await probed(tmp_path, readiness(etcd=False))


async def test_one_that_is_not_ready_otherwise_is_used_and_told_of(tmp_path: Path) -> None:
    probe, _ = await probed(tmp_path, readiness(hook=False))
    assert "poststarthook/start-it failed" in probe.trouble


@pytest.mark.parametrize("ready", [status(403, "Forbidden"), status(404, "NotFound")])
async def test_where_the_account_may_not_ask_an_answer_is_enough(tmp_path: Path, ready: web.Response) -> None:
    probe, asked = await probed(tmp_path, ready)
    assert (probe.trouble, asked) == ("", ["/readyz", "/version"])
