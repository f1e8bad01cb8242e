"""Whether a job could ever run here, asked when it is submitted: what never fits is refused, with what would.

Judged is what `plan` would do with the pool open and empty: any of the alternatives will do, an elastic job may have
its fewest ranks, and a rented cluster counts for those that name it, and where work may burst to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from dujiang.engines.contract import Isolation
from dujiang.kit.errors import Invalid, did_you_mean
from dujiang.kit.units import format_bytes
from dujiang.scheduling.domain.bursting import least_shapes, rented
from dujiang.scheduling.domain.caps import over
from dujiang.scheduling.domain.find import find, holding, options, room_for
from dujiang.scheduling.domain.fleet import Flavor, Fleet
from dujiang.scheduling.domain.ground import Grounds, most_free
from dujiang.scheduling.domain.queue_round import QueueRound
from dujiang.scheduling.domain.queue_usage import QueueLack
from dujiang.scheduling.domain.queues import NO_QUEUES, QueueTree
from dujiang.scheduling.domain.reasons import Shortage, amount, label
from dujiang.scheduling.domain.renting import BurstPolicy
from dujiang.scheduling.domain.request import WHOLE, Ask, Constraints, Request, Shape, on_cluster, shape_of
from dujiang.scheduling.domain.room import Fit
from dujiang.scheduling.domain.snapshot import Quota

_MOST_NAMED = 8


class ImpossibleRequest(Invalid):
    """No part of the pool could ever hold it, empty and open."""

    code, title = "impossible_request", "The pool could never hold this"


@dataclass(frozen=True, slots=True)
class Largest:
    """The most that the pool could ever give, open and empty."""

    gpu_milli: int
    """Devices of the kind asked for on one node."""
    gpu_memory_bytes: int
    """Of one device of the vendor and model asked for."""
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    ranks: int
    """How many ranks of the given ask fit at the same time; 0 when not even one does."""
    models: tuple[str, ...]
    """The devices that exist: `vendor model memory`."""


def largest_possible(fleet: Fleet, request: Request, *, burst: BurstPolicy | None = None) -> Largest:
    """Return the most of each resource that one rank of such a request could ever get, each taken alone."""
    return _Judge(fleet, request, burst).largest(request.shape)


def check_possible(
    fleet: Fleet, request: Request, quota: Quota | None = None, queues: QueueTree = NO_QUEUES, *,
    burst: BurstPolicy | None = None,
) -> None:  # fmt: skip
    """Let a request pass that could run on the pool as it is known, closed nodes counted in, and within the quotas.

    Args:
        fleet: the pool.
        request: the job.
        quota: of its project.
        queues: of which its own must be able to have so much when nobody else holds anything.
        burst: when work may go to rented clusters that it does not name.

    Raises:
        ImpossibleRequest: it never could; the sentence and `largest` say what could.
    """
    shapes = tuple(least_shapes(request, request.shapes))
    within = [shape for shape in shapes if _lack(shape, quota) is None]
    if quota is not None and not within:
        lack = _lack(shapes[0], quota)
        assert lack is not None
        raise ImpossibleRequest(
            f"The job needs {amount(lack.resource, lack.needed)} {label(lack.resource)} in all, the quota of its "
            f"project is {amount(lack.resource, lack.available)}.",
            quota=asdict(quota),
        )
    judge = _Judge(fleet, request, burst)
    if any(judge.fit(shape) for shape in within):
        beyond = judge.beyond_queue(QueueRound.begin(queues, fleet), within) if queues else None
        if beyond is None:
            return
        raise _beyond_queue(beyond)
    largest, told = judge.largest(within[0]), judge.wrong(within[0])
    if len(within) > 1:
        told += f" None of the {len(within) - 1} alternatives fits either."
    raise ImpossibleRequest(told, largest=asdict(largest))


def over_quota(request: Request, quota: Quota | None) -> Shortage | None:
    """Return by how much a job exceeds what its project may hold at all; None when a shape of it does not."""
    lacks = [_lack(shape, quota) for shape in least_shapes(request, request.shapes)]
    return lacks[0] if all(lacks) else None


def beyond_queue(request: Request, empty: QueueRound, grounds: Grounds, burst: BurstPolicy | None) -> QueueLack | None:
    """Return what a job's queue could never give it, even if nobody held anything; None where a shape may be had.

    Args:
        request: the job.
        empty: the queues when nothing is held.
        grounds: of the fleet.
        burst: when work may go to rented clusters that it does not name.
    """
    judge = _Judge(empty.counting.fleet, request, burst, grounds)
    return judge.beyond_queue(empty, tuple(least_shapes(request, request.shapes)))


def _beyond_queue(lack: QueueLack) -> ImpossibleRequest:
    if not lack.queue:
        how = "Ask whoever sets the queues to name the project in one"
    elif lack.is_borrowing_limit:
        how = f"Ask for less, or have the borrowing_limit of {lack.at} raised"
    else:
        how = f"Ask for less, or have {lack.queue} given a larger nominal quota"
    return ImpossibleRequest(
        f"The job needs {lack.at_most}. {how} (`dujiang queues` shows them).",
        queue={
            "name": lack.queue, "flavor": lack.flavor, "resource": lack.resource, "needed": lack.needed,
            "most": lack.available, "limited_by": lack.at,
        },
    )  # fmt: skip


def _lack(shape: Shape, quota: Quota | None) -> Shortage | None:
    if quota is None:
        return None
    ask, ranks = shape.ask, shape.ranks
    total = ranks * ask.gpu_milli, ranks * ask.cpu_milli, ranks * ask.memory_bytes
    return over(quota.limits(), (0, 0, 0), total)


class _Judge:
    """Looks at the pool open and empty."""

    def __init__(
        self, fleet: Fleet, request: Request, burst: BurstPolicy | None, grounds: Grounds | None = None
    ) -> None:  # fmt: skip
        self.fleet, self.request = fleet, request
        self.grounds = Grounds(fleet) if grounds is None else grounds
        self.room = self.grounds.open_empty
        self.policy = None
        if burst is not None and burst.allows(request):
            self.policy = replace(burst, left=burst.budget_per_day)
        self.clouds = [cluster for cluster in fleet.clusters if cluster.is_cloud]

    def fit(self, shape: Shape, closed: frozenset[int] = frozenset()) -> Fit | None:
        """Return a place for it, none of those that are closed, as `find` numbers them."""
        allowed = self.grounds.mask(shape, closed_too=True)
        fit = find(self.room, shape, allowed, closed=closed)
        if fit is not None or self.policy is None:
            return fit
        there = {on_cluster(shape, cloud.name): (cloud, allowed) for cloud in self.clouds}
        found = rented(self.policy, self.request, shape, there, self.room, self.grounds, closed)
        return found[0] if found else None

    def beyond_queue(self, empty: QueueRound, shapes: Sequence[Shape]) -> QueueLack | None:
        """Return what the queue could never give, of the first shape that the pool could hold; None when it could."""
        project, queue = self.request.project_id, self.request.queue
        looks = [empty.look(project, queue, shape.ask, shape.ranks).options for shape in shapes]
        if any(self.fit(shape, closed) for shape, closed in zip(shapes, looks, strict=True)):
            return None
        held = next((shape for shape in shapes if self.fit(shape)), None)
        if held is None:
            return None
        return empty.lack(project, queue, held.ask, held.ranks, self._places(held))

    def largest(self, shape: Shape) -> Largest:
        """Return the most of each resource that one rank could get, each taken alone."""
        allowed = self.grounds.mask(shape, closed_too=True)
        hosts = list(self._places(_with(shape, ask=Ask())))

        def of_host(resource: str) -> int:
            return max((most_free(self.room, resource, Ask(), c, None, allowed)[0] for c, _ in hosts), default=0)

        reached = {cluster for cluster, _ in hosts}
        kinds = [one for one in self.fleet.flavors if one.cluster in reached and one.is_called(shape.ask)]
        whole, devices = Ask(gpu_milli=WHOLE), 0
        for flavor in (one for one in kinds if one.matches(shape.ask)):
            devices = max(devices, most_free(self.room, "gpu_milli", whole, flavor.cluster, flavor, allowed)[0])
        return Largest(
            gpu_milli=devices,
            gpu_memory_bytes=max((one.memory_bytes for one in kinds), default=0),
            cpu_milli=of_host("cpu_milli"),
            memory_bytes=of_host("memory_bytes"),
            disk_bytes=of_host("disk_bytes"),
            ranks=self.ranks(shape),
            models=tuple(self.fleet.models()),
        )

    def ranks(self, shape: Shape) -> int:
        """Return how many ranks of a shape fit at the same time."""
        allowed, wide = self.grounds.mask(shape, closed_too=True), _with(shape, ranks=100_000)
        return max((room_for(self.room, wide, *place, allowed) for place in self._places(shape)), default=0)

    def wrong(self, shape: Shape) -> str:
        """Say why it fits nowhere: the first of its demands without which it would fit, else what is too much."""
        for told in (self._unknown(shape), *self._demands(shape)):
            if told:
                return told
        return self._too_much(shape)

    def _variants(self, shape: Shape) -> Iterator[Shape]:
        yield shape
        if self.policy is not None and any(one.ask.gpu_milli for one in self.request.shapes):
            yield from (on_cluster(shape, cloud.name) for cloud in self.clouds)

    def _places(self, shape: Shape) -> Iterator[tuple[int, Flavor | None]]:
        for one in self._variants(shape):
            yield from options(self.fleet, one)

    def _fits_with(self, shape: Shape, **where: object) -> Fit | None:
        return self.fit(_with(shape, where=replace(shape.where, **where)))  # type: ignore[arg-type]

    # -- in words --------------------------------------------------------------------------------------------------

    def _unknown(self, shape: Shape) -> str:
        """Name what does not exist at all."""
        where, ask, names = shape.where, shape.ask, [cluster.name for cluster in self.fleet.clusters]
        if where.cluster and where.cluster not in names:
            near = did_you_mean(where.cluster, names) or f" Clusters here: {_listed(names)}."
            return f'There is no cluster "{where.cluster}".{near}'
        if where.cluster and not _has_nodes(self.fleet, names.index(where.cluster)):
            return (
                f"Cluster {where.cluster} has shown no node yet, so nothing is known of what it could hold; `dujiang "
                "clusters` says whether it answers, and why not. Submit again when it has."
            )
        if where.image and (told := self._imageless(where.cluster)):
            return told
        if where.selector and not any(
            all(labels.get(key) == value for key, value in where.selector) for labels in self.fleet.node_labels
        ):
            return f"No node has the labels {_labels(where)}."
        for cloud in (one.name for one in self.clouds if not where.cluster):
            if find(self.room, there := on_cluster(shape, cloud), self.grounds.mask(there, closed_too=True)):
                return (
                    f"Only cluster {cloud} could hold it, which is rented by use: write placement.cluster: {cloud}. "
                    "It goes there by itself only as the policy and its budget allow, and needs a time_limit for that."
                )
        largest, have = self.largest(shape), self._have()
        if ask.gpu_milli and not largest.gpu_memory_bytes:
            kind = " ".join(part for part in (ask.vendor, ask.model) if part)
            of = f"of the kind asked for ({kind})" if kind else "where it may run"
            return f"There is no device {of}.{have}"
        if ask.gpu_milli and ask.gpu_memory_bytes > largest.gpu_memory_bytes:
            return (
                f"A device with {format_bytes(ask.gpu_memory_bytes)} of memory is asked for, the largest of that kind "
                f"has {format_bytes(largest.gpu_memory_bytes)}.{have}"
            )
        return ""

    def _imageless(self, wanted: str) -> str:
        """Say that no cluster, or not the one that is named, runs container images."""
        able = [f"{one.name} ({one.images})" for one in self.fleet.clusters if one.images]
        if not able:
            return (
                "No cluster runs container images. On the machine of a local cluster, install podman, Docker or "
                "containerd; on a Slurm cluster, pyxis or Apptainer; a Kubernetes cluster runs them as it is. Or leave "
                "image out and make the environment in setup."
            )
        if wanted and not any(one.name == wanted and one.images for one in self.fleet.clusters):
            return f"Cluster {wanted} runs no container images; these do: {', '.join(able)}."
        return ""

    def _demands(self, shape: Shape) -> Iterator[str]:
        """Yield a sentence for each demand of its place without which it would fit."""
        where, ranks, ask = shape.where, shape.ranks, shape.ask
        if where.image and self._fits_with(shape, image=False):
            able = [f"{one.name} ({one.images})" for one in self.fleet.clusters if one.images]
            yield (
                f"It would fit on a cluster that runs no container images; those that do cannot hold it: "
                f"{', '.join(able)}. {self._too_much(shape)}"
            )
        if where.isolation and ask.is_fraction and self._fits_with(shape, isolation=None):
            loosely = _with(shape, where=replace(where, isolation=None))
            best = min((one.isolation for _, one in self._places(loosely) if one), key=list(Isolation).index)
            yield (
                f"No device of that kind keeps shares {where.isolation}; the best is {best}. Write a lower "
                "placement.isolation, or ask for whole devices."
            )
        if fit := self._fits_with(shape, tolerations=("*",)):
            yield self._tainted(shape, fit)
        if where.within and where.is_within_required and self._fits_with(shape, is_within_required=False):
            yield (
                f"No {where.within} holds {_ranks(ranks)} of {ask.describe()}; the largest holds {self.ranks(shape)}. "
                "Ask for fewer nodes, or write placement.required: false."
            )
        if where.spread and self._fits_with(shape, spread=None):
            yield (
                f"{_ranks(ranks).capitalize()} are to be in as many different places ({where.spread}); only "
                f"{self.ranks(shape)} such places hold one of {ask.describe()}. Ask for fewer nodes, or leave "
                "placement.spread out."
            )
        if where.selector and self._fits_with(shape, selector=()):
            yield f"The nodes with the labels {_labels(where)} could not hold it: {self._too_much(shape)}"
        if where != (loose := Constraints(where.cluster, tolerations=("*",), image=where.image)) and self.fit(
            _with(shape, where=loose)
        ):
            yield "No part of the pool meets all that placement demands at the same time; leave some of it out."

    def _tainted(self, shape: Shape, fit: Fit) -> str:
        """Name the taints that keep it away: one that is enough to tolerate, else those of a place that would do."""
        open_to_it = self.grounds.mask(shape, closed_too=True)
        missing = sorted(
            {
                taint
                for spot in fit.spots
                if not open_to_it[spot.node]
                for taint in self.fleet.node_taints[spot.node]
                if not {taint, taint.partition("=")[0]} & set(shape.where.tolerations)
            }
        )
        enough = [
            one for one in missing if self._fits_with(shape, tolerations=(*shape.where.tolerations, one)) is not None
        ]
        taints = enough[:1] or missing
        what = f"the taint {taints[0]}" if len(taints) == 1 else f"the taints {', '.join(taints)}"
        these = "it" if len(taints) == 1 else "them"
        any_free = any(holding(self.room, shape.ask, *place, open_to_it).any() for place in self._places(shape))
        begin = (
            f"Too few nodes could hold it but for {what}" if any_free else f"Every node that could hold it has {what}"
        )
        return f"{begin}; add {these} to placement.tolerations if it may run there."

    def _too_much(self, shape: Shape) -> str:
        """Name the amount that is too large."""
        ask, largest = shape.ask, self.largest(shape)
        for resource in ("gpu_milli", "cpu_milli", "memory_bytes", "disk_bytes"):
            asked, most = getattr(ask, resource), getattr(largest, resource)
            if asked > most:
                return (
                    f"{amount(resource, asked)} {label(resource)} on one node is asked for, the largest possible is "
                    f"{amount(resource, most)}." + (self._have() if resource == "gpu_milli" else "")
                )
        if largest.ranks:
            return (
                f"{shape.ranks} ranks of {ask.describe()} are asked for at the same time, in one cluster; the largest "
                f"possible is {largest.ranks}."
            )
        return f"No node has all of {ask.describe()} together, each alone would do.{self._have()}"

    def _have(self) -> str:
        return f" Devices here: {'; '.join(self.fleet.models()) or 'none'}."


def _has_nodes(fleet: Fleet, cluster: int) -> bool:
    nodes = fleet.cluster_nodes[cluster]
    return bool(nodes.stop > nodes.start)


def _with(shape: Shape, *, ask: Ask | None = None, ranks: int | None = None, where: Constraints | None = None) -> Shape:
    return shape_of(ask or shape.ask, ranks or shape.ranks, where or shape.where, shape.avoid, shape.barred)


def _labels(where: Constraints) -> str:
    return ", ".join(f"{key}={value}" for key, value in where.selector)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (" ..." if len(names) > _MOST_NAMED else "") if names else "none"


def _ranks(count: int) -> str:
    return f"{count} rank" if count == 1 else f"{count} ranks"
