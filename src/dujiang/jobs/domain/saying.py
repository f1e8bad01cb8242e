"""What is said of an attempt that has its place while nothing new is known of it: it waits there, or cannot be seen.

Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dujiang.engines.contract import Observation
from dujiang.jobs.domain.job import Attempt, Job, JobState
from dujiang.pool.domain import Cluster

BEING_STARTED: Final = "It has its place and is being started."
_MOST: Final = 500
"""Characters of what a cluster says of why it waits."""


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
