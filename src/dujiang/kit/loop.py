"""Runs reconcile loops: one process at a time, each loop on its own, with backoff and a status that can be shown.

What a tick does is the loop's own business. Here it is decided when it runs: after `every_s`, sooner when woken, at
once when it said that there is more, later after it failed. A tick that fails is not retried as such; the next one
compares intended with actual again. A simulation uses none of this: it calls `Loop.tick`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Self

from dujiang.kit import log
from dujiang.kit.clock import Clock
from dujiang.kit.db import Database
from dujiang.kit.errors import DujiangError
from dujiang.kit.lease import Lease, cancel, first_of, within
from dujiang.kit.metrics import Metrics

LEASE: Final = "loops"
_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_BACKOFF_FIRST_S: Final = 1.0
_POLLED: Final = 1 / 10  # part of the lease between two looks of a process that waits for it

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    steps: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """What was done, by name, counted."""
    again: bool = False
    """There is more: tick again at once."""
    failed: str = ""
    """What went wrong in a part of the tick while the others went on; the next tick waits as after an error."""

    @classmethod
    def of(cls, steps: Iterable[str], *, again: bool = False) -> Self:
        """Return the report of steps that are named one by one."""
        return cls(Counter(steps), again)

    @classmethod
    def sum(cls, reports: Sequence[TickReport]) -> Self:
        """Return one report of several."""
        steps: Counter[str] = Counter()
        for report in reports:
            steps.update(report.steps)
        failed = "; ".join(report.failed for report in reports if report.failed)
        return cls(dict(sorted(steps.items())), any(report.again for report in reports), failed)


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """How a loop is doing in this process."""

    name: str
    every_s: float
    ticks: int = 0
    last_tick_at: datetime | None = None
    """When the latest tick that has ended began."""
    last_tick_s: float = 0.0
    last_outcome: str = ""
    """`ok`, `retryable` (something was away), `failed`, or empty before the first tick."""
    last_error: str = ""
    consecutive_failures: int = 0
    last_steps: Mapping[str, int] = field(default_factory=lambda: _NOTHING)


class Loop:
    """A tick with its rhythm. `tick` may be called directly."""

    def __init__(
        self,
        name: str,
        tick: Callable[[], Awaitable[TickReport]],
        *,
        every_s: float,
        rest_s: float = 0.0,
        backoff_max_s: float = 30.0,
    ) -> None:
        """Take what to run.

        Args:
            name: as figures, logs and status show it.
            tick: one pass, bounded in rows and seconds.
            every_s: from the end of one tick to the start of the next, unless woken.
            rest_s: likewise when woken, at the least: what happens meanwhile is seen together. The first wake-up after
                a while is heard at once; too much makes others wait, too little ticks for every single thing.
            backoff_max_s: the longest wait after failures, which begins at one second and doubles.
        """
        self.name, self.tick, self.every_s, self.rest_s = name, tick, every_s, rest_s
        self.backoff_max_s = backoff_max_s
        self.family = name
        """As figures show it: lanes of one loop are counted together."""
        self._woken = asyncio.Event()

    @property
    def parts(self) -> Sequence[Loop]:
        """Return what is run on its own."""
        return (self,)

    def wake(self) -> None:
        """Let the next tick begin sooner, from any task; during a tick: let another follow. Ends no backoff."""
        self._woken.set()

    def backoff_s(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return min(self.backoff_max_s, _BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 32))


class Lanes(Loop):
    """A loop in lanes that never wait for one another, one for each cluster say; each has the rhythm of the loop.

    A `tick` of it, which a simulation calls, ticks all of them at once and ends with the last.
    """

    def __init__(
        self,
        name: str,
        ticks: Mapping[str, Callable[[], Awaitable[TickReport]]],
        *,
        every_s: float,
        rest_s: float = 0.0,
        backoff_max_s: float = 30.0,
    ) -> None:
        """Take what to run, by name of the lane; the rest is as for `Loop`."""
        super().__init__(name, self._all, every_s=every_s, rest_s=rest_s, backoff_max_s=backoff_max_s)
        self.lanes = {
            lane: Loop(f"{name}/{lane}", tick, every_s=every_s, rest_s=rest_s, backoff_max_s=backoff_max_s)
            for lane, tick in sorted(ticks.items())
        }
        for each in self.lanes.values():
            each.family = name

    @property
    def parts(self) -> Sequence[Loop]:
        """Return the lanes, in order of name."""
        return tuple(self.lanes.values())

    def wake(self, lane: str | None = None) -> None:
        """Wake one lane, or all of them; one that is not there is passed over."""
        for name, each in self.lanes.items():
            if lane is None or name == lane:
                each.wake()

    async def _all(self) -> TickReport:
        # In a fixed order, and to the end also when one of them fails.
        ticks = (each.tick() for each in self.lanes.values())
        done = await asyncio.gather(*ticks, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return TickReport.sum([one for one in done if isinstance(one, TickReport)])


class Runner:
    """Runs loops while this process holds the lease."""

    def __init__(
        self,
        loops: Sequence[Loop],
        *,
        db: Database,
        clock: Clock,
        metrics: Metrics,
        holder: str,
        lease_s: float = 10.0,
        finish_s: float = 10.0,
    ) -> None:
        """Take what to run and on whose behalf.

        Args:
            loops: with names of their own; one in lanes is run lane by lane.
            db: where the lease is.
            clock: time.
            metrics: where ticks are counted.
            holder: name of this process in the lease; see `lease.Lease`.
            lease_s: see `lease.Lease`.
            finish_s: how long ticks in progress may take to end once the platform closes.
        """
        self._loops = tuple(part for loop in loops for part in loop.parts)
        self._clock, self._metrics, self._finish_s = clock, metrics, finish_s
        self._poll_s = _POLLED * lease_s
        self._lease = Lease(db, LEASE, holder, clock=clock, lease_s=lease_s)
        self._status = {loop.name: LoopStatus(loop.name, loop.every_s) for loop in self._loops}
        if len(self._status) < len(self._loops):
            raise ValueError("two loops have the same name")
        self.leading = False

    def status(self) -> list[LoopStatus]:
        """Return how each loop is doing here, in the order given; of one in lanes, how each lane is."""
        return [self._status[loop.name] for loop in self._loops]

    async def run(self, closing: asyncio.Event) -> None:
        """Take the lease when it is free, run the loops while it is held, and give it up once `closing` is set."""
        try:
            while not closing.is_set():
                if await self._try_take():
                    await self._lead(closing)
                else:
                    await first_of(self._clock, self._poll_s, closing.wait)
        finally:
            await self._give_up()

    async def _try_take(self) -> bool:
        try:
            return await self._lease.take()
        except Exception as error:  # the database may be back the next time
            log.failure(_log, "lease not taken", error, lease=LEASE)
            return False

    async def _give_up(self) -> None:
        async def release() -> bool:
            await self._lease.release()
            return True

        try:
            await within(self._clock, self._finish_s, release())
        except Exception as error:  # it runs out by itself
            log.failure(_log, "lease not given up", error, lease=LEASE)

    async def _lead(self, closing: asyncio.Event) -> None:
        """Run the loops until `closing`, or until the lease is lost: then whatever is in progress is cancelled."""
        stopping = asyncio.Event()
        keeping: asyncio.Future[Any] = asyncio.ensure_future(self._lease.keep())
        loops: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._go(loop, stopping)) for loop in self._loops]
        self._set_leading(True)
        try:
            await _either(keeping, asyncio.ensure_future(closing.wait()))
            stopping.set()
            if loops and not keeping.done():
                await first_of(
                    self._clock, self._finish_s, lambda: asyncio.wait({keeping}), lambda: asyncio.wait(set(loops))
                )
        finally:
            self._set_leading(False)
            await cancel([*loops, keeping])

    def _set_leading(self, leading: bool) -> None:
        self.leading = leading
        self._metrics.leader.set(int(leading))
        _log.info("loops run here" if leading else "loops have stopped here", loops=len(self._loops))

    async def _go(self, loop: Loop, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            if self._lease.remaining_s <= 0:  # this process stood still for a while; `keep` finds out what that means
                await first_of(self._clock, self._poll_s, stopping.wait)
                continue
            loop._woken.clear()
            report = await self._tick(loop)
            if failures := self._status[loop.name].consecutive_failures:
                await first_of(self._clock, loop.backoff_s(failures), stopping.wait)
            elif report.again or (loop._woken.is_set() and not loop.rest_s):
                await asyncio.sleep(0)
            else:
                if loop.rest_s:
                    await first_of(self._clock, loop.rest_s, stopping.wait)
                if not loop._woken.is_set():
                    await first_of(self._clock, loop.every_s - loop.rest_s, loop._woken.wait, stopping.wait)

    async def _tick(self, loop: Loop) -> TickReport:
        """Run one tick and write down how it went; only a cancellation from outside gets through."""
        at, started_s = self._clock.now(), self._clock.monotonic_s()
        report, error, outcome = TickReport(), "", "ok"
        try:
            report = await loop.tick()
            if report.failed:
                outcome, error = "failed", report.failed
        except (Exception, asyncio.CancelledError) as raised:
            task = asyncio.current_task()
            if isinstance(raised, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            retryable = isinstance(raised, DujiangError) and raised.retryable
            outcome, error = "retryable" if retryable else "failed", log.reason(raised)
            log.failure(
                _log, "tick failed", raised, loop=loop.name, again_in_s=loop.backoff_s(self._failures(loop) + 1)
            )
        taken_s = self._clock.monotonic_s() - started_s
        self._count(loop, outcome, taken_s, report)
        before = self._status[loop.name]
        self._status[loop.name] = replace(
            before, ticks=before.ticks + 1, last_tick_at=at, last_tick_s=taken_s, last_outcome=outcome,
            last_error=error, consecutive_failures=0 if outcome == "ok" else before.consecutive_failures + 1,
            last_steps=report.steps,
        )  # fmt: skip
        return report

    def _failures(self, loop: Loop) -> int:
        return self._status[loop.name].consecutive_failures

    def _count(self, loop: Loop, outcome: str, taken_s: float, report: TickReport) -> None:
        self._metrics.ticks_total.labels(loop.family, outcome).inc()
        self._metrics.tick_seconds.labels(loop.family).observe(taken_s)
        for step, count in report.steps.items():
            self._metrics.steps_total.labels(loop.family, step).inc(count)


async def _either(*futures: asyncio.Future[Any]) -> None:
    """Wait for the first; the last one is cancelled."""
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel([futures[-1]])
