"""The simulated engine: the protocol before a virtual world, with the faults of a network between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import ClassVar

from dujiang.engines.contract import (
    AttemptKey,
    Capabilities,
    EngineRefused,
    EngineUnavailable,
    Isolation,
    Launch,
    LogChunk,
    NodeFacts,
    Observation,
    Usage,
)
from dujiang.engines.outputs import MOST_LISTED, OutputFile, OutputUnreachable
from dujiang.engines.simulated.attempt import LIMITS_BY, SECOND
from dujiang.engines.simulated.world import World

_CHUNK_BYTES = 64 * 1024
_POLL_S = 0.25
_NOTHING = "Nothing real runs on a simulated cluster, so no file is ever written there: run the job on another one."


class SimulatedEngine:
    """Runs virtual attempts in a world, which outlives it and may have other engines before it.

    Every call lets other tasks run before it takes effect and again before its answer arrives, so that replicas meet in
    every order.
    """

    kind: ClassVar[str] = "simulated"

    def __init__(self, world: World, *, sleep: Callable[[float], Awaitable[None]] | None = None) -> None:
        """Stand before a world.

        Args:
            world: what is real.
            sleep: how `changed` and the following of logs wait, `clock.sleep` of a real clock. Without it they only let
                other tasks run and look again: whoever owns a `ManualClock` moves it.
        """
        self.world = world
        self._sleep = sleep
        self._seen = -1

    async def capabilities(self) -> Capabilities:
        """Say that everything is kept, because nothing is real."""
        has_devices = any(group.devices for group in self.world.spec.groups)
        return Capabilities(
            kind=self.kind, limits=Isolation.ENFORCED, limits_by=LIMITS_BY,
            device_isolation=Isolation.ENFORCED if has_devices else Isolation.COUNTED_ONLY, stacks_ranks=True,
            simulated=True, images=self.kind,
        )  # fmt: skip

    async def inventory(self) -> Sequence[NodeFacts]:
        """Return the virtual nodes; a lost one is missing or not ready, once that is noticed."""
        await self._ask()
        if self._chance(self.world.faults.inventory):
            raise EngineUnavailable("the simulated engine refused its inventory")
        nodes = self.world.inventory()
        await self._answer(lost=0.0)
        return nodes

    async def submit(self, launch: Launch) -> None:
        """Take an attempt into the world."""
        await self._ask()
        self.world.submit(launch)
        await self._answer()

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Return what the world shows of these attempts, or showed; all of them, or some."""
        await self._ask()
        faults, rng = self.world.faults, self.world.rng["view"]
        at = self.world.advance()
        if faults.old and rng.random() < faults.old:
            at -= int(rng.random() * faults.lag_s * SECOND)
        left_out = faults.left_out if faults.partial and rng.random() < faults.partial else 0.0
        seen: dict[AttemptKey, Observation] = {}
        for key in keys:
            attempt = self.world.find(key)
            if attempt is None or (left_out and rng.random() < left_out):
                continue
            if (observed := attempt.seen(at)) is not None:
                seen[key] = observed
        await self._answer(lost=0.0)
        return seen

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return what virtual programs use."""
        await self._ask()
        now = self.world.advance()
        found = [used for key in keys if (one := self.world.find(key)) is not None and (used := one.usage(now))]
        await self._answer(lost=0.0)
        return {used.key: used for used in found}

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Send a signal to every virtual program of an attempt."""
        if not 1 <= number <= 64:
            raise EngineRefused(f"there is no signal {number}")
        await self._ask()
        self.world.signal(key, number)
        await self._answer()

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Begin to stop an attempt."""
        await self._ask()
        self.world.stop(key, grace_s)
        await self._answer()

    async def logs(
        self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[LogChunk]:
        """Yield what a virtual program has printed, in chunks of at most 64 KiB."""
        await self._ask()
        attempt = self.world.find(key)
        if attempt is None:
            return
        printed = attempt.output(rank, self.world.advance())
        at = max(0, len(printed) + offset if offset < 0 else offset)
        while True:
            over = attempt.ended is not None  # asked first: what is printed at the end is still read below
            while data := printed[at : at + _CHUNK_BYTES]:
                yield LogChunk(rank, at, data)
                at += len(data)
            if over or not follow:
                return
            await self._wait(_POLL_S)
            printed = attempt.output(rank, self.world.advance())

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = MOST_LISTED) -> Sequence[OutputFile]:
        """Refuse: virtual programs write no files."""
        raise OutputUnreachable(_NOTHING)

    async def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        """Refuse, at the first piece: virtual programs write no files."""
        for piece in list[bytes]():
            yield piece
        raise OutputUnreachable(_NOTHING)

    async def cordon(self, node: str, reason: str) -> None:
        """Close a virtual node to new attempts."""
        await self._ask()
        self.world.cordon(node, reason)
        await self._answer()

    async def uncordon(self, node: str) -> None:
        """Open a virtual node again."""
        await self._ask()
        self.world.cordon(node, None)
        await self._answer()

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Close a virtual node and begin to stop what runs there."""
        await self._ask()
        self.world.cordon(node, reason)
        for key in self.world.on_node(node):
            self.world.stop(key, grace_s)
        await self._answer()

    async def attempts(self) -> Sequence[AttemptKey]:
        """Return every attempt that is not forgotten."""
        await self._ask()
        known = sorted(self.world.attempts())
        await self._answer(lost=0.0)
        return known

    async def forget(self, key: AttemptKey) -> None:
        """Drop an attempt that has ended; its output stays, and it never starts again."""
        await self._ask()
        self.world.forget(key)
        await self._answer()

    async def changed(self, timeout_s: float) -> bool:
        """Say whether the world has changed since the last time, waiting for it where there is a way to wait."""
        deadline = self.world.clock.monotonic_s() + timeout_s
        while True:
            soon_s = self.world.next_s()
            if self.world.changes != self._seen:
                self._seen = self.world.changes
                return True
            left = deadline - self.world.clock.monotonic_s()
            if left <= 0:
                return False
            await self._wait(min(left, soon_s, _POLL_S))
            if self._sleep is None and self.world.changes == self._seen:
                return False

    async def close(self) -> None:
        """Let go of the world; what runs there goes on."""
        self.world.close()

    # -- between the platform and the engine --------------------------------------------------------------------------

    async def _ask(self) -> None:
        await asyncio.sleep(0)
        if self._chance(self.world.faults.before):
            raise EngineUnavailable("the simulated engine did not answer, and did nothing")

    async def _answer(self, *, lost: float | None = None) -> None:
        await asyncio.sleep(0)
        if self._chance(self.world.faults.after if lost is None else lost):
            raise EngineUnavailable("the answer of the simulated engine was lost")

    def _chance(self, chance: float) -> bool:
        return chance > 0 and bool(self.world.rng["edge"].random() < chance)

    async def _wait(self, seconds: float) -> None:
        if self._sleep is None:
            await asyncio.sleep(0)
        else:
            await self._sleep(seconds)
