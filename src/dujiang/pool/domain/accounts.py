"""Whether the ledger says of a cluster what the cluster's own accounts say: per attempt, and in sums. Pure.

The ledger holds an attempt's share from its placement to its end as we saw it; a scheduler below us counts from where
it started the work. So what waited there beyond the tolerance is a difference, and is told: it was held and not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dujiang.engines.contract import Accounted, AttemptKey
from dujiang.pool.domain.inventory import Inventory
from dujiang.pool.domain.ledger import Allocation

DEFAULT_TOLERANCE_S: Final = 5.0
_THREADS: Final = 2
"""Of a core: a scheduler that gives whole cores may round up by so many processors a node."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one attempt holds or held, by our ledger."""

    key: AttemptKey
    started_at: datetime
    ended_at: datetime | None
    cpu_milli: int
    cpu_milli_most: int
    """On the node where it is most."""
    gpu_milli: int
    devices: int
    """How many devices it has a share of."""
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One attempt on both sides."""

    key: AttemptKey
    ours: Holding | None
    theirs: tuple[Accounted, ...]
    """Usually one; a cluster may have run it, or tried to, more than once."""
    differences: tuple[str, ...]
    """Sentences; none where both sides say the same."""


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Both sides of one cluster in one time."""

    cluster: str
    since: datetime
    until: datetime
    tolerance_s: float
    attempts: int
    """That either side knows of."""
    compared: tuple[Compared, ...]
    """Those that differ, in order of key."""
    our_gpu_s: float
    their_gpu_s: float

    @property
    def difference_gpu_s(self) -> float:
        """Return what our ledger counts above the cluster's accounts, GPU seconds."""
        return self.our_gpu_s - self.their_gpu_s

    @property
    def holds(self) -> bool:
        """Say whether no attempt differs by more than the tolerance."""
        return not self.compared


def holdings(rows: Iterable[Allocation], inventory: Inventory, cluster_id: str) -> dict[AttemptKey, Holding]:
    """Return what attempts hold on a cluster, from rows of the ledger."""
    found: dict[AttemptKey, list[Allocation]] = {}
    for row in rows:
        if row.share.cluster_id == cluster_id:
            found.setdefault(row.share.key, []).append(row)
    return {key: _holding(key, own, inventory) for key, own in found.items()}


def _holding(key: AttemptKey, rows: Sequence[Allocation], inventory: Inventory) -> Holding:
    names: dict[str, int] = {}
    for row in rows:
        node = inventory.nodes.get(row.share.node_id)
        name = node.name if node else row.share.node_id
        names[name] = names.get(name, 0) + row.share.cpu_milli
    ends = [row.ended_at for row in rows if row.ended_at is not None]
    return Holding(
        key=key,
        started_at=min(row.started_at for row in rows),
        ended_at=max(ends) if len(ends) == len(rows) else None,
        cpu_milli=sum(names.values()),
        cpu_milli_most=max(names.values()),
        gpu_milli=sum(row.share.gpu_milli for row in rows),
        devices=len({row.share.device_id for row in rows if row.share.device_id}),
        nodes=tuple(sorted(names)),
    )


def reconcile_accounts(
    cluster: str, ours: Mapping[AttemptKey, Holding], theirs: Sequence[Accounted], *, since: datetime,
    until: datetime, tolerance_s: float = DEFAULT_TOLERANCE_S,
) -> Reconciliation:  # fmt: skip
    """Compare attempt by attempt, and the GPU seconds within the time on both sides.

    Args:
        cluster: its name.
        ours: what the ledger says was held at some moment of the time.
        theirs: what the cluster accounted in it.
        since: beginning of the time.
        until: its end; what runs beyond is compared as running.
        tolerance_s: how far moments and lengths may differ: clocks, rounding to seconds, the way between both.
    """
    accounted: dict[AttemptKey, list[Accounted]] = {}
    for one in theirs:
        accounted.setdefault(one.key, []).append(one)
    keys = sorted({*ours, *accounted})
    compared = []
    for key in keys:
        told = tuple(sorted(accounted.get(key, ()), key=lambda one: (one.elapsed_s, one.job), reverse=True))
        differences = _differences(ours.get(key), told, since, until, timedelta(seconds=tolerance_s))
        if differences:
            compared.append(Compared(key, ours.get(key), told, tuple(differences)))
    return Reconciliation(
        cluster=cluster, since=since, until=until, tolerance_s=tolerance_s, attempts=len(keys),
        compared=tuple(compared),
        our_gpu_s=sum(one.gpu_milli * _held_s(one, since, until) for one in ours.values()) / 1000,
        their_gpu_s=float(sum(one.devices * _used_s(one, since, until) for one in theirs)),
    )  # fmt: skip


def _differences(
    ours: Holding | None, theirs: tuple[Accounted, ...], since: datetime, until: datetime, slack: timedelta
) -> list[str]:
    if ours is None:
        used_s = sum(_used_s(one, since, until) for one in theirs)
        if used_s <= slack.total_seconds():
            return []
        return [f"only the cluster has it: {used_s:.0f} s as job {', '.join(one.job for one in theirs)}"]
    if not theirs:
        held_s = _held_s(ours, since, until)
        return [f"only the ledger has it: {held_s:.0f} s"] if held_s > slack.total_seconds() else []
    first, *more = theirs
    found = [
        f"it ran once more there: {one.elapsed_s:.0f} s as job {one.job}"
        for one in more
        if one.elapsed_s > slack.total_seconds()
    ]
    if first.started_at is None:
        held_s = _held_s(ours, since, until)
        return [*found, f"held for {held_s:.0f} s, and it never began there ({first.state})"] if (
            held_s > slack.total_seconds()
        ) else found  # fmt: skip
    return [*found, *_of_time(ours, first, until, slack), *_of_amounts(ours, first)]


def _of_time(ours: Holding, theirs: Accounted, until: datetime, slack: timedelta) -> list[str]:
    assert theirs.started_at is not None
    found: list[str] = []
    late = theirs.started_at - ours.started_at
    if abs(late) > slack:
        word = "after" if late > timedelta(0) else "before"
        found.append(f"it began there {abs(late.total_seconds()):.0f} s {word} it was held here")
    our_end, their_end = _by(ours.ended_at, until), _by(theirs.ended_at, until)
    over = (our_end or until) - (their_end or until)
    if abs(over) > slack:
        if their_end is None:
            found.append(f"it was given back here {-over.total_seconds():.0f} s ago and runs there ({theirs.state})")
        elif our_end is None:
            found.append(f"it ended there {over.total_seconds():.0f} s ago ({theirs.state}) and is held here")
        else:
            word = "after" if over > timedelta(0) else "before"
            found.append(f"it was given back here {abs(over.total_seconds()):.0f} s {word} it ended there")
    length_s = ((theirs.ended_at or until) - theirs.started_at).total_seconds()
    if length_s - theirs.elapsed_s > slack.total_seconds():
        found.append(f"it was suspended there for {length_s - theirs.elapsed_s:.0f} s of {length_s:.0f} s")
    return found


def _of_amounts(ours: Holding, theirs: Accounted) -> list[str]:
    found: list[str] = []
    if ours.devices != theirs.devices:
        found.append(f"{ours.devices} devices here, {theirs.devices} there")
    elif ours.gpu_milli != 1000 * theirs.devices:
        found.append(f"{ours.gpu_milli / 1000:g} devices by shares here, {theirs.devices} whole ones there")
    most = len(ours.nodes) * (-(-ours.cpu_milli_most // 1000) + _THREADS - 1) * 1000
    if not ours.cpu_milli <= theirs.cpu_milli <= max(most, 1000):
        found.append(f"{ours.cpu_milli / 1000:g} processors here, {theirs.cpu_milli / 1000:g} there")
    if set(ours.nodes) != set(theirs.nodes):
        found.append(f"on {', '.join(ours.nodes)} here, on {', '.join(theirs.nodes) or 'no node'} there")
    return found


def _by(ended_at: datetime | None, until: datetime) -> datetime | None:
    """Return an end, None where it lies behind the time that is looked at."""
    return None if ended_at is None or ended_at > until else ended_at


def _held_s(ours: Holding, since: datetime, until: datetime) -> float:
    return _within_s(ours.started_at, ours.ended_at, since, until)


def _used_s(theirs: Accounted, since: datetime, until: datetime) -> float:
    if theirs.started_at is None:
        return 0.0
    return min(theirs.elapsed_s, _within_s(theirs.started_at, theirs.ended_at, since, until))


def _within_s(start: datetime, end: datetime | None, since: datetime, until: datetime) -> float:
    return max(0.0, (min(end or until, until) - max(start, since)).total_seconds())
