"""Turns what a round left waiting into reasons with figures, seen from the end of the round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dujiang.scheduling.domain.changes import smallest_change
from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import holding, options
from dujiang.scheduling.domain.ground import shortage
from dujiang.scheduling.domain.overtaken import Overtaken
from dujiang.scheduling.domain.possible import beyond_queue, over_quota
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.queue_usage import QueueLack
from dujiang.scheduling.domain.reasons import Change, Reason, Remedy, Shortage, Wait, amount, label
from dujiang.scheduling.domain.request import Request, Shape


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
    _overtaken: Overtaken = field(init=False)
    _lacks: dict[tuple[Shape, bool], Shortage] = field(default_factory=dict)
    _changes: dict[tuple[object, ...], Change | None] = field(default_factory=dict)
    _beyond: dict[tuple[object, ...], QueueLack | None] = field(default_factory=dict)
    _empty_queues: QueueRound = field(init=False)

    def __post_init__(self) -> None:
        self._empty_queues = QueueRound.begin(self.done.snapshot.queues, self.done.snapshot.fleet)
        self._overtaken = Overtaken(self.done)

    def tell(self, waiting: Waiting, position: int, *, is_first_over: bool) -> Wait:
        job_id = waiting.request.job_id
        told = self._told(waiting)
        reason = told.pop("reason", waiting.reason)
        if stopped := self.awaited.get(job_id):
            told["blocking_job"], reason = stopped, Reason.PREEMPTING
        if "change" not in told:
            told["change"] = self._change(waiting, reason, is_first_over=is_first_over)
        risk = self.done.keeping.risks.get(job_id)
        return Wait(job_id, position, reason, **told, risk="" if risk is None else risk.sentence)

    def _told(self, waiting: Waiting) -> dict[str, Any]:
        """Return what there is to say beside the reason: fields of a `Wait`; the reason too, when it is another."""
        request, kept = waiting.request, waiting.kept.job_id if waiting.kept else ""
        match waiting.reason:
            case Reason.BACKOFF:
                change = Change(Remedy.WAIT_UNTIL, at=request.not_before)
                return {"earliest": request.not_before, "change": change}
            case Reason.QUOTA_EXCEEDED | Reason.QUOTA_RESERVED:
                job = kept if waiting.reason is Reason.QUOTA_RESERVED else ""
                told = {"shortage": waiting.lack, "blocking_project": request.project_id, "blocking_job": job}
                is_reserved = waiting.reason is Reason.QUOTA_RESERVED
                return told | (self._for_deadline(waiting) if is_reserved else self._beyond_quota(request))
            case Reason.QUEUE_QUOTA if waiting.queue_lack is not None:
                lack = waiting.queue_lack
                return {
                    "shortage": Shortage(lack.resource, lack.needed, lack.available), "blocking_queue": lack.at,
                    "detail": lack.sentence, "blocking_job": kept, **self._beyond_queue(request),
                }  # fmt: skip
            case Reason.WINDOW if waiting.window is not None:
                return {"window": waiting.window.name, "earliest": waiting.window.ends_at}
            case Reason.RESERVED:
                if waiting.due:
                    reservation = self.done.reservations.get(request.job_id)
                    at = None if reservation is None else reservation.at
                    return {"earliest": at, "blocking_job": waiting.due, **self._for_deadline(waiting)}
                return {"shortage": self._lack(waiting, reserved=True), "blocking_job": self._kept_for(waiting)}
            case Reason.RESOURCES:
                return self._beyond_queue(request) or self._for_room(waiting)
            case _:
                return {"shortage": waiting.lack}

    def _for_deadline(self, waiting: Waiting) -> dict[str, Any]:
        """Return the sentence for what is kept for another job's promised deadline; nothing when nothing is."""
        begins = self.done.keeping.begins(waiting.due) if waiting.due else None
        if begins is None:
            return {}
        request, start = waiting.request, f"{begins:%Y-%m-%d %H:%M:%S} UTC"
        what = "There is room" if waiting.reason is Reason.RESERVED else "There is quota"
        return {
            "detail": f"{what}, but {waiting.due}, whose deadline was promised, needs it from {start} on, and this job "
            + ("has no time limit." if request.runs_at_most_s is None else "could still run then.")
        }

    def _for_room(self, waiting: Waiting) -> dict[str, Any]:
        done, job_id = self.done, waiting.request.job_id
        told: dict[str, Any] = {"shortage": self._lack(waiting, reserved=False)}
        told |= self._overtaken.tell(waiting)
        reservation = done.reservations.get(job_id)
        if reservation is not None:
            told["earliest"] = reservation.at
            told["blocking_job"] = told.get("blocking_job") or reservation.awaited
        return told

    def _kept_for(self, waiting: Waiting) -> str:
        """Return the last job before this one whose prepared start lies where there is room for this one."""
        done, shape = self.done, waiting.shape
        before = list(done.reservations)
        before = before[: before.index(waiting.held_for) + 1]
        if len(before) == 1:
            return before[0]
        allowed = done.grounds.of(shape).allowed
        places = options(done.snapshot.fleet, shape)
        room_on = [holding(done.room, shape.ask, cluster, flavor, allowed) for cluster, flavor in places]
        return next(
            (job_id for job_id in reversed(before)
             if any(nodes[spot.node] for spot in done.reservations[job_id].target.spots for nodes in room_on)),
            waiting.held_for,
        )  # fmt: skip

    def _lack(self, waiting: Waiting, *, reserved: bool) -> Shortage:
        key = (waiting.shape, reserved)
        if key not in self._lacks:
            done = self.done
            room = done.late if reserved and done.late is not None else done.room
            self._lacks[key] = shortage(room, waiting.shape, done.grounds.of(waiting.shape).allowed)
        return self._lacks[key]

    def _beyond_quota(self, request: Request) -> dict[str, Any]:
        """Say that a job asks for more than its project may ever hold, as after a quota was lowered; else nothing."""
        lack = over_quota(request, self.done.snapshot.quotas.get(request.project_id))
        if lack is None:
            return {}
        needed, limit = amount(lack.resource, lack.needed), amount(lack.resource, lack.available)
        return {
            "detail": f"It needs {needed} {label(lack.resource)} in all, the quota of its project is {limit}: it "
            "starts only once that is raised.",
            "is_for_good": True,
        }

    def _beyond_queue(self, request: Request) -> dict[str, Any]:
        """Say that a job asks for more than its queue could ever have, as after that was lowered; else nothing."""
        empty, rules = self._empty_queues, self.done.snapshot.rules
        if not empty.tree:
            return {}
        queue = empty.tree.queue_of(request.project_id, request.queue)
        key = queue, request.shapes, request.ranks_min, rules.burst is not None and rules.burst.allows(request)
        if key not in self._beyond:
            self._beyond[key] = beyond_queue(request, empty, self.done.grounds, rules.burst)
        lack = self._beyond[key]
        if lack is None:
            return {}
        once = "that is raised, or it asks for less" if lack.queue else "a queue names its project"
        return {
            "reason": Reason.QUEUE_QUOTA, "shortage": Shortage(lack.resource, lack.needed, lack.available),
            "blocking_queue": lack.at, "blocking_job": "", "is_for_good": True,
            "detail": f"It needs {lack.at_most}: it starts only once {once}.",
        }  # fmt: skip

    def _change(self, waiting: Waiting, reason: Reason, *, is_first_over: bool) -> Change | None:
        if reason in (Reason.QUOTA_EXCEEDED, Reason.QUOTA_RESERVED) and not is_first_over:
            return None
        key = self._case(waiting, reason)
        if key not in self._changes:
            if len(self._changes) >= self.changes:
                return None
            self._changes[key] = smallest_change(self.done, waiting, reason)
        return self._changes[key]

    def _case(self, waiting: Waiting, reason: Reason) -> tuple[object, ...]:
        """Return what the smallest change depends on: it is looked for once for jobs that have that in common.

        Where something starts, that is tried for the first of them; in rare cases others would find those that start
        placed otherwise. `explain` looks for each by itself.
        """
        done, request, shape = self.done, waiting.request, waiting.shape
        is_head = request.job_id in done.reservations
        counts = bool(done.keeping.projects) or reason in (Reason.QUOTA_EXCEEDED, Reason.WINDOW)
        has_quota = counts and request.project_id in done.snapshot.quotas
        return (
            shape, reason, waiting.in_gap, is_head, waiting.due, request.ask == shape.ask,
            done.keeping.count(request), done.may_fill_gap(request), request.job_id if request.deadline else "",
            request.project_id if has_quota or done.queues.tree else "", request.queue if done.queues.tree else "",
        )  # fmt: skip
