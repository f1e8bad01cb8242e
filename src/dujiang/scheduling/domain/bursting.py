"""Which waiting jobs go to rented clusters that they did not name. Pure.

Looked at is what a round left waiting for room, in its order, but for what work is being stopped for. A job bursts
when the site's policy lets it, it has waited long enough or is sure to (its prepared start is that far off, or its own
pool could never hold it), and its estimate is within what is left of the day's budget. Of the clusters that have room
the cheapest is taken; one whose nodes are taken away now and then only by work that goes on from a checkpoint, and only
where what is done again costs less than it saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import find
from dujiang.scheduling.domain.fleet import BoolArray, ClusterRow, Fleet
from dujiang.scheduling.domain.ground import Grounds
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.renting import BurstPolicy, Rent, part_of_devices
from dujiang.scheduling.domain.request import Request, Shape, on_cluster, with_ranks
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.walls import Walls

_NEVER_HERE: Final = frozenset({Reason.NO_MATCHING_DEVICE, Reason.NO_IMAGES, Reason.TOO_LARGE, Reason.TAINTED})
"""Its own pool could never hold it: it need not wait to find out."""
_WAITS: Final = _NEVER_HERE | {Reason.RESOURCES, Reason.RESERVED, Reason.NODE_UNAVAILABLE, Reason.WINDOW}


def burst(done: Round, awaited: Mapping[str, str]) -> None:
    """Start what may burst, in the round itself: it does not wait there any more.

    Args:
        done: a round that has run.
        awaited: jobs that work is being stopped for, by job.
    """
    policy, fleet = done.snapshot.rules.burst, done.snapshot.fleet
    taken = {wait.request.where.cluster for wait in done.waiting if wait.request.job_id in awaited}
    clouds = [cluster for cluster in fleet.clusters if cluster.is_cloud and cluster.name not in taken]
    if policy is None or not clouds:
        return
    gone: set[str] = set()
    walls = Walls()
    for waiting in done.waiting:
        request = waiting.request
        if request.job_id in awaited or waiting.reason not in _WAITS or not policy.allows_now(request, done.now):
            continue
        due = due_at(done, waiting, policy)
        if due is None or due > done.now:
            continue
        found = _place(done, policy, request, clouds, walls)
        if found is not None:
            fit, rent, in_gap = found
            done.start(request, fit, in_gap=in_gap, rent=rent)
            policy = policy.spent(rent.total)
            gone.add(request.job_id)
    if gone:
        done.waiting = [waiting for waiting in done.waiting if waiting.request.job_id not in gone]


def due_at(done: Round, waiting: Waiting, policy: BurstPolicy) -> datetime | None:
    """Return from when on a waiting job has waited long enough; None when it does not wait for room."""
    if waiting.reason not in _WAITS:
        return None
    request = waiting.request
    limit = request.submitted_at + timedelta(seconds=policy.after_s)
    reservation = done.reservations.get(request.job_id)
    is_sure = reservation is not None and reservation.at is not None and reservation.at > limit
    return done.now if is_sure or waiting.reason in _NEVER_HERE else limit


def rented(
    policy: BurstPolicy, request: Request, shape: Shape, clouds: Mapping[Shape, tuple[ClusterRow, BoolArray]],
    room: Room, grounds: Grounds, closed: frozenset[int] = frozenset(), walls: Walls | None = None,
) -> tuple[Fit, Rent] | None:  # fmt: skip
    """Return the cheapest rented place for a shape that the budget allows.

    Args:
        policy: with what is left of the budget.
        request: the job.
        shape: with no cluster named.
        clouds: the shape on each cluster that may be used, with the cluster and the nodes that it may use there.
        room: what is free.
        grounds: tell whether a cluster could hold it at all.
        closed: flavors that the job's queue may not have, as `find` numbers them.
        walls: shapes known not to fit in the room.
    """
    best: tuple[Fit, Rent] | None = None
    regular, spot = list[Decimal](), list[tuple[Fit, Rent]]()
    for there, (cluster, allowed) in clouds.items():
        fit = None
        if walls is None or not walls.stop(there):
            fit = find(room, there, allowed, closed=closed)
            if fit is None and walls is not None and not closed:
                walls.add(there)
        nodes = shape.ranks if fit is None else len({spot.node for spot in fit.spots})
        milli = shape.ask.gpu_milli * shape.ranks
        if not milli and fit is not None:
            milli = worth_of_nodes(room.fleet, fit)
        rent = policy.rent(cluster, request, milli, nodes)
        if rent is None:
            continue
        if not cluster.interruptions_per_day and (fit is not None or grounds.of(there).reason is None):
            regular.append(rent.total)
        if fit is None or rent.total > policy.left:
            continue
        if cluster.interruptions_per_day:
            spot.append((fit, rent))
        elif best is None or rent.total < best[1].total:
            best = fit, rent
    for fit, rent in spot:
        if (not regular or rent.total < min(regular)) and (best is None or rent.total < best[1].total):
            best = fit, rent
    return best


def worth_of_nodes(fleet: Fleet, fit: Fit) -> int:
    """Return what work without devices takes of its nodes, in thousandths of their devices: by those they are paid.

    Of each node the larger of the parts of its processors and its memory; 0 where a node has no devices, whose price
    nobody tells.
    """
    total = 0
    for spot in fit.spots:
        cpu, memory = (int(fleet.node_limit[row, spot.node]) for row in range(2))
        part = part_of_devices(fit.ask.cpu_milli, fit.ask.memory_bytes, cpu, memory, int(fleet.node_devices[spot.node]))
        if not part:
            return 0
        total += part
    return total


def least_shapes(request: Request, shapes: tuple[Shape, ...]) -> Iterator[Shape]:
    """Yield the least that will do of each alternative, best first."""
    for shape in shapes:
        yield with_ranks(shape, request.ranks_min or shape.ranks)


def _place(
    done: Round, policy: BurstPolicy, request: Request, clouds: list[ClusterRow], walls: Walls
) -> tuple[Fit, Rent, bool] | None:
    in_gap = done.may_fill_gap(request)
    room = done.keeping.lowered(done.base(in_gap=in_gap), request, in_gap=in_gap)
    for shape in least_shapes(request, done.shapes(request)):
        if not _within_quota(done, request, shape):
            continue
        look = done.queues.look(request.project_id, request.queue, shape.ask, shape.ranks)
        if look.lack is not None:
            continue
        there = {on_cluster(shape, cloud.name): cloud for cloud in clouds}
        usable = {one: (cloud, done.grounds.of(one).allowed) for one, cloud in there.items()}
        found = rented(policy, request, shape, usable, room, done.grounds, look.options, walls)
        if found is not None:
            return (*found, in_gap)
    return None


def _within_quota(done: Round, request: Request, shape: Shape) -> bool:
    """Say whether its project may hold so much more; what is kept for the job itself is its own."""
    ask, ranks = shape.ask, shape.ranks
    total = ask.gpu_milli * ranks, ask.cpu_milli * ranks, ask.memory_bytes * ranks
    over = done.caps.check(request, total, done.holdings, done.is_over_by)
    if over is None:
        return True
    return over.reason is Reason.QUOTA_RESERVED and over.kept is not None and over.kept.job_id == request.job_id
