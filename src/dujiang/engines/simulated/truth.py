"""What really happened in a virtual world, for tests to compare the platform with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dujiang.engines.contract import AttemptKey, End, RankPlacement
from dujiang.kit.clock import from_micros


@dataclass(slots=True)
class Run:
    """One attempt, as it really was."""

    key: AttemptKey
    ranks: tuple[RankPlacement, ...]
    deliveries: int = 0
    """How often a submission of it arrived."""
    starts: int = 0
    """How often its program really began: 1, or 0 when it never came so far (a failed setup, an early stop)."""
    started: int | None = None
    """When its first process began, setup included; microseconds since 1970 by the world's own clock."""
    finished: int | None = None
    """When the last of it was gone; after a lost node or supervisor the engine's report comes later."""
    end: End | None = None
    exit_code: int | None = None
    signal: int | None = None

    @property
    def started_at(self) -> datetime | None:
        """Return when its first process began."""
        return None if self.started is None else from_micros(self.started)

    @property
    def finished_at(self) -> datetime | None:
        """Return when the last of it was gone."""
        return None if self.finished is None else from_micros(self.finished)


class Truth:
    """Every attempt that ever arrived, also those that the engine was told to forget."""

    def __init__(self) -> None:
        self._runs: dict[AttemptKey, Run] = {}
        self._by_job: defaultdict[str, list[Run]] = defaultdict(list)

    @property
    def runs(self) -> Mapping[AttemptKey, Run]:
        """Return every attempt, in the order of arrival."""
        return self._runs

    def add(self, run: Run) -> None:
        """Take up an attempt that has arrived for the first time."""
        self._runs[run.key] = run
        self._by_job[run.key.job_id].append(run)

    def of(self, key: AttemptKey) -> Run | None:
        """Return what really became of an attempt; None when it never arrived."""
        return self._runs.get(key)

    def of_job(self, job_id: str) -> Sequence[Run]:
        """Return the attempts of a job, in the order of arrival."""
        return self._by_job.get(job_id, [])

    def running(self) -> list[AttemptKey]:
        """Return what runs now."""
        return sorted(key for key, run in self._runs.items() if run.started is not None and run.finished is None)

    def started_twice(self) -> list[AttemptKey]:
        """Return attempts whose program really began more than once; none, ever."""
        return sorted(key for key, run in self._runs.items() if run.starts > 1)

    def ran_together(self) -> list[tuple[AttemptKey, AttemptKey]]:
        """Return attempts of one job that ran at the same time."""
        found: list[tuple[AttemptKey, AttemptKey]] = []
        for of_job in self._by_job.values():
            longest: tuple[float, AttemptKey] | None = None  # the end of what has begun so far and ends last
            for start, end, key in sorted(_span(run) for run in of_job if run.started is not None):
                if longest is not None and longest[0] > start:
                    found.append((longest[1], key))
                if longest is None or end > longest[0]:
                    longest = (end, key)
        return sorted(found)

    def over_allocated(self) -> list[tuple[str, int]]:
        """Return (node/device, thousandths) for every device that ever held more than 1000 at once, at its worst."""
        changes: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for device, milli, run in self._shares():
            start, end, _ = _span(run)
            if start < end:
                changes[device] += [(start, milli), (end, -milli)]
        found: list[tuple[str, int]] = []
        for device, moves in changes.items():
            held = worst = 0
            for _, milli in sorted(moves):  # at one instant, what ends comes before what begins
                held += milli
                worst = max(worst, held)
            if worst > 1000:
                found.append((device, worst))
        return sorted(found)

    def _shares(self) -> Iterator[tuple[str, int, Run]]:
        for run in self._runs.values():
            if run.started is None:
                continue
            for rank in run.ranks:
                for share in rank.devices:
                    yield f"{rank.node}/{share.name}", share.gpu_milli, run


def _span(run: Run) -> tuple[float, float, AttemptKey]:
    assert run.started is not None
    return run.started, float("inf") if run.finished is None else run.finished, run.key
