"""Who has the room that there was for a waiting job when the round began, and why that one came first."""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime
from functools import cached_property
from typing import Any

from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.request import Request, Shape
from dujiang.scheduling.domain.reserve import turns
from dujiang.scheduling.domain.walls import Walls

Order = tuple[float, datetime, datetime, str]


class Overtaken:
    """Tells of one round, once it is over."""

    def __init__(self, done: Round) -> None:
        """Take the round; nothing is worked out before it is asked for."""
        self._done = done
        self._fits: dict[tuple[Shape, frozenset[int]], bool] = {}
        self._walls = Walls()

    def tell(self, waiting: Waiting) -> dict[str, Any]:
        """Return reason, job and words for one that finds no room where there was some at first; else nothing."""
        done, request = self._done, waiting.request
        if not done.starts or not self._did_fit(request, waiting.shape):
            return {}
        held_for, order = done.held_back.get(request.job_id, ""), done.order(request)
        ahead = bisect_left(self._started, order)
        if ahead and not held_for and not done.due_starts:  # all that started stood before it when it was its turn
            return {"reason": Reason.PRIORITY, "blocking_job": self._started[ahead - 1][-1]}
        number = self._taken_by(request, waiting.shape)
        if number is None:
            return {}
        took = done.starts[number].job_id
        if self._stands_before(took, order):
            return {"reason": Reason.PRIORITY, "blocking_job": took}
        if number < done.due_starts:
            detail = f"There was room; {took} starts there, whose deadline was promised and lets it wait no longer."
            return {"reason": Reason.RESERVED, "blocking_job": took, "detail": detail}
        return self._held_back(held_for, took, order) if held_for else {}

    def _held_back(self, held_for: str, took: str, order: Order) -> dict[str, Any]:
        """Tell of one that was held back for another until one behind it, which may pass, had taken the room."""
        whose = "which stands before it" if self._stands_before(held_for, order) else "whose deadline was promised"
        detail = f"There was room, but it was held back for {held_for}, {whose}"
        if held_for == took:
            detail += " and which starts there now."
        else:
            detail += f"; {took}, which does not delay that one, has the room meanwhile."
        return {"reason": Reason.RESERVED, "blocking_job": held_for, "detail": detail}

    def _did_fit(self, request: Request, shape: Shape) -> bool:
        """Say whether there was room for it before the round started anything."""
        closed = self._closed(self._queues_before, request, shape)
        if (shape, closed) not in self._fits:
            fits = not self._walls.stop(shape)
            grounds = self._grounds_before if shape.where.apart else self._done.grounds
            if fits and find(self._done.before, shape, grounds.of(shape).allowed, closed=closed) is None:
                fits = False
                if not closed:
                    self._walls.add(shape)
            self._fits[shape, closed] = fits
        return self._fits[shape, closed]

    def _taken_by(self, request: Request, shape: Shape) -> int | None:
        """Return the number of the start after which a job that did fit fits no more; None when it still would.

        O(log(starts)) placements.
        """
        low, high = 0, len(self._done.starts)  # it fits after `low` starts, and not after `high`
        if self._fits_after(high, request, shape):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits_after(middle, request, shape) else (low, middle)
        return high - 1

    def _fits_after(self, starts: int, request: Request, shape: Shape) -> bool:
        done, first = self._done, len(self._done.snapshot.holdings)
        later = range(len(done.starts) - 1, starts - 1, -1)
        room = done.releases.after(
            done.room, turns([first + at for at in later], of=done.releases.count()), len(later)
        )  # fmt: skip
        queues = done.queues.after(done.holdings[first + starts :]) if done.queues.tree else done.queues
        grounds = done.grounds_before(starts) if shape.where.apart else done.grounds
        closed = self._closed(queues, request, shape)
        return find(room, shape, grounds.of(shape).allowed, closed=closed) is not None

    def _closed(self, queues: QueueRound, request: Request, shape: Shape) -> frozenset[int]:
        return queues.look(request.project_id, request.queue, shape.ask, shape.ranks).options

    def _stands_before(self, job_id: str, order: Order) -> bool:
        request = self._requests.get(job_id)  # None: it waits for others to end, and its deadline was promised
        return request is not None and self._done.order(request) < order

    @cached_property
    def _requests(self) -> dict[str, Request]:
        return {request.job_id: request for request in self._done.snapshot.requests}

    @cached_property
    def _started(self) -> list[Order]:
        return sorted(self._done.order(self._requests[start.job_id]) for start in self._done.starts)

    @cached_property
    def _grounds_before(self) -> Grounds:
        """For jobs that stay apart from others: without those that this round started."""
        return self._done.grounds_before()

    @cached_property
    def _queues_before(self) -> QueueRound:
        done = self._done
        return done.queues.after(done.holdings[len(done.snapshot.holdings) :]) if done.queues.tree else done.queues
