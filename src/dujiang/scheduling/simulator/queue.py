"""Gang jobs over a cluster in virtual time, event by event: what each policy makes of waiting, and of failed nodes.

The cluster is a pool: a gang takes devices wherever they are free, as the published figures have it. A job runs for its
duration in all; each interruption adds `restart_s`, and a failed node also what was done since the last checkpoint.
Waiting is everything between submission and end that is not the duration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from dujiang.kit.errors import Invalid
from dujiang.scheduling.simulator.faults import Fault
from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue_policies import MAX_WAIT_S, Watch, kind_of
from dujiang.scheduling.simulator.queue_policies.contract import NEVER, QueuePolicy

_END, _DOWN, _UP = 0, 1, 2
_TELL_EVERY: Final = 500


class TooLarge(Invalid):
    """A gang that no cluster of this size can ever hold."""

    code, title = "gang_too_large", "A job asks for more devices than there are"


@dataclass(frozen=True, slots=True)
class Rules:
    """How the cluster treats jobs, whatever the policy."""

    nodes: int
    gpus_per_node: int = 8
    max_wait_s: int = MAX_WAIT_S
    """Bound on waiting of the policies that have one; 0: none."""
    restart_s: int = 0
    """Work that each interruption adds."""
    checkpoint_s: int = 3600
    """Work between two checkpoints: at most this is lost with a node."""
    faults: tuple[Fault, ...] = ()
    """On the clock of the trace."""


@dataclass(slots=True)
class Outcome:
    """What became of each job, in the order in which they were given."""

    start_s: list[int]
    """When it first ran."""
    end_s: list[int]
    stops: list[int]
    """How often a policy stopped it."""
    losses: list[int]
    """How often a node was lost under it."""
    lost_s: int = 0
    """Device-seconds of work that was done twice."""
    busy_s: int = 0
    """Device-seconds in which devices were held."""
    up_s: int = 0
    """Device-seconds in which devices were there, from the first submission to the last end."""
    faults: int = 0
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    """Job, start, end of each stretch in which one ran; only where asked for."""
    fragments: list[tuple[float, float]] = field(default_factory=list)
    """When, and how many free devices the next job could not use; only of the live plan, whose devices have places."""
    plans: int = 0
    """How often the live plan was asked."""


def simulate(
    jobs: Sequence[TraceJob], policy: str, rules: Rules, *,
    tell: Callable[[int], None] = lambda ended: None, keep_spans: bool = False,
) -> Outcome:  # fmt: skip
    """Run a trace to its end under a policy.

    Args:
        jobs: in order of submission, as `read_jobs` gives them.
        policy: a name of `POLICIES`.
        tell: hears now and then how many jobs have ended.
        keep_spans: keep every stretch in which a job ran, for pictures.

    Raises:
        TooLarge: a gang is larger than the cluster.
        UnknownPolicy: there is no such policy.
    """
    kind = kind_of(policy)
    most = rules.nodes * rules.gpus_per_node
    for job in jobs:
        if job.num_gpus > most:
            raise TooLarge(f"Job {job.job} asks for {job.num_gpus} devices at once, and {rules.nodes} nodes of "
                           f"{rules.gpus_per_node} have {most}. Give more nodes.", job=job.job)  # fmt: skip
    return _Run(jobs, rules, kind.make, tell, keep_spans).to_end()


def groups_of(job: TraceJob) -> tuple[tuple[str, ...], ...]:
    """Return the names under which run times of such jobs are remembered, the narrowest first."""
    size = f"{(job.num_gpus - 1).bit_length()}"
    narrow = [
        (job.vc, job.user, job.name, size),
        (job.vc, job.user, "", size),
        (job.vc, "", "", size),
        ("", "", "", size),
    ]
    return tuple(dict.fromkeys(narrow))


class _Run:
    def __init__(
        self, jobs: Sequence[TraceJob], rules: Rules, make: Callable[[Watch, int], QueuePolicy],
        tell: Callable[[int], None], keep_spans: bool,
    ) -> None:  # fmt: skip
        count = len(jobs)
        self.rules, self.tell, self.keep_spans, self.count = rules, tell, keep_spans, count
        total = rules.nodes * rules.gpus_per_node
        known = {groups: groups for groups in map(groups_of, jobs)}
        self.watch = Watch(
            size=[job.num_gpus for job in jobs], submit_s=[job.submit_s for job in jobs],
            groups=[known[groups_of(job)] for job in jobs], duration_s=[job.duration_s for job in jobs],
            served_s=[0] * count, since_s=[0] * count, running=[False] * count,
            left_s=[job.duration_s for job in jobs], capacity=total, free=total, restart_s=rules.restart_s,
        )  # fmt: skip
        self.policy = make(self.watch, rules.max_wait_s)
        self.events: list[tuple[int, int, int, int]] = []
        self.turn = [0] * count
        """How often each job has stopped: an end planned before that does not come."""
        self.out = Outcome([-1] * count, [-1] * count, [0] * count, [0] * count)
        self.places = _Places(rules.nodes, rules.gpus_per_node) if rules.faults else None
        for number, fault in enumerate(rules.faults):
            if fault.node < rules.nodes:
                heappush(self.events, (fault.start_s, _DOWN, number, 0))
        self.seen_s = jobs[0].submit_s if jobs else 0

    def to_end(self) -> Outcome:
        """Go from event to event until every job has ended."""
        watch, policy, events = self.watch, self.policy, self.events
        arrived = ended = 0
        round_s, due = policy.round_s, NEVER
        while ended < self.count:
            now = min(
                events[0][0] if events else NEVER, watch.submit_s[arrived] if arrived < self.count else NEVER, due
            )
            assert now < NEVER, "jobs wait that nothing will ever start"
            self.pass_time(now)
            happened = due == now
            while events and events[0][0] == now:
                _, what, which, turn = heappop(events)
                if what == _END:
                    if turn == self.turn[which]:
                        self.end(which, now)
                        ended += 1
                        happened = True
                        if not ended % _TELL_EVERY:
                            self.tell(ended)
                else:
                    self.node_event(what, which, now)
                    happened = True
            while arrived < self.count and watch.submit_s[arrived] == now:
                watch.since_s[arrived] = now
                policy.submitted(arrived, now)
                arrived += 1
                happened = True
            if not happened:
                continue
            if round_s and now % round_s:
                due = now - now % round_s + round_s
                continue
            self.apply(now)
            due = policy.wakes_at(now)
            if round_s and due < NEVER:
                due = -(-due // round_s) * round_s
            assert due > now, "a policy that does not get on"
        self.tell(ended)
        return self.out

    def pass_time(self, now: int) -> None:
        """Count what was held and what was there since the last event."""
        if now > self.seen_s:
            self.out.up_s += (now - self.seen_s) * self.watch.capacity
            self.out.busy_s += (now - self.seen_s) * (self.watch.capacity - self.watch.free)
            self.seen_s = now

    def apply(self, now: int) -> None:
        """Do what the policy says, and hold it to what there is."""
        stops, starts = self.policy.decide(now)
        watch = self.watch
        for job in stops:
            self.stop(job, now)
            watch.left_s[job] += self.rules.restart_s
            self.out.stops[job] += 1
            self.out.lost_s += self.rules.restart_s * watch.size[job]
        for job in starts:
            assert not watch.running[job], "a job that runs cannot start"
            assert watch.size[job] <= watch.free, "a gang starts whole or not at all"
            watch.free -= watch.size[job]
            watch.running[job], watch.since_s[job] = True, now
            if self.out.start_s[job] < 0:
                self.out.start_s[job] = now
            if self.places is not None:
                self.places.take(job, watch.size[job])
            heappush(self.events, (now + watch.left_s[job], _END, job, self.turn[job]))

    def stop(self, job: int, now: int) -> None:
        """Take a running job off its devices; what it has done stays done."""
        watch = self.watch
        assert watch.running[job], "only a running job can stop"
        ran_s = now - watch.since_s[job]
        if self.keep_spans and ran_s:
            self.out.spans.append((job, watch.since_s[job], now))
        watch.served_s[job] += ran_s
        watch.left_s[job] -= ran_s
        watch.running[job], watch.since_s[job] = False, now
        watch.free += watch.size[job]
        self.turn[job] += 1
        if self.places is not None:
            self.places.give(job)

    def end(self, job: int, now: int) -> None:
        """A job is done."""
        self.stop(job, now)
        assert self.watch.left_s[job] == 0, "a job ends when its work is done"
        self.out.end_s[job] = now
        self.policy.ended(job, now)

    def node_event(self, what: int, number: int, now: int) -> None:
        """A node fails with all that runs on it, or is back."""
        assert self.places is not None
        fault, watch = self.rules.faults[number], self.watch
        if what == _UP:
            self.places.up(fault.node)
            watch.capacity += self.rules.gpus_per_node
            watch.free += self.rules.gpus_per_node
            return
        self.out.faults += 1
        for job in self.places.on(fault.node):
            done_s = watch.duration_s[job] - watch.left_s[job] + now - watch.since_s[job]
            self.stop(job, now)
            lost_s = max(0, done_s) % self.rules.checkpoint_s if self.rules.checkpoint_s else max(0, done_s)
            watch.left_s[job] += lost_s + self.rules.restart_s
            self.out.losses[job] += 1
            self.out.lost_s += (lost_s + self.rules.restart_s) * watch.size[job]
            self.policy.interrupted(job, now)
        self.places.down(fault.node)
        watch.capacity -= self.rules.gpus_per_node
        watch.free -= self.rules.gpus_per_node
        heappush(self.events, (fault.end_s, _UP, number, 0))


class _Places:
    """Which node holds which job; kept only where nodes fail. A gang goes where it fits best, else to the freest."""

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self.each = gpus_per_node
        self.free = [gpus_per_node] * nodes
        self.held: dict[int, list[tuple[int, int]]] = {}
        self.jobs: list[dict[int, None]] = [{} for _ in range(nodes)]

    def take(self, job: int, asked: int) -> None:
        """Give a gang its devices; there are as many."""
        best = min((free, node) for node, free in enumerate([*self.free, self.each + asked]) if free >= asked)[1]
        order = (
            [best]
            if best < len(self.free)
            else sorted(range(len(self.free)), key=lambda node: (-self.free[node], node))
        )
        held = []
        for node in order:
            part = min(asked, self.free[node])
            if part > 0:
                held.append((node, part))
                self.free[node] -= part
                self.jobs[node][job] = None
                asked -= part
        assert not asked, "the pool counts what the nodes have"
        self.held[job] = held

    def give(self, job: int) -> None:
        """Take the devices of a job back."""
        for node, part in self.held.pop(job):
            self.free[node] += part
            del self.jobs[node][job]

    def on(self, node: int) -> list[int]:
        """Return the jobs that a node holds, in their order."""
        return sorted(self.jobs[node])

    def down(self, node: int) -> None:
        """Take an empty node away."""
        assert self.free[node] == self.each
        self.free[node] = 0

    def up(self, node: int) -> None:
        """Bring a node back."""
        self.free[node] = self.each
