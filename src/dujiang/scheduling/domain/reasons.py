"""Why a job waits: a closed list of reasons, with the figures that prove it and what would change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from dujiang.kit.units import format_bytes, format_milli


class Reason(StrEnum):
    """Why a job was not started."""

    BACKOFF = "Backoff"
    """A retry waits for its time."""
    NO_MATCHING_DEVICE = "NoMatchingDevice"
    """No cluster has a device of that vendor, model and memory."""
    NO_IMAGES = "NoImages"
    """No cluster with what it asks for runs container images."""
    TOO_LARGE = "TooLarge"
    """The pool as it is now could not hold it even if it were empty and all its nodes open."""
    NODE_UNAVAILABLE = "NodeUnavailable"
    """It would fit only on nodes or devices that are closed: cordoned, drained, not ready, or out of reach."""
    TAINTED = "UntoleratedTaint"
    """It would fit only on nodes with a taint that it does not tolerate."""
    WINDOW = "Window"
    """It would fit only on nodes that a reservation or maintenance keeps before it would be over."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """Its project would hold more than its quota."""
    QUOTA_RESERVED = "QuotaReserved"
    """What is left of the project's quota is kept for a job of the project that stands before it."""
    QUEUE_QUOTA = "QueueQuota"
    """Its queue would hold more of a flavor than it has and may borrow."""
    RESOURCES = "Resources"
    """There is not enough free."""
    PRIORITY = "Priority"
    """There was enough, and jobs that stand before it took it in this round."""
    PREEMPTING = "Preempting"
    """Work with less right is being stopped for it."""
    RESERVED = "Reserved"
    """There is enough, and it is kept for a job that stands before it and needs more."""


ADVICE: Final[Mapping[Reason, str]] = {
    Reason.BACKOFF: "Nothing to do: it is tried again by itself.",
    Reason.NO_MATCHING_DEVICE: "Ask for a vendor, model and memory that the pool has, or leave them out.",
    Reason.NO_IMAGES: "An operator must bring what runs images back (`dujiang clusters`), or leave image out.",
    Reason.TOO_LARGE: "Ask for less on each node, or for more and smaller ranks.",
    Reason.NODE_UNAVAILABLE: (
        "An operator must open the nodes or bring back their cluster (`dujiang nodes` says why), or ask for others."
    ),
    Reason.TAINTED: "Add the taint to its tolerations if it may run there, or ask for what other nodes have.",
    Reason.WINDOW: "Give it a time limit that ends before the window begins, or wait until that is over.",
    Reason.QUOTA_EXCEEDED: "Wait for jobs of the project to end, cancel one, or ask for a larger quota.",
    Reason.QUOTA_RESERVED: "Wait, give it a time limit that ends before the other starts, or cancel the other.",
    Reason.QUEUE_QUOTA: "Wait for work of the queue or of its borrowers to end, or ask for what another flavor has.",
    Reason.RESOURCES: "Wait for running work to end, or ask for less.",
    Reason.PRIORITY: "Wait; a heavier weight or class stands further in front.",
    Reason.PREEMPTING: "Nothing to do: it starts when the other has saved itself.",
    Reason.RESERVED: "Give it a time limit that ends before the reserved start, or wait.",
}


FOR_GOOD: Final = "Ask for less, or have that limit raised; it does not start before, whatever else ends."
"""Advice to a job that asks for more than its project or queue may ever hold, as after a limit was lowered."""


class Remedy(StrEnum):
    """What to change so that a job starts."""

    LOWER_ASK = "LowerAsk"
    RAISE_QUOTA = "RaiseQuota"
    LIMIT_TIME = "LimitTime"
    WAIT_UNTIL = "WaitUntil"


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest single change found that starts the job in the very next plan, all else being equal."""

    remedy: Remedy
    resource: str = ""
    """What to lower: a field of `Ask`, or `ranks`."""
    to: int = 0
    amounts: tuple[tuple[str, int], ...] = ()
    """New limits of the project's quota, by resource."""
    seconds: float = 0.0
    """The time limit to set, grace and set-up counted in."""
    at: datetime | None = None

    @property
    def sentence(self) -> str:
        """Return it in words."""
        match self.remedy:
            case Remedy.LOWER_ASK:
                of = "node" if (self.resource, self.to) == ("ranks", 1) else label(self.resource)
                return f"It starts now with {amount(self.resource, self.to)} {of}."
            case Remedy.RAISE_QUOTA:
                what = " and ".join(f"{amount(name, to)} {label(name)}" for name, to in self.amounts)
                return f"It starts now with a project quota of {what}."
            case Remedy.LIMIT_TIME:
                return f"It starts now when it takes at most {self.seconds:.0f} s, grace and set-up counted in."
            case Remedy.WAIT_UNTIL:
                return f"It starts at {self.at:%Y-%m-%d %H:%M:%S} UTC."


@dataclass(frozen=True, slots=True)
class Shortage:
    """What there is not enough of."""

    resource: str = ""
    """A field of `Ask`, `ranks`, or `together` when each resource alone would do, but on different nodes; `cluster`
    when that of the name cannot be reached."""
    needed: int = 0
    available: int = 0
    """The most that can be had: on one node or device; for quotas, of the project's limit; for ranks, in all."""
    node: str = ""
    """Where the most can be had; empty when nowhere."""


NOTHING: Final = Shortage()


@dataclass(frozen=True, slots=True)
class Wait:
    """Why one job was not started."""

    job_id: str
    position: int
    """In the queue of those that wait, 1 is the first."""
    reason: Reason
    shortage: Shortage = NOTHING
    blocking_job: str = ""
    """Whose start is prepared (Reserved, QuotaReserved), whose end is awaited (Resources), who took it (Priority)."""
    blocking_project: str = ""
    """Whose quota is used up."""
    earliest: datetime | None = None
    """When it starts at the latest if nothing else changes; None when unknown."""
    blocking_queue: str = ""
    """Which queue has no more to give."""
    detail: str = ""
    """More in words, where figures alone do not say it: what a queue lacks, how a fair share came about."""
    window: str = ""
    """Name of the reservation or maintenance in the way."""
    change: Change | None = None
    """None also when none was looked for."""
    risk: str = ""
    """Why its promised deadline is at risk; empty when it is not."""
    is_for_good: bool = False
    """It asks for more than its project or queue may ever hold: nothing that ends starts it."""

    @property
    def advice(self) -> str:
        """Return what to do about it."""
        return FOR_GOOD if self.is_for_good else ADVICE[self.reason]

    @property
    def sentence(self) -> str:
        """Return the reason in one sentence with its figures."""
        told = _SENTENCES[self.reason](self)
        return f"{told} {self.risk}" if self.risk else told


def amount(resource: str, value: int) -> str:
    """Return a figure as people read it."""
    if resource.endswith("_bytes"):
        return format_bytes(value)
    return format_milli(value) if resource.endswith("_milli") else str(value)


def label(resource: str) -> str:
    """Return a resource as people call it."""
    return _LABELS.get(resource, resource)


_LABELS: Final = {
    "gpu_milli": "gpu", "gpu_memory_bytes": "device memory", "cpu_milli": "cpu", "memory_bytes": "memory",
    "disk_bytes": "disk", "ranks": "nodes",
}  # fmt: skip


def _resources(wait: Wait) -> str:
    lack = wait.shortage
    if lack.resource == "ranks":
        text = f"needs room for {lack.needed} ranks at the same time, there is room for {lack.available}"
    elif lack.resource == "together":
        near = f"; {lack.node} comes nearest" if lack.node else ""
        text = f"no node has all it asks for free at the same time{near}"
    else:
        where = f" on {lack.node}" if lack.node else ""
        text = (
            f"{label(lack.resource)}: needs {amount(lack.resource, lack.needed)} on one node, "
            f"largest free is {amount(lack.resource, lack.available)}{where}"
        )
    return text[0].upper() + text[1:] + (f"; waits for {wait.blocking_job} to end." if wait.blocking_job else ".")


def _quota(wait: Wait) -> str:
    lack = wait.shortage
    return wait.detail or (
        f"Its project has {amount(lack.resource, lack.available)} {label(lack.resource)} of its "
        f"quota left, this job needs {amount(lack.resource, lack.needed)}."
    )


def _too_large(wait: Wait) -> str:
    lack = wait.shortage
    if lack.resource in ("ranks", "together"):
        return "The pool could not hold it even if it were empty."
    return (
        f"{label(lack.resource)}: needs {amount(lack.resource, lack.needed)} on one node, "
        f"the largest that any has is {amount(lack.resource, lack.available)}."
    )


def _closed(wait: Wait) -> str:
    if wait.shortage.resource == "cluster":
        return f'It fits only on the cluster "{wait.shortage.node}", which cannot be reached now.'
    example = f", such as {wait.shortage.node}" if wait.shortage.node else ""
    return f"It fits only on nodes or devices that are closed now{example}."


_SENTENCES: Final[Mapping[Reason, Callable[[Wait], str]]] = {
    Reason.PREEMPTING: lambda wait: (
        f"It starts when {wait.blocking_job}, which was told to stop, has given its place back."
    ),
    Reason.BACKOFF: lambda wait: f"It is tried again at {wait.earliest:%Y-%m-%d %H:%M:%S} UTC.",
    Reason.NO_MATCHING_DEVICE: lambda wait: "No cluster has a device of that vendor, model and memory.",
    Reason.NO_IMAGES: lambda wait: "It runs in a container image, and no cluster with what it asks for runs those now.",
    Reason.TOO_LARGE: _too_large,
    Reason.NODE_UNAVAILABLE: _closed,
    Reason.TAINTED: lambda wait: (
        f"It fits only on nodes with a taint that it does not tolerate, such as {wait.shortage.node} "
        f"({wait.shortage.resource})."
    ),
    Reason.WINDOW: lambda wait: (
        f"It could still run when {wait.window} begins, which keeps the nodes that it fits on until "
        f"{wait.earliest:%Y-%m-%d %H:%M} UTC."
    ),
    Reason.QUOTA_EXCEEDED: _quota,
    Reason.QUOTA_RESERVED: lambda wait: (
        wait.detail or f"What is left of its project's quota is kept for {wait.blocking_job}."
    ),
    Reason.QUEUE_QUOTA: lambda wait: wait.detail,
    Reason.RESOURCES: _resources,
    Reason.PRIORITY: lambda wait: f"Jobs that stand before it took the room in this round, {wait.blocking_job} last.",
    Reason.RESERVED: lambda wait: (
        wait.detail or f"There is room, but it is kept for {wait.blocking_job}, which stands before it."
    ),
}
