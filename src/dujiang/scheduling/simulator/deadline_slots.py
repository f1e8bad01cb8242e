"""The slots of `deadlines`, compiled: plans in order of deadlines, and what each job holds in each slot."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dujiang.scheduling.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

EDF: Final = 0
ELASTICFLOW: Final = 1
_TINY: Final = 1e-9


@compiled
def most_of(curve: int, limit: int, room: int, sizes: Ints) -> int:
    """Return the highest step up to a limit whose devices are in the room, -1 for none."""
    step = limit
    while step >= 0 and sizes[curve, step] > room:
        step -= 1
    return step


@compiled
def share(
    curve: int, left: float, deadline: float, now: int, free: Ints, row: Ints, held: int, sizes: Ints, rates: Floats,
    counts: Ints, slot_s: float, rescale_s: float,
) -> bool:  # fmt: skip
    """Find the smallest share by which a job meets its deadline in what is free, and take it.

    Where changing the number of devices costs nothing, it goes one step down as soon as the deadline allows.

    Args:
        left: its iterations.
        now: first slot of `free` and `row`.
        free: devices of each slot from now on; what is taken is taken from it.
        row: steps of the job in each slot from now on, -1 for none: written.
        held: its step until now.
        rescale_s: time it loses at each change to another number of devices.

    Returns:
        Whether there is such a share. If not, nothing is taken. O(steps * slots).
    """
    slots = min(row.size, int(np.ceil((deadline - now * slot_s) / slot_s - _TINY)))
    for limit in range(counts[curve]):
        rest, last, before = left, -1, held
        for at in range(slots):
            step = most_of(curve, limit, free[at], sizes)
            if step >= 0:
                lost = rescale_s if step != before else 0.0
                rest -= rates[curve, step] * max(0.0, min(slot_s, deadline - (now + at) * slot_s) - lost)
                if rest <= _TINY * left:
                    last = at
                    break
            before = step
        if last < 0:
            continue
        for at in range(last + 1):
            row[at] = most_of(curve, limit, free[at], sizes)
        if rescale_s == 0:
            last = _thin(curve, limit, left, deadline, now, free, row, last, slots, sizes, rates, slot_s)
        for at in range(last + 1):
            if row[at] >= 0:
                free[at] -= sizes[curve, row[at]]
        for at in range(last + 1, row.size):
            row[at] = -1
        return True
    return False


@compiled
def _thin(
    curve: int, limit: int, left: float, deadline: float, now: int, free: Ints, row: Ints, last: int, slots: int,
    sizes: Ints, rates: Floats, slot_s: float,
) -> int:  # fmt: skip
    """Put a row one step lower from some slot on, as early as the deadline allows; return its last slot."""
    if limit == 0:
        return last
    # With the lower step in slots [at, slots): how much could be done there.
    below = 0.0
    done = 0.0
    for at in range(last + 1):
        if row[at] >= 0:
            done += rates[curve, row[at]] * min(slot_s, deadline - (now + at) * slot_s)
    turn = last + 1
    for at in range(slots - 1, -1, -1):
        step = most_of(curve, limit - 1, free[at], sizes)
        if step >= 0:
            below += rates[curve, step] * min(slot_s, deadline - (now + at) * slot_s)
        if at <= last and row[at] >= 0:
            done -= rates[curve, row[at]] * min(slot_s, deadline - (now + at) * slot_s)
        if done + below >= left * (1 + _TINY):
            if at <= last:
                turn = at
        elif at <= last:
            break
    if turn > last:
        return last
    rest = left
    for at in range(turn):
        if row[at] >= 0:
            rest -= rates[curve, row[at]] * slot_s
    for at in range(turn, slots):
        step = most_of(curve, limit - 1, free[at], sizes)
        row[at] = step
        if step >= 0:
            rest -= rates[curve, step] * min(slot_s, deadline - (now + at) * slot_s)
            if rest <= _TINY * left:
                return at
    return slots - 1


@compiled
def plan_all(
    active: Ints, count: int, now: int, deadline: Floats, left: Floats, curve: Ints, rows: Ints, offset: Ints,
    first: Ints, length: Ints, free: Ints, gpus: int, held: Ints, sizes: Ints, rates: Floats, counts: Ints,
    slot_s: float, rescale_s: float,
) -> int:  # fmt: skip
    """Plan admitted jobs in order of deadline from an empty cluster; return the first that fails, or -1."""
    horizon = 0
    for place in range(count):
        job = active[place]
        horizon = max(horizon, first[job] + length[job] - now)
    free[:horizon] = gpus
    for place in range(count):
        job = active[place]
        begin = offset[job] + now - first[job]
        row = rows[begin : offset[job] + length[job]]
        if not share(
            curve[job], left[job], deadline[job], now, free, row, held[job], sizes, rates, counts, slot_s, rescale_s
        ):
            return place
    return -1


@compiled
def _insert(active: Ints, count: int, job: int, deadline: Floats) -> int:
    place = count
    while place > 0 and (deadline[active[place - 1]], active[place - 1]) > (deadline[job], job):
        active[place] = active[place - 1]
        place -= 1
    active[place] = job
    return place


@compiled
def _remove(active: Ints, count: int, place: int) -> None:
    for each in range(place, count - 1):
        active[each] = active[each + 1]


@compiled
def _pays(target: int, planned: int, following: int, held: int, rates: Floats, slot_s: float, rescale_s: float) -> bool:
    """Say whether a job that holds a step instead of the planned one is no further behind in the next slot."""
    base = 0.0
    if planned >= 0:
        base = rates[planned] * (slot_s - (rescale_s if planned != held else 0.0))
    raised = rates[target] * (slot_s - (rescale_s if target != held else 0.0))
    back = 0.0
    if following >= 0 and following != target and following == planned:
        back = rates[following] * rescale_s
    return bool(raised >= base + back)


@compiled
def _spread(
    active: Ints, count: int, step: Ints, left: Floats, curve: Ints, planned: Ints, held: Ints, next_step: Ints,
    spare: int, sizes: Ints, rates: Floats, counts: Ints, slot_s: float, rescale_s: float,
) -> int:  # fmt: skip
    """Raise steps while devices are left, each time where a device saves most later; return what is left.

    Where a change costs time, who held more keeps it if it can, and nobody is raised who would not be further after
    going back in the next slot.
    """
    if rescale_s > 0:
        for place in range(count):
            job = active[place]
            if held[job] > step[job]:
                used = sizes[curve[job], step[job]] if step[job] >= 0 else 0
                extra = sizes[curve[job], held[job]] - used
                if extra <= spare:
                    spare -= extra
                    step[job] = held[job]
    while spare > 0:
        best, best_step, best_gain = -1, 0, 0.0
        for place in range(count):
            job = active[place]
            which, at = curve[job], step[job]
            had, used = 0.0, 0
            if at >= 0:
                had, used = rates[which, at], sizes[which, at]
            if had * slot_s >= left[job]:
                continue
            usual = max(0, planned[job])
            per_device = rates[which, usual] / sizes[which, usual]
            for target in range(at + 1, counts[which] if rescale_s > 0 else min(at + 2, counts[which])):
                extra = sizes[which, target] - used
                if extra > spare:
                    break
                if rescale_s > 0 and not _pays(
                    target, planned[job], next_step[job], held[job], rates[which], slot_s, rescale_s
                ):
                    continue
                gain = (min(rates[which, target], left[job] / slot_s) - had) / extra / per_device
                if gain > best_gain:
                    best, best_step, best_gain = job, target, gain
        if best < 0:
            break
        at = step[best]
        spare -= sizes[curve[best], best_step] - (sizes[curve[best], at] if at >= 0 else 0)
        step[best] = best_step
    return spare


@compiled
def play(
    submit: Floats, deadline: Floats, work: Floats, curve: Ints, sizes: Ints, rates: Floats, counts: Ints, gpus: int,
    slot_s: float, rescale_s: float, policy: int,
) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
    """Run all jobs, given in order of submission; return when each ended and which were admitted."""
    jobs = submit.size
    left = work.copy()
    end = np.full(jobs, np.inf)
    admitted = np.zeros(jobs, np.bool_)
    first = np.empty(jobs, np.int64)
    length = np.empty(jobs, np.int64)
    offset = np.zeros(jobs + 1, np.int64)
    for job in range(jobs):
        first[job] = int(np.ceil(submit[job] / slot_s - _TINY))
        length[job] = max(0, int(np.ceil(deadline[job] / slot_s - _TINY)) - first[job])
        offset[job + 1] = offset[job] + length[job]
    rows = np.full(offset[jobs], -1, np.int64)
    trial = np.full(offset[jobs], -1, np.int64)
    free = np.zeros(max(1, length.max() + 1), np.int64)
    active = np.zeros(jobs + 1, np.int64)
    waiting = np.zeros(jobs + 1, np.int64)
    step = np.full(jobs, -1, np.int64)
    planned = np.full(jobs, -1, np.int64)
    held = np.full(jobs, -1, np.int64)
    next_step = np.full(jobs, -1, np.int64)
    count, queued, arrived, now = 0, 0, 0, 0
    is_open = False
    while arrived < jobs or count or queued:
        if not count and not queued:
            now = max(now, first[arrived])
        while arrived < jobs and first[arrived] <= now:
            if policy == EDF:
                _insert(active, count, arrived, deadline)
                count += 1
                admitted[arrived] = True
            else:
                waiting[queued] = arrived
                queued += 1
                is_open = True
            arrived += 1
        # Who is promised its deadline
        if policy != EDF and queued:
            kept = 0
            for place in range(queued):
                job = waiting[place]
                fastest = rates[curve[job], counts[curve[job]] - 1]
                if now * slot_s + left[job] / fastest > deadline[job] + 1e-6:
                    continue  # no longer possible
                if not is_open:
                    waiting[kept] = job
                    kept += 1
                    continue
                where = _insert(active, count, job, deadline)
                failed = plan_all(active, count + 1, now, deadline, left, curve, trial, offset, first, length, free,
                                  gpus, held, sizes, rates, counts, slot_s, rescale_s)  # fmt: skip
                if failed < 0:
                    count += 1
                    admitted[job] = True
                    rows, trial = trial, rows
                    continue
                _remove(active, count + 1, where)
                if policy != ELASTICFLOW:
                    waiting[kept] = job
                    kept += 1
            queued = kept
        is_open = False
        # What each holds in this slot
        spare = gpus
        for place in range(count):
            job = active[place]
            if policy == EDF:
                step[job] = most_of(curve[job], counts[curve[job]] - 1, spare, sizes)
            else:
                at = now - first[job]
                step[job] = rows[offset[job] + at] if at < length[job] else -1
                planned[job] = step[job]
                next_step[job] = rows[offset[job] + at + 1] if at + 1 < length[job] else -1
            if step[job] >= 0:
                spare -= sizes[curve[job], step[job]]
        if policy != EDF:
            spare = _spread(active, count, step, left, curve, planned, held, next_step, spare, sizes, rates, counts,
                            slot_s, rescale_s)  # fmt: skip
            for place in range(queued):
                step[waiting[place]] = -1
                planned[waiting[place]] = -1
                next_step[waiting[place]] = -1
            if spare > 0:
                _spread(waiting, queued, step, left, curve, planned, held, next_step, spare, sizes, rates, counts,
                        slot_s, rescale_s)  # fmt: skip
        # What it does
        for which in range(2):
            members, number = (active, count) if which == 0 else (waiting, queued)
            kept = 0
            for place in range(number):
                job = members[place]
                if step[job] >= 0:
                    rate = rates[curve[job], step[job]]
                    lost = min(slot_s, rescale_s) if step[job] != held[job] else 0.0
                    if rate * (slot_s - lost) >= left[job] * (1 - _TINY):
                        end[job] = now * slot_s + lost + left[job] / rate
                        left[job] = 0.0
                        is_open = True
                        continue
                    left[job] -= rate * (slot_s - lost)
                held[job] = step[job]
                members[kept] = job
                kept += 1
            if which == 0:
                count = kept
            else:
                queued = kept
        now += 1
    return end, admitted
