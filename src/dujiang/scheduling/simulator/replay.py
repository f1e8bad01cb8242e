"""Work over virtual time under the live `plan`: the very function that starts and stops jobs on the platform.

It is asked at each moment at which something changes: work arrives, ends, has given back what it was told to give back,
a node fails or is back, a window begins or ends. What it says is done: starts take their places, what is stopped goes
on until its grace is over, loses what it did since its last save, and waits again with its old place in the queue; the
job that it was stopped for stands first in its class until it starts. A job on a node that fails waits again at once.

Nothing here is random: the same work under the same terms gives the same past.

Arrivals that cannot start are not planned for, where that provably changes nothing (`_Replay.may_pass`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Final

from dujiang.kit.errors import Invalid
from dujiang.scheduling.domain.decide import Start
from dujiang.scheduling.domain.forecast import begun
from dujiang.scheduling.domain.fragments import Typical, counted
from dujiang.scheduling.domain.plan import Plan, plan
from dujiang.scheduling.domain.request import WHOLE, Request
from dujiang.scheduling.domain.rules import Rules
from dujiang.scheduling.domain.snapshot import Holding, Snapshot
from dujiang.scheduling.domain.turns import waited_s, width
from dujiang.scheduling.simulator.replay_ground import Ground
from dujiang.scheduling.simulator.replay_work import Fate, Past, Span, Terms, Work

Planner = Callable[[Snapshot, datetime], Plan]

_END, _GONE, _UP, _DOWN, _ARRIVE, _LOOK = range(6)
"""Of one moment, in this order: what gives something back comes first."""
_TELL_EVERY: Final = 200
_HOUR_S: Final = 3600.0
_SAMPLES: Final = 300
"""Moments at which fragments are counted, spread over the arrivals and known ends."""
_TURN_EVERY_S: Final = 60.0
"""Changes of level are looked at in steps of that."""
_MOST_STALLED: Final = 1000
"""Plans of one moment that all changed something: beyond that a planner goes in a circle."""


class Repeated(Invalid):
    """One job twice in the work of a replay."""

    code, title = "job_repeated", "A job is there twice"


def replay(
    snapshot: Snapshot, works: Sequence[Work], terms: Terms, origin: datetime, *,
    tell: Callable[[int], None] = lambda ended: None, planner: Planner | None = None,
) -> Past:  # fmt: skip
    """Run work to its end, or to the end of the terms.

    Args:
        snapshot: fleet, quotas, queues, windows, shares and rules; what it says to be held or to wait is not looked at.
        works: what runs already at the beginning, and what arrives.
        terms: what is taken for granted.
        origin: the time that second 0 stands for.
        tell: hears now and then how many jobs have ended.
        planner: in place of the live one.

    Cost: about one plan for each moment, and memory for what happened.

    Raises:
        Repeated: a job is there twice.
    """
    return _Replay(snapshot, works, terms, origin, tell, planner or _live).to_end()


def _live(snapshot: Snapshot, now: datetime) -> Plan:
    return plan(snapshot, now, telling=False)


class _Replay:
    def __init__(
        self, snapshot: Snapshot, works: Sequence[Work], terms: Terms, origin: datetime, tell: Callable[[int], None],
        planner: Planner,
    ) -> None:  # fmt: skip
        self.base, self.works, self.terms, self.origin = snapshot, works, terms, origin
        self.tell, self.planner = tell, planner
        self.number = {work.request.job_id: number for number, work in enumerate(works)}
        if len(self.number) < len(works):
            twice = next(w.request.job_id for at, w in enumerate(works) if self.number[w.request.job_id] != at)
            raise Repeated(f"Job {twice} is there twice. Give each job once.", job=twice)
        self.ground = Ground(snapshot.fleet)
        self.past = Past([Fate() for _ in works])
        self.left_s = [work.runs_s for work in works]
        self.had_device_s = [work.request.had_device_s for work in works]
        self.turn = [0] * len(works)
        """How often each job has stopped: what was planned for it before that does not come."""
        self.requests: dict[int, Request] = {}
        self.since_s: dict[int, float] = {}
        """Since when each waits."""
        self.holdings: dict[int, Holding] = {}
        self.asked_s: dict[int, float] = {}
        """When what is stopping was told to."""
        self.events: list[tuple[float, int, int, int]] = []
        self.recent: deque[tuple[float, float]] = deque()
        """What stops have cost in the last hour: when, and device-seconds."""
        self.fresh: list[int] = []
        """What has arrived since the last plan."""
        self.is_changed = True
        """Something else has happened since the last plan, or it did something."""
        self.is_plain, self.may_preempt = _is_plain(snapshot, works), _may_preempt(snapshot, works)
        self.may_grow = snapshot.rules.grows and any(work.request.ranks_min is not None for work in works)
        self.rules = replace(snapshot.rules, preempts=self.may_preempt, grows=self.may_grow, burst=None)
        """Those of the snapshot, without looking for what there cannot be (stops where all work has one right), and
        without renting: what is left of a day's budget is not known here."""
        self.used_milli = self.now_s = 0.0
        self.ended, self.next_sample_s, self.sample_s = 0, 0.0, 0.0
        self.begin()

    # -- time ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let run what runs already, and note what is known to come."""
        first_s = min((work.at_s for work in self.works), default=0.0)
        self.now_s = self.past.begin_s = first_s
        for number, work in enumerate(self.works):
            if work.held is None:
                heappush(self.events, (max(work.at_s, first_s), _ARRIVE, number, 0))
                continue
            self._hold(number, work.held)
            self.past.fates[number].start_s = first_s
            if work.held.is_stopping:
                self.asked_s[number] = first_s
                gone_s = first_s + self.terms.grace_s
                if work.held.ends_at is not None:
                    gone_s = max(first_s, min(gone_s, (work.held.ends_at - self.origin).total_seconds()))
                heappush(self.events, (gone_s, _GONE, number, 0))
            heappush(self.events, (first_s + work.runs_s, _END, number, 0))
        for number, fault in enumerate(self.terms.faults):
            if fault.node < self.base.fleet.node_count:
                heappush(self.events, (float(fault.start_s), _DOWN, number, 0))
        for window in self.base.windows:
            for at in (window.begins_at, window.ends_at):
                self._look_at((at - self.origin).total_seconds())
        known = [at for at, what, *_ in self.events if what in (_END, _ARRIVE)]
        self.sample_s = (max(known, default=first_s) - first_s) / _SAMPLES

    def to_end(self) -> Past:
        """Go from moment to moment until everything has ended, or nothing more will happen, or time is up."""
        until_s = self.terms.until_s
        while self.ended < len(self.works) and self.events:
            at = self.events[0][0]
            if until_s is not None and at > until_s:
                break
            self.pass_time(at)
            while self.events and self.events[0][0] == at:
                _, what, which, turn = heappop(self.events)
                self.happen(what, which, turn)
            self.decide()
        if until_s is not None and self.ended < len(self.works):
            self.pass_time(until_s)
        return self.finish()

    def pass_time(self, at_s: float) -> None:
        """Count what was held and what was there since the last moment."""
        if at_s <= self.now_s:
            return
        span, past = at_s - self.now_s, self.past
        past.busy_s += span * self.used_milli / WHOLE
        past.up_s += span * self.ground.open_devices
        past.use.append((self.now_s, self.used_milli / WHOLE, self.ground.open_devices, len(self.requests)))
        if self.now_s >= self.next_sample_s:
            past.fragments.append((self.now_s, self._fragments()))
            self.next_sample_s = self.now_s + self.sample_s
        self.now_s = at_s

    def finish(self) -> Past:
        """Count what still waits or runs."""
        past = self.past
        for number, since_s in self.since_s.items():
            past.fates[number].waited_s += self.now_s - since_s
        for number, holding in self.holdings.items():
            self._span(number, holding)
        past.use.append((self.now_s, self.used_milli / WHOLE, self.ground.open_devices, len(self.requests)))
        past.end_s = self.now_s
        self.tell(self.ended)
        return past

    @property
    def now(self) -> datetime:
        return self.origin + timedelta(seconds=self.now_s)

    # -- what happens ----------------------------------------------------------------------------------------------

    def happen(self, what: int, which: int, turn: int) -> None:
        """Do one event."""
        if what in (_END, _GONE) and turn != self.turn[which]:
            return
        if what == _ARRIVE:
            self._wait(which, self._request(which))
            self.fresh.append(which)
            return
        self.is_changed = True
        if what == _END:
            self._give_back(which)
            self.past.fates[which].end_s = self.now_s
            self.ended += 1
            if not self.ended % _TELL_EVERY:
                self.tell(self.ended)
        elif what == _GONE:
            self._interrupt(which)
            self.past.fates[which].stops += 1
        elif what == _DOWN:
            self._fail(which)
        elif what == _UP:
            self.ground.open_node(self.terms.faults[which].node)

    def _fail(self, which: int) -> None:
        """Take a node away, and what runs there off it."""
        fault, fleet = self.terms.faults[which], self.base.fleet
        cluster, name = fleet.clusters[fleet.node_cluster[fault.node]].name, fleet.node_names[fault.node]
        hit = [
            number for number, held in self.holdings.items()
            if held.cluster == cluster and any(rank.node == name for rank in held.ranks)
        ]  # fmt: skip
        for number in sorted(hit):
            self._interrupt(number)
            self.past.fates[number].losses += 1
        self.past.faults += 1
        self.ground.close_node(fault.node)
        heappush(self.events, (float(fault.end_s), _UP, which, 0))

    def _interrupt(self, number: int) -> None:
        """Let a job wait again with what it had saved."""
        holding, is_first = self._give_back(number), self.turn[number] == 1
        begun_s, speed = self._begun_s(holding), self._speed(number, holding)
        is_asked, worked_s = number in self.asked_s, self.asked_s.pop(number, self.now_s) - begun_s
        kept_s = worked_s if is_asked and self.terms.saves_at_stop else _kept_s(worked_s, self.terms.checkpoint_s)
        before_s = self.works[number].unsaved_s if is_first and not kept_s else 0.0
        self.left_s[number] += self.terms.restart_s + before_s - kept_s * speed
        lost_s = self.now_s - begun_s - kept_s + before_s + self.terms.restart_s
        self.past.lost_s += lost_s * holding.total()[0] / WHOLE
        self._wait(number, self._request(number))

    # -- decide ----------------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Ask the planner, and do what it says."""
        if not self.requests and not self.may_grow:
            self.fresh.clear()
            self.is_changed = True
            return
        if self.terms.passes and self.may_pass():
            self.past.passed += 1
            self.fresh.clear()
            return
        for _ in range(_MOST_STALLED):
            done = self.planner(self._snapshot(), self.now)
            self.past.plans += 1
            for start in done.starts:
                self._start(self.number[start.job_id], start)
            for stop in done.stops:
                self._stop(self.number[stop.job_id], stop.for_job, stop.lost_device_s)
            if not done.stops:
                break  # a plan leaves nothing to start; what it stops may let it stop more for others
        self.fresh.clear()
        self.is_changed = False

    def may_pass(self) -> bool:
        """Say whether a plan would provably do nothing: no job could start, and none is ever stopped for another.

        None of them has as many whole free devices on nodes as its ranks need, whatever is reserved. Where only new
        jobs came since the last plan, after which nothing could start, those alone are looked at: each stands behind
        all that waits, so none of these is judged otherwise than then (time makes gaps only shorter).
        """
        if not self.is_plain:
            return False
        looked_at = self.requests if self.is_changed else self.fresh
        sizes = {(one.ask, one.ranks): one for one in map(self.requests.__getitem__, looked_at)}
        return not any(self.ground.has_whole(one) for one in sizes.values())

    def _start(self, number: int, start: Start) -> None:
        work = self.works[number]
        held = replace(
            begun(self.requests.pop(number), start, self.now), may_stop=work.may_stop,
            request=work.request if work.may_stop else None,
        )  # fmt: skip
        fate = self.past.fates[number]
        fate.waited_s += self.now_s - self.since_s.pop(number)
        if fate.start_s is None:
            fate.start_s = self.now_s
        self._hold(number, held)
        run_s = self.left_s[number] / self._speed(number, held)
        heappush(self.events, (self.now_s + run_s, _END, number, self.turn[number]))
        rules = self.rules
        if self.may_preempt:
            self._look_at(self.now_s + rules.min_run_s)
        self._look_at_levels(number, 1.0)
        if work.request.ranks_min is not None and rules.grows:
            self._look_at(self.now_s + max(rules.min_run_s, rules.regrow_s))

    def _stop(self, number: int, for_job: str, lost_s: float) -> None:
        held, gone = self.holdings[number], self.now + timedelta(seconds=self.terms.grace_s)
        ends = gone if held.ends_at is None else min(gone, held.ends_at)
        self.holdings[number] = replace(held, is_stopping=True, ends_at=ends)
        self.asked_s[number] = self.now_s
        self.recent.append((self.now_s, lost_s))
        heappush(self.events, (self.now_s + self.terms.grace_s, _GONE, number, self.turn[number]))
        other = self.number.get(for_job)
        if other in self.requests:
            self.requests[other] = replace(self.requests[other], is_promised=True)

    def _snapshot(self) -> Snapshot:
        if self.may_preempt:
            self._note_saves()
        node, milli, memory = self.ground.free()
        return replace(
            self.base, fleet=self.ground.fleet, node_free=node, device_milli=milli, device_memory=memory,
            holdings=tuple(self.holdings.values()), requests=tuple(self.requests.values()), rules=self._rules(),
        )  # fmt: skip

    def _rules(self) -> Rules:
        rules = self.rules
        if rules.most_lost_device_s is None:
            return rules
        while self.recent and self.recent[0][0] <= self.now_s - _HOUR_S:
            self.recent.popleft()
        return replace(rules, lost_device_s=sum(lost_s for _, lost_s in self.recent))

    def _note_saves(self) -> None:
        """Tell the planner when each job last saved itself, which decides what its stop would cost."""
        for number, held in self.holdings.items():
            begun_s = self._begun_s(held)
            kept_s = _kept_s(self.now_s - begun_s, self.terms.checkpoint_s)
            saved = self.origin + timedelta(seconds=begun_s + kept_s) if kept_s else held.saved_at
            if saved != held.saved_at:
                self.holdings[number] = replace(held, saved_at=saved)

    # -- what is held and what waits -------------------------------------------------------------------------------

    def _request(self, number: int) -> Request:
        """Return a job as it waits with what is left of it."""
        work, left_s = self.works[number], self.left_s[number]
        request = work.request
        if self.rules.turns is not None:
            request = replace(request, had_device_s=self.had_device_s[number])
        if self.terms.knows_run_times:
            return replace(request, runs_at_most_s=left_s)
        if request.expected_s is not None and left_s < work.runs_s:
            return replace(request, expected_s=max(1.0, request.expected_s - (work.runs_s - left_s)))
        return request

    def _wait(self, number: int, request: Request) -> None:
        self.requests[number] = request
        self.since_s[number] = self.now_s
        for at in (request.not_before, request.moves_up_at):
            if at is not None:
                self._look_at((at - self.origin).total_seconds())
        if self.rules.turns is not None:
            self._look_at_levels(number, -1.0 / self.rules.turns.patience)

    def _hold(self, number: int, held: Holding) -> None:
        self.holdings[number] = held
        self.ground.take(held)
        self.used_milli += held.total()[0]

    def _give_back(self, number: int) -> Holding:
        held = self.holdings.pop(number)
        self._span(number, held)
        self.turn[number] += 1
        self.ground.give(held)
        gpu, cpu, _ = held.total()
        self.used_milli -= gpu
        self.had_device_s[number] += (self.now_s - self._begun_s(held)) * width(gpu, cpu)
        return held

    def _span(self, number: int, held: Holding) -> None:
        begun_s = self._begun_s(held)
        if self.terms.keeps_spans and self.now_s > begun_s:
            self.past.spans.append(Span(number, begun_s, self.now_s, held))

    def _begun_s(self, held: Holding) -> float:
        return max((held.started_at - self.origin).total_seconds(), self.past.begin_s)

    def _speed(self, number: int, held: Holding) -> float:
        """Return how fast an elastic job is: with half of its ranks, half as fast."""
        request = self.works[number].request
        return 1.0 if request.ranks_min is None else len(held.ranks) / request.ranks

    def _look_at(self, at_s: float) -> None:
        if at_s > self.now_s:
            heappush(self.events, (at_s, _LOOK, 0, 0))

    def _look_at_levels(self, number: int, rate: float) -> None:
        """Look again whenever the level of a job changes, as long as its service rises or falls by that much."""
        turns, request = self.rules.turns, self.works[number].request
        if turns is None:
            return
        gpu, cpu, _ = request.total()
        wide, age_s = width(gpu, cpu), self.now_s - self.works[number].at_s
        service = turns.service(self.had_device_s[number], wide, age_s, request.expected_s)
        if not wide:
            return
        if rate < 0:
            self._look_at(self.now_s + turns.most_wait_s - waited_s(self.had_device_s[number], wide, age_s))
        for edge in turns.edges():
            after_s = (edge - service) / (wide * rate)
            if after_s > 0 and (rate < 0 or after_s < self.left_s[number]):
                self._look_at(math.ceil((self.now_s + after_s) / _TURN_EVERY_S) * _TURN_EVERY_S)

    def _fragments(self) -> float:
        """Return how many free devices the next job, drawn from those known, is expected not to be able to use."""
        typical = Typical(counted(self.requests.values(), self.holdings.values()))
        return self.ground.lost(typical) if typical else 0.0


def _kept_s(worked_s: float, checkpoint_s: float) -> float:
    """Return how much of what was worked is saved: all that was done until the last whole period."""
    return worked_s - worked_s % checkpoint_s if checkpoint_s else 0.0


def _may_preempt(snapshot: Snapshot, works: Sequence[Work]) -> bool:
    """Say whether anything could ever be stopped for something else."""
    rules = snapshot.rules
    return rules.preempts and bool(snapshot.queues or rules.turns or len({w.request.task_class for w in works}) > 1)


def _is_plain(snapshot: Snapshot, works: Sequence[Work]) -> bool:
    """Say whether the queue is ordered by arrival alone, and only room decides."""
    if snapshot.queues or snapshot.shares or snapshot.quotas or snapshot.windows or _may_preempt(snapshot, works):
        return False
    last = None
    for work in works:
        one = work.request
        key = (work.at_s, one.submitted_at, one.job_id)
        if work.held is not None or one.deadline or one.not_before or one.alternatives or one.ranks_min is not None:
            return False
        if one.is_promised or one.weight != works[0].request.weight or (last is not None and key <= last):
            return False
        last = key
    return True
