"""How many ranks an elastic job may have: what it asks for, and what it was left with when it did not use more."""

from __future__ import annotations

from dujiang.jobs.domain.job import Job


def elastic_bounds(job: Job) -> tuple[int, int] | None:
    """Return the fewest and the most ranks that a job may have now; None for one that is not elastic."""
    if job.spec.nodes_min is None:
        return None
    most = ranks_wanted(job)
    return min(job.spec.nodes_min, most), most


def ranks_wanted(job: Job) -> int:
    """Return as many ranks as a job gets at most now."""
    return job.spec.nodes if job.ranks_most is None else min(job.spec.nodes, job.ranks_most)
