"""`dujiang simulate queue`, `partition` and `deadlines`: what a policy makes of waiting and of deadlines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from dujiang.cli.output import note, write_json, write_table
from dujiang.cli.session import Json
from dujiang.cli.simulating import Policies, progress_bar, simulate_app, usage_errors

__all__ = ["queue", "simulate_app"]

JobsFile = Annotated[Path, typer.Option("--jobs", help="Trace of jobs: Philly, ITP or ledger table, ledger JSON, SWF.")]
GpusPerNode = Annotated[int, typer.Option("--gpus-per-node", min=1, max=1024, help="Devices of each node.")]


@simulate_app.command()
def queue(
    jobs: JobsFile,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=1_000_000, help="Nodes of the cluster.")],
    gpus_per_node: GpusPerNode = 8,
    policy: Policies = None,
    max_wait_h: Annotated[
        float, typer.Option("--max-wait-h", min=0, max=87_600, help="Bound on waiting of policy default; 0: none.")
    ] = 48.0,
    restart_s: Annotated[
        int, typer.Option("--restart-s", min=0, max=86_400, help="Work that each interruption adds to a job.")
    ] = 0,
    failures: Annotated[
        Path | None,
        typer.Option("--failures", help="Table of node, start_day, end_day; day 0 is the first submission."),
    ] = None,
    checkpoint_s: Annotated[
        int, typer.Option("--checkpoint-s", min=0, max=31_536_000, help="Work between checkpoints; 0: none is made.")
    ] = 3600,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a report with plots to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a trace of gang jobs over a pool of nodes and say how long they wait under each policy."""
    from dujiang.scheduling.simulator.faults import read_faults
    from dujiang.scheduling.simulator.jobs_traces import read_jobs
    from dujiang.scheduling.simulator.queue import Rules, simulate
    from dujiang.scheduling.simulator.queue_policies import kind_of
    from dujiang.scheduling.simulator.queue_summary import summary

    names = list(dict.fromkeys(policy or ["default"]))
    with usage_errors():
        for name in names:
            kind_of(name)
        trace = read_jobs(jobs)
        faults = read_faults(failures, origin_s=trace.jobs[0].submit_s) if failures else ()
    rules = Rules(nodes, gpus_per_node, round(max_wait_h * 3600), restart_s, checkpoint_s, faults)
    if trace.left_out:
        note(f"{trace.left_out} rows of {jobs} never ran or still run, and are left out.")
    told, outcomes = [], {}
    with usage_errors(), progress_bar("jobs ended", len(trace.jobs) * len(names)) as advance:
        for name in names:
            began, seen = perf_counter(), 0

            def tell(ended: int) -> None:
                nonlocal seen
                if advance is not None:
                    advance(ended - seen)
                seen = ended

            outcome = outcomes[name] = simulate(trace.jobs, name, rules, tell=tell, keep_spans=report is not None)
            told.append({**summary(trace.jobs, outcome, name), "seconds": round(perf_counter() - began, 3)})
    about = {
        "trace": str(jobs), "form": trace.form, "left_out": trace.left_out, "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "max_wait_s": rules.max_wait_s, "restart_s": restart_s, "checkpoint_s": checkpoint_s,
    }  # fmt: skip
    if report is not None:
        from dujiang.scheduling.simulator.queue_report import queue_report

        report.write_text(queue_report(about, trace.jobs, told, outcomes))
        note(f"The report is in {report}.")
    if json:
        write_json({**about, **told[0]} if len(told) == 1 else {**about, "policies": told})
    else:
        _write_queue(told, bool(faults))


def _write_queue(told: Sequence[Mapping[str, Any]], has_faults: bool) -> None:
    titles = ["POLICY", "AVG WAIT S", "P50", "P99", "MAX", "AVG JCT S", "P50", "P99", "USE %", "STOPS", "S"]
    rows = []
    for each in told:
        waits, jct = each["queueing_s"], each["jct_s"]
        name = each["policy"] + (" *" if each["knows_run_times"] else "")
        rows.append([
            name, f"{waits['average']:,.0f}", f"{waits['p50']:,.0f}", f"{waits['p99']:,.0f}", f"{waits['max']:,.0f}",
            f"{jct['average']:,.0f}", f"{jct['p50']:,.0f}", f"{jct['p99']:,.0f}", f"{100 * each['utilisation']:.1f}",
            f"{each['stops']:,}", f"{each['seconds']:.1f}",
        ])  # fmt: skip
    write_table(titles, rows, right=[False, *(True for _ in titles[1:])])
    if any(each["knows_run_times"] for each in told):
        sys.stdout.write("* knows how long each job will run, as no platform does.\n")
    if has_faults:
        for each in told:
            sys.stdout.write(f"{each['policy']}: {each['node_faults']} failures of nodes hit {each['jobs_hit']} jobs; "
                             f"{each['lost_gpu_h']:,.1f} GPU-hours were done twice.\n")  # fmt: skip
