"""Which running work to move so that what is free can be used: a bounded number of moves, the best first.

A move takes one rank of one job from one node to another of the same cluster, onto devices of the same flavor. It is
worth what it takes off the expected fragments (see `fragments`): how much of what is free the next job, drawn from
those that wait and run, could not use. Only moves that make that less are proposed, so every move of a proposal, and
every part of it from its beginning, leaves the pool better than before. Each is legal once those before it are made:
the new place is free before the old one is given back.

What may move at all is decided elsewhere (`moving`). A holding with a request goes where that lets it; of one without
nothing is known but where it is, so the caller leaves out those that may not run on just any open node of the cluster.
Ranks of one job that must lie near to one another, or apart, stay where they are. Nor is a set
of moves looked for of which only the last one helps (clearing a whole node).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dujiang.engines.contract import DeviceShare, RankPlacement
from dujiang.scheduling.domain.fleet import BoolArray, Fleet, IntArray
from dujiang.scheduling.domain.fragments import FloatArray, Typical, counted
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.request import ANYWHERE, WHOLE
from dujiang.scheduling.domain.snapshot import Holding, Snapshot

_LEAST_MILLI: Final = 1.0
"""Less than a thousandth of a device is not worth a move."""
_NO_FLAVOR: Final = -1


@dataclass(frozen=True, slots=True)
class Move:
    """One rank that goes from one place to another."""

    job_id: str
    rank: int
    cluster: str
    source: RankPlacement
    target: RankPlacement
    whole_devices: int
    """How many more devices are wholly free after it; negative when fewer."""
    stranded_milli: float
    """By how much the expected fragments shrink, in thousandths of a device."""
    cost_device_s: float
    """What it costs, as given."""


def propose_moves(snapshot: Snapshot, movable: Mapping[str, float], *, most: int) -> tuple[Move, ...]:
    """Return at most so many moves, in the order in which they are to be made.

    Args:
        snapshot: what is free, who holds what, and who waits.
        movable: which jobs may be moved, and how many device-seconds are lost by moving one rank of each. A job that
            holds nothing or is stopping is passed over, and so is a rank with shares of more than one device.
        most: moves.

    Returns:
        The move with the most gain for each device-second first (of those that cost nothing, with the most gain); the
        next is chosen with that one made. No rank moves twice. Does not depend on the order of holdings or requests.

    O(r * w + s * n * w) time at first and O(r + s * n) for each move: r ranks that may move, s different sizes of
    them, n nodes of w devices.
    """
    typical = Typical(counted(snapshot.requests, snapshot.holdings))
    pieces = _pieces(snapshot, movable)
    if not typical or not pieces or most < 1:
        return ()
    board = _Board(snapshot, typical)
    finder = _Finder(snapshot, board, pieces)
    moves: list[Move] = []
    while len(moves) < most:
        best = finder.best()
        if best is None:
            break
        moves.append(finder.make(*best))
    return tuple(moves)


@dataclass(frozen=True, slots=True)
class _Size:
    """What a rank needs; ranks alike in this fit in the same places."""

    cluster: int
    flavor: int
    milli: int
    """Of each device."""
    device_bytes: int
    """Likewise."""
    devices: int
    amounts: tuple[int, int, int]
    """cpu_milli, memory_bytes, disk_bytes."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One rank that may move."""

    holding: Holding
    rank: RankPlacement
    node: int
    devices: tuple[int, ...]
    size: _Size
    cost_device_s: float

    def key(self) -> tuple[str, int]:
        return self.holding.job_id, self.rank.rank


def _pieces(snapshot: Snapshot, movable: Mapping[str, float]) -> list[_Piece]:
    """Return the ranks that may move, in order of job and rank."""
    fleet = snapshot.fleet
    clusters = {cluster.name: number for number, cluster in enumerate(fleet.clusters)}
    found: list[_Piece] = []
    for holding in sorted(snapshot.holdings, key=lambda each: each.job_id):
        if holding.job_id not in movable or holding.is_stopping or holding.cluster not in clusters:
            continue
        where = ANYWHERE if holding.request is None else holding.request.where
        if len(holding.ranks) > 1 and (where.spread or (where.within and where.is_within_required)):
            continue
        for rank in holding.ranks:
            node = fleet.node_at.get((holding.cluster, rank.node))
            if node is None:
                continue
            devices = [fleet.device_at.get((node, share.name)) for share in rank.devices]
            known = tuple(device for device in devices if device is not None)
            amounts = {(share.gpu_milli, share.memory_bytes) for share in rank.devices}
            flavors = {int(fleet.device_flavor[device]) for device in known}
            milli, held_bytes = next(iter(amounts), (0, 0))
            is_alike = len(amounts) <= 1 and len(flavors) <= 1 and len(known) == len(devices)
            if not is_alike or (milli < WHOLE and len(devices) > 1):
                continue
            size = _Size(
                clusters[holding.cluster], next(iter(flavors), _NO_FLAVOR), milli, held_bytes, len(devices),
                (rank.cpu_milli, rank.memory_bytes, rank.disk_bytes),
            )  # fmt: skip
            found.append(_Piece(holding, rank, node, known, size, float(movable[holding.job_id])))
    return found


class _Board:
    """What is free while moves are made, and the expected fragments of each node."""

    def __init__(self, snapshot: Snapshot, typical: Typical) -> None:
        fleet = self.fleet = snapshot.fleet
        self.node = snapshot.node_free.copy()
        self.milli = np.where(fleet.device_open, np.maximum(snapshot.device_milli, 0), 0)
        self.memory = snapshot.device_memory.copy()
        self._typical = typical
        self._devices, self._row = _by_node(fleet)
        self.lost = self.losses(np.arange(fleet.node_count), self.node)

    def devices_of(self, flavor: int, nodes: IntArray) -> IntArray:
        """Return the devices (k, w) of a flavor on nodes that have some; -1 where there is none."""
        return self._devices[flavor][self._row[flavor][nodes]]

    def has(self, flavor: int) -> BoolArray:
        """Say which nodes (n) have devices of a flavor."""
        has: BoolArray = self._row[flavor] >= 0
        return has

    def losses(self, nodes: IntArray, free: IntArray, flavor: int = _NO_FLAVOR, milli: IntArray | None = None,
               ) -> FloatArray:  # fmt: skip
        """Return the expected fragments (k) of nodes.

        Args:
            nodes: (k)
            free: (3, k) what is free of each beside its devices.
            flavor: of which `milli` is told; of the others, what is free now counts.
            milli: (k, w) what is free of the devices of that flavor.
        """
        total = np.zeros(len(nodes))
        for each in self.fleet.flavors:
            here = np.flatnonzero(self._row[each.number][nodes] >= 0)
            if not len(here):
                continue
            if milli is not None and each.number == flavor:
                left = milli[here]
            else:
                left = self.free_of(self.devices_of(each.number, nodes[here]))
            total[here] += self._typical.of(each).lost(left, free[0, here], free[1, here])
        return total

    def free_of(self, devices: IntArray) -> IntArray:
        """Return what is free (k, w) of devices, 0 where there is none."""
        free: IntArray = np.where(devices >= 0, self.milli[devices], 0)
        return free

    def is_whole(self, devices: IntArray) -> BoolArray:
        """Say which devices nobody has a part of."""
        is_free = (self.milli[devices] >= WHOLE) & (self.memory[devices] >= self.fleet.device_memory[devices])
        whole: BoolArray = (devices >= 0) & is_free
        return whole

    def takes(self, size: _Size, nodes: IntArray) -> tuple[BoolArray, BoolArray]:
        """Say which devices (k, w) a rank would take on nodes with its flavor, as a mask, and where it fits (k).

        Whole devices in order; a share goes to the fullest device that holds it.
        """
        devices = self.devices_of(size.flavor, nodes)
        if size.milli == WHOLE:
            able = self.is_whole(devices)
            taken = able & (np.cumsum(able, axis=1) <= size.devices)
        else:
            able = (devices >= 0) & (self.milli[devices] >= size.milli) & (self.memory[devices] >= size.device_bytes)
            fullest = np.where(able, self.milli[devices], WHOLE + 1).argmin(axis=1)
            taken = np.zeros_like(able)
            taken[np.arange(len(nodes)), fullest] = True
        return taken, able.sum(axis=1) >= size.devices

    def change(self, node: int, devices: tuple[int, ...], size: _Size, sign: int) -> None:
        """Give back what a rank holds (1), or take it (-1); what is closed stays taken."""
        self.node[:, node] += sign * np.array(size.amounts)
        for device in devices:
            self.memory[device] += sign * size.device_bytes
            if self.fleet.device_open[device]:
                self.milli[device] += sign * size.milli
        at = np.array([node])
        self.lost[node] = self.losses(at, self.node[:, at])[0]

    def whole(self, *nodes: int) -> int:
        """Return how many devices of some nodes are wholly free."""
        at = np.array(nodes)
        return sum(
            int(self.is_whole(self.devices_of(each.number, at[self.has(each.number)[at]])).sum())
            for each in self.fleet.flavors
        )


def _by_node(fleet: Fleet) -> tuple[list[IntArray], list[IntArray]]:
    """Return for each flavor its devices by node, (k, w), and in which row (n) each node stands, -1 for none."""
    tables: list[IntArray] = []
    rows: list[IntArray] = []
    for flavor in fleet.flavors:
        node = fleet.device_node[flavor.devices]
        nodes, first, count = np.unique(node, return_index=True, return_counts=True)
        table = np.full((len(nodes), int(count.max(initial=1))), -1, dtype=np.int64)
        for at, (start, many) in enumerate(zip(first.tolist(), count.tolist(), strict=True)):
            table[at, :many] = np.arange(flavor.devices.start + start, flavor.devices.start + start + many)
        row = np.full(fleet.node_count, -1, dtype=np.int64)
        row[nodes] = np.arange(len(nodes))
        tables.append(table)
        rows.append(row)
    return tables, rows


class _Finder:
    """Keeps what each rank would gain by leaving, and what each size would cost anywhere, up with the moves made."""

    def __init__(self, snapshot: Snapshot, board: _Board, pieces: list[_Piece]) -> None:
        self._snapshot, self._board = snapshot, board
        self._grounds = Grounds(snapshot.fleet)
        self._pieces = {piece.key(): piece for piece in pieces}
        self._saved = {key: self._saving(piece) for key, piece in self._pieces.items()}
        self._growth: dict[_Size, FloatArray] = {}
        self._on: dict[int, list[Holding]] = {}
        for holding in snapshot.holdings:
            for rank in holding.ranks:
                node = snapshot.fleet.node_at.get((holding.cluster, rank.node))
                if node is not None:
                    self._on.setdefault(node, []).append(holding)
        for size in {piece.size for piece in pieces}:
            self._growth[size] = np.full(snapshot.fleet.node_count, np.inf)
            self._work_out(size, np.arange(snapshot.fleet.node_count))

    def best(self) -> tuple[_Piece, int, float] | None:
        """Return the move to make next: what, where to, and its gain; None when no other is worth it."""
        best: tuple[float, float, tuple[str, int]] | None = None
        found: tuple[_Piece, int, float] | None = None
        least = {size: np.argsort(growth, kind="stable")[:2] for size, growth in self._growth.items()}
        for key, piece in self._pieces.items():
            growth = self._growth[piece.size]
            first, second = (*least[piece.size].tolist(), piece.node)[:2]
            if self._saved[key] - growth[first] < _LEAST_MILLI:
                continue
            to = second if first == piece.node else first
            if not self._may_go(piece, to):
                to = self._next_best(piece, growth)
            gain = float(self._saved[key] - growth[to])
            if to == piece.node or gain < _LEAST_MILLI:
                continue
            rate = gain / piece.cost_device_s if piece.cost_device_s > 0 else np.inf
            rank = (-rate, -gain, key)
            if best is None or rank < best:
                best, found = rank, (piece, to, gain)
        return found

    def make(self, piece: _Piece, to: int, gain: float) -> Move:
        """Make a move on the board and return it."""
        board, fleet, size = self._board, self._snapshot.fleet, piece.size
        before = board.whole(piece.node, to)
        devices: tuple[int, ...] = ()
        if size.flavor != _NO_FLAVOR:
            at = np.array([to])
            taken, _ = board.takes(size, at)
            devices = tuple(board.devices_of(size.flavor, at)[taken].tolist())
        board.change(to, devices, size, -1)
        board.change(piece.node, piece.devices, size, 1)
        shares = tuple(
            DeviceShare(fleet.device_names[device], int(fleet.device_index[device]), size.milli, size.device_bytes)
            for device in devices
        )
        target = replace(piece.rank, node=fleet.node_names[to], devices=shares)
        self._follow(piece, to)
        return Move(
            piece.holding.job_id, piece.rank.rank, piece.holding.cluster, piece.rank, target,
            board.whole(piece.node, to) - before, gain, piece.cost_device_s,
        )  # fmt: skip

    def _follow(self, moved: _Piece, to: int) -> None:
        del self._pieces[moved.key()]
        self._on[moved.node].remove(moved.holding)
        self._on.setdefault(to, []).append(moved.holding)
        for size in self._growth:
            self._work_out(size, np.array([moved.node, to]))
        for key, piece in self._pieces.items():
            if piece.node in (moved.node, to):
                self._saved[key] = self._saving(piece)

    def _saving(self, piece: _Piece) -> float:
        """Return how much less is lost on a node once a rank has left it."""
        board, at = self._board, np.array([piece.node])
        free = board.node[:, at] + np.array(piece.size.amounts)[:, None]
        if piece.size.flavor == _NO_FLAVOR:
            return float(board.lost[piece.node] - board.losses(at, free)[0])
        devices = board.devices_of(piece.size.flavor, at)
        leaves = np.isin(devices, piece.devices) & board.fleet.device_open[devices]
        milli = board.free_of(devices) + np.where(leaves, piece.size.milli, 0)
        return float(board.lost[piece.node] - board.losses(at, free, piece.size.flavor, milli)[0])

    def _work_out(self, size: _Size, nodes: IntArray) -> None:
        """Work out how much more is lost on nodes once a rank of a size is there; infinite where it does not fit."""
        board, fleet = self._board, self._snapshot.fleet
        growth = self._growth[size]
        growth[nodes] = np.inf
        open_here = fleet.node_open[nodes] & (fleet.node_cluster[nodes] == size.cluster)
        needed = np.array(size.amounts)[:, None]
        nodes = nodes[open_here & ((board.node[:, nodes] >= needed) | (needed == 0)).all(axis=0)]
        if size.flavor == _NO_FLAVOR:
            growth[nodes] = board.losses(nodes, board.node[:, nodes] - needed) - board.lost[nodes]
            return
        nodes = nodes[board.has(size.flavor)[nodes]]
        taken, fits = board.takes(size, nodes)
        nodes, taken = nodes[fits], taken[fits]
        milli = board.free_of(board.devices_of(size.flavor, nodes)) - np.where(taken, size.milli, 0)
        after = board.losses(nodes, board.node[:, nodes] - needed, size.flavor, milli)
        growth[nodes] = after - board.lost[nodes]

    def _next_best(self, piece: _Piece, growth: FloatArray) -> int:
        """Return the best node that a rank may go to, its own when there is none that holds it."""
        for node in np.argsort(growth, kind="stable").tolist():
            if not np.isfinite(growth[node]):
                break
            if node != piece.node and self._may_go(piece, node):
                return int(node)
        return piece.node

    def _may_go(self, piece: _Piece, node: int) -> bool:
        """Say whether nothing but room keeps a rank off a node: taints, windows, those that it stays apart from."""
        fleet, holding = self._snapshot.fleet, piece.holding
        if holding.request is not None:
            if not self._grounds.mask(holding.request.shape, avoiding=True)[node]:
                return False
        elif not set(fleet.node_taints[node]) <= set(fleet.node_taints[piece.node]):
            return False
        stacks = fleet.clusters[piece.size.cluster].stacks_ranks
        for other in self._on.get(node, ()):
            if other.job_id == holding.job_id:
                if not stacks:
                    return False
            elif holding.apart and (other.project_id, other.apart) == (holding.project_id, holding.apart):
                return False
        for window in self._snapshot.windows:
            covers = window.cluster == holding.cluster and (not window.nodes or fleet.node_names[node] in window.nodes)
            is_over_before = holding.ends_at is not None and holding.ends_at <= window.begins_at
            if covers and holding.project_id not in window.projects and not is_over_before:
                return False
        return True
