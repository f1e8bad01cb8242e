"""Turns what a round left waiting into reasons with figures, seen from the end of the round."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from datetime import datetime

from dujiang.scheduling.domain.changes import smallest_change
from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.ground import shortage
from dujiang.scheduling.domain.reasons import Change, Reason, Remedy, Shortage, Wait
from dujiang.scheduling.domain.request import Shape
from dujiang.scheduling.domain.room import find
from dujiang.scheduling.domain.walls import Walls


def tell(done: Round, *, changes: int, only: str | None = None) -> tuple[Wait, ...]:
    """Return why each waiting job waits, in the order of the queue.

    Args:
        done: the round.
        changes: for how many different cases to look for the smallest change.
        only: one job; None is all.
    """
    teller = _Teller(done, changes)
    waits: list[Wait] = []
    over_quota: set[str] = set()
    for position, waiting in enumerate(done.waiting, start=1):
        project_id = waiting.request.project_id
        is_first = project_id not in over_quota
        if waiting.reason is Reason.QUOTA_EXCEEDED:
            over_quota.add(project_id)
        if only is None or waiting.request.job_id == only:
            waits.append(teller.tell(waiting, position, is_first_over=is_first))
    return tuple(waits)


@dataclass(slots=True)
class _Teller:
    done: Round
    changes: int
    _started: list[tuple[float, datetime, str]] = field(init=False)
    _fits_before: dict[Shape, bool] = field(default_factory=dict)
    _walls_before: Walls = field(default_factory=Walls)
    _lacks: dict[tuple[Shape, bool], Shortage] = field(default_factory=dict)
    _changes: dict[tuple[object, ...], Change | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        started = {start.job_id for start in self.done.starts}
        self._started = sorted(r.order() for r in self.done.snapshot.requests if r.job_id in started)

    def tell(self, waiting: Waiting, position: int, *, is_first_over: bool) -> Wait:
        done, request = self.done, waiting.request
        wait = Wait(request.job_id, position, waiting.reason, waiting.lack)
        match waiting.reason:
            case Reason.BACKOFF:
                change = Change(Remedy.WAIT_UNTIL, at=request.not_before)
                return replace(wait, earliest=request.not_before, change=change)
            case Reason.QUOTA_EXCEEDED:
                wait = replace(wait, blocking_project=request.project_id)
            case Reason.QUOTA_RESERVED:
                job = waiting.kept.job_id if waiting.kept else ""
                wait = replace(wait, blocking_project=request.project_id, blocking_job=job)
            case Reason.RESERVED:
                wait = replace(wait, shortage=self._lack(waiting, reserved=True), blocking_job=done.head)
            case Reason.RESOURCES:
                wait = self._for_room(waiting, wait)
        return replace(wait, change=self._change(waiting, wait, is_first_over=is_first_over))

    def _for_room(self, waiting: Waiting, wait: Wait) -> Wait:
        done = self.done
        wait = replace(wait, shortage=self._lack(waiting, reserved=False))
        if done.starts and self._did_fit(waiting.shape):
            ahead = bisect_left(self._started, waiting.request.order())
            if ahead:
                wait = replace(wait, reason=Reason.PRIORITY, blocking_job=self._started[ahead - 1][2])
            else:  # nobody before it started: it was held back for the head, until others filled the gap
                wait = replace(wait, reason=Reason.RESERVED, blocking_job=done.head)
        if done.reservation is not None and waiting.request.job_id == done.head:
            awaited = wait.blocking_job or done.reservation.awaited
            wait = replace(wait, earliest=done.reservation.at, blocking_job=awaited)
        return wait

    def _did_fit(self, shape: Shape) -> bool:
        """Say whether there was room for it before the round started anything."""
        if shape not in self._fits_before:
            fits = not self._walls_before.stop(shape)
            if fits and find(self.done.before, shape, self.done.grounds.of(shape).allowed) is None:
                self._walls_before.add(shape)
                fits = False
            self._fits_before[shape] = fits
        return self._fits_before[shape]

    def _lack(self, waiting: Waiting, *, reserved: bool) -> Shortage:
        key = (waiting.shape, reserved)
        if key not in self._lacks:
            done = self.done
            room = done.reservation.late if reserved and done.reservation else done.room
            self._lacks[key] = shortage(room, waiting.shape, done.grounds.of(waiting.shape).allowed)
        return self._lacks[key]

    def _change(self, waiting: Waiting, wait: Wait, *, is_first_over: bool) -> Change | None:
        is_head = waiting.request.job_id == self.done.head
        key: tuple[object, ...] = (waiting.shape, wait.reason, waiting.in_gap, is_head)
        if wait.reason in (Reason.QUOTA_EXCEEDED, Reason.QUOTA_RESERVED):
            if not is_first_over:
                return None
            key = (*key, waiting.request.project_id)
        if key not in self._changes:
            if len(self._changes) >= self.changes:
                return None
            self._changes[key] = smallest_change(self.done, waiting, wait.reason)
        return self._changes[key]
