"""The smallest single change that would start a waiting job in the very next plan.

Every change is tried before it is told: against what is free at the end of the round, which is never more than what was
free at the job's turn. So applying it and planning again starts the job; `apply_change` does exactly that. Where others
may go elsewhere with it that is not enough, and the round is run again with the change. What starts before the job is
placed by what all that wait ask for (`fragments`), and with less kept for the deadline of a job, one before it may
start, and take the room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from dujiang.scheduling.domain.caps import plus
from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import find, holding, options, room_for
from dujiang.scheduling.domain.ground import most_free
from dujiang.scheduling.domain.reasons import Change, Reason, Remedy
from dujiang.scheduling.domain.request import WHOLE, Ask, Request, Shape, shape_of
from dujiang.scheduling.domain.room import Room
from dujiang.scheduling.domain.snapshot import COUNTED, UNLIMITED, Snapshot


def smallest_change(done: Round, waiting: Waiting, reason: Reason) -> Change | None:
    """Return the smallest change that starts a job, None when no single one was found.

    Cost: a few placements; one round more where others may go elsewhere with it.
    """
    change = _smallest(done, waiting, reason)
    if change is None or not _moves_others(done, waiting.request, change):
        return change
    changed, now = apply_change(done.snapshot, done.now, waiting.request.job_id, change)
    trial = Round(changed, now)
    trial.run()
    return change if any(start.job_id == waiting.request.job_id for start in trial.starts) else None


def _smallest(done: Round, waiting: Waiting, reason: Reason) -> Change | None:
    match reason:
        case Reason.QUOTA_EXCEEDED:
            return _raise_quota(done, waiting)
        case Reason.WINDOW:
            return _limit_time(done, waiting)
        case Reason.RESERVED:
            return _limit_time(done, waiting) or _lower_ask(done, waiting)
        case Reason.RESOURCES | Reason.PRIORITY | Reason.QUEUE_QUOTA:
            return _lower_ask(done, waiting)
        case _:
            return None


def apply_change(snapshot: Snapshot, now: datetime, job_id: str, change: Change) -> tuple[Snapshot, datetime]:
    """Return the snapshot and the time after a change; plan them to see what it does."""
    match change.remedy:
        case Remedy.WAIT_UNTIL:
            return snapshot, change.at or now
        case Remedy.RAISE_QUOTA:
            project = next(r.project_id for r in snapshot.requests if r.job_id == job_id)
            raised = replace(snapshot.quotas.get(project, UNLIMITED), **dict(change.amounts))
            return replace(snapshot, quotas={**snapshot.quotas, project: raised}), now
        case Remedy.LIMIT_TIME | Remedy.LOWER_ASK:
            changed = tuple(_with(r, change) if r.job_id == job_id else r for r in snapshot.requests)
            return replace(snapshot, requests=changed), now


def _moves_others(done: Round, request: Request, change: Change) -> bool:
    """Say whether a change may move others before the job: what starts, or what is kept for promised deadlines."""
    if change.remedy is Remedy.RAISE_QUOTA:
        return request.project_id in done.keeping.projects
    return request.deadline is not None or (change.remedy is Remedy.LOWER_ASK and bool(done.starts))


def _with(request: Request, change: Change) -> Request:
    if change.remedy is Remedy.LIMIT_TIME:
        return replace(request, runs_at_most_s=change.seconds)
    if change.resource == "ranks":
        return replace(request, ranks=change.to, ranks_min=min(request.ranks_min or change.to, change.to))
    return replace(request, ask=_lowered(request.ask, change.resource, change.to))


def _lowered(ask: Ask, resource: str, to: int) -> Ask:
    amounts: dict[str, Any] = {resource: to}
    return replace(ask, **amounts)


def _raise_quota(done: Round, waiting: Waiting) -> Change | None:
    """Find the quota with which the first job of a project that is over it starts."""
    request = waiting.request
    if request.project_id in done.curbed or not _fits(done, waiting, waiting.shape):
        return None
    limits = done.snapshot.quotas.get(request.project_id, UNLIMITED).limits()
    used = done.caps.used(request.project_id)
    if waiting.kept is not None:
        used = plus(used, waiting.kept.amounts)
    total = _total(waiting.shape)
    needed = plus(used, total)
    amounts = tuple(
        (name, to)
        for name, limit, to, wanted in zip(COUNTED, limits, needed, total, strict=True)
        if limit is not None and wanted and to > limit
    )
    return Change(Remedy.RAISE_QUOTA, amounts=amounts)


def _limit_time(done: Round, waiting: Waiting) -> Change | None:
    """Find the time limit with which it is over before the reserved start, or before the window begins."""
    request, shape = waiting.request, waiting.shape
    if waiting.window is not None:
        at: datetime | None = waiting.window.begins_at
        shape = shape_of(shape.ask, shape.ranks, shape.where, shape.avoid, done.barred(request, at))
    elif waiting.due:
        at = done.keeping.begins(waiting.due)
    else:
        at = done.gap_ends
    if at is None:
        return None
    seconds = (at - done.now).total_seconds()
    ground = done.grounds.of(shape)
    if seconds < 1 or ground.reason is not None or not _within_quotas(done, waiting, shape):
        return None
    in_gap = (waiting.window is None and not waiting.due) or done.may_fill_gap(request, at)
    limited = replace(request, runs_at_most_s=float(int(seconds)))
    if done.keeping.quota_for(limited, shape):
        return None
    room = done.keeping.lowered(done.base(in_gap=in_gap), limited, in_gap=in_gap)
    if find(room, shape, ground.allowed, closed=done.closed(request, shape)) is None:
        return None
    return Change(Remedy.LIMIT_TIME, seconds=float(int(seconds)))


def _lower_ask(done: Round, waiting: Waiting) -> Change | None:
    """Find the one amount that must be lowered by the smallest part; not of an alternative, which would stay second."""
    if waiting.shape.ask != waiting.request.ask:
        return None
    best: tuple[float, Change] | None = None
    room = _room_for(done, waiting)
    for resource, asked, to in (*_lower_amounts(done, room, waiting.shape), *_lower_for_queue(waiting)):
        if not 0 < to < asked:
            continue
        kept = to / asked
        if best is not None and kept <= best[0]:
            continue
        if resource == "ranks":
            shape = replace(waiting.shape, ranks=to)
        else:
            shape = replace(waiting.shape, ask=_lowered(waiting.shape.ask, resource, to))
        if _fits(done, waiting, shape):
            best = kept, Change(Remedy.LOWER_ASK, resource=resource, to=to)
    return best[1] if best else None


def _lower_amounts(done: Round, room: Room, shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Yield (resource, asked for, the most that may fit) for every amount that could be lowered alone."""
    allowed, ask = done.grounds.of(shape).allowed, shape.ask
    places = list(options(room.fleet, shape))
    if shape.ranks > 1:
        most = max((room_for(room, shape, cluster, flavor, allowed) for cluster, flavor in places), default=0)
        yield "ranks", shape.ranks, min(most, shape.ranks - 1)
        return
    for resource in ("cpu_milli", "memory_bytes", "disk_bytes"):
        asked = getattr(ask, resource)
        if not asked:
            continue
        without = replace(shape, ask=_lowered(ask, resource, 0))
        for cluster, flavor in places:
            holds = holding(room, without.ask, cluster, flavor, allowed)
            yield resource, asked, min(most_free(room, resource, ask, cluster, flavor, holds)[0], asked)
    if not ask.gpu_milli:
        return
    host = Ask(cpu_milli=ask.cpu_milli, memory_bytes=ask.memory_bytes, disk_bytes=ask.disk_bytes)
    for cluster, flavor in places:
        holds = holding(room, host, cluster, None, allowed)
        most = most_free(room, "gpu_milli", ask, cluster, flavor, holds)[0]
        yield "gpu_milli", ask.gpu_milli, most
        if ask.gpu_milli <= WHOLE:
            smallest = replace(ask, gpu_milli=1, gpu_memory_bytes=0)
            share = most_free(room, "gpu_milli", smallest, cluster, flavor, holds)[0]
            yield "gpu_milli", ask.gpu_milli, min(share, WHOLE - 1)
        if ask.is_fraction and ask.gpu_memory_bytes:
            yield (
                "gpu_memory_bytes",
                ask.gpu_memory_bytes,
                most_free(room, "gpu_memory_bytes", ask, cluster, flavor, holds)[0],
            )


def _lower_for_queue(waiting: Waiting) -> Iterator[tuple[str, int, int]]:
    """Yield (resource, asked for, the most that may fit) for what the queue has too little of."""
    lack, ask, ranks = waiting.queue_lack, waiting.shape.ask, waiting.shape.ranks
    if lack is None:
        return
    if ranks > 1:
        yield "ranks", ranks, ranks * lack.available // lack.needed
    elif lack.resource == "gpu_milli" and ask.whole_devices:
        yield "gpu_milli", ask.gpu_milli, lack.available // WHOLE * WHOLE
    elif lack.resource == "gpu_memory_bytes" and ask.whole_devices:
        yield "gpu_milli", ask.gpu_milli, ask.whole_devices * lack.available // lack.needed * WHOLE
    elif getattr(ask, lack.resource):
        yield lack.resource, getattr(ask, lack.resource), lack.available


def _room_for(done: Round, waiting: Waiting) -> Room:
    """Return the room that the job may use: what is reserved is for whom it is, and for what is over in time."""
    in_gap = done.late is None or waiting.in_gap or done.may_fill_gap(waiting.request)
    is_first = not in_gap and next(iter(done.reservations)) == waiting.request.job_id
    return done.keeping.lowered(done.base(in_gap=in_gap or is_first), waiting.request, in_gap=in_gap or is_first)


def _fits(done: Round, waiting: Waiting, shape: Shape) -> bool:
    ground, request = done.grounds.of(shape), waiting.request
    if ground.reason is not None:
        return False
    look = done.queues.look(request.project_id, request.queue, shape.ask, shape.ranks)
    if look.lack is not None and not (look.kept_for == request.job_id and _is_left(done, request, shape)):
        return False
    if waiting.queue_lack is not None and done.caps.check(request, _total(shape), done.holdings, done.is_over_by):
        return False  # the others were past their project's quota when they were judged
    if done.keeping.quota_for(request, shape):
        return False
    return find(_room_for(done, waiting), shape, ground.allowed, closed=look.options) is not None


def _within_quotas(done: Round, waiting: Waiting, shape: Shape) -> bool:
    """Say whether project and queue may have so much more."""
    request = waiting.request
    if done.caps.check(request, _total(shape), done.holdings, done.is_over_by) is not None:
        return False
    return done.queues.look(request.project_id, request.queue, shape.ask, shape.ranks).lack is None


def _is_left(done: Round, request: Request, shape: Shape) -> bool:
    """Say whether a queue has so much left when nothing is kept."""
    without = done.queues.after(())
    return without.look(request.project_id, request.queue, shape.ask, shape.ranks).lack is None


def _total(shape: Shape) -> tuple[int, int, int]:
    ask, ranks = shape.ask, shape.ranks
    return ask.gpu_milli * ranks, ask.cpu_milli * ranks, ask.memory_bytes * ranks
