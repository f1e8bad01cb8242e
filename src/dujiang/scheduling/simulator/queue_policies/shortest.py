"""SRTF: who has least left runs. It knows run times and stops jobs at no cost, so it is a bound and not a policy."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from dujiang.scheduling.simulator.queue_policies.contract import NEVER, Watch
from dujiang.scheduling.simulator.queue_policies.merge import choose


class Srtf:
    """At every event all jobs are ordered by the time they still need, and each that fits into what is left runs."""

    round_s = 0

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._ends: list[tuple[int, int]] = []
        """When each running job ends, and which: the order of remaining times, at any moment."""
        self._left: list[tuple[int, int]] = []
        """What each waiting job needs, and which."""

    def submitted(self, job: int, now: int) -> None:
        """Put it in its place."""
        insort(self._left, (self._watch.left_s[job], job))

    def ended(self, job: int, now: int) -> None:
        """Take its end out."""
        self._forget(job, now)

    def interrupted(self, job: int, now: int) -> None:
        """Put it back among those that wait."""
        self._ends = [end for end in self._ends if end[1] != job]
        self.submitted(job, now)

    def decide(self, now: int) -> tuple[Sequence[int], Sequence[int]]:
        """Choose by remaining time. O(running + waiting) where the devices do not suffice for all."""
        watch, waiting = self._watch, self._left
        if not waiting:
            return (), ()
        if not watch.free and self._ends and now + waiting[0][0] > self._ends[-1][0]:
            return (), ()
        stops, starts = choose(self._ends, [(now + left, job) for left, job in waiting], watch.size, watch.free)
        stopped = [self._ends[place] for place in stops]
        started = [waiting[place] for place in starts]
        for place in reversed(stops):
            del self._ends[place]
        for place in reversed(starts):
            del waiting[place]
        for end, job in stopped:
            insort(waiting, (end - now + watch.restart_s, job))
        for left, job in started:
            insort(self._ends, (now + left, job))
        return [job for _, job in stopped], [job for _, job in started]

    def wakes_at(self, now: int) -> int:
        """Return NEVER: the order changes only where something starts, stops or arrives."""
        return NEVER

    def _forget(self, job: int, now: int) -> None:
        place = bisect_left(self._ends, (now, job))
        if self._ends[place : place + 1] == [(now, job)]:
            del self._ends[place]
        else:  # it was delayed by restarts, so its end is not where it was put
            self._ends = [end for end in self._ends if end[1] != job]
