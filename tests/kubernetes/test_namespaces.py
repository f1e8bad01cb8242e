"""A namespace for each project, made as an account that may only what manifest/rbac.yaml says."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.engine import KubernetesEngine
from dujiang.engines.kubernetes.errors import Forbidden, NotFound
from dujiang.engines.kubernetes.namespaces import ACCOUNT, Namespaces, may_work
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import SystemClock
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.harness import MANIFEST

real = pytest.mark.kubernetes
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def an_api(kubeconfig: Path) -> Api:
    return Api(KubernetesSettings(kubeconfig=str(kubeconfig)), clock=SystemClock())


def named(project: str, prefix: str = "dujiang-") -> str:
    settings = KubernetesSettings(namespace_prefix=prefix)
    return Namespaces(Api(settings, clock=SystemClock()), settings).name(project)


# Names


@pytest.mark.parametrize(
    ("project", "prefix", "name"),
    [
        ("vision", "dujiang-", "dujiang-vision"),
        ("a", "", "a"),
        ("x" * 55, "dujiang-", "dujiang-" + "x" * 55),
        ("x" * 56, "dujiang-", "dujiang-" + "x" * 42 + "-"),
        ("Vision", "dujiang-", "dujiang-vision-"),
        ("Größe & Ω", "p-", "p-gr-e-"),
        ("Ω", "", "dujiang-"),
        ("a-0123456789ab", "dujiang-", "dujiang-a-0123456789ab-"),
    ],
)
def test_a_namespace_is_called_as_its_project_where_that_is_a_name(project: str, prefix: str, name: str) -> None:
    found = named(project, prefix)

    assert found.startswith(name)
    assert LABEL.fullmatch(found)
    if found != prefix + project:
        assert re.search(r"-[0-9a-f]{12}$", found)


@given(
    st.lists(st.text("aA-é9f", min_size=1, max_size=70), unique=True, max_size=40), st.sampled_from(["", "d-", "D_"])
)
def test_no_two_projects_share_a_namespace(projects: list[str], prefix: str) -> None:
    found = [named(project, prefix) for project in projects]
    found += [named(name.removeprefix(prefix), prefix) for name in found if name.removeprefix(prefix) not in projects]

    assert len(set(found)) == len(found)
    assert all(LABEL.fullmatch(name) for name in found)


# A real cluster


@pytest.fixture(scope="module")
def allowed(control: Cluster) -> Path:
    """A kubeconfig of the account that the manifest makes."""
    control.kubectl("apply", "-f", str(MANIFEST))
    return control.kubeconfig(token=control.account_token("dujiang", "dujiang"))


@pytest.fixture
async def admin(control: Cluster) -> AsyncIterator[Api]:
    made = an_api(control.kubeconfig())
    yield made
    await made.close()


@pytest.fixture
async def ours(allowed: Path) -> AsyncIterator[Api]:
    made = an_api(allowed)
    yield made
    await made.close()


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings(namespace_prefix=f"t{secrets.token_hex(3)}-", **more)


@real
async def test_a_project_gets_its_namespace_by_an_account_that_may_little(ours: Api, admin: Api) -> None:
    asked = settings(quota={"pods": "5", "requests.cpu": "20"})
    names = Namespaces(ours, asked)

    first, *others = await asyncio.gather(*(names.ensure("vision") for _ in range(5)))

    assert {first, *others} == {f"{asked.namespace_prefix}vision"}
    base = f"/api/v1/namespaces/{first}"
    found = (await admin.get(base))["metadata"]
    assert found["labels"]["app.kubernetes.io/managed-by"] == "dujiang"
    assert found["labels"]["dujiang.io/project"] == found["annotations"]["dujiang.io/project"] == "vision"
    assert (await admin.get(f"{base}/serviceaccounts/{ACCOUNT}"))["automountServiceAccountToken"] is False
    quota = await admin.get(f"{base}/resourcequotas/dujiang")
    assert quota["status"]["hard"] == {"pods": "5", "requests.cpu": "20"}
    policy = await admin.get(f"/apis/networking.k8s.io/v1/namespaces/{first}/networkpolicies/dujiang")
    assert policy["spec"] == {
        "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}],
    }  # fmt: skip


@real
async def test_that_account_may_what_work_needs_there_and_nothing_elsewhere(ours: Api) -> None:
    there = await Namespaces(ours, settings()).ensure("p")
    needs = {
        "": {
            "pods": "get create patch delete", "pods/log": "get", "pods/exec": "get create",
            "pods/eviction": "create", "configmaps": "get create patch delete", "secrets": "create delete",
            "services": "create delete", "events": "list",
        },
        "resource.k8s.io": {"resourceclaims": "create delete"},
    }  # fmt: skip
    for group, resources in needs.items():
        for resource, verbs in resources.items():
            name, _, sub = resource.partition("/")
            for verb in verbs.split():
                told = f"{verb} {resource}"
                assert await ours.may(verb, name, group=group, namespace=there, subresource=sub), told
                if told != "get pods":
                    assert not await ours.may(verb, name, group=group, namespace="kube-system", subresource=sub), told
    for verb in ("get", "list", "watch", "patch"):
        assert await ours.may(verb, "nodes")
    for verb, name, group in (
        ("get", "secrets", ""), ("list", "secrets", ""), ("watch", "secrets", ""), ("delete", "nodes", ""),
        ("delete", "namespaces", ""), ("list", "namespaces", ""), ("update", "pods", ""),
        ("create", "clusterrolebindings", "rbac.authorization.k8s.io"), ("*", "*", "*"),
    ):  # fmt: skip
        assert not await ours.may(verb, name, group=group, namespace=there), f"{verb} {name}"
    with pytest.raises(Forbidden):
        await ours.list("/api/v1/secrets", lambda obj: obj)


@real
async def test_to_that_account_nothing_is_missing(ours: Api, control: Cluster, tmp_path: Path) -> None:
    engine = KubernetesEngine(KubernetesSettings(), clock=SystemClock(), archive=tmp_path, mark="m", api=ours)
    assert (await engine.capabilities()).missing == ()
    stranger = an_api(control.kubeconfig("stranger"))
    assert not await may_work(stranger, "create", "pods", subresource="exec")
    await asyncio.gather(engine.close(), stranger.close())


@real
async def test_that_account_cannot_give_itself_another_role(ours: Api) -> None:
    there = await Namespaces(ours, settings()).ensure("p")
    wanted = {
        "metadata": {"name": "more"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"},
        "subjects": [{"kind": "ServiceAccount", "name": "dujiang", "namespace": "dujiang"}],
    }

    with pytest.raises(Forbidden, match="attempting to grant RBAC permissions not currently held"):
        await ours.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{there}/rolebindings", wanted)


@real
async def test_a_pod_can_be_made_there_at_once(ours: Api) -> None:
    there = await Namespaces(ours, settings(quota={"pods": "1"})).ensure("p")
    container = {"name": "main", "image": "nix.test/nix:1"}

    def pod(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"serviceAccountName": ACCOUNT, "containers": [container]}}

    await ours.create(f"/api/v1/namespaces/{there}/pods", pod("one"))
    with pytest.raises(Forbidden, match="exceeded quota: dujiang"):
        await ours.create(f"/api/v1/namespaces/{there}/pods", pod("two"))


@real
async def test_settings_that_change_are_followed(ours: Api, admin: Api) -> None:
    before = settings(quota={"pods": "5"})
    there = await Namespaces(ours, before).ensure("p")

    await Namespaces(ours, replace(before, quota={}, isolate=False, service_account="theirs")).ensure("p")

    with pytest.raises(NotFound):
        await admin.get(f"/api/v1/namespaces/{there}/resourcequotas/dujiang")
    with pytest.raises(NotFound):
        await admin.get(f"/apis/networking.k8s.io/v1/namespaces/{there}/networkpolicies/dujiang")
    await Namespaces(ours, replace(before, quota={"pods": "7"})).ensure("p")
    found = await admin.get(f"/api/v1/namespaces/{there}/resourcequotas/dujiang")
    assert found["spec"]["hard"] == {"pods": "7"}


@real
async def test_a_namespace_that_is_not_ours_is_refused(ours: Api, admin: Api) -> None:
    asked = settings()
    for name, metadata, says in (
        ("theirs", {}, "was not made by Dujiang"),
        ("other", {"labels": {"app.kubernetes.io/managed-by": "dujiang"}, "annotations": {"dujiang.io/project": "x"}},
         "belongs to project 'x'"),
    ):  # fmt: skip
        await admin.create("/api/v1/namespaces", {"metadata": {"name": asked.namespace_prefix + name, **metadata}})
        with pytest.raises(EngineRefused, match=says):
            await Namespaces(ours, asked).ensure(name)


@real
async def test_a_namespace_that_is_deleted_is_made_anew_once_it_is_forgotten(ours: Api, admin: Api) -> None:
    names = Namespaces(ours, settings())
    there = await names.ensure("p")
    holding = {"metadata": {"name": "holds", "finalizers": ["dujiang.test/holds"]}}
    await admin.create(f"/api/v1/namespaces/{there}/configmaps", holding)
    await admin.delete(f"/api/v1/namespaces/{there}")

    assert await names.ensure("p") == there, "remembered"
    names.forget("p")
    with pytest.raises(EngineUnavailable, match="is being deleted"):
        await names.ensure("p")
    await admin.patch(f"/api/v1/namespaces/{there}/configmaps/holds", {"metadata": {"finalizers": None}})
    for _ in range(300):
        try:
            await names.ensure("p")
        except EngineUnavailable:
            await asyncio.sleep(0.1)
        else:
            break
    assert (await admin.get(f"/api/v1/namespaces/{there}"))["status"]["phase"] == "Active"


@real
async def test_the_right_that_is_missing_is_named(control: Cluster) -> None:
    stranger = an_api(control.kubeconfig("stranger"))

    with pytest.raises(EngineUnavailable) as caught:
        await Namespaces(stranger, settings()).ensure("p")

    said = str(caught.value)
    assert 'User "stranger" cannot get resource "namespaces"' in said
    assert "rbac.yaml" in said
    await stranger.close()


def test_the_manifest_grants_no_wildcard() -> None:
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        for rule in document.get("rules", ()):
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
