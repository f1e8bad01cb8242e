"""Jobs that wait for others to end, as the scheduler sees them: for forecasts and promises, never for a plan. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from dujiang.jobs.domain import Edge, Job
from dujiang.jobs.spec import When
from dujiang.scheduling.domain import Dependent, Request


def dependents_of(
    requests: Mapping[str, Request], edges: Iterable[Edge], tasks: Mapping[str, Sequence[str]], seen: Collection[str]
) -> list[Dependent]:
    """Return jobs with what they wait for, in order of their identifiers.

    Args:
        requests: the jobs, by identifier; edges of others are passed over.
        edges: what is open.
        tasks: the tasks of arrays that have not ended, by array.
        seen: the jobs that run or wait in the snapshot. What waits for anything else cannot be told: such as a task
            that has not had its turn.
    """
    waits: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        if edge.job_id in requests:
            waits[edge.job_id].append(edge)
    known = {*seen, *waits}
    found: list[Dependent] = []
    for job_id in sorted(waits):
        after = [one for edge in waits[job_id] for one in tasks.get(edge.on_id, (edge.on_id,))]
        # Who waits for a failure is not counted on: all is taken to end well.
        is_known = all(edge.when is not When.NOTOK for edge in waits[job_id]) and known.issuperset(after)
        found.append(Dependent(requests[job_id], tuple(dict.fromkeys(after)), is_known))
    return found


def needed(jobs: Sequence[Job], edges: Sequence[Edge], asked: Collection[str]) -> list[Job]:
    """Return those of the jobs that others of them have to wait for, and those that these wait for in turn.

    Args:
        jobs: of one submission.
        edges: between them, and to others.
        asked: identifiers of those others.
    """
    on: defaultdict[str, set[str]] = defaultdict(set)
    for edge in edges:
        on[edge.job_id].add(edge.on_id)
    open_, reached = list(asked), set[str]()
    while open_:
        for target in on[open_.pop()] - reached:
            reached.add(target)
            open_ += [job.id for job in jobs if target in (job.id, job.array_id)]
    return [job for job in jobs if not job.has_ended and not reached.isdisjoint((job.id, job.array_id))]
