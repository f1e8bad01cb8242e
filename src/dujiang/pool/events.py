"""What happened to the pool. Starts and ends of allocations are not here: the ledger's rows are their record."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryChanged(Event):
    """A look at an engine found nodes that were not known or had been gone. Subject: the cluster. One event a look."""

    added: int
    names: tuple[str, ...]
    """The first twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityShrunk(Event):
    """A node or device is now smaller than what is allocated on it. Subject: the cluster; said when it begins."""

    node: str
    device: str
    resource: str
    allocated: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReached(Event):
    """A cluster answers, for the first time or again, and nothing is the matter. Subject: the cluster."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDegraded(Event):
    """A cluster answers, but something is the matter; new work may be put there. Subject: the cluster."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterChanged(Event):
    """An engine can do something else than before, as after an upgrade under us. Subject: the cluster."""

    name: str
    before: dict[str, str]
    """Only what has changed."""
    now: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterUnreachable(Event):
    """A cluster does not answer; nothing new is placed there, what runs is left alone. Subject: the cluster."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStateChanged(Event):
    """A node's state is another. Subject: the node."""

    name: str
    previous: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCordoned(Event):
    """An operator lets nothing new start on a node. Subject: the node."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUncordoned(Event):
    """An operator opened a node again. Subject: the node."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDrainAsked(Event):
    """An operator wants a node empty. Subject: the node."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLabelled(Event):
    """An operator changed a node's labels. Subject: the node."""

    name: str
    labels: dict[str, str]
    """All that operators have given it, from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTainted(Event):
    """An operator changed a node's taints. Subject: the node."""

    name: str
    taints: tuple[str, ...]
    """All that operators have given it, from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationMade(Event):
    """Nodes will be for some projects only, or for nobody. Subject: the reservation."""

    name: str
    cluster: str
    nodes: tuple[str, ...]
    """The first twenty; empty is all of the cluster."""
    begins_at: str
    ends_at: str
    projects: tuple[str, ...]
    """Ids; empty is maintenance."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationChanged(Event):
    """A reservation has other times. Subject: the reservation."""

    name: str
    begins_at: str
    ends_at: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationBegan(Event):
    """A reservation's time has come. Subject: the reservation."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationEnded(Event):
    """A reservation's time is over. Subject: the reservation."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationDropped(Event):
    """A reservation was taken back before its time was over. Subject: the reservation."""

    name: str
