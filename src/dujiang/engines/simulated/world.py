"""A virtual cluster and all that happens in it, whoever looks: nodes, attempts, faults, and the truth about them.

Nothing runs in the background: every call carries the world over the moments that have passed since the last, in their
order. Its clock is the monotonic one, so that a wall clock that is set wrong does not reach into the cluster; what it
reports is in wall time as of its start. Everything random is drawn from the seed, one stream a concern.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from dujiang.engines.contract import AttemptKey, End, EngineRefused, Launch, NodeFacts, NodeRefused
from dujiang.engines.simulated.attempt import SECOND, Attempt
from dujiang.engines.simulated.faults import Faults
from dujiang.engines.simulated.fleet import FleetSpec
from dujiang.engines.simulated.program import script_of
from dujiang.engines.simulated.truth import Run, Truth
from dujiang.kit.clock import Clock, to_micros
from dujiang.kit.rng import streams

_FIRST_PORT, _LAST_PORT = 20_000, 59_999
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,119}")
_QUIET: Final = Faults()


@dataclass(slots=True)
class Outage:
    """A node that is gone."""

    noticed: bool = False
    absent: bool = False
    """Once noticed, it is missing from the inventory; else it is listed as not ready."""


@dataclass(slots=True)
class _Node:
    facts: NodeFacts
    """As it is when nothing is wrong."""
    devices: frozenset[str]
    cordon: str | None = None
    outage: Outage | None = None
    live: dict[AttemptKey, Attempt] = field(default_factory=dict)
    """What has a rank here and has not ended."""


class World:
    """A virtual cluster. Several engines may stand before one world: replicas, or one after another."""

    def __init__(
        self, spec: FleetSpec, *, seed: int, clock: Clock, speed: float = 1.0, faults: Faults = _QUIET
    ) -> None:
        self.spec, self.seed, self.clock, self.speed = spec, seed, clock, speed
        self.truth = Truth()
        self.changes = 0
        """Grows with everything that an engine can see."""
        self.released = False
        self.rng: Mapping[str, np.random.Generator] = streams(seed, ("edge", "view", "nodes", "kills", "supervisors"))
        self._began = to_micros(clock.now()) - round(clock.monotonic_s() * SECOND)
        self._nodes = {facts.name: _node(facts) for facts in spec.build()}
        self._inventory: Sequence[NodeFacts] | None = None
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._live: dict[AttemptKey, Attempt] = {}
        self._gone: dict[AttemptKey, Attempt] = {}
        self._ports: dict[int, AttemptKey] = {}
        self._next_port = _FIRST_PORT
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._planned = 0
        self._storm = 0
        self.set_faults(faults)

    def close(self) -> None:
        """Let go of whatever holds the world outside of memory."""

    # -- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the world's time in microseconds since 1970."""
        return self._began + round(self.clock.monotonic_s() * SECOND)

    def advance(self) -> int:
        """Let everything happen that was to happen by now; returns the time."""
        now = self.now()
        agenda = self._agenda
        while agenda and agenda[0][0] <= now:
            at, _, happen = heapq.heappop(agenda)
            happen(at)
        return now

    def next_s(self) -> float:
        """Return the seconds until the next thing happens by itself, infinite where nothing will."""
        now = self.advance()
        return (self._agenda[0][0] - now) / SECOND if self._agenda else math.inf

    def _at(self, when: int, happen: Callable[[int], None]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (when, self._planned, happen))

    # -- attempts -----------------------------------------------------------------------------------------------------

    def submit(self, launch: Launch) -> None:
        """Take an attempt, once.

        Raises:
            EngineRefused: it can never run here.
        """
        now = self.advance()
        self._refuse_impossible(launch)
        if (run := self.truth.of(launch.key)) is not None:
            run.deliveries += 1
            if (known := self._attempts.get(launch.key)) is not None:
                self.keep(known)  # the first time may have failed at this
            return
        if self.is_forgotten(launch.key):
            return
        for placed in launch.ranks:
            if (reason := self._nodes[placed.node].cordon) is not None:
                raise NodeRefused(f'Node "{placed.node}" is closed to new work: {reason}.')
        before = self.find(AttemptKey(launch.key.job_id, launch.key.number - 1))
        done = before.epochs_saved() if before is not None else 0
        script = script_of(launch, seed=self.seed, speed=self.speed, done_before=done)
        ports = self._take_ports(launch.key, launch.ports)
        run = Run(launch.key, launch.ranks, deliveries=1)
        starts = now + round(script.start_s * SECOND)
        attempt = Attempt(launch, script, run, self.seed, now, starts, ports, self.released)
        self._admit(attempt)
        for node in {placed.node: self._nodes[placed.node] for placed in launch.ranks}.values():
            if node.outage is not None:
                notice = now if node.outage.noticed else now + self._notice()
                attempt.lose(End.NODE_LOST, notice, now, node=node.facts.name)
        attempt.advance(now)
        self._follow(attempt)
        self.keep(attempt)

    def find(self, key: AttemptKey) -> Attempt | None:
        """Return an attempt, a forgotten one too."""
        return self._attempts.get(key) or self.forgotten(key)

    def attempts(self) -> Iterable[AttemptKey]:
        """Return what is not forgotten, in the order of arrival."""
        self.advance()
        return self._attempts.keys()

    def stop(self, key: AttemptKey, grace_s: float | None) -> None:
        """Begin to stop an attempt; quiet where there is none."""
        now = self.advance()
        if (attempt := self._live.get(key)) is not None:
            grace_s = attempt.launch.grace_s if grace_s is None else grace_s
            attempt.ask_stop(round(max(0.0, grace_s) * SECOND), now)
            self._changed(attempt)

    def signal(self, key: AttemptKey, number: int) -> None:
        """Send a signal to the program of every rank; quiet where there is none."""
        now = self.advance()
        if (attempt := self._live.get(key)) is not None:
            attempt.deliver(number, now)
            self._changed(attempt)

    def forget(self, key: AttemptKey) -> None:
        """Drop an attempt that has ended from what is seen."""
        now = self.advance()
        attempt = self._attempts.get(key)
        if attempt is None or attempt.ended is None:
            return
        attempt.forgotten = now
        del self._attempts[key]
        self.keep_forgotten(attempt)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def inventory(self) -> Sequence[NodeFacts]:
        """Return the nodes as the engine sees them."""
        self.advance()
        if self._inventory is None:
            self._inventory = [facts for node in self._nodes.values() if (facts := _as_seen(node)) is not None]
        return self._inventory

    def cordon(self, name: str, reason: str | None) -> None:
        """Close a node to new attempts, or open it where there is no reason."""
        self.advance()
        self._node(name).cordon = reason
        self._nodes_changed()

    def on_node(self, name: str) -> Sequence[AttemptKey]:
        """Return what has a rank on a node and has not ended."""
        self.advance()
        return list(self._node(name).live)

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def set_faults(self, faults: Faults) -> None:
        """Begin another storm, or end one: nodes that are away still come back."""
        self.faults = faults
        self._storm += 1
        now = self.advance()
        self._brew(faults.node_lost_every_s, "nodes", self._some_node_fails, now)
        self._brew(faults.killed_every_s, "kills", self._some_rank_dies, now)
        self._brew(faults.supervisor_lost_every_s, "supervisors", self._some_supervisor_dies, now)

    def lose_node(self, name: str, *, back_after_s: float | None = None, absent: bool = False) -> None:
        """Have a node fail now; without a time it stays away until `restore_node`."""
        now = self.advance()
        self._lose_node(self._node(name), now, back_after_s, absent)

    def restore_node(self, name: str) -> None:
        """Have a node come back now, empty."""
        now, node = self.advance(), self._node(name)
        if node.outage is not None:
            self._back(node, node.outage, now)

    def kill(self, key: AttemptKey, *, rank: int = 0) -> None:
        """Have the program of a rank die of SIGKILL, sent by nobody known."""
        now = self.advance()
        if (attempt := self._live.get(key)) is not None:
            self._kill(attempt, rank, now)

    def lose_supervisor(self, key: AttemptKey) -> None:
        """Have what watches over an attempt die; the programs go on until the engine notices."""
        now = self.advance()
        if (attempt := self._live.get(key)) is not None:
            self._lose_supervisor(attempt, now)

    def release(self) -> None:
        """Let every program go on, now and later, that runs until it is released."""
        now = self.advance()
        self.released = True
        for attempt in list(self._live.values()):
            attempt.release(now)
            self._changed(attempt)
        self.keep_world()

    # -- how it is kept: in memory, unless a subclass says otherwise --------------------------------------------------

    def adopt(self, attempt: Attempt) -> None:
        """Take up an attempt that was kept; what has happened to it meanwhile happens at the next look."""
        self._admit(attempt)
        self._follow(attempt)

    def keep(self, attempt: Attempt) -> None:
        """Keep an attempt after something was done to it from outside; what follows from time alone is not told."""

    def keep_world(self) -> None:
        """Keep what is not of one attempt: cordons, outages, the release."""

    def keep_forgotten(self, attempt: Attempt) -> None:
        """Keep an attempt that is forgotten, for its output."""
        self._gone[attempt.key] = attempt

    def forgotten(self, key: AttemptKey) -> Attempt | None:
        """Return an attempt that was forgotten."""
        return self._gone.get(key)

    def is_forgotten(self, key: AttemptKey) -> bool:
        """Say whether an attempt was forgotten: it never starts again."""
        return key in self._gone

    # -- inside -------------------------------------------------------------------------------------------------------

    def _admit(self, attempt: Attempt) -> None:
        self.truth.add(attempt.run)
        self._attempts[attempt.key] = self._live[attempt.key] = attempt
        for placed in attempt.launch.ranks:
            self._nodes[placed.node].live[attempt.key] = attempt
        for port in attempt.ports:
            self._ports[port] = attempt.key

    def _changed(self, attempt: Attempt) -> None:
        """Take note of what was done to an attempt from outside."""
        self._follow(attempt)
        self.keep(attempt)

    def _follow(self, attempt: Attempt) -> None:
        """Put the next moment of an attempt on the agenda, or clear up after its end."""
        self.changes += 1
        if attempt.ended is not None:
            self._live.pop(attempt.key, None)
            for placed in attempt.launch.ranks:
                self._nodes[placed.node].live.pop(attempt.key, None)
            for port in attempt.ports:
                self._ports.pop(port, None)
            return
        when = attempt.next_at()
        if when is None or when == attempt.wake:
            attempt.wake = when
            return
        attempt.wake = when

        def wakes(at: int) -> None:
            if attempt.wake == at and attempt.ended is None:
                attempt.wake = None
                attempt.advance(at)
                self._follow(attempt)

        self._at(when, wakes)

    def _refuse_impossible(self, launch: Launch) -> None:
        if not _JOB_ID.fullmatch(launch.key.job_id) or launch.key.number < 1:
            raise EngineRefused(f'"{launch.key}" cannot name an attempt: letters, digits, - and _, a number from 1.')
        if not launch.ranks or [placed.rank for placed in launch.ranks] != list(range(len(launch.ranks))):
            raise EngineRefused("The ranks must be numbered from 0 without a gap.")
        for placed in launch.ranks:
            node = self._node(placed.node)
            for share in placed.devices:
                if share.name not in node.devices:
                    raise NodeRefused(f'Node "{placed.node}" has no device "{share.name}".')

    def _take_ports(self, key: AttemptKey, count: int) -> tuple[int, ...]:
        if count > _LAST_PORT - _FIRST_PORT + 1 - len(self._ports):
            raise NodeRefused(f"There are no {count} free ports any more: stop some services first.")
        taken: list[int] = []
        while len(taken) < count:
            if self._next_port not in self._ports:
                taken.append(self._next_port)
            self._next_port = self._next_port + 1 if self._next_port < _LAST_PORT else _FIRST_PORT
        return tuple(taken)

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            raise NodeRefused(f'There is no node "{name}" in this simulated cluster.')
        return node

    def _nodes_changed(self) -> None:
        self._inventory = None
        self.changes += 1
        self.keep_world()

    def _notice(self) -> int:
        return round(self.faults.notice_s * SECOND)

    def _back(self, node: _Node, outage: Outage, at: int) -> None:
        if node.outage is not outage:
            return
        node.outage = None
        for attempt in list(node.live.values()):  # an engine whose node reports anew knows that what ran there is gone
            attempt.notice_by(at, at)
            self._changed(attempt)
        self._nodes_changed()

    def _lose_node(self, node: _Node, at: int, back_after_s: float | None, absent: bool) -> None:
        if node.outage is not None:
            return
        outage = node.outage = Outage(absent=absent)
        notice = at + self._notice()
        for attempt in list(node.live.values()):
            attempt.lose(End.NODE_LOST, notice, at, node=node.facts.name)
            self._changed(attempt)

        def notices(_: int) -> None:
            outage.noticed = True
            if node.outage is outage:
                self._nodes_changed()

        self._at(notice, notices)
        if back_after_s is not None:
            self._at(at + round(back_after_s * SECOND), lambda back_at: self._back(node, outage, back_at))

    def _kill(self, attempt: Attempt, rank: int, at: int) -> None:
        attempt.kill(rank, at)
        self._changed(attempt)

    def _lose_supervisor(self, attempt: Attempt, at: int) -> None:
        attempt.lose(End.LOST, at + self._notice(), at)
        self._changed(attempt)

    def _brew(self, mean_s: float, stream: str, strike: Callable[[int], None], now: int) -> None:
        """Plan the next of a kind of fault, and after it the one after."""
        if mean_s == math.inf:
            return
        storm = self._storm

        def strikes(at: int) -> None:
            if storm == self._storm:
                strike(at)
                self._brew(mean_s, stream, strike, at)

        self._at(now + max(1, round(self.rng[stream].exponential(mean_s) * SECOND)), strikes)

    def _some_node_fails(self, at: int) -> None:
        rng = self.rng["nodes"]
        which, away_s, absent = rng.random(), rng.exponential(self.faults.node_away_s), rng.random() < 0.5
        up = [node for node in self._nodes.values() if node.outage is None]
        if up:
            self._lose_node(up[int(which * len(up))], at, away_s, bool(absent))

    def _some_rank_dies(self, at: int) -> None:
        which, rank = self.rng["kills"].random(2)
        if (attempt := self._some_running(which)) is not None:
            self._kill(attempt, int(rank * len(attempt.ranks)), at)

    def _some_supervisor_dies(self, at: int) -> None:
        if (attempt := self._some_running(self.rng["supervisors"].random())) is not None:
            self._lose_supervisor(attempt, at)

    def _some_running(self, which: float) -> Attempt | None:
        running = [attempt for attempt in self._live.values() if attempt.ranks and attempt.lost is None]
        return running[int(which * len(running))] if running else None


def _node(facts: NodeFacts) -> _Node:
    return _Node(facts, frozenset(device.name for device in facts.devices))


def _as_seen(node: _Node) -> NodeFacts | None:
    facts, outage = node.facts, node.outage
    if node.cordon is not None:
        facts = replace(facts, cordoned=True, reason=node.cordon)
    if outage is None or not outage.noticed:
        return facts
    return None if outage.absent else replace(facts, ready=False, reason="the simulated node does not answer")
