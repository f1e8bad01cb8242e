"""EASY backfill: FIFO in which only the first job of the queue holds a reservation (Lifka, JSSPP 1995)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from dujiang.scheduling.simulator.queue_policies.contract import NEVER, Watch


class Easy:
    """Starts a later job if it ends before the first can start, or needs none of the devices that the first will."""

    round_s = 0

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._queue: list[int] = []
        self._ends: list[tuple[int, int]] = []
        """When each running job ends, and which."""

    def submitted(self, job: int, now: int) -> None:
        """Put it in its place."""
        insort(self._queue, job)

    def ended(self, job: int, now: int) -> None:
        """Take its end out of the plan."""
        self._forget(job)

    def interrupted(self, job: int, now: int) -> None:
        """Put it back in its place."""
        self._forget(job)
        insort(self._queue, job)

    def decide(self, now: int) -> tuple[Sequence[int], Sequence[int]]:
        """Start heads that fit, then what fits around the reservation. O(waiting + running)."""
        queue, size, free = self._queue, self._watch.size, self._watch.free
        count = 0
        while count < len(queue) and size[queue[count]] <= free:
            free -= size[queue[count]]
            self._expect(queue[count], now)
            count += 1
        started = queue[:count]
        del queue[:count]
        if queue and free:
            started += self._around(now, free)
        return (), started

    def wakes_at(self, now: int) -> int:
        """Return NEVER: only events matter."""
        return NEVER

    def _around(self, now: int, free: int) -> list[int]:
        size, queue = self._watch.size, self._queue
        shadow_s, spare = self._reservation(free)
        started, kept = [], [queue[0]]
        for place in range(1, len(queue)):
            if not free:
                kept += queue[place:]
                break
            job = queue[place]
            in_time = now + self._watch.left_s[job] <= shadow_s
            if size[job] <= free and (in_time or size[job] <= spare):
                spare -= 0 if in_time else size[job]
                free -= size[job]
                self._expect(job, now)
                started.append(job)
            else:
                kept.append(job)
        self._queue = kept
        return started

    def _reservation(self, free: int) -> tuple[int, int]:
        """Return when the first job can start, and how many devices it leaves then."""
        asked = self._watch.size[self._queue[0]]
        for end_s, job in self._ends:
            free += self._watch.size[job]
            if free >= asked:
                return end_s, free - asked
        return NEVER, 0  # not until nodes come back

    def _expect(self, job: int, now: int) -> None:
        insort(self._ends, (now + self._watch.left_s[job], job))

    def _forget(self, job: int) -> None:
        end = (self._watch.since_s[job] + self._watch.left_s[job], job)
        place = bisect_left(self._ends, end)
        if self._ends[place : place + 1] == [end]:
            del self._ends[place]
        else:
            self._ends = [each for each in self._ends if each[1] != job]
