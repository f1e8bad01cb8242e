"""Time, handed in. Nothing outside kit and bootstrap reads the machine's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What the platform takes for the time."""

    def now(self) -> datetime:
        """Return the time as an aware UTC datetime; never earlier than the answer before."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds since some fixed point, untouched by steps of the wall clock."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's clock, held still while the wall clock is behind what was already said.

    A wall clock that steps back (NTP, a person) would give allocations a negative length; one that steps
    forward is believed, because logs of other machines will agree with it.
    """

    def __init__(self) -> None:
        self._latest = EPOCH

    def now(self) -> datetime:
        """Return the wall clock's time, or the latest time said when that is later."""
        self._latest = max(self._latest, datetime.now(UTC))
        return self._latest

    def monotonic_s(self) -> float:
        """Return the kernel's monotonic clock in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves only when told, for simulation and tests."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """Return the virtual time."""
        return self._now

    def monotonic_s(self) -> float:
        """Return the virtual seconds since the start, steps of the wall clock left out."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Advance by that much and let other tasks run."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: seconds is negative.
        """
        if seconds < 0:
            raise ValueError("time passes forwards; use step() to set a clock wrong")
        self._now += timedelta(seconds=seconds)
        self._elapsed_s += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock wrong by that much, as NTP or a person does; the monotonic clock does not see it."""
        self._now += timedelta(seconds=seconds)


def to_micros(at: datetime) -> int:
    """Return integer microseconds since 1970 UTC of an aware datetime, exactly."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the aware UTC datetime of integer microseconds since 1970, exactly."""
    return EPOCH + timedelta(microseconds=micros)
