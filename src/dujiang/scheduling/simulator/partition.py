"""What a cluster loses by being cut into virtual clusters: the same jobs on fixed shares and on one pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dujiang.kit.errors import Invalid
from dujiang.scheduling.simulator.jobs_traces import TraceJob, read_table
from dujiang.scheduling.simulator.queue import Rules, simulate
from dujiang.scheduling.simulator.traces import BadTrace

FILL: Final = 0.8
"""Share of its devices that the mean load of a virtual cluster takes when it gets its nodes."""
_MOST_MINUTES: Final = 10_000_000


def shares(jobs: Iterable[TraceJob], gpus_per_node: int, *, fill: float = FILL) -> dict[str, int]:
    """Return the nodes of each virtual cluster: its mean load at a fill, rounded up, and room for its largest gang.

    The mean is over the time from the first to the last submission of all.
    """
    work: dict[str, int] = {}
    widest: dict[str, int] = {}
    first, last = 1 << 62, 0
    for job in jobs:
        work[job.vc] = work.get(job.vc, 0) + job.duration_s * job.num_gpus
        widest[job.vc] = max(widest.get(job.vc, 0), job.num_gpus)
        first, last = min(first, job.submit_s), max(last, job.submit_s)
    per_node = max(1, last - first) * gpus_per_node * fill
    return {vc: max(_up(work[vc] / per_node), _up(widest[vc] / gpus_per_node)) for vc in sorted(work)}


def compare(
    jobs: Sequence[TraceJob], policy: str, rules: Rules, nodes_of: Mapping[str, int],
    *, tell: Callable[[int], None] = lambda ended: None,
) -> dict[str, Any]:  # fmt: skip
    """Return average waiting on fixed shares and on one pool of the same nodes, and their ratio.

    Raises:
        Invalid: a virtual cluster has no nodes.
    """
    parts: dict[str, list[TraceJob]] = {}
    for job in jobs:
        parts.setdefault(job.vc, []).append(job)
    if missing := sorted(set(parts) - set(nodes_of)):
        raise Invalid(f"Virtual cluster {missing[0]!r} has no nodes. Give each that has jobs a share.")
    static, done = {}, 0
    for vc, part in sorted(parts.items()):
        static[vc] = _waits(part, policy, replace(rules, nodes=nodes_of[vc]))
        done += len(part)
        tell(done)
    pooled = _waits(jobs, policy, replace(rules, nodes=sum(nodes_of.values())))
    tell(done + len(jobs))
    alone = np.concatenate(list(static.values()))
    return {
        "policy": policy,
        "nodes": sum(nodes_of.values()),
        "static_average_s": round(float(alone.mean()), 3),
        "static_max_s": int(alone.max()),
        "pool_average_s": round(float(pooled.mean()), 3),
        "pool_max_s": int(pooled.max()),
        "ratio": round(float(alone.mean() / max(1e-9, pooled.mean())), 3),
        "by_vc": {
            vc: {"jobs": len(parts[vc]), "nodes": nodes_of[vc], "static_average_s": round(float(waits.mean()), 3)}
            for vc, waits in static.items()
        },
    }


@dataclass(frozen=True, slots=True)
class Minutes:
    """Devices of virtual clusters, minute by minute: rows are virtual clusters, columns minutes."""

    names: tuple[str, ...]
    total: NDArray[np.int64]
    running: NDArray[np.int64]
    pending: NDArray[np.int64]


def read_minutes(path: Path) -> Minutes:
    """Read rows of vc, minute, total_gpus, running_gpus, pending_gpus; a value holds until the next row of its cluster.

    Raises:
        BadTrace: what is wrong, with row and column.
    """
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    columns = ("total_gpus", "running_gpus", "pending_gpus")
    for row in read_table(path, ("vc", "minute", *columns)):
        minute = row.whole("minute", least=0, most=_MOST_MINUTES)
        total, running, pending = (row.whole(column, least=0, most=1_000_000) for column in columns)
        rows.setdefault(row.named("vc"), []).append((minute, total, running, pending))
    if not rows:
        raise BadTrace(f"{path} has no row. Give a file with one change a row.", file=str(path))
    names = tuple(sorted(rows))
    length = max(minute for found in rows.values() for minute, *_ in found) + 1
    held = np.zeros((3, len(names), length), np.int64)
    for place, name in enumerate(names):
        found = sorted(rows[name])
        for (minute, *values), until in zip(found, [*(each[0] for each in found[1:]), length], strict=True):
            held[:, place, minute:until] = np.array(values)[:, None]
    return Minutes(names, held[0], held[1], held[2])


def pool_bound(minutes: Minutes) -> dict[str, Any]:
    """Return the share of device time in use as it was, and if what waited had run on devices idle anywhere.

    The second is a bound: it takes each minute alone, though work that runs earlier does not run later.
    """
    total, running, pending = (each.sum(axis=0) for each in (minutes.total, minutes.running, minutes.pending))
    served = np.minimum(np.maximum(total - running, 0), pending)
    return {
        "virtual_clusters": len(minutes.names),
        "minutes": int(total.size),
        "static_utilisation": round(float(running.sum() / total.sum()), 6),
        "pool_bound": round(float(np.minimum(total, running + pending).sum() / total.sum()), 6),
        "waiting_gpu_h": round(float(pending.sum() / 60), 1),
        "waiting_that_idle_gpus_could_serve": round(float(served.sum() / max(1, pending.sum())), 6),
    }


def _waits(jobs: Sequence[TraceJob], policy: str, rules: Rules) -> NDArray[np.int64]:
    outcome = simulate(jobs, policy, rules)
    ran = [job.submit_s + job.duration_s for job in jobs]
    return np.array(outcome.end_s, np.int64) - np.array(ran, np.int64)


def _up(value: float) -> int:
    return max(1, int(-(-value // 1)))
