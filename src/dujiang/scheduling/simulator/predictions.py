"""How well run times can be told on a trace: each job before it begins, by those alone that have ended by then.

Traces say when a job was submitted and how long it ran, not when it started: here each starts when it is submitted, so
some of what is learned from is known sooner than it was. What a trace does not say, such as the user, is not used.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dujiang.scheduling.domain.accuracy import Accuracy, Told, accuracy
from dujiang.scheduling.domain.expected import Likeness, RunTimes, stem_of
from dujiang.scheduling.simulator.jobs_traces import TraceJob

_ALL: Final = "-"
"""The one project of a trace that names none."""


class Teller(Protocol):
    """A way to tell run times."""

    def tell(self, job: TraceJob) -> float | None:
        """Return how long a job will run, in seconds; None when it cannot say."""
        ...

    def learn(self, job: TraceJob) -> None:
        """Take note of a job that has ended."""
        ...


class Ours:
    """The platform's: the median of the latest members of the narrowest group."""

    def __init__(self) -> None:
        self._times = RunTimes()
        self.by_group: dict[str, int] = {}

    def tell(self, job: TraceJob) -> float | None:
        """Return the expectation."""
        found = self._times.expect(likeness_of(job))
        if found is None:
            return None
        self.by_group[found.alike] = self.by_group.get(found.alike, 0) + 1
        return found.seconds

    def learn(self, job: TraceJob) -> None:
        """Take note of a job."""
        self._times.learn(likeness_of(job), float(job.duration_s))


class LatestTwo:
    """The mean of a user's latest two jobs; of the virtual cluster's where the trace names no users.

    Source: Tsafrir, Etsion and Feitelson, IEEE TPDS 18 (2007).
    """

    def __init__(self) -> None:
        self._latest: dict[str, deque[int]] = {}

    def tell(self, job: TraceJob) -> float | None:
        """Return the mean; of one job where there is only one."""
        latest = self._latest.get(job.user or job.vc)
        return sum(latest) / len(latest) if latest else None

    def learn(self, job: TraceJob) -> None:
        """Take note of a job."""
        self._latest.setdefault(job.user or job.vc, deque(maxlen=2)).append(job.duration_s)


class OneForAll:
    """The median of the latest jobs of the whole trace, whoever's."""

    def __init__(self) -> None:
        self._times = RunTimes()

    def tell(self, _job: TraceJob) -> float | None:
        """Return the median."""
        found = self._times.expect(Likeness())
        return None if found is None else found.seconds

    def learn(self, job: TraceJob) -> None:
        """Take note of a job."""
        self._times.learn(Likeness(), float(job.duration_s))


TELLERS: Final[Mapping[str, type[Ours] | type[LatestTwo] | type[OneForAll]]] = {
    "ours": Ours, "latest-two": LatestTwo, "one-for-all": OneForAll,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """How well one way told a trace."""

    name: str
    accuracy: Accuracy | None
    """Of the jobs of which every way could say something, so that all are compared on the same."""
    told: int
    """Of how many jobs it could say something."""
    by_group: Mapping[str, int]
    """Ours: how many jobs were told by which group."""


def compare(jobs: Sequence[TraceJob], names: Sequence[str] = tuple(TELLERS)) -> list[Outcome]:
    """Return how well each way tells the run times of a trace, in order of submission."""
    tellers = {name: TELLERS[name]() for name in names}
    told: dict[str, list[Told]] = {name: [] for name in names}
    counts = dict.fromkeys(names, 0)
    for job in _in_time(jobs, list(tellers.values())):
        said = {name: teller.tell(job) for name, teller in tellers.items()}
        for name, expected_s in said.items():
            counts[name] += expected_s is not None
        if all(expected_s is not None for expected_s in said.values()):
            for name, expected_s in said.items():
                told[name].append(Told(expected_s or 0.0, float(job.duration_s)))
    return [
        Outcome(name, accuracy(told[name]), counts[name], teller.by_group if isinstance(teller, Ours) else {})
        for name, teller in tellers.items()
    ]


def likeness_of(job: TraceJob) -> Likeness:
    """Return by what a job of a trace is compared with others; its model stands for a name where it has none."""
    return Likeness(job.vc or _ALL, job.user, stem_of(job.name or job.model), str(job.num_gpus))


def _in_time(jobs: Sequence[TraceJob], tellers: Sequence[Teller]) -> Iterator[TraceJob]:
    """Yield jobs as they are submitted; before each, all learn of those that have ended by then."""
    running: list[tuple[int, int]] = []
    for number, job in enumerate(jobs):
        while running and running[0][0] <= job.submit_s:
            ended = jobs[heapq.heappop(running)[1]]
            for teller in tellers:
                teller.learn(ended)
        yield job
        heapq.heappush(running, (job.submit_s + job.duration_s, number))
