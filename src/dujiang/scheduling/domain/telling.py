"""Turns what a round left waiting into reasons with figures, seen from the end of the round."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from dujiang.scheduling.domain.changes import smallest_change
from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.ground import Grounds, shortage
from dujiang.scheduling.domain.reasons import Change, Reason, Remedy, Shortage, Wait
from dujiang.scheduling.domain.request import Shape
from dujiang.scheduling.domain.walls import Walls


def tell(done: Round, awaited: Mapping[str, str], *, changes: int, only: str | None = None) -> tuple[Wait, ...]:
    """Return why each waiting job waits, in the order of the queue.

    Args:
        done: the round.
        awaited: for jobs that wait for work that is being stopped: one of those.
        changes: for how many different cases to look for the smallest change.
        only: one job; None is all.
    """
    teller = _Teller(done, awaited, changes)
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
    awaited: Mapping[str, str]
    changes: int
    _started: list[tuple[float, datetime, datetime, str]] = field(init=False)
    _fits_before: dict[Shape, bool] = field(default_factory=dict)
    _walls_before: Walls = field(default_factory=Walls)
    _grounds_before: Grounds = field(init=False)
    """For jobs that stay apart from others: without those that this round started."""
    _lacks: dict[tuple[Shape, bool], Shortage] = field(default_factory=dict)
    _changes: dict[tuple[object, ...], Change | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._grounds_before = self.done.grounds_before()
        started = {start.job_id for start in self.done.starts}
        self._started = sorted(self.done.order(r) for r in self.done.snapshot.requests if r.job_id in started)

    def tell(self, waiting: Waiting, position: int, *, is_first_over: bool) -> Wait:
        request = waiting.request
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
            case Reason.QUEUE_QUOTA if waiting.queue_lack is not None:
                lack = waiting.queue_lack
                wait = replace(
                    wait, shortage=Shortage(lack.resource, lack.needed, lack.available), blocking_queue=lack.at,
                    detail=lack.sentence, blocking_job=waiting.kept.job_id if waiting.kept else "",
                )  # fmt: skip
                if stopped := self.awaited.get(request.job_id):
                    wait = replace(wait, reason=Reason.PREEMPTING, blocking_job=stopped)
            case Reason.WINDOW if waiting.window is not None:
                wait = replace(wait, window=waiting.window.name, earliest=waiting.window.ends_at)
            case Reason.RESERVED:
                wait = replace(wait, shortage=self._lack(waiting, reserved=True), blocking_job=self._ahead(waiting))
            case Reason.RESOURCES:
                wait = self._for_room(waiting, wait)
        return replace(wait, change=self._change(waiting, wait, is_first_over=is_first_over))

    def _for_room(self, waiting: Waiting, wait: Wait) -> Wait:
        done = self.done
        wait = replace(wait, shortage=self._lack(waiting, reserved=False))
        if done.starts and self._did_fit(waiting.shape):
            ahead = bisect_left(self._started, done.order(waiting.request))
            if ahead:
                wait = replace(wait, reason=Reason.PRIORITY, blocking_job=self._started[ahead - 1][-1])
            else:  # nobody before it started: it was held back for the head, until others filled the gap
                wait = replace(wait, reason=Reason.RESERVED, blocking_job=self._ahead(waiting))
        reservation = done.reservations.get(waiting.request.job_id)
        if reservation is not None:
            wait = replace(wait, earliest=reservation.at, blocking_job=wait.blocking_job or reservation.awaited)
        if stopped := self.awaited.get(waiting.request.job_id):
            wait = replace(wait, reason=Reason.PREEMPTING, blocking_job=stopped)
        return wait

    def _ahead(self, waiting: Waiting) -> str:
        """Return the last job before this one whose start is prepared."""
        before = [one for one in self.done.reservations if one != waiting.request.job_id]
        return before[-1] if before else ""

    def _did_fit(self, shape: Shape) -> bool:
        """Say whether there was room for it before the round started anything."""
        if shape not in self._fits_before:
            fits = not self._walls_before.stop(shape)
            grounds = self._grounds_before if shape.where.apart else self.done.grounds
            if fits and find(self.done.before, shape, grounds.of(shape).allowed) is None:
                self._walls_before.add(shape)
                fits = False
            self._fits_before[shape] = fits
        return self._fits_before[shape]

    def _lack(self, waiting: Waiting, *, reserved: bool) -> Shortage:
        key = (waiting.shape, reserved)
        if key not in self._lacks:
            done = self.done
            room = done.late if reserved and done.late is not None else done.room
            self._lacks[key] = shortage(room, waiting.shape, done.grounds.of(waiting.shape).allowed)
        return self._lacks[key]

    def _change(self, waiting: Waiting, wait: Wait, *, is_first_over: bool) -> Change | None:
        is_head = waiting.request.job_id in self.done.reservations
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
