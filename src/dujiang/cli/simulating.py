"""`dujiang simulate`: replay public traces on this machine, policies side by side. Asks no server.

Each trace has a command of its own here; what is heavy is imported when one runs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import note, write_json, write_table
from dujiang.cli.session import Json, Stop
from dujiang.kit.errors import Invalid

if TYPE_CHECKING:
    from dujiang.scheduling.simulator.openb import Outcome

simulate_app = typer.Typer(help="Replay public traces under any policy, on this machine alone.", no_args_is_help=True)

Policies = Annotated[
    list[str] | None, typer.Option("--policy", help="Which policy; given several times, they stand side by side.")
]
MOST_SEEDS = 1000


@simulate_app.command()
def openb(
    nodes: Annotated[Path, typer.Option("--nodes", help="Nodes of the trace: .csv or .csv.gz.")],
    pods: Annotated[Path, typer.Option("--pods", help="Pods of the trace: .csv or .csv.gz.")],
    policy: Policies = None,
    arrival: Annotated[
        float, typer.Option("--arrival", min=0.01, max=10, help="What arrives in all, as a part of the GPUs there are.")
    ] = 1.3,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of the shuffles: 42, 42-51 or 1,5,7-9.")] = "42",
    moves: Annotated[
        float,
        typer.Option("--moves", min=0, max=1, help="How many of the placed pods may be moved, as a part of them."),
    ] = 0.0,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            min=0,
            max=1,
            help="How much may wait although it fits, as a part of the GPUs; 0.09 with --moves, else 0.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a report with plots to this file.")] = None,
    json: Json = False,
) -> None:
    """Fill a cluster with arriving pods and say how much of its GPUs each policy allocates."""
    from dujiang.scheduling.simulator.openb import experiment_of, policy_number, simulate
    from dujiang.scheduling.simulator.traces import read_nodes, read_pods

    numbers, names = seeds_of(seeds), list(dict.fromkeys(policy or ["default"]))
    with usage_errors():
        for name in names:
            policy_number(name, moves=moves, wait=wait or 0.0)
        experiment = experiment_of(read_nodes(nodes), read_pods(pods))
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    with progress_bar("pods decided", experiment.arrivals(arrival) * len(numbers) * len(names)) as advance:
        for seed in numbers:
            for name in names:
                found[name].append(
                    simulate(experiment, name, arrival=arrival, seed=seed, moves=moves, wait=wait, progress=advance)
                )
    told = [summary(outcomes) for outcomes in found.values()]
    about = {"nodes": str(nodes), "pods": str(pods), "gpus": experiment.capacity_milli / 1000, "arrival": arrival}
    if html is not None:
        from dujiang.scheduling.simulator.report import openb_report

        html.write_text(openb_report(about, told))
        note(f"The report is in {html}.")
    if json:
        write_json({**about, "seeds": numbers, "policies": told})
    else:
        _write(told)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what the runs of one policy came to: means over the seeds, and each run."""
    percents = sorted(set.intersection(*(set(each.allocation_pct) for each in outcomes)))

    def mean(value: Callable[[Outcome], float]) -> float:
        return round(sum(value(each) for each in outcomes) / len(outcomes), 4)

    return {
        "policy": outcomes[0].policy,
        "allocation_pct": {str(at): mean(lambda each, at=at: each.allocation_pct[at]) for at in percents},  # type: ignore[misc]
        "fragments_pct": {str(at): mean(lambda each, at=at: each.fragments_pct[at]) for at in percents},  # type: ignore[misc]
        "pods_arrived": mean(lambda each: each.arrived),
        "pods_placed": mean(lambda each: each.placed),
        "fragments_gpus": mean(lambda each: each.fragments_milli / 1000),
        "idle_gpus": mean(lambda each: each.idle_milli / 1000),
        "moves": mean(lambda each: each.moves),
        "waited_pods": mean(lambda each: each.waited),
        "held_back_gpus": mean(lambda each: each.held_milli / 1000),
        "seconds": mean(lambda each: each.seconds),
        "decisions_per_s": round(sum(e.arrived for e in outcomes) / max(1e-9, sum(e.seconds for e in outcomes)), 1),
        "runs": [_run(each) for each in outcomes],
    }


def _run(outcome: Outcome) -> dict[str, Any]:
    last = max(outcome.allocation_pct)
    return {
        "seed": outcome.seed, "arrived_pct": last, "allocation_pct": outcome.allocation_pct[last],
        "pods_arrived": outcome.arrived, "pods_placed": outcome.placed,
        "fragments_gpus": outcome.fragments_milli / 1000, "idle_gpus": outcome.idle_milli / 1000,
        "moves": outcome.moves, "waited_pods": outcome.waited, "held_back_gpus": outcome.held_milli / 1000,
        "seconds": round(outcome.seconds, 4),
    }  # fmt: skip


def _write(told: Sequence[Mapping[str, Any]]) -> None:
    last = max(int(at) for at in told[0]["allocation_pct"])
    shown = sorted({at for at in (*range(10, last, 10), 100, last) if str(at) in told[0]["allocation_pct"]})[-5:]
    titles = ["POLICY", *(f"AT {at} %" for at in shown), "PODS", "FRAGMENTS", "MOVES", "S", "DECISIONS/S"]
    rows = [
        [
            each["policy"], *(f"{each['allocation_pct'][str(at)]:.2f}" for at in shown),
            f"{each['pods_placed']:.0f} of {each['pods_arrived']:.0f}", f"{each['fragments_gpus']:.1f}",
            f"{each['moves']:.0f}", f"{each['seconds']:.2f}", f"{each['decisions_per_s']:,.0f}",
        ]
        for each in told
    ]  # fmt: skip
    write_table(titles, rows, right=[False, *(True for _ in titles[1:])])
    sys.stdout.write("Allocated GPUs in % of all, at each % of arrival; FRAGMENTS in GPUs; means over the seeds.\n")


# What the commands of this group share


def seeds_of(text: str) -> list[int]:
    """Return the seeds that a text names: `42`, `42-51`, `1,5,7-9`.

    Raises:
        Stop: it names none, or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first or last - first >= MOST_SEEDS:
            raise Stop(f"--seeds {text}: write 42, 42-51 or 1,5,7-9, at most {MOST_SEEDS} seeds.", Exit.USAGE)
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what was given wrongly into the exit code for that.

    Raises:
        Stop: with the same sentence.
    """
    try:
        yield
    except Invalid as error:
        raise Stop(error.sentence, Exit.USAGE) from error


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on standard error while that is a terminal; yields what to tell it, None when nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
