"""Commands, output and the platform's own account in real containers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import Forbidden, Invalid, NotFound
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock
from tests.kubernetes import images
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes
PODS = "/api/v1/namespaces/default/pods"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[Api]:
    """The API of a cluster with real nodes; Pods that a test makes are gone afterwards."""
    made = Api(KubernetesSettings(kubeconfig=str(cluster.kubeconfig())), clock=SystemClock())
    yield made
    await made.delete(PODS, labels="test=1", grace_s=0)
    await made.close()


def a_pod(name: str, script: str, *, node: str = "n1", container: dict[str, Any] | None = None, **spec: Any) -> Any:
    """A Pod of one container, `main`."""
    main = {"name": "main", "image": images.BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    return {
        "metadata": {"name": name, "labels": {"test": "1"}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{**main, **(container or {})}],
            **spec,
        },
    }


@pytest.fixture
async def pod(api: Api, cluster: Cluster) -> str:
    """A Pod that runs, and said hello."""
    await api.create(PODS, a_pod("runs", "echo hello; exec sleep 600"))
    await asyncio.to_thread(cluster.wait_for_phase, "runs", "Running")
    return "runs"


async def test_a_command_gives_its_exit_code_and_what_it_wrote(api: Api, pod: str) -> None:
    ended = await api.exec("default", pod, "main", ["sh", "-c", "echo out; echo 'a  b' $1 >&2; exit 7", "-", "c&d=ü"])

    assert ended == (7, b"out\n", "a  b c&d=ü\n".encode())
    assert await api.exec("default", pod, "main", ["true"]) == (0, b"", b"")
    assert (await api.exec("default", pod, "main", ["/nix"]))[0] in {126, 127}


async def test_a_command_reads_its_input_to_the_end(api: Api, pod: str) -> None:
    content = os.urandom(3_000_000)

    code, out, err = await api.exec("default", pod, "main", ["cat"], stdin=content)

    assert (code, err) == (0, b"")
    assert out == content


async def test_many_commands_at_a_time(api: Api, pod: str) -> None:
    ended = await asyncio.gather(*(api.exec("default", pod, "main", ["echo", str(n)]) for n in range(20)))

    assert ended == [(0, f"{n}\n".encode(), b"") for n in range(20)]


async def test_a_command_that_takes_too_long(api: Api, pod: str) -> None:
    with pytest.raises(EngineUnavailable, match="sleep in main of Pod default/runs took longer than"):
        await api.exec("default", pod, "main", ["sleep", "60"], timeout_s=0.5)


async def test_a_pod_or_container_that_is_not_there(api: Api, pod: str, cluster: Cluster) -> None:
    with pytest.raises(NotFound, match='pods "nix" not found'):
        await api.exec("default", "nix", "main", ["true"])
    with pytest.raises(NotFound, match="nix"):
        await api.exec("default", pod, "nix", ["true"])
    await api.create(PODS, a_pod("ended", "exit 0"))
    await asyncio.to_thread(cluster.wait_for_phase, "ended", "Succeeded")
    with pytest.raises(NotFound):
        await api.exec("default", "ended", "main", ["true"])


async def test_who_may_not_run_commands_is_told_so(pod: str, cluster: Cluster) -> None:
    stranger = Api(KubernetesSettings(kubeconfig=str(cluster.kubeconfig("stranger"))), clock=SystemClock())

    with pytest.raises(Forbidden, match='User "stranger" cannot'):
        await stranger.exec("default", pod, "main", ["true"])
    await stranger.close()


async def test_output_is_read_whole_from_its_end_and_as_it_comes(api: Api, pod: str, cluster: Cluster) -> None:
    assert b"".join([piece async for piece in api.log("default", pod, "main")]) == b"hello\n"
    script = "for n in 1 2 3 4 5; do echo line $n; sleep 0.3; done"
    await api.create(PODS, a_pod("talks", script))
    await asyncio.to_thread(cluster.wait_for_phase, "talks", "Running")

    pieces = [piece async for piece in api.log("default", "talks", "main", follow=True)]

    assert b"".join(pieces) == b"".join(b"line %d\n" % n for n in range(1, 6))
    assert len(pieces) > 1, "as it comes"
    assert [piece async for piece in api.log("default", "talks", "main", tail_lines=1)] == [b"line 5\n"]


async def test_output_that_is_followed_ends_when_nobody_listens(api: Api, pod: str) -> None:
    async with aclosing(api.log("default", pod, "main", follow=True)) as pieces:
        assert await anext(pieces) == b"hello\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(pieces), 1)


async def test_output_of_what_is_not_there_or_has_not_started(api: Api) -> None:
    with pytest.raises(NotFound):
        await anext(api.log("default", "nix", "main"))
    await api.create(PODS, a_pod("waits", "", container={"image": "nix.test/nix:1"}))
    with pytest.raises(Invalid):
        await anext(api.log("default", "waits", "main"))


PROGRAM = """
import asyncio
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock

async def main():
    api = Api(KubernetesSettings(), clock=SystemClock())
    found = await api.get("/api/v1/namespaces/default/pods/inside")
    print(found["spec"]["serviceAccountName"], await api.may("delete", "nodes"))
    await api.close()

asyncio.run(main())
"""


async def test_inside_a_pod_its_own_account_is_taken(api: Api, cluster: Cluster) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    subject = {"kind": "ServiceAccount", "name": "platform", "namespace": "default"}
    await api.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "platform"}})
    await api.create(f"{base}/roles", {"metadata": {"name": "platform"}, "rules": rules})
    role = {"kind": "Role", "name": "platform", "apiGroup": "rbac.authorization.k8s.io"}
    await api.create(f"{base}/rolebindings", {"metadata": {"name": "platform"}, "subjects": [subject], "roleRef": role})
    volumes, mounts = images.host_mounts(SOURCE)
    host, port = cluster.url.removeprefix("https://").split(":")
    container = {
        "image": images.HOST_PYTHON,
        "command": [sys.executable, "-c", PROGRAM],
        "volumeMounts": mounts,
        "env": [
            {"name": "PYTHONPATH", "value": str(SOURCE)},
            {"name": "KUBERNETES_SERVICE_HOST", "value": host},
            {"name": "KUBERNETES_SERVICE_PORT", "value": port},
        ],
    }
    more = {"hostNetwork": True, "serviceAccountName": "platform", "volumes": volumes}
    await api.create(PODS, a_pod("inside", "", container=container, **more))

    await asyncio.to_thread(cluster.wait_for_phase, "inside", "Succeeded", "Failed")

    said = b"".join([piece async for piece in api.log("default", "inside", "main")])
    assert said == b"platform False\n"
