"""What a waiting job asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from dujiang.kit.errors import Invalid
from dujiang.kit.units import format_bytes, format_milli
from dujiang.scheduling.domain.bands import TaskClass, weight_of

WHOLE: Final = 1000
"""Thousandths of one device."""
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


@dataclass(frozen=True, slots=True)
class Shape:
    """All that decides where a job fits. Jobs of one shape are told apart by the queue alone."""

    ask: Ask
    ranks: int = 1
    cluster: str = ""
    """Only there; empty is anywhere."""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that a node must have, sorted."""
    avoid: tuple[tuple[str, str], ...] = ()
    """(cluster, node) pairs not to use while any other could hold the job, sorted."""
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Hash it once: a round looks every job's shape up several times."""
        object.__setattr__(self, "_hash", hash((self.ask, self.ranks, self.cluster, self.selector, self.avoid)))

    def __hash__(self) -> int:
        """Return the hash."""
        return self._hash


_shape = lru_cache(4096)(Shape)
"""Jobs that are alike share one value, which is then found without a comparison."""


@dataclass(frozen=True, slots=True)
class Request:
    """One waiting job. All its ranks start together or not at all."""

    job_id: str
    project_id: str
    ask: Ask
    submitted_at: datetime
    ranks: int = 1
    task_class: TaskClass = TaskClass.NORMAL
    weight: float | None = None
    """None is the middle of the band."""
    not_before: datetime | None = None
    """A retry waits until then."""
    runs_at_most_s: float | None = None
    """Time limit, grace and set-up together; None when it may run for ever. Lets it start in a gap before a reserved
    start."""
    cluster: str = ""
    selector: tuple[tuple[str, str], ...] = ()
    """Labels that a node must have."""
    avoid: tuple[tuple[str, str], ...] = ()
    """(cluster, node) pairs that earlier attempts failed on: used only when no other could hold the job."""
    shape: Shape = field(init=False, repr=False, compare=False)
    """What decides where it fits."""

    def __post_init__(self) -> None:
        """Fill in the weight and check it.

        Raises:
            WeightOutsideBand: not a weight of the class.
            BadAsk: no rank, or too many.
        """
        if not 1 <= self.ranks <= MAX_RANKS:
            raise BadAsk(f"A job has 1 to {MAX_RANKS} ranks, not {self.ranks}.")
        object.__setattr__(self, "weight", weight_of(self.task_class, self.weight))
        object.__setattr__(self, "selector", tuple(sorted(set(self.selector))))
        object.__setattr__(self, "avoid", tuple(sorted(set(self.avoid))))
        object.__setattr__(self, "shape", _shape(self.ask, self.ranks, self.cluster, self.selector, self.avoid))

    def total(self) -> tuple[int, int, int]:
        """Return gpu_milli, cpu_milli and memory_bytes of all ranks together, as quotas count them."""
        return self.ranks * self.ask.gpu_milli, self.ranks * self.ask.cpu_milli, self.ranks * self.ask.memory_bytes

    def order(self) -> tuple[float, datetime, str]:
        """Return the sort key of the queue: the heaviest first, then the oldest, then by identifier."""
        assert self.weight is not None
        return -self.weight, self.submitted_at, self.job_id
