"""How much of the devices that pods hold they asked for: whole devices for each, or shares of one for several."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dujiang.scheduling.simulator.jobs_traces import read_table
from dujiang.scheduling.simulator.traces import BadTrace

_MILLI: Final = 1000


@dataclass(frozen=True, slots=True)
class Stay:
    """What one pod asked for, and from when until when it was there."""

    start_s: int
    end_s: int
    gpus: int
    gpu_milli: int
    """Of each; less than 1000 only with one device."""


def read_stays(path: Path) -> list[Stay]:
    """Read pods that had devices: num_gpu, gpu_milli, creation_time, deletion_time and, where there, scheduled_time.

    Raises:
        BadTrace: what is wrong, with row and column.
    """
    stays = []
    for row in read_table(path, ("num_gpu", "gpu_milli", "creation_time", "deletion_time")):
        gpus = row.whole("num_gpu", least=0, most=1024)
        if not gpus:
            continue
        start = "scheduled_time" if row.text("scheduled_time") else "creation_time"
        start_s, end_s = row.whole(start, least=0, most=1 << 40), row.whole("deletion_time", least=0, most=1 << 40)
        milli = row.whole("gpu_milli", least=1, most=_MILLI)
        if gpus > 1 and milli < _MILLI:
            raise row.bad("gpu_milli", f"{gpus} devices of {milli} thousandths: only one device can be shared.")
        if end_s < start_s:
            raise row.bad("deletion_time", "it is before the pod was there.")
        if end_s > start_s:
            stays.append(Stay(start_s, end_s, gpus, milli))
    if not stays:
        raise BadTrace(f"{path} has no pod with devices and a stay. Give a list with times.", file=str(path))
    return stays


def sharing(stays: Sequence[Stay]) -> dict[str, Any]:
    """Return the share of held device time that was asked for, with whole devices and with shares of devices.

    Shares go online, best fit, on as many devices as needed; nothing moves. `fixed` counts the most devices held at any
    time as there all the time, as a cluster bought for that peak. What pods asked for is not what they used.
    """
    events = sorted(
        [(stay.start_s, 1, place) for place, stay in enumerate(stays)]
        + [(stay.end_s, 0, place) for place, stay in enumerate(stays)]
    )
    free: list[tuple[int, int]] = []
    room: dict[int, int] = {}
    held: dict[int, int] = {}
    opened = whole = asked = full = 0
    most_whole = most_shared = 0
    time_whole = time_shared = time_asked = 0
    before = events[0][0]
    for now, comes, place in events:
        shared = full + len(room)
        span = now - before
        time_whole, time_shared, time_asked = (
            time_whole + span * whole,
            time_shared + span * shared,
            time_asked + span * asked,
        )
        before = now
        stay = stays[place]
        sign = 1 if comes else -1
        whole += sign * stay.gpus
        asked += sign * stay.gpus * stay.gpu_milli
        if stay.gpu_milli == _MILLI:
            full += sign * stay.gpus
        elif comes:
            at = bisect_left(free, (stay.gpu_milli, -1))
            if at < len(free):
                left, device = free.pop(at)
            else:
                left, device, opened = _MILLI, opened, opened + 1
            room[device] = left - stay.gpu_milli
            held[place] = device
            insort(free, (room[device], device))
        else:
            device = held.pop(place)
            free.pop(bisect_left(free, (room[device], device)))
            room[device] += stay.gpu_milli
            if room[device] == _MILLI:
                del room[device]
            else:
                insort(free, (room[device], device))
        most_whole, most_shared = max(most_whole, whole), max(most_shared, full + len(room))
    length = max(1, events[-1][0] - events[0][0])
    return {
        "pods": len(stays),
        "pods_with_a_share": sum(1 for stay in stays if stay.gpu_milli < _MILLI),
        "asked_gpu_h": round(time_asked / _MILLI / 3600, 1),
        "whole": _figures(time_asked, time_whole, most_whole, length),
        "shared": _figures(time_asked, time_shared, most_shared, length),
    }


def _figures(time_asked: int, time_held: int, most: int, length: int) -> dict[str, float]:
    return {
        "held_gpu_h": round(time_held / 3600, 1),
        "asked_of_held": round(time_asked / _MILLI / max(1, time_held), 6),
        "most_gpus": most,
        "asked_of_fixed": round(time_asked / _MILLI / max(1, most * length), 6),
    }
