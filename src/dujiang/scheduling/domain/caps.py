"""What each project may hold at one time, kept up through a round: whom it lets start, and for whom it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from dujiang.scheduling.domain.reasons import Reason, Shortage
from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.snapshot import COUNTED, UNLIMITED, Amounts, Holding, Snapshot


@dataclass(frozen=True, slots=True)
class Kept:
    """Quota kept for a job."""

    job_id: str
    amounts: Amounts
    at: datetime | None
    """When it fits at the latest; None when unknown."""


@dataclass(frozen=True, slots=True)
class OverCap:
    """A job that its project's quota does not let start."""

    reason: Reason
    lack: Shortage
    kept: Kept | None
    """What was kept for another job of the project."""


class Caps:
    """The quotas of projects in one round.

    The first job of a project that waits for quota gets what is left of it kept, so that smaller ones cannot hold it up
    for ever; what is sure to be over by the time it fits may use it meanwhile.
    """

    def __init__(self, snapshot: Snapshot, now: datetime) -> None:
        """Count what is held."""
        self._quotas, self._now = snapshot.quotas, now
        self._usage = snapshot.usage() if snapshot.quotas else {}
        self._kept: dict[str, Kept] = {}

    def begin_pass(self) -> None:
        """Forget what was kept."""
        self._kept = {}

    @property
    def keeps_any(self) -> bool:
        """Say whether anything is kept for a job."""
        return bool(self._kept)

    def used(self, project_id: str) -> Amounts:
        """Return what a project with a quota holds by now."""
        return self._usage.get(project_id, (0, 0, 0))

    def take(self, project_id: str, amounts: Amounts) -> None:
        """Count what was started."""
        self._usage[project_id] = plus(self.used(project_id), amounts)

    def keep(self, request: Request) -> None:
        """Keep what the job with the reservation will need, unless another job of its project was first."""
        self._kept.setdefault(request.project_id, Kept(request.job_id, request.total(), None))

    def check(
        self, request: Request, total: Amounts, holdings: Sequence[Holding],
        is_over_by: Callable[[Request, datetime | None], bool],
    ) -> OverCap | None:  # fmt: skip
        """Return why a job's project may not hold this much more; None when it may.

        Args:
            request: the job.
            total: what it would hold.
            holdings: everything that runs.
            is_over_by: whether a job started now is sure to be over by then.
        """
        project_id = request.project_id
        limits = self._quotas.get(project_id, UNLIMITED).limits()
        if limits == (None, None, None):
            return None
        used = self.used(project_id)
        kept = self._kept.get(project_id)
        lack = over(limits, used, total)
        if lack is not None:
            if kept is None and over(limits, (0, 0, 0), total) is None:
                at = self._free_at(project_id, limits, total, holdings)
                self._kept[project_id] = Kept(request.job_id, total, at)
            return OverCap(Reason.QUOTA_EXCEEDED, lack, kept)
        if kept is None or is_over_by(request, kept.at):
            return None
        lack = over(limits, plus(used, kept.amounts), total)
        return None if lack is None else OverCap(Reason.QUOTA_RESERVED, lack, kept)

    def most_ranks(self, request: Request, one: Amounts, ranks: int) -> int:
        """Return how many ranks a project's quota leaves room for, beside what is kept."""
        limits = self._quotas.get(request.project_id, UNLIMITED).limits()
        kept = self._kept.get(request.project_id)
        held = plus(self.used(request.project_id), kept.amounts if kept else (0, 0, 0))
        for limit, used, each in zip(limits, held, one, strict=True):
            if limit is not None and each:
                ranks = min(ranks, max(limit - used, 0) // each)
        return ranks

    def _free_at(
        self, project_id: str, limits: tuple[int | None, ...], total: Amounts, holdings: Sequence[Holding]
    ) -> datetime | None:
        """Return when enough jobs of a project of known end have ended for one more to fit its quota."""
        used = self.used(project_id)
        ends = [(h.ends_at, h.job_id, h.total()) for h in holdings if h.project_id == project_id and h.ends_at]
        for at, _, freed in sorted(ends):
            used = used[0] - freed[0], used[1] - freed[1], used[2] - freed[2]
            if over(limits, used, total) is None:
                return max(at, self._now)
        return None


def plus(a: Amounts, b: Amounts) -> Amounts:
    """Return the sum of two amounts."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def over(limits: tuple[int | None, ...], used: Amounts, more: Amounts) -> Shortage | None:
    """Return the first limit that one more would exceed; None when it fits. What asks for none of it never does."""
    for name, limit, held, wanted in zip(COUNTED, limits, used, more, strict=True):
        if limit is not None and wanted and held + wanted > limit:
            return Shortage(name, wanted, max(limit - held, 0))
    return None
