"""When to send which signal to an attempt that is to stop: pure.

Save signal at once, to the program; SIGTERM at half of the grace, to everything; SIGKILL at its end, to everything.
Without a save signal, SIGTERM comes at once. A grace that is shortened moves what is still to come, not what was done.
Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import Enum

SIBLING_GRACE_S = 5.0
"""How long the other ranks have after one failed: they only wait for it, in a collective that never completes."""


class Cause(Enum):
    """Why an attempt is being stopped; the first cause counts."""

    ASKED = "asked"
    TIME_LIMIT = "time limit"
    SIBLING = "another rank failed"
    TERMINATED = "the supervisor was told to end"


class Move(Enum):
    """What to do to the attempt now."""

    SAVE = "save"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop under way; times are monotonic seconds."""

    cause: Cause
    begun: float
    deadline: float
    save_signal: int | None = None
    saved: bool = False
    terminated: bool = False

    def shortened(self, deadline: float) -> Stop:
        """Return the stop with an earlier end; a later one changes nothing."""
        return replace(self, deadline=min(self.deadline, deadline))

    @property
    def terminate_at(self) -> float:
        """Return when SIGTERM is due."""
        if self.save_signal is None:
            return self.begun
        return self.begun + (self.deadline - self.begun) / 2

    def due(self, now: float) -> tuple[Stop, list[Move]]:
        """Return what to do now, and the stop with that done. SIGKILL stays due: what it missed gets it again."""
        if now >= self.deadline:
            return replace(self, saved=True, terminated=True), [Move.KILL]
        moves: list[Move] = []
        if self.save_signal is not None and not self.saved:
            moves.append(Move.SAVE)
        if now >= self.terminate_at and not self.terminated:
            moves.append(Move.TERMINATE)
        terminated = self.terminated or Move.TERMINATE in moves
        return replace(self, saved=True, terminated=terminated), moves

    def next_at(self) -> float:
        """Return when to look again."""
        return self.deadline if self.terminated else min(self.terminate_at, self.deadline)


def begin(cause: Cause, begun: float, grace_s: float, save_signal: int | None) -> Stop:
    """Return a stop that starts now; saving makes no sense where the program has lost its peers."""
    if cause is Cause.SIBLING:
        return Stop(cause, begun, begun + min(grace_s, SIBLING_GRACE_S))
    wanted = None if save_signal in (signal.SIGTERM, signal.SIGKILL) else save_signal
    return Stop(cause, begun, begun + grace_s, wanted)
