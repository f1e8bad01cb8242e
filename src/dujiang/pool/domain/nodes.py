"""What a node, a device and a cluster are, and what state a node is in.

The state is derived, never set: from what the engine reports (present, ready, cordoned) and from what the operator
intends (cordon, drain). So a cordoned node that fails and comes back is cordoned again, and nobody has to remember.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from dujiang.engines.contract import Isolation
from dujiang.kit.errors import Conflict, Invalid, NotFound
from dujiang.kit.state import Machine
from dujiang.pool.domain import marks
from dujiang.pool.domain.standing import ClusterState


class NodeState(StrEnum):
    """What a node may be used for."""

    READY = "READY"
    CORDONED = "CORDONED"
    """Nothing new starts; what runs goes on."""
    DRAINING = "DRAINING"
    """Nothing new starts, and what runs is being moved away."""
    DRAINED = "DRAINED"
    """Empty, and nothing new starts: it may be taken apart."""
    NOT_READY = "NOT_READY"
    """The engine says it cannot work, or does not list it any more."""
    GONE = "GONE"
    """Out of the inventory for long enough, with nothing allocated. It may come back under its name."""


_S = NodeState
NODE_STATES: Final = Machine(
    "node",
    {
        _S.READY: frozenset({_S.CORDONED, _S.DRAINING, _S.DRAINED, _S.NOT_READY}),
        _S.CORDONED: frozenset({_S.READY, _S.DRAINING, _S.DRAINED, _S.NOT_READY}),
        _S.DRAINING: frozenset({_S.READY, _S.CORDONED, _S.DRAINED, _S.NOT_READY}),
        _S.DRAINED: frozenset({_S.READY, _S.CORDONED, _S.NOT_READY}),
        _S.NOT_READY: frozenset({_S.READY, _S.CORDONED, _S.DRAINING, _S.DRAINED, _S.GONE}),
        _S.GONE: frozenset({_S.READY, _S.CORDONED, _S.DRAINED, _S.NOT_READY}),
    },
    start=_S.NOT_READY,
)
"""A node joins as NOT_READY and is looked at in the same moment. No state is final: a node taken out may come back."""


class DeviceState(StrEnum):
    """Whether work may be put on a device."""

    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    GONE = "GONE"


class Intent(StrEnum):
    """What the operator wants of a node."""

    NONE = "none"
    """Nothing said: the engine's own word counts."""
    OPEN = "open"
    """Opened again while the engine still has it cordoned; becomes NONE once the engine has followed."""
    CORDON = "cordon"
    DRAIN = "drain"


def state_of(
    *, was: NodeState, intent: Intent, present: bool, ready: bool, engine_cordoned: bool, held: bool, long_gone: bool
) -> NodeState:
    """Derive the state of a node.

    Args:
        was: its state until now.
        intent: what the operator wants.
        present: the engine lists it.
        ready: the engine says it can work.
        engine_cordoned: the engine lets nothing new start there, whoever asked.
        held: something is allocated on it.
        long_gone: it has been out of the inventory for longer than a lagging view explains.
    """
    if not present:
        if was is NodeState.GONE:
            return NodeState.GONE
        return NodeState.GONE if was is NodeState.NOT_READY and long_gone and not held else NodeState.NOT_READY
    if not ready:
        return NodeState.NOT_READY
    if intent is Intent.DRAIN:
        return NodeState.DRAINING if held else NodeState.DRAINED
    if intent is Intent.CORDON or engine_cordoned:
        return NodeState.CORDONED
    return NodeState.READY


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a cluster works, as the operator says; engines do not know."""

    price_per_device_hour: Decimal = Decimal(0)
    """List cost of one device for one hour, in the platform's currency; the cheaper cluster is tried first."""
    is_cloud: bool = False
    """Rented by use."""
    interruptions_per_day: float = 0.0
    """How often a node is taken away (spot capacity)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One engine's realm, with what it promises."""

    id: str
    name: str
    kind: str
    """`local`, `simulated`, `slurm`, `kubernetes`."""
    simulated: bool
    limits: Isolation
    limits_by: str
    isolation: Isolation
    """The best isolation of a fraction of a device."""
    stacks_ranks: bool
    reachable: bool
    reason: str
    """Why it cannot be reached, or what is the matter with it; empty when nothing is."""
    seen_at: datetime | None
    """When it last said what there is; None: never."""
    terms: Terms = Terms()
    version: str = ""
    """Of the engine, as far as it says."""
    images: str = ""
    """What runs container images there; empty where nothing does."""
    degraded: bool = False
    """It can be reached, but something is the matter."""
    state_since: datetime | None = None
    answer_s: float | None = None
    """How long its last answer took."""
    answer_p95_s: float | None = None
    """How long 95 of 100 recent ones took at most."""

    @property
    def state(self) -> ClusterState:
        """Return how it stands."""
        if not self.reachable:
            return ClusterState.UNREACHABLE
        return ClusterState.DEGRADED if self.degraded else ClusterState.REACHABLE


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator."""

    id: str
    node_id: str
    name: str
    index: int
    vendor: str
    model: str
    memory_bytes: int
    state: DeviceState
    isolation: Isolation
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """One node as it was last seen. Its limits are what may be given away: what the engine says, times overcommit."""

    id: str
    cluster_id: str
    name: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    cpu_limit_milli: int
    memory_limit_bytes: int
    disk_limit_bytes: int
    state: NodeState
    reason: str
    """Why it is in this state: the operator's or the engine's words."""
    intent: Intent
    intent_by: str
    intent_reason: str
    present: bool
    ready: bool
    engine_cordoned: bool
    engine_reason: str
    engine_labels: Mapping[str, str]
    engine_taints: tuple[str, ...]
    own_labels: Mapping[str, str]
    """The operators', over the engine's."""
    own_taints: tuple[str, ...]
    """The operators', beside the engine's."""
    seen_at: datetime | None
    """When it was last in the inventory; None while it is (the cluster's `seen_at` says)."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Return all its labels."""
        return {**self.engine_labels, **self.own_labels} if self.own_labels else self.engine_labels

    @property
    def taints(self) -> tuple[str, ...]:
        """Return all its taints, `key` or `key=value`, sorted: only work that tolerates each starts there."""
        return tuple(sorted({*self.engine_taints, *self.own_taints}))

    @property
    def domains(self) -> Mapping[str, str]:
        """Return its switch, rack and site as far as its labels say, by names that no other site has."""
        return marks.domains(self.labels)


@dataclass(frozen=True, slots=True)
class EngineOrder:
    """What the engine is still to be told about a node; the loop that talks to engines carries it out."""

    cluster: str
    node: str
    cordon: bool
    """True: let nothing new start; False: open it again."""
    reason: str


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A node or device that is now smaller than what is allocated on it."""

    node: str
    device: str
    """Empty for the node itself."""
    resource: str
    allocated: int
    limit: int


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one look at an engine's inventory changed."""

    added: tuple[str, ...] = ()
    """Names of nodes that were not known, or were gone."""
    changed: tuple[tuple[str, NodeState, NodeState], ...] = ()
    """Name, state until now, state from now on."""
    shrunk: tuple[Shrunk, ...] = ()
    moved: bool = False
    """Whether anything that placement depends on is different."""


class UnknownCluster(NotFound):
    """No such cluster."""

    code, title = "cluster_not_found", "No such cluster"


class UnknownNode(NotFound):
    """No such node."""

    code, title = "node_not_found", "No such node"


class UnknownDevice(NotFound):
    """No such device on that node."""

    code, title = "device_not_found", "No such device"


class AmbiguousNode(Conflict):
    """Several clusters have a node of that name."""

    code, title = "node_ambiguous", "Several nodes have this name"


class BadInventory(Invalid):
    """An engine's inventory contradicts itself."""

    code, title = "bad_inventory", "The inventory contradicts itself"
