"""That an attempt runs at most once: its record is its first Pod, which people delete, and requests come late."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable, Launch, Observation, Phase
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.records import KEEP, name_of
from dujiang.engines.kubernetes.settings import KubernetesSettings
from tests.contract.harness import Exits, Waits
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness
from tests.kubernetes.test_failures import Lossy, ended, path_of, settled, take, told

pytestmark = pytest.mark.kubernetes


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster)
    yield harness
    await harness.clean()


class Keeping(Api):
    """An API server, and what was created there, to be sent again."""

    def __init__(self, harness: KubernetesHarness) -> None:
        super().__init__(KubernetesSettings(**harness.set), clock=harness.clock)
        self.pods: list[tuple[str, Mapping[str, Any]]] = []

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if path.endswith("/pods"):
            self.pods.append((path, json.loads(json.dumps(body))))
        return await super().create(path, body)


def delete(harness: KubernetesHarness, key: AttemptKey, rank: int = 0) -> None:
    """Delete a Pod as a person does."""
    name = f"{name_of(key)}-{rank}"
    harness.cluster.kubectl("delete", "pod", name, "-n", harness.namespace, "--wait=false")


def names(harness: KubernetesHarness, kind: str = "pods") -> str:
    return harness.cluster.kubectl("get", kind, "-n", harness.namespace, "-o", "name")


async def stays_readable_until_forgotten(harness: KubernetesHarness, launch: Launch, seen: Observation) -> None:
    """See that neither a new engine nor a late submit changes anything, and that forgetting leaves nothing."""
    runs = harness.runs(launch.key)
    await harness.engine.submit(launch)
    await harness.restart()
    await harness.engine.submit(launch)
    assert (await harness.engine.observe([launch.key]))[launch.key] == seen
    assert name_of(launch.key) in names(harness)
    await harness.engine.forget(launch.key)
    await settled(harness, lambda: name_of(launch.key) not in names(harness))
    await harness.engine.submit(launch)
    await harness.restart()
    await harness.engine.submit(launch)
    assert await harness.engine.attempts() == []
    assert name_of(launch.key) not in names(harness)
    assert harness.runs(launch.key) == runs


# -- who deletes a record ---------------------------------------------------------------------------------------------


async def test_a_record_deleted_before_it_began_is_a_stop(harness: KubernetesHarness) -> None:
    harness.cluster.kubectl("cordon", harness.node)
    try:
        launch = harness.launch(Exits())
        await harness.engine.submit(launch)
        await harness.until(launch.key, lambda seen: seen is not None and bool(seen.evidence))
        delete(harness, launch.key)
        seen = await ended(harness, launch.key)
    finally:
        harness.cluster.kubectl("uncordon", harness.node)
    assert (seen.end, seen.started_at) == (End.STOPPED, None)
    assert "deleted" in told(seen)
    await stays_readable_until_forgotten(harness, launch, seen)
    assert harness.runs(launch.key) == 0


@pytest.mark.parametrize("ranks", [1, 2])
async def test_a_record_deleted_while_it_ran_is_a_stop(harness: KubernetesHarness, ranks: int) -> None:
    launch = harness.launch(Waits(), ranks=ranks)
    await harness.engine.submit(launch)
    for rank in range(ranks):
        await harness.ready(launch.key, rank=rank)
    delete(harness, launch.key)
    seen = await ended(harness, launch.key)
    assert seen.end is End.STOPPED
    await stays_readable_until_forgotten(harness, launch, seen)
    assert harness.runs(launch.key) == 1


async def test_a_record_deleted_after_the_end_keeps_it(harness: KubernetesHarness) -> None:
    launch = harness.launch(Exits(7, "here"))
    await harness.engine.submit(launch)
    seen = await harness.ended(launch.key)
    delete(harness, launch.key)
    await stays_readable_until_forgotten(harness, launch, seen)
    assert seen.exit_code == 7
    assert await harness.printed(launch.key) == b"here\n"


async def test_a_record_deleted_before_anybody_saw_its_end_keeps_it(harness: KubernetesHarness) -> None:
    launch = harness.launch(Waits(6))
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    await harness.engine.close()
    harness.release()
    await settled(harness, lambda: "Failed" in str(harness.cluster.request("GET", path_of(harness, launch.key))))
    delete(harness, launch.key)
    await harness.restart()
    seen = await ended(harness, launch.key)
    assert (seen.end, seen.exit_code) == (End.EXITED, 6)
    await stays_readable_until_forgotten(harness, launch, seen)


async def test_a_record_taken_away_by_force_is_gone_and_is_not_made_again(harness: KubernetesHarness) -> None:
    launch = harness.launch(Waits(), ranks=2)
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    take(harness, launch.key)
    await harness.until(launch.key, lambda seen: seen is None)
    await settled(harness, lambda: name_of(launch.key) not in names(harness))  # the other rank goes with it
    await settled(harness, lambda: f"configmap/{name_of(launch.key)}\n" in names(harness, "configmaps"))
    await harness.engine.submit(launch)
    assert name_of(launch.key) not in names(harness)
    assert await harness.engine.attempts() == []
    assert harness.runs(launch.key) == 1


async def test_a_namespace_that_somebody_deletes_goes_once_its_attempts_are_forgotten(
    harness: KubernetesHarness,
) -> None:
    launch = harness.launch(Waits())
    await harness.engine.submit(launch)
    await harness.ready(launch.key)
    harness.cluster.kubectl("delete", "namespace", harness.namespace, "--wait=false")
    seen = await ended(harness, launch.key)
    assert seen.end is End.STOPPED
    assert name_of(launch.key) in names(harness)
    await harness.engine.forget(launch.key)
    await settled(harness, lambda: harness.namespace not in harness.cluster.kubectl("get", "namespaces"))
    assert await harness.engine.attempts() == []
    assert harness.runs(launch.key) == 1


# -- what is late, or stops halfway -----------------------------------------------------------------------------------


async def test_a_platform_that_ends_after_its_first_request_has_started_what_is_one_pod(
    harness: KubernetesHarness,
) -> None:
    await harness.ended(await harness.submit(Exits(0), job="job_before"))
    await harness.engine.close()
    harness.engine = harness.another(Lossy(harness, "/pods"))  # type: ignore[assignment]
    launch = harness.launch(Waits(4))
    with pytest.raises(EngineUnavailable, match="lost"):
        await harness.engine.submit(launch)
    await harness.restart()
    await harness.ready(launch.key)
    assert (await harness.engine.observe([launch.key]))[launch.key].phase is Phase.RUNNING
    await harness.engine.submit(launch)
    harness.release()
    assert (await harness.ended(launch.key)).exit_code == 4
    assert harness.runs(launch.key) == 1


async def test_a_platform_that_ends_after_its_first_request_of_several_has_started_nothing(
    harness: KubernetesHarness,
) -> None:
    await harness.ended(await harness.submit(Exits(0), job="job_before"))
    await harness.engine.close()
    harness.engine = harness.another(Lossy(harness, "/pods"))  # type: ignore[assignment]
    launch = replace(harness.launch(Exits(4)), secrets={"TOKEN": "s"})
    with pytest.raises(EngineUnavailable, match="lost"):
        await harness.engine.submit(launch)
    await harness.restart()
    await harness.engine.changed(1.0)
    assert (await harness.engine.observe([launch.key]))[launch.key].phase is Phase.PENDING
    assert harness.runs(launch.key) == 0
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 4
    assert harness.runs(launch.key) == 1


@pytest.mark.parametrize("is_watched", [True, False])
async def test_a_create_that_arrives_after_the_attempt_was_forgotten_runs_nothing(
    harness: KubernetesHarness, is_watched: bool
) -> None:
    await harness.engine.close()
    sent = Keeping(harness)
    harness.engine = harness.another(sent)  # type: ignore[assignment]
    launch = harness.launch(Exits(0))
    await harness.engine.submit(launch)
    await harness.ended(launch.key)
    await harness.engine.forget(launch.key)
    await settled(harness, lambda: name_of(launch.key) not in names(harness))
    if not is_watched:
        await harness.engine.close()
    ((path, body),) = sent.pods
    made = harness.cluster.request("POST", path, body)
    assert KEEP in made["metadata"]["finalizers"]
    if not is_watched:
        where = path_of(harness, launch.key)
        await settled(harness, lambda: "Failed" in harness.cluster.request("GET", where)["status"]["phase"])
        said = harness.cluster.request("GET", where)["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
        assert "forgotten before its Pod was made" in said
        await harness.restart()
    assert await harness.engine.attempts() == []
    await settled(harness, lambda: name_of(launch.key) not in names(harness))
    assert await harness.engine.observe([launch.key]) == {}
    assert harness.runs(launch.key) == 1


async def test_what_was_forgotten_halfway_is_forgotten(harness: KubernetesHarness) -> None:
    launch = harness.launch(Exits(2), ranks=2)
    await harness.engine.submit(launch)
    await harness.ended(launch.key)
    await harness.engine.close()
    harness.engine = harness.another(Lossy(harness, "/configmaps"))  # type: ignore[assignment]
    with pytest.raises(EngineUnavailable, match="lost"):
        await harness.engine.forget(launch.key)
    await harness.restart()
    assert await harness.engine.attempts() == []
    await settled(harness, lambda: name_of(launch.key) not in names(harness))
    await harness.engine.submit(launch)
    assert harness.runs(launch.key) == 1


@pytest.mark.parametrize("ranks", [1, 2])
async def test_two_platforms_that_submit_and_forget_at_once_run_it_once(harness: KubernetesHarness, ranks: int) -> None:
    second = harness.another()
    launch = harness.launch(Exits(9), ranks=ranks)
    try:
        results = await asyncio.gather(
            *(engine.submit(launch) for engine in (harness.engine, second) for _ in range(3)), return_exceptions=True
        )
        assert all(result is None or isinstance(result, EngineUnavailable) for result in results)
        await harness.engine.submit(launch)
        assert (await harness.ended(launch.key)).exit_code == 9
        results = await asyncio.gather(
            harness.engine.forget(launch.key), second.forget(launch.key), second.submit(launch),
            harness.engine.submit(launch),
        )  # fmt: skip
        await settled(harness, lambda: name_of(launch.key) not in names(harness))
        assert await second.attempts() == await harness.engine.attempts() == []
        assert harness.runs(launch.key) == 1
    finally:
        await second.close()


# -- what is large ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ranks", "size"), [(1, 60_000), (1, 800_000), (2, 60_000)])
async def test_long_texts_run_as_they_are(harness: KubernetesHarness, ranks: int, size: int) -> None:
    launch = harness.launch(Exits(0, "here"), ranks=ranks)
    launch = replace(launch, run=launch.run.replace("exit 0", f"\n#{'x' * size}\nexit 0"), setup="# é ' $(x)\ntrue")
    await harness.engine.submit(launch)
    assert (await harness.ended(launch.key)).exit_code == 0
    assert [await harness.printed(launch.key, rank=rank) for rank in range(ranks)] == [b"here\n"] * ranks
    await harness.engine.forget(launch.key)
    await settled(harness, lambda: f"{name_of(launch.key)}-files" not in names(harness, "configmaps"))
