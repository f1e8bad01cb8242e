"""What the engine asks of a cluster's API server: raw JSON in and out.

Answers stay dictionaries, never the client's models: reading 5,000 nodes through models takes many times the time and
memory, and a field that this client does not know yet would be lost.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import orjson

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes import executing
from dujiang.engines.kubernetes.answers import Foreign
from dujiang.engines.kubernetes.connection import Connection
from dujiang.engines.kubernetes.errors import Conflict, Gone, NotFound, error_of
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock

T = TypeVar("T")

_PATCHES: Mapping[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
}
_MANAGER = "dujiang"
_RESTARTS = 3
"""How often a list is begun anew because the server no longer keeps the version that its pages are of."""
_QUIET_S = 150.0
"""A watch is quiet for no longer: the server sends a bookmark each minute or so."""
_FAILED = re.compile(r"\[-\](\S+) failed")


class Api:
    """A cluster's API server. It connects at the first call."""

    def __init__(self, settings: KubernetesSettings, *, clock: Clock) -> None:
        self.clock = clock
        self._connection = Connection(settings, clock)

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return one object, of a path such as `/api/v1/namespaces/x/pods/y`.

        Raises:
            ApiError: the cluster says no; `NotFound` when there is none.
            EngineUnavailable: no answer.
        """
        return await self._connection.request("GET", path, list(params.items()))

    async def list(
        self,
        path: str,
        reduce: Callable[[dict[str, Any]], T | None],
        *,
        labels: str = "",
        fields: str = "",
        page: int = 500,
    ) -> tuple[list[T], str]:
        """Return what `reduce` makes of each object, and the version of the list.

        Objects come in pages and are reduced at once, so that no more than one page of them is ever held. Where
        `reduce` returns None the object is left out.

        Raises:
            ApiError, EngineUnavailable: as `get`; also when the pages are forgotten faster than they are read.
        """
        for _ in range(_RESTARTS):
            found: list[T] = []
            more = ""
            try:
                while True:
                    asked = _selecting(labels, fields, limit=str(page), **{"continue": more})
                    answer = await self._connection.request("GET", path, asked)
                    found += [kept for item in answer.get("items") or () if (kept := reduce(item)) is not None]
                    told = answer.get("metadata") or {}
                    more = told.get("continue") or ""
                    if not more:
                        return found, str(told.get("resourceVersion") or "")
            except Gone:
                continue
        raise EngineUnavailable(f"The cluster forgets the pages of {path} before they are read; try again later.")

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object in a collection, such as `/api/v1/namespaces/x/pods`; return it.

        Raises:
            ApiError: the cluster says no; `AlreadyExists` when the name is taken.
            EngineUnavailable: no answer; it may have been created.
        """
        return await self._connection.request("POST", path, (("fieldManager", _MANAGER),), body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object; where the body holds a `resourceVersion`, only that version.

        Raises:
            ApiError, EngineUnavailable: as `create`; `Conflict` when it has changed meanwhile.
        """
        return await self._connection.request("PUT", path, (("fieldManager", _MANAGER),), body)

    async def patch(
        self, path: str, body: Any, *, kind: Literal["merge", "strategic", "json", "apply"] = "merge"
    ) -> dict[str, Any]:
        """Change an object, or with `apply` create or change it so that it has what is ours; return it.

        Raises:
            ApiError, EngineUnavailable: as `create`.
        """
        asked = [("fieldManager", _MANAGER)]
        if kind == "apply":
            asked.append(("force", "true"))
        return await self._connection.request("PATCH", path, asked, body, _PATCHES[kind])

    async def delete(
        self,
        path: str,
        *,
        grace_s: int | None = None,
        uid: str = "",
        propagation: str = "Background",
        labels: str = "",
    ) -> None:
        """Delete an object, or of a collection those with the labels. What is gone, or another of the name, is quiet.

        Raises:
            ApiError, EngineUnavailable: as `create`.
        """
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._connection.request("DELETE", path, _selecting(labels, ""), options)
        except NotFound:
            return
        except Conflict:
            if not uid:
                raise

    async def watch(
        self,
        path: str,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        timeout_s: int = 300,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield what changes after a version: ADDED, MODIFIED, DELETED or BOOKMARK, and the object.

        Calls `opened` once the server has taken the watch, which may be long before the first event. Ends quietly when
        the server has had enough, after `timeout_s` at the latest.

        Raises:
            Gone: that version is no longer kept; list anew.
            ApiError, EngineUnavailable: as `get`; also when it breaks off.
        """
        asked = _selecting(
            labels,
            fields,
            watch="1",
            allowWatchBookmarks="true",
            resourceVersion=version,
            timeoutSeconds=str(timeout_s),
        )
        async with self._connection.stream(path, asked, quiet_s=_QUIET_S) as answer:
            if opened:
                opened()
            rest = b""
            async for piece in answer.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield self._event(line)

    async def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 20.0,
    ) -> tuple[int, bytes, bytes]:
        """Run a command in a container; return its exit code, standard output and standard error.

        Raises:
            NotFound: no such Pod, or the container does not run.
            ApiError, EngineUnavailable: as `create`; also when it takes longer.
        """
        return await executing.execute(
            self._connection, namespace, pod, container, command, stdin=stdin, timeout_s=timeout_s
        )

    async def log(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_s: int | None = None,
        since: str = "",
        timestamps: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Yield a container's output in pieces as they come; with `follow` until the container ends.

        `since` is a time as `2026-01-31T12:00:00Z`, to the second; with `timestamps` each line begins with its own.

        Raises:
            Invalid: the container has not started.
            ApiError, EngineUnavailable: as `get`; also when it breaks off.
        """
        asked = [("container", container), ("follow", "true" if follow else "false")]
        if tail_lines is not None:
            asked.append(("tailLines", str(tail_lines)))
        if since_s is not None:
            asked.append(("sinceSeconds", str(since_s)))
        if since:
            asked.append(("sinceTime", since))
        if timestamps:
            asked.append(("timestamps", "true"))
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        async with self._connection.stream(path, asked) as answer:
            async for piece in answer.content.iter_any():
                yield piece

    async def may(
        self, verb: str, resource: str, *, group: str = "", namespace: str = "", subresource: str = "", name: str = ""
    ) -> bool:
        """Say whether the platform's account has a right, in one namespace or (empty) in all, on one object or all."""
        asked = {
            "verb": verb,
            "resource": resource,
            "group": group,
            "namespace": namespace,
            "subresource": subresource,
            "name": name,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = await self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    async def serves(self, group_version: str) -> bool:
        """Say whether the cluster has a version of a group of its API, such as `resource.k8s.io/v1`."""
        if "/" not in group_version:
            return group_version in (await self.get("/api")).get("versions", ())
        groups = (await self.get("/apis")).get("groups") or ()
        return any(group_version == each["groupVersion"] for group in groups for each in group["versions"])

    async def version(self) -> str:
        """Return the server's own version, such as `v1.36.3`."""
        return str((await self.get("/version"))["gitVersion"])

    async def failing(self) -> tuple[str, ...]:
        """Return which of its checks of its own readiness the server says have failed, such as `etcd`.

        Raises:
            ApiError: it does not tell this account.
            EngineUnavailable: no answer.
        """
        try:
            async with self._connection.stream("/readyz", quiet_s=_QUIET_S) as answer:
                await answer.read()
        except Foreign as error:  # it tells in text; where that is long its end is cut off, and `etcd` is at its begin
            if failed := _FAILED.findall(error.text):
                return tuple(failed)
            raise
        return ()

    async def close(self) -> None:
        """Close every connection."""
        await self._connection.close()

    def _event(self, line: bytes) -> tuple[str, dict[str, Any]]:
        try:
            told = orjson.loads(line)
            kind, obj = told["type"], told["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise EngineUnavailable("A watch of the cluster told what is no event; it begins anew.") from error
        if kind == "ERROR":
            raise error_of(int(obj.get("code") or 500), obj, self._connection.server)
        return kind, obj


def _selecting(labels: str, fields: str, **more: str) -> list[tuple[str, str]]:
    """Return the parameters that are not empty."""
    named = {"labelSelector": labels, "fieldSelector": fields, **more}
    return [(name, value) for name, value in named.items() if value]
