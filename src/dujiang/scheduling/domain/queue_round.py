"""The queues' side of one round: which places they leave open to a job, and what they hold as jobs start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

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
    kept_for: str = ""
    """With a lack: what is left is kept for this job of the same queue, which stands before it."""

    @property
    def options(self) -> frozenset[int]:
        """Return the places that are closed, as `find` numbers them."""
        return self.closed | {-1 - cluster for cluster in self.closed_clusters}


OPEN = Look()


class Standing(Enum):
    """How what runs stands with its queue."""

    WITHIN = "within"
    """The queue holds no more of its flavor than it is guaranteed."""
    BEYOND = "beyond"
    NOT_COUNTED = "not counted"


@dataclass(slots=True)
class QueueRound:
    """The queues' side of one round: what they hold as jobs start, and what they leave open to the next."""

    tree: QueueTree
    counting: Counting
    usage: Usage
    _looks: dict[tuple[str, Ask, int], tuple[int, Look]] = field(default_factory=dict)
    _kept: dict[tuple[str, str], tuple[str, Amounts4]] = field(default_factory=dict)
    """By queue and flavor: the first job that waits for quota, and what it will need."""

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

    def begin_pass(self) -> None:
        """Forget what was kept."""
        self._kept.clear()
        self._looks.clear()

    @property
    def keeps_any(self) -> bool:
        """Say whether anything is kept for a job."""
        return bool(self._kept)

    def look(self, project_id: str, queue: str, ask: Ask, ranks: int) -> Look:
        """Return where a job of a project may go as far as the queues are concerned."""
        if not self.tree:
            return OPEN
        key = (self.tree.queue_of(project_id, queue), ask, ranks)
        known = self._looks.get(key)
        if known is None or known[0] != self.usage.moves:
            known = self._looks[key] = (self.usage.moves, self._look(*key))
        return known[1]

    def lack(
        self, project_id: str, queue: str, ask: Ask, ranks: int, places: Iterable[tuple[int, Flavor | None]]
    ) -> QueueLack | None:  # fmt: skip
        """Return what comes nearest to no lack of some places, as `options` yields them; None when none has one."""
        lacks = self._lacks(
            self.tree.queue_of(project_id, queue),
            {at: (self._counted(cluster, flavor), amounts_on(ask, ranks, flavor))
             for at, (cluster, flavor) in enumerate(places)},
        )  # fmt: skip
        return _least(lacks, lacks)

    def most_ranks(self, project_id: str, queue: str, ask: Ask, least: int, most: int) -> int:
        """Return for how many ranks, of those between, the queues leave a place open; `least` when for none."""
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (
                (middle, most) if self.look(project_id, queue, ask, middle).lack is None else (least, middle - 1)
            )
        return least

    def keep(self, job_id: str, project_id: str, queue: str, ask: Ask, ranks: int, lack: QueueLack) -> None:
        """Keep what is left of a flavor for the first job of a queue that waits for it, so that it is not starved.

        Not for one that could not have it even if nobody held anything.
        """
        name = self.tree.queue_of(project_id, queue)
        place = name, lack.flavor
        if place in self._kept:
            return
        devices = next(
            (f for f in self.counting.fleet.flavors
             if ask.gpu_milli and f.matches(ask) and self.counting.devices[f.number] == lack.flavor), None,
        )  # fmt: skip
        amounts = amounts_on(ask, ranks, devices)
        if Usage(self.tree).fits(name, lack.flavor, amounts) is None:
            self._kept[place] = job_id, amounts
            self._looks.clear()

    def after(self, ended: Iterable[Holding]) -> QueueRound:
        """Return the same once these have given back what they hold."""
        other = QueueRound(self.tree, self.counting, self.usage.copy())
        for holding in ended:
            other.release(holding.project_id, holding.queue, holding.cluster, holding.ranks)
        return other

    def standing(self, holding: Holding, asking: str) -> Standing:
        """Return how what runs stands with its queue, for another queue that asks for its place."""
        queue = self.tree.queue_of(holding.project_id, holding.queue)
        flavor = self.flavor(holding.cluster, holding.ranks)
        if not self.usage.counts(queue, flavor):
            return Standing.NOT_COUNTED
        return Standing.BEYOND if self.usage.is_beyond(queue, asking, flavor) else Standing.WITHIN

    def has_claim(self, project_id: str, queue: str, ask: Ask, ranks: int) -> bool:
        """Say whether a queue would still be within its guarantee with so much more, of some flavor that will do."""
        name = self.tree.queue_of(project_id, queue)
        if not ask.gpu_milli:
            places = [(flavor, None) for flavor in sorted(set(self.counting.bare.values()))]
            return any(self.usage.has_claim(name, flavor, amounts_on(ask, ranks, None)) for flavor, _ in places)
        return any(
            self.usage.has_claim(name, self.counting.devices[f.number], amounts_on(ask, ranks, f))
            for f in self.counting.fleet.flavors if f.matches(ask)
        )  # fmt: skip

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
        if not ask.gpu_milli:
            places = {number: counting.bare[cluster.name] for number, cluster in enumerate(fleet.clusters)}
            lacks = self._lacks(queue, {at: (flavor, amounts_on(ask, ranks, None)) for at, flavor in places.items()})
            return Look(closed_clusters=frozenset(lacks), lack=_least(lacks, places), kept_for=self._for(queue, lacks))
        fitting = {flavor.number: flavor for flavor in fleet.flavors if flavor.matches(ask)}
        lacks = self._lacks(
            queue, {at: (counting.devices[at], amounts_on(ask, ranks, flavor)) for at, flavor in fitting.items()}
        )
        return Look(closed=frozenset(lacks), lack=_least(lacks, fitting), kept_for=self._for(queue, lacks))

    def _counted(self, cluster: int, flavor: Flavor | None) -> str:
        if flavor is not None:
            return self.counting.devices[flavor.number]
        return self.counting.bare[self.counting.fleet.clusters[cluster].name]

    def _lacks(self, queue: str, places: Mapping[int, tuple[str, Amounts4]]) -> dict[int, QueueLack]:
        found: dict[int, QueueLack] = {}
        for at, (flavor, amounts) in places.items():
            lack = self.usage.fits(queue, flavor, amounts)
            if lack is None and (kept := self._kept.get((queue, flavor))):
                _, (a, b, c, d) = kept
                lack = self.usage.fits(queue, flavor, (amounts[0] + a, amounts[1] + b, amounts[2] + c, amounts[3] + d))
            if lack is not None:
                found[at] = lack
        return found

    def _for(self, queue: str, lacks: Mapping[int, QueueLack]) -> str:
        return next(
            (self._kept[queue, one.flavor][0] for one in lacks.values() if (queue, one.flavor) in self._kept), ""
        )


def _least(lacks: Mapping[int, QueueLack], places: Collection[int]) -> QueueLack | None:
    """Return the lack that comes nearest to none, when there is one in every place."""
    if not lacks or len(lacks) < len(places):
        return None
    return min(lacks.values(), key=lambda lack: (1 - lack.available / lack.needed, lack.flavor))
