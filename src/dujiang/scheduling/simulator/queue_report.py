"""One HTML page of a run of the queue, its plots in it: use over time, waiting, when jobs ran. Asks no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.plots import gantt, key, lines, page, table
from dujiang.scheduling.simulator.queue import Outcome

_POINTS: Final = 300
_BARS: Final = 40
"""Jobs of the Gantt chart: those that waited longest."""


def queue_report(
    about: Mapping[str, Any],
    jobs: Sequence[TraceJob],
    told: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Outcome],
) -> str:
    """Return the page.

    Args:
        about: what was simulated, shown as it is.
        told: the summary of each policy.
        outcomes: by policy, with spans.
    """
    names = [str(each["policy"]) for each in told]
    begin = min(job.submit_s for job in jobs)
    end = max(max(outcomes[name].end_s) for name in names)
    total = int(about["nodes"]) * int(about["gpus_per_node"])
    parts = [
        "<h1>Waiting on a pool of GPUs</h1>",
        "<p>" + ", ".join(f"{escape(str(name))} {escape(str(value))}" for name, value in about.items()) + "</p>",
        table(["policy", "average wait s", "p50", "p99", "max", "average JCT s", "use %", "stops", "GPU-h twice"],
               [[each["policy"], each["queueing_s"]["average"], each["queueing_s"]["p50"], each["queueing_s"]["p99"],
                 each["queueing_s"]["max"], each["jct_s"]["average"], round(100 * each["utilisation"], 1),
                 each["stops"], each["lost_gpu_h"]] for each in told]),
        key(names),
        "<h2>Devices in use over time</h2>",
        lines([_use(jobs, outcomes[name], begin, end, total) for name in names], (0, 100), "% of all",
               f"{(end - begin) / 86400:.1f} days"),
        "<h2>Jobs that waited longer than</h2>",
        lines([_waited(jobs, outcomes[name]) for name in names], (0, 100), "% of jobs",
               "1 s to 29 days, by powers of ten"),
    ]  # fmt: skip
    if placed := [name for name in names if outcomes[name].fragments]:
        parts += [
            "<h2>Free devices that the next job could not use</h2>", key(placed),
            lines([_fragments(outcomes[name], begin, end, total) for name in placed], (0, 100), "% of all",
                  f"{(end - begin) / 86400:.1f} days"),
        ]  # fmt: skip
    for part, title in (("by_size", "Average wait by devices asked for, s"), ("by_vc", "Average wait by queue, s")):
        groups = list(told[0][part])
        rows = [[g, told[0][part][g]["jobs"], *(each[part][g]["average"] for each in told)] for g in groups]
        parts += [f"<h2>{title}</h2>", table(["", "jobs", *names], rows)]
    for name in names:
        parts += [
            f"<h2>When the jobs ran that waited longest: {escape(name)}</h2>",
            _gantt(jobs, outcomes[name], begin, end),
        ]
    return page("Dujiang: queue", parts)


def _use(jobs: Sequence[TraceJob], outcome: Outcome, begin: int, end: int, total: int) -> list[tuple[float, float]]:
    """Return the share of devices in use, averaged over equal stretches of the whole time."""
    step = max(1e-9, (end - begin) / _POINTS)
    held = [0.0] * (_POINTS + 1)
    for job, start, stop in outcome.spans:
        first, last = int((start - begin) / step), min(_POINTS - 1, int((stop - begin) / step))
        for place in range(first, last + 1):
            overlap = min(stop, begin + (place + 1) * step) - max(start, begin + place * step)
            held[place] += max(0.0, overlap) * jobs[job].num_gpus
    return [((place + 0.5) / _POINTS, 100 * held[place] / (step * total)) for place in range(_POINTS)]


def _fragments(outcome: Outcome, begin: int, end: int, total: int) -> list[tuple[float, float]]:
    return [((at - begin) / max(1, end - begin), 100 * count / total) for at, count in outcome.fragments]


def _waited(jobs: Sequence[TraceJob], outcome: Outcome) -> list[tuple[float, float]]:
    """Return the share of jobs that waited longer, over times that grow by a power of ten a step."""
    waits = sorted(end - job.submit_s - job.duration_s for job, end in zip(jobs, outcome.end_s, strict=True))
    points, place = [], 0
    for step in range(129):
        limit = 10 ** (step / 20)
        while place < len(waits) and waits[place] <= limit:
            place += 1
        points.append((step / 128, 100 * (1 - place / len(waits))))
    return points


def _gantt(jobs: Sequence[TraceJob], outcome: Outcome, begin: int, end: int) -> str:
    waits = [outcome.end_s[place] - job.submit_s - job.duration_s for place, job in enumerate(jobs)]
    chosen = sorted(sorted(range(len(jobs)), key=lambda place: (-waits[place], place))[:_BARS])
    spans: dict[int, list[tuple[float, float]]] = {place: [] for place in chosen}
    for job, start, stop in outcome.spans:
        if job in spans:
            spans[job].append((start, stop))
    rows = [
        (f"{jobs[at].job[:14]} ({jobs[at].num_gpus})", jobs[at].submit_s, outcome.end_s[at], spans[at]) for at in chosen
    ]
    return gantt(rows, begin, end, "job (devices)")
