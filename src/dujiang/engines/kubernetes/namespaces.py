"""A namespace for each project, with what keeps its work apart from others'.

Made when a project's first attempt comes: the namespace, an account without rights for its Pods, a quota and a network
policy as the settings say, and, where the platform's own account has no rights in all namespaces, a binding that gives
it those of work in this one alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import AlreadyExists, ApiError, NotFound, said_no
from dujiang.engines.kubernetes.settings import KubernetesSettings

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "dujiang"
PROJECT: Final = "dujiang.io/project"
"""Label and, for the whole of a long or odd name, annotation of a project's namespace."""
ACCOUNT: Final = "dujiang-job"
"""ServiceAccount of Pods where the settings name none."""
ROLE: Final = "dujiang-work"
"""ClusterRole of manifest/rbac.yaml that is bound to the platform in each namespace."""
_OBJECTS: Final = "dujiang"
"""Name of the quota, the network policy and the binding."""

_LONGEST = 63
_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_CHANGED = re.compile(r"-[0-9a-f]{12}$")
_SETTLE_S, _LOOK_S = 10.0, 0.1
"""How long the cluster may take to heed a new quota or binding, and how often it is asked."""


class Namespaces:
    """Finds and makes the namespaces of projects."""

    def __init__(self, api: Api, settings: KubernetesSettings) -> None:
        self._api, self._settings = api, settings
        self._ready: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def name(self, project: str) -> str:
        """Return the namespace of a project: prefix and name where they make a label of DNS, else changed and hashed.

        A name that was changed ends with twelve hexadecimal digits of the project's hash, and one that would look so by
        itself is changed too: so no two projects share a namespace.
        """
        plain = self._settings.namespace_prefix + project
        if len(plain) <= _LONGEST and _PLAIN.fullmatch(plain) and not _CHANGED.search(plain):
            return plain
        slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[: _LONGEST - 13].rstrip("-") or "dujiang"
        return f"{slug}-{hashlib.sha256(plain.encode()).hexdigest()[:12]}"

    async def ensure(self, project: str) -> str:
        """Make the namespace of a project with what belongs into it, where it is not there yet; return its name.

        Asks the cluster once for each project and process.

        Raises:
            EngineRefused: a namespace of that name is there and not ours.
            EngineUnavailable: no answer, it is being deleted, or the platform lacks a right, which is named.
        """
        name = self.name(project)
        if name in self._ready:
            return name
        async with self._locks[name]:
            if name not in self._ready:
                await self._make(name, project)
                self._ready.add(name)
        return name

    def forget(self, project: str) -> None:
        """Look at the cluster again at the next `ensure`: what is needed was not there."""
        self._ready.discard(self.name(project))

    async def _make(self, name: str, project: str) -> None:
        try:
            await self._namespace(name, project)
            await self._rights(name)
            if not self._settings.service_account:
                await self._apply(name, _account(name))
            await self._apply_or_delete(name, _policy(name), wanted=self._settings.isolate)
            await self._apply_or_delete(name, _quota(name, self._settings.quota), wanted=bool(self._settings.quota))
            if self._settings.quota:
                await self._counted(name)
        except ApiError as error:
            raise said_no(error, f"set up namespace {name}") from error

    async def _namespace(self, name: str, project: str) -> None:
        path = f"/api/v1/namespaces/{name}"
        try:
            found = await self._api.get(path)
        except NotFound:
            try:
                found = await self._api.create("/api/v1/namespaces", _namespace(name, project))
            except AlreadyExists:  # another replica was quicker
                found = await self._api.get(path)
        told = found["metadata"]
        owner = (told.get("annotations") or {}).get(PROJECT, "")
        if (told.get("labels") or {}).get(MANAGED_BY) != MANAGER or owner != project:
            whose = f"belongs to project {owner!r}" if owner else "was not made by Dujiang"
            raise EngineRefused(
                f"Namespace {name}, where the work of project {project} would go, {whose}: set another "
                "`namespace_prefix`, or delete the namespace if nothing needs it."
            )
        if (found.get("status") or {}).get("phase") == "Terminating":
            raise EngineUnavailable(f"Namespace {name} is being deleted; it can be made anew once it is gone.")

    async def _rights(self, name: str) -> None:
        """Bind the role of work to the platform's account here, where it may not make Pods by a wider right."""
        if await self._api.may("create", "pods", namespace=name):
            return
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await self._api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        user = str(answer["status"]["userInfo"]["username"])
        with suppress(AlreadyExists):
            await self._api.create(
                f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings", _binding(name, user)
            )
        if not await self._settled(lambda: self._api.may("create", "pods", namespace=name)):
            raise EngineUnavailable(
                f"{user} may not make Pods in namespace {name}, though role {ROLE} is bound to it: see whether that "
                "ClusterRole is as in manifest/rbac.yaml."
            )

    async def _apply(self, namespace: str, obj: Mapping[str, Any]) -> None:
        await self._api.patch(_path(namespace, obj), obj, kind="apply")

    async def _apply_or_delete(self, namespace: str, obj: Mapping[str, Any], *, wanted: bool) -> None:
        if wanted:
            await self._apply(namespace, obj)
        else:
            await self._api.delete(_path(namespace, obj))

    async def _counted(self, namespace: str) -> None:
        """Wait until the cluster has taken up the quota: it refuses Pods until then."""
        path = f"/api/v1/namespaces/{namespace}/resourcequotas/{_OBJECTS}"

        async def heeded() -> bool:
            return bool(((await self._api.get(path)).get("status") or {}).get("hard"))

        if not await self._settled(heeded):
            raise EngineUnavailable(
                f"The cluster does not take up the quota of namespace {namespace}, and would refuse Pods there: see "
                "whether its controller manager runs."
            )

    async def _settled(self, is_so: Callable[[], Awaitable[bool]]) -> bool:
        end_s = self._api.clock.monotonic_s() + _SETTLE_S
        while not await is_so():
            if self._api.clock.monotonic_s() >= end_s:
                return False
            await self._api.clock.sleep(_LOOK_S)
        return True


async def may_work(api: Api, verb: str, resource: str, *, subresource: str = "") -> bool:
    """Say whether the platform's account has a right where work goes: in all namespaces, or by the role it binds.

    Raises:
        ApiError, EngineUnavailable: as `Api.may`.
    """
    if await api.may(verb, resource, subresource=subresource):
        return True
    return await api.may("bind", "clusterroles", group="rbac.authorization.k8s.io", name=ROLE)


def _namespace(name: str, project: str) -> dict[str, Any]:
    labels = {MANAGED_BY: MANAGER, PROJECT: project if _label(project) else name}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels, "annotations": {PROJECT: project}},
    }


def _account(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _ours(ACCOUNT, namespace),
        "automountServiceAccountToken": False,
    }


def _quota(namespace: str, hard: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _ours(_OBJECTS, namespace),
        "spec": {"hard": dict(hard)},
    }


def _policy(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _ours(_OBJECTS, namespace),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
    }


def _binding(namespace: str, user: str) -> dict[str, Any]:
    subject: dict[str, str] = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    if user.startswith("system:serviceaccount:"):
        _, _, home, account = user.split(":", 3)
        subject = {"kind": "ServiceAccount", "name": account, "namespace": home}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _ours(_OBJECTS, namespace),
        "subjects": [subject],
        "roleRef": {"kind": "ClusterRole", "name": ROLE, "apiGroup": "rbac.authorization.k8s.io"},
    }


def _ours(name: str, namespace: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER}}


def _path(namespace: str, obj: Mapping[str, Any]) -> str:
    version = obj["apiVersion"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = {
        "ServiceAccount": "serviceaccounts",
        "ResourceQuota": "resourcequotas",
        "NetworkPolicy": "networkpolicies",
    }
    return f"{base}/namespaces/{namespace}/{plural[obj['kind']]}/{obj['metadata']['name']}"


def _label(value: str) -> bool:
    """Say whether a text may be the value of a label."""
    return len(value) <= _LONGEST and re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", value) is not None
