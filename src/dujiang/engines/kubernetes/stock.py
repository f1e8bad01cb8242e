"""What the cluster has: mirrors of its nodes, of the Pods of others, and of claimed devices where there are any."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from dujiang.engines.contract import NodeFacts, NodeRefused, RankPlacement
from dujiang.engines.kubernetes import claims, inventory, others
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.claims import KubeClaim, KubeDevice, KubeSlice
from dujiang.engines.kubernetes.devices import Slot, slots_of
from dujiang.engines.kubernetes.errors import ApiError, said_no
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.nodes import KubeNode, reduce_node
from dujiang.engines.kubernetes.others import KubePod
from dujiang.engines.kubernetes.records import MARK
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import DeviceRequest, request_for
from dujiang.kit.clock import Clock

_VERSIONS: Final = ("v1", "v1beta2", "v1beta1")
"""Of dynamic resource allocation, the newest first."""
_ASK_AGAIN_S: Final = 600.0


class Stock:
    """The nodes of one cluster, with what is on them."""

    def __init__(self, api: Api, settings: KubernetesSettings, *, clock: Clock, mark: str) -> None:
        self._api, self._settings, self._clock, self._mark = api, settings, clock, mark
        stale_s = settings.stale_after_s
        self.nodes: Mirror[KubeNode] = Mirror(
            api, "/api/v1/nodes", reduce_node, labels=settings.node_selector, clock=clock, stale_after_s=stale_s
        )
        self._pods: Mirror[KubePod] = Mirror(
            api, "/api/v1/pods", partial(others.reduce_pod, mark=(MARK, mark)), clock=clock, stale_after_s=stale_s,
            fields="status.phase!=Succeeded,status.phase!=Failed", labels=f"{MARK}!={mark}",
        )  # fmt: skip
        self._slots: dict[str, tuple[KubeNode, list[Slot]]] = {}
        """Of nodes that were asked about, as long as they stay as they were."""
        self._version = ""
        self._asked_s = -_ASK_AGAIN_S
        self._slices: Mirror[KubeSlice] | None = None
        self._claims: Mirror[KubeClaim] | None = None

    async def facts(self, closed: Mapping[str, str], ours: Iterable[KubePod]) -> Sequence[NodeFacts]:
        """Return all nodes, less what others hold.

        Args:
            closed: nodes that take no new work, and why.
            ours: Pods of ours that hold devices.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self._find_claims()
        nodes, pods = await asyncio.gather(self.nodes.fresh(), self._pods.fresh())  # the first lists take seconds
        return inventory.facts_of(
            nodes.values(), [*pods.values(), *ours], settings=self._settings, closed=closed,
            slices=(await self._slices.fresh()).values() if self._slices else (),
            claims=(await self._claims.fresh()).values() if self._claims else (),
        )  # fmt: skip

    async def requests(self, ranks: Sequence[RankPlacement]) -> tuple[list[DeviceRequest], str]:
        """Return what each rank must ask for to get its devices, and the version that claims are written in.

        Raises:
            EngineRefused: a node or device is not there, or nothing gives such shares.
            EngineUnavailable: the cluster cannot be looked at.
        """
        nodes, claimable = await self.nodes.fresh(), dict[str, list[KubeDevice]]()
        if any(rank.devices for rank in ranks):
            await self._find_claims()
            if self._slices:
                claimable = claims.devices_by_node((await self._slices.fresh()).values())
        if len(self._slots) > len(nodes):  # some are gone
            self._slots.clear()
        found: list[DeviceRequest] = []
        for rank in ranks:
            node, own = nodes.get(rank.node), claimable.get(rank.node, [])
            if node is None:
                raise NodeRefused(f"This Kubernetes cluster shows no node {rank.node!r} to us.")
            slots = self._slots_of(node, own)
            found.append(request_for(rank, slots, self._settings, claimable=own, version=self._version or "v1"))
        return found, self._version or "v1"

    def _slots_of(self, node: KubeNode, own: list[KubeDevice]) -> list[Slot]:
        if own:
            return slots_of(node, self._settings, own)
        known = self._slots.get(node.name)
        if known is None or known[0] is not node:  # it has changed
            known = self._slots[node.name] = node, slots_of(node, self._settings)
        return known[1]

    async def _find_claims(self) -> None:
        """Mirror the devices of dynamic resource allocation where the cluster has it."""
        now_s = self._clock.monotonic_s()
        if self._slices or now_s - self._asked_s < _ASK_AGAIN_S:
            return
        for version in _VERSIONS:
            try:
                if not await self._api.serves(f"resource.k8s.io/{version}"):
                    continue
            except ApiError as error:
                raise said_no(error, "read which kinds of objects it has") from error
            base, stale_s = f"/apis/resource.k8s.io/{version}", self._settings.stale_after_s
            may = [await self._may(name) for name in ("resourceslices", "resourceclaims")]
            if all(may):
                self._version = version
                self._slices = Mirror(
                    self._api, f"{base}/resourceslices", claims.reduce_slice, clock=self._clock, stale_after_s=stale_s
                )
                self._claims = Mirror(
                    self._api, f"{base}/resourceclaims", partial(claims.reduce_claim, mark=(MARK, self._mark)),
                    clock=self._clock, stale_after_s=stale_s,
                )  # fmt: skip
            break
        self._asked_s = now_s

    async def _may(self, resource: str) -> bool:
        try:
            return await self._api.may("list", resource, group="resource.k8s.io")
        except ApiError:
            return False

    def trouble(self) -> str:
        """Say which watch is broken; empty when none is."""
        mirrors = (self.nodes, self._pods, self._slices, self._claims)
        return next((told for mirror in mirrors if mirror is not None and (told := mirror.trouble())), "")

    async def close(self) -> None:
        """Look no longer."""
        for mirror in (self.nodes, self._pods, self._slices, self._claims):
            if mirror is not None:
                await mirror.close()
