"""`dujiang simulate queue`, `partition`, `deadlines`, `sharing`: waiting, deadlines, and what sharing is worth."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import note, write_json, write_table
from dujiang.cli.session import Json, Stop
from dujiang.cli.simulating import Policies, progress_bar, simulate_app, usage_errors

__all__ = ["deadlines", "partition", "queue", "sharing", "simulate_app"]

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
    gangs: Annotated[
        str,
        typer.Option(
            "--gangs", help="Of policy live: node (a gang that fits on a node is not split) or any (anywhere)."
        ),
    ] = "node",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first so many jobs of the trace.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a report with plots to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a trace of gang jobs over a pool of nodes and say how long they wait under each policy."""
    from dujiang.scheduling.simulator.faults import read_faults
    from dujiang.scheduling.simulator.jobs_traces import read_jobs
    from dujiang.scheduling.simulator.queue import Rules, simulate
    from dujiang.scheduling.simulator.queue_policies import POLICIES
    from dujiang.scheduling.simulator.queue_summary import summary
    from dujiang.scheduling.simulator.replay_traces import GANGS, LIVE, simulate_live

    names = list(dict.fromkeys(policy or ["default"]))
    if gangs not in GANGS:
        raise Stop(f"--gangs {gangs}: choose one of {', '.join(GANGS)}.", Exit.USAGE)
    with usage_errors():
        for name in names:
            if name not in (*POLICIES, *LIVE):
                known = ", ".join((*POLICIES, *LIVE))
                raise Stop(f"There is no queueing policy {name!r}. Choose one of {known}.", Exit.USAGE)
        trace = read_jobs(jobs)
        trace = replace(trace, jobs=trace.jobs[:limit])
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

            keep = report is not None
            if name in LIVE:
                outcome = simulate_live(trace.jobs, name, rules, gangs=gangs, tell=tell, keep_spans=keep)
            else:
                outcome = simulate(trace.jobs, name, rules, tell=tell, keep_spans=keep)
            outcomes[name] = outcome
            told.append(
                {
                    **summary(trace.jobs, outcome, name, max_wait_s=rules.max_wait_s),
                    "seconds": round(perf_counter() - began, 3),
                }
            )
    about: dict[str, Any] = {
        "trace": str(jobs), "form": trace.form, "left_out": trace.left_out, "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "max_wait_s": rules.max_wait_s, "restart_s": restart_s, "checkpoint_s": checkpoint_s,
    }  # fmt: skip
    if any(name in LIVE for name in names):
        about["gangs"] = gangs
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


@simulate_app.command()
def partition(
    jobs: Annotated[Path | None, typer.Option("--jobs", help="Trace of jobs with column vc.")] = None,
    minutes: Annotated[
        Path | None, typer.Option("--minutes", help="Instead: vc, minute, total_gpus, running_gpus, pending_gpus.")
    ] = None,
    gpus_per_node: GpusPerNode = 8,
    policy: Policies = None,
    fill: Annotated[
        float, typer.Option("--fill", min=0.05, max=1, help="Mean load at which a virtual cluster gets its nodes.")
    ] = 0.8,
    json: Json = False,
) -> None:
    """Say what virtual clusters with nodes of their own lose against one pool of the same nodes."""
    from dujiang.scheduling.simulator.jobs_traces import read_jobs
    from dujiang.scheduling.simulator.partition import compare, pool_bound, read_minutes, shares
    from dujiang.scheduling.simulator.queue import Rules
    from dujiang.scheduling.simulator.queue_policies import kind_of

    if (jobs is None) == (minutes is None):
        raise Stop("Give either --jobs or --minutes.", Exit.USAGE)
    with usage_errors():
        if minutes is not None:
            bound = pool_bound(read_minutes(minutes))
            if json:
                write_json({"trace": str(minutes), **bound})
            else:
                sys.stdout.write(
                    f"In use: {bound['static_utilisation']:.2%} as it was, "
                    f"at most {bound['pool_bound']:.2%} as one pool; devices idle elsewhere could have served "
                    f"{bound['waiting_that_idle_gpus_could_serve']:.1%} of the waiting.\n"
                )
            return
        assert jobs is not None
        names = list(dict.fromkeys(policy or ["fifo", "default"]))
        for name in names:
            kind_of(name)
        trace = read_jobs(jobs).jobs
        nodes_of = shares(trace, gpus_per_node, fill=fill)
        told = []
        with progress_bar("jobs ended", 2 * len(trace) * len(names)) as advance:
            for name in names:
                seen = 0

                def tell(ended: int) -> None:
                    nonlocal seen
                    if advance is not None:
                        advance(ended - seen)
                    seen = ended

                told.append(compare(trace, name, Rules(1, gpus_per_node), nodes_of, tell=tell))
    if json:
        about = {"trace": str(jobs), "gpus_per_node": gpus_per_node, "fill": fill, "nodes_of": nodes_of}
        write_json({**about, "policies": told})
        return
    rows = [
        [each["policy"], f"{each['static_average_s']:,.0f}", f"{each['pool_average_s']:,.0f}", f"{each['ratio']:.2f}",
         f"{each['static_max_s']:,}", f"{each['pool_max_s']:,}"]
        for each in told
    ]  # fmt: skip
    titles = ["POLICY", "APART AVG S", "POOL AVG S", "RATIO", "APART MAX S", "POOL MAX S"]
    write_table(titles, rows, right=[False, *(True for _ in titles[1:])])
    sys.stdout.write(f"{len(nodes_of)} virtual clusters, {sum(nodes_of.values())} nodes of {gpus_per_node}.\n")


@simulate_app.command()
def deadlines(
    jobs: Annotated[Path, typer.Option("--jobs", help="Trace with deadline_s, model, batch_size, iterations.")],
    throughput: Annotated[
        Path, typer.Option("--throughput", help="Speeds: model, global_batch_size, gpus, iterations_per_s.")
    ],
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=1_000_000, help="Nodes of the cluster.")],
    gpus_per_node: GpusPerNode = 8,
    policy: Policies = None,
    slot_s: Annotated[int, typer.Option("--slot-s", min=1, max=86_400, help="Time between two decisions.")] = 60,
    rescale_s: Annotated[
        float,
        typer.Option("--rescale-s", min=0, max=3600, help="What a start or another number of devices costs a job."),
    ] = 0.0,
    json: Json = False,
) -> None:
    """Run elastic jobs with deadlines and say how many meet them, under edf, elasticflow or default."""
    from dujiang.scheduling.simulator.deadlines import (
        DEADLINE_POLICIES,
        deadline_summary,
        read_curves,
        simulate_deadlines,
    )
    from dujiang.scheduling.simulator.jobs_traces import read_jobs

    names, told = list(dict.fromkeys(policy or ["default"])), []
    if wrong := [name for name in names if name not in DEADLINE_POLICIES]:
        raise Stop(f"--policy {wrong[0]}: choose one of {', '.join(DEADLINE_POLICIES)}.", Exit.USAGE)
    with usage_errors(), progress_bar("policies", len(names)) as advance:
        trace, curves = read_jobs(jobs).jobs, read_curves(throughput)
        for name in names:
            began = perf_counter()
            outcome = simulate_deadlines(
                trace, curves, name, gpus=nodes * gpus_per_node, slot_s=slot_s, rescale_s=rescale_s
            )
            figures = deadline_summary(trace, outcome, name)
            told.append({**figures, "seconds": round(perf_counter() - began, 3)})
            if advance is not None:
                advance(1)
    about = {
        "trace": str(jobs),
        "nodes": nodes,
        "gpus_per_node": gpus_per_node,
        "slot_s": slot_s,
        "rescale_s": rescale_s,
    }
    if json:
        write_json({**about, **told[0]} if len(told) == 1 else {**about, "policies": told})
        return
    rows = [
        [each["policy"], f"{each['deadline_satisfied']:.4f}", f"{each['deadlines_met']:,}", f"{each['admitted']:,}",
         f"{each['admitted_and_missed']:,}", f"{each['possible_alone']:.4f}", f"{each['seconds']:.1f}"]
        for each in told
    ]  # fmt: skip
    titles = ["POLICY", "MET", "JOBS", "ADMITTED", "OF THESE MISSED", "POSSIBLE ALONE", "S"]
    write_table(titles, rows, right=[False, *(True for _ in titles[1:])])


@simulate_app.command()
def sharing(
    pods: Annotated[Path, typer.Option("--pods", help="Pods with creation_time and deletion_time: .csv or .csv.gz.")],
    json: Json = False,
) -> None:
    """Say how much of the devices that pods hold they asked for: whole devices, or shares of one for several."""
    from dujiang.scheduling.simulator.sharing import read_stays
    from dujiang.scheduling.simulator.sharing import sharing as figures_of

    with usage_errors():
        figures = figures_of(read_stays(pods))
    if json:
        write_json({"pods_file": str(pods), **figures})
        return
    rows = [
        [name, f"{part['held_gpu_h']:,.0f}", f"{part['asked_of_held']:.2%}", f"{part['most_gpus']:,}",
         f"{part['asked_of_fixed']:.2%}"]
        for name, part in (("whole devices", figures["whole"]), ("shares", figures["shared"]))
    ]  # fmt: skip
    titles = ["", "HELD GPU-H", "ASKED OF HELD", "MOST GPUS", "ASKED OF A CLUSTER OF THAT SIZE"]
    write_table(titles, rows, right=[False, *(True for _ in titles[1:])])
