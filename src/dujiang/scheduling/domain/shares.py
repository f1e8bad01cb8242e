"""Fair share: who has used less than is due to them stands further in front, inside the band of the class.

Use counts in gpu-seconds and fades: after one half-life it counts half. A project's factor is 1 when it has used
nothing, 1/2 when it has used just its share, and falls towards 0 beyond it.

Source: the classic fair-share formula of Slurm's multifactor priority, F = 2^(-U/S). What the other projects of a queue
have used counts too: U is half its own use and half its share of what its queue has used, level by level. (Slurm's own
rule for that puts whoever stands deep in the tree behind, even when everyone has used just their share.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from dujiang.scheduling.domain.bands import BANDS, TaskClass
from dujiang.scheduling.domain.queues import QueueTree


class Use(NamedTuple):
    """Devices held by a project for a time: one row of the ledger."""

    project_id: str
    gpu_milli: int
    started_at: datetime
    ended_at: datetime | None = None
    """None: until now."""


@dataclass(frozen=True, slots=True)
class FairShare:
    """How much of what is due to a project it has used, and what follows for its work."""

    project_id: str
    usage_gpu_s: float
    """What it used, faded."""
    all_gpu_s: float
    """What all have used, faded."""
    share: float
    """What part of everything is due to it: its queue's, divided equally among the projects of the queue."""
    used_part: float
    """Its effective use, 0 to 1: half its own part of all use, half its share of what its queue has used."""
    part: float = 0.5
    """How much of the place in the band the factor decides; the rest is the job's own weight."""

    @property
    def own_part(self) -> float:
        """Return its own part of all use."""
        return self.usage_gpu_s / self.all_gpu_s if self.all_gpu_s > 0 else 0.0

    @property
    def factor(self) -> float:
        """Return 1 for nothing used, 1/2 for just its share, 0 for nothing due."""
        return 2.0 ** (-self.used_part / self.share) if self.share > 0 else 0.0

    @property
    def arithmetic(self) -> str:
        """Return how the factor comes about, with its figures."""
        hours, every = self.usage_gpu_s / 3600, self.all_gpu_s / 3600
        told = f"It has used {hours:.4g} of {every:.4g} gpu-hours ({self.own_part:.1%}), older use counting less"
        if abs(self.used_part - self.own_part) >= 0.0005:
            told += f"; half by that and half by its share of what its queue has used, {self.used_part:.1%}"
        if not self.share:
            return f"{told}. It is in no queue, so no share is due to it: factor 0."
        power = f"2^(-{self.used_part:.3f}/{self.share:.3f})"
        return f"{told}. Its share is {self.share:.1%}: factor {power} = {self.factor:.3f}."

    def weight(self, task_class: TaskClass, weight: float) -> float:
        """Return the weight that a job of the project has in the queue."""
        return adjusted_weight(task_class, weight, self.factor, self.part)


def decayed(gpu_milli: int, start: datetime, end: datetime | None, now: datetime, half_life_s: float) -> float:
    """Return the gpu-seconds of a holding, each second counting half for every half-life that has passed since.

    Args:
        gpu_milli: held.
        start: from when.
        end: until when; None, or later than now, is now.
        now: the moment at which it is looked at.
        half_life_s: above 0.
    """
    stop = now if end is None or end > now else end
    return _at(gpu_milli, _seconds(start, now), _seconds(stop, now), half_life_s)


def adjusted_weight(task_class: TaskClass, weight: float, factor: float, part: float) -> float:
    """Return a weight inside the band of the class: part by the factor, the rest by the job's own weight.

    Args:
        task_class: whose band.
        weight: the job's own, inside the band.
        factor: 0 to 1.
        part: 0 leaves the weight as it is, 1 lets the factor alone decide.
    """
    if not part:
        return weight
    band = BANDS[task_class]
    width = band.high - band.low
    place = (1 - part) * (weight - band.low) / width + part * factor
    return min(band.high, max(band.low, band.low + place * width))


class UsageLog:
    """Faded use of each project, kept up as rows of the ledger close: each row is read once and then forgotten.

    Exact: what it says equals the sum of `decayed` over all rows, but for the rounding of sums.
    """

    __slots__ = ("_at", "_sums", "half_life_s")

    def __init__(self, half_life_s: float) -> None:
        """Begin with nothing used."""
        self.half_life_s = half_life_s
        self._at: datetime | None = None
        """The moment for which the sums are."""
        self._sums: dict[str, float] = {}

    def add(self, uses: Iterable[Use]) -> None:
        """Count uses that have ended, in any order; others are passed over."""
        ended = [(use, use.ended_at) for use in uses if use.gpu_milli and use.ended_at is not None]
        if not ended:
            return
        at = self._at = self._move(max(end for _, end in ended))
        for use, end in ended:
            more = _at(use.gpu_milli, _seconds(use.started_at, at), _seconds(end, at), self.half_life_s)
            self._sums[use.project_id] = self._sums.get(use.project_id, 0.0) + more

    def usage(self, now: datetime, live: Iterable[Use] = ()) -> dict[str, float]:
        """Return what each project has used, in gpu-seconds as they count now, with what it holds still."""
        fading = 0.0 if self._at is None else 2.0 ** (-max(0.0, _seconds(self._at, now)) / self.half_life_s)
        sums = {project_id: used * fading for project_id, used in self._sums.items()}
        for use in live:
            if use.gpu_milli:
                more = decayed(use.gpu_milli, use.started_at, use.ended_at, now, self.half_life_s)
                sums[use.project_id] = sums.get(use.project_id, 0.0) + more
        return sums

    def _move(self, at: datetime) -> datetime:
        """Take the sums to a later moment and return it; an earlier one leaves them."""
        if self._at is None or at <= self._at:
            return self._at or at
        fading = 2.0 ** (-_seconds(self._at, at) / self.half_life_s)
        self._sums = {project_id: used * fading for project_id, used in self._sums.items()}
        return at


def fair_shares(
    tree: QueueTree, usage: Mapping[str, float], projects: Iterable[str] = (), *, part: float = 0.5
) -> dict[str, FairShare]:
    """Return the fair share of every project that has used something, that a queue names, or that is given.

    The share of a queue is divided equally among its projects; without queues, everything among all projects. A project
    in no queue has a share of 0 where there are queues.

    Args:
        tree: the queues.
        usage: faded, by project, in gpu-seconds.
        projects: others that have work.
        part: see `FairShare.part`.
    """
    named = (project for queue in tree.queues for project in queue.projects)
    everyone = sorted({*usage, *projects, *named})
    of_queue: dict[str, list[str]] = {}
    for project in everyone:
        of_queue.setdefault(tree.queue_of(project), []).append(project)
    total = math.fsum(usage.values())
    own = {project: usage.get(project, 0.0) / total if total > 0 else 0.0 for project in everyone}
    effective = _effective(tree, {queue: math.fsum(own[one] for one in found) for queue, found in of_queue.items()})
    result: dict[str, FairShare] = {}
    for queue, found in of_queue.items():
        due = tree.share_of[queue] if queue else 0.0 if tree else 1.0
        for project in found:
            used = own[project]
            if queue and due < 1:
                used = (used + effective[queue] / len(found)) / 2
            share = due / len(found)
            result[project] = FairShare(project, usage.get(project, 0.0), total, share, used, part)
    return result


def _effective(tree: QueueTree, own: Mapping[str, float]) -> dict[str, float]:
    """Return the effective use of every queue: half its own part of all use, half its share of the queue above's.

    A queue to which everything is due leaves nothing to share out: below it counting begins anew.
    """
    below = [0.0] * len(tree.queues)
    for path in tree.paths:
        used = own.get(tree.queues[path[0]].name, 0.0)
        for at in path:
            below[at] += used
    found: dict[str, float] = {}
    for _, queue in tree.ordered():
        used = below[tree.queue_at[queue.name]]
        if queue.parent and tree.share_of[queue.parent] < 1:
            among = tree.share_of[queue.name] / tree.share_of[queue.parent]
            used = (used + found[queue.parent] * among) / 2
        found[queue.name] = used
    return found


def _at(gpu_milli: int, start_s: float, end_s: float, half_life_s: float) -> float:
    """Return the integral of what is held from start to end, each given as seconds before now."""
    if start_s <= end_s:
        return 0.0
    rate = math.log(2) / half_life_s
    return gpu_milli / 1000 * math.exp(-rate * end_s) * -math.expm1(-rate * (start_s - end_s)) / rate


def _seconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
