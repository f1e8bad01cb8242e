"""Carries out what `planning` says of attempts, as soon as anything about them changes and without being asked.

One task looks at what has changed, and one for each attempt acts. All of it is level-triggered: a step that fails is
found again at the next look, also by another platform or after a restart. What only time brings (a start that does not
come, a stop that is overdue) is found by looking again every `_LOOK_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import structlog

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable
from dujiang.engines.kubernetes import planning, records, runner
from dujiang.engines.kubernetes.apart import Apart
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, Conflict, Forbidden, NotFound, said_no
from dujiang.engines.kubernetes.observing import Observer
from dujiang.engines.kubernetes.output import Output
from dujiang.engines.kubernetes.planning import Delete, GiveUp, Go, Sight, Tell, Ungate
from dujiang.engines.kubernetes.records import Record, Stop, name_of, reduce_record
from dujiang.engines.kubernetes.seeing import CONTAINER, GATE, KEEP, Pod
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock

_log = structlog.get_logger()
_LOOK_S: Final = 5.0
_AT_ONCE: Final = 32
"""Attempts that are acted on at one time."""
_TRIES: Final = 8
"""How often a change of a record that others were quicker with is tried."""
_EXEC_S: Final = 10.0
_LOG_S: Final = 10.0
"""How long the output of a Pod that is going away is waited for."""
_REST_S: Final = 2.0
"""Before a Pod whose runner could not be told is told again."""


class Keeper:
    """Keeps attempts going the way that was decided."""

    def __init__(self, api: Api, seen: Observer, output: Output, settings: KubernetesSettings, *, clock: Clock) -> None:
        self._api, self._seen, self._output, self._settings, self._clock = api, seen, output, settings, clock
        self._apart: Apart[AttemptKey] = Apart()
        self._told: dict[str, tuple[str, int]] = {}
        self.may_not_exec = False
        """The cluster has refused it."""
        self._rests: dict[str, float] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[AttemptKey, asyncio.Task[None]] = {}
        self._again: set[AttemptKey] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where it has not begun yet."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="kubernetes keeper")

    async def close(self) -> None:
        """End; what was not done is done by the next one."""
        tasks = [task for task in (self._task, *self._tasks.values()) if task is not None]
        self._task, self._tasks = None, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- when to look -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        looked_s = -1e9
        while True:
            try:
                versions = self._seen.records.version, self._seen.pods.version
                everything = self._clock.monotonic_s() - looked_s >= _LOOK_S
                for key in await self._changed(everything=everything, is_first=looked_s < 0):
                    self.see_to(key)
                if everything:
                    looked_s = self._clock.monotonic_s()
                await self._wait(versions, max(0.05, looked_s + _LOOK_S - self._clock.monotonic_s()))
            except EngineUnavailable:
                await self._clock.sleep(1.0)
            except Exception:  # the next look may do better
                _log.exception("keeper_failed")
                await self._clock.sleep(1.0)

    async def _wait(self, versions: tuple[int, int], timeout_s: float) -> None:
        waits = [
            asyncio.ensure_future(self._seen.records.wait(versions[0], timeout_s)),
            asyncio.ensure_future(self._seen.pods.wait(versions[1], timeout_s)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _changed(self, *, everything: bool, is_first: bool) -> list[AttemptKey]:
        """Return the attempts of which anything is another than at the last look, and all that time may change."""
        changed = await self._seen.news()
        if not everything:
            return changed
        known, pods = await self._seen.known(), await self._seen.pods.fresh()
        now_us, wait_us = self._seen.now_us(), int(self._settings.gang_start_s * 1e6)
        waits = [key for key, record in known.items() if not _rests(record, pods, now_us, wait_us)]
        goes = [AttemptKey.parse(pod.key) for pod in pods.values() if _goes(pod)]
        return list(dict.fromkeys([*waits, *goes, *(() if is_first else changed)]))

    def see_to(self, key: AttemptKey) -> None:
        """Act on an attempt soon; once more where that is under way."""
        if key in self._tasks:
            self._again.add(key)
            return
        task = self._tasks[key] = asyncio.create_task(self._see_to(key), name=f"kubernetes {key}")
        task.add_done_callback(lambda _: self._done(key))

    def _done(self, key: AttemptKey) -> None:
        self._tasks.pop(key, None)
        if key in self._again and self._task is not None:
            self._again.discard(key)
            self.see_to(key)

    async def _see_to(self, key: AttemptKey) -> None:
        try:
            async with self._room, self._apart.hold(key):
                record = await self._seen.record(key)
                if record is None:
                    await self._clear_orphans(key)
                elif record.verdict is not None:
                    await self._let_go(record)
                elif (sight := await self._seen.see(record)) is not None:
                    if sight.is_over:
                        await self._conclude(sight)
                    else:
                        await self._carry_out(sight)
        except (EngineUnavailable, ApiError) as error:
            _log.info("attempt_not_seen_to", attempt=str(key), error=str(error))
        except Exception:
            _log.exception("attempt_not_seen_to", attempt=str(key))

    # -- the end ------------------------------------------------------------------------------------------------------

    async def conclude(self, sight: Sight) -> Record | None:
        """Write down how an attempt ended that is over; return its record, None when that is gone.

        Raises:
            EngineUnavailable: it cannot be written now.
        """
        key = sight.record.key
        async with self._apart.hold(key):
            record = await self._seen.record(key)
            if record is None or record.verdict is not None:
                return record
            return await self._conclude(sight)

    async def _conclude(self, sight: Sight) -> Record | None:
        going = [
            pod for rank, pod in sight.pods.items()
            if pod.deleted_us is not None and sight.ends[rank].end is not End.NODE_LOST
        ]  # fmt: skip
        await asyncio.gather(*(self._save_output(sight.record, pod) for pod in going))  # it goes with the Pod
        for pod in sight.pods.values():
            self._told.pop(pod.uid, None)
            self._rests.pop(pod.uid, None)
        verdict = planning.decide(sight, now_us=self._seen.now_us())
        if verdict["end"] not in ("Exited", "Signaled", "Stopped", "OutOfMemory", "SetupFailed"):
            verdict["evidence"] += await self._events(sight)
        return await self.change(
            sight.record, lambda record: None if record.verdict is not None else records.judged(record, verdict)
        )

    async def _events(self, sight: Sight) -> list[list[Any]]:
        """Return what the cluster's events say of the Pods of an attempt that ended oddly."""
        found: list[list[Any]] = []
        for pod in list(sight.pods.values())[:8]:
            with contextlib.suppress(ApiError, EngineUnavailable):
                told, _ = await self._api.list(
                    f"/api/v1/namespaces/{pod.namespace}/events", lambda event: event,
                    fields=f"involvedObject.uid={pod.uid}",
                )  # fmt: skip
                warnings = [event for event in told if event.get("type") == "Warning"]
                for event in warnings[-5:]:
                    said = f"{event.get('reason', '')}: {event.get('message', '')}"[:500]
                    found.append(["engine", f"rank {pod.rank}: {said}", None])
        return found

    async def change(self, record: Record, change: Any) -> Record | None:
        """Change a record as long as others are quicker; return what it is then, None when it is gone.

        Args:
            record: as it was seen.
            change: returns the merge patch for a version of it; None leaves it as it is.

        Raises:
            EngineUnavailable: it cannot be written now.
        """
        for _ in range(_TRIES):
            wanted = change(record)
            if wanted is None:
                return record
            try:
                found = await self._api.patch(record.path, wanted)
            except NotFound:
                return None
            except Conflict:
                try:
                    found = await self._api.get(record.path)
                except NotFound:
                    return None
                except ApiError as error:
                    raise said_no(error, f"read {record.path}") from error
                newer = reduce_record(found)
                if newer is None or newer.is_forgotten or newer.uid != record.uid:
                    return None
                record = newer
                continue
            except ApiError as error:
                raise said_no(error, f"write {record.path}") from error
            self._seen.records.put(found)
            return reduce_record(found)
        raise EngineUnavailable(f"Others change {record.path} all the time; try again.")

    async def _let_go(self, record: Record) -> None:
        """Let Pods that somebody deleted go, now that their end is known."""
        for rank in range(record.ranks):
            pod = await self._seen.pods.find(f"{record.namespace}/{record.pod(rank)}")
            if pod is None:
                continue
            if pod.deleted_us is not None and pod.is_kept:
                await self.let_go(pod)
            elif pod.deleted_us is None and not pod.is_over and record.stop is not None:
                await self.delete(record, pod, 1)  # made while another platform stopped what was not there yet

    async def let_go(self, pod: Pod) -> None:
        """Take our finalizer off a Pod.

        Raises:
            ApiError, EngineUnavailable: the cluster says no, or nothing.
        """
        change = {"metadata": {"uid": pod.uid, "$deleteFromPrimitiveList/finalizers": [KEEP]}}
        with contextlib.suppress(NotFound, Conflict):
            self._seen.pods.put(await self._api.patch(pod.path, change, kind="strategic"))

    async def _clear_orphans(self, key: AttemptKey) -> None:
        """Take away Pods whose record somebody deleted, or that was forgotten in between."""
        for pod in [pod for pod in (await self._seen.pods.fresh()).values() if pod.key == str(key)]:
            path = f"/api/v1/namespaces/{pod.namespace}/configmaps/{name_of(key)}"
            try:
                record = reduce_record(await self._api.get(path))
            except NotFound:
                record = None
            if record is not None and not record.is_forgotten:
                continue
            if pod.deleted_us is None:
                await self._api.delete(pod.path, uid=pod.uid)
            if pod.is_kept and (pod.is_over or not pod.node):
                await self.let_go(pod)

    # -- on the way ---------------------------------------------------------------------------------------------------

    async def made(self, record: Record) -> Record:
        """Write down that all Pods of an attempt were made; return its record.

        Raises:
            EngineUnavailable: it is gone, or cannot be written now.
        """
        now = await self.change(
            record, lambda now: None if now.is_made or now.stop or now.verdict else records.made(now)
        )
        if now is None:
            raise EngineUnavailable(f"The record of {record.key} was deleted while its Pods were being made.")
        return now

    async def _carry_out(self, sight: Sight) -> None:
        if sight.record.ranks == 1 and sight.started_us is not None:
            await self.made(sight.record)
        wait_us = int(self._settings.gang_start_s * 1e6)
        steps = planning.steps(sight, now_us=self._seen.now_us(), wait_us=wait_us)
        room = asyncio.Semaphore(_AT_ONCE)

        async def do(step: planning.Step) -> None:
            async with room:
                await self._do(sight.record, step)

        done = await asyncio.gather(*map(do, steps), return_exceptions=True)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def _do(self, record: Record, step: planning.Step) -> None:
        match step:
            case Ungate(pod):
                await self._ungate(pod)
            case Tell(pod, cause, deadline_us):
                await self._tell_to_stop(pod, cause, deadline_us)
            case Go(pod):
                await self._tell(pod, ("go", 0), runner.ask("go"))
            case Delete(pod, grace_s):
                await self.delete(record, pod, grace_s)
            case GiveUp(why):
                now_us = self._seen.now_us()
                await self.stop(record, Stop("start", now_us, now_us, why))

    async def _ungate(self, pod: Pod) -> None:
        change = {"metadata": {"uid": pod.uid}, "spec": {"schedulingGates": [{"$patch": "delete", "name": GATE}]}}
        with contextlib.suppress(NotFound, Conflict):
            self._seen.pods.put(await self._api.patch(pod.path, change, kind="strategic"))

    async def stop(self, record: Record, stop: Stop) -> Record | None:
        """Write down that an attempt is to end; one that was asked before counts, with the earlier end of both.

        Raises:
            EngineUnavailable: it cannot be written now.
        """

        def change(now: Record) -> dict[str, Any] | None:
            wanted = stop.sooner(now.stop)
            return None if now.verdict is not None or wanted == now.stop else records.stopped(now, wanted)

        return await self.change(record, change)

    async def _tell_to_stop(self, pod: Pod, cause: str, deadline_us: int) -> None:
        grace_s = max(0.0, (deadline_us - self._seen.now_us()) / 1e6)
        await self._tell(pod, (cause, deadline_us), runner.stop(cause, grace_s))

    async def _tell(self, pod: Pod, what: tuple[str, int], command: list[str]) -> None:
        """Tell a runner something once; again later where it could not be told."""
        if self._told.get(pod.uid) == what or self._clock.monotonic_s() < self._rests.get(pod.uid, 0.0):
            return
        try:
            if await self.ask(pod, command):
                self._told[pod.uid] = what
                self._rests.pop(pod.uid, None)
                return
        except Forbidden:  # the kubelet then tells it itself
            if what[0] != "go" and pod.deleted_us is None:
                await self._api.delete(pod.path, uid=pod.uid)
            return
        except EngineUnavailable as error:
            _log.info("runner_not_told", pod=pod.path, error=error.sentence)
        self._rests[pod.uid] = self._clock.monotonic_s() + _REST_S

    async def ask(self, pod: Pod, command: list[str]) -> bool:
        """Run a command beside a runner; False where its container does not run (any more).

        Raises:
            Forbidden: the platform's account may not.
            EngineUnavailable: the node does not answer.
        """
        try:
            code, _, _ = await self._api.exec(pod.namespace, pod.name, CONTAINER, command, timeout_s=_EXEC_S)
        except Forbidden:
            self.may_not_exec = True
            raise
        except ApiError:
            return False
        self.may_not_exec = False
        return code == 0

    async def delete(self, record: Record, pod: Pod, grace_s: int) -> None:
        """Delete a Pod, and have its output first where there is any.

        Raises:
            ApiError, EngineUnavailable: the cluster says no, or nothing.
        """
        if pod.box.state == "running":
            await self._save_output(record, pod)
        await self._api.delete(pod.path, uid=pod.uid, grace_s=grace_s)

    async def _save_output(self, record: Record, pod: Pod) -> None:
        if pod.box.started_us is None:
            return
        with contextlib.suppress(EngineUnavailable, ApiError, TimeoutError):
            async with asyncio.timeout(_LOG_S):
                await self._output.pull(record, pod.rank, pod)


def _rests(record: Record, pods: Mapping[str, Pod], now_us: int, wait_us: int) -> bool:
    """Say whether only a change of its record or Pods can give us anything to do for an attempt now."""
    if record.verdict is not None:
        return True
    if record.launch["waits_for_go"] or record.stop is not None:
        return False
    found = [pods.get(f"{record.namespace}/{record.pod(rank)}") for rank in range(record.ranks)]
    own = [pod for pod in found if pod is not None and pod.deleted_us is None]
    if len(own) < record.ranks or any(pod.gates for pod in own):
        return False
    if record.is_made and all(pod.box.state == "running" for pod in own):
        return True
    is_early = not record.launch["queued"] and now_us - int(record.launch["at_us"]) <= wait_us
    return is_early and not any(pod.is_over or pod.box.started_us is not None for pod in own)


def _goes(pod: Pod) -> bool:
    """Say whether a Pod is being deleted and waits for us to let it go."""
    return pod.deleted_us is not None and pod.is_kept
