"""Makes an attempt in the cluster: its record first, then what belongs to it, then its Pods.

All names follow from the key, so that what a lost answer or a restart left half made is gone on with, and nothing is
made twice. Once all Pods of a gang were made the record says so, and of a single rank once it has begun: a Pod that is
not there then was taken away, and is never made again. A single one that has not begun may be made again, since nothing
of it has run; that spares a third of the requests of a submit.
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
from dujiang.engines.kubernetes.records import Record, reduce_record
from dujiang.engines.kubernetes.refusing import refusal_of
from dujiang.engines.kubernetes.seeing import Pod, reduce_pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.sharing import DeviceRequest
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
            plan = Plan(launch, self._mark, self._settings, await self._stock.nodes.fresh())
            pods.refuse_impossible(plan)
            for name in sorted({rank.node for rank in launch.ranks} & set(closed)):
                raise NodeRefused(f"Node {name!r} is closed to new work: {closed[name]}.")
            devices, version = await self._stock.requests(launch.ranks)
            record = await self._record(plan)
            if record is not None:
                await self._make(plan, record, devices, version)

    async def _record(self, plan: Plan) -> Record | None:
        """Make the record, or return the one that is there; None where nothing is to be made any more."""
        project = plan.launch.project
        for is_last in (False, True):
            namespace = await self._namespaces.ensure(project)
            body = records.manifest(
                plan.launch, self._mark, namespace, at_us=self._seen.now_us(), script=plan.files(), facts=plan.facts()
            )
            path = f"/api/v1/namespaces/{namespace}/configmaps"
            try:
                await self._runner(namespace)
                found = await self._api.create(path, body)
            except AlreadyExists:
                found = await self._read(f"{path}/{body['metadata']['name']}")
            except NotFound as error:  # somebody has deleted the namespace
                self._namespaces.forget(project)
                self._with_runner.discard(namespace)
                if is_last:
                    raise said_no(error, f"make a job in namespace {namespace}") from error
                continue
            except ApiError as error:
                raise refusal_of(error) from error
            record = reduce_record(found)
            if record is None:
                raise EngineRefused(f"{path}/{body['metadata']['name']} is there and is no record of ours.")
            if record.is_forgotten:
                return None
            self._seen.records.put(found)
            return None if _is_known(record) else record
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

    async def _make(self, plan: Plan, record: Record, devices: list[DeviceRequest], version: str) -> None:
        """Make what belongs to a record; where the cluster does not take all of it, take away what it took."""
        made: list[Pod] = []
        try:
            await self._make_all(plan, record, devices, version, made)
        except ApiError as error:
            refusal = refusal_of(error)
            await self._take_back(record, made, for_good=isinstance(refusal, EngineRefused))
            raise refusal from error
        if record.ranks == 1 or (await self._keeper.made(record)).stop is None:
            return  # what is to be done next the keeper sees by itself: all that was made is news
        for pod in made:  # it was stopped while it was being made
            with contextlib.suppress(ApiError):
                await self._api.delete(pod.path, uid=pod.uid)

    async def _make_all(
        self, plan: Plan, record: Record, devices: list[DeviceRequest], version: str, made: list[Pod]
    ) -> None:
        base, room = f"/api/v1/namespaces/{record.namespace}", asyncio.Semaphore(_AT_ONCE)
        if plan.launch.secrets:
            await self._once(f"{base}/secrets", pods.secret(plan, record))
        if plan.has_service:
            await self._once(f"{base}/services", pods.service(plan, record))
        for rank, request in zip(plan.launch.ranks, devices, strict=True):
            if request.claim is not None:
                path = f"/apis/resource.k8s.io/{version}/namespaces/{record.namespace}/resourceclaims"
                await self._once(path, pods.claim(plan, record, rank.rank, request.claim, version))

        async def make(nth: int) -> None:
            async with room:
                found = await self._once(f"{base}/pods", pods.pod(plan, record, plan.launch.ranks[nth], devices[nth]))
                if found is not None:
                    self._seen.pods.put(found)
                    if (pod := reduce_pod(found)) is not None:
                        made.append(pod)

        results = await asyncio.gather(*(make(nth) for nth in range(record.ranks)), return_exceptions=True)
        for error in results:  # all have been answered: what is there now is known
            if isinstance(error, BaseException):
                raise error

    async def _once(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Make an object; None when it is there already."""
        try:
            return await self._api.create(path, body)
        except AlreadyExists:
            return None

    async def _take_back(self, record: Record, made: list[Pod], *, for_good: bool) -> None:
        """Take away the Pods of a gang, which is not let go before all are there: nothing of it has run."""
        with contextlib.suppress(ApiError, EngineUnavailable):
            for pod in made:
                await self._api.delete(pod.path, uid=pod.uid)
                await self._keeper.let_go(pod)
            if for_good:
                await self._api.delete(record.path, uid=record.uid)
                self._seen.records.drop(f"{record.namespace}/{record.name}")


def _is_known(record: Record) -> bool:
    return record.is_made or record.stop is not None or record.verdict is not None
