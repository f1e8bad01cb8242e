"""Where a job fits, and where it fits best: all its ranks in one cluster, all its devices of one flavor.

Nothing is ever split over two devices. Ranks of one job stay as near to one another as they can: on one node, else
within one switch, rack, site. Of equal places the cluster that holds the data is first, then the cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dujiang.engines.contract import DeviceShare, Isolation, RankPlacement
from dujiang.scheduling.domain.fleet import BoolArray, Flavor, Fleet, IntArray
from dujiang.scheduling.domain.fragments import FloatArray
from dujiang.scheduling.domain.request import LEVELS, WHOLE, Ask, Level, Shape
from dujiang.scheduling.domain.room import NEVER, Fit, Room, Sight, seats_of

_KEEPS = {Isolation.COUNTED_ONLY: 0, Isolation.MEMORY_ONLY: 1, Isolation.ENFORCED: 2}


def options(fleet: Fleet, shape: Shape) -> Iterator[tuple[int, Flavor | None]]:
    """Yield the (cluster, flavor) pairs that a shape may use, best first; no flavor for what asks for no devices.

    Clusters near the data come first, then the cheaper ones, then the least device memory that will do; of work without
    devices, clusters with the fewest devices. A rented cluster is used by those alone that name it, and what runs in a
    container image goes where those are run.
    """
    ask, where = shape.ask, shape.where
    usable = [
        (c.name == where.cluster or (not where.cluster and not c.is_cloud)) and (bool(c.images) or not where.image)
        for c in fleet.clusters
    ]
    far = [bool(where.near) and c.name not in where.near for c in fleet.clusters]
    if not ask.gpu_milli:
        has = np.bincount(fleet.node_cluster[fleet.device_node], minlength=len(fleet.clusters)).tolist()
        for cluster in sorted(range(len(usable)), key=lambda at: (far[at], fleet.clusters[at].price, has[at], at)):
            if usable[cluster]:
                yield cluster, None
        return
    least = _KEEPS[where.isolation] if where.isolation and ask.is_fraction else 0
    fitting = [
        flavor for flavor in fleet.flavors
        if usable[flavor.cluster] and flavor.matches(ask) and _KEEPS[flavor.isolation] >= least
    ]  # fmt: skip
    for flavor in sorted(fitting, key=lambda one: (far[one.cluster], fleet.clusters[one.cluster].price, one.number)):
        yield flavor.cluster, flavor


def find(
    room: Room, shape: Shape, allowed: BoolArray, *, least: int | None = None, closed: frozenset[int] = frozenset(),
    tightest: bool = False,
) -> Fit | None:  # fmt: skip
    """Return the best place for the ranks of a shape, or None when they do not fit together.

    Args:
        room: what is free.
        shape: what to place.
        allowed: (n) nodes that may be used.
        least: fewer ranks will do, down to this many; as many as fit are placed.
        closed: flavors, by number, that must not be used; for work without devices, clusters as -1 - number.
        tightest: by best fit, whatever may come.
    """
    usable = [
        (cluster, flavor) for cluster, flavor in options(room.fleet, shape)
        if (-1 - cluster if flavor is None else flavor.number) not in closed
    ]  # fmt: skip
    if shape.ranks == 1 and len(usable) > 1:
        usable = _best_of_equals(room, shape, allowed, usable, tightest)
    best: Fit | None = None
    for cluster, flavor in usable:
        fit = _find_in(room, shape, allowed, cluster, flavor, least or shape.ranks, tightest)
        if fit is None:
            continue
        if len(fit.spots) == shape.ranks:
            return fit
        if best is None or len(fit.spots) > len(best.spots):
            best = fit
    return best


def room_for(room: Room, shape: Shape, cluster: int, flavor: Flavor | None, allowed: BoolArray) -> int:
    """Return how many ranks of a shape fit at the same time, at most `shape.ranks` on each node."""
    sight = room.sight(shape.ask, cluster, flavor, allowed)
    rooms = _spread_apart(room.fleet, shape, cluster, sight)
    levels = _levels(room.fleet, shape)
    if levels[-1] is None:
        return int(rooms.sum())
    if levels[-1] is Level.NODE:
        return int(rooms.max(initial=0))
    return int(_in_domains(room.fleet, sight, rooms, levels[-1]).max(initial=0))


def holding(room: Room, ask: Ask, cluster: int, flavor: Flavor | None, allowed: BoolArray) -> BoolArray:
    """Return the nodes (n) that hold one rank now."""
    sight = room.sight(ask, cluster, flavor, allowed)
    holds = np.zeros_like(allowed)
    holds[sight.nodes] = sight.rooms > 0
    return holds


def placements(fleet: Fleet, fit: Fit) -> tuple[RankPlacement, ...]:
    """Return a fit in the engine's words."""
    ask = fit.ask
    return tuple(
        RankPlacement(
            rank=rank, node=fleet.node_names[spot.node], cpu_milli=ask.cpu_milli, memory_bytes=ask.memory_bytes,
            disk_bytes=ask.disk_bytes,
            devices=tuple(
                DeviceShare(
                    fleet.device_names[at], int(fleet.device_index[at]), fit.device_milli, fit.device_bytes
                ) for at in spot.devices
            ),
        ) for rank, spot in enumerate(fit.spots)
    )  # fmt: skip


def _find_in(
    room: Room, shape: Shape, allowed: BoolArray, cluster: int, flavor: Flavor | None, least: int, tightest: bool
) -> Fit | None:
    ask = shape.ask
    sight = room.sight(ask, cluster, flavor, allowed, tightest=tightest)
    if not sight.key.size:
        return None
    if shape.ranks == 1:
        best = int(sight.key.argmin())
        counts = [(best, 1)] if sight.key[best] != NEVER else []
    else:
        counts = _spread(room.fleet, shape, cluster, sight, least)
    if not counts:
        return None
    nodes = sight.nodes
    if ask.is_fraction and shape.ranks == 1:
        spots = [sight.seat(room, counts[0][0])]
    else:
        spots = [spot for row, ranks in counts for spot in seats_of(room, ask, flavor, int(nodes[row]), ranks)]
    if flavor is None:
        return Fit(cluster, tuple(spots), ask, 0, 0)
    return Fit(cluster, tuple(spots), ask, min(ask.gpu_milli, WHOLE), flavor.share_bytes(ask))


def _best_of_equals(
    room: Room, shape: Shape, allowed: BoolArray, usable: list[tuple[int, Flavor | None]], tightest: bool
) -> list[tuple[int, Flavor | None]]:  # fmt: skip
    """Order flavors of one cluster with as much memory by how good a place one rank finds; those that differ stay."""

    def standing(at: int) -> tuple[int, float]:
        cluster, flavor = usable[at]
        sight = room.sight(shape.ask, cluster, flavor, allowed, tightest=tightest)
        return groups[at], float(sight.key.min(initial=NEVER))

    groups, last = [0] * len(usable), 0
    for at in range(1, len(usable)):
        (before, one), (cluster, other) = usable[at - 1], usable[at]
        is_equal = one is not None and other is not None and one.memory_bytes == other.memory_bytes
        last += 0 if is_equal and before == cluster else 1
        groups[at] = last
    if last == len(usable) - 1:
        return usable
    return [usable[at] for at in sorted(range(len(usable)), key=standing)]


def _spread(fleet: Fleet, shape: Shape, cluster: int, sight: Sight, least: int) -> list[tuple[int, int]]:
    """Say how many ranks go to which row of a sight, as (row, ranks); empty when there is no room."""
    rooms = _spread_apart(fleet, shape, cluster, sight)
    if int(rooms.sum()) < least:
        return []
    levels = _levels(fleet, shape)
    for level in levels:
        if counts := _within(fleet, sight, rooms, level, shape.ranks, shape.ranks):
            return counts
    return _within(fleet, sight, rooms, levels[-1], least, shape.ranks) if least < shape.ranks else []


def _within(
    fleet: Fleet, sight: Sight, rooms: IntArray, level: Level | None, least: int, most: int
) -> list[tuple[int, int]]:
    """Put ranks into one domain of a level: the fullest that holds all; where none does, the one that holds most."""
    if level is None:
        held = np.array([rooms.sum()])
    elif level is Level.NODE:
        held = rooms
    else:
        held = _in_domains(fleet, sight, rooms, level)
    many = min(most, int(held.max(initial=0)))
    if many < least:
        return []
    if level is Level.NODE:
        return [(int(np.argmin(np.where(rooms >= many, sight.key, NEVER))), many)]
    if level is not None:
        domain = int(np.argmin(np.where(held >= many, held, NEVER)))
        rooms = np.where(fleet.node_domains[LEVELS.index(level), sight.nodes] == domain, rooms, 0)
    return _pack(rooms, sight.key, many)


def _pack(rooms: IntArray, key: FloatArray, ranks: int) -> list[tuple[int, int]]:
    """Put ranks on as few nodes as possible, the last of them as tight as possible."""
    able = np.flatnonzero(rooms)
    rooms, key = rooms[able], key[able]
    if int(rooms.max()) == 1:
        chosen_at = np.argpartition(key, ranks - 1)[:ranks] if ranks < len(key) else np.arange(len(key))
        if ranks < len(key):  # of equal keys the first: the same plan for the same snapshot, whatever partition does
            last = key[chosen_at].max()
            sure = np.flatnonzero(key < last)
            chosen_at = np.concatenate([sure, np.flatnonzero(key == last)[: ranks - len(sure)]])
        return [(int(able[at]), 1) for at in np.sort(chosen_at)]
    chosen: list[tuple[int, int]] = []
    if int(rooms.max()) < ranks:
        for at in np.lexsort((key, -rooms)).tolist():
            if rooms[at] >= ranks:
                break
            chosen.append((int(able[at]), int(rooms[at])))
            ranks -= int(rooms[at])
            rooms[at] = 0
            if not ranks:
                return sorted(chosen)
    best = int(np.argmin(np.where(rooms >= ranks, key, NEVER)))
    return [*sorted(chosen), (int(able[best]), ranks)]


def _spread_apart(fleet: Fleet, shape: Shape, cluster: int, sight: Sight) -> IntArray:
    """Return how many ranks each row may take when they must keep apart."""
    spread = shape.where.spread
    alone = spread is not None or not fleet.clusters[cluster].stacks_ranks
    rooms = np.minimum(sight.rooms, 1 if alone else shape.ranks)
    if spread in LEVELS:
        assert spread is not None
        order = np.lexsort((sight.key, -rooms))
        domains = fleet.node_domains[LEVELS.index(spread), sight.nodes[order]]
        first = np.unique(domains, return_index=True)[1]
        only = np.zeros_like(rooms)
        only[order[first]] = rooms[order[first]]
        return only
    return rooms


def _levels(fleet: Fleet, shape: Shape) -> list[Level | None]:
    """Return the levels to try, narrowest first; None is anywhere in the cluster."""
    where = shape.where
    if where.within and where.is_within_required:
        return [where.within]
    wider: list[Level | None] = [Level.NODE, *(level for level in LEVELS if fleet.knows(level)), None]
    if where.spread is not None:
        wider = [level for level in wider if level is not Level.NODE]
    if where.within and where.within in wider:
        return wider[wider.index(where.within) :]
    return wider


def _in_domains(fleet: Fleet, sight: Sight, rooms: IntArray, level: Level) -> IntArray:
    """Return how many ranks each domain of a level holds."""
    domains = fleet.node_domains[LEVELS.index(level), sight.nodes]
    return np.bincount(domains, weights=rooms).astype(np.int64)
