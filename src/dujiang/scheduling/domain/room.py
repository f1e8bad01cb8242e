"""What is free, as arrays that only placements change, and what each kind of ask finds there, kept up with them.

A room remembers which nodes were changed. What an ask finds (`Sight`) is worked out for all nodes once and from then on
only for those changed since it was looked at last: of 12,500 nodes, a start touches one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from dujiang.scheduling.domain.fleet import BoolArray, Flavor, Fleet, IntArray
from dujiang.scheduling.domain.fragments import FloatArray, Typical, after_taking
from dujiang.scheduling.domain.request import MAX_RANKS, WHOLE, Ask

if TYPE_CHECKING:
    from dujiang.scheduling.domain.prospect import Prospect

NEVER: Final = np.inf
_MANY: Final = float(1 << 10)
"""More devices than a node has."""
_VERY_MANY: Final = float(1 << 40)
"""More thousandths of processors than a node has, and more than any best fit's key."""
_STEP_MILLI: Final = 40
"""What a place adds to the expected loss is told apart in such steps of thousandths of a device, for it is a guess;
within a step the fuller node and device is taken. Steps of 1, 10, 20 and 40 gave the same on openb (decision 0012)."""
_MOST_SCORED: Final = 500_000
"""Nodes that are scored for asks not looked at before in a room; further asks find places by best fit alone."""
_MOST_ROWS: Final = 2_000_000
"""Nodes that are kept up in all sights of a room together, 24 bytes each; the oldest sight goes first."""


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

    __slots__ = (
        "_changed",
        "_flavor_whole",
        "_rows",
        "_scored",
        "_sights",
        "fleet",
        "memory",
        "milli",
        "node",
        "typical",
        "whole",
    )

    def __init__(
        self, fleet: Fleet, node: IntArray, milli: IntArray, memory: IntArray, typical: Typical | None = None
    ) -> None:
        """Take arrays over; closed devices count as taken.

        Args:
            fleet: whose room it is.
            node: (3, n)
            milli: (d)
            memory: (d)
            typical: what may come next, so that places are chosen by what they leave; None: by best fit alone.
        """
        self.fleet, self.node, self.typical = fleet, node, typical
        self.milli = np.where(fleet.device_open, milli, 0)
        self.memory = memory
        self.whole: IntArray
        self._flavor_whole: list[IntArray]
        self.recount()

    def copy(self, typical: Typical | None) -> Self:
        """Return a room of its own, in which places are chosen by what may come."""
        return type(self)(self.fleet, self.node.copy(), self.milli.copy(), self.memory.copy(), typical)

    def prospect(self) -> Prospect:
        """Return what may come, drawn when it is first wanted; copies of the room share it."""
        assert self.typical is not None
        if self.typical.prospect is None:
            # Not above: it loads a compiler (65 MB, 0.6 s), which what places nothing on devices does without.
            from dujiang.scheduling.domain.prospect import Prospect

            self.typical.prospect = Prospect(self.typical, self.fleet, self.node, self.milli)
        return self.typical.prospect

    def recount(self) -> None:
        """Count whole devices anew, after the arrays were written to. O(d)."""
        fleet = self.fleet
        is_whole = self.is_whole(slice(None))
        self._flavor_whole = [
            np.bincount(fleet.device_node[f.devices][is_whole[f.devices]], minlength=fleet.node_count)
            for f in fleet.flavors
        ]
        self.whole = np.zeros(fleet.node_count, dtype=np.int64)
        for counted in self._flavor_whole:
            self.whole += counted
        self._changed: list[int] = []
        self._scored = self._rows = 0
        self._sights: dict[tuple[Ask, int, int, bool], Sight] = {}

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
            self._changed.append(spot.node)

    def lower(self, other: Room) -> None:
        """Let nowhere more be free than in another room. O(nodes + devices)."""
        np.minimum(self.node, other.node, out=self.node)
        np.minimum(self.milli, other.milli, out=self.milli)
        np.minimum(self.memory, other.memory, out=self.memory)
        self.recount()

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
            self._changed.append(spot.node)

    def sight(
        self, ask: Ask, cluster: int, flavor: Flavor | None, allowed: BoolArray, *, tightest: bool = False
    ) -> Sight:
        """Return what an ask finds here now; not to be kept, since the next change of the room changes it.

        Args:
            ask: of one rank.
            cluster: where.
            flavor: of the devices; None for work without.
            allowed: (n) nodes that may be used.
            tightest: by best fit, whatever may come.
        """
        key = (ask, -1 - cluster if flavor is None else flavor.number, id(allowed), tightest)
        sight = self._sights.get(key)
        if sight is None:
            nodes = self._nodes(cluster, flavor)
            self._rows += len(nodes)
            while self._rows > _MOST_ROWS and self._sights:
                self._rows -= len(self._sights.pop(next(iter(self._sights))).nodes)
            self._scored += len(nodes)
            typical = None if tightest or self._scored > _MOST_SCORED else self.typical
            sight = self._sights[key] = Sight(self, ask, nodes, flavor, allowed, typical)
        else:
            sight.look_again(self)
        return sight

    def changed(self, since: int) -> Sequence[int]:
        """Return the nodes that were changed, in order, after the first so many changes."""
        return self._changed[since:]

    def _nodes(self, cluster: int, flavor: Flavor | None) -> IntArray:
        """Return the positions of the nodes of a cluster, or of those with devices of a flavor, rising."""
        if flavor is not None:
            return self.fleet.seats[flavor.number].nodes
        here = self.fleet.cluster_nodes[cluster]
        return np.arange(here.start, here.stop)

    def flavor_whole(self, flavor: Flavor) -> IntArray:
        """Return how many whole devices of a flavor each node has free, (n)."""
        return self._flavor_whole[flavor.number]

    def is_whole(self, at: int | slice | Sequence[int]) -> BoolArray:
        """Say which devices nobody has a part of."""
        whole: BoolArray = (self.milli[at] >= WHOLE) & (self.memory[at] >= self.fleet.device_memory[at])
        return whole

    def _set(self, device: int, node: int, milli: int, memory: int) -> None:
        was = self.is_whole(device)
        self.milli[device], self.memory[device] = milli, memory
        if was and not self.is_whole(device):
            self.whole[node] -= 1
            self._flavor_whole[self.fleet.device_flavor[device]][node] -= 1


class Sight:
    """What one ask finds on the nodes of a cluster, or on those with devices of one flavor.

    The better place is the one that leaves less in fragments. Of equals, and where nothing is known of what may come,
    best fit: a share goes to the fullest device that holds it, then to the node with the fewest whole devices; whole
    devices come from the node with the fewest left over; work without devices goes where there are none, then where the
    fewest are free.
    """

    __slots__ = ("_allowed", "_ask", "_flavor", "_seen", "_typical", "device", "key", "nodes", "rooms")

    def __init__(
        self, room: Room, ask: Ask, nodes: IntArray, flavor: Flavor | None, allowed: BoolArray, typical: Typical | None
    ) -> None:
        """Look at every node. O(nodes + devices)."""
        self._ask, self._flavor, self._allowed, self._typical = ask, flavor, allowed, typical
        self.nodes = nodes
        """(k): positions of the nodes that are looked at, rising."""
        self.rooms: IntArray
        """(k): how many ranks each node holds."""
        self.key: FloatArray
        """(k): the smallest is the best place; NEVER where there is none."""
        self.device = np.zeros(len(nodes), dtype=np.int64)
        """(k): which device of each node a share would get."""
        self.rooms, self.key = self._look(room, np.arange(len(nodes)))
        self._seen = len(room.changed(0))

    def look_again(self, room: Room) -> None:
        """Look at the nodes that were changed since."""
        changed = room.changed(self._seen)
        self._seen += len(changed)
        if not changed or not len(self.nodes):
            return
        rows = np.searchsorted(self.nodes, changed)
        rows[rows == len(self.nodes)] = 0
        rows = rows[self.nodes[rows] == changed]
        if rows.size:
            self.rooms[rows], self.key[rows] = self._look(room, rows)

    def _look(self, room: Room, rows: IntArray) -> tuple[IntArray, FloatArray]:
        ask, flavor, nodes = self._ask, self._flavor, self.nodes[rows]
        rooms = np.where(self._allowed[nodes], MAX_RANKS, 0)
        for row, amount in enumerate((ask.cpu_milli, ask.memory_bytes, ask.disk_bytes)):
            if amount:
                np.minimum(rooms, room.node[row, nodes] // amount, out=rooms)
        if flavor is None:
            fits = np.where(room.fleet.node_devices[nodes] > 0, room.whole[nodes] + 1, 0).astype(np.float64)
        elif ask.whole_devices:
            left = room.flavor_whole(flavor)[nodes]
            np.minimum(rooms, left // ask.whole_devices, out=rooms)
            fits = left.astype(np.float64)
        else:
            shares, fullest = self._shares(room, flavor, rows)
            np.minimum(rooms, shares, out=rooms)
            fits = fullest + room.whole[nodes] / _MANY
        np.maximum(rooms, 0, out=rooms)
        key = fits + np.clip(room.node[0, nodes], 0, None) / _VERY_MANY
        key[rooms == 0] = NEVER
        if self._typical and (rooms > 0).any():
            held = np.flatnonzero(rooms)
            key[held] = key[held] / _MANY**2 + self._adds(room, rows[held])
        return rooms, key

    def _adds(self, room: Room, rows: IntArray) -> FloatArray:
        """Return by how much one rank on each of these nodes raises what is expected to be lost in the end."""
        ask, nodes, prospect = self._ask, self.nodes[rows], room.prospect()
        cpu, memory = room.node[0, nodes], room.node[1, nodes]
        if self._flavor is None:
            return self._adds_to_devices(room, prospect, nodes)
        flavor, milli = self._flavor, _free(room, self._flavor, rows)
        before = prospect.lost(flavor, milli, cpu, memory)
        cpu, memory = cpu - ask.cpu_milli, memory - ask.memory_bytes
        spare = prospect.spare(milli, cpu)
        if ask.whole_devices:
            return (
                _told_apart(prospect.lost(flavor, after_taking(milli, ask.whole_devices), cpu, memory) - before) + spare
            )
        fits = self._held(room, flavor, rows, milli) > 0
        at, column = np.nonzero(fits)  # each device that holds it, of each node
        after = milli[at]
        after[np.arange(len(at)), column] -= ask.gpu_milli
        adds = np.full(fits.shape, NEVER)
        adds[at, column] = _told_apart(prospect.lost(flavor, after, cpu[at], memory[at]) - before[at]) + spare[at]
        adds[at, column] += prospect.spare_device(after[np.arange(len(at)), column])
        self.device[rows] = adds.argmin(axis=1)
        least: FloatArray = adds.min(axis=1)
        return least

    def _adds_to_devices(self, room: Room, prospect: Prospect, nodes: IntArray) -> FloatArray:
        """Return by how much work without devices raises what is lost: it takes what that of devices needs."""
        ask, adds = self._ask, np.zeros(len(nodes))
        cpu, memory = room.node[0, nodes], room.node[1, nodes]
        for flavor in room.fleet.flavors:
            seats = room.fleet.seats[flavor.number]
            at = np.searchsorted(seats.nodes, nodes)
            at[at == len(seats.nodes)] = 0
            mine = np.flatnonzero(seats.nodes[at] == nodes)
            if mine.size:
                milli = _free(room, flavor, at[mine])
                before = prospect.lost(flavor, milli, cpu[mine], memory[mine])
                after_cpu, after_memory = cpu[mine] - ask.cpu_milli, memory[mine] - ask.memory_bytes
                after = prospect.lost(flavor, milli, after_cpu, after_memory)
                adds[mine] += _told_apart(after - before) + prospect.spare(milli, after_cpu)
        return adds

    def _shares(self, room: Room, flavor: Flavor, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return how many shares the devices of nodes hold, and how much of the fullest that holds one is free."""
        milli = _free(room, flavor, rows)
        held = self._held(room, flavor, rows, milli)
        column = np.where(held > 0, milli, WHOLE + 1).argmin(axis=1)
        self.device[rows] = column
        return held.sum(axis=1), milli[np.arange(len(rows)), column]

    def _held(self, room: Room, flavor: Flavor, rows: IntArray, milli: IntArray) -> IntArray:
        """Return how many shares each device (k, w) holds."""
        held: IntArray = milli // self._ask.gpu_milli
        if need := flavor.share_bytes(self._ask):
            np.minimum(held, room.memory[room.fleet.seats[flavor.number].devices[rows]] // need, out=held)
        return np.maximum(held, 0)

    def seat(self, room: Room, row: int) -> Spot:
        """Return the place of one share on the node of a row."""
        assert self._flavor is not None
        seats = room.fleet.seats[self._flavor.number]
        return Spot(int(self.nodes[row]), (int(seats.devices[row, self.device[row]]),))


def _told_apart(adds: FloatArray) -> FloatArray:
    """Round what places add to the expected loss: it is a guess, and small differences are chance."""
    return _STEP_MILLI * np.rint(adds / _STEP_MILLI)


def _free(room: Room, flavor: Flavor, rows: IntArray) -> IntArray:
    """Return what is free of each device (k, w) of the nodes at these rows of a flavor's seats."""
    seats = room.fleet.seats[flavor.number]
    free: IntArray = np.where(seats.is_real[rows], room.milli[seats.devices[rows]], 0)
    return np.maximum(free, 0)


def seats_of(room: Room, ask: Ask, flavor: Flavor | None, node: int, ranks: int) -> list[Spot]:
    """Give the ranks of one node their devices: whole ones in order, shares on the fullest that hold them."""
    if flavor is None:
        return [Spot(node, ())] * ranks
    here = room.fleet.seats[flavor.number].of(node)
    if count := ask.whole_devices:
        free = [at for at in here if room.is_whole(at)]
        return [Spot(node, tuple(free[rank * count : rank * count + count])) for rank in range(ranks)]
    need = flavor.share_bytes(ask)
    seats: list[Spot] = []
    for at in sorted(here, key=lambda each: (int(room.milli[each]), each)):
        held = int(room.milli[at]) // ask.gpu_milli
        if need:
            held = min(held, int(room.memory[at]) // need)
        seats += [Spot(node, (at,))] * min(held, ranks - len(seats))
        if len(seats) == ranks:
            break
    return seats
