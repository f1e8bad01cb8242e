"""Where a job may go, on how many nodes, and by when it must be over: values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from dujiang.kit.units import format_duration


class Place(StrEnum):
    """What nodes may share, from the narrowest to the widest."""

    NODE = "node"
    SWITCH = "switch"
    RACK = "rack"
    SITE = "site"

    @property
    def width(self) -> int:
        """Its rank among them: a wider place has a greater one."""
        return list(Place).index(self)


class Kept(StrEnum):
    """How far a share of a device must be kept."""

    COUNTED = "counted"
    """It is only counted: any will do."""
    MEMORY = "memory"
    """Memory is held to the share."""
    ENFORCED = "enforced"
    """Memory and compute are both held to it."""


class Burst(StrEnum):
    """Whether a job may go to a rented cluster that it does not name."""

    NEVER = "never"
    ALLOWED = "allowed"
    """Where the site's policy and budget let it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a job demands of its place beyond its resources; everything empty is anywhere."""

    cluster: str | None = None
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[str, ...] = ()
    """Taints that it puts up with: `key` or `key=value`; `*` is all."""
    within: Place | None = None
    """All of its nodes in one of these."""
    required: bool = True
    """Of `within`: False has them farther from one another rather than wait."""
    spread: Place | None = None
    """No two of its nodes in one of these."""
    apart: str | None = None
    """Jobs of a project that say the same word share no node."""
    isolation: Kept | None = None
    """The least that will do for a share of a device."""
    burst: Burst | None = None
    """None: as the site has it."""

    def document(self) -> dict[str, Any]:
        """Return it as it is written in a specification."""
        written = {
            "cluster": self.cluster,
            "selector": dict(self.selector) or None,
            "tolerations": list(self.tolerations) or None,
            "within": self.within and self.within.value,
            "required": None if self.required else False,
            "spread": self.spread and self.spread.value,
            "apart": self.apart,
            "isolation": self.isolation and self.isolation.value,
            "burst": self.burst and self.burst.value,
        }
        return {name: value for name, value in written.items() if value is not None}


ANYWHERE: Final = Placement()


@dataclass(frozen=True, slots=True)
class NodeRange:
    """How many nodes a job runs on."""

    most: int
    least: int | None = None
    """An elastic job can do with fewer; None: it takes `most`."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a job must be over. Exactly one is set."""

    at: datetime | None = None
    within_s: float | None = None
    """From its submission."""

    def moment(self, submitted_at: datetime) -> datetime:
        """Return the deadline of a job that was submitted then."""
        return self.at if self.at is not None else submitted_at + timedelta(seconds=self.within_s or 0)


def lateness(deadline: Deadline, time_limit_s: float, submitted_at: datetime) -> str:
    """Say why a deadline cannot be met by a job that is submitted now, however soon it starts; empty when it can."""
    left_s = (deadline.moment(submitted_at) - submitted_at).total_seconds()
    if left_s <= 0:
        return "The deadline has passed."
    if left_s < time_limit_s:
        return f"The deadline is {format_duration(left_s)} away, the time limit is {format_duration(time_limit_s)}."
    return ""
