"""Whether a job could ever run here, asked when it is submitted: what never fits is refused, with what would."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from dujiang.kit.errors import Invalid, did_you_mean
from dujiang.kit.units import format_bytes
from dujiang.scheduling.domain.caps import over
from dujiang.scheduling.domain.find import find, options, room_for
from dujiang.scheduling.domain.fleet import Fleet
from dujiang.scheduling.domain.ground import Grounds, most_free
from dujiang.scheduling.domain.reasons import amount, label
from dujiang.scheduling.domain.request import WHOLE, Ask, Request
from dujiang.scheduling.domain.snapshot import Quota


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


def largest_possible(fleet: Fleet, request: Request) -> Largest:
    """Return the most of each resource that one rank of such a request could ever get, each taken alone."""
    grounds, shape = Grounds(fleet), request.shape
    room, allowed = grounds.open_empty, grounds.mask(shape, avoiding=False, closed_too=True)
    hosts = list(options(room.fleet, replace(shape, ask=Ask())))

    def of_host(resource: str) -> int:
        return max((most_free(room, resource, Ask(), c, None, allowed)[0] for c, _ in hosts), default=0)

    kinds = [
        f for f in fleet.flavors
        if f.is_called(shape.ask) and shape.where.cluster in ("", fleet.clusters[f.cluster].name)
    ]  # fmt: skip
    whole = Ask(gpu_milli=WHOLE)
    fitting = [f for f in kinds if f.matches(shape.ask)]
    places = list(options(room.fleet, shape))
    wide = replace(shape, ranks=100_000)
    return Largest(
        gpu_milli=max((most_free(room, "gpu_milli", whole, f.cluster, f, allowed)[0] for f in fitting), default=0),
        gpu_memory_bytes=max((f.memory_bytes for f in kinds), default=0),
        cpu_milli=of_host("cpu_milli"),
        memory_bytes=of_host("memory_bytes"),
        disk_bytes=of_host("disk_bytes"),
        ranks=max((room_for(room, wide, cluster, flavor, allowed) for cluster, flavor in places), default=0),
        models=tuple(fleet.models()),
    )


def check_possible(fleet: Fleet, request: Request, quota: Quota | None = None) -> None:
    """Let a request pass that could run on the pool as it is known, closed nodes counted in, and within the quota.

    Raises:
        ImpossibleRequest: it never could; the sentence and `largest` say what could.
    """
    if quota is not None:
        lack = over(quota.limits(), (0, 0, 0), request.total())
        if lack is not None:
            raise ImpossibleRequest(
                f"The job needs {amount(lack.resource, lack.needed)} {label(lack.resource)} in all, the quota of its "
                f"project is {amount(lack.resource, lack.available)}.",
                quota=asdict(quota),
            )
    grounds, shape = Grounds(fleet), request.shape
    if find(grounds.open_empty, shape, grounds.mask(shape, avoiding=False, closed_too=True)) is not None:
        return
    largest = largest_possible(fleet, request)
    raise ImpossibleRequest(_sentence(fleet, request, largest), largest=asdict(largest))


def _sentence(fleet: Fleet, request: Request, largest: Largest) -> str:
    ask, have = request.ask, "; ".join(largest.models) or "none"
    if request.where.cluster and request.where.cluster not in [cluster.name for cluster in fleet.clusters]:
        names = [cluster.name for cluster in fleet.clusters]
        return f'There is no cluster "{request.where.cluster}".{did_you_mean(request.where.cluster, names)}'
    if request.where.selector and not any(
        all(labels.get(key) == value for key, value in request.where.selector) for labels in fleet.node_labels
    ):
        wanted = ", ".join(f"{key}={value}" for key, value in request.where.selector)
        return f"No node has the labels {wanted}."
    if ask.gpu_milli and not largest.gpu_memory_bytes:
        kind = " ".join(part for part in (ask.vendor, ask.model) if part) or "any"
        return f"There is no device of the kind asked for ({kind}). Devices here: {have}."
    if ask.gpu_milli and ask.gpu_memory_bytes > largest.gpu_memory_bytes:
        return (
            f"A device with {format_bytes(ask.gpu_memory_bytes)} of memory is asked for, the largest of that kind has "
            f"{format_bytes(largest.gpu_memory_bytes)}. Devices here: {have}."
        )
    for resource in ("gpu_milli", "cpu_milli", "memory_bytes", "disk_bytes"):
        asked, most = getattr(ask, resource), getattr(largest, resource)
        if asked > most:
            return (
                f"{amount(resource, asked)} {label(resource)} on one node is asked for, the largest possible is "
                f"{amount(resource, most)}." + (f" Devices here: {have}." if resource == "gpu_milli" else "")
            )
    if largest.ranks:
        return (
            f"{request.ranks} ranks of {ask.describe()} are asked for at the same time, in one cluster; the largest "
            f"possible is {largest.ranks}."
        )
    return f"No node has all of {ask.describe()} together, each alone would do. Devices here: {have}."
