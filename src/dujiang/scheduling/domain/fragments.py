"""Fragments: how much of what is free on a node the next job, drawn from those that are known, could not use.

On a node where the next job does not fit, everything free is a fragment; where it fits, the devices with less left than
it asks for are. A place is the better, the less it adds to what is expected to be lost that way.

Source: Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), section 3. Host memory counts like processors here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from dujiang.scheduling.domain.fleet import Flavor, IntArray
from dujiang.scheduling.domain.request import WHOLE, Ask, Request
from dujiang.scheduling.domain.snapshot import Holding

if TYPE_CHECKING:
    from dujiang.scheduling.domain.prospect import Prospect

FloatArray = npt.NDArray[np.float64]

_POPULAR: Final = 0.95
"""The most frequent asks that make up this part of the jobs are looked at."""
_MOST: Final = 100
"""And no more of them than this."""


@dataclass(frozen=True, slots=True)
class _Size:
    """Jobs that ask for the same part of each device; p of them."""

    milli: int
    devices: IntArray
    """(p)"""
    cpu_milli: IntArray
    memory_bytes: IntArray
    part: FloatArray
    """(p): of all jobs."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What may come next to devices of one flavor."""

    sizes: tuple[_Size, ...]
    misfit: float
    """The part of all jobs that cannot use the flavor at all."""

    def lost(self, milli: IntArray, cpu_milli: IntArray, memory_bytes: IntArray) -> FloatArray:
        """Return the expected fragments of nodes, in thousandths of a device.

        Args:
            milli: (k, w) what is free of each device; 0 where there is none.
            cpu_milli: (k) free.
            memory_bytes: (k) free.

        Returns:
            (k). O(k * w * different sizes).
        """
        total = milli.sum(axis=1)
        lost: FloatArray = self.misfit * total
        for size in self.sizes:
            able = milli >= size.milli
            count = able.sum(axis=1)
            below = total - np.where(able, milli, 0).sum(axis=1)
            fits = (
                (count[:, None] >= size.devices) & (cpu_milli[:, None] >= size.cpu_milli)
                & (memory_bytes[:, None] >= size.memory_bytes)
            )  # fmt: skip
            fitting = fits @ size.part
            lost += fitting * below + (size.part.sum() - fitting) * total
        return lost


class Typical:
    """The jobs that are known, as the next one is drawn from them."""

    def __init__(self, asks: Mapping[Ask, int]) -> None:
        """Keep the most frequent asks for devices, with how often each stands in the queue or runs."""
        ranked = sorted(
            ((count, ask) for ask, count in asks.items() if ask.gpu_milli),
            key=lambda one: (-one[0], -one[1].gpu_milli, one[1].describe(), one[1].gpu_memory_bytes),
        )
        total, so_far = sum(count for count, _ in ranked), 0
        self._kept: list[tuple[int, Ask]] = []
        for count, ask in ranked[:_MOST]:
            if so_far >= _POPULAR * total:
                break
            self._kept.append((count, ask))
            so_far += count
        self._total = max(so_far, 1)
        self._known: dict[int, Outlook] = {}
        self.prospect: Prospect | None = None
        """What may come, by `prospect`, once a room has asked for it."""

    def __bool__(self) -> bool:
        """Say whether anything is known."""
        return bool(self._kept)

    @property
    def asks(self) -> Sequence[tuple[int, Ask]]:
        """Return how often each of the most frequent asks for devices stands in the queue or runs."""
        return self._kept

    def of(self, flavor: Flavor) -> Outlook:
        """Return what may come to a flavor."""
        known = self._known.get(flavor.number)
        if known is None:
            known = self._known[flavor.number] = self._outlook(flavor)
        return known

    def _outlook(self, flavor: Flavor) -> Outlook:
        usable = [(count, ask) for count, ask in self._kept if flavor.matches(ask)]
        by_size: dict[int, list[tuple[int, Ask]]] = {}
        for count, ask in usable:
            by_size.setdefault(min(ask.gpu_milli, WHOLE), []).append((count, ask))
        sizes = tuple(
            _Size(
                milli,
                np.array([max(1, ask.whole_devices) for _, ask in group], dtype=np.int64),
                np.array([ask.cpu_milli for _, ask in group], dtype=np.int64),
                np.array([ask.memory_bytes for _, ask in group], dtype=np.int64),
                np.array([count / self._total for count, _ in group]),
            ) for milli, group in sorted(by_size.items())
        )  # fmt: skip
        return Outlook(sizes, 1 - sum(count for count, _ in usable) / self._total)


def counted(requests: Iterable[Request], holdings: Iterable[Holding]) -> dict[Ask, int]:
    """Return how often each ask stands in the queue or runs; what runs asks for what it holds, of any kind."""
    counts = dict(Counter(request.ask for request in requests))
    held: Counter[tuple[int, int, int]] = Counter()
    for holding in holdings:
        first = holding.ranks[0]
        if first.devices:
            milli = first.devices[0].gpu_milli
            held[milli if milli < WHOLE else milli * len(first.devices), first.cpu_milli, first.memory_bytes] += 1
    for (gpu, cpu, memory), count in held.items():
        ask = Ask(gpu_milli=gpu, cpu_milli=cpu, memory_bytes=memory)
        counts[ask] = counts.get(ask, 0) + count
    return counts


def after_taking(milli: IntArray, devices: int) -> IntArray:
    """Return what would be free of each device (k, w) once a rank has that many whole ones, the first in order."""
    is_whole = milli >= WHOLE
    after: IntArray = np.where(is_whole & (np.cumsum(is_whole, axis=1) <= devices), 0, milli)
    return after
