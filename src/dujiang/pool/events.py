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
    """A cluster answers, for the first time or again. Subject: the cluster."""

    name: str


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
