"""Traces of gang jobs under the live plan: the same jobs on the same nodes as under the policies of `queue`.

The live plan has places, not a pool: a gang that fits on one node is not split. So `gangs` says what a gang of a trace
is: `node` (one rank with all its devices where a node has as many, else equal ranks as large as can be), or `any` (each
device a rank of its own, anywhere), which is what the policies of `queue` take for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from dujiang.scheduling.domain.fleet import ClusterRow, DeviceRow, Fleet, NodeRow, fleet_of_rows
from dujiang.scheduling.domain.request import MAX_RANKS, WHOLE, Ask, Request
from dujiang.scheduling.domain.snapshot import snapshot_of_rows
from dujiang.scheduling.domain.turns import Turns
from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue import Outcome, Rules, TooLarge
from dujiang.scheduling.simulator.replay import replay
from dujiang.scheduling.simulator.replay_work import Past, Terms, Work

LIVE: Final = ("live", "live-limits", "live-turns")
"""The live plan as it knows jobs without time limits, with limits that are exactly the run times, and without limits
where work takes turns."""
GANGS: Final = ("node", "any")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def simulate_live(
    jobs: Sequence[TraceJob], policy: str, rules: Rules, *, gangs: str = "node",
    tell: Callable[[int], None] = lambda ended: None, keep_spans: bool = False,
) -> Outcome:  # fmt: skip
    """Run a trace to its end under the live plan.

    Args:
        jobs: in order of submission, as `read_jobs` gives them.
        policy: one of `LIVE`.
        rules: how the cluster treats jobs; its bound on waiting does not apply.
        gangs: one of `GANGS`.
        tell: hears now and then how many jobs have ended.
        keep_spans: keep every stretch in which a job ran, for pictures.

    Raises:
        TooLarge: a gang is larger than the cluster.
    """
    works = works_of(jobs, rules, gangs)
    terms = Terms(
        checkpoint_s=rules.checkpoint_s, restart_s=rules.restart_s, knows_run_times=policy == "live-limits",
        faults=rules.faults, keeps_spans=keep_spans, saves_at_stop=True,
    )  # fmt: skip
    snapshot = snapshot_of_rows(even_fleet(rules.nodes, rules.gpus_per_node))
    if policy == "live-turns":
        snapshot = replace(snapshot, rules=replace(snapshot.rules, turns=Turns()))
    past = replay(snapshot, works, terms, _EPOCH, tell=tell)
    return _outcome(past)


def even_fleet(nodes: int, gpus_per_node: int, *, cpu_milli: int = 0, memory_bytes: int = 0) -> Fleet:
    """Return a cluster of nodes that are all alike."""
    width = len(str(nodes - 1))
    devices = tuple(DeviceRow(f"g{at}", at, "", "", 0) for at in range(gpus_per_node))
    rows = [
        NodeRow("cluster", f"node{at:0{width}}", cpu_milli, memory_bytes, devices=devices) for at in range(nodes)
    ]  # fmt: skip
    return fleet_of_rows([ClusterRow("cluster")], rows)


def works_of(jobs: Sequence[TraceJob], rules: Rules, gangs: str) -> list[Work]:
    """Return the jobs of a trace as the platform sees them; identifiers stand in the order of the trace.

    Raises:
        TooLarge: a gang is larger than the cluster.
    """
    width, most, works = len(str(len(jobs))), rules.nodes * rules.gpus_per_node, []
    for number, job in enumerate(jobs):
        if job.num_gpus > min(most, MAX_RANKS):
            raise TooLarge(f"Job {job.job} asks for {job.num_gpus} devices at once, and {rules.nodes} nodes of "
                           f"{rules.gpus_per_node} have {most}. Give more nodes.", job=job.job)  # fmt: skip
        each = 1 if gangs == "any" else _each(job.num_gpus, rules.nodes, rules.gpus_per_node)
        request = Request(
            f"{number:0{width}}", job.vc or "-", Ask(gpu_milli=each * WHOLE),
            _EPOCH + timedelta(seconds=job.submit_s), ranks=job.num_gpus // each, may_restart=True,
        )  # fmt: skip
        works.append(Work(request, job.submit_s, job.duration_s))
    return works


def _each(gpus: int, nodes: int, per_node: int) -> int:
    """Return how many devices each rank of a gang gets: the most with which it fits on the empty cluster."""
    for each in range(min(gpus, per_node), 1, -1):
        if gpus % each == 0 and nodes * (per_node // each) >= gpus // each:
            return each
    return 1


def _outcome(past: Past) -> Outcome:
    fates = past.fates
    assert all(fate.end_s is not None for fate in fates), "jobs wait that nothing will ever start"
    return Outcome(
        start_s=[round(fate.start_s or 0) for fate in fates], end_s=[round(fate.end_s or 0) for fate in fates],
        stops=[fate.stops for fate in fates], losses=[fate.losses for fate in fates], lost_s=round(past.lost_s),
        busy_s=round(past.busy_s), up_s=round(past.up_s), faults=past.faults,
        spans=[(span.number, round(span.begin_s), round(span.end_s)) for span in past.spans],
        fragments=past.fragments, plans=past.plans,
    )  # fmt: skip
