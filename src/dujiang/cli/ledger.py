"""`dujiang ledger`: who held what and when, as a file that can be replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import note, size, write_json
from dujiang.cli.session import Json, Project, Stop, connect

ledger_app = typer.Typer(help="Who held what and when.", no_args_is_help=True)


@ledger_app.callback()
def _ledger() -> None:
    """A group also while it has one command."""


@ledger_app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .csv, .csv.gz, .jsonl or .jsonl.gz.")],
    project: Project = None,
    since: Annotated[str | None, typer.Option("--since", help="Held at or after this time (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Held before this time.")] = None,
    json: Json = False,
) -> None:
    """Write one row for each attempt that has ended: job, project, class, submitted, started, ended, what it held."""
    from dujiang.kit.errors import Invalid
    from dujiang.scheduling.simulator.ledger_export import held_of, write_export

    with connect() as client:
        query = {"project": project, "since": since, "until": until}
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
