"""What one look makes of a cluster's row, and what is told when it stands otherwise than before. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from dujiang.engines.contract import Capabilities, Isolation
from dujiang.kit.journal import Event
from dujiang.pool.domain.nodes import Cluster, Terms
from dujiang.pool.domain.standing import ClusterState, Standing
from dujiang.pool.events import ClusterChanged, ClusterDegraded, ClusterReached, ClusterUnreachable

MAX_WHY: Final = 500
_CAN: Final = ("kind", "version", "limits", "limits_by", "isolation", "stacks_ranks", "images", "simulated")
"""What an engine can do, as its cluster's row keeps it."""


def as_seen(known: Cluster | None, name: str, capabilities: Capabilities, id: str, terms: Terms) -> Cluster:
    """Return a cluster with what its engine can do now; how it stands is as it was."""
    base = known or Cluster(
        id=id, name=name, kind="", simulated=False, limits=Isolation.COUNTED_ONLY, limits_by="",
        isolation=Isolation.COUNTED_ONLY, stacks_ranks=False, reachable=True, reason="", seen_at=None,
    )  # fmt: skip
    return replace(
        base, terms=terms, kind=capabilities.kind, version=capabilities.version[:64], images=capabilities.images[:32],
        limits=Isolation(capabilities.limits), limits_by=capabilities.limits_by, simulated=capabilities.simulated,
        isolation=capabilities.device_isolation, stacks_ranks=capabilities.stacks_ranks,
    )  # fmt: skip


def never_seen(name: str, kind: str, id: str, terms: Terms) -> Cluster:
    """Return a cluster that has not answered yet, so that people see that it should be there."""
    return Cluster(
        id=id, name=name, kind=kind, simulated=False, limits=Isolation.COUNTED_ONLY, limits_by="",
        isolation=Isolation.COUNTED_ONLY, stacks_ranks=False, reachable=False, reason="", seen_at=None, terms=terms,
    )  # fmt: skip


def standing_so(cluster: Cluster, standing: Standing, *, was: Cluster | None, now: datetime) -> Cluster:
    """Return a cluster that stands so; since when is kept while its state is the same."""
    is_same = was is not None and was.state is standing.state and was.state_since is not None
    return replace(
        cluster, reachable=standing.state is not ClusterState.UNREACHABLE,
        degraded=standing.state is ClusterState.DEGRADED, reason=standing.why[:MAX_WHY],
        state_since=was.state_since if was is not None and is_same else now,
        answer_s=_rounded(standing.answer_s, cluster.answer_s),
        answer_p95_s=_rounded(standing.answer_p95_s, cluster.answer_p95_s),
    )  # fmt: skip


def moves(was: Cluster | None, cluster: Cluster) -> bool:
    """Say whether what may be placed there has changed, or how."""
    if was is None:
        return True
    shown = ("reason", "seen_at", "degraded", "state_since", "answer_s", "answer_p95_s")
    return replace(cluster, **{name: getattr(was, name) for name in shown}) != was


def told(was: Cluster | None, cluster: Cluster) -> list[Event]:
    """Return the events of a cluster that stands otherwise, or whose engine can do something else than before."""
    events: list[Event] = []
    if was is None or was.state is not cluster.state:
        events.append(_of_state(cluster))
    if was is not None and was.seen_at is not None:
        changed = [name for name in _CAN if getattr(was, name) != getattr(cluster, name)]
        if changed:
            events.append(ClusterChanged(
                subject=cluster.id, name=cluster.name,
                before={name: str(getattr(was, name)) for name in changed},
                now={name: str(getattr(cluster, name)) for name in changed},
            ))  # fmt: skip
    return events


def _of_state(cluster: Cluster) -> Event:
    match cluster.state:
        case ClusterState.UNREACHABLE:
            return ClusterUnreachable(subject=cluster.id, name=cluster.name, reason=cluster.reason)
        case ClusterState.DEGRADED:
            return ClusterDegraded(subject=cluster.id, name=cluster.name, reason=cluster.reason)
        case _:
            return ClusterReached(subject=cluster.id, name=cluster.name)


def _rounded(seconds: float | None, otherwise: float | None) -> float | None:
    return otherwise if seconds is None else round(seconds, 4)
