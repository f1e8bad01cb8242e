"""Queues by attained service: 2D-LAS as Tiresias has it, and our default. Neither knows how long a job will run.

Attained service is devices times time run. Jobs sink from level to level as they attain more; a lower number runs
first, and may stop others. 2D-LAS (Tiresias, Gu et al., NSDI 2019, its discretized form): three levels parted at 1 and
10 GPU-hours, by submission inside a level, decided every 60 s.

Ours: a level for each doubling from 10 GPU-minutes, of the service attained plus what jobs of that group typically need
in all (median of the past): a group of long jobs starts lower. Inside a level running jobs stay, so a job is stopped
only by work that is a level smaller, and not before it has run ten times as long as a restart costs.

Waiting is bounded: a job that has waited `max_wait_s` in all comes first and is not stopped again. Such jobs hold at
most half of the devices, a single one more; those beyond that follow in order of submission. So the bound holds as long
as half of the cluster serves them, and where it does not, short work goes on beside them: without the half, a cluster
that is too small for its load becomes a FIFO (measured: 52,415 s in place of 3,379 s on Philly with 74 nodes). While
more is overdue than the whole cluster holds, no bound can be kept, and a tenth of the devices is kept for it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

from dujiang.scheduling.simulator.queue_policies.contract import NEVER, Watch
from dujiang.scheduling.simulator.queue_policies.history import History
from dujiang.scheduling.simulator.queue_policies.merge import Rank, choose

MAX_WAIT_S: Final = 48 * 3600
LAS_EDGES: Final = (3_600, 36_000)
"""Device-seconds at which a job of 2D-LAS sinks."""
SMALLEST: Final = 600
"""Device-seconds of our first level; each further one is twice as wide."""
FIRST_PART: Final = 0.5
"""Part of the devices that jobs which have waited too long may hold before all others."""
FIRST_PART_IN_NEED: Final = 0.1
"""The same while more is asked for by such jobs than there is: no bound can be kept then, and short work can."""
SAFE_RESTARTS: Final = 10
"""A job runs at least so many times the cost of a restart before it is stopped."""
_FIRST: Final = -1
"""Level of jobs that have waited too long."""


def las_level(service: int) -> tuple[int, int]:
    """Return the level of an attained service in device-seconds, and the service at which the next begins."""
    for level, edge in enumerate(LAS_EDGES):
        if service < edge:
            return level, edge
    return len(LAS_EDGES), NEVER


def default_level(service: int) -> tuple[int, int]:
    """Return the level of an attained service in device-seconds, and the service at which the next begins."""
    level = (service // SMALLEST).bit_length()
    return level, SMALLEST << level


class Levels:
    """Runs jobs by level, then, where it keeps what runs, running ones first, then by submission."""

    def __init__(
        self, watch: Watch, level: Callable[[int], tuple[int, int]], *, keeps_running: bool, round_s: int = 0,
        history: History | None = None, max_wait_s: int = 0,
    ) -> None:  # fmt: skip
        self.round_s = round_s
        self._watch, self._level, self._keeps, self._history, self._max_wait_s = (
            watch, level, keeps_running, history, max_wait_s)  # fmt: skip
        jobs = len(watch.size)
        self._running: list[Rank] = []
        self._waiting: list[Rank] = []
        self._rank: list[Rank] = [()] * jobs
        self._typical_s = [0] * jobs
        self._is_first = [False] * jobs
        self._is_overdue, self._is_over = [False] * jobs, [False] * jobs
        self._overdue: list[tuple[int, int]] = []
        """Jobs that have waited too long and are not first yet: by submission."""
        self._overdue_devices = 0
        self._first_devices = 0
        self._turns: list[tuple[int, int, Rank]] = []
        """When a job changes level: time, job, and its rank then; one whose rank is another is out of date."""

    def submitted(self, job: int, now: int) -> None:
        """Ask the past about it, and let it wait."""
        if self._history is not None:
            self._typical_s[job] = self._history.typical_s(self._watch.groups[job])
        self._wait(job, now)

    def ended(self, job: int, now: int) -> None:
        """Remember how long it ran."""
        self._take(self._running, job)
        self._is_over[job] = True
        if self._is_first[job]:
            self._first_devices -= self._watch.size[job]
            self._promote(now)
        if self._history is not None:
            self._history.ended(self._watch.groups[job], self._watch.served_s[job])

    def interrupted(self, job: int, now: int) -> None:
        """Let it wait again, with what it has attained."""
        self._take(self._running, job)
        self._wait(job, now)

    def decide(self, now: int) -> tuple[Sequence[int], Sequence[int]]:
        """Move jobs that have changed level, and choose. O(running + waiting log running)."""
        self._turn(now)
        running, waiting = self._running, self._waiting
        if not waiting or (not self._watch.free and running and waiting[0] > running[-1]):
            return (), ()
        stops, starts = choose(running, waiting, self._watch.size, self._watch.free)
        stopped = [running[place][-1] for place in stops]
        started = [waiting[place][-1] for place in starts]
        for place in reversed(stops):
            del running[place]
        for place in reversed(starts):
            del waiting[place]
        for job in stopped:
            self._wait(job, now)
        for job in started:
            self._run(job, now)
        return stopped, started

    def wakes_at(self, now: int) -> int:
        """Return when the next job changes level while others wait."""
        while self._turns and self._turns[0][2] != self._rank[self._turns[0][1]]:
            heappop(self._turns)
        return self._turns[0][0] if self._turns and self._waiting else NEVER

    def _turn(self, now: int) -> None:
        while self._turns and self._turns[0][0] <= now:
            _, job, rank = heappop(self._turns)
            if rank != self._rank[job]:
                continue
            if self._watch.running[job]:
                self._take(self._running, job)
                self._run(job, now)
            elif self._max_wait_s and not self._is_overdue[job] and self._waited_s(job, now) >= self._max_wait_s:
                insort(self._overdue, (self._watch.submit_s[job], job))
                self._is_overdue[job] = True
                self._overdue_devices += self._watch.size[job]
                self._promote(now)

    def _promote(self, now: int) -> None:
        """Put those first that have waited too long, as many as their part of the devices holds, and one at least."""
        watch = self._watch
        part = FIRST_PART if self._overdue_devices <= watch.capacity else FIRST_PART_IN_NEED
        room = part * watch.capacity
        while self._overdue:
            job = self._overdue[0][1]
            if self._is_over[job]:
                del self._overdue[0]
                self._overdue_devices -= watch.size[job]
                continue
            if self._first_devices and self._first_devices + watch.size[job] > room:
                return
            del self._overdue[0]
            self._overdue_devices -= watch.size[job]
            self._take(self._running if watch.running[job] else self._waiting, job)
            self._is_first[job] = True
            self._first_devices += watch.size[job]
            if watch.running[job]:
                self._run(job, now)
            else:
                self._wait(job, now)

    def _run(self, job: int, now: int) -> None:
        level, edge = self._standing(job, now)
        safe_s = self._safe_until(job, now) if self._keeps else 0
        self._rank[job] = rank = (_FIRST if safe_s > now else level, 0, job)
        insort(self._running, rank)
        if safe_s > now:
            heappush(self._turns, (safe_s, job, rank))
        elif edge < NEVER:
            missing = edge - self._service(job, now)
            heappush(self._turns, (now - (-missing // self._watch.size[job]), job, rank))

    def _wait(self, job: int, now: int) -> None:
        level, _ = self._standing(job, now)
        self._rank[job] = rank = (level, int(self._keeps), job)
        insort(self._waiting, rank)
        if self._max_wait_s and not self._is_overdue[job]:
            heappush(self._turns, (max(now, now + self._max_wait_s - self._waited_s(job, now)), job, rank))

    def _safe_until(self, job: int, now: int) -> int:
        """Return until when a job is not stopped, so that what a restart costs stays small beside what is done."""
        began = self._watch.since_s[job] if self._watch.running[job] else now
        return began + SAFE_RESTARTS * self._watch.restart_s

    def _standing(self, job: int, now: int) -> tuple[int, int]:
        return (_FIRST, NEVER) if self._is_first[job] else self._level(self._service(job, now))

    def _service(self, job: int, now: int) -> int:
        return (self._watch.served_at(job, now) + self._typical_s[job]) * self._watch.size[job]

    def _waited_s(self, job: int, now: int) -> int:
        return now - self._watch.submit_s[job] - self._watch.served_at(job, now)

    def _take(self, ranks: list[Rank], job: int) -> None:
        del ranks[bisect_left(ranks, self._rank[job])]
        self._rank[job] = ()
