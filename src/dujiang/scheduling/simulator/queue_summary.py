"""What a run of the queue came to, in figures: waiting and completion, use of the devices, and what was done twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dujiang.scheduling.simulator.jobs_traces import TraceJob
from dujiang.scheduling.simulator.queue import Outcome
from dujiang.scheduling.simulator.queue_policies import kind_of
from dujiang.scheduling.simulator.replay_figures import mean_over
from dujiang.scheduling.simulator.replay_traces import LIVE


def summary(jobs: Sequence[TraceJob], outcome: Outcome, policy: str, *, max_wait_s: int = 0) -> dict[str, Any]:
    """Return the figures of one policy, times in seconds.

    `queueing_s` is submission to end without the run time: waiting before the start and in between.
    """
    submit, run, end, start = (
        np.array(values, dtype=np.int64)
        for values in (
            [job.submit_s for job in jobs], [job.duration_s for job in jobs], outcome.end_s, outcome.start_s,
        )
    )  # fmt: skip
    waits = end - submit - run
    return {
        "policy": policy,
        "knows_run_times": policy == "live-limits" or (policy not in LIVE and kind_of(policy).knows_run_times),
        "jobs": len(jobs),
        "queueing_s": spread(waits),
        "jct_s": spread(end - submit),
        "first_start_s": spread(start - submit),
        "waited_beyond_bound": int((waits > max_wait_s).sum()) if max_wait_s else None,
        "makespan_s": int(end.max() - submit.min()),
        "utilisation": round(outcome.busy_s / max(1, outcome.up_s), 6),
        "stops": sum(outcome.stops),
        "most_stops_of_a_job": max(outcome.stops),
        "node_faults": outcome.faults,
        "jobs_hit": sum(1 for losses in outcome.losses if losses),
        "lost_gpu_h": round(outcome.lost_s / 3600, 3),
        **({"plans": outcome.plans, "fragments": mean_fragments(outcome)} if policy in LIVE else {}),
        "by_size": _by([str(job.num_gpus) for job in jobs], waits),
        "by_vc": _by([job.vc or "-" for job in jobs], waits),
    }


def mean_fragments(outcome: Outcome) -> float:
    """Return how many free devices the next job could not use, on average over the time of the run."""
    return round(mean_over(outcome.fragments, max(outcome.end_s)), 3)


def spread(values: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float]:
    """Return average, p50, p99 and max; percentiles between two values are interpolated."""
    return {
        "average": round(float(values.mean()), 3),
        "p50": round(float(np.percentile(values, 50)), 3),
        "p99": round(float(np.percentile(values, 99)), 3),
        "max": int(values.max()),
    }


def _by(names: Sequence[str], waits: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, dict[str, float]]:
    found = {}
    labels = np.array(names)
    for name in sorted(set(names), key=lambda name: (len(name), name)):
        part = waits[labels == name]
        found[name] = {"jobs": int(part.size), **spread(part)}
    return found
