"""One HTML page of two replays side by side: figures, use, fragments, waits by class, and when the first jobs ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

from dujiang.scheduling.simulator.plots import gantt, key, lines, page, table
from dujiang.scheduling.simulator.replay_figures import compared
from dujiang.scheduling.simulator.replay_work import Past, Work

_POINTS: Final = 300
_BARS: Final = 40
"""Jobs of each Gantt chart: the first that started."""
_NAMES: Final = ("as it is", "changed")

Run = tuple[Sequence[Work], Past, Mapping[str, Any]]
"""Work, what became of it, and its figures."""


def what_if_report(about: Mapping[str, Any], before: Run, after: Run) -> str:
    """Return the page.

    Args:
        about: what was replayed and changed, shown as it is.
        before: the run as it is, with spans.
        after: the changed run, with spans.
    """
    runs = (before, after)
    begin = min(past.begin_s for _, past, _ in runs)
    end = max(past.end_s for _, past, _ in runs)
    across = f"{(end - begin) / 3600:.1f} hours"
    parts = [
        "<h1>What if</h1>",
        "<p>" + ", ".join(f"{name} {escape(str(value))}" for name, value in about.items() if value) + "</p>",
        table(["", *_NAMES], [[name, *map(_cell, values)] for name, *values in compared(before[2], after[2])]),
        key(_NAMES),
        "<h2>Devices in use over time</h2>",
        lines([_use(past, begin, end) for _, past, _ in runs], (0, 100), "% of those open", across),
        "<h2>Free devices that the next job could not use</h2>",
        lines([_fragments(past, begin, end) for _, past, _ in runs], (0, 100), "% of those open", across),
        "<h2>Jobs waiting over time</h2>",
        *_waiting([past for _, past, _ in runs], begin, end, across),
    ]  # fmt: skip
    for each in sorted({*before[2]["by_class"], *after[2]["by_class"]}):
        waits = [_waited(works, past, each) for works, past, _ in runs]
        top = max(max((y for _, y in curve), default=0.0) for curve in waits) or 1.0
        parts += [f"<h2>Waits of class {escape(each)}, shortest first</h2>",
                  lines(waits, (0, top), "hours", "all jobs of the class")]  # fmt: skip
    for name, (works, past, _) in zip(_NAMES, runs, strict=True):
        parts += [f"<h2>When the first jobs ran: {name}</h2>", _gantt(works, past, begin, end)]
    return page("Dujiang: what if", parts)


def _cell(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 10 else value


def _use(past: Past, begin: float, end: float) -> list[tuple[float, float]]:
    """Return the share of open devices in use, averaged over equal stretches."""
    step, points = max(1e-9, (end - begin) / _POINTS), past.use
    held, there = [0.0] * _POINTS, [0.0] * _POINTS
    for (at, used, are_open, _), following in pairwise(points):
        until = following[0]
        first, last = int((at - begin) / step), min(_POINTS - 1, int((until - begin) / step))
        for place in range(first, last + 1):
            overlap = max(0.0, min(until, begin + (place + 1) * step) - max(at, begin + place * step))
            held[place] += overlap * used
            there[place] += overlap * are_open
    return [
        ((place + 0.5) / _POINTS, 100 * held[place] / there[place] if there[place] else 0.0) for place in range(_POINTS)
    ]


def _fragments(past: Past, begin: float, end: float) -> list[tuple[float, float]]:
    are_open = past.up_s / max(1e-9, past.end_s - past.begin_s)
    return [((at - begin) / max(1e-9, end - begin), 100 * count / max(1e-9, are_open)) for at, count in past.fragments]


def _waiting(pasts: Sequence[Past], begin: float, end: float, across: str) -> list[str]:
    top = max((waiting for past in pasts for *_, waiting in past.use), default=0) or 1
    span = max(1e-9, end - begin)
    curves = [_thinned([((at - begin) / span, float(waiting)) for at, _, _, waiting in past.use]) for past in pasts]
    return [lines(curves, (0, top), "jobs", across)]


def _waited(works: Sequence[Work], past: Past, each: str) -> list[tuple[float, float]]:
    """Return the waits of a class in hours, rising, over the part of its jobs."""
    waits = sorted(
        fate.waited_s / 3600 for work, fate in zip(works, past.fates, strict=True)
        if work.request.task_class == each and (work.held is None or fate.waited_s > 0)
    )  # fmt: skip
    return _thinned([(at / max(1, len(waits) - 1), wait) for at, wait in enumerate(waits)])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return every so many points, the last one always."""
    step = max(1, len(points) // (2 * _POINTS))
    return [*points[::step], *points[-1:]]


def _gantt(works: Sequence[Work], past: Past, begin: float, end: float) -> str:
    started = [at for at, fate in enumerate(past.fates) if fate.start_s is not None]
    chosen = sorted(started, key=lambda at: (past.fates[at].start_s or 0.0, at))[:_BARS]
    spans: dict[int, list[tuple[float, float]]] = {at: [] for at in chosen}
    for span in past.spans:
        if span.number in spans:
            spans[span.number].append((span.begin_s, span.end_s))
    rows = [
        (works[at].request.job_id[-14:], works[at].at_s, past.fates[at].end_s or past.end_s, spans[at]) for at in chosen
    ]
    return gantt(rows, begin, end, "end of a job's identifier")
