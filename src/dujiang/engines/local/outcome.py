"""How an attempt ended, from what its processes and its limit groups say: pure.

What happened first decides: a rank that failed before a stop was asked for has failed; a stop that was asked for first
stays a stop, however the program then ends. Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from dujiang.engines.local.stopping import Cause

STOPPED_BY: Mapping[Cause, str] = {
    Cause.ASKED: "Stopped",
    Cause.TIME_LIMIT: "TimeLimit",
    Cause.TERMINATED: "Lost",
}


@dataclass(frozen=True, slots=True)
class Death:
    """How one process ended."""

    exit_code: int | None
    signal: int | None

    @classmethod
    def of(cls, wait_status: int) -> Death:
        """Return what a wait status says."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(code, None) if code >= 0 else cls(None, -code)

    @property
    def failed(self) -> bool:
        """Say whether this was anything but exit code 0."""
        return self.exit_code != 0

    def __str__(self) -> str:
        if self.signal is not None:
            return f"died of signal {signal_name(self.signal)}"
        if self.exit_code is not None and 128 < self.exit_code <= 192:
            inner = signal_name(self.exit_code - 128)
            return f"exited with {self.exit_code}, which a shell says when its command died of signal {inner}"
        return f"exited with {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end in the words of the contract (`End`), with the rank that ended the attempt."""

    end: str
    death: Death
    rank: int | None


def decide(
    deaths: Mapping[int, Death],
    *,
    first_failed: int | None,
    stopped_by: Cause | None,
    oom_kills: int,
    setup: Death | None = None,
) -> Outcome:
    """Say how the attempt ended.

    Args:
        deaths: of each rank that started.
        first_failed: the rank that failed before anything was stopped.
        stopped_by: the first cause of a stop, if any.
        oom_kills: how many processes the kernel killed at the limit of memory, over all ranks.
        setup: how the setup ended, where it failed or was stopped.
    """
    rank = first_failed if first_failed is not None else (min(deaths) if deaths else None)
    if setup is not None:
        rank = 0  # it runs on the first
    death = setup or (deaths[rank] if rank is not None and rank in deaths else Death(None, None))
    if stopped_by is not None and stopped_by in STOPPED_BY:
        return Outcome(STOPPED_BY[stopped_by], death, rank)
    if oom_kills and death.failed:
        return Outcome("OutOfMemory", death, rank)
    if setup is not None:
        return Outcome("SetupFailed", death, rank)
    if death.signal is not None:
        return Outcome("Signaled", death, rank)
    return Outcome("Exited", death, rank)


def signal_name(number: int) -> str:
    """Return `9 (SIGKILL)`, or the bare number of a signal without a name."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
