"""Who runs when any running job may be stopped: all in one order, each that still fits, and the rest waits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

Rank = tuple[int, ...]
"""Smaller comes first; the last number is the job, so that no two are equal."""


def choose(
    running: Sequence[Rank], waiting: Sequence[Rank], size: Sequence[int], free: int
) -> tuple[list[int], list[int]]:
    """Walk running and waiting jobs in one order and keep each whose devices are still there.

    Args:
        running, waiting: ranks in rising order on one scale.
        size: devices of each job, by its number.
        free: devices that are up and held by nobody.

    Returns:
        Places in `running` that stop and places in `waiting` that start. Running jobs before the first that waits are
        not looked at; those between two waiting ones are counted together where all fit, and walked where they do not.
    """
    at = first = bisect_left(running, waiting[0]) if waiting else len(running)
    before = list(accumulate([size[rank[-1]] for rank in running[first:]], initial=0))
    left = free + before[-1]
    stops: list[int] = []
    starts: list[int] = []

    def keep_until(place: int) -> None:
        nonlocal at, left
        asked = before[place - first] - before[at - first]
        if asked <= left:
            left -= asked
        else:
            for each in range(at, place):
                asked = size[running[each][-1]]
                if asked <= left:
                    left -= asked
                else:
                    stops.append(each)
        at = place

    for place, rank in enumerate(waiting):
        keep_until(bisect_left(running, rank, at))
        if not left:
            break
        asked = size[rank[-1]]
        if asked <= left:
            left -= asked
            starts.append(place)
    keep_until(len(running))
    return stops, starts
