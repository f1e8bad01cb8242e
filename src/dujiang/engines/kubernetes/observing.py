"""Finds out what attempts do: by a mirror of their Pods, the first of which are their records, without a request each.

Nothing is called lost because a view lags: a Pod that was made and is not shown is asked for by its name before
anything is concluded. A second mirror shows the tombstones, by which what was forgotten is known.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from dujiang.engines.contract import AttemptKey, EngineUnavailable, Observation
from dujiang.engines.kubernetes import planning
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, NotFound, said_no
from dujiang.engines.kubernetes.kueue import Workload
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.nodes import KubeNode
from dujiang.engines.kubernetes.others import ENDED, KubePod
from dujiang.engines.kubernetes.planning import Sight
from dujiang.engines.kubernetes.queueing import Queue
from dujiang.engines.kubernetes.records import FORGOTTEN, MARK, Record, reduce_tombstone
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
        self.tombstones: Mirror[AttemptKey] = Mirror(
            api, "/api/v1/configmaps", reduce_tombstone, labels=f"{ours},{FORGOTTEN}", clock=clock,
            stale_after_s=stale_s, told=self._tombstone_changed,
        )  # fmt: skip
        self.pods: Mirror[Pod] = Mirror(
            api, "/api/v1/pods", reduce_pod, labels=ours, clock=clock, stale_after_s=stale_s, told=self._pod_changed
        )
        self.queue = Queue(api, settings, clock=clock)
        self._by_key: dict[AttemptKey, Record] = {}
        self._version = 0
        """Goes up with each change of a record."""
        self._copied: tuple[int, Mapping[AttemptKey, Record]] = (-1, {})
        self._forgotten: set[AttemptKey] = set()
        self.vanished: dict[AttemptKey, Record] = {}
        """Of attempts that were made and not forgotten: what somebody has taken away, finalizer and all."""
        self._news: dict[AttemptKey, None] = {}
        self._not_there: dict[str, float] = {}
        self._steady: dict[AttemptKey, tuple[Record, list[Pod], Observation, list[Workload | None]]] = {}
        """Of attempts that are seen the same until their record, a Pod or what Kueue says of those is another."""
        self._told = (-1, -1)

    async def known(self) -> Mapping[AttemptKey, Record]:
        """Return the records of all attempts that are not forgotten.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self._ready()
        if self._copied[0] != self._version:
            self._copied = (self._version, self._by_key.copy())
        return self._copied[1]

    async def record(self, key: AttemptKey) -> Record | None:
        """Return the record of an attempt, None where there is none or the attempt is forgotten.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self._ready()
        return self._by_key.get(key)

    async def is_forgotten(self, key: AttemptKey) -> bool:
        """Say whether an attempt was forgotten.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self.tombstones.ready()
        return self.is_buried(key)

    def is_buried(self, key: AttemptKey) -> bool:
        """Say whether an attempt was forgotten when that was last looked at."""
        return key in self._forgotten

    async def news(self) -> list[AttemptKey]:
        """Return the attempts of which anything is another than when this was asked last.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        await self._ready()
        found, self._news = list(self._news), {}
        return found

    def peek(self, key: AttemptKey) -> tuple[Record | None, list[Pod | None]]:
        """Return the record of an attempt and its Pods by rank as they were last seen; None: not there."""
        record = self._by_key.get(key)
        return record, [] if record is None else [self._own(record, rank) for rank in range(record.ranks)]

    def strays(self, record: Record) -> list[Pod]:
        """Return Pods that have the names of an attempt's and belong to one of before."""
        found = [self.pods.peek(f"{record.namespace}/{record.pod(rank)}") for rank in range(1, record.ranks)]
        return [pod for pod in found if pod is not None and not pod.is_of(record)]

    async def by_key(self) -> list[tuple[AttemptKey, Pod]]:
        """Return all Pods that are there, each with the key of its attempt.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        found: list[tuple[AttemptKey, Pod]] = []
        for pod in (await self.pods.fresh()).values():
            with suppress(ValueError):  # somebody has written over our annotation
                found.append((pod.record.key if pod.record else AttemptKey.parse(pod.key), pod))
        return found

    async def holding(self) -> list[KubePod]:
        """Return what Pods of ours that have not ended hold of the devices of their nodes.

        Raises:
            EngineUnavailable: the cluster cannot be looked at.
        """
        return [
            KubePod(pod.namespace, pod.name, pod.node, True, False, slots=pod.slots, kai_group=pod.kai_group)
            for pod in (await self.pods.fresh()).values()
            if (pod.slots or pod.kai_group) and pod.node and pod.phase not in ENDED
        ]

    def _own(self, record: Record, rank: int) -> Pod | None:
        """Return a rank's Pod; none of before that has its name."""
        pod = self.pods.peek(f"{record.namespace}/{record.pod(rank)}")
        return pod if pod is not None and pod.is_of(record) else None

    async def _ready(self) -> None:
        await self.tombstones.ready()  # first: what it shows is not taken for an attempt
        await self.pods.ready()

    def _tombstone_changed(self, before: AttemptKey | None, now: AttemptKey | None) -> None:
        if now is None:
            self._forgotten -= {before} if before is not None else set()
            return
        self._forgotten.add(now)
        self.vanished.pop(now, None)
        if self._by_key.pop(now, None) is not None:
            self._version += 1
        self._news[now] = None

    def _pod_changed(self, before: Pod | None, now: Pod | None) -> None:
        if (pod := now or before) is None:
            return
        with suppress(ValueError):  # somebody has written over our annotation
            self._news[AttemptKey.parse(pod.key)] = None
        record, last = now.record if now else None, before.record if before else None
        if record is not None and record.key not in self._forgotten:
            self._by_key[record.key] = record
            self._version += 1
        elif now is None and last is not None and self._by_key.get(last.key) is last:
            del self._by_key[last.key]
            self._version += 1
            if last.is_made:
                self.vanished[last.key] = last

    async def look(self, keys: Iterable[AttemptKey]) -> tuple[dict[AttemptKey, Observation], list[Sight]]:
        """Return what is seen of attempts, and apart from that those that are over and have no verdict yet.

        Raises:
            EngineUnavailable: the cluster cannot be looked at, or does not answer where it must be asked.
        """
        known = await self.known()
        found, over = dict[AttemptKey, Observation](), list[Sight]()
        for record in [known[key] for key in dict.fromkeys(keys) if key in known]:
            if record.verdict is not None:
                found[record.key] = planning.ended(record)
                continue
            pods = [self._own(record, rank) for rank in range(record.ranks)]
            last = self._steady.get(record.key)
            if last is not None and last[0] is record and all(map(operator.is_, last[1], pods)) and self._holds(last):
                found[record.key] = last[2]
                continue
            is_queued = any(pod is not None and pod.is_queued for pod in pods)
            held = [self.queue.of(pod.uid) for pod in pods if pod is not None] if is_queued else []
            if (sight := await self.see(record)) is None:
                continue
            if sight.is_over:
                over.append(sight)
            else:
                found[record.key] = planning.observation(sight)
                if not sight.ends and all(pod is not None and pod.deleted_us is None for pod in pods):
                    self._steady[record.key] = record, list(sight.pods.values()), found[record.key], held
        if len(self._steady) > 2 * len(known):
            self._steady = {key: last for key, last in self._steady.items() if key in known}
        return found, over

    def _holds(self, last: tuple[Record, list[Pod], Observation, list[Workload | None]]) -> bool:
        """Say whether Kueue still says of Pods what it said."""
        return not last[3] or all(map(operator.is_, last[3], (self.queue.of(pod.uid) for pod in last[1])))

    async def see(self, record: Record) -> Sight | None:
        """Return what is seen of an attempt without a verdict; None where it was never wholly submitted.

        Raises:
            EngineUnavailable: the cluster cannot be looked at, or does not answer where it must be asked.
        """
        await self._nodes.ready()
        await self.pods.ready()
        now_us, pods, missing = self.now_us(), dict[int, Pod](), dict[int, str]()
        for rank in range(record.ranks):
            pod = self._own(record, rank)
            if pod is None and record.is_made:
                pod = await self._ask(record, rank)
                if pod is None:
                    missing[rank] = f"rank {rank}: its Pod is gone from the cluster, and nobody has seen it end"
            if pod is not None:
                pods[rank] = pod
        if not record.is_made:
            if record.stop is not None:
                missing = {rank: f"rank {rank} was never made" for rank in range(record.ranks) if rank not in pods}
            elif now_us - int(record.launch["at_us"]) > _SUBMITTED_US:
                return None

        def is_ready(name: str) -> bool | None:
            node = self._nodes.peek(name)
            if node is not None:
                return node.ready
            return True if self._settings.node_selector else None  # it may be there, and not be shown to us

        if any(pod.is_queued for pod in pods.values()):
            await self.queue.look()
        return planning.see(record, pods, missing, is_ready, now_us, self.queue.of)

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
        pod = reduce_pod(found)
        return pod if pod is not None and pod.is_of(record) else None

    def now_us(self) -> int:
        """Return now in microseconds since 1970."""
        return to_micros(self._clock.now())

    async def changed(self, timeout_s: float) -> bool:
        """Wait until an attempt is another than when this was asked last."""
        with suppress(EngineUnavailable):
            await self._ready()
        if self._told == self.versions():
            await self.wait(self._told, timeout_s)
        before, self._told = self._told, self.versions()
        await asyncio.sleep(0)  # who waits for news in a circle must not keep the others from acting on it
        return before != self._told

    async def wait(self, versions: tuple[int, int], timeout_s: float) -> None:
        """Wait until anything is another than in these versions, or so many seconds have passed."""
        waiting = [
            asyncio.ensure_future(self.pods.wait(versions[0], timeout_s)),
            asyncio.ensure_future(self.tombstones.wait(versions[1], timeout_s)),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def versions(self) -> tuple[int, int]:
        """Return how often anything was another so far."""
        return self.pods.version, self.tombstones.version

    def trouble(self) -> str:
        """Say which watch is broken; empty when none is."""
        return self.pods.trouble() or self.tombstones.trouble()

    async def close(self) -> None:
        """Look no longer."""
        await asyncio.gather(self.pods.close(), self.tombstones.close(), self.queue.close())
