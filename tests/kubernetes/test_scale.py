"""Many attempts at once, on fake nodes: looking at them costs no requests, and each ends once."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, End, Phase, RankPlacement
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.engines.kubernetes.records import name_of
from dujiang.engines.kubernetes.settings import KubernetesSettings
from tests.contract.harness import Waits
from tests.kubernetes import fakes
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness

pytestmark = pytest.mark.kubernetes
MANY = int(os.environ.get("DUJIANG_TEST_ATTEMPTS", "300"))
WITHIN_S = 300.0


class Counting(Api):
    """An API server of which the requests are counted."""

    def __init__(self, settings: KubernetesSettings, **more: Any) -> None:
        super().__init__(settings, **more)
        self.asked: Counter[str] = Counter()

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        self.asked["get"] += 1
        return await super().get(path, **params)

    async def create(self, path: str, body: Any) -> dict[str, Any]:
        self.asked[f"create {path.rpartition('/')[2]}"] += 1
        return await super().create(path, body)

    async def patch(self, path: str, body: Any, **more: Any) -> dict[str, Any]:
        self.asked[f"patch {path.split('/')[-2]}"] += 1
        return await super().patch(path, body, **more)

    async def exec(self, *words: Any, **more: Any) -> tuple[int, bytes, bytes]:
        self.asked["exec"] += 1
        return await super().exec(*words, **more)


@pytest.fixture
async def harness(tmp_path: Path, control: Cluster) -> AsyncIterator[KubernetesHarness]:
    nodes = control.add_fake_nodes(-(-MANY // 100) + 1, prefix=f"scale-{os.getpid()}")
    harness = KubernetesHarness(tmp_path, control, node=nodes[0])
    yield harness
    await harness.engine.close()
    control.request("DELETE", f"/api/v1/namespaces/{harness.namespace}/configmaps")
    pods = f"/api/v1/namespaces/{harness.namespace}/pods"
    for pod in control.request("GET", pods)["items"]:
        path = f"{pods}/{pod['metadata']['name']}"
        control.request("PATCH", path, {"metadata": {"finalizers": None}}, kind="application/merge-patch+json")
        control.request("DELETE", f"{path}?gracePeriodSeconds=0")
    for node in nodes:
        control.kubectl("delete", "node", node, "--wait=false")


async def all_in(
    engine: KubernetesEngine, keys: Sequence[AttemptKey], phase: Phase, within_s: float = WITHIN_S
) -> None:
    async with asyncio.timeout(within_s):
        while True:
            seen = await engine.observe(keys)
            if len(seen) == len(keys) and all(one.phase is phase for one in seen.values()):
                return
            await engine.changed(5.0)


async def test_looking_at_many_attempts_costs_no_request(harness: KubernetesHarness) -> None:
    settings = KubernetesSettings(**harness.set)
    api = Counting(settings, clock=harness.clock)
    harness.engine = engine = harness.another(api)  # type: ignore[assignment]
    nodes = [node.name for node in await engine.inventory() if node.name.startswith(f"scale-{os.getpid()}")]
    launches = [
        replace(
            harness.launch(Waits(), job=f"job_{nth}"),
            ranks=(RankPlacement(0, nodes[nth % len(nodes)], 100, 16 << 20),),
        )
        for nth in range(MANY)
    ]
    room = asyncio.Semaphore(32)

    async def submit(nth: int) -> None:
        async with room:
            await engine.submit(launches[nth])

    began = harness.clock.monotonic_s()
    await asyncio.gather(*(submit(nth) for nth in range(MANY)))
    submitted = harness.clock.monotonic_s()
    keys = [launch.key for launch in launches]
    await all_in(engine, keys, Phase.RUNNING)
    running = harness.clock.monotonic_s()
    # One request for each, and one for the script that all run.
    assert (api.asked["create pods"], api.asked["create configmaps"], api.asked["patch pods"]) == (MANY, 1, 0)

    before = Counter(api.asked)
    at = harness.clock.monotonic_s()
    for _ in range(10):
        assert len(await engine.observe(keys)) == MANY
    looked_s = (harness.clock.monotonic_s() - at) / 10
    assert api.asked == before

    second = Counting(settings, clock=harness.clock)
    await harness.engine.close()
    harness.engine = engine = harness.another(second)  # type: ignore[assignment]
    at = harness.clock.monotonic_s()
    assert {one.phase for one in (await engine.observe(keys)).values()} == {Phase.RUNNING}
    found_s = harness.clock.monotonic_s() - at
    assert not second.asked

    at = harness.clock.monotonic_s()
    change = {"metadata": {"annotations": {fakes.ENDS_AFTER: "0s", fakes.EXITS_WITH: "7"}}}

    async def end(key: AttemptKey) -> None:
        async with room:
            await Api.patch(second, f"/api/v1/namespaces/{harness.namespace}/pods/{name_of(key)}-0", change)

    await asyncio.gather(*map(end, keys))
    await all_in(engine, keys, Phase.ENDED)
    ended_s = harness.clock.monotonic_s() - at
    assert Counter(one.end for one in (await engine.observe(keys)).values()) == {End.EXITED: MANY}
    assert second.asked["patch pods"] == MANY  # each end is written once
    print(  # noqa: T201 - figures for whoever runs this by hand with -s
        f"{MANY} attempts: submitted in {submitted - began:.1f} s, running after {running - began:.1f} s; a look"
        f" {looked_s * 1e3:.1f} ms, the first of a new engine {found_s:.2f} s; ended within {ended_s:.1f} s"
    )
