"""Queues as a tree over the projects, and how much of each kind of device each of them has: what is set, and its rules.

What a queue has of a flavor is its own (`nominal`) and what others leave idle (it borrows). Arithmetic and names are
those of Kueue's cohorts: a queue above others adds what it has of its own to what they lend it, `lending_limit` says
how much of a queue's own others may ever use, `borrowing_limit` how much it may use beyond its own. What is in use is
in `queue_usage`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dujiang.kit.errors import Invalid, did_you_mean
from dujiang.scheduling.domain.fleet import Flavor, Fleet
from dujiang.scheduling.domain.request import MAX_AMOUNT, WHOLE, Ask

Amounts4 = tuple[int, int, int, int]
"""gpu_milli, gpu_memory_bytes, cpu_milli, memory_bytes: what queues count, each by flavor."""
RESOURCES: Final = ("gpu_milli", "gpu_memory_bytes", "cpu_milli", "memory_bytes")
NONE4: Final[Amounts4] = (0, 0, 0, 0)
DEFAULT_QUEUE: Final = "default"
"""The queue of projects that no queue names, where there is one of that name."""
MOST_WEIGHT: Final = 1_000_000.0
MOST_QUEUES: Final = 1000


class BadQueues(Invalid):
    """Queues that contradict themselves or one another."""

    code, title = "bad_queues", "The queues are not valid"


class QueueNotOpen(Invalid):
    """A job names a queue that it may not be counted in."""

    code, title = "queue_not_open", "The job may not use this queue"


class Limits(NamedTuple):
    """An amount of each resource; None: not said."""

    gpu_milli: int | None = None
    gpu_memory_bytes: int | None = None
    cpu_milli: int | None = None
    memory_bytes: int | None = None


UNSAID: Final = Limits()


@dataclass(frozen=True, slots=True)
class QuotaFlavor:
    """A kind of device, or work without devices, of which quota is counted apart."""

    name: str
    vendor: str = ""
    """As in `Ask`; empty is any."""
    model: str = ""
    """As in `Ask`: the model or how it begins; empty is any."""
    cluster: str = ""
    """Only there; empty is anywhere."""
    has_devices: bool = True
    """False: it is the CPU and memory of work that asks for no device."""

    def matches(self, devices: Flavor | None, cluster: str) -> bool:
        """Say whether devices of a cluster (None: none at all) are counted as this, were it the only flavor."""
        if self.cluster and self.cluster != cluster:
            return False
        if devices is None or not self.has_devices:
            return devices is None and not self.has_devices
        return devices.is_called(Ask(WHOLE, vendor=self.vendor, model=self.model))

    def covers(self, other: QuotaFlavor) -> bool:
        """Say whether everything that the other matches is matched by this one too."""
        return (
            self.has_devices == other.has_devices
            and self.cluster in ("", other.cluster)
            and self.vendor.casefold() in ("", other.vendor.casefold())
            and other.model.casefold().startswith(self.model.casefold())
        )


def flavor_of(flavors: Sequence[QuotaFlavor], devices: Flavor | None, cluster: str) -> str:
    """Return as what devices of a cluster are counted, by the first flavor that matches; empty when by none.

    Args:
        flavors: in their order.
        devices: as the fleet groups them; None is work without devices.
        cluster: name.
    """
    return next((one.name for one in flavors if one.matches(devices, cluster)), "")


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """What a queue has of one flavor."""

    flavor: str
    nominal: Limits = UNSAID
    """Its own. A resource that no line of the flavor names is not limited; where another does, this has 0 of it."""
    borrowing_limit: Limits = UNSAID
    """How much it may hold beyond its own; None: as much as there is."""
    lending_limit: Limits = UNSAID
    """How much of its own others may use; None: all of it."""
    guarantee: Limits = UNSAID
    """Of its own, what it never loses to a queue that has less than its guarantee; None: all of it."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue. Projects stand in queues that have none below them."""

    name: str
    parent: str = ""
    """Empty for one at the top."""
    lines: tuple[QuotaLine, ...] = ()
    weight: float = 1.0
    """Its share beside those with the same parent."""
    projects: tuple[str, ...] = ()
    """Ids of the projects that it serves."""
    guests: tuple[str, ...] = ()
    """Ids of projects of other queues whose jobs may name it."""


class Fault(NamedTuple):
    """One thing that is wrong with queues, with its place in a document of `flavors` and `queues`."""

    path: tuple[str | int, ...]
    message: str
    instead: str = ""

    def __str__(self) -> str:
        return f"{self.message} {self.instead}".strip()

    @property
    def place(self) -> str:
        """Return the path as people write it: `queues[0].parent`."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".")


def refusal(faults: Sequence[Fault]) -> BadQueues:
    """Return the error that tells these."""
    more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
    problems = [{"path": one.place, "message": one.message, "instead": one.instead} for one in faults]
    return BadQueues(f"{faults[0]}{more}", problems=problems)


class QueueTree:
    """All queues and flavors with what follows from them. Never changed once made; equal when they are.

    Figures stand in flat lists, one cell for each (queue, flavor, resource); `cell` says which.
    """

    __slots__ = (
        "_guests", "_queue_of_project", "cap", "children", "flavor_at", "flavors", "guarantee", "is_limited", "local",
        "paths", "queue_at", "queues", "share_of", "subtree", "tops",
    )  # fmt: skip

    def __init__(self, queues: Sequence[Queue] = (), flavors: Sequence[QuotaFlavor] = ()) -> None:
        """Take queues and flavors.

        Raises:
            BadQueues: something is wrong with them; `facts["problems"]` has all of it.
        """
        if faults := list(faults_of(queues, flavors)):
            raise refusal(faults)
        self.queues, self.flavors = tuple(queues), tuple(flavors)
        self.queue_at: Mapping[str, int] = {queue.name: at for at, queue in enumerate(self.queues)}
        self.flavor_at: Mapping[str, int] = {flavor.name: at for at, flavor in enumerate(self.flavors)}
        self._queue_of_project = {project: queue.name for queue in self.queues for project in queue.projects}
        self._guests = frozenset((queue.name, project) for queue in self.queues for project in queue.guests)
        self.paths = tuple(self._path(at) for at in range(len(self.queues)))
        """Of each queue, itself and the queues above it, the highest last."""
        self.tops = tuple(path[0] for path in self.paths if len(path) == 1)
        below: list[list[int]] = [[] for _ in self.queues]
        for path in self.paths:
            if len(path) > 1:
                below[path[1]].append(path[0])
        self.children = tuple(map(tuple, below))
        self._set_figures()
        self.share_of: Mapping[str, float] = self._shares()
        """What part of everything each queue is due: its weight among its siblings', at each level down to it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueueTree) and (self.queues, self.flavors) == (other.queues, other.flavors)

    def __hash__(self) -> int:
        return hash((self.queues, self.flavors))

    def __bool__(self) -> bool:
        return bool(self.queues)

    def __repr__(self) -> str:
        return f"QueueTree({self.queues!r}, {self.flavors!r})"

    def cell(self, queue: int, flavor: int) -> int:
        """Return where the first of the four figures of a queue's flavor stands."""
        return (queue * len(self.flavors) + flavor) * 4

    def limited(self, flavor: str) -> tuple[bool, ...]:
        """Say of each resource whether it is limited, for one of the tree's flavors."""
        at = self.flavor_at[flavor] * 4
        return tuple(self.is_limited[at : at + 4])

    def queue_of(self, project_id: str, named: str = "") -> str:
        """Return in which queue work is counted: the one that it names when that is open to it, else its project's.

        Empty when the project is in none, and there is none called `default`.
        """
        if named and (named, project_id) in self._guests:
            return named
        own = self._queue_of_project.get(project_id)
        if own is not None:
            return own
        default = self.queue_at.get(DEFAULT_QUEUE)
        return DEFAULT_QUEUE if default is not None and not self.children[default] else ""

    def check_named(self, project_id: str, named: str) -> None:
        """Let pass what a job of a project may name as its queue.

        Raises:
            QueueNotOpen: there is no such queue, or it is not open to the project.
        """
        if not named or self.queue_of(project_id, named) == named:
            return
        own = self.queue_of(project_id)
        may = sorted({*([own] if own else []), *(name for name, guest in self._guests if guest == project_id)})
        is_there = named in self.queue_at
        what = f'Queue "{named}" does not take jobs of this project' if is_there else f'There is no queue "{named}"'
        hint = f"It may name {' or '.join(may)}, or none." if may else "Leave the queue out."
        raise QueueNotOpen(f"{what}. {hint}", queue=named, open=may)

    def ordered(self) -> Iterator[tuple[int, Queue]]:
        """Yield each queue with its depth, every one before those below it, siblings in the order given."""
        stack = list(reversed(self.tops))
        while stack:
            at = stack.pop()
            yield len(self.paths[at]) - 1, self.queues[at]
            stack += reversed(self.children[at])

    def _path(self, at: int) -> tuple[int, ...]:
        path = [at]
        while parent := self.queues[path[-1]].parent:
            path.append(self.queue_at[parent])
        return tuple(path)

    def _set_figures(self) -> None:
        cells = len(self.queues) * len(self.flavors) * 4
        self.is_limited = [False] * (len(self.flavors) * 4)
        """By flavor and resource: whether any line names it."""
        self.subtree = [0] * cells
        """What a queue has: its own and what those below lend it."""
        self.guarantee = [0] * cells
        """What a queue and those below it never lose."""
        self.cap: list[int | None] = [None] * cells
        """How much it may hold beyond `subtree`."""
        lends: list[int | None] = [None] * cells
        for at, queue in enumerate(self.queues):
            for line in queue.lines:
                flavor = self.flavor_at[line.flavor]
                for resource in range(4):
                    here = self.cell(at, flavor) + resource
                    nominal = line.nominal[resource]
                    self.is_limited[flavor * 4 + resource] |= nominal is not None
                    kept = line.guarantee[resource]
                    self.subtree[here] = nominal or 0
                    self.guarantee[here] = (nominal or 0) if kept is None else kept
                    self.cap[here], lends[here] = line.borrowing_limit[resource], line.lending_limit[resource]
        self.local = [0] * cells
        """Of `subtree`, what no other can use."""
        for path in sorted(self.paths, key=len, reverse=True):  # the deepest first
            for offset in range(len(self.flavors) * 4):
                here = self.cell(path[0], 0) + offset
                lending = lends[here]
                self.local[here] = 0 if lending is None else max(0, self.subtree[here] - lending)
                if len(path) > 1:
                    above = self.cell(path[1], 0) + offset
                    self.subtree[above] += self.subtree[here] - self.local[here]
                    self.guarantee[above] += self.guarantee[here]

    def _shares(self) -> dict[str, float]:
        together: dict[str, float] = {}
        for queue in self.queues:
            together[queue.parent] = together.get(queue.parent, 0.0) + queue.weight
        return {
            queue.name: math.prod(self.queues[at].weight / together[self.queues[at].parent] for at in path)
            for queue, path in zip(self.queues, self.paths, strict=True)
        }


def faults_of(queues: Sequence[Queue], flavors: Sequence[QuotaFlavor]) -> Iterator[Fault]:
    """Yield everything that is wrong with queues and flavors, in their order."""
    yield from _faults_of_flavors(flavors)
    if len(queues) > MOST_QUEUES:
        yield Fault(("queues",), f"{len(queues)} queues are given; at most {MOST_QUEUES} are taken.")
        return
    yield from _twice([queue.name for queue in queues], "queues", "queue")
    parents = {queue.name: queue.parent for queue in queues}
    above = set(parents.values())
    by_name = {flavor.name: flavor for flavor in flavors}
    served: dict[str, str] = {}
    for at, queue in enumerate(queues):
        here = ("queues", at)
        yield from _faults_above(here, queue, parents)
        if not (math.isfinite(queue.weight) and 0 < queue.weight <= MOST_WEIGHT):
            yield Fault((*here, "weight"), f"A weight is above 0 and at most {MOST_WEIGHT:g}, not {queue.weight:g}.")
        yield from _faults_of_lines(here, queue, by_name)
        if (queue.projects or queue.guests) and queue.name in above:
            message = f'Queue "{queue.name}" has queues below it, so it serves no projects itself.'
            yield Fault((*here, "projects" if queue.projects else "guests"), message, "Name them in a queue below it.")
        for number, project in enumerate(queue.projects):
            if project in served:
                yield Fault(
                    (*here, "projects", number), f'Project "{project}" is in queue "{served[project]}" already.',
                    "A project is in one queue.",
                )  # fmt: skip
            served.setdefault(project, queue.name)


def _faults_of_flavors(flavors: Sequence[QuotaFlavor]) -> Iterator[Fault]:
    yield from _twice([flavor.name for flavor in flavors], "flavors", "flavor")
    for at, flavor in enumerate(flavors):
        if not flavor.has_devices and (flavor.vendor or flavor.model):
            message = f'Flavor "{flavor.name}" is work without devices, so it has no vendor and no model.'
            yield Fault(("flavors", at), message)
        first = next((one for one in flavors[:at] if one.covers(flavor) and one.name != flavor.name), None)
        if first is not None:
            yield Fault(
                ("flavors", at), f'Nothing is ever counted as "{flavor.name}": "{first.name}" before it takes it all.',
                "Put the narrower one first.",
            )  # fmt: skip


def _faults_above(here: tuple[str | int, ...], queue: Queue, parents: Mapping[str, str]) -> Iterator[Fault]:
    if not queue.parent:
        return
    if queue.parent not in parents:
        near = did_you_mean(queue.parent, parents).strip()
        yield Fault((*here, "parent"), f'There is no queue "{queue.parent}".', near)
        return
    at, seen = queue.parent, {queue.name}
    while at in parents and at not in seen:
        seen.add(at)
        at = parents[at]
    if at == queue.name:
        yield Fault((*here, "parent"), f'Queue "{queue.name}" would stand below itself.', "One of them has no parent.")


def _faults_of_lines(here: tuple[str | int, ...], queue: Queue, flavors: Mapping[str, QuotaFlavor]) -> Iterator[Fault]:
    seen: set[str] = set()
    for line in queue.lines:
        path = (*here, "quota", line.flavor)
        flavor = flavors.get(line.flavor)
        if flavor is None:
            near = did_you_mean(line.flavor, flavors).strip() or "Name it among the flavors first."
            yield Fault(path, f'There is no flavor "{line.flavor}".', near)
        elif not flavor.has_devices and (line.nominal[0] is not None or line.nominal[1] is not None):
            message = f'Flavor "{line.flavor}" is work without devices: only cpu and memory can be given of it.'
            yield Fault((*path, "nominal"), message)
        if line.flavor in seen:
            yield Fault(path, f'Queue "{queue.name}" has two lines for flavor "{line.flavor}".', "Keep one.")
        seen.add(line.flavor)
        for field in ("nominal", "borrowing_limit", "lending_limit", "guarantee"):
            for resource, value in zip(RESOURCES, getattr(line, field), strict=True):
                if value is not None and not 0 <= value <= MAX_AMOUNT:
                    yield Fault((*path, field), f"{resource} is between 0 and 2^60, not {value}.")
        for field in ("borrowing_limit", "lending_limit"):
            if not queue.parent and getattr(line, field) != UNSAID:
                message = f'Queue "{queue.name}" is at the top: there is nobody to borrow from or to lend to.'
                yield Fault((*path, field), message, "Leave it out, or give the queue a parent.")
        for resource, kept, own in zip(RESOURCES, line.guarantee, line.nominal, strict=True):
            if kept is not None and kept > (own or 0):
                message = f"A queue is guaranteed at most its own: {kept} {resource} is more than {own or 0}."
                yield Fault((*path, "guarantee"), message)


def _twice(names: Sequence[str], part: str, what: str) -> Iterator[Fault]:
    seen: set[str] = set()
    for at, name in enumerate(names):
        if not name:
            yield Fault((part, at), f"A {what} needs a name.")
        elif name in seen:
            yield Fault((part, at, "name"), f'There are two {what}s called "{name}".', "Rename one.")
        seen.add(name)


NO_QUEUES: Final = QueueTree()
"""No tree: nothing is limited by it."""


@dataclass(frozen=True, slots=True)
class Counting:
    """As which flavor each place of a fleet is counted. Made once for a tree and a fleet."""

    fleet: Fleet
    devices: tuple[str, ...]
    """By number of the fleet's flavor."""
    bare: Mapping[str, str]
    """Work without devices, by cluster."""

    @classmethod
    def of(cls, tree: QueueTree, fleet: Fleet) -> Counting:
        """Return how places of this fleet are counted."""
        names = [cluster.name for cluster in fleet.clusters]
        devices = tuple(flavor_of(tree.flavors, each, names[each.cluster]) for each in fleet.flavors)
        return cls(fleet, devices, {name: flavor_of(tree.flavors, None, name) for name in names})
