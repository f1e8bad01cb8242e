"""Which nodes a shape may use, and what is wrong when it could not run even with nothing else running."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dujiang.scheduling.domain.fleet import BoolArray, Flavor, Fleet
from dujiang.scheduling.domain.reasons import NOTHING, Reason, Shortage
from dujiang.scheduling.domain.request import WHOLE, Ask, Shape
from dujiang.scheduling.domain.room import Room, find, options


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a shape may go."""

    allowed: BoolArray
    """(n)"""
    reason: Reason | None = None
    """Why it could not run there even if it were empty; None when it could."""
    shortage: Shortage = NOTHING


@dataclass
class Grounds:
    """Finds the ground of each shape, once."""

    fleet: Fleet
    _known: dict[Shape, Ground] = field(default_factory=dict)
    _masks: dict[tuple[object, ...], BoolArray] = field(default_factory=dict)

    def of(self, shape: Shape) -> Ground:
        """Return the ground of a shape: nodes to avoid are left out as long as the others could hold it."""
        known = self._known.get(shape)
        if known is None:
            known = self._known[shape] = self._ground(shape)
        return known

    def mask(self, shape: Shape, *, avoiding: bool, closed_too: bool = False) -> BoolArray:
        """Return the nodes (n) that selector and state let it use."""
        avoid = shape.avoid if avoiding else ()
        key = (shape.where.selector, avoid, closed_too)
        if key not in self._masks:
            mask = np.ones(self.fleet.node_count, dtype=np.bool_) if closed_too else self.fleet.node_open.copy()
            if wanted := shape.where.selector:
                mask &= [all(labels.get(k) == v for k, v in wanted) for labels in self.fleet.node_labels]
            for pair in avoid:
                if pair in self.fleet.node_at:
                    mask[self.fleet.node_at[pair]] = False
            self._masks[key] = mask
        return self._masks[key]

    @cached_property
    def empty(self) -> Room:
        """Return the room when nothing runs."""
        fleet = self.fleet
        milli = np.full(fleet.device_count, WHOLE, dtype=np.int64)
        return Room(fleet, fleet.node_limit.copy(), milli, fleet.device_memory.copy())

    @cached_property
    def open_empty(self) -> Room:
        """Return the room when nothing runs and everything is open."""
        fleet = self.fleet
        everything = replace(
            fleet, node_open=np.ones_like(fleet.node_open), device_open=np.ones_like(fleet.device_open)
        )
        milli = np.full(fleet.device_count, WHOLE, dtype=np.int64)
        return Room(everything, fleet.node_limit.copy(), milli, fleet.device_memory.copy())

    def _ground(self, shape: Shape) -> Ground:
        allowed = self.mask(shape, avoiding=True)
        if find(self.empty, shape, allowed) is not None:
            return Ground(allowed)
        allowed = self.mask(shape, avoiding=False)
        if shape.avoid and find(self.empty, shape, allowed) is not None:
            return Ground(allowed)
        everywhere = self.mask(shape, avoiding=False, closed_too=True)
        fit = find(self.open_empty, shape, everywhere)
        if fit is not None:
            closed = next((s.node for s in fit.spots if not self.fleet.node_open[s.node]), fit.spots[0].node)
            return Ground(allowed, Reason.NODE_UNAVAILABLE, Shortage("node", node=self.fleet.node_names[closed]))
        if shape.ask.gpu_milli and not any(flavor.matches(shape.ask) for flavor in self.fleet.flavors):
            return Ground(allowed, Reason.NO_MATCHING_DEVICE)
        return Ground(allowed, Reason.TOO_LARGE, shortage(self.open_empty, shape, everywhere))


def shortage(room: Room, shape: Shape, allowed: BoolArray) -> Shortage:
    """Say what a shape lacks in a room where it does not fit: the first resource of which no node has enough alone."""
    places = list(options(room.fleet, shape))
    ask, best = shape.ask, NOTHING
    for resource, needed in _needs(ask):
        best = NOTHING
        for cluster, flavor in places:
            most, node = most_free(room, resource, ask, cluster, flavor, allowed)
            if not best.resource or most > best.available:
                best = Shortage(resource, needed, most, node)
        if best.available < needed:
            return best
    if shape.ranks == 1:
        return Shortage("together", node=_nearest(room, shape, places, allowed))
    rooms = [int(room_for(room, shape, cluster, flavor, allowed)) for cluster, flavor in places]
    return Shortage("ranks", shape.ranks, max(rooms, default=0))


def room_for(room: Room, shape: Shape, cluster: int, flavor: Flavor | None, allowed: BoolArray) -> int:
    """Return how many ranks of a shape fit at the same time, at most `shape.ranks` on each node."""
    rooms = room.rooms(shape, flavor, cluster, allowed)
    if not room.fleet.clusters[cluster].stacks_ranks:
        rooms = np.minimum(rooms, 1)
    return int(rooms.sum())


def most_free(
    room: Room, resource: str, ask: Ask, cluster: int, flavor: Flavor | None, allowed: BoolArray
) -> tuple[int, str]:
    """Return the most of one resource that one node (or, for shares, one device) has free, and which node."""
    fleet, nodes = room.fleet, room.fleet.cluster_nodes[cluster]
    if resource in ("gpu_milli", "gpu_memory_bytes"):
        assert flavor is not None
        if ask.is_fraction:
            at = fleet.device_node[flavor.devices]
            free = (room.milli if resource == "gpu_milli" else room.memory)[flavor.devices]
            free = np.where(allowed[at] & fleet.device_open[flavor.devices], free, 0)
            best = int(np.argmax(free))
            return max(int(free[best]), 0), fleet.node_names[at[best]] if free[best] > 0 else ""
        free = np.where(allowed, room.flavor_whole(flavor), 0)[nodes] * WHOLE
    else:
        row = ("cpu_milli", "memory_bytes", "disk_bytes").index(resource)
        free = np.where(allowed, room.node[row], 0)[nodes]
    if not free.size:
        return 0, ""
    best = int(np.argmax(free))
    return max(int(free[best]), 0), fleet.node_names[nodes.start + best] if free[best] > 0 else ""


def _needs(ask: Ask) -> list[tuple[str, int]]:
    needs = [("gpu_milli", ask.gpu_milli)]
    if ask.is_fraction:
        needs.append(("gpu_memory_bytes", ask.gpu_memory_bytes))
    needs += [("cpu_milli", ask.cpu_milli), ("memory_bytes", ask.memory_bytes), ("disk_bytes", ask.disk_bytes)]
    return [(resource, needed) for resource, needed in needs if needed]


def _nearest(room: Room, shape: Shape, places: list[tuple[int, Flavor | None]], allowed: BoolArray) -> str:
    """Return the node that lacks the smallest part of what is asked for."""
    ask = shape.ask
    lack = np.where(allowed, 0.0, np.inf)
    for row, amount in enumerate((ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)):
        if amount:
            lack = np.maximum(lack, 1 - room.node[row] / amount)
    for cluster, flavor in places:
        nodes = room.fleet.cluster_nodes[cluster]
        if flavor is not None and ask.whole_devices:
            lack[nodes] = np.maximum(lack[nodes], 1 - room.flavor_whole(flavor)[nodes] / ask.whole_devices)
    reachable = np.zeros_like(allowed)
    for cluster, _ in places:
        reachable[room.fleet.cluster_nodes[cluster]] = True
    lack = np.where(reachable, lack, np.inf)
    best = int(np.argmin(lack)) if lack.size else 0
    return room.fleet.node_names[best] if lack.size and np.isfinite(lack[best]) else ""
