"""Reservations and maintenance: made, changed, taken back, and turned when their time comes.

Each of these moves the pool's version, so that nothing is started on a plan that did not know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dujiang.kit.db import Tx
from dujiang.kit.errors import Invalid, did_you_mean
from dujiang.kit.ids import Ids
from dujiang.pool import reservation_store as store
from dujiang.pool.domain import Inventory, UnknownCluster, UnknownNode
from dujiang.pool.domain.reservations import (
    MAX_NODES,
    MAX_PROJECTS,
    RESERVATION_STATES,
    BadReservation,
    Reservation,
    ReservationExists,
    ReservationOver,
    ReservationState,
    UnknownReservation,
    check,
    warnings,
)
from dujiang.pool.events import (
    ReservationBegan,
    ReservationChanged,
    ReservationDropped,
    ReservationEnded,
    ReservationMade,
)
from dujiang.pool.service import MAX_REASON, PoolService


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator asks for."""

    name: str
    begins_at: datetime
    ends_at: datetime
    cluster: str | None = None
    """None will do where there is one."""
    nodes: tuple[str, ...] = ()
    """Names; empty is all of the cluster."""
    projects: tuple[str, ...] = ()
    """Ids; empty is maintenance."""
    reason: str = ""


class Reservations:
    """Use cases of reservations. Functions take the transaction first, and never commit."""

    def __init__(self, ids: Ids, pool: PoolService) -> None:
        self._ids, self._pool = ids, pool

    async def make(self, tx: Tx, wanted: Wanted) -> tuple[Reservation, list[str]]:
        """Make a reservation; return it with what is odd about it. One that has ended gives its name away.

        Raises:
            BadReservation: its name or times mean nothing.
            ReservationExists: one of that name has not ended.
            UnknownCluster, UnknownNode: it names what is not there.
        """
        check(wanted.name, wanted.begins_at, wanted.ends_at, tx.now)
        _check_sizes(wanted.nodes, wanted.projects, wanted.reason)
        await self._pool.touch(tx)
        before = await store.find(tx, wanted.name)
        if before is not None:
            if before.state_at(tx.now) is not ReservationState.ENDED:
                raise ReservationExists(f'"{wanted.name}" is taken until {before.ends_at.isoformat()}; choose another.')
            await store.drop(tx, before.id)
        inventory = await self._pool.inventory(tx)
        cluster = _cluster_of(inventory, wanted.cluster)
        made = Reservation(
            id=self._ids.new("rsv"), name=wanted.name, cluster=cluster,
            nodes=_nodes_of(inventory, cluster, wanted.nodes), begins_at=wanted.begins_at.astimezone(UTC),
            ends_at=wanted.ends_at.astimezone(UTC),
            projects=tuple(sorted(set(wanted.projects))), reason=wanted.reason, made_by=tx.actor, made_at=tx.now,
            state=ReservationState.PLANNED,
        )  # fmt: skip
        await store.save(tx, made, is_new=True)
        tx.emit(
            ReservationMade(
                subject=made.id, name=made.name, cluster=made.cluster, nodes=made.nodes[:20],
                begins_at=made.begins_at.isoformat(), ends_at=made.ends_at.isoformat(), projects=made.projects,
                reason=made.reason,
            )
        )  # fmt: skip
        return made, await self._warnings(tx, made, inventory)

    async def change(
        self, tx: Tx, name_or_id: str, *, begins_at: datetime | None = None, ends_at: datetime | None = None,
        reason: str | None = None,
    ) -> tuple[Reservation, list[str]]:  # fmt: skip
        """Give a reservation other times or another reason; None leaves it.

        Raises:
            UnknownReservation: there is none.
            ReservationOver: it has ended.
            BadReservation: the times mean nothing.
        """
        await self._pool.touch(tx)
        known = await self.reservation(tx, name_or_id)
        if known.state_at(tx.now) is ReservationState.ENDED:
            raise ReservationOver(f'"{known.name}" has ended; make another.')
        changed = replace(
            known, begins_at=begins_at or known.begins_at, ends_at=ends_at or known.ends_at,
            reason=known.reason if reason is None else reason,
        )  # fmt: skip
        _check_sizes((), (), changed.reason)
        check(changed.name, changed.begins_at, changed.ends_at, tx.now)
        inventory = await self._pool.inventory(tx)
        if changed != known:
            if changed.begins_at > tx.now:
                changed = replace(changed, state=ReservationState.PLANNED)  # else `turn` moves it on, and says so
            await store.save(tx, changed, is_new=False)
            tx.emit(
                ReservationChanged(
                    subject=changed.id, name=changed.name, begins_at=changed.begins_at.isoformat(),
                    ends_at=changed.ends_at.isoformat(), reason=changed.reason,
                )
            )  # fmt: skip
        return changed, await self._warnings(tx, changed, inventory)

    async def drop(self, tx: Tx, name_or_id: str) -> None:
        """Take a reservation back; one that has ended is forgotten.

        Raises:
            UnknownReservation: there is none.
        """
        await self._pool.touch(tx)
        known = await self.reservation(tx, name_or_id)
        await store.drop(tx, known.id)
        tx.emit(ReservationDropped(subject=known.id, name=known.name))

    async def reservation(self, tx: Tx, name_or_id: str) -> Reservation:
        """Return a reservation.

        Raises:
            UnknownReservation: there is none.
        """
        found = await store.find(tx, name_or_id)
        if found is None:
            near = did_you_mean(name_or_id, [each.name for each in await store.read_all(tx)])
            raise UnknownReservation(f'There is no reservation "{name_or_id[:100]}".{near}')
        return found

    async def reservations(self, tx: Tx, *, with_ended: bool = False) -> list[Reservation]:
        """Return reservations in order of name."""
        return await (store.read_all(tx) if with_ended else store.read_open(tx, tx.now))

    async def turning(self, tx: Tx) -> bool:
        """Say whether one has begun or ended since it was last written down."""
        return bool(await store.read_turning(tx, tx.now))

    async def turn(self, tx: Tx) -> int:
        """Write down which have begun and which have ended; return how many."""
        await self._pool.touch(tx)
        found = await store.read_turning(tx, tx.now)
        for known in found:
            state = known.state_at(tx.now)
            RESERVATION_STATES.check(f"Reservation {known.name}", known.state, state)
            await store.save(tx, replace(known, state=state), is_new=False)
            event = ReservationEnded if state is ReservationState.ENDED else ReservationBegan
            tx.emit(event(subject=known.id, name=known.name))
        return len(found)

    async def _warnings(self, tx: Tx, made: Reservation, inventory: Inventory) -> list[str]:
        cluster_id = inventory.cluster_ids[made.cluster]
        node_ids = [
            node_id
            for (cluster, name), node_id in inventory.node_ids.items()
            if cluster == cluster_id and (not made.nodes or name in made.nodes)
        ]
        there = await self._pool.attempts_on(tx, node_ids)
        return warnings(made, await store.read_open(tx, tx.now), len(there))


def _check_sizes(nodes: Sequence[str], projects: Sequence[str], reason: str) -> None:
    if len(nodes) > MAX_NODES or len(projects) > MAX_PROJECTS:
        raise BadReservation(f"A reservation names at most {MAX_NODES} nodes and {MAX_PROJECTS} projects.")
    if len(reason) > MAX_REASON:
        raise Invalid(f"The reason is longer than {MAX_REASON} characters.")


def _cluster_of(inventory: Inventory, name: str | None) -> str:
    names = sorted(inventory.cluster_ids)
    if name is None:
        if len(names) != 1:
            raise BadReservation(f"Name the cluster: one of {', '.join(names) or 'none that is known yet'}.")
        return names[0]
    if name not in inventory.cluster_ids:
        near = did_you_mean(name, names) or f" The clusters are {', '.join(names) or 'none'}."
        raise UnknownCluster(f'There is no cluster "{name[:100]}".{near}')
    return name


def _nodes_of(inventory: Inventory, cluster: str, wanted: Sequence[str]) -> tuple[str, ...]:
    cluster_id = inventory.cluster_ids[cluster]
    known = {name for owner, name in inventory.node_ids if owner == cluster_id}
    for name in wanted:
        if name not in known:
            raise UnknownNode(f'Cluster {cluster} has no node "{name[:100]}".{did_you_mean(name, sorted(known))}')
    return tuple(sorted(set(wanted)))
