"""One HTML page of a run of the queue, its plots in it: use over time, waiting, when jobs ran. Asks no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue import Outcome

_COLOURS: Final = ("#0b62a4", "#c9512c", "#3c8d40", "#7d4bb0", "#8a6d1f", "#b03a6b")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 920, 260, 64, 30
_POINTS: Final = 300
_BARS: Final = 40
"""Jobs of the Gantt chart: those that waited longest."""
_STYLE: Final = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#1c2733}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .8rem .2rem 0;text-align:right;border-bottom:1px solid #d8dee4}
td:first-child,th:first-child{text-align:left}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#44525f}.key span{margin-right:1.2rem}
@media(prefers-color-scheme:dark){body{background:#11171d;color:#dfe7ee}svg text{fill:#a9b7c4}}"""


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
        "<p>" + ", ".join(f"{escape(str(key))} {escape(str(value))}" for key, value in about.items()) + "</p>",
        _table(["policy", "average wait s", "p50", "p99", "max", "average JCT s", "use %", "stops", "GPU-h twice"],
               [[each["policy"], each["queueing_s"]["average"], each["queueing_s"]["p50"], each["queueing_s"]["p99"],
                 each["queueing_s"]["max"], each["jct_s"]["average"], round(100 * each["utilisation"], 1),
                 each["stops"], each["lost_gpu_h"]] for each in told]),
        _key(names),
        "<h2>Devices in use over time</h2>",
        _lines([_use(jobs, outcomes[name], begin, end, total) for name in names], (0, 100), "% of all",
               f"{(end - begin) / 86400:.1f} days"),
        "<h2>Jobs that waited longer than</h2>",
        _lines([_waited(jobs, outcomes[name]) for name in names], (0, 100), "% of jobs",
               "1 s to 29 days, by powers of ten"),
    ]  # fmt: skip
    for key, title in (("by_size", "Average wait by devices asked for, s"), ("by_vc", "Average wait by queue, s")):
        groups = list(told[0][key])
        rows = [[g, told[0][key][g]["jobs"], *(each[key][g]["average"] for each in told)] for g in groups]
        parts += [f"<h2>{title}</h2>", _table(["", "jobs", *names], rows)]
    for name in names:
        parts += [
            f"<h2>When the jobs ran that waited longest: {escape(name)}</h2>",
            _gantt(jobs, outcomes[name], begin, end),
        ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Dujiang: queue</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


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


def _lines(series: Sequence[Sequence[tuple[float, float]]], span: tuple[float, float], unit: str, across: str) -> str:
    low, high = span
    inner_w, inner_h = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 10

    def at(x: float, y: float) -> str:
        return f"{_LEFT + x * inner_w:.1f},{10 + inner_h * (1 - (min(high, max(low, y)) - low) / (high - low)):.1f}"

    grid = "".join(
        f'<path d="M{_LEFT} {10 + inner_h * part / 4:.1f}h{inner_w}" stroke="#8895a0" stroke-opacity=".3"/>'
        f'<text x="{_LEFT - 8}" y="{14 + inner_h * part / 4:.1f}" text-anchor="end">'
        f"{high - (high - low) * part / 4:g}</text>"
        for part in range(5)
    )
    lines = "".join(
        f'<polyline fill="none" stroke="{_COLOURS[place % len(_COLOURS)]}" stroke-width="1.6" '
        f'points="{" ".join(at(x, y) for x, y in points)}"/>'
        for place, points in enumerate(series)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(unit)}">{grid}{lines}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{escape(unit)}; across: {escape(across)}</text></svg>'
    )


def _gantt(jobs: Sequence[TraceJob], outcome: Outcome, begin: int, end: int) -> str:
    waits = [outcome.end_s[place] - job.submit_s - job.duration_s for place, job in enumerate(jobs)]
    chosen = sorted(sorted(range(len(jobs)), key=lambda place: (-waits[place], place))[:_BARS])
    row = {job: line for line, job in enumerate(chosen)}
    inner, height = _WIDTH - 160, 16 * len(chosen) + 24

    def x(at: int) -> float:
        return 150 + inner * (at - begin) / max(1, end - begin)

    bars = "".join(
        f'<text x="0" y="{16 * line + 12}">{escape(jobs[job].job[:14])} ({jobs[job].num_gpus})</text>'
        f'<rect x="{x(jobs[job].submit_s):.1f}" y="{16 * line + 6}" height="4" fill="#c9512c" fill-opacity=".35" '
        f'width="{max(0.5, x(outcome.end_s[job]) - x(jobs[job].submit_s)):.1f}"/>'
        for job, line in row.items()
    )
    ran = "".join(
        f'<rect x="{x(start):.1f}" y="{16 * row[job] + 2}" height="12" fill="#0b62a4" '
        f'width="{max(0.5, x(stop) - x(start)):.1f}"/>'
        for job, start, stop in outcome.spans
        if job in row
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="When jobs ran">{bars}{ran}'
        f'<text x="150" y="{height - 6}">job (devices); thin: from submission to end, thick: running</text></svg>'
    )


def _key(names: Sequence[str]) -> str:
    spans = (
        f'<span style="color:{_COLOURS[place % len(_COLOURS)]}">&#9632; {escape(name)}</span>'
        for place, name in enumerate(names)
    )
    return f'<p class="key">{"".join(spans)}</p>'


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
