"""What is free while a replay goes on, kept up with each start, end, failure and repair instead of counted anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dujiang.scheduling.domain.fleet import Fleet, IntArray
from dujiang.scheduling.domain.fragments import Typical
from dujiang.scheduling.domain.request import WHOLE, Request
from dujiang.scheduling.domain.snapshot import Holding

_FAILED = "FAILED"


class Ground:
    """A fleet some of whose nodes may be away, and what is free on it."""

    def __init__(self, fleet: Fleet) -> None:
        """Begin with nothing held."""
        self.fleet = self._whole_fleet = fleet
        self._node = fleet.node_limit.copy()
        self._milli = np.full(fleet.device_count, WHOLE, dtype=np.int64)
        self._memory = fleet.device_memory.copy()
        self._away: dict[int, int] = {}
        self.open_devices = int(fleet.device_open.sum())

    def free(self) -> tuple[IntArray, IntArray, IntArray]:
        """Return copies of what is free of nodes (3, n), devices (d) and device memory (d)."""
        return self._node.copy(), self._milli.copy(), self._memory.copy()

    def take(self, held: Holding) -> None:
        """Let a job have its place."""
        self._move(held, -1)

    def give(self, held: Holding) -> None:
        """Have a job give its place back."""
        self._move(held, 1)

    def close_node(self, node: int) -> None:
        """Take a node away; faults of one node may overlap."""
        self._away[node] = self._away.get(node, 0) + 1
        self._renew()

    def open_node(self, node: int) -> None:
        """Bring a node back, as it was at first."""
        self._away[node] -= 1
        if not self._away[node]:
            del self._away[node]
        self._renew()

    def has_whole(self, request: Request) -> bool:
        """Say whether a job might find room; False only when it lacks whole free devices on open nodes.

        Jobs that ask for shares or no devices always might.
        """
        each = request.ask.whole_devices
        if not each or request.ask.is_fraction:
            return True
        fleet = self.fleet
        is_free = (self._milli >= WHOLE) & fleet.device_open
        count = np.bincount(fleet.device_node[is_free], minlength=fleet.node_count)
        return int((count // each).sum()) >= request.ranks

    def lost(self, typical: Typical) -> float:
        """Return the expected fragments, in devices."""
        total, fleet = 0.0, self.fleet
        milli = np.where(fleet.device_open, self._milli, 0).clip(0)
        for flavor in fleet.flavors:
            seats = fleet.seats[flavor.number]
            free = np.where(seats.is_real, milli[seats.devices], 0)
            total += float(typical.of(flavor).lost(free, self._node[0, seats.nodes], self._node[1, seats.nodes]).sum())
        return total / WHOLE

    def _move(self, held: Holding, sign: int) -> None:
        fleet = self.fleet
        for rank in held.ranks:
            node = fleet.node_at.get((held.cluster, rank.node))
            if node is None:  # gone from the inventory with whatever ran there
                continue
            self._node[:, node] += sign * np.array((rank.cpu_milli, rank.memory_bytes, rank.disk_bytes))
            for share in rank.devices:
                device = fleet.device_at.get((node, share.name))
                if device is not None:
                    self._milli[device] += sign * share.gpu_milli
                    self._memory[device] += sign * share.memory_bytes

    def _renew(self) -> None:
        fleet, away = self._whole_fleet, list(self._away)
        node_open = fleet.node_open.copy()
        node_open[away] = False
        states = list(fleet.node_states)
        for node in away:
            states[node] = states[node] or _FAILED
        device_open = fleet.device_open & node_open[fleet.device_node]
        self.fleet = replace(fleet, node_open=node_open, device_open=device_open, node_states=tuple(states))
        self.open_devices = int(device_open.sum())
