"""How an engine answers: how long it takes, what failed, and what it was asked long ago and has not answered.

Figures and facts only; what they mean for a cluster is decided by `pool.domain.standing`. In memory: a restart forgets
them and asks anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

RECENT: Final = 100
"""Answers over which the 95th percentile is taken: of looks at a cluster every two seconds, some two minutes."""
HELD_AGAINST_S: Final = 60.0
"""For how long the last failure of a kind of call counts. Calls that act are made when there is something to do:
without an end to it a stop that got no answer once would be held against a cluster for ever."""
LOOKS: Final = frozenset({"inventory", "observe"})
"""The calls whose times are told: they are made all the time."""


@dataclass(frozen=True, slots=True)
class CallFacts:
    """How it stands with one kind of call to one engine."""

    call: str
    overdue: int = 0
    """How many are without an answer for longer than is waited."""
    asked_at: datetime | None = None
    """When the oldest of these was made."""
    is_silent: bool = False
    """No call of this kind that was made since then was answered either."""
    failed: str = ""
    """Why the last one failed, in a sentence; empty when it did not, or long ago."""
    late_s: float | None = None
    """How long the last answer took, where that was longer than is waited, and not long ago."""


@dataclass(slots=True)
class _Kept:
    """What is remembered of one kind of call."""

    answered_s: float = float("-inf")
    """When the latest call that was answered had been made."""
    late_s: float | None = None
    """How long the last answer took, where that was too long."""
    late_at_s: float = float("-inf")
    failed: str = ""
    failed_s: float = float("-inf")


@dataclass(slots=True)
class Answers:
    """What is remembered of one engine's answers. Times are the monotonic clock's seconds."""

    within_s: float
    """How long is waited for an answer."""
    _kinds: dict[str, _Kept] = field(default_factory=dict)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def answered(self, call: str, asked_s: float, now_s: float) -> None:
        """Note an answer, also a refusal: that is one."""
        took_s = now_s - asked_s
        kept = self._kinds.setdefault(call, _Kept())
        kept.answered_s = max(kept.answered_s, asked_s)
        if call in LOOKS:  # the others are asked too seldom for a late answer to say how it is now
            kept.late_s, kept.late_at_s = (took_s if took_s > self.within_s else None), now_s
        kept.failed = ""
        if call in LOOKS:
            self._recent.append(took_s)

    def failed(self, call: str, why: str, now_s: float) -> None:
        """Note that the engine said that it cannot answer, or that its answer was lost."""
        kept = self._kinds.setdefault(call, _Kept())
        kept.failed, kept.failed_s = why, now_s

    def facts(self, call: str, overdue: Sequence[tuple[float, datetime]], now_s: float) -> CallFacts:
        """Return how it stands with a kind of call; `overdue` is when those without an answer were made."""
        kept = self._kinds.get(call, _Kept())
        oldest_s, asked_at = min(overdue, default=(0.0, None))
        return CallFacts(
            call=call,
            overdue=len(overdue),
            asked_at=asked_at,
            is_silent=asked_at is not None and kept.answered_s < oldest_s,
            failed=kept.failed if now_s - kept.failed_s < HELD_AGAINST_S else "",
            late_s=kept.late_s if now_s - kept.late_at_s < HELD_AGAINST_S else None,
        )

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of calls that were answered or failed so far."""
        return frozenset(self._kinds)

    @property
    def last_s(self) -> float | None:
        """Return how long the last answer to a look took."""
        return self._recent[-1] if self._recent else None

    @property
    def p95_s(self) -> float | None:
        """Return how long 95 of 100 recent answers to looks took at most."""
        return sorted(self._recent)[(len(self._recent) * 95 - 1) // 100] if self._recent else None
