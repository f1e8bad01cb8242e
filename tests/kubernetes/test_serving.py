"""A job of kind service has one name in the cluster, behind which whichever attempt of it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, Launch, Observation, Phase
from dujiang.engines.kubernetes import pods, serving
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import Forbidden
from dujiang.engines.kubernetes.records import MARK, Record
from dujiang.engines.kubernetes.serving import Services
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import ManualClock
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import KubernetesHarness
from tests.kubernetes.test_pods import KEY, a_launch, a_plan, a_pod, a_record, box

NAME = "dj-job-01k8xyzxyzxyzxyzxyzxyzxyz1"
WITHIN_S = 60.0


def a_service(ranks: int = 1, **more: Any) -> Launch:
    return a_launch(ranks, **{"is_service": True, "ports": 2, **more})


# -- what is made -----------------------------------------------------------------------------------------------------


def test_a_service_has_a_name_that_stays_and_leads_to_its_ports_by_name() -> None:
    plan = a_plan(a_service())
    made = dict(pods.beside(plan, a_record(plan)))["/api/v1/namespaces/dujiang-vision/services"]
    assert made["metadata"]["name"] == NAME
    assert "ownerReferences" not in made["metadata"], "it outlives its attempt"
    assert made["spec"] == {
        "selector": {MARK: "mark", "dujiang.io/service": NAME},
        "ports": [
            {"name": "port", "port": 80, "targetPort": "port", "protocol": "TCP"},
            {"name": "port1", "port": 81, "targetPort": "port1", "protocol": "TCP"},
        ],
    }
    next_one = a_plan(a_service(key=replace(KEY, number=3)))
    assert serving.service(a_record(next_one), "mark") == made, "each attempt of the job finds its own"
    other = a_plan(a_service(key=replace(KEY, job_id="job_01k8xyzxyzxyzxyzxyzxyzxyz2")))
    assert serving.service(a_record(other), "mark")["metadata"]["name"] != NAME


def test_its_pods_say_which_ports_they_answer_on_and_are_ready_when_they_do() -> None:
    launch = a_service(2)
    for rank in range(2):
        pod = a_pod(launch, rank=rank)
        assert pod["metadata"]["labels"]["dujiang.io/service"] == NAME
        named = {port["name"]: port["containerPort"] for port in box(pod)["ports"] if "name" in port}
        env = dict(zip(("port", "port1"), pods.environment.ports_of(launch)[1:], strict=True))
        assert named == env
        assert box(pod)["readinessProbe"]["tcpSocket"] == {"port": "port"}
        assert pod["spec"]["schedulingGates"], "it waits until its Service is there"


def test_on_the_nodes_network_the_first_rank_alone_answers() -> None:
    """Ranks that share a node would want the same ports of it."""
    launch = a_service(2)
    first, second = (a_pod(launch, rank=rank, network="host") for rank in range(2))
    assert len(box(first)["ports"]) == 3, "the gang's own too: the scheduler keeps them apart"
    assert "readinessProbe" in box(first)
    assert "readinessProbe" not in box(second)
    assert "dujiang.io/service" not in second["metadata"]["labels"]


@pytest.mark.parametrize("launch", [a_launch(), a_launch(2, ports=2), a_launch(is_service=True, ports=0)])
def test_nothing_is_another_for_what_does_not_answer(launch: Launch) -> None:
    plan = a_plan(launch)
    assert serving.SERVES not in a_record(plan).launch
    assert all(body["metadata"]["name"] != NAME for _, body in pods.beside(plan, a_record(plan)))
    pod = a_pod(launch)
    assert "readinessProbe" not in box(pod)
    assert "dujiang.io/service" not in pod["metadata"]["labels"]
    assert plan.is_one_pod == (len(launch.ranks) == 1), "made by one request"


# -- when it goes -----------------------------------------------------------------------------------------------------


class Scripted(Api):
    """Answers as a test says, and keeps what it was asked for."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(KubernetesSettings(), clock=clock)
        self.there: dict[str, str] = {}
        self.asked: list[str] = []

    async def list(self, path: str, reduce: Any, **_: Any) -> Any:  # type: ignore[override]
        self.asked.append("list")
        found = []
        for each, uid in self.there.items():
            _, _, _, _, namespace, _, name = each.split("/")
            found.append(reduce({"metadata": {"namespace": namespace, "name": name, "uid": uid}}))
        return found, "1"

    async def delete(self, path: str, **_: Any) -> None:
        self.asked.append(f"delete {path}")
        self.there.pop(path, None)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(f"create {body['metadata']['name']}")
        self.there[f"{path}/{body['metadata']['name']}"] = "new"
        return dict(body)


PATH = f"/api/v1/namespaces/dujiang-vision/services/{NAME}"


def records_of(*launches: Launch, **notes: str) -> dict[AttemptKey, Record]:
    return {launch.key: a_record(a_plan(launch), **notes) for launch in launches}


async def swept(services: Services, clock: ManualClock, known: Mapping[AttemptKey, Record], for_s: float) -> None:
    """Let time pass, with a look every ten seconds as the platform has it."""

    async def tell() -> Mapping[AttemptKey, Record]:
        return known

    for _ in range(int(for_s // 10)):
        await services.sweep(tell)
        clock.advance(10.0)


async def test_it_stays_from_one_attempt_to_the_next_and_goes_after_the_last() -> None:
    clock = ManualClock()
    api = Scripted(clock)
    services = Services(api, "mark", clock)
    api.there[PATH] = "u"
    await swept(services, clock, records_of(a_service()), 1000.0)
    assert api.there, "its attempt is there"
    await swept(services, clock, {}, 240.0)
    await swept(services, clock, records_of(a_service(key=replace(KEY, number=3))), 600.0)
    assert api.there, "another attempt has followed"
    await swept(services, clock, {}, 240.0)
    assert api.there
    await swept(services, clock, {}, 200.0)
    assert not api.there
    assert api.asked.count(f"delete {PATH}") == 1


async def test_one_that_is_missing_is_made_again_for_an_attempt_that_runs_alone() -> None:
    clock = ManualClock()
    api = Scripted(clock)
    services = Services(api, "mark", clock)
    await swept(services, clock, records_of(a_service()), 120.0)
    assert not api.there, "it is being made"
    await swept(services, clock, records_of(a_service(), **{"dujiang.io/made": "yes"}), 120.0)
    assert list(api.there) == [PATH]
    await swept(services, clock, records_of(a_launch(), **{"dujiang.io/made": "yes"}), 600.0)
    assert not api.there, "a task has none"


async def test_where_nothing_answers_hardly_anything_is_asked() -> None:
    clock = ManualClock()
    api = Scripted(clock)
    services = Services(api, "mark", clock)
    await swept(services, clock, records_of(a_launch()), 3 * 3600.0)
    assert len(api.asked) <= 4


class Forbidding(Scripted):
    """Lets nobody list."""

    async def list(self, path: str, reduce: Any, **_: Any) -> Any:  # type: ignore[override]
        raise Forbidden(403, "Forbidden", "services is forbidden")


async def test_an_account_that_may_not_list_them_is_said_so_and_nothing_is_taken_away() -> None:
    clock = ManualClock()
    api = Forbidding(clock)
    api.there[PATH] = "u"
    services = Services(api, "mark", clock)
    await swept(services, clock, {}, 1000.0)
    assert (services.forbidden, list(api.there)) == ("services is forbidden", [PATH])


# -- on a real cluster ------------------------------------------------------------------------------------------------


@pytest.fixture
async def harness(tmp_path: Path, cluster: Cluster) -> AsyncIterator[KubernetesHarness]:
    harness = KubernetesHarness(tmp_path, cluster)
    await harness.confine()
    yield harness
    for service in cluster.request("GET", f"/api/v1/namespaces/{harness.namespace}/services")["items"]:
        cluster.kubectl("delete", "service", "-n", harness.namespace, service["metadata"]["name"])
    await harness.clean()


async def sees(harness: KubernetesHarness, name: str, wanted: Any) -> None:
    """Wait until the Service leads to these addresses and ports, those that are ready alone."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{harness.namespace}/endpointslices"
    found: Any = None
    async with asyncio.timeout(WITHIN_S):
        while found != wanted:
            await asyncio.sleep(0.2)
            slices = harness.cluster.request("GET", f"{path}?labelSelector=kubernetes.io/service-name={name}")["items"]
            found = sorted(
                (address, port["port"])
                for each in slices
                for end in each["endpoints"] or () if end["conditions"]["ready"]
                for address in end["addresses"]
                for port in each["ports"]
            )  # fmt: skip


@pytest.mark.kubernetes
async def test_programs_in_the_cluster_reach_whichever_attempt_answers_by_one_name(harness: KubernetesHarness) -> None:
    gate = harness.folder / "open"
    text = f'until [ -e {gate} ]; do sleep 0.1; done; exec nc -ll -p "$PORT" -e echo "attempt $DUJIANG_ATTEMPT"'
    launch = harness.launch_text(text, job="job_answers", is_service=True, ports=1)
    await harness.engine.submit(launch)
    name = serving.service(a_record(a_plan(launch)), "")["metadata"]["name"]
    seen = await running(harness, launch.key)
    path = f"/api/v1/namespaces/{harness.namespace}/services/{name}"
    made = harness.cluster.request("GET", path)
    assert made["spec"]["clusterIP"] not in ("", "None")
    await sees(harness, name, [])
    gate.touch()
    await sees(harness, name, [(seen.host, seen.ports[0])])
    await harness.engine.cancel(launch.key, grace_s=0.0)
    await harness.ended(launch.key)
    await sees(harness, name, [])
    await harness.engine.forget(launch.key)

    again = replace(launch, key=replace(launch.key, number=2))
    await harness.engine.submit(again)
    seen = await running(harness, again.key)
    await sees(harness, name, [(seen.host, seen.ports[0])])
    assert harness.cluster.request("GET", path)["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    await harness.engine.cancel(again.key, grace_s=0.0)
    await harness.ended(again.key)
    await harness.engine.forget(again.key)

    api = Api(KubernetesSettings(kubeconfig=harness.set["kubeconfig"]), clock=harness.clock)

    async def nothing() -> Mapping[AttemptKey, Record]:
        return {}

    await Services(api, harness.mark, harness.clock, linger_s=0.0).sweep(nothing)
    await api.close()
    left = harness.cluster.kubectl("get", "services", "-n", harness.namespace, "-o", "name")
    assert left == "", "by an account that may what the manifest says"


async def running(harness: KubernetesHarness, key: AttemptKey) -> Observation:
    seen = await harness.until(key, lambda seen: seen is not None and seen.phase is Phase.RUNNING)
    assert seen is not None
    return seen
