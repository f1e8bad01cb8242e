"""Which running work to move now, and which of it by itself: what a site lets, on top of what `defragment` finds. Pure.

Moved is what saved itself a moment ago, so that little is lost, and what would go on. By itself only a job of one
rank is moved, while somebody waits for whole devices and one more becomes free by it, within the budget of the hour,
while nothing else is being stopped, and when the very next plan would start it elsewhere. It is stopped and waits
again: where it goes then is that plan's choice, not the proposal's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dujiang.engines.contract import RankPlacement
from dujiang.scheduling.domain.decide import Round, Start
from dujiang.scheduling.domain.defragment import Move, propose_moves
from dujiang.scheduling.domain.plan import plan
from dujiang.scheduling.domain.preempt import lost_device_s
from dujiang.scheduling.domain.reasons import Reason
from dujiang.scheduling.domain.request import WHOLE
from dujiang.scheduling.domain.reserve import turns
from dujiang.scheduling.domain.room import Room
from dujiang.scheduling.domain.snapshot import Holding, Snapshot
from dujiang.scheduling.domain.stops import Stop, StopWhy

_WAITS: Final = (Reason.RESOURCES, Reason.RESERVED)


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """What a site lets be moved."""

    acts: bool
    """False: it is only told."""
    fresh_s: float
    """How long ago work may have saved itself."""
    most: int
    """Moves of one look."""
    most_hourly: int
    moved_this_hour: int = 0


@dataclass(frozen=True, slots=True)
class Advised:
    """A move, and why it is not made by itself; empty when it is."""

    move: Move
    why_not: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What one look has found."""

    waiting: int
    """Jobs that wait for whole devices."""
    movable: int
    """Jobs that could be moved."""
    moves: tuple[Advised, ...]
    stops: tuple[Stop, ...]
    """What to stop so that it moves."""


def advise(snapshot: Snapshot, now: datetime, policy: MovePolicy) -> Advice:
    """Say which work to move now."""
    done = Round(snapshot, now)
    done.run()
    waiting = sum(1 for one in done.waiting if one.reason in _WAITS and one.shape.ask.whole_devices)
    movable = {h.job_id: lost_device_s(h, done) for h in snapshot.holdings if _may_move(h, done, policy)}
    moves = propose_moves(snapshot, movable, most=policy.most)
    held = {holding.job_id: number for number, holding in enumerate(snapshot.holdings)}
    advised: list[Advised] = []
    stops: dict[int, Stop] = {}
    for move in moves:
        number = held[move.job_id]
        why_not = _why_not(move, snapshot.holdings[number], waiting, policy, done, list(stops.values()))
        why_not = why_not or _stays(done, [*stops, number])
        if not why_not and number not in stops:
            stops[number] = _stop(move)
        advised.append(Advised(move, why_not))
    return Advice(waiting, len(movable), tuple(advised), tuple(stops.values()))


def _may_move(holding: Holding, done: Round, policy: MovePolicy) -> bool:
    """Say whether a job could go on elsewhere and lose next to nothing."""
    if not holding.may_stop or holding.is_stopping or holding.request is None or holding.saved_at is None:
        return False
    is_settled = (done.now - holding.started_at).total_seconds() >= done.snapshot.rules.min_run_s
    return is_settled and done.now - holding.saved_at <= timedelta(seconds=policy.fresh_s)


def _why_not(
    move: Move, holding: Holding, waiting: int, policy: MovePolicy, done: Round, stops: Sequence[Stop]
) -> str:  # fmt: skip
    rules = done.snapshot.rules
    if not policy.acts:
        return "Moves are only advised here (scheduling.defragment)."
    if not waiting:
        return "Nobody waits for whole devices."
    if any(held.is_stopping for held in done.snapshot.holdings):
        return "Other work is being stopped; when that is over the next look decides anew."
    if move.whole_devices < 1:
        return "It makes no device wholly free, and those who wait ask for whole ones."
    if len(holding.ranks) > 1:
        return f"All its {len(holding.ranks)} ranks would be stopped for it."
    if policy.moved_this_hour + len(stops) >= policy.most_hourly:
        return "As many jobs as may be (scheduling.most_moves_hourly) have been moved within the hour."
    spent_s = rules.lost_device_s + sum(stop.lost_device_s for stop in stops)
    if rules.most_lost_device_s is not None and spent_s + move.cost_device_s > rules.most_lost_device_s:
        return "Stops have cost as much within the hour as they may (scheduling.most_lost_device_s)."
    return ""


def _stays(done: Round, ended: Sequence[int]) -> str:
    """Say what keeps jobs from starting where it helps once all of these wait again; empty when nothing does.

    It helps when somebody starts who would not, or when for each of them one more device is wholly free.
    """
    snapshot = done.snapshot
    room = done.releases.after(done.before, turns(ended, of=done.releases.count()), len(ended))
    moved = [snapshot.holdings[number] for number in ended]
    gone = set(ended)
    then = replace(
        snapshot, node_free=room.node, device_milli=room.milli, device_memory=room.memory,
        holdings=tuple(held for number, held in enumerate(snapshot.holdings) if number not in gone),
        requests=(*snapshot.requests, *(held.request for held in moved if held.request is not None)),
        rules=replace(snapshot.rules, preempts=False, grows=False, burst=None),
    )  # fmt: skip
    starts = {start.job_id: start for start in plan(then, done.now, telling=False).starts}
    for held in moved:
        start = starts.get(held.job_id)
        if start is None:
            return "It would not start again at once: who waits before it would take its place and the other."
        if (start.cluster, start.ranks[0].node) == (held.cluster, held.ranks[0].node):
            return "The next plan would start it in the same place again."
        if _gpu_milli(start.ranks) != _gpu_milli(held.ranks):
            return "The next plan would start it with another of its alternatives."
    helped = starts.keys() - {held.job_id for held in moved} - {start.job_id for start in done.starts}
    if not helped and _whole(done, room, starts.values()) < _whole(done, done.room, ()) + len(moved):
        return "The next plan would start it where no device becomes wholly free by it."
    return ""


def _whole(done: Round, room: Room, starts: Iterable[Start]) -> int:
    """Return how many open devices nobody has a part of, once these have started."""
    fleet = done.snapshot.fleet
    is_whole = fleet.device_open & (room.milli >= WHOLE) & (room.memory >= fleet.device_memory)
    for start in starts:
        for rank in start.ranks:
            node = fleet.node_at[start.cluster, rank.node]
            is_whole[[fleet.device_at[node, share.name] for share in rank.devices]] = False
    return int(is_whole.sum())


def _gpu_milli(ranks: Sequence[RankPlacement]) -> int:
    return sum(share.gpu_milli for rank in ranks for share in rank.devices)


def _stop(move: Move) -> Stop:
    devices = f"{move.whole_devices} more device{'' if move.whole_devices == 1 else 's'}"
    sentence = (
        f"Stopped to go on elsewhere, such as {move.target.node}: that makes {devices} wholly free, for which others "
        "wait; it goes on from its checkpoint."
    )
    return Stop(move.job_id, StopWhy.MOVED, lost_device_s=move.cost_device_s, sentence=sentence)
