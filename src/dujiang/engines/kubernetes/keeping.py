"""Carries out what `planning` says of attempts, as soon as anything about them changes and without being asked.

One task looks at what has changed, and one for each attempt acts. All of it is level-triggered: a step that fails is
found again at the next look, also by another platform or after a restart. What only time brings (a start that does not
come, a stop that is overdue) is found by looking again every `_LOOK_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import structlog

from dujiang.engines.contract import AttemptKey, End, EngineUnavailable
from dujiang.engines.kubernetes import planning, records, runner, words
from dujiang.engines.kubernetes.apart import Apart
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import AlreadyExists, ApiError, Conflict, Forbidden, NotFound, said_no
from dujiang.engines.kubernetes.kueue import HOLD
from dujiang.engines.kubernetes.observing import Observer
from dujiang.engines.kubernetes.output import Output
from dujiang.engines.kubernetes.planning import Delete, GiveUp, Go, Sight, Tell, Ungate
from dujiang.engines.kubernetes.records import GATE, KEEP, Record, Stop, name_of, reduce_record
from dujiang.engines.kubernetes.seeing import CONTAINER, Pod
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
_ENDING: Final = "being terminated"
"""What is said of a namespace in which nothing can be made because somebody deletes it."""
_REST_S: Final = 2.0
"""Before a Pod whose runner could not be told is told again."""


class Keeper:
    """Keeps attempts going the way that was decided."""

    def __init__(
        self, api: Api, seen: Observer, output: Output, settings: KubernetesSettings, *, clock: Clock, mark: str
    ) -> None:
        self._mark = mark
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
                versions = self._seen.versions()
                everything = self._clock.monotonic_s() - looked_s >= _LOOK_S
                for key in await self._changed(everything=everything, is_first=looked_s < 0):
                    self.see_to(key)
                if everything:
                    looked_s = self._clock.monotonic_s()
                await self._seen.wait(versions, max(0.05, looked_s + _LOOK_S - self._clock.monotonic_s()))
            except EngineUnavailable:
                await self._clock.sleep(1.0)
            except Exception:  # the next look may do better
                _log.exception("keeper_failed")
                await self._clock.sleep(1.0)

    async def _changed(self, *, everything: bool, is_first: bool) -> list[AttemptKey]:
        """Return the attempts of which anything is another than at the last look, and all that time may change."""
        changed, now_us = await self._seen.news(), self._seen.now_us()
        wait_us = int(self._settings.gang_start_s * 1e6)

        def rests(key: AttemptKey) -> bool:
            record, pods = self._seen.peek(key)
            if record is None:
                return key not in self._seen.vanished and self._seen.is_buried(key)  # whoever buried it clears it
            return _rests(record, pods, now_us, wait_us)

        found = [] if is_first else [key for key in changed if not rests(key)]
        if everything:
            found += [key for key in await self._seen.known() if not rests(key)]
            found += [key for key, pod in await self._seen.by_key() if self._is_stray(key, pod)]
            found += self._seen.vanished
        return list(dict.fromkeys(found))

    def _is_stray(self, key: AttemptKey, pod: Pod) -> bool:
        """Say whether a Pod is to be taken away or let go, whatever its attempt does."""
        record, _ = self._seen.peek(key)
        if record is None or not pod.is_of(record):
            return pod.deleted_us is None or pod.is_kept
        return pod.rank > 0 and pod.deleted_us is not None and pod.is_kept

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
                    await self._clear_up(key)
                    return
                for pod in self._seen.strays(record):
                    await self._clear(pod)
                if record.verdict is not None:
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
            change: returns the strategic patch for a version of it; None leaves it as it is.

        Raises:
            EngineUnavailable: it cannot be written now.
        """
        for _ in range(_TRIES):
            wanted = change(record)
            if wanted is None:
                return record
            try:
                found = await self._api.patch(record.path, wanted, kind="strategic")
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
                if newer is None or newer.uid != record.uid:
                    return None
                record = newer
                continue
            except ApiError as error:
                raise said_no(error, f"write {record.path}") from error
            self._seen.pods.put(found)
            return reduce_record(found)
        raise EngineUnavailable(f"Others change {record.path} all the time; try again.")

    async def _let_go(self, record: Record) -> None:
        """Let Pods that somebody deleted go, now that their end is known; the record stays until it is forgotten."""
        for pod in self._seen.peek(record.key)[1]:
            if pod is None:
                continue
            if pod.deleted_us is not None and pod.is_kept and pod.rank:
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

    async def _clear_up(self, key: AttemptKey) -> None:
        """Take away Pods whose record is gone, and all of an attempt that was forgotten."""
        pods = [pod for pod in (await self._seen.pods.fresh()).values() if pod.key == str(key)]
        is_forgotten = await self._seen.is_forgotten(key)
        if is_forgotten or await self._is_gone(key, pods):
            for pod in pods:
                await self._clear(pod, at_once=is_forgotten)

    async def _clear(self, pod: Pod, *, at_once: bool = False) -> None:
        """Take a Pod away; it is let go when its node has done with it, or at once."""
        if pod.deleted_us is None:
            await self._api.delete(pod.path, uid=pod.uid)
        if pod.is_kept and (pod.is_over or not pod.node or at_once):
            await self.let_go(pod)

    async def _is_gone(self, key: AttemptKey, pods: Sequence[Pod]) -> bool:
        """Say whether the cluster has the record of an attempt no more; that it was made is then written down."""
        vanished = self._seen.vanished.get(key)
        places = [vanished.namespace] if vanished is not None else [pod.namespace for pod in pods]
        if not places:
            return False
        try:
            found = await self._api.get(f"/api/v1/namespaces/{places[0]}/pods/{name_of(key)}-0")
        except NotFound:
            if vanished is not None:
                await self.bury(vanished)
        else:
            self._seen.pods.put(found)
        self._seen.vanished.pop(key, None)
        return self._seen.peek(key)[0] is None

    async def bury(self, record: Record) -> None:
        """Leave the tombstone of an attempt, so that nothing of it is made or run again.

        Raises:
            ApiError, EngineUnavailable: the cluster says no, or nothing.
        """
        path = f"/api/v1/namespaces/{record.namespace}/configmaps"
        try:
            found = await self._api.create(path, records.tombstone(record, self._mark, self._clock.now()))
        except AlreadyExists:  # another platform was quicker
            found = await self._api.get(f"{path}/{record.name}")
        except NotFound:
            return  # its namespace is gone
        except Forbidden as error:
            if _ENDING not in error.message:
                raise
            return  # nothing can be made in its namespace any more, and with it all goes
        self._seen.tombstones.put(found)

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


def _rests(record: Record, pods: Sequence[Pod | None], now_us: int, wait_us: int) -> bool:
    """Say whether only a change of its record or Pods can give us anything to do for an attempt now."""
    own = [pod for pod in pods if pod is not None and pod.deleted_us is None]
    if len(own) < record.ranks:
        return record.verdict is not None and not any(
            pod.rank and pod.is_kept for pod in pods if pod and pod not in own
        )
    if record.verdict is not None:
        return record.stop is None or all(pod.is_over for pod in own)
    if record.launch["waits_for_go"] or record.stop is not None or any(GATE in pod.gates for pod in own):
        return False
    if record.is_made and any(HOLD in pod.gates for pod in own):
        return True  # Kueue may hold it for as long as it likes
    if record.is_made and all(pod.box.state == "running" for pod in own):
        return True
    is_early = not any(pod.is_queued for pod in own) and now_us - int(record.launch["at_us"]) <= wait_us
    return is_early and not any(pod.is_over or pod.box.started_us is not None or words.is_hopeless(pod) for pod in own)
