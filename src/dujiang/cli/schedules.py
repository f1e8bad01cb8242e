"""`dujiang schedule`: work at the times of a cron expression."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import Column, ago, col, listing, moment, say, seconds, write_facts, write_json
from dujiang.cli.session import Json, Project, Stop, connect

schedule_app = typer.Typer(help="Work that is submitted again and again.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of a schedule.")]


@schedule_app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique in the project.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON of one job; - is standard input.")],
    cron: Annotated[str, typer.Option("--cron", help='Minute, hour, day, month, weekday: "0 3 * * *".')],
    time_zone: Annotated[str, typer.Option("--time-zone", help="In which the times are meant: Asia/Shanghai.")] = "UTC",
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap",
            metavar="allow|skip|replace",
            help="When the run before has not ended: both, skip, or cancel it.",
        ),
    ] = "skip",
    catch_up: Annotated[
        str, typer.Option("--catch-up", help="How late a run may begin after the platform was away, at most 7d.")
    ] = "1h",
    project: Project = None,
    json: Json = False,
) -> None:
    """Have a job submitted at the times of a cron expression, in your name."""
    from dujiang.cli.submitting import read_files
    from dujiang.client import persist
    from dujiang.kit.units import parse_duration_s

    specs = read_files([file])
    if len(specs) != 1:
        raise Stop(f"{file} holds {len(specs)} jobs; a schedule submits one.", Exit.USAGE)
    document = specs[0].document(reveal_secrets=True) | ({"project": project} if project is not None else {})
    body = {
        "name": name, "cron": cron, "time_zone": time_zone, "overlap": overlap,
        "catch_up_s": parse_duration_s(catch_up), "spec": document,
    }  # fmt: skip
    key = secrets.token_urlsafe(24)
    with connect() as client:
        made = persist(lambda: client.post("/v1/schedules", body, key=key), for_s=15.0, only_if_started=True)
    _done(made, f"It is due next {_next(made)}.", json)


@schedule_app.command("list")
def list_schedules(project: Project = None, json: Json = False) -> None:
    """List schedules, the newest first."""
    with connect() as client:
        found = client.items("/v1/schedules", project=project)
        empty = 'There is no schedule. `dujiang schedule create NAME --cron "0 3 * * *" FILE` makes one.'
        listing(found, _COLUMNS, as_json=json, empty=empty)


@schedule_app.command("show")
def show(name: Name, project: Project = None, json: Json = False) -> None:
    """Show a schedule with its latest runs."""
    with connect() as client:
        found = client.get(_path(name), project=project)
    if json:
        write_json(found)
        return
    write_facts(
        [
            ("schedule", found["id"]),
            ("name", found["name"]),
            ("project", found["project"]),
            ("times", f"{found['cron']}  ({found['time_zone']})"),
            ("due next", _next(found)),
            ("overlap", found["overlap"]),
            ("catches up", seconds(found["catch_up_s"])),
            ("job", found["spec"].get("name")),
            ("created", f"{moment(found['created_at'])} by {found['created_by']}"),
        ]
    )
    if found["runs"]:
        sys.stdout.write("\n")
        listing(found["runs"], _RUNS, as_json=False, empty="")


@schedule_app.command("pause")
def pause(name: Name, project: Project = None, json: Json = False) -> None:
    """Let a schedule submit nothing more until it is resumed; what runs goes on."""
    _done(_post(name, "pause", project), "It is paused.", json)


@schedule_app.command("resume")
def resume(name: Name, project: Project = None, json: Json = False) -> None:
    """Let a paused schedule go on with its next time."""
    found = _post(name, "resume", project)
    _done(found, f"It is due next {_next(found)}.", json)


@schedule_app.command("run-now")
def run_now(name: Name, project: Project = None, json: Json = False) -> None:
    """Submit the work of a schedule at once; its own times stay as they are."""
    run = _post(name, "run", project)
    if json:
        write_json(run)
    else:
        say(run["work_id"])


@schedule_app.command("delete")
def delete(name: Name, project: Project = None) -> None:
    """Remove a schedule; what it submitted goes on."""
    with connect() as client:
        found = client.get(_path(name), project=project)
        client.delete(_path(found["id"]))
    say(f"{found['name']} is gone.")


def _post(name: str, verb: str, project: str | None) -> Any:
    with connect() as client:
        return client.post(f"{_path(name)}/{verb}", {}, key=secrets.token_urlsafe(24), project=project)


def _path(name: str) -> str:
    from dujiang.client import segment

    return f"/v1/schedules/{segment(name)}"


def _done(found: Any, sentence: str, as_json: bool) -> None:
    if as_json:
        write_json(found)
    else:
        say(f"{found['id']}  {found['name']}  {sentence}")


def _next(found: Any) -> str:
    if found.get("paused_at"):
        return "never: it is paused"
    return moment(found["next_at"]) if found.get("next_at") else "never"


def _last(found: Any) -> str | None:
    return f"{found['runs'][0]['outcome']} {ago(found['runs'][0]['due_at'])}" if found.get("runs") else None


_COLUMNS = (
    col("NAME"),
    col("PROJECT"),
    col("CRON"),
    Column("TIME ZONE", lambda one: one.get("time_zone")),
    Column("NEXT", _next),
    Column("LAST", _last),
    col("OVERLAP"),
)
_RUNS = (
    Column("DUE", lambda run: moment(run.get("due_at"))),
    col("OUTCOME"),
    Column("JOB", lambda run: run.get("work_id") or None),
    Column("BY HAND", lambda run: "yes" if run.get("by_hand") else None),
    Column("WHY", lambda run: run.get("sentence") or None),
)
