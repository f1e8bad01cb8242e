"""FIFO and SJF: one queue, no interruption, and the head of the queue waits for room with everything behind it."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from dujiang.scheduling.simulator.queue_policies.contract import NEVER, Watch


class Heads:
    """Starts jobs in order of submission, or of run time, until one does not fit."""

    round_s = 0

    def __init__(self, watch: Watch, *, by_run_time: bool) -> None:
        self._watch, self._by_run_time = watch, by_run_time
        self._queue: list[tuple[int, int]] = []

    def submitted(self, job: int, now: int) -> None:
        """Put it in its place."""
        heappush(self._queue, (self._watch.duration_s[job] if self._by_run_time else 0, job))

    def ended(self, job: int, now: int) -> None:
        """Nothing to do: what it held is free."""

    def interrupted(self, job: int, now: int) -> None:
        """Put it back in its place."""
        self.submitted(job, now)

    def decide(self, now: int) -> tuple[Sequence[int], Sequence[int]]:
        """Start from the head while it fits. O(log waiting) a start."""
        free, started = self._watch.free, []
        while self._queue and self._watch.size[self._queue[0][1]] <= free:
            job = heappop(self._queue)[1]
            free -= self._watch.size[job]
            started.append(job)
        return (), started

    def wakes_at(self, now: int) -> int:
        """Return NEVER: only events matter."""
        return NEVER
