"""A clock under which tasks sleep until the test has let enough time pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dujiang.kit.clock import ManualClock


class SteppedClock(ManualClock):
    """Whoever sleeps wakes when the test has advanced far enough."""

    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic_s() + seconds, woken))
        await woken

    async def run(self, seconds: float, *, step_s: float = 0.25) -> None:
        """Let time pass in small steps; after each, everything that waits for nothing but time has its turns."""
        await turns()
        for _ in range(round(seconds / step_s)):
            self.advance(step_s)
            due = [woken for at, woken in self._sleepers if at <= self.monotonic_s() + 1e-9]
            self._sleepers = [one for one in self._sleepers if one[0] > self.monotonic_s() + 1e-9]
            for woken in due:
                if not woken.done():
                    woken.set_result(None)
            await turns()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in code that knows of no test
            await asyncio.sleep(0)


async def turns() -> None:
    """Let every task that waits for nothing but its turn have some."""
    for _ in range(40):
        await asyncio.sleep(0)
