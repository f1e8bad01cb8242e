"""What a waiting job asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final

from dujiang.engines.contract import Isolation
from dujiang.kit.errors import Invalid
from dujiang.kit.units import format_bytes, format_milli
from dujiang.scheduling.domain.bands import BANDS, TaskClass, weight_of

WHOLE: Final = 1000
"""Thousandths of one device."""
_FAR: Final = datetime.max.replace(tzinfo=UTC)
MAX_RANKS: Final = 100_000
MAX_AMOUNT: Final = 2**60
"""Of any resource of one rank; keeps every sum of the planner within 64 bits."""


class BadAsk(Invalid):
    """An amount that no device or node could ever give."""

    code, title = "bad_ask", "The amount asked for is not valid"


@dataclass(frozen=True, slots=True)
class Ask:
    """What each rank of a job gets. Zero means none, for device memory: the part that goes with the share."""

    gpu_milli: int = 0
    """1-999: that share of one device. A multiple of 1000: whole devices, all on one node."""
    gpu_memory_bytes: int = 0
    """Of a share: how much device memory it gets. With whole devices: the least that each must have."""
    vendor: str = ""
    """`nvidia`, `amd`, `huawei` ..., any case; empty is any."""
    model: str = ""
    """The model or how it begins, any case, with or without the vendor's name in front; empty is any."""
    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse amounts that mean nothing.

        Raises:
            BadAsk: negative, out of range, or between one device and two.
        """
        amounts = (self.gpu_milli, self.gpu_memory_bytes, self.cpu_milli, self.memory_bytes, self.disk_bytes)
        if min(amounts) < 0 or max(amounts) > MAX_AMOUNT:
            raise BadAsk("An amount is between 0 and 2^60.")
        if self.gpu_milli > WHOLE and self.gpu_milli % WHOLE:
            below = self.gpu_milli // WHOLE
            raise BadAsk(
                f"{format_milli(self.gpu_milli)} devices cannot be given: ask for a share of one device (below 1), "
                f"or for whole ones ({below} or {below + 1})."
            )
        if not self.gpu_milli and (self.gpu_memory_bytes or self.vendor or self.model):
            raise BadAsk("Device memory, vendor or model is asked for, but no device; say how many, or which share.")

    @property
    def whole_devices(self) -> int:
        """Return how many whole devices each rank gets; 0 for a share or none."""
        return self.gpu_milli // WHOLE

    @property
    def is_fraction(self) -> bool:
        """Say whether each rank gets a share of one device."""
        return 0 < self.gpu_milli < WHOLE

    def describe(self) -> str:
        """Return the ask in words: `2 gpu (nvidia A100), 4 cpu, 16GiB memory`."""
        parts: list[str] = []
        if self.gpu_milli:
            kind = " ".join(part for part in (self.vendor, self.model) if part)
            memory = f"{format_bytes(self.gpu_memory_bytes)} device memory" if self.gpu_memory_bytes else ""
            notes = ", ".join(note for note in (kind, memory) if note)
            parts.append(f"{format_milli(self.gpu_milli)} gpu" + (f" ({notes})" if notes else ""))
        if self.cpu_milli:
            parts.append(f"{format_milli(self.cpu_milli)} cpu")
        if self.memory_bytes:
            parts.append(f"{format_bytes(self.memory_bytes)} memory")
        if self.disk_bytes:
            parts.append(f"{format_bytes(self.disk_bytes)} disk")
        return ", ".join(parts) or "nothing"


class Level(StrEnum):
    """How near to one another nodes are: a topology domain, from the narrowest to the widest."""

    NODE = "node"
    SWITCH = "switch"
    RACK = "rack"
    SITE = "site"


LEVELS: Final = (Level.SWITCH, Level.RACK, Level.SITE)
"""Those above the node, in the order of `Fleet.node_domains`."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """Where a job may go, beyond what it asks for. Everything empty: anywhere."""

    cluster: str = ""
    """Only there; empty is anywhere."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that a node must have, sorted."""
    tolerations: tuple[str, ...] = ()
    """Taints of nodes that it puts up with, `key` or `key=value`, sorted; `*` is all."""
    within: Level | None = None
    """All ranks in one domain of this level."""
    is_within_required: bool = True
    """False: rather than wait, ranks may be farther from one another, each level tried in turn."""
    spread: Level | None = None
    """No two ranks in one domain of this level."""
    apart: str = ""
    """Jobs of a project that name the same word share no node with one another."""
    isolation: Isolation | None = None
    """The least isolation of a share of a device; None takes any."""
    image: bool = False
    """It runs in a container image: only on clusters that run those."""
    near: tuple[str, ...] = ()
    """Clusters that hold its data: these are tried first."""

    def __post_init__(self) -> None:
        """Sort what has no order."""
        object.__setattr__(self, "selector", tuple(sorted(set(self.selector))))
        object.__setattr__(self, "tolerations", tuple(sorted(set(self.tolerations))))


ANYWHERE: Final = Constraints()


@dataclass(frozen=True, slots=True)
class Shape:
    """All that decides where a job fits. Jobs of one shape are told apart by the queue alone."""

    ask: Ask
    ranks: int = 1
    where: Constraints = ANYWHERE
    avoid: tuple[tuple[str, str], ...] = ()
    """(cluster, node) pairs not to use while any other could hold the job, sorted."""
    barred: tuple[int, ...] = ()
    """Windows of the snapshot whose nodes it must not use: it could still run when they begin."""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Hash it once: a round looks every job's shape up several times."""
        object.__setattr__(self, "_hash", hash((self.ask, self.ranks, self.where, self.avoid, self.barred)))

    def __hash__(self) -> int:
        """Return the hash."""
        return self._hash


shape_of = lru_cache(4096)(Shape)
"""Jobs that are alike share one value, which is then found without a comparison."""


def with_ranks(shape: Shape, ranks: int) -> Shape:
    """Return the same shape with another number of ranks."""
    return shape if ranks == shape.ranks else shape_of(shape.ask, ranks, shape.where, shape.avoid, shape.barred)


def on_cluster(shape: Shape, cluster: str) -> Shape:
    """Return a shape as it is placed on one cluster and no other."""
    return shape_of(shape.ask, shape.ranks, replace(shape.where, cluster=cluster), shape.avoid, shape.barred)


def apart_of(project_id: str, word: str) -> str:
    """Return the group of jobs that share no node with one another, as shapes name it."""
    return f"{project_id}/{word}"


@dataclass(frozen=True, slots=True)
class Request:
    """One waiting job. All its ranks start together or not at all."""

    job_id: str
    project_id: str
    ask: Ask
    submitted_at: datetime
    ranks: int = 1
    """As many as it wants; an elastic job takes fewer, down to `ranks_min`."""
    task_class: TaskClass = TaskClass.NORMAL
    weight: float | None = None
    """None is the middle of the band."""
    not_before: datetime | None = None
    """A retry waits until then."""
    runs_at_most_s: float | None = None
    """Time limit, grace and set-up together; None when it may run for ever. Lets it start in a gap before a reserved
    start, and before a window begins."""
    where: Constraints = ANYWHERE
    avoid: tuple[tuple[str, str], ...] = ()
    """(cluster, node) pairs that earlier attempts failed on: used only when no other could hold the job."""
    alternatives: tuple[Ask, ...] = ()
    """What will do as well, in order of preference, when there is no room for `ask`."""
    ranks_min: int | None = None
    """The fewest that it can start with; None: all of `ranks`."""
    queue: str = ""
    """Name of the queue that it is counted in; empty is the project's own."""
    deadline: datetime | None = None
    """When it must be over; admitted only while every admitted deadline can still be met."""
    is_admitted: bool = True
    """Its deadline was promised: the place that it needs is kept. False while that is still asked."""
    expected_s: float | None = None
    """How long it will run by what is known of others like it; a guess, never a promise."""
    is_promised: bool = False
    """Work was stopped for it: it stands first in its class."""
    may_burst: bool | None = None
    """Whether it may go to a rented cluster that it does not name; None: as the site has it."""
    may_restart: bool = False
    """It goes on from a checkpoint when its node is taken away."""
    saves_every_s: float | None = None
    """How often it says it saves itself; None when it does not say."""
    had_device_s: float = 0.0
    """Device-seconds that earlier attempts had; only known where work takes turns."""
    shapes: tuple[Shape, ...] = field(init=False, repr=False, compare=False)
    """What decides where it fits, one for each ask, best first."""

    def __post_init__(self) -> None:
        """Fill in the weight and check it.

        Raises:
            WeightOutsideBand: not a weight of the class.
            BadAsk: no rank, too many, or more at least than at most.
        """
        if not 1 <= self.ranks <= MAX_RANKS:
            raise BadAsk(f"A job has 1 to {MAX_RANKS} ranks, not {self.ranks}.")
        if self.ranks_min is not None and not 1 <= self.ranks_min <= self.ranks:
            raise BadAsk(f"The fewest ranks are between 1 and {self.ranks}, not {self.ranks_min}.")
        object.__setattr__(self, "weight", weight_of(self.task_class, self.weight))
        object.__setattr__(self, "avoid", tuple(sorted(set(self.avoid))))
        asks, where = (self.ask, *self.alternatives), self.where
        if where.apart:
            where = replace(where, apart=apart_of(self.project_id, where.apart))
        object.__setattr__(self, "shapes", tuple(shape_of(ask, self.ranks, where, self.avoid) for ask in asks))

    @property
    def shape(self) -> Shape:
        """Return the shape that it would rather have."""
        return self.shapes[0]

    def total(self) -> tuple[int, int, int]:
        """Return gpu_milli, cpu_milli and memory_bytes of all ranks together, as quotas count them."""
        return self.ranks * self.ask.gpu_milli, self.ranks * self.ask.cpu_milli, self.ranks * self.ask.memory_bytes

    @property
    def moves_up_at(self) -> datetime | None:
        """Return when its deadline leaves it no more time to wait than it takes; None without deadline and limit."""
        if self.deadline is None or self.runs_at_most_s is None:
            return None
        return self.deadline - 2 * timedelta(seconds=self.runs_at_most_s)

    def order(self, now: datetime, weight: float | None = None) -> tuple[float, datetime, datetime, str]:
        """Return the sort key of the queue: the heaviest first, then the oldest, then by identifier.

        A job whose deadline leaves it no more time to wait than it takes stands first in its class, by when it must
        start.

        Args:
            now: the time.
            weight: in place of its own.
        """
        assert self.weight is not None
        if self.is_promised:
            return -BANDS[self.task_class].high - 0.001, _FAR, self.submitted_at, self.job_id
        moves_up = self.moves_up_at
        if moves_up is not None and moves_up <= now:
            latest = moves_up + timedelta(seconds=self.runs_at_most_s or 0.0)
            return -BANDS[self.task_class].high, latest, self.submitted_at, self.job_id
        return -(self.weight if weight is None else weight), _FAR, self.submitted_at, self.job_id
