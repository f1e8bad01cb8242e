"""A cluster that cannot be reached: one sentence for each way, and tokens that are replaced."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import Blocked
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import ManualClock, SystemClock
from tests.kubernetes.answering import answering, kubeconfig, status

POD = "/api/v1/namespaces/x/pods/y"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cluster of this machine's own is found, and nothing that was written to sign in is left."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    yield
    assert not list((tmp_path / "temporary").iterdir())


async def refusal(path: str, **settings: Any) -> str:
    """Return the sentence of a request that gets no answer."""
    api = Api(KubernetesSettings(kubeconfig=path, **settings), clock=SystemClock())
    try:
        with pytest.raises(EngineUnavailable) as caught:
            await api.get(POD)
    finally:
        await api.close()
    sentence = str(caught.value)
    assert sentence[-1] in ".?"
    assert "\n" not in sentence
    return sentence


def program(folder: Path, text: str) -> str:
    """Write a program of this Python."""
    path = folder / "plugin"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\nhere = {str(folder)!r}\n{text}\n")
    path.chmod(0o755)
    return str(path)


def plugin(command: str) -> dict[str, Any]:
    """Return how a kubeconfig names a plugin."""
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}


GIVES = """
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": %s}))
"""


# Kubeconfigs


async def test_no_kubeconfig(tmp_path: Path) -> None:
    assert await refusal(str(tmp_path / "nix")) == (
        f"There is no kubeconfig at {tmp_path}/nix: set `kubeconfig` to the path of one."
    )


async def test_without_a_path_the_environment_names_it(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in await refusal("")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clusters: [", "it is not YAML at line 1"),
        ("apiVersion: v1\n\tkind: Config\n", "it is not YAML at line 2"),
        ("- a\n- b\n", "names no clusters and contexts"),
        ("hello", "names no clusters and contexts"),
        ("", "names no clusters and contexts"),
        ("clusters: 3\ncontexts: {}\n", "not as a kubeconfig should be"),
        ("clusters: []\ncontexts: []\n", "no current context"),
        ("clusters: []\ncontexts: [{name: a}]\ncurrent-context: a\n", "Expected key context"),
        ("clusters: []\ncontexts: [{name: a, context: {cluster: c}}]\ncurrent-context: a\n", "object with name c"),
        ("clusters: [{name: c, cluster: {}}]\ncontexts: [{name: a, context: {cluster: c}}]\ncurrent-context: a\n",
         "names no server"),
    ],
)  # fmt: skip
async def test_what_is_no_kubeconfig(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)

    sentence = await refusal(str(path))

    assert str(path) in sentence
    assert says in sentence


async def test_a_kubeconfig_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").mkdir()  # root may read any file
    assert "Is a directory" in await refusal(str(tmp_path / "kubeconfig"))


async def test_an_unknown_context_and_those_there_are(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "http://127.0.0.1:9", token="t")

    assert await refusal(path, context="test") == (
        f"The kubeconfig {path} has no context 'test': set `context` to one of tests. Did you mean \"tests\"?"
    )


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"certificate-authority": "/nix/ca.crt"}, {}, "/nix/ca.crt"),
        ({"certificate-authority-data": "%%%"}, {}, "a certificate or key in it is not one"),
        ({"certificate-authority-data": "bml4"}, {}, "a certificate or key in it is not one"),
        ({}, {"client_certificate_data": "bml4", "client_key_data": "bml4"}, "a certificate or key in it is not one"),
        ({}, {"tokenFile": "/nix/token"}, "/nix/token: No such file"),
    ],
)  # fmt: skip
async def test_what_a_kubeconfig_names_is_not_there_or_no_certificate(
    tmp_path: Path, cluster: dict[str, str], user: dict[str, str], says: str
) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:9", cluster=cluster, **user)

    assert says in await refusal(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sys.exit('log in first')", "failed with 1 and said: log in first; run it by hand."),
        ("time.sleep(60)", "did not answer within 0.5 s"),
        ("print('hello')", "did not answer with an ExecCredential"),
        (GIVES % "None", "did not answer with an ExecCredential"),
        (GIVES % "{'clientCertificateData': 'x'}", "gave neither a token nor a certificate with its key"),
    ],
)
async def test_a_plugin_that_gives_nothing(tmp_path: Path, text: str, says: str) -> None:
    command = program(tmp_path, text)
    path = kubeconfig(tmp_path, "http://127.0.0.1:9", exec=plugin(command))

    sentence = await refusal(path, request_timeout_s=0.5)

    assert sentence.startswith(f"The credential plugin {command} of the kubeconfig ")
    assert says in sentence


async def test_a_plugin_that_is_not_installed(tmp_path: Path) -> None:
    named = plugin(str(tmp_path / "nix")) | {"installHint": "Install it from\nthe vendor."}
    path = kubeconfig(tmp_path, "http://127.0.0.1:9", exec=named)

    assert (await refusal(path)).endswith("nix of the kubeconfig cannot be run (No such file or directory): "
                                          "Install it from the vendor.")  # fmt: skip


# Servers


async def test_nothing_listens_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{free.getsockname()[1]}"
        path = kubeconfig(tmp_path, server, token="t")
        sentence = await refusal(path)

    assert sentence.startswith(f"Nothing answers at {server} (")
    assert path in sentence


@pytest.mark.parametrize("server", ["127.0.0.1:6443", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999"])
async def test_an_address_that_is_none(tmp_path: Path, server: str) -> None:
    assert "is no address; correct `server`" in await refusal(kubeconfig(tmp_path, server, token="t"))


async def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    server = "https://cluster.invalid:6443"
    assert f"No way leads to the cluster at {server}" in await refusal(kubeconfig(tmp_path, server, token="t"))


async def test_the_proxy_that_the_environment_names_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[str, str]]()

    async def proxy(request: web.Request) -> web.Response:
        asked.append((request.host, request.headers.get("Proxy-Authorization", "")))
        return web.json_response({"kind": "Pod"})

    path = kubeconfig(tmp_path, "http://cluster.invalid:6443", token="t")
    async with answering(proxy) as server:
        monkeypatch.setenv("http_proxy", server.replace("://", "://me:secret@"))
        api = Api(KubernetesSettings(kubeconfig=path), clock=SystemClock())
        assert await api.get(POD) == {"kind": "Pod"}
        await api.close()
        assert asked == [("cluster.invalid", "Basic bWU6c2VjcmV0")]
        monkeypatch.setenv("no_proxy", "cluster.invalid")
        assert "No way leads to the cluster" in await refusal(path)


async def test_what_speaks_no_tls(tmp_path: Path) -> None:
    async with answering(lambda _: asyncio.sleep(0, web.Response())) as server:
        path = kubeconfig(tmp_path, server.replace("http:", "https:"), token="t")
        assert "speaks no TLS with the platform" in await refusal(path)


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "<html>Sign in</html>", "content_type": "text/html"},
        {"text": "<html>nginx</html>", "content_type": "text/html", "status": 404},  # not a Pod that is gone
        {"text": "404 page not found", "status": 404},  # Go's own words, of any server
        {"text": "[]", "content_type": "application/json"},
        {"text": "moved", "status": 302, "headers": {"Location": "https://elsewhere.invalid/"}},
        {"text": "", "status": 200},
    ],
)
async def test_what_answers_is_no_api_server(tmp_path: Path, answer: dict[str, Any]) -> None:
    async with answering(lambda _: asyncio.sleep(0, web.Response(**answer))) as server:
        sentence = await refusal(kubeconfig(tmp_path, server, token="t"))

    assert sentence.startswith(f"What answers at {server} is no API server of Kubernetes (")


async def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    async with answering(lambda _: asyncio.sleep(9, web.Response())) as server:
        sentence = await refusal(kubeconfig(tmp_path, server, token="t"), request_timeout_s=0.2)

    assert f"The cluster at {server} did not answer within 0.2 s" in sentence


async def test_a_connection_that_breaks_off(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        return web.Response()

    async with answering(handler) as server:
        assert f"The connection to the cluster at {server} broke off" in await refusal(
            kubeconfig(tmp_path, server, token="t")
        )


async def test_an_answer_that_stops_half_way(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b'{"kind": ')
        assert request.transport
        request.transport.close()
        return answer

    async with answering(handler) as server:
        assert "broke off" in await refusal(kubeconfig(tmp_path, server, token="t"))


async def test_an_error_of_the_server_is_no_answer(tmp_path: Path) -> None:
    async with answering(lambda _: asyncio.sleep(0, status(500, "InternalError", "etcd is away"))) as server:
        assert await refusal(kubeconfig(tmp_path, server, token="t")) == (
            f"The cluster at {server} cannot answer now: etcd is away; look at its API server if this stays so."
        )


async def test_a_server_with_too_much_to_do_is_asked_again_when_it_says(tmp_path: Path) -> None:
    asked = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked < 3:
            return status(429, "TooManyRequests", "please wait", headers={"Retry-After": "1"})
        return web.json_response({"kind": "Pod"})

    clock = ManualClock()
    async with answering(handler) as server:
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(tmp_path, server, token="t")), clock=clock)
        assert await api.get(POD) == {"kind": "Pod"}
        await api.close()
    assert (asked, clock.monotonic_s()) == (3, 2.0)


async def test_a_budget_that_lets_no_pod_go_is_an_answer(tmp_path: Path) -> None:
    causes = {"causes": [{"reason": "DisruptionBudget", "message": "needs 3"}]}

    async def handler(_: web.Request) -> web.StreamResponse:
        return status(429, "TooManyRequests", "would violate", details=causes, headers={"Retry-After": "10"})

    async with answering(handler) as server:
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(tmp_path, server, token="t")), clock=ManualClock())
        with pytest.raises(Blocked, match="would violate"):
            await api.create(f"{POD}/eviction", {})
        await api.close()


# Tokens


async def test_a_token_file_is_read_again_when_the_cluster_refuses_what_it_held(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    valid, seen = "old", []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return web.json_response({}) if seen[-1] == f"Bearer {valid}" else status(401, "Unauthorized", "Unauthorized")

    clock = ManualClock()
    async with answering(handler) as server:
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(tmp_path, server, tokenFile=str(token))), clock=clock)
        await api.get(POD)
        valid = "new"
        clock.advance(10)
        with pytest.raises(EngineUnavailable, match="does not accept the platform's token or certificate"):
            await api.get(POD)
        token.write_text("new\n")
        clock.advance(10)
        await asyncio.gather(*(api.get(POD) for _ in range(20)))
        seen.clear()
        await api.get(POD)
        await api.close()
    assert seen == ["Bearer new"]


async def test_a_token_file_is_read_again_in_time(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    seen = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    clock = ManualClock()
    async with answering(handler) as server:
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(tmp_path, server, tokenFile=str(token))), clock=clock)
        await api.get(POD)
        token.write_text("new")
        await api.get(POD)
        clock.advance(61)
        await api.get(POD)
        token.unlink()  # between two versions of it: what there was may still do
        clock.advance(61)
        await api.get(POD)
        await api.close()
    assert seen == ["Bearer old", "Bearer old", "Bearer new", "Bearer new"]


async def test_a_plugin_is_asked_when_its_token_ends_and_not_before(tmp_path: Path) -> None:
    clock = ManualClock()
    text = """
count = len([name for name in os.listdir(here) if name.startswith("ask")]) + 1
open(here + f"/ask{count}", "w").write(os.environ["KUBERNETES_EXEC_INFO"] + os.environ["REGION"])
status = {"token": f"t{count}", "expirationTimestamp": os.environ["ENDS"]}
""" + GIVES.replace("%s", "status")
    named = plugin(program(tmp_path, text))
    named["env"] = [
        {"name": "REGION", "value": "r"},
        {"name": "ENDS", "value": f"{clock.now() + timedelta(hours=1):%FT%TZ}"},
    ]
    seen = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    async with answering(handler) as server:
        api = Api(KubernetesSettings(kubeconfig=kubeconfig(tmp_path, server, exec=named)), clock=clock)
        for minutes in (0, 5, 50):
            clock.advance(60 * minutes)
            await asyncio.gather(*(api.get(POD) for _ in range(5)))
        assert set(seen) == {"Bearer t1"}
        clock.advance(60 * 4.5)
        await asyncio.gather(*(api.get(POD) for _ in range(5)))
        await api.close()
    assert seen[-1] == "Bearer t2"
    assert not (tmp_path / "ask3").exists()
    said = (tmp_path / "ask1").read_text()
    assert said.endswith("r")
    assert json.loads(said[:-1])["kind"] == "ExecCredential"


async def test_a_plugin_that_fails_is_not_started_for_each_request(tmp_path: Path) -> None:
    command = program(tmp_path, "open(here + '/asks', 'a').write('x'); sys.exit(1)")
    path = kubeconfig(tmp_path, "http://127.0.0.1:9", exec=plugin(command))
    clock = ManualClock()
    api = Api(KubernetesSettings(kubeconfig=path), clock=clock)

    answers = await asyncio.gather(*(api.get(POD) for _ in range(50)), return_exceptions=True)
    clock.advance(6)
    await asyncio.gather(api.get(POD), return_exceptions=True)

    assert {type(answer) for answer in answers} == {EngineUnavailable}
    assert (tmp_path / "asks").read_text() == "xx"
    await api.close()
