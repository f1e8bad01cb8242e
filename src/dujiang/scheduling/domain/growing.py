"""Which running elastic jobs to stop so that they go on with more ranks, when nobody waits for room. Pure.

A job has as many ranks as there was room for when it started. Once there is more, it is stopped, waits again, and the
next plan starts it with all that it can have: so what it would get is looked up as that plan will look it up. It is
worth it when the devices that it gains, for as long as it is expected to run (an hour at most), are more than what is
lost by stopping it.

One job at a time: two that start again in another order than they were looked up in could take one another's place, and
one would be left waiting. So nothing is resized while anything is being stopped.

It comes to rest: each resize gives a job more ranks than it had, and nothing that has run for less than `regrow_s` is
resized.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from dujiang.scheduling.domain.decide import Round
from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.preempt import CORE_PER_DEVICE, lost_device_s
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.request import Shape, shape_of
from dujiang.scheduling.domain.reserve import turns
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.snapshot import Holding
from dujiang.scheduling.domain.stops import Stop, StopWhy

WAITS_FOR_NOTHING: Final = frozenset(
    {
        Reason.BACKOFF,
        Reason.NO_MATCHING_DEVICE,
        Reason.NO_IMAGES,
        Reason.TOO_LARGE,
        Reason.TAINTED,
        Reason.NODE_UNAVAILABLE,
    }
)
"""Reasons of jobs that could not use what is free now."""
LOOKS_AHEAD_S: Final = 3600.0
"""A gain further ahead is not counted: who knows who comes."""
RESTART_S: Final = 60.0
"""What a stop and a start cost at least, for each device, however fresh the checkpoint."""
_TRIES: Final = 16
"""Jobs for which a plan looks for a larger place; each try costs a look at the whole room."""


def grow(done: Round) -> Stop | None:
    """Return the job to resize after a round, that with the most to gain first; None while anybody waits for room.

    Args:
        done: a round that has run.
    """
    snapshot = done.snapshot
    if not snapshot.rules.most_stops_for or any(one.reason not in WAITS_FOR_NOTHING for one in done.waiting):
        return None
    if done.keeping.kept or any(holding.is_stopping for holding in snapshot.holdings):
        return None
    tried, free = 0, dict[Shape, bool]()
    for number in _candidates(done):
        holding = snapshot.holdings[number]
        if not _has_room_for_one(holding, done, free):
            continue
        if (stop := _resize(number, holding, done)) is not None:
            return stop
        tried += 1
        if tried >= _TRIES:
            break
    return None


def _candidates(done: Round) -> list[int]:
    """Return the holdings that may be resized, those that could gain most first."""
    rules = done.snapshot.rules
    latest = done.now - timedelta(seconds=max(rules.regrow_s, rules.min_run_s))
    found: list[tuple[float, str, int]] = []
    for number, holding in enumerate(done.snapshot.holdings):
        asked = holding.request
        if asked is None or holding.ranks_max is None or not holding.may_stop or holding.started_at > latest:
            continue
        if len(holding.ranks) < asked.ranks:
            most = _devices(holding) / len(holding.ranks) * (asked.ranks - len(holding.ranks))
            found.append((-most, holding.job_id, number))
    return [number for _, _, number in sorted(found)]


def _has_room_for_one(holding: Holding, done: Round, free: dict[Shape, bool]) -> bool:
    """Say whether one rank more fits anywhere beside a job.

    Where none does, none does once it has given back its own either: those were of the same size.
    """
    assert holding.request is not None
    for shape in done.shapes(holding.request):
        one = shape_of(shape.ask, 1, shape.where, shape.avoid, shape.barred)
        if one not in free:
            ground = done.grounds.of(one)
            free[one] = ground.reason is None and find(done.room, one, ground.allowed) is not None
        if free[one]:
            return True
    return False


def _resize(number: int, holding: Holding, done: Round) -> Stop | None:
    """Return the stop of a job that would get more ranks and be the better for it."""
    rules, held = done.snapshot.rules, holding.total()
    room = done.releases.after(done.room, turns([number], of=done.releases.count()), 1)
    done.caps.take(holding.project_id, (-held[0], -held[1], -held[2]))
    fit = _next_place(holding, done, room)
    done.caps.take(holding.project_id, held)
    lost_s = lost_device_s(holding, done)
    if fit is None or not _is_worth_it(holding, fit, lost_s, done):
        return None
    if rules.most_lost_device_s is not None and lost_s > rules.most_lost_device_s - rules.lost_device_s:
        return None
    sentence = (
        f"Stopped to go on with {len(fit.spots)} ranks instead of {len(holding.ranks)}: there is room, and nobody "
        "waits for it; it goes on from its checkpoint."
    )
    return Stop(holding.job_id, StopWhy.RESIZED, lost_device_s=lost_s, sentence=sentence)


def _next_place(holding: Holding, done: Round, room: Room) -> Fit | None:
    """Return the place that the next plan would give a job: the first of its alternatives that fits, as it does."""
    asked = holding.request
    assert asked is not None
    queues = done.queues.after([holding])
    for shape in done.shapes(asked):
        ground = done.grounds.of(shape)
        least, ask = asked.ranks_min or shape.ranks, shape.ask
        most = done.caps.most_ranks(asked, (ask.gpu_milli, ask.cpu_milli, ask.memory_bytes), shape.ranks)
        if ground.reason is not None or most < least:
            continue
        if queues.look(asked.project_id, asked.queue, ask, least).lack is not None:
            continue
        most = queues.most_ranks(asked.project_id, asked.queue, ask, least, most)
        closed = queues.look(asked.project_id, asked.queue, ask, most).options
        larger = shape_of(ask, most, shape.where, shape.avoid, shape.barred)
        if (fit := find(room, larger, ground.allowed, least=least, closed=closed)) is not None:
            return fit
    return None


def _is_worth_it(holding: Holding, fit: Fit, lost_s: float, done: Round) -> bool:
    """Say whether more is gained than lost, in device-seconds."""
    before, after = _devices(holding), len(fit.spots) * _count(fit.ask.gpu_milli, fit.ask.cpu_milli)
    if len(fit.spots) <= len(holding.ranks) or after <= before:
        return False
    ends = [at for at in (holding.expected_end, holding.ends_at) if at is not None]
    ahead_s = min([LOOKS_AHEAD_S, *(max((at - done.now).total_seconds(), 0.0) for at in ends)])
    return (after - before) * ahead_s > lost_s + before * RESTART_S


def _devices(holding: Holding) -> float:
    gpu_milli, cpu_milli, _ = holding.total()
    return _count(gpu_milli, cpu_milli)


def _count(gpu_milli: int, cpu_milli: int) -> float:
    """Return how many devices that is; of work without, so many as its cores count for."""
    return gpu_milli / 1000 or cpu_milli / 1000 * CORE_PER_DEVICE
