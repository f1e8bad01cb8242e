"""Requests to a real API server, and to one that answers as a real one cannot be made to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import AlreadyExists, Conflict, Forbidden, Gone, Invalid, NotFound
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock
from tests.kubernetes import answering
from tests.kubernetes.cluster import Cluster

real = pytest.mark.kubernetes
MAPS = "/api/v1/namespaces/default/configmaps"
SPACE = "/api/v1/namespaces/default"


def an_api(kubeconfig: Path | str, **settings: Any) -> Api:
    return Api(KubernetesSettings(kubeconfig=str(kubeconfig), **settings), clock=SystemClock())


@pytest.fixture
async def api(control: Cluster) -> AsyncIterator[Api]:
    """The API of a cluster, as its administrator; config maps that a test makes are gone afterwards."""
    made = an_api(control.kubeconfig())
    yield made
    await made.delete(MAPS, labels="test=1")
    await made.close()


def a_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"test": "1"}}, "data": data}


def name_of(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["name"])


# Objects


@real
async def test_an_object_is_made_read_changed_replaced_and_deleted(api: Api) -> None:
    path = f"{MAPS}/life"
    made = await api.create(MAPS, a_map("life", a="1"))

    assert (await api.get(path))["metadata"]["uid"] == made["metadata"]["uid"]
    assert (await api.patch(path, {"data": {"b": "2"}}))["data"] == {"a": "1", "b": "2"}
    assert (await api.patch(path, [{"op": "remove", "path": "/data/a"}], kind="json"))["data"] == {"b": "2"}
    assert (await api.patch(path, {"data": {"c": "3"}}, kind="strategic"))["data"] == {"b": "2", "c": "3"}
    ours = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "life"}, "data": {"d": "4"}}
    assert (await api.patch(path, ours, kind="apply"))["data"] == {"b": "2", "c": "3", "d": "4"}
    assert (await api.replace(path, a_map("life", e="5")))["data"] == {"e": "5"}
    await api.delete(path)
    with pytest.raises(NotFound) as caught:
        await api.get(path)
    assert (caught.value.status, caught.value.reason, caught.value.details["name"]) == (404, "NotFound", "life")


@real
async def test_apply_makes_what_is_not_there(api: Api) -> None:
    ours = {"apiVersion": "v1", "kind": "ConfigMap", **a_map("applied", a="1")}

    assert (await api.patch(f"{MAPS}/applied", ours, kind="apply"))["data"] == {"a": "1"}


@real
async def test_what_the_cluster_does_not_do_is_told_by_kind(api: Api) -> None:
    made = await api.create(MAPS, a_map("kinds"))
    old = {**made, "data": {"a": "1"}}
    await api.replace(f"{MAPS}/kinds", {**made, "data": {"b": "2"}})

    with pytest.raises(AlreadyExists):
        await api.create(MAPS, a_map("kinds"))
    with pytest.raises(Conflict, match="the object has been modified"):
        await api.replace(f"{MAPS}/kinds", old)
    with pytest.raises(Invalid, match="Invalid value"):
        await api.create(MAPS, a_map("Not A Name"))
    with pytest.raises(Invalid):
        await api.create(MAPS, {"metadata": 3})
    with pytest.raises(Invalid, match="unable to parse"):
        await api.list(MAPS, name_of, labels="a b")
    with pytest.raises(NotFound, match="serves no /apis/kueue"):
        await api.list("/apis/kueue.x-k8s.io/v1beta1/workloads", name_of)


@real
async def test_deleting_what_is_gone_or_another_is_quiet(api: Api) -> None:
    made = await api.create(MAPS, a_map("uid"))

    await api.delete(f"{MAPS}/nix")
    await api.delete(f"{MAPS}/uid", uid="00000000-0000-0000-0000-000000000000")
    assert await api.get(f"{MAPS}/uid") == made
    await api.delete(f"{MAPS}/uid", uid=made["metadata"]["uid"])
    with pytest.raises(NotFound):
        await api.get(f"{MAPS}/uid")


@real
async def test_a_collection_is_deleted_by_labels(api: Api) -> None:
    other = {"metadata": {"name": "other", "labels": {"test": "2"}}}
    await asyncio.gather(api.create(MAPS, other), *(api.create(MAPS, a_map(f"many-{n}")) for n in range(5)))

    await api.delete(MAPS, labels="test=1")

    assert await api.list(MAPS, name_of, labels="test") == (["other"], (await api.list(MAPS, name_of))[1])
    await api.delete(f"{MAPS}/other")


@real
async def test_a_list_comes_in_pages_and_is_reduced_at_once(api: Api) -> None:
    await asyncio.gather(*(api.create(MAPS, a_map(f"page-{n:02}", n=str(n))) for n in range(25)))

    found, version = await api.list(
        MAPS, lambda obj: obj["data"]["n"] if int(obj["data"]["n"]) % 2 else None, labels="test=1", page=4
    )

    assert found == [str(n) for n in range(25) if n % 2]
    assert int(version) > 0
    named, _ = await api.list(MAPS, name_of, fields="metadata.name=page-07")
    assert named == ["page-07"]


@real
async def test_rights_versions_and_what_is_served(api: Api, control: Cluster) -> None:
    stranger = an_api(control.kubeconfig("stranger"))

    assert (await api.version()).startswith("v")
    assert await api.serves("v1")
    assert await api.serves("resource.k8s.io/v1")
    assert not await api.serves("resource.k8s.io/v0")
    assert not await api.serves("v0")
    assert await api.may("create", "pods", namespace="default", subresource="exec")
    assert not await stranger.may("list", "resourceslices", group="resource.k8s.io")
    with pytest.raises(Forbidden, match='User "stranger" cannot list resource "nodes"'):
        await stranger.list("/api/v1/nodes", name_of)
    await stranger.close()


# Watching


@real
async def test_a_watch_tells_what_changes(api: Api) -> None:
    _, version = await api.list(MAPS, name_of, labels="test=1")
    opened = asyncio.Event()
    told: list[tuple[str, str]] = []

    async def look() -> None:
        async with aclosing(api.watch(MAPS, version=version, labels="test=1", opened=opened.set)) as events:
            async for kind, obj in events:
                told.append((kind, name_of(obj)))
                if kind == "DELETED":
                    return

    looking = asyncio.create_task(look())
    await asyncio.wait_for(opened.wait(), 10)
    await api.create(MAPS, a_map("watched"))
    await api.patch(f"{MAPS}/watched", {"data": {"a": "x" * 500_000}})
    await api.delete(f"{MAPS}/watched")
    await asyncio.wait_for(looking, 20)

    assert told == [("ADDED", "watched"), ("MODIFIED", "watched"), ("DELETED", "watched")]


@real
async def test_a_watch_ends_quietly_when_the_server_has_had_enough(api: Api) -> None:
    _, version = await api.list(MAPS, name_of)

    events = [kind async for kind, _ in api.watch(MAPS, version=version, timeout_s=1)]

    assert set(events) <= {"BOOKMARK"}


async def answers(tmp_path: Path, handler: answering.Handler, call: Any) -> Any:
    """Return what a call of an Api makes of a server's answers."""
    async with answering.answering(handler) as server:
        api = an_api(answering.kubeconfig(tmp_path, server, token="t"))
        try:
            return await call(api)
        finally:
            await api.close()


async def watched(api: Api) -> list[str]:
    return [kind async for kind, _ in api.watch(MAPS, version="5")]


def streaming(*pieces: bytes) -> answering.Handler:
    """Answer with these pieces, each sent by itself."""

    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for piece in pieces:
            await answer.write(piece)
            await asyncio.sleep(0)
        return answer

    return handler


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def test_a_watch_asks_for_bookmarks_and_reads_events_cut_anywhere(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []
    text = event("ADDED", {"metadata": {"name": "ü"}}) + event("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    inner = streaming(*(text[n : n + 7] for n in range(0, len(text), 7)))

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(dict(request.query))
        return await inner(request)

    assert await answers(tmp_path, handler, watched) == ["ADDED", "BOOKMARK"]
    assert asked == [
        {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "5", "timeoutSeconds": "300"}
    ]  # fmt: skip


async def test_a_version_that_is_no_longer_kept_is_gone_also_inside_the_stream(tmp_path: Path) -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 5 (9)"}
    with pytest.raises(Gone, match="too old resource version"):
        await answers(tmp_path, streaming(event("ERROR", gone)), watched)
    with pytest.raises(Gone):
        await answers(tmp_path, lambda _: asyncio.sleep(0, answering.status(410, "Expired")), watched)


async def test_a_watch_that_tells_nonsense_or_an_error_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="what is no event"):
        await answers(tmp_path, streaming(b"<html>\n"), watched)
    broken = {"kind": "Status", "code": 500, "reason": "InternalError", "message": "etcd is away"}
    with pytest.raises(EngineUnavailable, match="etcd is away"):
        await answers(tmp_path, streaming(event("ERROR", broken)), watched)


async def test_a_list_whose_pages_are_forgotten_begins_anew(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.query.get("continue", ""))
        if asked[-1] == "next" and asked.count("next") == 1:
            return answering.status(410, "Expired", "the provided continue parameter is too old")
        more = {"resourceVersion": "7"} if asked[-1] else {"continue": "next"}
        return web.json_response({"items": [{"metadata": {"name": asked[-1] or "first"}}], "metadata": more})

    found = await answers(tmp_path, handler, lambda api: api.list(MAPS, name_of))

    assert found == (["first", "next"], "7")  # not twice
    assert asked == ["", "next", "", "next"]


async def test_a_list_that_is_always_forgotten_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="forgets the pages"):
        await answers(
            tmp_path,
            lambda _: asyncio.sleep(0, answering.status(410, "Expired")),
            lambda api: api.list(MAPS, name_of),
        )


# Signing in


@real
async def test_a_wrong_authority_a_wrong_and_an_ended_token(control: Cluster) -> None:
    ended = control.account_token(lives_s=-60)
    for path, says in (
        (control.kubeconfig(ca="other-ca"), "is not to be trusted (unable to get local issuer certificate)"),
        (control.kubeconfig(token="wrong"), "does not accept the platform's token or certificate"),
        (control.kubeconfig(token=ended), "does not accept the platform's token or certificate"),
    ):
        api = an_api(path)
        with pytest.raises(EngineUnavailable) as caught:
            await api.version() if "trusted" in says else await api.get(MAPS)
        assert says in str(caught.value), str(caught.value)
        await api.close()


@real
async def test_a_name_that_the_certificate_is_not_for(control: Cluster, tmp_path: Path) -> None:
    given = {"certificate-authority": str(control.trust.folder / "ca.crt"), "tls-server-name": "elsewhere"}
    user = {"token": control.trust.tokens["admin"]}
    wrong = an_api(answering.kubeconfig(tmp_path, control.url, cluster=given, **user))
    with pytest.raises(EngineUnavailable, match="Hostname mismatch"):
        await wrong.version()
    await wrong.close()
    given["tls-server-name"] = "kubernetes.default.svc"
    right = an_api(answering.kubeconfig(tmp_path, control.url, cluster=given, **user))
    assert await right.serves("v1")
    await right.close()


@real
async def test_a_client_certificate_and_one_that_nobody_signed(control: Cluster, tmp_path: Path) -> None:
    trust = control.trust.folder
    given = {"certificate-authority": str(trust / "ca.crt")}
    user = {"client_certificate": str(trust / "kubelet-client.crt"), "client_key": str(trust / "kubelet-client.key")}
    api = an_api(answering.kubeconfig(tmp_path, control.url, cluster=given, **user))
    assert await api.may("delete", "nodes")
    await api.close()
    user = {"client_certificate": str(trust / "other-ca.crt"), "client_key": str(trust / "other-ca.key")}
    api = an_api(answering.kubeconfig(tmp_path, control.url, cluster=given, **user))
    with pytest.raises(EngineUnavailable, match="does not accept the platform's token or certificate"):
        await api.get(MAPS)
    await api.close()
