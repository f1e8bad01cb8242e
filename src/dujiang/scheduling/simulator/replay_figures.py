"""What a replay came to, in figures, and two of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from dujiang.scheduling.simulator.replay_work import Fate, Past, Work

ROWS: Final = (
    ("wait_s.average", "average wait, s"), ("wait_s.p50", "p50"), ("wait_s.p99", "p99"), ("wait_s.max", "longest"),
    ("utilisation", "use of devices"), ("fragments", "fragments, of all devices"), ("all_done_s", "all done after, s"),
    ("ended", "jobs ended"), ("not_started", "never started"), ("stops", "stops"), ("lost_gpu_h", "GPU-hours twice"),
)  # fmt: skip
"""The lines of a table: where the figure stands, and its name."""


def figures(works: Sequence[Work], past: Past) -> dict[str, Any]:
    """Return the figures of one run; times in seconds.

    Waiting is all time without a place since submission or the beginning, whichever is later. Of what still waits in
    the end it is the time until then, so the true figure is larger. What ran from the beginning on and was never
    stopped is not among those who wait.
    """
    waits = [(work, fate) for work, fate in zip(works, past.fates, strict=True) if _waited(work, fate)]
    ends = [fate.end_s for fate in past.fates if fate.end_s is not None]
    up_s = max(past.up_s, 1e-9)
    lost = mean_over(past.fragments, past.end_s)
    open_devices = up_s / max(past.end_s - past.begin_s, 1e-9)
    return {
        "jobs": len(works),
        "wait_s": _spread([fate for _, fate in waits]),
        "by_class": _by(waits, lambda work: str(work.request.task_class)),
        "by_project": _by(waits, lambda work: work.request.project_id),
        "utilisation": round(past.busy_s / up_s, 6),
        "fragments": round(lost / max(open_devices, 1e-9), 6),
        "ended": len(ends),
        "all_done_s": round(max(ends) - past.begin_s, 3) if ends and len(ends) == len(works) else None,
        "not_started": sum(fate.start_s is None for fate in past.fates),
        "stops": sum(fate.stops for fate in past.fates),
        "jobs_hit": sum(1 for fate in past.fates if fate.losses),
        "node_faults": past.faults,
        "lost_gpu_h": round(past.lost_s / 3600, 3),
        "lasted_s": round(past.end_s - past.begin_s, 3),
        "plans": past.plans,
    }


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the lines of a table of two runs: name, as it is, changed."""
    lines: list[tuple[str, Any, Any]] = []
    for path, name in ROWS:
        lines.append((name, at_path(before, path), at_path(after, path)))
    for each in sorted({*before["by_class"], *after["by_class"]}):
        for part, name in (("average", "average wait"), ("p50", "p50"), ("p99", "p99")):
            found = [run["by_class"].get(each, {}).get(part) for run in (before, after)]
            lines.append((f"{each}: {name}, s", *found))
    return lines


def at_path(run: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a path with points."""
    found: Any = run
    for part in path.split("."):
        found = found[part]
    return found


def _waited(work: Work, fate: Fate) -> bool:
    return work.held is None or fate.waited_s > 0


def _spread(fates: Sequence[Fate]) -> dict[str, float]:
    waits = np.array([fate.waited_s for fate in fates] or [0.0])
    return {
        "jobs": len(fates), "average": round(float(waits.mean()), 3), "p50": round(float(np.percentile(waits, 50)), 3),
        "p99": round(float(np.percentile(waits, 99)), 3), "max": round(float(waits.max()), 3),
    }  # fmt: skip


def _by(waits: Sequence[tuple[Work, Fate]], name: Any) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Fate]] = {}
    for work, fate in waits:
        groups.setdefault(name(work), []).append(fate)
    return {each: _spread(groups[each]) for each in sorted(groups)}


def mean_over(points: Sequence[tuple[float, float]], end_s: float) -> float:
    """Return the mean of a value that holds from each moment to the next."""
    if not points:
        return 0.0
    ends = [at for at, _ in points[1:]] + [max(end_s, points[-1][0])]
    spans = [end - at for (at, _), end in zip(points, ends, strict=True)]
    total = sum(spans)
    return sum(span * value for span, (_, value) in zip(spans, points, strict=True)) / total if total else points[0][1]
