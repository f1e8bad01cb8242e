"""Where a job fits, and where it fits best: free amounts as arrays, placements as positions.

Best fit: a share goes to the fullest device that holds it; whole devices come from the node with the fewest left over;
work without devices goes where there are none, then where fewest are free. A job's devices are all of one flavor and
its ranks all in one cluster; nothing is ever split over two devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.scheduling.domain.fleet import BoolArray, Flavor, Fleet, IntArray
from dujiang.scheduling.domain.request import WHOLE, Ask, Shape

NEVER: Final = np.iinfo(np.int64).max
_CPU_BITS: Final = 40
"""Left for cpu_milli below the device counts in a sort key: a million cores and more."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One rank's place, as positions in the fleet."""

    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """Where all ranks of a job go, and what each takes."""

    cluster: int
    spots: tuple[Spot, ...]
    ask: Ask
    device_milli: int
    """Of each device of a spot."""
    device_bytes: int


class Room:
    """What is free: `node` (3, n), `milli` (d), `memory` (d), and how many devices of each node are whole."""

    __slots__ = ("_flavor_whole", "fleet", "memory", "milli", "node", "whole")

    def __init__(self, fleet: Fleet, node: IntArray, milli: IntArray, memory: IntArray) -> None:
        """Take arrays over; closed devices count as taken."""
        self.fleet, self.node = fleet, node
        self.milli = np.where(fleet.device_open, milli, 0)
        self.memory = memory
        self.whole: IntArray
        self._flavor_whole: list[IntArray]
        self.recount()

    def copy(self) -> Self:
        """Return a room of its own."""
        return type(self)(self.fleet, self.node.copy(), self.milli.copy(), self.memory.copy())

    def recount(self) -> None:
        """Count whole devices anew, after the arrays were written to. O(d)."""
        fleet = self.fleet
        is_whole = self._is_whole(slice(None))
        self._flavor_whole = [
            np.bincount(fleet.device_node[f.devices][is_whole[f.devices]], minlength=fleet.node_count)
            for f in fleet.flavors
        ]
        self.whole = np.zeros(fleet.node_count, dtype=np.int64)
        for counted in self._flavor_whole:
            self.whole += counted

    def take(self, fit: Fit) -> None:
        """Take away what a fit uses."""
        ask = fit.ask
        for spot in fit.spots:
            self.node[0, spot.node] -= ask.cpu_milli
            self.node[1, spot.node] -= ask.memory_bytes
            self.node[2, spot.node] -= ask.disk_bytes
            for device in spot.devices:
                self._set(
                    device, spot.node, self.milli[device] - fit.device_milli, self.memory[device] - fit.device_bytes
                )

    def lower_to(self, other: Room, fit: Fit) -> None:
        """Let no more be free than in another room, where a fit was just taken from that one."""
        for spot in fit.spots:
            np.minimum(self.node[:, spot.node], other.node[:, spot.node], out=self.node[:, spot.node])
            for device in spot.devices:
                milli, memory = (
                    min(self.milli[device], other.milli[device]),
                    min(self.memory[device], other.memory[device]),
                )
                self._set(device, spot.node, milli, memory)

    def rooms(self, shape: Shape, flavor: Flavor | None, cluster: int, allowed: BoolArray) -> IntArray:
        """Return how many ranks of a shape each node of a cluster holds, at most `shape.ranks`. O(n + d)."""
        ask, nodes = shape.ask, self.fleet.cluster_nodes[cluster]
        room = np.full(nodes.stop - nodes.start, shape.ranks, dtype=np.int64)
        for row, amount in enumerate((ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)):
            if amount:
                np.minimum(room, self.node[row, nodes] // amount, out=room)
        if flavor is not None:
            np.minimum(room, self._device_rooms(ask, flavor)[nodes], out=room)
        room[~allowed[nodes]] = 0
        return np.maximum(room, 0)

    def flavor_whole(self, flavor: Flavor) -> IntArray:
        """Return how many whole devices of a flavor each node has free, (n)."""
        return self._flavor_whole[flavor.number]

    def shares_of(self, ask: Ask, flavor: Flavor) -> IntArray:
        """Return how many shares of this size each device of a flavor still holds."""
        held: IntArray = self.milli[flavor.devices] // ask.gpu_milli
        if need := flavor.share_bytes(ask):
            held = np.minimum(held, self.memory[flavor.devices] // need)
        return np.maximum(held, 0)

    def _device_rooms(self, ask: Ask, flavor: Flavor) -> IntArray:
        if ask.whole_devices:
            whole: IntArray = self._flavor_whole[flavor.number] // ask.whole_devices
            return whole
        node = self.fleet.device_node[flavor.devices]
        counted = np.bincount(node, weights=self.shares_of(ask, flavor), minlength=self.fleet.node_count)
        return counted.astype(np.int64)

    def _set(self, device: int, node: int, milli: int, memory: int) -> None:
        was = self._is_whole(device)
        self.milli[device], self.memory[device] = milli, memory
        if was and not self._is_whole(device):
            self.whole[node] -= 1
            self._flavor_whole[self.fleet.device_flavor[device]][node] -= 1

    def _is_whole(self, at: int | slice) -> BoolArray:
        whole: BoolArray = (self.milli[at] >= WHOLE) & (self.memory[at] >= self.fleet.device_memory[at])
        return whole


def options(fleet: Fleet, shape: Shape) -> Iterator[tuple[int, Flavor | None]]:
    """Yield the (cluster, flavor) pairs that a shape may use, best first: least device memory; no devices at all."""
    if shape.ask.gpu_milli:
        for flavor in fleet.flavors:
            if flavor.matches(shape.ask) and shape.where.cluster in ("", fleet.clusters[flavor.cluster].name):
                yield flavor.cluster, flavor
        return
    has = np.bincount(fleet.node_cluster[fleet.device_node], minlength=len(fleet.clusters))
    for cluster in np.argsort(has, kind="stable").tolist():
        if shape.where.cluster in ("", fleet.clusters[cluster].name):
            yield cluster, None


def find(room: Room, shape: Shape, allowed: BoolArray) -> Fit | None:
    """Return the best place for all ranks of a shape, or None when they do not fit together.

    Args:
        room: what is free.
        shape: what to place.
        allowed: (n) nodes that may be used.
    """
    for cluster, flavor in options(room.fleet, shape):
        fit = _find_in(room, shape, allowed, cluster, flavor)
        if fit is not None:
            return fit
    return None


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


def _find_in(room: Room, shape: Shape, allowed: BoolArray, cluster: int, flavor: Flavor | None) -> Fit | None:
    ask = shape.ask
    if flavor is not None and ask.is_fraction and shape.ranks == 1:
        spots = _one_share(room, ask, flavor, allowed)
    else:
        rooms = room.rooms(shape, flavor, cluster, allowed)
        base = room.fleet.cluster_nodes[cluster].start
        counts = _spread(room, shape, flavor, rooms, base, stacks=room.fleet.clusters[cluster].stacks_ranks)
        spots = [spot for node, ranks in counts for spot in _seats(room, ask, flavor, node, ranks)]
    if not spots:
        return None
    if flavor is None:
        return Fit(cluster, tuple(spots), ask, 0, 0)
    return Fit(cluster, tuple(spots), ask, min(ask.gpu_milli, WHOLE), flavor.share_bytes(ask))


def _one_share(room: Room, ask: Ask, flavor: Flavor, allowed: BoolArray) -> list[Spot]:
    """Place one share on the fullest device that holds it; of empty ones, on the node with fewest whole devices."""
    fleet, at = room.fleet, flavor.devices
    fits_node = allowed.copy()
    for row, amount in enumerate((ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)):
        if amount:
            fits_node &= room.node[row] >= amount
    node, milli = fleet.device_node[at], room.milli[at]
    fits = (milli >= ask.gpu_milli) & fits_node[node]
    if need := flavor.share_bytes(ask):
        fits &= room.memory[at] >= need
    key = np.where(fits, (milli << 20) + room.whole[node], NEVER)
    best = int(np.argmin(key)) if key.size else 0
    if not key.size or key[best] == NEVER:
        return []
    return [Spot(int(node[best]), (at.start + best,))]


def _spread(
    room: Room, shape: Shape, flavor: Flavor | None, rooms: IntArray, base: int, *, stacks: bool
) -> list[tuple[int, int]]:
    """Say how many ranks go to which node, as (node, ranks); empty when there is no room for all.

    One node when one is enough, else as few as possible, the last of them as tight as possible.
    """
    ranks = shape.ranks
    if not stacks:
        np.minimum(rooms, 1, out=rooms)
    if int(rooms.sum()) < ranks:
        return []
    nodes = slice(base, base + len(rooms))
    if flavor is None:
        left = np.where(room.fleet.node_devices[nodes] > 0, room.whole[nodes] + 1, 0)
    else:
        left = room.flavor_whole(flavor)[nodes]
    key = (left << _CPU_BITS) + np.clip(room.node[0, nodes], 0, (1 << _CPU_BITS) - 1)
    if int(rooms.max()) >= ranks:
        best = int(np.argmin(np.where(rooms >= ranks, key, NEVER)))
        return [(base + best, ranks)]
    chosen: list[tuple[int, int]] = []
    for at in np.lexsort((key, -rooms)).tolist():
        if rooms[at] >= ranks:
            break
        chosen.append((base + at, int(rooms[at])))
        rooms[at] = 0
        ranks -= chosen[-1][1]
    best = int(np.argmin(np.where(rooms >= ranks, key, NEVER)))
    return [*sorted(chosen), (base + best, ranks)]


def _seats(room: Room, ask: Ask, flavor: Flavor | None, node: int, ranks: int) -> Sequence[Spot]:
    """Give the ranks of one node their devices."""
    if flavor is None:
        return [Spot(node, ())] * ranks
    node_of = room.fleet.device_node[flavor.devices]
    first = flavor.devices.start
    here = range(int(np.searchsorted(node_of, node)), int(np.searchsorted(node_of, node, side="right")))
    if count := ask.whole_devices:
        free = [first + at for at in here if room._is_whole(first + at)]
        return [Spot(node, tuple(free[rank * count : rank * count + count])) for rank in range(ranks)]
    shares = room.shares_of(ask, flavor)
    fullest = sorted(here, key=lambda at: (int(room.milli[first + at]), at))
    seats = [first + at for at in fullest for _ in range(int(shares[at]))]
    return [Spot(node, (at,)) for at in seats[:ranks]]
