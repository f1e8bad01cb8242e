"""What else would start a waiting job at once: fewer ranks or devices, another model, a looser place, another queue.

Each answer has been planned: the snapshot with that one job asked for otherwise starts it in the very next plan. The
smallest change of what is asked for is told with every plan (`changes`); this looks wider, for whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from dujiang.kit.units import format_milli
from dujiang.scheduling.domain.fleet import Fleet
from dujiang.scheduling.domain.forecast import steps_for
from dujiang.scheduling.domain.plan import plan
from dujiang.scheduling.domain.queues import QueueTree
from dujiang.scheduling.domain.request import WHOLE, Constraints, Level, Request
from dujiang.scheduling.domain.snapshot import Snapshot

MOST_MODELS: Final = 8
"""Kinds of devices that are tried one by one."""
_WIDER: Final = (Level.NODE, Level.SWITCH, Level.RACK, Level.SITE, None)
_SHARES: Final = (750, 500, 250, 125)
"""Of one device, tried when not even one whole one is free."""


class Way(StrEnum):
    """What is asked for otherwise."""

    FEWER_RANKS = "FewerRanks"
    FEWER_DEVICES = "FewerDevices"
    OTHER_MODEL = "OtherModel"
    LOOSER_PLACE = "LooserPlace"
    OTHER_QUEUE = "OtherQueue"


@dataclass(frozen=True, slots=True)
class Otherwise:
    """One way in which a job would start at once."""

    way: Way
    request: Request
    """The job as it would have to be asked for."""
    what: str
    """The change in words: `3 nodes instead of 4`."""
    cluster: str = ""
    """Where it would start."""

    @property
    def sentence(self) -> str:
        """Return it as a sentence."""
        return f"It starts now with {self.what}" + (f", on {self.cluster}." if self.cluster else ".")

    def apply(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot in which the job is asked for so."""
        job_id = self.request.job_id
        return replace(
            snapshot, requests=tuple(self.request if each.job_id == job_id else each for each in snapshot.requests)
        )


def otherwise(
    snapshot: Snapshot, now: datetime, job_id: str, *, projects: Sequence[tuple[str, str]] = (),
    most_tries: int | None = None,
) -> list[Otherwise]:  # fmt: skip
    """Return in which other ways a job would start now, at most one of each way but for models; none when it does.

    Args:
        snapshot: the moment.
        now: its time.
        job_id: the job.
        projects: others that it may be submitted in, as (id, name).
        most_tries: how many plans to make; None is as many as `steps_for` the snapshot. The ways share them in the
            order of `Way`: what comes last may go untried.
    """
    asked = next((request for request in snapshot.requests if request.job_id == job_id), None)
    if asked is None:
        return []
    tries = _Tries(snapshot, now, steps_for(snapshot) if most_tries is None else most_tries)
    if (asked.not_before is not None and asked.not_before > now) or tries.cluster(asked) is not None:
        return []
    found: list[Otherwise] = []
    for ways in (
        _fewer_ranks(tries, asked), _fewer_devices(tries, asked), _other_models(tries, asked, snapshot.fleet),
        _looser_places(tries, asked), _other_queues(tries, asked, projects, snapshot.queues),
    ):  # fmt: skip
        found += ways
    return found


class _Tries:
    """Plans the snapshot with one job asked for otherwise, as long as there are tries left."""

    def __init__(self, snapshot: Snapshot, now: datetime, left: int) -> None:
        self._snapshot, self._now, self.left = snapshot, now, left

    def cluster(self, changed: Request) -> str | None:
        """Return where the job would start, None when it would not, or no try is left."""
        if self.left <= 0:
            return None
        self.left -= 1
        others = tuple(changed if each.job_id == changed.job_id else each for each in self._snapshot.requests)
        done = plan(replace(self._snapshot, requests=others), self._now, telling=False)
        return next((start.cluster for start in done.starts if start.job_id == changed.job_id), None)

    def most(self, low: int, high: int, make: Callable[[int], Request]) -> tuple[int, str] | None:
        """Return the largest number from low to high with which it starts, found by halves, and where."""
        best: tuple[int, str] | None = None
        if low > high or (where := self.cluster(make(low))) is None:
            return None
        best, low = (low, where), low + 1
        while low <= high and self.left > 0:
            middle = (low + high + 1) // 2
            where = self.cluster(make(middle))
            best, low, high = ((middle, where), middle + 1, high) if where is not None else (best, low, middle - 1)
        return best


def _fewer_ranks(tries: _Tries, asked: Request) -> Iterator[Otherwise]:
    least = asked.ranks_min or asked.ranks

    def make(ranks: int) -> Request:
        return replace(asked, ranks=max(ranks, 1), ranks_min=None)

    if least > 1 and (found := tries.most(1, least - 1, make)) is not None:
        ranks, where = found
        yield Otherwise(Way.FEWER_RANKS, make(ranks), f"{_count(ranks, 'node')} instead of {asked.ranks}", where)


def _fewer_devices(tries: _Tries, asked: Request) -> Iterator[Otherwise]:
    count, was = asked.ask.whole_devices, format_milli(asked.ask.gpu_milli)

    def make(milli: int) -> Request:
        return replace(asked, ask=replace(asked.ask, gpu_milli=milli), alternatives=())

    if count > 1 and (found := tries.most(1, count - 1, lambda devices: make(devices * WHOLE))) is not None:
        devices, where = found
        yield Otherwise(
            Way.FEWER_DEVICES, make(devices * WHOLE), f"{_count(devices, 'device')} a node instead of {was}", where
        )
        return
    for milli in _SHARES if count <= 1 else ():
        if milli < asked.ask.gpu_milli and (cluster := tries.cluster(make(milli))) is not None:
            what = f"a share of {format_milli(milli)} of a device instead of {was}"
            yield Otherwise(Way.FEWER_DEVICES, make(milli), what, cluster)
            return


def _other_models(tries: _Tries, asked: Request, fleet: Fleet) -> Iterator[Otherwise]:
    """Try every kind of device but the one asked for; what asks for any kind has them all already."""
    ask = asked.ask
    if not ask.gpu_milli or not (ask.vendor or ask.model):
        return
    kinds = sorted({(f.vendor, f.model) for f in fleet.flavors if not f.is_called(ask)})
    for vendor, model in kinds[:MOST_MODELS]:
        changed = replace(asked, ask=replace(ask, vendor=vendor, model=model), alternatives=())
        if not any(flavor.matches(changed.ask) for flavor in fleet.flavors):
            continue
        if (cluster := tries.cluster(changed)) is not None:
            wanted = " ".join(part for part in (ask.vendor, ask.model) if part)
            yield Otherwise(Way.OTHER_MODEL, changed, f"{vendor} {model} instead of {wanted}".strip(), cluster)


def _looser_places(tries: _Tries, asked: Request) -> Iterator[Otherwise]:
    """Try the least loosening first."""
    for where, what in _loosened(asked.where):
        changed = replace(asked, where=where)
        if (cluster := tries.cluster(changed)) is not None:
            yield Otherwise(Way.LOOSER_PLACE, changed, what, cluster)
            return


def _loosened(where: Constraints) -> Iterator[tuple[Constraints, str]]:
    if where.within is not None and where.is_within_required:
        for level in _WIDER[_WIDER.index(where.within) + 1 :]:
            how = f"within one {level}" if level else "anywhere in a cluster"
            yield replace(where, within=level), f"its nodes {how} instead of within one {where.within}"
    if where.spread is not None:
        yield replace(where, spread=None), f"nodes that may share a {where.spread}"
    if where.apart:
        yield replace(where, apart=""), f"nodes that it may share with the jobs of {where.apart}"
    if where.cluster:
        yield replace(where, cluster=""), f"any cluster instead of {where.cluster}"


def _other_queues(
    tries: _Tries, asked: Request, projects: Sequence[tuple[str, str]], tree: QueueTree
) -> Iterator[Otherwise]:
    """Try the queues that its project may name, then the other projects."""
    here = tree.queue_of(asked.project_id, asked.queue)
    for name in (queue.name for queue in tree.queues if tree.queue_of(asked.project_id, queue.name) == queue.name):
        if name != here and (cluster := tries.cluster(replace(asked, queue=name))) is not None:
            yield Otherwise(Way.OTHER_QUEUE, replace(asked, queue=name), f"the queue {name}", cluster)
            return
    for project_id, name in projects:
        changed = replace(asked, project_id=project_id, queue="")
        if project_id != asked.project_id and (cluster := tries.cluster(changed)) is not None:
            yield Otherwise(Way.OTHER_QUEUE, changed, f"the project {name}", cluster)
            return


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
