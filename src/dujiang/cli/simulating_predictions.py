"""`dujiang simulate predictions`: how well run times can be told on a trace."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dujiang.cli.output import note, write_json, write_table
from dujiang.cli.session import Json
from dujiang.cli.simulating import simulate_app, usage_errors
from dujiang.cli.simulating_queue import JobsFile

__all__ = ["predictions", "simulate_app"]

_TITLES = ("BY", "JOBS", "MEDIAN RATIO", "MEAN RATIO", "WITHIN x2", "CLOSENESS", "MEAN ERROR S", "P90 ERROR S")


@simulate_app.command()
def predictions(jobs: JobsFile, json: Json = False) -> None:
    """Tell the run time of each job of a trace by those that had ended before it, and say how wrong that was."""
    from dujiang.scheduling.simulator.jobs_traces import read_jobs
    from dujiang.scheduling.simulator.predictions import compare

    with usage_errors():
        trace = read_jobs(jobs)
    found: list[dict[str, Any]] = []
    for each in compare(trace.jobs):
        figures = asdict(each.accuracy) if each.accuracy is not None else {}
        found.append({"by": each.name, "told": each.told, **figures, "by_group": dict(each.by_group)})
    if json:
        write_json({"file": str(jobs), "form": trace.form, "of": len(trace.jobs), "results": found})
        return
    rows = [
        [each["by"], str(each["jobs"]), f"{each['median_ratio']:.3f}", f"{each['mean_ratio']:.3g}",
         f"{each['within_factor_2']:.1%}", f"{each['closeness']:.3f}", f"{each['mean_error_s']:.0f}",
         f"{each['p90_error_s']:.0f}"]
        for each in found if "jobs" in each
    ]  # fmt: skip
    if not rows:
        note(f"No job of {jobs} was submitted after others had ended, so nothing could be told.")
        return
    write_table(_TITLES, rows, right=[False] + [True] * (len(_TITLES) - 1))
