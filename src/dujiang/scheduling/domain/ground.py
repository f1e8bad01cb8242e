"""Which nodes a shape may use, and what is wrong when it could not run even with nothing else running."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dujiang.scheduling.domain.find import find, options, room_for
from dujiang.scheduling.domain.fleet import UNREACHABLE, BoolArray, Flavor, Fleet, IntArray
from dujiang.scheduling.domain.reasons import NOTHING, Reason, Shortage
from dujiang.scheduling.domain.request import WHOLE, Ask, Shape
from dujiang.scheduling.domain.room import Room
from dujiang.scheduling.domain.snapshot import Window


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a shape may go."""

    allowed: BoolArray
    """(n)"""
    reason: Reason | None = None
    """Why it could not run there even if it were empty; None when it could."""
    shortage: Shortage = NOTHING
    window: Window | None = None
    """The window that is in the way."""


@dataclass
class Grounds:
    """Finds the ground of each shape, once."""

    fleet: Fleet
    windows: tuple[Window, ...] = ()
    """In the order that `Shape.barred` counts them."""
    _known: dict[Shape, Ground] = field(default_factory=dict)
    _masks: dict[tuple[object, ...], BoolArray] = field(default_factory=dict)
    _occupied: dict[str, set[int]] = field(default_factory=dict)

    def of(self, shape: Shape) -> Ground:
        """Return the ground of a shape: nodes to avoid are left out as long as the others could hold it."""
        known = self._known.get(shape)
        if known is None:
            known = self._known[shape] = self._without_others(shape, self._ground(shape))
        return known

    def occupy(self, apart: str, nodes: Iterable[int]) -> None:
        """Note that a job that stays apart from others of its word is on these nodes."""
        self._occupied.setdefault(apart, set()).update(nodes)
        for shape in [shape for shape in self._known if shape.where.apart == apart]:
            del self._known[shape]

    def mask(
        self, shape: Shape, *, avoiding: bool = False, closed_too: bool = False, barring: bool = True
    ) -> BoolArray:
        """Return the nodes (n) that labels, taints, windows and state let it use.

        Args:
            shape: for which.
            avoiding: leave out those that earlier attempts failed on.
            closed_too: as if all nodes were open.
            barring: leave out those that windows keep.
        """
        where, fleet = shape.where, self.fleet
        avoid, barred = shape.avoid if avoiding else (), shape.barred if barring else ()
        key = (where.selector, where.tolerations, avoid, barred, closed_too)
        if key not in self._masks:
            mask = np.ones(fleet.node_count, dtype=np.bool_) if closed_too else fleet.node_open.copy()
            if wanted := where.selector:
                mask &= [all(labels.get(k) == v for k, v in wanted) for labels in fleet.node_labels]
            mask &= self._tolerated(where.tolerations)
            for pair in avoid:
                if pair in fleet.node_at:
                    mask[fleet.node_at[pair]] = False
            for number in barred:
                mask[self._nodes_of(self.windows[number])] = False
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
        for allowed in (self.mask(shape, avoiding=True), self.mask(shape)) if shape.avoid else (self.mask(shape),):
            if find(self.empty, shape, allowed) is not None:
                return Ground(allowed)
        allowed = self.mask(shape)
        if shape.barred and find(self.empty, shape, self.mask(shape, barring=False)) is not None:
            return Ground(allowed, Reason.WINDOW, window=self._in_the_way(shape))
        everywhere = self.mask(shape, closed_too=True, barring=False)
        fit = find(self.open_empty, shape, everywhere)
        if fit is not None:
            closed = next((s.node for s in fit.spots if not self.fleet.node_open[s.node]), fit.spots[0].node)
            return Ground(allowed, Reason.NODE_UNAVAILABLE, self._closed(closed))
        if shape.where.image and next(options(self.fleet, shape), None) is None:
            bare = replace(shape, where=replace(shape.where, image=False))
            if next(options(self.fleet, bare), None) is not None:
                return Ground(allowed, Reason.NO_IMAGES)
        if shape.ask.gpu_milli and next(options(self.fleet, shape), None) is None:
            return Ground(allowed, Reason.NO_MATCHING_DEVICE)
        tolerant = replace(shape, where=replace(shape.where, tolerations=("*",)))
        fit = find(self.open_empty, tolerant, self.mask(tolerant, closed_too=True, barring=False))
        if fit is not None:
            tainted = next(s.node for s in fit.spots if not everywhere[s.node])
            return Ground(allowed, Reason.TAINTED, Shortage(
                self.fleet.node_taints[tainted][0], node=self.fleet.node_names[tainted]
            ))  # fmt: skip
        return Ground(allowed, Reason.TOO_LARGE, shortage(self.open_empty, shape, everywhere))

    def _closed(self, node: int) -> Shortage:
        """Name a node that is closed, or its cluster where that cannot be reached."""
        fleet = self.fleet
        if fleet.node_states[node] == UNREACHABLE:
            return Shortage("cluster", node=fleet.clusters[fleet.node_cluster[node]].name)
        return Shortage("node", node=fleet.node_names[node])

    def _without_others(self, shape: Shape, ground: Ground) -> Ground:
        """Leave out the nodes of jobs that it must stay apart from."""
        nodes = self._occupied.get(shape.where.apart) if shape.where.apart else None
        if not nodes:
            return ground
        allowed = ground.allowed.copy()
        allowed[list(nodes)] = False
        return replace(ground, allowed=allowed)

    def _tolerated(self, tolerations: tuple[str, ...]) -> BoolArray:
        key = ("tolerated", tolerations)
        if key not in self._masks:
            known: dict[tuple[str, ...], bool] = {}
            for taints in self.fleet.node_taints:
                if taints not in known:
                    known[taints] = "*" in tolerations or all(
                        taint in tolerations or taint.partition("=")[0] in tolerations for taint in taints
                    )
            self._masks[key] = np.array([known[taints] for taints in self.fleet.node_taints], dtype=np.bool_)
        return self._masks[key]

    def _nodes_of(self, window: Window) -> IntArray:
        fleet = self.fleet
        names = window.nodes
        if names:
            at = [fleet.node_at[window.cluster, name] for name in names if (window.cluster, name) in fleet.node_at]
            return np.array(at, dtype=np.int64)
        here = [nodes for row, nodes in zip(fleet.clusters, fleet.cluster_nodes, strict=True)
                if row.name == window.cluster]  # fmt: skip
        return np.arange(here[0].start, here[0].stop) if here else np.empty(0, dtype=np.int64)

    def _in_the_way(self, shape: Shape) -> Window:
        """Return the window without which it would fit: the one that ends first, when it takes several."""
        by_end = sorted(shape.barred, key=lambda number: (self.windows[number].ends_at, number))
        for number in by_end:
            less = replace(shape, barred=tuple(other for other in shape.barred if other != number))
            if find(self.empty, shape, self.mask(less)) is not None:
                return self.windows[number]
        return self.windows[by_end[-1]]


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
    rooms = [room_for(room, shape, cluster, flavor, allowed) for cluster, flavor in places]
    return Shortage("ranks", shape.ranks, max(rooms, default=0))


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
