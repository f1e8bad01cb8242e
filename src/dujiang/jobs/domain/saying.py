"""What is said of work of which nothing new is known: it waits in its cluster, cannot be seen, or is turned away again
and again.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Final

from dujiang.engines.contract import End, Observation
from dujiang.jobs.domain.ending import LONGEST_PAUSE_S
from dujiang.jobs.domain.job import Attempt, Job, JobState
from dujiang.kit.units import format_duration
from dujiang.pool.domain import Cluster

BEING_STARTED: Final = "It has its place and is being started."
_MOST: Final = 500
"""Characters of what a cluster says of why it waits."""
MANY_REFUSALS: Final = 10
"""So many refusals in a row are told: with their pauses they take 13 minutes, and what is closed in passing is open."""
_NAMED: Final = 3


def waits_in_cluster(seen: Observation) -> str:
    """Return why an attempt that its engine has, and that has not begun, waits there; as the cluster says it."""
    said = "; ".join(dict.fromkeys(" ".join(one.line.split()) for one in seen.evidence if one.line.strip()))
    return f"It waits in its cluster: {said[:_MOST].rstrip('.')}." if said else BEING_STARTED


def unanswered(job: Job, attempt: Attempt, cluster: Cluster, *, removed: bool = False) -> Job:
    """Return a job as it is told while the cluster of its attempt cannot be reached: what is known of it is old.

    Args:
        job: not ended.
        attempt: its latest, not ended.
        cluster: unreachable.
        removed: it is no longer in the settings.
    """
    since = f" since {cluster.seen_at:%Y-%m-%d %H:%M:%S} UTC" if cluster.seen_at else " yet"
    last = "it was last seen running" if attempt.state is JobState.RUNNING else "it was not seen to start"
    why = "was removed from the settings" if removed else f"has not answered{since}"
    told = f"Its cluster {cluster.name} {why}; {last}."
    kept = job.sentence if job.sentence != BEING_STARTED else ""
    return replace(job, sentence=f"{kept} {told}".strip())


def turned_away(ends: Sequence[tuple[str, str]]) -> str:
    """Return what is told of a job that waits and whose last places have all refused it; empty while these are few.

    Args:
        ends: cause of the end and node of each of its attempts, in order.
    """
    refused = list(takewhile(lambda end: end[0] == End.NODE_REFUSED, reversed(ends)))
    if len(refused) < MANY_REFUSALS:
        return ""
    nodes = list(dict.fromkeys(node for _, node in refused))
    named = ", ".join(nodes[:_NAMED]) + (" and others" if len(nodes) > _NAMED else "")
    return (
        f"Its places have turned it away {len(refused)} times in a row (on {named}); it waits on, and is tried again"
        f" every {format_duration(LONGEST_PAUSE_S)}."
    )


def told_refused(job: Job, attempts: Sequence[Attempt]) -> Job:
    """Return a job that waits for its next attempt as it is told: with how often it was turned away, where often."""
    told = turned_away([(attempt.reason, attempt.node) for attempt in attempts])
    return replace(job, sentence=f"{job.sentence} {told}".strip()) if told else job
