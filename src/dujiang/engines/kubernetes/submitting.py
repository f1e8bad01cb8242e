"""Makes an attempt in the cluster: the Pod of its first rank, which is its record, then what else belongs to it.

All names follow from the key, so that what a lost answer or a restart left half made is gone on with, and nothing is
made twice. An attempt that is one Pod is made by one request, and may begin. Of any other all Pods wait behind a gate
until everything is there and the record says so: a Pod that is not there then was taken away, and is never made again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from dujiang.engines.contract import AttemptKey, EngineRefused, EngineUnavailable, Launch, NodeRefused
from dujiang.engines.kubernetes import pods, records, runner
from dujiang.engines.kubernetes.apart import Apart
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import AlreadyExists, ApiError, NotFound, said_no
from dujiang.engines.kubernetes.keeping import Keeper
from dujiang.engines.kubernetes.namespaces import Namespaces
from dujiang.engines.kubernetes.observing import Observer
from dujiang.engines.kubernetes.pods import Plan
from dujiang.engines.kubernetes.records import Record
from dujiang.engines.kubernetes.refusing import refusal_of
from dujiang.engines.kubernetes.seeing import Pod, reduce_pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.stock import Stock

_AT_ONCE: Final = 16
"""Pods of one attempt that are made at one time."""


class Submitter:
    """Makes attempts."""

    def __init__(
        self, api: Api, stock: Stock, seen: Observer, keeper: Keeper, settings: KubernetesSettings, *, mark: str
    ) -> None:
        self._api, self._stock, self._seen, self._keeper = api, stock, seen, keeper
        self._settings, self._mark = settings, mark
        self._namespaces = Namespaces(api, settings)
        self._with_runner: set[str] = set()
        self._making_runner = asyncio.Lock()
        self.apart: Apart[AttemptKey] = Apart()
        """Holds off everything else that makes or stops an attempt."""

    async def submit(self, launch: Launch, closed: Mapping[str, str]) -> None:
        """Make an attempt; a known one is left alone, and one that is half made is gone on with.

        Raises:
            EngineRefused: it will never run here.
            EngineUnavailable: no answer, or no room in a quota; it may have taken effect.
        """
        records.refuse_bad_key(launch.key)
        async with self.apart.hold(launch.key):
            record = await self._seen.record(launch.key)
            if record is not None and _is_known(record):
                return
            if await self._seen.is_forgotten(launch.key):
                return
            nodes = await self._stock.nodes.fresh()
            pods.refuse_impossible(launch, nodes, self._settings)
            for name in sorted({rank.node for rank in launch.ranks}):
                node = nodes[name]
                why = closed.get(name, node.closed if node.unschedulable else None)
                if why is not None:  # what a person closed may be open again in a moment: there the Pod waits
                    raise NodeRefused(f"Node {name!r} is closed to new work: {why}.")
            devices, version = await self._stock.requests(launch.ranks)
            namespace = self._namespaces.name(launch.project)
            flavors = await self._seen.queue.flavors() if self._settings.queue else {}
            plan = Plan(launch, self._mark, self._settings, nodes, namespace, devices, version, flavors)
            record = await self._record(plan)
            if record is not None:
                await self._make(plan, record)

    async def _record(self, plan: Plan) -> Record | None:
        """Make the record, or return the one that is there; None where nothing is to be made any more."""
        project, path = plan.launch.project, f"/api/v1/namespaces/{plan.namespace}/pods"
        body = pods.first(plan, self._seen.now_us())
        for is_last in (False, True):
            try:
                await self._namespaces.ensure(project)
                await self._runner(plan.namespace)
                found = await self._api.create(path, body)
            except AlreadyExists:
                found = await self._read(f"{path}/{plan.pod(0)}")
            except NotFound as error:  # somebody has deleted the namespace
                self._namespaces.forget(project)
                self._with_runner.discard(plan.namespace)
                if is_last:
                    raise said_no(error, f"make a job in namespace {plan.namespace}") from error
                continue
            except ApiError as error:
                raise refusal_of(error) from error
            pod = reduce_pod(found)
            if pod is None or pod.record is None or pod.key != str(plan.launch.key):
                raise EngineRefused(f"{path}/{plan.pod(0)} is there and is no Pod of ours.")
            self._seen.pods.put(found, pod)
            if self._settings.queue:
                self._seen.queue.made(pod)
            return None if _is_known(pod.record) or pod.deleted_us is not None else pod.record
        raise AssertionError("unreachable")

    async def _read(self, path: str) -> dict[str, Any]:
        try:
            return await self._api.get(path)
        except ApiError as error:
            raise said_no(error, f"read {path}") from error

    async def _runner(self, namespace: str) -> None:
        async with self._making_runner:
            if namespace in self._with_runner:
                return
            with contextlib.suppress(AlreadyExists):
                await self._api.create(f"/api/v1/namespaces/{namespace}/configmaps", runner.config_map(namespace))
            self._with_runner.add(namespace)

    async def _make(self, plan: Plan, record: Record) -> None:
        """Make what belongs to a record; where the cluster does not take all of it, take all away again."""
        made: list[Pod] = []
        try:
            await self._make_all(plan, record, made)
        except ApiError as error:
            await self._take_back(plan, record, made)
            raise refusal_of(error) from error
        if (await self._keeper.made(record)).stop is None:
            return  # what is to be done next the keeper sees by itself: all that was made is news
        for pod in made:  # it was stopped while it was being made
            with contextlib.suppress(ApiError):
                await self._api.delete(pod.path, uid=pod.uid)

    async def _make_all(self, plan: Plan, record: Record, made: list[Pod]) -> None:
        path, room = f"/api/v1/namespaces/{plan.namespace}/pods", asyncio.Semaphore(_AT_ONCE)

        async def make(rank: int) -> None:
            async with room:
                try:
                    found = await self._api.create(path, pods.pod(plan, record, rank))
                except AlreadyExists:
                    found = await self._read(record.pod_path(rank))
                pod = reduce_pod(found)
                if pod is None or not pod.is_of(record) or pod.deleted_us is not None:
                    raise EngineUnavailable(f"{record.pod_path(rank)} of before is still there; try again.")
                self._seen.pods.put(found, pod)
                made.append(pod)

        results = await asyncio.gather(*(make(rank) for rank in range(1, record.ranks)), return_exceptions=True)
        for error in results:  # all have been answered: what is there now is known
            if isinstance(error, BaseException):
                raise error
        for where, body in pods.beside(plan, record):
            with contextlib.suppress(AlreadyExists):
                await self._api.create(where, body)

    async def _take_back(self, plan: Plan, record: Record, made: list[Pod]) -> None:
        """Take away an attempt whose Pods wait behind their gate: nothing of it has run. Its record goes last."""
        with contextlib.suppress(ApiError, EngineUnavailable):
            for where, body in pods.beside(plan, record):
                await self._api.delete(f"{where}/{body['metadata']['name']}")
            first = await self._seen.pods.find(f"{record.namespace}/{record.pod(0)}")
            for pod in [*made, *([first] if first is not None and first.is_of(record) else ())]:
                await self._keeper.let_go(pod)  # before it is deleted: what is gone at once is not taken for an end
                await self._api.delete(pod.path, uid=pod.uid, grace_s=0)
                self._seen.pods.drop(f"{pod.namespace}/{pod.name}")


def _is_known(record: Record) -> bool:
    return record.is_made or record.stop is not None or record.verdict is not None
