"""What a list-and-watch of a cluster shows, kept up to date in the background.

The engine asks the cluster nothing while it observes: it looks into mirrors. A mirror keeps of each object only what
`reduce` makes of it, so that tens of thousands of Pods fit. Versions (`resourceVersion`) are numbers that only grow
(Kubernetes says so since 1.35, and has kept it always): they order what the watch tells and what our own writes were
answered.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import structlog

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import ApiError, Gone, said_no
from dujiang.kit.clock import Clock

T = TypeVar("T")
_log = structlog.get_logger()

RESYNC_S = 600.0
"""After about so long all is listed anew: what a watch lost without a word is found then."""
_BACKOFF_S = (0.5, 10.0)
"""Pause after the first failure, doubled with each further one up to the second figure."""
_TOLD_AFTER_S = 5.0
"""A watch that is made anew at once is no trouble."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    version: int
    value: T | None
    """None: not of interest, or what it is cannot be told."""
    broken: bool = False


class Mirror(Generic[T]):
    """What a list-and-watch shows, kept up to date in the background: reduce keeps only what is needed of each object.

    Args:
        reduce: what to keep of an object; None leaves it out. An object that it fails on is logged and left as it was.
        stale_after_s: for how long a broken watch may go on telling what it last saw.
        told: called at each change with what was kept of an object before and what is now; None: nothing.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        reduce: Callable[[dict[str, Any]], T | None],
        *,
        labels: str = "",
        fields: str = "",
        clock: Clock,
        stale_after_s: float,
        told: Callable[[T | None, T | None], None] | None = None,
    ) -> None:
        self._api, self._path, self._labels, self._fields = api, path, labels, fields
        self._reduce, self._clock, self._stale_after_s = reduce, clock, stale_after_s
        self._told = told
        self.version = 0
        """Goes up with each change."""
        self._kept: dict[str, _Kept[T]] = {}
        self._values: dict[str, T] = {}
        """What is kept, beside its version: copied whole in a tenth of the time that picking it out takes."""
        self._dropped: dict[str, int] = {}
        self._seen = 0
        """All that happened up to this version of the cluster has been told."""
        self._listed = False
        self._broken: tuple[float, str] | None = None
        self._failures = 0
        self._news = asyncio.Event()
        self._shown: tuple[int, Mapping[str, T]] = (-1, {})
        self._task: asyncio.Task[None] | None = None
        # Mirrors and platforms of one cluster do not list all at once: spread by what they look at.
        self._resync_s = RESYNC_S * (0.8 + 0.4 * (zlib.crc32(f"{path}?{labels}{fields}".encode()) % 1000) / 1000)

    async def fresh(self) -> Mapping[str, T]:
        """Return what is there now, by `namespace/name`, or by name what has no namespace. It does not change any more.

        Raises:
            EngineUnavailable: as `ready`.
        """
        await self.ready()
        if self._shown[0] != self.version:
            self._shown = (self.version, MappingProxyType(self._values.copy()))
        return self._shown[1]

    async def find(self, key: str) -> T | None:
        """Return one of what is there now, None where it is not. Costs the same however many there are.

        Raises:
            EngineUnavailable: as `ready`.
        """
        await self.ready()
        return self._values.get(key)

    def peek(self, key: str) -> T | None:
        """Return one of what was there when it was last looked, whether or not that is long ago."""
        return self._values.get(key)

    async def ready(self) -> None:
        """Start the watch at the first call, and wait for its first list.

        Raises:
            EngineUnavailable: nothing could be listed yet, or the watch has been broken for too long.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"mirror {self._path}")
        while not self._listed:
            if self._broken:
                raise EngineUnavailable(self._broken[1])
            await self._news.wait()
        if self._broken and self._clock.monotonic_s() - self._broken[0] > self._stale_after_s:
            raise EngineUnavailable(self._broken[1])

    def put(self, obj: dict[str, Any], value: T | None = None) -> None:
        """Show what one of our own writes was answered, at once; never over what is newer, nor after its deletion.

        Args:
            obj: the object.
            value: what is to be kept of it, where that is known; None reduces it.
        """
        key, version = _key(obj), _number(obj["metadata"].get("resourceVersion"))
        if version > max(self._seen, self._newest(key)):
            kept = self._keep(obj) if value is None else _Kept(version, value)
            if not kept.broken:
                self._set(key, kept)

    def drop(self, key: str) -> None:
        """Show an object that we deleted no longer; should it live on, the watch shows it again."""
        before = self._kept.pop(key, None)
        self._dropped[key] = max(self._seen, before.version if before else 0)
        if before:
            self._changed(key, None)

    def trouble(self) -> str:
        """Say that the watch is broken, once it has been so for some seconds; empty when it is not."""
        if self._broken is None or self._clock.monotonic_s() - self._broken[0] < _TOLD_AFTER_S:
            return ""
        return f"What is seen of {self._path} grows old, {self._stale_after_s:g} s at most: {self._broken[1]}"

    async def wait(self, version: int, timeout_s: float) -> bool:
        """Wait until there is a later version than this one; False when there is none after that many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.version <= version:
                    await self._news.wait()
        return self.version > version

    async def close(self) -> None:
        """Stop watching."""
        task, self._task = self._task, None
        while task and not task.done():  # a cancel was seen to get lost while a connection was being made anew
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)

    async def _run(self) -> None:
        due_s = 0.0
        while True:
            try:
                if not self._listed or self._clock.monotonic_s() >= due_s:
                    await self._list()
                    due_s = self._clock.monotonic_s() + self._resync_s
                await self._watch(timeout_s=max(1, int(due_s - self._clock.monotonic_s())))
            except Gone:
                due_s = 0.0
            except Exception as error:  # whatever it is, the next round may do better, and `fresh` tells of it
                await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        since = self._broken[0] if self._broken else self._clock.monotonic_s()
        if isinstance(error, ApiError):
            error = said_no(error, f"watch {self._path}")
        known = isinstance(error, EngineUnavailable)
        sentence = str(error) if known else f"What {self._path} shows cannot be read ({error!r}); see the log."
        if self._broken is None or self._broken[1] != sentence:
            _log.warning("watch_broken", path=self._path, error=sentence, exc_info=None if known else error)
        self._broken = (since, sentence)
        self._failures += 1
        self._wake()
        await self._clock.sleep(min(_BACKOFF_S[0] * 2.0 ** (self._failures - 1), _BACKOFF_S[1]))

    def _works(self) -> None:
        if self._broken:
            _log.info("watch_works", path=self._path)
        self._broken, self._failures = None, 0

    async def _list(self) -> None:
        dropped = dict(self._dropped)
        found, version = await self._api.list(self._path, self._entry, labels=self._labels, fields=self._fields)
        before, seen = self._kept, _number(version)
        if seen < self._seen:  # a cluster put back from an older copy counts from there: nothing of before holds
            before, self._dropped = {}, {}
        # What was dropped while the list was read may still be in it; of what was dropped before, the list knows more.
        self._dropped = {key: at for key, at in self._dropped.items() if at > seen or dropped.get(key) != at}
        now = {key: kept for key, kept in before.items() if kept.version > seen}
        for key, kept in found:
            last = before.get(key)
            if kept.broken:
                if last:
                    now[key] = last
            elif kept.version > self._dropped.get(key, -1) and not (last and last.version > kept.version):
                now[key] = kept
        old = self._kept
        self._kept, self._seen, self._listed = now, seen, True
        self._works()
        for key in [key for key in old if key not in now]:
            self._changed(key, None)
        for key, kept in now.items():
            if key not in old or old[key].version != kept.version:
                self._changed(key, kept.value)
        self._wake()

    async def _watch(self, timeout_s: int) -> None:
        events = self._api.watch(
            self._path,
            version=str(self._seen),
            labels=self._labels,
            fields=self._fields,
            timeout_s=timeout_s,
            opened=self._works,
        )
        async with aclosing(events):
            async for kind, obj in events:
                self._tell(kind, obj)

    def _tell(self, kind: str, obj: dict[str, Any]) -> None:
        self._seen = max(self._seen, _number(obj["metadata"].get("resourceVersion")))
        if kind == "BOOKMARK":
            self._dropped = {key: at for key, at in self._dropped.items() if at > self._seen}
            return
        key = _key(obj)
        if kind == "DELETED":
            before = self._kept.get(key)
            if before and before.version <= self._seen:
                del self._kept[key]
                self._changed(key, None)
            return
        if _number(obj["metadata"].get("resourceVersion")) > self._newest(key):  # else it is one of our own writes
            kept = self._keep(obj)
            if not kept.broken:
                self._set(key, kept)

    def _newest(self, key: str) -> int:
        """Return the latest version that is known of an object, alive or not."""
        before = self._kept.get(key)
        return max(self._dropped.get(key, 0), before.version if before else 0)

    def _set(self, key: str, kept: _Kept[T]) -> None:
        self._dropped.pop(key, None)
        if kept.value is not None:
            self._kept[key] = kept
        else:  # not of interest: no room is spent on it but for what an older answer of ours must not bring back
            if kept.version > self._seen:
                self._dropped[key] = kept.version
            if self._kept.pop(key, None) is None:
                return
        self._changed(key, kept.value)

    def _entry(self, obj: dict[str, Any]) -> tuple[str, _Kept[T]] | None:
        kept = self._keep(obj)
        return (_key(obj), kept) if kept.broken or kept.value is not None else None

    def _keep(self, obj: dict[str, Any]) -> _Kept[T]:
        version = _number(obj["metadata"].get("resourceVersion"))
        try:
            return _Kept(version, self._reduce(obj))
        except Exception:  # one object that nobody thought of must not hide all others
            _log.exception("object_not_understood", path=self._path, object=_key(obj))
            return _Kept(version, None, broken=True)

    def _changed(self, key: str, value: T | None) -> None:
        before = self._values.get(key)
        if value is not None:
            self._values[key] = value
        elif before is not None:
            del self._values[key]
        self.version += 1
        if self._told:
            self._told(before, value)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _key(obj: Mapping[str, Any]) -> str:
    """Return `namespace/name`, or the name of what has no namespace."""
    told = obj["metadata"]
    return f"{told['namespace']}/{told['name']}" if told.get("namespace") else str(told["name"])


def _number(version: str | None) -> int:
    return int(version) if version and version.isdecimal() else 0
