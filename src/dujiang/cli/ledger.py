"""`dujiang ledger`: who held what and when: as a file that can be replayed, and against what clusters account."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, heading, moment, note, say, size, write_json, write_table
from dujiang.cli.session import Json, Project, Stop, connect
from dujiang.cli.times import TIME, sent

ledger_app = typer.Typer(help="Who held what and when.", no_args_is_help=True)


@ledger_app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv, .csv.gz, .jsonl or .jsonl.gz.")],
    project: Project = None,
    since: Annotated[str | None, typer.Option("--since", help=f"Held at or after this: {TIME}")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Held before this time.")] = None,
    json: Json = False,
) -> None:
    """Write one row for each attempt that has ended: job, project, class, submitted, started, ended, what it held."""
    from dujiang.kit.errors import Invalid
    from dujiang.scheduling.simulator.ledger_export import held_of, write_export

    with connect() as client:
        query = {"project": project, "since": sent("--since", since), "until": sent("--until", until)}
        allocations = list(client.items("/v1/allocations", **query))
        jobs = client.items("/v1/jobs", all=True, project=project)
        rows, running = held_of(allocations, jobs)
    try:
        write_export(file, rows)
    except Invalid as error:
        raise Stop(error.sentence, Exit.USAGE) from error
    except OSError as error:
        raise Stop(f"{file} cannot be written: {error.strerror or error}.", Exit.FAILED) from error
    if json:
        write_json({"file": str(file), "attempts": len(rows), "still_running": running})
        return
    left = f"; {running} still run and are left out" if running else ""
    many = "s are" if len(rows) != 1 else " is"
    note(f"{len(rows)} attempt{many} in {file} ({size(file.stat().st_size)}){left}. "
         f"`dujiang simulate what-if --ledger {file}` replays them.")  # fmt: skip


@ledger_app.command()
def reconcile(
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="One cluster; all that keep accounts if left out.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="A day before --until if left out.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Now if left out.")] = None,
    tolerance_s: Annotated[
        float | None, typer.Option("--tolerance", min=0, help="How far moments may differ, s; 5 if left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare the ledger with what clusters account themselves (sacct); exits 7 and says what differs if it does."""
    with connect() as client:
        query = {"cluster": cluster, "since": sent("--since", since), "until": sent("--until", until),
                 "tolerance_s": tolerance_s}  # fmt: skip
        found = client.get("/v1/allocations/reconcile", **query)
    if json:
        write_json(found)
    else:
        for each in found["clusters"]:
            _write_reconciliation(each)
    if not found["holds"]:
        raise typer.Exit(int(Exit.NOT_PROVEN))


def _write_reconciliation(found: dict[str, Any]) -> None:
    heading(f"{clean(found['cluster'])}, {moment(found['since'])} to {moment(found['until'])}")
    limit = f"{found['tolerance_s']:g} s"
    say(f"Attempts: {found['attempts']}; not the same on both sides (by more than {limit}, or in amount): "
        f"{found['differing']}.")  # fmt: skip
    say(f"GPU seconds: {found['ledger_gpu_s']:.3f} by the ledger, {found['accounts_gpu_s']:.3f} by the accounts there, "
        f"difference {found['difference_gpu_s']:.3f}.")  # fmt: skip
    rows = [
        [clean(f"{each['job_id']}.{each['attempt']}"), clean(", ".join(one["job"] for one in each["accounts"]) or "-"),
         clean("; ".join(each["differences"]))]
        for each in found["items"]
    ]  # fmt: skip
    if rows:
        write_table(["ATTEMPT", "THERE", "DIFFERENCE"], rows, right=[False, False, False])
