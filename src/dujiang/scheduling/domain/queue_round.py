"""The queues' side of one round: which places they leave open to a job, and what they hold as jobs start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dujiang.engines.contract import RankPlacement
from dujiang.scheduling.domain.fleet import Flavor, Fleet
from dujiang.scheduling.domain.queue_usage import QueueLack, Usage
from dujiang.scheduling.domain.queues import NONE4, Amounts4, Counting, QueueTree
from dujiang.scheduling.domain.request import Ask
from dujiang.scheduling.domain.snapshot import Holding


def amounts_of(ranks: Sequence[RankPlacement]) -> Amounts4:
    """Return what ranks hold, as queues count it."""
    milli = device_memory = cpu = memory = 0
    for rank in ranks:
        cpu, memory = cpu + rank.cpu_milli, memory + rank.memory_bytes
        for share in rank.devices:
            milli, device_memory = milli + share.gpu_milli, device_memory + share.memory_bytes
    return milli, device_memory, cpu, memory


def amounts_on(ask: Ask, ranks: int, devices: Flavor | None) -> Amounts4:
    """Return what a job would hold on devices of that kind, None for one that asks for none, as queues count it."""
    memory = 0 if devices is None else devices.share_bytes(ask) * max(1, ask.whole_devices)
    return ranks * ask.gpu_milli, ranks * memory, ranks * ask.cpu_milli, ranks * ask.memory_bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What the queues leave open to a job."""

    closed: frozenset[int] = frozenset()
    """Flavors of the fleet, by number, of which its queue cannot have so much."""
    closed_clusters: frozenset[int] = frozenset()
    """Clusters, by number, where its queue cannot have so much for work without devices."""
    lack: QueueLack | None = None
    """Set when nothing is left: what stops it where it lacks the least."""


OPEN = Look()


@dataclass(slots=True)
class QueueRound:
    """The queues' side of one round: what they hold as jobs start, and what they leave open to the next."""

    tree: QueueTree
    counting: Counting
    usage: Usage
    _looks: dict[tuple[str, Ask, int], tuple[int, Look]] = field(default_factory=dict)

    @classmethod
    def begin(cls, tree: QueueTree, fleet: Fleet, holdings: Iterable[Holding] = ()) -> QueueRound:
        """Return the round in which the holdings are held. O(holdings)."""
        made = cls(tree, Counting.of(tree, fleet), Usage(tree))
        if tree:
            sums: dict[tuple[str, str], Amounts4] = {}
            for holding in holdings:
                where = tree.queue_of(holding.project_id, holding.queue), made.flavor(holding.cluster, holding.ranks)
                a, b = sums.get(where, NONE4), amounts_of(holding.ranks)
                sums[where] = a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]
            for (queue, flavor), amounts in sums.items():
                made.usage.take(queue, flavor, amounts)
        return made

    def flavor(self, cluster: str, ranks: Sequence[RankPlacement]) -> str:
        """Return as what a placement is counted; empty when as nothing, also when its device is gone from the fleet."""
        fleet = self.counting.fleet
        for rank in ranks:
            for share in rank.devices:
                node = fleet.node_at.get((cluster, rank.node))
                device = None if node is None else fleet.device_at.get((node, share.name))
                return "" if device is None else self.counting.devices[int(fleet.device_flavor[device])]
        return self.counting.bare.get(cluster, "")

    def look(self, project_id: str, queue: str, ask: Ask, ranks: int) -> Look:
        """Return where a job of a project may go as far as the queues are concerned."""
        if not self.tree:
            return OPEN
        key = (self.tree.queue_of(project_id, queue), ask, ranks)
        known = self._looks.get(key)
        if known is None or known[0] != self.usage.moves:
            known = self._looks[key] = (self.usage.moves, self._look(*key))
        return known[1]

    def take(self, project_id: str, queue: str, cluster: str, ranks: Sequence[RankPlacement]) -> None:
        """Let a job that starts hold its place."""
        if self.tree:
            self.usage.take(self.tree.queue_of(project_id, queue), self.flavor(cluster, ranks), amounts_of(ranks))

    def release(self, project_id: str, queue: str, cluster: str, ranks: Sequence[RankPlacement]) -> None:
        """Take back the place of a job, as when it ends or is told to go."""
        if self.tree:
            self.usage.release(self.tree.queue_of(project_id, queue), self.flavor(cluster, ranks), amounts_of(ranks))

    def _look(self, queue: str, ask: Ask, ranks: int) -> Look:
        fleet, counting = self.counting.fleet, self.counting
        lacks: list[QueueLack] = []
        if not ask.gpu_milli:
            amounts, shut = amounts_on(ask, ranks, None), set[int]()
            for number, cluster in enumerate(fleet.clusters):
                if lack := self.usage.fits(queue, counting.bare[cluster.name], amounts):
                    shut.add(number)
                    lacks.append(lack)
            return Look(closed_clusters=frozenset(shut), lack=_least(lacks, len(fleet.clusters)))
        fitting = [flavor for flavor in fleet.flavors if flavor.matches(ask)]
        closed: set[int] = set()
        for flavor in fitting:
            if lack := self.usage.fits(queue, counting.devices[flavor.number], amounts_on(ask, ranks, flavor)):
                closed.add(flavor.number)
                lacks.append(lack)
        return Look(closed=frozenset(closed), lack=_least(lacks, len(fitting)))


def _least(lacks: Sequence[QueueLack], places: int) -> QueueLack | None:
    """Return the lack that comes nearest to none, when there is one in every place."""
    if not lacks or len(lacks) < places:
        return None
    return min(lacks, key=lambda lack: (1 - lack.available / lack.needed, lack.flavor))
