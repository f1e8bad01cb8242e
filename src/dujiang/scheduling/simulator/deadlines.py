"""Elastic jobs with deadlines in virtual time: which are promised their deadline, and which meet it.

Time goes in slots. In each slot a job holds one of the numbers of devices for which its speed was measured, up to the
fastest, or none; devices are a pool. A start and a change of their number cost a job `rescale_s`.

| policy | admits | gives |
| --- | --- | --- |
| edf | all | by deadline, to each the number at which it is fastest, or the most that is left |
| elasticflow | at arrival, or never | each the smallest share that keeps its deadline, the rest where it helps most |
| default | when there is room, while the deadline can be met | the same, and the last rest to those not admitted |

ElasticFlow: Gu et al., ASPLOS 2023: admission by progressive filling in order of deadlines, marginal returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dujiang.kit.errors import Invalid
from dujiang.scheduling.simulator.jobs_traces import TraceJob, read_table
from dujiang.scheduling.simulator.traces import BadTrace

Curves = dict[tuple[str, int], dict[int, float]]
"""Iterations a second by model and batch, then by devices."""

DEADLINE_POLICIES: Final = ("edf", "elasticflow", "default")


class NoCurve(Invalid):
    """A job of a model and batch whose speed was not measured."""

    code, title = "no_curve", "The speed of a job is not known"


@dataclass(frozen=True, slots=True)
class DeadlineOutcome:
    """What became of the jobs, in the order in which they were given."""

    end_s: NDArray[np.float64]
    """When its work was done; infinite if it never was."""
    met: NDArray[np.bool_]
    admitted: NDArray[np.bool_]
    possible: NDArray[np.bool_]
    """It could have met its deadline on an empty cluster."""


def read_curves(path: Path) -> Curves:
    """Read speeds: columns model, global_batch_size, gpus, iterations_per_s.

    Raises:
        BadTrace: what is wrong, with row and column.
    """
    curves: Curves = {}
    for row in read_table(path, ("model", "global_batch_size", "gpus", "iterations_per_s")):
        text = row.text("iterations_per_s")
        try:
            rate = float(text)
        except ValueError:
            raise row.bad("iterations_per_s", f"{text!r} is not a number.") from None
        if not 0 < rate < 1e12:
            raise row.bad("iterations_per_s", f"{text} is not a number above 0.")
        batch = row.whole("global_batch_size", least=1, most=1 << 31)
        gpus = row.whole("gpus", least=1, most=1 << 20)
        curves.setdefault((row.text("model"), batch), {})[gpus] = rate
    if not curves:
        raise BadTrace(f"{path} has no speed. Give a file with one measurement a row.", file=str(path))
    return curves


def useful(curve: dict[int, float], most: int) -> list[tuple[int, float]]:
    """Return numbers of devices and speeds that rise together, up to the fastest that the cluster can hold."""
    steps: list[tuple[int, float]] = []
    for gpus in sorted(curve):
        if gpus <= most and (not steps or curve[gpus] > steps[-1][1]):
            steps.append((gpus, curve[gpus]))
    return steps


def simulate_deadlines(
    jobs: Sequence[TraceJob], curves: Curves, policy: str, *, gpus: int, slot_s: int = 60, rescale_s: float = 0.0
) -> DeadlineOutcome:
    """Run a trace to its end under a policy.

    Args:
        jobs: with deadline_s, model, batch_size and iterations.
        gpus: devices of the pool.
        rescale_s: time that a job loses when it starts and whenever its number of devices changes.

    Raises:
        NoCurve: a job lacks one of these, or its speed was not measured.
    """
    from dujiang.scheduling.simulator.deadline_slots import play

    if policy not in DEADLINE_POLICIES:
        raise Invalid(f"There is no deadline policy {policy!r}. Choose one of {', '.join(DEADLINE_POLICIES)}.")
    names = sorted({(job.model, job.batch_size) for job in jobs})
    which = {name: place for place, name in enumerate(names)}
    steps: list[list[tuple[int, float]]] = []
    for name in names:
        steps.append(useful(curves.get(name, {}), gpus))
        if not steps[-1]:
            raise NoCurve(f"No speed of model {name[0] or '(none)'} with batch {name[1]} is known. Add it to the table "
                          "of speeds, or leave those jobs out.")  # fmt: skip
    for job in jobs:
        if job.deadline_s is None or not job.iterations:
            raise NoCurve(f"Job {job.job} has no deadline_s or no iterations. Give a trace that has both columns.")
    depth = max(len(each) for each in steps)
    sizes, rates = np.zeros((len(steps), depth), np.int64), np.zeros((len(steps), depth), np.float64)
    for place, each in enumerate(steps):
        sizes[place, : len(each)] = [size for size, _ in each]
        rates[place, : len(each)] = [rate for _, rate in each]
    counts = np.array([len(each) for each in steps], np.int64)
    curve = np.array([which[job.model, job.batch_size] for job in jobs], np.int64)
    submit, deadline, work = (
        np.array(values, np.float64)
        for values in (
            [job.submit_s for job in jobs], [job.deadline_s for job in jobs], [job.iterations for job in jobs],
        )
    )  # fmt: skip
    fastest = rates[curve, counts[curve] - 1]
    end_s, admitted = play(
        submit,
        deadline,
        work,
        curve,
        sizes,
        rates,
        counts,
        gpus,
        float(slot_s),
        float(rescale_s),
        DEADLINE_POLICIES.index(policy),
    )
    return DeadlineOutcome(end_s, end_s <= deadline + 1e-6, admitted, submit + work / fastest <= deadline)


def deadline_summary(jobs: Sequence[TraceJob], outcome: DeadlineOutcome, policy: str) -> dict[str, Any]:
    """Return the figures of one policy."""
    count = len(jobs)
    return {
        "policy": policy,
        "jobs": count,
        "deadlines_met": int(outcome.met.sum()),
        "deadline_satisfied": round(float(outcome.met.mean()), 6),
        "admitted": int(outcome.admitted.sum()),
        "admitted_and_missed": int((outcome.admitted & ~outcome.met).sum()),
        "possible_alone": round(float(outcome.possible.mean()), 6),
    }
