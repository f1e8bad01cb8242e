"""Finds out what an attempt does: by mirrors of its record and of its Pods, without a request for each.

Nothing is called lost because a view lags: a Pod that was made and is not shown is asked for by its name before
anything is concluded.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from dujiang.engines.contract import AttemptKey, EngineUnavailable, Observation
from dujiang.engines.kubernetes import planning
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, NotFound, said_no
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.planning import Sight
from dujiang.engines.kubernetes.records import FORGOTTEN, KIND, MARK, Record, reduce_record
from dujiang.engines.kubernetes.seeing import Pod, reduce_pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock, to_micros

_SUBMITTED_US: Final = 60_000_000
"""For how long an attempt whose Pods are not all there yet may still be in the middle of being submitted."""
_ASK_AGAIN_S: Final = 2.0
"""How long it holds that a Pod was not there when it was asked for."""


class Observer:
    """What is seen of all attempts of one platform in a cluster."""

    def __init__(
        self, api: Api, nodes: Mirror[KubeNode], settings: KubernetesSettings, *, clock: Clock, mark: str
    ) -> None:
        self._api, self._nodes, self._settings, self._clock = api, nodes, settings, clock
        stale_s, ours = settings.stale_after_s, f"{MARK}={mark}"
        self.records: Mirror[Record] = Mirror(
            api, "/api/v1/configmaps", reduce_record, labels=f"{ours},{KIND}=attempt,!{FORGOTTEN}", clock=clock,
            stale_after_s=stale_s, told=self._record_changed,
        )  # fmt: skip
        self.pods: Mirror[Pod] = Mirror(
            api, "/api/v1/pods", reduce_pod, labels=ours, clock=clock, stale_after_s=stale_s, told=self._pod_changed
        )
        self._by_key: dict[AttemptKey, Record] = {}
        self._copied: tuple[int, Mapping[AttemptKey, Record]] = (-1, {})
        self._news: dict[AttemptKey, None] = {}
        self._not_there: dict[str, float] = {}
        self._steady: dict[AttemptKey, tuple[Record, list[Pod], Observation]] = {}
        self._told = (-1, -1)

    async def known(self) -> Mapping[AttemptKey, Record]:
        """Return the records of all attempts that are not forgotten.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self.records.ready()
        if self._copied[0] != self.records.version:
            self._copied = (self.records.version, self._by_key.copy())
        return self._copied[1]

    async def record(self, key: AttemptKey) -> Record | None:
        """Return the record of an attempt, None where there is none.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self.records.ready()
        return self._by_key.get(key)

    async def news(self) -> list[AttemptKey]:
        """Return the attempts of which anything is another than when this was asked last.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self.records.ready()
        await self.pods.ready()
        found, self._news = list(self._news), {}
        return found

    def _record_changed(self, before: Record | None, now: Record | None) -> None:
        if now is not None:
            self._by_key[now.key] = now
            self._news[now.key] = None
        elif before is not None:
            if self._by_key.get(before.key) is before:
                del self._by_key[before.key]
            self._news[before.key] = None

    def _pod_changed(self, before: Pod | None, now: Pod | None) -> None:
        if (pod := now or before) is not None:
            with suppress(ValueError):  # somebody has written over our annotation
                self._news[AttemptKey.parse(pod.key)] = None

    async def look(self, keys: Iterable[AttemptKey]) -> tuple[dict[AttemptKey, Observation], list[Sight]]:
        """Return what is seen of attempts, and apart from that those that are over and have no verdict yet.

        Raises:
            EngineUnavailable: the cluster cannot be looked at, or does not answer where it must be asked.
        """
        known, shown = await self.known(), await self.pods.fresh()
        found, over = dict[AttemptKey, Observation](), list[Sight]()
        for record in [known[key] for key in dict.fromkeys(keys) if key in known]:
            if record.verdict is not None:
                found[record.key] = planning.ended(record)
                continue
            pods = [shown.get(f"{record.namespace}/{record.pod(rank)}") for rank in range(record.ranks)]
            last = self._steady.get(record.key)
            if last is not None and last[0] is record and all(map(operator.is_, last[1], pods)):
                found[record.key] = last[2]
            elif (sight := await self.see(record)) is None:
                continue
            elif sight.is_over:
                over.append(sight)
            else:
                found[record.key] = planning.observation(sight)
                if not sight.ends and all(pod is not None and pod.deleted_us is None for pod in pods):
                    self._steady[record.key] = (record, list(sight.pods.values()), found[record.key])
        if len(self._steady) > 2 * len(known):
            self._steady = {key: last for key, last in self._steady.items() if key in known}
        return found, over

    async def see(self, record: Record) -> Sight | None:
        """Return what is seen of an attempt without a verdict; None where it was never wholly submitted.

        Raises:
            EngineUnavailable: the cluster cannot be looked at, or does not answer where it must be asked.
        """
        await self._nodes.ready()
        now_us, pods, missing = self.now_us(), dict[int, Pod](), dict[int, str]()
        for rank in range(record.ranks):
            pod = await self.pods.find(f"{record.namespace}/{record.pod(rank)}")
            if pod is None and record.is_made:
                pod = await self._ask(record, rank)
                if pod is None:
                    missing[rank] = f"rank {rank}: its Pod is gone from the cluster, and nobody has seen it end"
            if pod is not None:
                pods[rank] = pod
        if not record.is_made and len(pods) < record.ranks:
            if record.stop is not None:
                missing = {rank: f"rank {rank} was never made" for rank in range(record.ranks) if rank not in pods}
            elif now_us - int(record.launch["at_us"]) > _SUBMITTED_US:
                return None

        def is_ready(name: str) -> bool | None:
            node = self._nodes.peek(name)
            if node is not None:
                return node.ready
            return True if self._settings.node_selector else None  # it may be there, and not be shown to us

        return planning.see(record, pods, missing, is_ready, now_us)

    async def _ask(self, record: Record, rank: int) -> Pod | None:
        """Ask for a Pod that the watch does not show."""
        name, now_s = f"{record.namespace}/{record.pod(rank)}", self._clock.monotonic_s()
        if now_s - self._not_there.get(name, -1e9) < _ASK_AGAIN_S:
            return None
        try:
            found = await self._api.get(record.pod_path(rank))
        except NotFound:
            self._not_there[name] = now_s
            return None
        except ApiError as error:
            raise said_no(error, f"read Pod {name}") from error
        self.pods.put(found)
        return reduce_pod(found)

    def now_us(self) -> int:
        """Return now in microseconds since 1970."""
        return to_micros(self._clock.now())

    async def changed(self, timeout_s: float) -> bool:
        """Wait until a record or a Pod is another than when this was asked last."""
        with suppress(EngineUnavailable):
            await asyncio.gather(self.records.fresh(), self.pods.fresh())
        if self._told == self._versions():
            waiting = [
                asyncio.ensure_future(mirror.wait(version, timeout_s))
                for mirror, version in zip(self._mirrors(), self._told, strict=True)
            ]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        before, self._told = self._told, self._versions()
        await asyncio.sleep(0)  # who waits for news in a circle must not keep the others from acting on it
        return before != self._told

    def _mirrors(self) -> Sequence[Mirror[Record] | Mirror[Pod]]:
        return self.records, self.pods

    def _versions(self) -> tuple[int, int]:
        return self.records.version, self.pods.version

    async def close(self) -> None:
        """Look no longer."""
        await asyncio.gather(self.records.close(), self.pods.close())
