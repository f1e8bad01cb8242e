"""What to stop so that work with more right starts: the cheapest that is enough, and never in a circle.

More right has, first, work that its queue is guaranteed, over work that another queue holds beyond its guarantee;
then, the higher class; then, where work takes turns (`turns`), who has had less by a level. Nothing is stopped that has
just begun, is being stopped already, or could not go on later; for a turn, only what saves itself. Candidates stand by
right, then by what is lost: the time since the last checkpoint times the devices. The shortest prefix of them that
makes room, and leaves the queue its quota, gives the place; of those in the prefix that lie there, every one that is
not needed is let off, the dearest first.

Why it does not thrash: each stop is for a job of strictly more right than what is stopped, so a chain of stops ends;
what is being stopped counts as free, so that nothing is stopped twice for one job; the job that it is for stands first
in its class from then on (`Request.is_promised`), and its start is prepared until the last of them has given everything
back. Prepared starts of jobs before it are not touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np

from dujiang.scheduling.domain.bands import TaskClass
from dujiang.scheduling.domain.decide import Round, Waiting
from dujiang.scheduling.domain.find import find, placements
from dujiang.scheduling.domain.fleet import BoolArray
from dujiang.scheduling.domain.queue_round import QueueRound, Standing
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.request import Request
from dujiang.scheduling.domain.reserve import turns
from dujiang.scheduling.domain.room import Fit, Room
from dujiang.scheduling.domain.snapshot import Holding
from dujiang.scheduling.domain.stops import Stop, StopWhy
from dujiang.scheduling.domain.turns import width
from dujiang.scheduling.domain.walls import Walls

RANK: Final = {TaskClass.LOW: 0, TaskClass.NORMAL: 1, TaskClass.CORE: 2}
_WAITS: Final = (Reason.RESOURCES, Reason.RESERVED, Reason.QUEUE_QUOTA)
Right = tuple[int, int]
_NONE: Final[Right] = (-1, 0)
_LOOKED_AT_ALONE: Final = 16
"""Of more victims than that, each is not tried without: a try costs a look at the whole room."""


def lost_device_s(holding: Holding, done: Round) -> float:
    """Return what a job would have to do again if it were stopped now, in device-seconds."""
    gpu, cpu, _ = holding.total()
    since = max(holding.saved_at or holding.started_at, holding.started_at)
    seconds = max((done.now - since).total_seconds(), 0.0)
    return seconds * width(gpu, cpu)


@dataclass(slots=True)
class Preemption:
    """Looks for stops after a round; `run` fills it."""

    done: Round
    stops: list[Stop] = field(default_factory=list)
    awaited: dict[str, str] = field(default_factory=dict)
    """For jobs that wait for stops: one of the jobs that is being stopped."""
    _room: Room = field(init=False)
    """What is free once everything that is being stopped has ended, without what jobs that wait for that will take."""
    _queues: QueueRound = field(init=False)
    """What queues hold then."""
    _stopping: list[int] = field(init=False)
    _walls: Walls = field(default_factory=Walls)
    _left_s: float | None = field(init=False)
    _costs: list[tuple[Right, float, str, int]] | None = None

    def __post_init__(self) -> None:
        """Let what is being stopped end."""
        rules = self.done.snapshot.rules
        held = self.done.snapshot.holdings
        self._stopping = [number for number, holding in enumerate(held) if holding.is_stopping]
        self._room = self._after(self.done.room, self._stopping)
        self._queues = self.done.queues.after(held[number] for number in self._stopping)
        self._left_s = None
        if rules.most_lost_device_s is not None:
            self._left_s = max(rules.most_lost_device_s - rules.lost_device_s, 0.0)

    def run(self) -> None:
        """Go through what waits, in its order."""
        rules, served, above = self.done.snapshot.rules, 0, _NONE
        for waiting in self.done.waiting:
            request = waiting.request
            if waiting.reason not in _WAITS or self._walls.stop(waiting.shape):
                continue
            if not self._may_end(request):
                break  # it may stop nothing, and nobody after it may
            fit = self._place(waiting, ())
            if fit is not None:
                self._await(request, fit)
                continue
            if waiting.reason is not Reason.QUEUE_QUOTA:
                self._walls.add(waiting.shape)
            right = self._right(request)
            if right >= above and served < rules.most_stops_for and self._stop_for(waiting):
                served += 1
                continue
            if waiting.reason is not Reason.QUEUE_QUOTA:
                # What were stopped for one of less right, the prepared start of this one would keep.
                above = max(above, right)
            if (reservation := self.done.reservations.get(request.job_id)) is not None:
                self._room.take(reservation.target)  # also below nothing: what is given back there is spoken for

    def _right(self, job: Request | Holding) -> Right:
        """Return what right a job has by itself, the higher the more: its class, then, in turns, its level."""
        return RANK[job.task_class], -self.done.level_of(job)

    def _may_end(self, request: Request) -> bool:
        """Say whether anything can be gained for a job, or for one after it."""
        return bool(
            request.task_class is not TaskClass.LOW
            or self._stopping
            or self.stops
            or self.done.snapshot.queues
            or self.done.snapshot.rules.turns
        )

    def _place(self, waiting: Waiting, ended: Sequence[int], within: BoolArray | None = None) -> Fit | None:
        """Return the place of a job once these have ended as well; None when there is none, or no quota for it."""
        request, shape = waiting.request, waiting.shape
        queues = self._queues
        if ended and queues.tree:
            queues = queues.after(self.done.releases.holdings[number] for number in ended)
        look = queues.look(request.project_id, request.queue, shape.ask, shape.ranks)
        if look.lack is not None:
            return None
        room = self._after(self._room, ended) if ended else self._room
        # What is stopped for a job must give it a place that it may then have beside what is kept for deadlines.
        room = self.done.keeping.after(room, request, [*self._stopping, *ended])
        allowed = self.done.grounds.of(shape).allowed if within is None else within
        return find(room, shape, allowed, closed=look.options)

    def _await(self, request: Request, fit: Fit) -> None:
        """Let a job have what will be free anyway."""
        self._take(request, fit)
        on = set(self.done.releases.on([spot.node for spot in fit.spots]))
        stopping = [number for number in self._stopping if number in on]
        if stopping:
            self.awaited[request.job_id] = self.done.releases.holdings[stopping[0]].job_id

    def _take(self, request: Request, fit: Fit) -> None:
        self._room.take(fit)
        fleet = self.done.snapshot.fleet
        ranks = placements(fleet, fit)
        self._queues.take(request.project_id, request.queue, fleet.clusters[fit.cluster].name, ranks)

    def _stop_for(self, waiting: Waiting) -> bool:
        """Stop what stands in the way of a job; False when nothing that may be stopped makes room."""
        order, releases = self._candidates(waiting), self.done.releases
        fit = self._place(waiting, order) if order else None
        if fit is None:
            return False
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            better = self._place(waiting, order[:middle])
            low, high, fit = (low, middle, better) if better else (middle, high, fit)
        near = set(releases.on([spot.node for spot in fit.spots]))
        prefix = order[:high]
        if self._place(waiting, [number for number in prefix if number in near]) is not None:
            prefix = [number for number in prefix if number in near]
        victims, fit = self._needed(fit, waiting, prefix)
        losses = {number: lost_device_s(releases.holdings[number], self.done) for number in victims}
        if self._left_s is not None:
            if sum(losses.values()) > self._left_s:
                return False
            self._left_s -= sum(losses.values())
        for number in victims:
            self._stop(waiting.request, releases.holdings[number], losses[number])
        self._room = self._after(self._room, victims)
        self._queues = self._queues.after(releases.holdings[number] for number in victims)
        self._take(waiting.request, fit)
        self._stopping += victims
        self._walls = Walls()
        self.awaited[waiting.request.job_id] = releases.holdings[victims[0]].job_id
        return True

    def _candidates(self, waiting: Waiting) -> list[int]:
        """Return what may be stopped for a job, the cheapest first."""
        rules, now, held = self.done.snapshot.rules, self.done.now, self.done.snapshot.holdings
        if self._costs is None:
            latest = now - timedelta(seconds=rules.min_run_s)
            self._costs = sorted(
                (self._right(holding), lost_device_s(holding, self.done), holding.job_id, number)
                for number, holding in enumerate(held)
                if holding.may_stop and not holding.is_stopping and holding.started_at <= latest
            )
        taken, right = set(self._stopping), self._right(waiting.request)
        if not self._queues.tree:
            return [
                number for lower, *_, number in self._costs
                if lower < right and number not in taken and (lower[0] < right[0] or _saves(held[number]))
            ]  # fmt: skip
        return self._of_less_right(waiting, [number for *_, number in self._costs if number not in taken])

    def _of_less_right(self, waiting: Waiting, costs: Sequence[int]) -> list[int]:
        """Return those that a job may have stopped when queues have guarantees, in the same order.

        A queue gives back no more than it, and those above it that do not hold the job too, hold beyond their
        guarantees, unless for a higher class of equal standing.
        """
        request, shape, held = waiting.request, waiting.shape, self.done.snapshot.holdings
        queues = self._queues.after(())
        mine = queues.tree.queue_of(request.project_id, request.queue)
        claims = queues.has_claim(request.project_id, request.queue, shape.ask, shape.ranks)
        found: list[int] = []
        mine_right = self._right(request)
        for number in costs:
            holding = held[number]
            theirs = self._right(holding)
            is_lower = theirs < mine_right and (theirs[0] < mine_right[0] or _saves(holding))
            if queues.tree.queue_of(holding.project_id, holding.queue) == mine:
                may = is_lower
            else:
                match queues.standing(holding, mine):
                    case Standing.BEYOND:
                        may = claims or is_lower
                    case Standing.WITHIN:
                        may = claims and is_lower
                    case Standing.NOT_COUNTED:
                        may = is_lower
            if may:
                found.append(number)
                queues.release(holding.project_id, holding.queue, holding.cluster, holding.ranks)
        return found

    def _needed(self, fit: Fit, waiting: Waiting, victims: list[int]) -> tuple[list[int], Fit]:
        """Return those of the victims without which there would be no place on the nodes of a fit, and the place.

        The dearest are let off first. Of many, only those are that have nothing of the very devices of the fit.
        """
        kept = list(victims)
        if len(victims) <= _LOOKED_AT_ALONE:
            here = np.zeros(self._room.fleet.node_count, dtype=np.bool_)
            here[[spot.node for spot in fit.spots]] = True
            for number in reversed(victims):
                others = [other for other in kept if other != number]
                better = self._place(waiting, others, here)
                if better is not None:
                    kept, fit = others, better
            return kept, fit
        lack_node, lack_device = self._lacks(fit)
        given = {number: self.done.releases.given(number, lack_node, lack_device) for number in victims}
        for number in reversed(victims):
            others = [other for other in kept if other != number]
            if all(_covers(lack, [given[other][at] for other in others]) for at, lack in enumerate(
                (lack_node, lack_device)
            )) and (not self._queues.tree or self._place(waiting, others, None)):  # fmt: skip
                kept = others
        return kept, fit

    def _lacks(self, fit: Fit) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
        """Return what is missing on each node (cpu_milli, memory, disk) and device (gpu_milli, memory) of a fit."""
        room, ask = self._room, fit.ask
        ranks = Counter(spot.node for spot in fit.spots)
        shares = Counter(device for spot in fit.spots for device in spot.devices)
        nodes = {
            node: tuple(
                amount * count - int(room.node[row, node])
                for row, amount in enumerate((ask.cpu_milli, ask.memory_bytes, ask.disk_bytes))
            ) for node, count in ranks.items()
        }  # fmt: skip
        devices: dict[int, tuple[int, ...]] = {
            device: (
                fit.device_milli * count - int(room.milli[device]), fit.device_bytes * count - int(room.memory[device])
            ) for device, count in shares.items()
        }  # fmt: skip
        return nodes, devices

    def _stop(self, request: Request, holding: Holding, lost_s: float) -> None:
        tree = self._queues.tree
        if RANK[holding.task_class] < RANK[request.task_class]:
            why = StopWhy.PREEMPTED
            told = (
                f"Stopped for {request.job_id}, which is of class {request.task_class} (this is {holding.task_class})"
            )
        elif not tree or tree.queue_of(holding.project_id, holding.queue) == tree.queue_of(
            request.project_id, request.queue
        ):
            why = StopWhy.PREEMPTED
            told = f"Stopped for {request.job_id}, which has had less and is of the same class: they take turns"
        else:
            why = StopWhy.RECLAIMED
            queue = tree.queue_of(request.project_id, request.queue)
            told = f"Stopped for {request.job_id}: queue {queue} takes back what it is guaranteed and had lent"
        sentence = f"{told}; it goes on from its checkpoint when there is room."
        self.stops.append(Stop(holding.job_id, why, request.job_id, lost_s, sentence))

    def _after(self, room: Room, ended: Sequence[int]) -> Room:
        if not ended:
            return room.copy(typical=None)
        releases = self.done.releases
        return releases.after(room, turns(ended, of=releases.count()), len(ended))


def _saves(holding: Holding) -> bool:
    """Say whether a job goes on from a checkpoint: another would begin anew at each turn, and never end."""
    return holding.request is not None and holding.request.may_restart


def _covers(lack: dict[int, tuple[int, ...]], given: list[dict[int, tuple[int, ...]]]) -> bool:
    """Say whether what is given back is at least what is missing, everywhere."""
    for place, missing in lack.items():
        for at, amount in enumerate(missing):
            if sum(one[place][at] for one in given if place in one) < amount:
                return False
    return True
