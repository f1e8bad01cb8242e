"""Closes nodes to new work and opens them again, and leaves alone what a person has closed.

A node is closed by `spec.unschedulable`, as `kubectl cordon` does it, and an annotation of ours that says why. Without
the annotation a closed node is a person's. Each change is made to the version that was looked at: a person who closes
the node in between is not overruled. Where the platform's account may not change nodes, a node is closed to our own
work only, and this is forgotten when the platform restarts; the pool asks for it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, Blocked, Conflict, Forbidden, NotFound, said_no
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.nodes import CLOSED, KubeNode

_log = structlog.get_logger()
_TRIES: Final = 8
"""How often a change that others were quicker with is tried: nodes change with each heartbeat."""
_MAX_REASON: Final = 1000
_STATIC: Final = "kubernetes.io/config.mirror"
"""Annotation of Pods that a kubelet runs from a file: the API cannot end them."""


class Closer:
    """Closes and opens nodes of one cluster, and puts Pods off them when asked to."""

    def __init__(self, api: Api, nodes: Mirror[KubeNode]) -> None:
        self._api, self._nodes = api, nodes
        self._here: dict[str, str] = {}
        self._forbidden = ""

    @property
    def closed(self) -> Mapping[str, str]:
        """Return the nodes that are closed to our work alone, with why; a node closed in the cluster says so itself."""
        return self._here

    @property
    def missing(self) -> tuple[str, ...]:
        """Say what the platform's account may not do, for its capabilities."""
        if not self._forbidden:
            return ()
        return (
            f"nodes that are closed here stay open to others: the account may not change nodes ({self._forbidden})",
        )

    async def cordon(self, node: str, reason: str) -> None:
        """Let nothing new start on a node; a node that a person has closed stays as it is.

        Raises:
            EngineRefused: no such node.
            EngineUnavailable: no answer, or others changed the node each time we tried.
        """
        why = (reason or "closed")[:_MAX_REASON]
        try:
            await self._change(node, lambda found: _closing(found, why))
        except Forbidden as error:
            self._note_forbidden(node, error)
            self._here[node] = why
        else:
            self._here.pop(node, None)

    async def uncordon(self, node: str) -> None:
        """Open a node again, where we closed it.

        Raises:
            EngineRefused, EngineUnavailable: as `cordon`.
        """
        self._here.pop(node, None)
        try:
            await self._change(node, _opening)
        except Forbidden as error:
            self._note_forbidden(node, error)

    async def drain(self, node: str, reason: str, stop: Callable[[str], Awaitable[None]]) -> None:
        """Close a node and begin to stop what is ours on it; Pods of others stay.

        Args:
            node: which.
            reason: in the operator's words.
            stop: begins to stop our own attempts on a node, each with its save signal.

        Raises:
            EngineRefused, EngineUnavailable: as `cordon`.
        """
        await self.cordon(node, reason)
        await stop(node)

    async def evict(self, namespace: str, pod: str, *, grace_s: int | None = None) -> str:
        """Ask a Pod to go, within what disruption budgets allow; return why not, empty when it goes or is gone.

        Pods of DaemonSets and of a kubelet's own files are never evicted: they would come back at once.

        Args:
            namespace: of the Pod.
            pod: its name.
            grace_s: from SIGTERM to SIGKILL; None takes the Pod's own.

        Raises:
            EngineUnavailable: no answer.
        """
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        try:
            meta = (await self._api.get(path))["metadata"]
            if why := _stays(meta):
                return f"Pod {namespace}/{pod} stays: {why}."
            options: dict[str, Any] = {"preconditions": {"uid": meta["uid"]}}
            if grace_s is not None:
                options["gracePeriodSeconds"] = grace_s
            body = {
                "apiVersion": "policy/v1", "kind": "Eviction", "deleteOptions": options,
                "metadata": {"name": pod, "namespace": namespace},
            }  # fmt: skip
            await self._api.create(f"{path}/eviction", body)
        except (NotFound, Conflict):  # gone, or another one of that name
            return ""
        except Blocked as error:
            causes = "; ".join(str(cause.get("message")) for cause in error.details.get("causes") or ())
            return f"Pod {namespace}/{pod} stays for now: {causes or error.message}."
        except Forbidden as error:
            return f"Pod {namespace}/{pod} stays: the platform's account may not evict it ({error.message})."
        except ApiError as error:
            raise said_no(error, f"evict Pod {namespace}/{pod}") from error
        return ""

    async def _change(self, node: str, decide: Callable[[Mapping[str, Any]], dict[str, Any] | None]) -> None:
        """Make the change that is decided on a node, to the version that was looked at.

        Raises:
            Forbidden: the account may not.
            EngineRefused: no such node.
            EngineUnavailable: no answer, or others changed it each time.
        """
        path = f"/api/v1/nodes/{node}"
        try:
            for _ in range(_TRIES):
                found = await self._api.get(path)
                patch = decide(found)
                if patch is None:
                    return
                patch["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
                try:
                    self._nodes.put(await self._api.patch(path, patch))
                except Conflict:
                    continue
                self._forbidden = ""
                return
        except Forbidden:
            raise
        except NotFound as error:
            raise EngineRefused(f"This Kubernetes cluster shows no node {node!r} to us.") from error
        except ApiError as error:
            raise said_no(error, f"change node {node}") from error
        raise EngineUnavailable(f"Node {node} was changed by others each of {_TRIES} times that we tried; try again.")

    def _note_forbidden(self, node: str, error: Forbidden) -> None:
        if not self._forbidden:
            _log.warning("nodes_not_ours_to_close", node=node, error=error.message)
        self._forbidden = error.message


def _closing(node: Mapping[str, Any], why: str) -> dict[str, Any] | None:
    """Return what closes a node; None when it is closed with these words, or by a person."""
    note, is_closed = _note(node), bool(node.get("spec", {}).get("unschedulable"))
    if is_closed and (note is None or note == why):
        return None
    return {"metadata": {"annotations": {CLOSED: why}}, "spec": {"unschedulable": True}}


def _opening(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what opens a node that we closed; None when we did not."""
    if _note(node) is None:
        return None
    return {"metadata": {"annotations": {CLOSED: None}}, "spec": {"unschedulable": None}}


def _note(node: Mapping[str, Any]) -> str | None:
    note = (node["metadata"].get("annotations") or {}).get(CLOSED)
    return None if note is None else str(note)


def _stays(meta: Mapping[str, Any]) -> str:
    """Say why a Pod is not to be evicted; empty when it may be."""
    if _STATIC in (meta.get("annotations") or {}):
        return "its kubelet runs it from a file"
    daemons = [owner["name"] for owner in meta.get("ownerReferences") or () if owner.get("kind") == "DaemonSet"]
    return f"it belongs to the DaemonSet {daemons[0]}" if daemons else ""
