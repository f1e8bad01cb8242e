"""Which running elastic jobs to stop so that they go on with more ranks, when nobody waits for room. Pure.

A job has as many ranks as there was room for when it started. Once there is more, it is stopped, waits again, and the
next plan starts it with all that it can have: so what it would get is looked up as that plan will look it up. It is
worth it when the devices that it gains, for as long as it is expected to run (an hour at most), are more than what is
lost by stopping it.

Several grow in one plan, up to as many as it may stop others for: they are placed together, in the order in which the
next plan looks at them, and each must come out with more ranks than it has. They do not give back at the same time: who
is back first takes what it then finds, also of what the next was to gain, but never what that one held, which comes
free only when it waits itself. So none ends with less than it had. Nothing is resized while anything is being stopped.

It comes to rest: each resize gives a job more ranks than it had, and nothing that has run for less than `regrow_s` is
resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from dujiang.scheduling.domain.decide import Round
from dujiang.scheduling.domain.find import find, placements
from dujiang.scheduling.domain.preempt import lost_device_s
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.request import Shape, shape_of
from dujiang.scheduling.domain.reserve import turns
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.snapshot import Amounts, Holding
from dujiang.scheduling.domain.stops import Stop, StopWhy
from dujiang.scheduling.domain.turns import width

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


def grow(done: Round) -> list[Stop]:
    """Return the jobs to resize after a round, those with the most to gain first; none while anybody waits for room.

    Args:
        done: a round that has run.
    """
    snapshot = done.snapshot
    most = snapshot.rules.most_stops_for
    if not most or any(one.reason not in WAITS_FOR_NOTHING for one in done.waiting):
        return []
    if done.keeping.kept or any(holding.is_stopping for holding in snapshot.holdings):
        return []
    tried, free, chosen = 0, dict[Shape, bool](), dict[int, Fit]()
    for number in _candidates(done):
        if len(chosen) >= most or tried >= _TRIES:
            break
        holding = snapshot.holdings[number]
        if chosen and any(_has_choice(snapshot.holdings[one]) for one in (*chosen, number)):
            continue
        if not _has_room_for_one(holding, done, free):
            continue
        fits = _next_places([*chosen, number], done)
        if fits is not None and _may_grow(fits, done):
            chosen = {one: fits[one] for one in (*chosen, number)}
        tried += 1
    return [_stop(snapshot.holdings[number], fit, done) for number, fit in chosen.items()]


def _has_choice(holding: Holding) -> bool:
    """Say whether a job may start with another ask than it has now, and then with fewer ranks: it grows alone."""
    return holding.request is not None and bool(holding.request.alternatives)


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


def _next_places(numbers: Sequence[int], done: Round) -> dict[int, Fit] | None:
    """Return the places that the next plan would give these jobs together, in its order; None where one gets none."""
    held = [done.snapshot.holdings[number] for number in numbers]
    room = done.releases.after(done.room, turns(numbers, of=done.releases.count()), len(numbers))
    queues, moved, found = done.queues.after(held), list[tuple[str, Amounts]](), dict[int, Fit]()
    for one in held:
        a, b, c = one.total()
        moved.append((one.project_id, (-a, -b, -c)))
        done.caps.take(*moved[-1])
    for _, number in sorted(
        (done.order(one.request), at) for at, one in zip(numbers, held, strict=True) if one.request
    ):
        holding = done.snapshot.holdings[number]
        fit = _next_place(holding, done, room, queues)
        if fit is None:
            break
        found[number] = fit
        room.take(fit)
        ask, ranks, fleet = fit.ask, len(fit.spots), done.snapshot.fleet
        moved.append((holding.project_id, (ranks * ask.gpu_milli, ranks * ask.cpu_milli, ranks * ask.memory_bytes)))
        done.caps.take(*moved[-1])
        queues.take(holding.project_id, holding.queue, fleet.clusters[fit.cluster].name, placements(fleet, fit))
    for project, (a, b, c) in moved:
        done.caps.take(project, (-a, -b, -c))
    return found if len(found) == len(numbers) else None


def _may_grow(fits: Mapping[int, Fit], done: Round) -> bool:
    """Say whether every one of these jobs would be the better for its new place, and all may be stopped for that."""
    rules, lost_s = done.snapshot.rules, 0.0
    for number, fit in fits.items():
        holding = done.snapshot.holdings[number]
        lost_s += (mine := lost_device_s(holding, done))
        if not _is_worth_it(holding, fit, mine, done):
            return False
    return rules.most_lost_device_s is None or lost_s <= rules.most_lost_device_s - rules.lost_device_s


def _stop(holding: Holding, fit: Fit, done: Round) -> Stop:
    sentence = (
        f"Stopped to go on with {len(fit.spots)} ranks instead of {len(holding.ranks)}: there is room, and nobody "
        "waits for it; it goes on from its checkpoint."
    )
    return Stop(holding.job_id, StopWhy.RESIZED, lost_device_s=lost_device_s(holding, done), sentence=sentence)


def _next_place(holding: Holding, done: Round, room: Room, queues: QueueRound) -> Fit | None:
    """Return the place that the next plan would give a job: the first of its alternatives that fits, as it does."""
    asked = holding.request
    assert asked is not None
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
    before, after = _devices(holding), len(fit.spots) * width(fit.ask.gpu_milli, fit.ask.cpu_milli)
    if len(fit.spots) <= len(holding.ranks) or after <= before:
        return False
    ends = [at for at in (holding.expected_end, holding.ends_at) if at is not None]
    ahead_s = min([LOOKS_AHEAD_S, *(max((at - done.now).total_seconds(), 0.0) for at in ends)])
    return (after - before) * ahead_s > lost_s + before * RESTART_S


def _devices(holding: Holding) -> float:
    gpu_milli, cpu_milli, _ = holding.total()
    return width(gpu_milli, cpu_milli)
