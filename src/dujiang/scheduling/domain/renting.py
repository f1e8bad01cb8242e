"""What a site allows of rented clusters, and what renting costs: values that a plan is made by. Pure.

An estimate is what a start may cost at most: the list price of the cluster for all devices of the job, for as long as
it may run by its time limit. A job without one is estimated by how long others like it ran, and not rented for when
nothing is known. Work without devices is not rented for: there is no price for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from typing import Final

from dujiang.scheduling.domain.bands import TaskClass
from dujiang.scheduling.domain.fleet import ClusterRow
from dujiang.scheduling.domain.request import WHOLE, Request

_CENT: Final = Decimal("0.01")
_HOUR_S: Final = 3600
_DAY_H: Final = 24
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rent:
    """What a start on a rented cluster is estimated to cost."""

    total: Decimal
    """At most, to its time limit, what is done again after interruptions counted in."""
    per_hour: Decimal
    currency: str
    left: Decimal
    """Of the day's budget, after it."""

    @property
    def sentence(self) -> str:
        """Return it in words."""
        currency = f" {self.currency}" if self.currency else ""
        return f"at about {self.per_hour:f}{currency} an hour, {self.total:f}{currency} at most"


@dataclass(frozen=True, slots=True)
class Hours:
    """Every day from one time to another, in minutes after midnight UTC; over midnight when `ends` is the lesser."""

    begins: int
    ends: int

    def end(self, now: datetime) -> datetime | None:
        """Return when the hours end that it is now; None when it is not within them."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        length = (self.ends - self.begins) % (_DAY_H * 60) or _DAY_H * 60
        for day in (-1, 0):
            begin = midnight + day * _DAY + timedelta(minutes=self.begins)
            if begin <= now < begin + timedelta(minutes=length):
                return begin + timedelta(minutes=length)
        return None


@dataclass(frozen=True, slots=True)
class BurstPolicy:
    """When waiting work goes to rented clusters that it did not name."""

    after_s: float = 1800.0
    """Once it has waited so long, or is sure to: its prepared start is further from its submission than that."""
    budget_per_day: Decimal = Decimal(0)
    """What the starts of one day, UTC, may be estimated to cost."""
    left: Decimal = Decimal(0)
    """Of today's."""
    currency: str = ""
    classes: tuple[TaskClass, ...] = (TaskClass.CORE, TaskClass.NORMAL)
    projects: tuple[str, ...] = ()
    """Empty is all."""
    only_asked: bool = False
    """Only jobs that say that they may."""
    spot: bool = True
    """Clusters whose nodes are taken away now and then may be used, by work that goes on from a checkpoint."""
    spot_lost_s: float = 1800.0
    """What an interruption costs a job that does not say how often it saves itself."""
    low_hours: Hours | None = None
    """When work of the low class may go there: it has to be over by the end. None: at any time, if its class may."""

    def allows(self, request: Request) -> bool:
        """Say whether a job may go to a rented cluster at all."""
        if request.where.cluster or request.may_burst is False:
            return False
        if self.only_asked and not request.may_burst:
            return False
        if self.projects and request.project_id not in self.projects:
            return False
        is_low = request.task_class is TaskClass.LOW and self.low_hours is not None
        return (request.task_class in self.classes or is_low) and lasts_s(request) is not None

    def allows_now(self, request: Request, now: datetime) -> bool:
        """Say whether it may at this time of the day."""
        if not self.allows(request):
            return False
        if request.task_class is not TaskClass.LOW or self.low_hours is None:
            return True
        end, lasting_s = self.low_hours.end(now), lasts_s(request)
        return end is not None and lasting_s is not None and now + timedelta(seconds=lasting_s) <= end

    def rent(self, cluster: ClusterRow, request: Request, gpu_milli: int, nodes: int) -> Rent | None:
        """Return what it costs to run a job on some devices of a cluster; None when it should not go there.

        Args:
            cluster: a rented one.
            request: the job.
            gpu_milli: of all its ranks; of work without devices what its part of the nodes is worth in devices.
            nodes: how many it takes: any of them may be taken away.
        """
        lasting_s = lasts_s(request)
        if lasting_s is None or not gpu_milli:
            return None
        hours = Decimal(repr(lasting_s)) / _HOUR_S
        if cluster.interruptions_per_day:
            again = self._again_hours(cluster, request, hours, nodes)
            if again is None or again >= hours:
                return None
            hours += again
        per_hour = Decimal(repr(cluster.price)) * gpu_milli / WHOLE
        total = (per_hour * hours).quantize(_CENT, ROUND_UP)
        return Rent(total, per_hour.quantize(_CENT, ROUND_UP), self.currency, self.left - total)

    def spent(self, cost: Decimal) -> BurstPolicy:
        """Return the same once so much more of the day's budget is taken."""
        return replace(self, left=self.left - cost)

    def _again_hours(self, cluster: ClusterRow, request: Request, hours: Decimal, nodes: int) -> Decimal | None:
        """Return for how long it will do again what interruptions undo; None for what cannot go on after one."""
        if not self.spot or not request.may_restart:
            return None
        lost_s = self.spot_lost_s if request.saves_every_s is None else request.saves_every_s / 2
        interruptions = Decimal(repr(cluster.interruptions_per_day)) * nodes * hours / _DAY_H
        return interruptions * Decimal(repr(lost_s)) / _HOUR_S


def part_of_devices(cpu_milli: int, memory_bytes: int, of_cpu: int, of_memory: int, devices: int) -> int:
    """Return what a part of a node is worth in thousandths of its devices, rounded up; at least one where it has any.

    Args:
        cpu_milli, memory_bytes: the part.
        of_cpu, of_memory: what the node has.
        devices: how many the node has.
    """
    if not devices:
        return 0
    parts = [
        -(-part * devices * WHOLE // most) for part, most in ((cpu_milli, of_cpu), (memory_bytes, of_memory)) if most
    ]
    return min(max([1, *parts]), devices * WHOLE)


def lasts_s(request: Request) -> float | None:
    """Return for how long a job is rented for: to its time limit, else as expected; None when nothing is known."""
    return request.runs_at_most_s if request.runs_at_most_s is not None else request.expected_s
