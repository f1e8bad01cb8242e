"""An engine whose answers stay away until they are let go, as behind a network that hangs. The engine is real."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

from dujiang.engines.contract import (
    AttemptKey,
    Capabilities,
    Engine,
    Launch,
    LogChunk,
    NodeFacts,
    Observation,
    Usage,
)
from dujiang.engines.outputs import OutputFile

T = TypeVar("T")
LOOKS = ("capabilities", "inventory", "observe", "usage", "attempts")
ACTS = ("submit", "cancel", "signal", "order", "forget", "logs")


class Hanging:
    """Stands before an engine. `before` holds back calls before they take effect, `after` their answers."""

    kind: ClassVar[str] = "hanging"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.before: set[str] = set()
        self.after: set[str] = set()
        self.made: Counter[str] = Counter()
        """Calls that were made, held back or not."""
        self.under_way: Counter[str] = Counter()
        self.most_under_way: Counter[str] = Counter()
        self._gate = asyncio.Event()

    def hang(self, *calls: str) -> None:
        """Hold back these calls, all when none is named, before they take effect."""
        self.before |= set(calls or (*LOOKS, *ACTS))

    def let_go(self) -> None:
        """Let everything through that is held back, and hold back no more."""
        self.before, self.after = set(), set()
        self._gate.set()
        self._gate = asyncio.Event()

    async def _through(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        self.made[call] += 1
        self.under_way[call] += 1
        self.most_under_way[call] = max(self.most_under_way[call], self.under_way[call])
        try:
            if call in self.before:
                await self._gate.wait()
            answer = await ask()
            if call in self.after:
                await self._gate.wait()
            return answer
        finally:
            self.under_way[call] -= 1

    async def capabilities(self) -> Capabilities:
        return await self._through("capabilities", self.engine.capabilities)

    async def inventory(self) -> Sequence[NodeFacts]:
        return await self._through("inventory", self.engine.inventory)

    async def submit(self, launch: Launch) -> None:
        await self._through("submit", lambda: self.engine.submit(launch))

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        return await self._through("observe", lambda: self.engine.observe(keys))

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        return await self._through("usage", lambda: self.engine.usage(keys))

    async def signal(self, key: AttemptKey, number: int) -> None:
        await self._through("signal", lambda: self.engine.signal(key, number))

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        await self._through("cancel", lambda: self.engine.cancel(key, grace_s=grace_s))

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        async def first() -> None:
            return None

        await self._through("logs", first)
        async for chunk in self.engine.logs(key, rank=rank, offset=offset, follow=follow):
            yield chunk

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = 64) -> Sequence[OutputFile]:
        return await self._through("outputs", lambda: self.engine.outputs(key, prefix=prefix, most=most))

    async def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        async def first() -> None:
            return None

        await self._through("output", first)
        async for piece in self.engine.output(key, path, offset=offset, most_bytes=most_bytes):
            yield piece

    async def cordon(self, node: str, reason: str) -> None:
        await self._through("order", lambda: self.engine.cordon(node, reason))

    async def uncordon(self, node: str) -> None:
        await self._through("order", lambda: self.engine.uncordon(node))

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        await self._through("order", lambda: self.engine.drain(node, reason, grace_s=grace_s))

    async def attempts(self) -> Sequence[AttemptKey]:
        return await self._through("attempts", self.engine.attempts)

    async def forget(self, key: AttemptKey) -> None:
        await self._through("forget", lambda: self.engine.forget(key))

    async def changed(self, timeout_s: float) -> bool:
        return await self.engine.changed(timeout_s)

    async def close(self) -> None:
        await self.engine.close()
