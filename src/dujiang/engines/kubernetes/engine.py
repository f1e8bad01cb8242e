"""The Kubernetes engine: each attempt a group of Pods, pinned to the nodes that the platform chose.

What an attempt is stands in its record, the Pod of its first rank (`records`); what its Pods do is seen in a mirror
(`observing`) and judged by tables (`words`). What follows from it, without anybody asking, is carried out by `keeping`.
So an attempt runs at most once, also when an answer of the API server was lost, and ends the same for every platform
that looks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from dujiang.engines.contract import (
    AttemptKey,
    Capabilities,
    End,
    EngineRefused,
    EngineUnavailable,
    Isolation,
    Launch,
    LogChunk,
    NodeFacts,
    Observation,
    Phase,
    Usage,
)
from dujiang.engines.kubernetes import planning, runner
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.clearing import Clearing
from dujiang.engines.kubernetes.closing import Closer
from dujiang.engines.kubernetes.environment import LIMITS
from dujiang.engines.kubernetes.errors import ApiError, Forbidden, said_no
from dujiang.engines.kubernetes.keeping import Keeper
from dujiang.engines.kubernetes.namespaces import may_work
from dujiang.engines.kubernetes.observing import Observer
from dujiang.engines.kubernetes.output import Output
from dujiang.engines.kubernetes.planning import Sight
from dujiang.engines.kubernetes.probing import Probe
from dujiang.engines.kubernetes.records import Record, Stop
from dujiang.engines.kubernetes.results import Results
from dujiang.engines.kubernetes.seeing import Pod
from dujiang.engines.kubernetes.serving import Services
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.kubernetes.stock import Stock
from dujiang.engines.kubernetes.submitting import Submitter
from dujiang.engines.kubernetes.sweeping import Sweeper
from dujiang.kit.clock import Clock, to_micros

_AT_ONCE: Final = 16
_OUTPUT_WITHIN_US: Final = 300_000_000
"""How long after its end the output of a rank is waited for before it is forgotten without."""


class KubernetesEngine(Results):
    """Runs attempts on a Kubernetes cluster. Use from one event loop; `changed` from one waiter."""

    kind: ClassVar[str] = "kubernetes"

    def __init__(
        self, settings: KubernetesSettings, *, clock: Clock, archive: Path, mark: str, api: Api | None = None
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: of the cluster.
            clock: of the platform.
            archive: folder for output that was read; its own.
            mark: tells what this platform made from what others did; a label's value.
            api: by which the cluster is asked; None makes one of the settings.
        """
        self._settings, self._clock = settings, clock
        self._api = api = api or Api(settings, clock=clock)
        self._probe = Probe(api, clock)
        self._stock = Stock(api, settings, clock=clock, mark=mark)
        self._closer = Closer(api, self._stock.nodes)
        self._seen = Observer(api, self._stock.nodes, settings, clock=clock, mark=mark)
        self._output = Output(api, archive, clock=clock, every_s=settings.watch_s, mark=mark)
        self._clearing = Clearing(archive, mark, clock, kept_days=settings.output_days)
        self._keeper = Keeper(api, self._seen, self._output, settings, clock=clock, mark=mark)
        self._submitter = Submitter(api, self._stock, self._seen, self._keeper, settings, mark=mark)
        self._sweeper = Sweeper(api, mark, clock)
        self._services = Services(api, mark, clock)

    # -- what there is ------------------------------------------------------------------------------------------------

    async def capabilities(self) -> Capabilities:
        """Say what Kubernetes holds Pods to, and what this account may not do."""
        best = Isolation.COUNTED_ONLY
        with contextlib.suppress(EngineUnavailable):
            found = [device.isolation for node in await self.inventory() for device in node.devices]
            best = min(found, key=list(Isolation).index, default=best)
        version = ""
        with contextlib.suppress(EngineUnavailable, ApiError):
            version = await self._api.version()
        return Capabilities(
            kind=self.kind, version=version, limits=Isolation.ENFORCED, limits_by=LIMITS, device_isolation=best,
            stacks_ranks=True, images="kubernetes", missing=(*self._closer.missing, *await self._missing()),
        )  # fmt: skip

    async def _missing(self) -> list[str]:
        found: list[str] = []
        if self._services.forbidden:
            found.append("the account may not list Services: those of services that have ended stay")
        try:
            if self._keeper.may_not_exec or not await may_work(self._api, "create", "pods", subresource="exec"):
                found.append("the account may not `exec` into Pods: stops are as coarse as the kubelet's, signals fail")
            if self._settings.queue:
                await self._seen.queue.look()
                found += filter(None, [self._seen.queue.missing])
            if not await self._api.may("patch", "nodes"):
                found.append("the account may not change nodes: what is closed here stays open to others")
        except (ApiError, EngineUnavailable):
            pass
        return found

    async def inventory(self) -> Sequence[NodeFacts]:
        """Return the nodes of the cluster, less what Pods of others hold."""
        await self._probe.check()  # the mirrors would go on telling for a while
        await self._seen.known()  # without which nothing can be put there
        return await self._stock.facts(self._closer.closed, await self._seen.holding())

    def trouble(self) -> str:
        """Say what is the matter though the cluster answers: not ready, a watch broken, Pods that run past Kueue."""
        return self._probe.trouble or self._seen.trouble() or self._stock.trouble() or self._seen.queue.passed

    async def attempts(self) -> Sequence[AttemptKey]:
        """Return every attempt that has a record and is not forgotten; what is of none is swept beside."""
        known = await self._known()
        self._clearing.look(known.keys())
        await self._services.sweep(self._known)
        return sorted(known)

    # -- start and look -----------------------------------------------------------------------------------------------

    async def submit(self, launch: Launch) -> None:
        """Make the Pods of an attempt, the first of which is its record; what is half made already is gone on with."""
        self._keeper.start()
        await self._submitter.submit(launch, self._closer.closed)

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Return what records and Pods say of these attempts; of one that has just ended, its end is written first."""
        self._keeper.start()
        found, over = await self._seen.look(keys)
        room = asyncio.Semaphore(_AT_ONCE)

        async def conclude(sight: Sight) -> Record | None:
            async with room:
                return await self._keeper.conclude(sight)

        for now in await asyncio.gather(*map(conclude, over)):
            if now is not None and now.verdict is not None:
                found[now.key] = planning.ended(now)
        return found

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return which of these attempts run; nothing measures what they use."""
        now = self._clock.now()
        seen = await self.observe(keys)
        return {key: Usage(key, now) for key, one in seen.items() if one.phase is Phase.RUNNING}

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Yield a rank's output, from what was read before and what the node has since."""

        async def bring() -> bool:
            record = (await self._known()).get(key)
            if record is None or rank >= record.ranks:
                return True
            pod = self._seen.peek(key)[1][rank]
            if pod is not None:
                await self._output.pull(record, rank, pod)
            return record.verdict is not None

        async for chunk in self._output.chunks(key, rank, offset, follow=follow, bring=bring):
            yield chunk

    async def changed(self, timeout_s: float) -> bool:
        """Wait until a record or a Pod of ours is another."""
        self._keeper.start()
        return await self._seen.changed(timeout_s)

    # -- change -------------------------------------------------------------------------------------------------------

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Have the runners send a signal to the programs."""
        if not 1 <= number <= 64:
            raise EngineRefused(f"There is no signal {number}.")
        record = (await self._known()).get(key)
        if record is None or record.verdict is not None:
            return
        pods = self._seen.peek(key)[1]
        running = [pod for pod in pods if pod is not None and pod.box.state == "running"]
        command = runner.ask("signal", str(number))
        try:
            await asyncio.gather(*(self._keeper.ask(pod, command) for pod in running))
        except Forbidden as error:
            raise said_no(error, "exec into Pods") from error

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Write down that an attempt is to end; its runners are told, and what has not started is deleted."""
        async with self._submitter.apart.hold(key):
            record = (await self._known()).get(key)
            if record is None or record.verdict is not None:
                return
            grace = float(record.launch["grace_s"]) if grace_s is None else max(0.0, grace_s)
            now_us = to_micros(self._clock.now())
            await self._keeper.stop(record, Stop("asked", now_us, now_us + int(grace * 1e6)))
        self._keeper.see_to(key)

    async def cordon(self, node: str, reason: str) -> None:
        """Close a node to everybody's new work, or to ours alone where this account may not."""
        await self._closer.cordon(node, reason)

    async def uncordon(self, node: str) -> None:
        """Open a node again that we closed."""
        await self._closer.uncordon(node)

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Close a node and begin to stop what is ours on it."""

        async def stop(name: str) -> None:
            known = await self._known()
            pods = await self._seen.pods.fresh()
            there = {pod.key for pod in pods.values() if pod.node == name}
            for key, record in known.items():
                if record.verdict is None and (str(key) in there or name in record.launch["nodes"]):
                    await self.cancel(key, grace_s=grace_s)

        await self._closer.drain(node, reason, stop)

    async def forget(self, key: AttemptKey) -> None:
        """Read the output that is still on the nodes, leave a tombstone of an ended attempt, and take away the rest."""
        record = (await self._known()).get(key)
        if record is None or record.verdict is None:
            return
        pods = [pod for pod in self._seen.peek(key)[1] if pod is not None]
        await asyncio.gather(*(self._save_output(record, pod) for pod in pods))
        try:
            await self._keeper.bury(record)  # before anything goes: from now on nothing can bring the attempt back
            await self._take_away(record, pods)
        except ApiError as error:
            raise said_no(error, f"take away what was made for {key}") from error
        await self._sweeper.sweep()

    async def _save_output(self, record: Record, pod: Pod) -> None:
        assert record.verdict is not None
        age_us = to_micros(self._clock.now()) - int(record.verdict["at_us"])
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._output.pull(record, pod.rank, pod)
        except ApiError:
            return  # the cluster has it no more
        except (EngineUnavailable, TimeoutError) as error:
            if record.verdict["end"] == End.NODE_LOST or age_us > _OUTPUT_WITHIN_US:
                return
            raise EngineUnavailable(f"The output of {record.key} cannot be read now: {error}") from error

    async def _take_away(self, record: Record, pods: Sequence[Pod]) -> None:
        base = f"/api/v1/namespaces/{record.namespace}"
        if record.launch["has_secrets"]:
            await self._api.delete(f"{base}/secrets/{record.name}")
        if record.launch["has_service"]:
            await self._api.delete(f"{base}/services/{record.name}")
        for pod in reversed(pods):  # the record last: it tells the keeper of another platform what is left to do
            if pod.deleted_us is None:
                await self._api.delete(pod.path, uid=pod.uid, grace_s=None if not pod.is_over else 0)
            if pod.is_kept:
                await self._keeper.let_go(pod)
            self._seen.pods.drop(f"{pod.namespace}/{pod.name}")

    async def close(self) -> None:
        """Let go of connections; what runs goes on."""
        await self._clearing.close()
        await self._keeper.close()
        await self._seen.close()
        await self._stock.close()
        await self._api.close()

    # -- helpers ------------------------------------------------------------------------------------------------------

    async def _known(self) -> Mapping[AttemptKey, Record]:
        self._keeper.start()
        return await self._seen.known()
