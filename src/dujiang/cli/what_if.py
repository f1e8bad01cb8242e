"""`dujiang simulate what-if`: one's own cluster as it is and changed, under the live scheduler. Asks no server."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import figure, note, write_json, write_table
from dujiang.cli.session import Json, Stop
from dujiang.cli.simulating import progress_bar, usage_errors
from dujiang.cli.simulating_predictions import simulate_app

if TYPE_CHECKING:
    from dujiang.scheduling.domain.queues import QueueTree
    from dujiang.scheduling.simulator.replay_work import Past, Terms
    from dujiang.scheduling.simulator.what_if import Base, Changes

__all__ = ["simulate_app", "what_if"]


@simulate_app.command(name="what-if")
def what_if(
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", metavar="FILE", help="Of `dujiang snapshot save`: the cluster, and its work."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--ledger", metavar="FILE", help="Of `dujiang ledger export`: its work, in place of the snapshot's."
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, max=100_000, help="Without a snapshot: how many nodes there are.")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, max=1024, help="Devices of each.")] = 8,
    add_nodes: Annotated[
        list[str] | None,
        typer.Option("--add-nodes", metavar="20:like=NODE", help="More nodes, each like one that is there."),
    ] = None,
    remove_nodes: Annotated[
        list[str] | None, typer.Option("--remove-nodes", metavar="NODE,...", help="Nodes to take away.")
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(
            "--quota", metavar="PROJECT=gpu:16", help="What a project may hold: gpu, cpu, memory; `none` lifts."
        ),
    ] = None,
    queues: Annotated[
        Path | None,
        typer.Option("--queues", metavar="FILE", help="Queues in place of those there, as `queues apply` takes."),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rules", metavar="KEY=VALUE", help="Of the scheduler: reservations=4, preempts=false."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", min=0.01, max=876_000, help="Stop after so long; else when all is done.")
    ] = None,
    runs_h: Annotated[
        float, typer.Option("--runs-h", min=0.01, max=87_600, help="How long work runs of which nothing is known.")
    ] = 24.0,
    checkpoint_s: Annotated[
        int, typer.Option("--checkpoint-s", min=0, max=31_536_000, help="Work between two saves; 0: nothing is saved.")
    ] = 3600,
    restart_s: Annotated[
        int, typer.Option("--restart-s", min=0, max=86_400, help="Work that each interruption adds to a job.")
    ] = 0,
    failures: Annotated[
        Path | None,
        typer.Option(
            "--failures",
            metavar="FILE",
            help="Table of node, start_day, end_day: nodes by their place in the cluster, day 0 is when it begins.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a report with plots to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Run the work of your own cluster once as it is and once with more nodes, other quotas, queues or rules."""
    from dujiang.scheduling.simulator.faults import read_faults
    from dujiang.scheduling.simulator.replay_work import Terms
    from dujiang.scheduling.simulator.what_if import changed, faults_on

    with usage_errors():
        base = _base(snapshot, ledger, nodes, gpus_per_node, runs_h)
        changes = _changes(base, add_nodes, remove_nodes, quota, queues, rules)
        other = changed(base, changes)
        faults = read_faults(failures) if failures else ()
        faulty = [faults_on(each.snapshot.fleet, base.snapshot.fleet, faults) for each in (base, other)]
    terms = Terms(
        checkpoint_s=checkpoint_s, restart_s=restart_s, until_s=None if hours is None else hours * 3600,
        keeps_spans=report is not None,
    )  # fmt: skip
    if base.guessed:
        note(f"Nothing tells how long {base.guessed} jobs run; {runs_h:g} h is taken. --runs-h says otherwise.")
    if not changes:
        note("Nothing is changed: both runs are the same. See --add-nodes, --remove-nodes, --quota, --queues, --rules.")
    with usage_errors(), progress_bar("jobs ended", 2 * len(base.works)) as advance:
        both = zip((base, other), faulty, strict=True)
        runs = [_run(each, replace(terms, faults=hit), advance) for each, hit in both]
    about = {
        "snapshot": str(snapshot or ""), "ledger": str(ledger or ""), "from": base.origin.isoformat(),
        "jobs": len(base.works), "guessed_run_times": base.guessed, "add_nodes": add_nodes or [],
        "remove_nodes": remove_nodes or [], "quota": quota or [], "queues": str(queues or ""), "rules": rules or [],
        "hours": hours, "failures": str(failures or ""),
    }  # fmt: skip
    if report is not None:
        from dujiang.scheduling.simulator.replay_report import what_if_report

        sides = [(each.works, *run) for each, run in zip((base, other), runs, strict=True)]
        report.write_text(what_if_report(about, sides[0], sides[1]))
        note(f"The report is in {report}.")
    told = [figures for _, figures in runs]
    if json:
        write_json({**about, "before": told[0], "after": told[1]})
    else:
        _write(told[0], told[1])


def _base(snapshot: Path | None, ledger: Path | None, nodes: int | None, gpus_per_node: int, runs_h: float) -> Base:
    from dujiang.cli.explaining import read_snapshot
    from dujiang.scheduling.domain.snapshot import snapshot_of_rows
    from dujiang.scheduling.simulator.ledger_export import read_export
    from dujiang.scheduling.simulator.replay_traces import even_fleet
    from dujiang.scheduling.simulator.what_if import Base, base_of_snapshot

    if snapshot is None and (ledger is None or nodes is None):
        raise Stop("Give --snapshot FILE, or --ledger FILE with --nodes N or --snapshot FILE.", Exit.USAGE)
    if snapshot is not None and nodes is not None:
        raise Stop("--snapshot has nodes of its own; leave --nodes away.", Exit.USAGE)
    if snapshot is not None:
        taken = read_snapshot(snapshot)
        base = base_of_snapshot(taken.snapshot, taken.now, runs_s=runs_h * 3600)
    if ledger is None:
        return base
    works, origin = read_export(ledger)
    if snapshot is not None:
        return base.with_work(works, origin)
    fleet = even_fleet(nodes or 1, gpus_per_node, cpu_milli=_PLENTY_MILLI, memory_bytes=_PLENTY_BYTES)
    return Base(snapshot_of_rows(fleet), tuple(works), origin)


_PLENTY_MILLI, _PLENTY_BYTES = 1 << 39, 1 << 60
"""Processors and memory of nodes of which only the devices are told: they do not limit anything."""


def _changes(
    base: Base, add: Sequence[str] | None, remove: Sequence[str] | None, quota: Sequence[str] | None,
    queues: Path | None, rules: Sequence[str] | None,
) -> Changes:  # fmt: skip
    from dujiang.scheduling.domain.snapshot import Quota
    from dujiang.scheduling.simulator.what_if import Changes, parse_nodes, parse_quota, parse_rules, quota_of

    quotas: dict[str, Quota] = {}
    for text in quota or ():
        project, limits = parse_quota(text)
        quotas[project] = quota_of(quotas.get(project) or base.snapshot.quotas.get(project), limits)
    known = {work.request.project_id for work in base.works}
    for project in sorted(quotas.keys() - known):
        note(f"No job here is of project {project}; projects are named as they are in the file, by identifier.")
    return Changes(
        add=tuple(parse_nodes(text) for text in add or ()),
        remove=tuple(name.strip() for text in remove or () for name in text.split(",") if name.strip()),
        quotas=quotas, queues=None if queues is None else _queues(queues),
        rules=parse_rules(base.snapshot.rules, rules) if rules else None,
    )  # fmt: skip


def _queues(file: Path) -> QueueTree:
    from dujiang.cli.submitting import show_problems
    from dujiang.kit.spec.problems import SpecInvalid
    from dujiang.scheduling.domain.queue_document import parse_queues

    try:
        source = file.read_bytes()
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror or error}.", Exit.USAGE) from error
    try:
        return parse_queues(source)
    except SpecInvalid as error:
        show_problems(str(file), source, error)
        raise Stop("Nothing was simulated: the queues cannot be read.", Exit.USAGE) from error


def _run(base: Base, terms: Terms, advance: Any) -> tuple[Past, dict[str, Any]]:
    from dujiang.scheduling.simulator.replay import replay
    from dujiang.scheduling.simulator.replay_figures import figures

    began, seen = perf_counter(), 0

    def tell(ended: int) -> None:
        nonlocal seen
        if advance is not None:
            advance(ended - seen)
        seen = ended

    past = replay(base.snapshot, base.works, terms, base.origin, tell=tell)
    return past, {**figures(base.works, past), "seconds": round(perf_counter() - began, 3)}


def _write(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    from dujiang.scheduling.simulator.replay_figures import compared

    rows = []
    for name, *values in compared(before, after):
        both = [value for value in values if value is not None]
        difference = figure(round(both[1] - both[0], 6) + 0) if len(both) == 2 else "-"
        rows.append([name, *("-" if value is None else figure(value) for value in values), difference])
    write_table(["", "AS IT IS", "CHANGED", "DIFFERENCE"], rows, right=[False, True, True, True])
    for which, run in (("As it is", before), ("Changed", after)):
        if run["not_started"]:
            sys.stdout.write(f"{which}: {run['not_started']:,} of {run['jobs']:,} jobs never start; their waits count "
                             "until the end of the run.\n")  # fmt: skip
