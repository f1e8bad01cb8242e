"""Watches what Kueue says, where the cluster has it and `queue` names its queue.

Nothing waits for it: where it cannot be seen jobs run as well, their reasons are told less well, and the capabilities
say what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError
from dujiang.engines.kubernetes.kueue import Flavor, Workload, reduce_flavor, reduce_workload
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.seeing import Pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock

_GROUP: Final = "kueue.x-k8s.io"
_VERSIONS: Final = ("v1beta2", "v1beta1")
"""Of Kueue's kinds, the newest first."""
_ASK_AGAIN_S: Final = 60.0


class Queue:
    """The Workloads and flavors of a cluster."""

    def __init__(self, api: Api, settings: KubernetesSettings, *, clock: Clock) -> None:
        self._api, self._settings, self._clock = api, settings, clock
        self._workloads: Mirror[Workload] | None = None
        self._flavors: Mirror[Flavor] | None = None
        self._by_owner: dict[str, Workload] = {}
        self._asked_s = float("-inf")
        self.missing = ""
        """Why it is not seen what Kueue does, or that there is none; empty: nothing is known of that."""
        self.passed = ""
        """That jobs run past Kueue; empty: it took the last Pod, or none was made."""

    def made(self, pod: Pod) -> None:
        """Take note of a Pod that was made for Kueue's queue just now: whether Kueue took it."""
        self.passed = ""
        if not pod.is_queued:
            self.passed = (
                f"Kueue did not take the last Pod that was made, {pod.namespace}/{pod.name}, so it runs past the queue:"
                " see whether `pod` is among Kueue's frameworks, and whether its selector takes in that namespace"
            )

    async def look(self) -> None:
        """Begin to watch, where that has not begun; what is not to be had is asked for again now and then."""
        now_s = self._clock.monotonic_s()
        if self._workloads is None and now_s - self._asked_s >= _ASK_AGAIN_S:
            self._asked_s = now_s
            with contextlib.suppress(EngineUnavailable, ApiError):
                await self._begin()
        if self._workloads is not None:
            with contextlib.suppress(EngineUnavailable):
                await self._workloads.ready()

    async def _begin(self) -> None:
        version = ""
        for each in _VERSIONS:
            if not version and await self._api.serves(f"{_GROUP}/{each}"):
                version = each
        if not version:
            self.missing = f"`queue` is set, and the cluster has no Kueue ({_GROUP}): jobs do not wait in its queues"
            return
        for kind in ("workloads", "resourceflavors"):
            if not await self._api.may("watch", kind, group=_GROUP):
                self.missing = (
                    f"the account may not watch {kind}.{_GROUP}: what Kueue does with jobs is not seen, nor which of"
                    " its flavors a node is of; apply manifest/rbac.yaml again"
                )
                return
        self.missing, base, stale_s = "", f"/apis/{_GROUP}/{version}", self._settings.stale_after_s
        self._flavors = Mirror(
            self._api, f"{base}/resourceflavors", reduce_flavor, clock=self._clock, stale_after_s=stale_s
        )
        self._workloads = Mirror(
            self._api, f"{base}/workloads", reduce_workload, clock=self._clock, stale_after_s=stale_s,
            told=self._changed,
        )  # fmt: skip

    def _changed(self, before: Workload | None, now: Workload | None) -> None:
        for uid in before.owners if before is not None else ():
            self._by_owner.pop(uid, None)
        if now is not None:
            self._by_owner.update(dict.fromkeys(now.owners, now))

    def of(self, uid: str) -> Workload | None:
        """Return the Workload of a Pod as it was last seen."""
        return self._by_owner.get(uid)

    async def flavors(self) -> Mapping[str, Flavor]:
        """Return Kueue's flavors by name; none where they cannot be seen."""
        await self.look()
        if self._flavors is None:
            return {}
        with contextlib.suppress(EngineUnavailable):
            return await self._flavors.fresh()
        return {}

    async def close(self) -> None:
        """Look no longer."""
        for mirror in (self._workloads, self._flavors):
            if mirror is not None:
                await mirror.close()
