"""Everything that `plan` looks at, at one moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import numpy as np

from dujiang.engines.contract import AttemptKey, DeviceShare, RankPlacement
from dujiang.pool.domain import Allocation, Inventory, PoolView, Reservation
from dujiang.scheduling.domain.bands import TaskClass
from dujiang.scheduling.domain.fleet import Fleet, IntArray, fleet_of_pool, free_of_pool
from dujiang.scheduling.domain.queues import NO_QUEUES, QueueTree
from dujiang.scheduling.domain.request import WHOLE, Request
from dujiang.scheduling.domain.rules import DEFAULT_RULES, Rules
from dujiang.scheduling.domain.shares import FairShare
from dujiang.scheduling.domain.slots import Slot

Amounts = tuple[int, int, int]
"""gpu_milli, cpu_milli, memory_bytes: what quotas count."""
COUNTED: Final = ("gpu_milli", "cpu_milli", "memory_bytes")


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a project may hold at one time; None is unlimited."""

    gpu_milli: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None

    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Return the three limits in the order of `COUNTED`."""
        return self.gpu_milli, self.cpu_milli, self.memory_bytes


UNLIMITED: Final = Quota()


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a running attempt beside the rows of the ledger; the words are those of `Holding`."""

    ends_at: datetime | None = None
    expected_end: datetime | None = None
    queue: str = ""
    task_class: TaskClass = TaskClass.NORMAL
    weight: float = 0.5
    apart: str = ""
    is_stopping: bool = False
    may_stop: bool = False
    saved_at: datetime | None = None
    ranks_min: int | None = None
    ranks_max: int | None = None
    request: Request | None = None
    had_device_s: float = 0.0


NOTHING_KNOWN: Final = About()


@dataclass(frozen=True, slots=True)
class Holding:
    """What a job holds now."""

    job_id: str
    project_id: str
    cluster: str
    ranks: tuple[RankPlacement, ...]
    started_at: datetime
    ends_at: datetime | None = None
    """The latest moment at which it will have given everything back; None when unknown."""
    expected_end: datetime | None = None
    """When it will have ended by what is known of others like it; a guess."""
    queue: str = ""
    """What it is counted in; empty is its project's own."""
    task_class: TaskClass = TaskClass.NORMAL
    weight: float = 0.5
    apart: str = ""
    """It shares no node with jobs of its project that name the same word."""
    is_stopping: bool = False
    """It has been told to stop: it gives everything back by `ends_at`."""
    may_stop: bool = False
    """It can be stopped and go on later: it retries after a preemption."""
    saved_at: datetime | None = None
    """When it last wrote a checkpoint; what it did since is lost when it is stopped. None: all is lost."""
    ranks_min: int | None = None
    """Elastic: the fewest ranks that it can go on with; None when it is not elastic."""
    ranks_max: int | None = None
    """Elastic: the most ranks that it has a use for."""
    request: Request | None = None
    """What it asks for when it waits again; None when unknown, or when it cannot be stopped and go on."""
    had_device_s: float = 0.0
    """Device-seconds that earlier attempts had; only known where work takes turns."""

    def total(self) -> Amounts:
        """Return what quotas count."""
        gpu = sum(share.gpu_milli for rank in self.ranks for share in rank.devices)
        return gpu, sum(rank.cpu_milli for rank in self.ranks), sum(rank.memory_bytes for rank in self.ranks)


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which nodes are for some only: a reservation, or for nobody: maintenance.

    What could still run on them when it begins is not started there, but for the projects that it is for.
    """

    name: str
    cluster: str
    nodes: tuple[str, ...]
    """Of the cluster, sorted; empty is all of them."""
    begins_at: datetime
    ends_at: datetime
    projects: tuple[str, ...] = ()
    """Whom it is for; empty is nobody."""


@dataclass(frozen=True, slots=True)
class Dependent:
    """A job that waits for others to end before it takes part: no plan looks at it, a forecast does."""

    request: Request
    after: tuple[str, ...]
    """The jobs that have to end, of those that run or wait here; others have ended."""
    is_known: bool = True
    """False: it cannot be told when it takes part, such as when another has to fail first."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One moment: the fleet, what is free, who holds what, who waits, what each project may hold.

    The order of `holdings` and `requests` does not matter. `node_free` (3, n), `device_milli` (d) and `device_memory`
    (d) stand in the order of the fleet and are never written to.
    """

    fleet: Fleet
    node_free: IntArray
    device_milli: IntArray
    device_memory: IntArray
    holdings: tuple[Holding, ...] = ()
    requests: tuple[Request, ...] = ()
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    version: int = 0
    """The pool's version: starts are refused once it has moved."""
    windows: tuple[Window, ...] = ()
    """Reservations and maintenance that have not ended, in any order."""
    rules: Rules = DEFAULT_RULES
    queues: QueueTree = NO_QUEUES
    shares: Mapping[str, FairShare] = field(default_factory=dict)
    """By project; without one, a job's weight stays its own."""
    slots: tuple[Slot, ...] = ()
    """What the last plan kept for promised deadlines, in any order."""
    dependents: tuple[Dependent, ...] = ()
    """Jobs that wait for others to end, in any order."""

    def usage(self) -> dict[str, Amounts]:
        """Return what each project holds."""
        used: defaultdict[str, Amounts] = defaultdict(lambda: (0, 0, 0))
        for holding in self.holdings:
            a, b = used[holding.project_id], holding.total()
            used[holding.project_id] = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
        return dict(used)


def snapshot_of_rows(
    fleet: Fleet, *, holdings: Sequence[Holding] = (), requests: Sequence[Request] = (),
    quotas: Mapping[str, Quota] | None = None, version: int = 0,
) -> Snapshot:  # fmt: skip
    """Return the snapshot in which nothing is in use but the holdings."""
    node_free = fleet.node_limit.copy()
    milli = np.full(fleet.device_count, WHOLE, dtype=np.int64)
    memory = fleet.device_memory.copy()
    for holding in holdings:
        for rank in holding.ranks:
            node = fleet.node_at.get((holding.cluster, rank.node))
            if node is None:  # gone from the inventory with whatever ran there
                continue
            node_free[:, node] -= (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes)
            for share in rank.devices:
                device = fleet.device_at.get((node, share.name))
                if device is not None:
                    milli[device] -= share.gpu_milli
                    memory[device] -= share.memory_bytes
    return Snapshot(fleet, node_free, milli, memory, tuple(holdings), tuple(requests), dict(quotas or {}), version)


def holdings_of_ledger(
    inventory: Inventory, rows: Iterable[Allocation], about: Mapping[AttemptKey, About] | None = None
) -> list[Holding]:
    """Return who holds what by the live rows of the ledger, one holding for each attempt, in order of attempt.

    Args:
        inventory: for the names of nodes and devices.
        rows: of the ledger; those that have ended are passed over.
        about: what jobs know of the attempts.
    """
    gathered: dict[AttemptKey, list[Allocation]] = {}
    for row in rows:
        if row.ended_at is None:
            gathered.setdefault(row.share.key, []).append(row)
    known = about or {}
    return [_holding(inventory, key, gathered[key], known.get(key, NOTHING_KNOWN)) for key in sorted(gathered)]


def _holding(inventory: Inventory, key: AttemptKey, rows: Sequence[Allocation], about: About) -> Holding:
    ranks: dict[int, RankPlacement] = {}
    shares: dict[int, list[DeviceShare]] = {}
    for row in rows:
        share = row.share
        if share.device_id is not None:
            device = inventory.devices[share.device_id]
            held = DeviceShare(device.name, device.index, share.gpu_milli, share.device_memory_bytes)
            shares.setdefault(share.rank, []).append(held)
        if share.device_id is None or share.rank not in ranks:
            node = inventory.nodes[share.node_id].name
            ranks[share.rank] = RankPlacement(share.rank, node, share.cpu_milli, share.memory_bytes, share.disk_bytes)
    first = rows[0].share
    return Holding(
        job_id=key.job_id,
        project_id=first.project_id,
        cluster=inventory.clusters[first.cluster_id].name,
        ranks=tuple(replace(ranks[rank], devices=tuple(shares.get(rank, ()))) for rank in sorted(ranks)),
        started_at=min(row.started_at for row in rows),
        ends_at=about.ends_at,
        expected_end=about.expected_end,
        queue=about.queue,
        task_class=about.task_class,
        weight=about.weight,
        apart=about.apart,
        is_stopping=about.is_stopping,
        may_stop=about.may_stop,
        saved_at=about.saved_at,
        ranks_min=about.ranks_min,
        ranks_max=about.ranks_max,
        request=about.request,
        had_device_s=about.had_device_s,
    )


def windows_of(reservations: Sequence[Reservation], fleet: Fleet) -> tuple[Window, ...]:
    """Return the pool's reservations as the planner sees them, without nodes that are gone."""
    windows: list[Window] = []
    for each in reservations:
        nodes = tuple(node for node in each.nodes if (each.cluster, node) in fleet.node_at)
        if nodes or not each.nodes:  # none left of those named is none at all, not all of them
            windows.append(Window(each.name, each.cluster, nodes, each.begins_at, each.ends_at, each.projects))
    return tuple(windows)


class Snapshots:
    """Makes snapshots of the pool's views; keeps the fleet while the inventory stands."""

    def __init__(self) -> None:
        self._view_columns: object = None
        self._fleet: Fleet | None = None

    def fleet(self, view: PoolView) -> Fleet:
        """Return the fleet of a view."""
        if self._fleet is None or self._view_columns is not view.columns:
            self._fleet, self._view_columns = fleet_of_pool(view.columns), view.columns
        return self._fleet

    def take(
        self, view: PoolView, *, holdings: Sequence[Holding], requests: Sequence[Request],
        quotas: Mapping[str, Quota] | None = None, windows: Sequence[Reservation] = (),
        queues: QueueTree = NO_QUEUES, shares: Mapping[str, FairShare] | None = None, rules: Rules = DEFAULT_RULES,
        slots: Sequence[Slot] = (), dependents: Sequence[Dependent] = (),
    ) -> Snapshot:  # fmt: skip
        """Return the snapshot of this view with these jobs, quotas, reservations, queues, shares, rules and slots."""
        fleet = self.fleet(view)
        node_free, milli, memory = free_of_pool(fleet, view)
        return Snapshot(
            fleet, node_free, milli, memory, tuple(holdings), tuple(requests), dict(quotas or {}), view.version,
            windows_of(windows, fleet), rules, queues, shares or {}, tuple(slots),
            tuple(dependents),
        )  # fmt: skip
