"""`dujiang job`: what is less often asked: exemption from what follows idleness, how well run times were told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import Column, col, figure, listing, moment, note, now, say, seconds, write_json
from dujiang.cli.session import Json, Stop, connect, find_job

job_app = typer.Typer(help="Exempt a job from reclaiming; see how well run times were told.", no_args_is_help=True)


@job_app.command("exempt")
def exempt(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id, unique beginning or end of an id, or name.")],
    until: Annotated[
        str | None, typer.Option("--until", help="Last day or time (2026-12-24, 2026-12-24T18:00), or +3d from now.")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", "-r", help="Why; stands in the audit trail.")] = None,
    end: Annotated[bool, typer.Option("--end", help="Take the exemption back.")] = False,
    json: Json = False,
) -> None:
    """Have a job count as busy until a date, whatever its devices do: it gets no notice and is not reclaimed."""
    if (until is None) is not end:
        raise Stop("Give either --until or --end.", Exit.USAGE)
    if until is not None and not reason:
        raise Stop("Say why: --reason TEXT.", Exit.USAGE)
    at = _until(until) if until is not None else None
    with connect() as client:
        ident = find_job(client, job, live_only=True)
        body = {"until": at.isoformat() if at is not None else None, "reason": reason or ""}
        found = client.post(f"/v1/jobs/{ident}/exempt", body)
    if json:
        write_json(found)
    elif found.get("until"):
        say(f"{ident} counts as busy until {moment(found['until'])}.")
    else:
        say(f"{ident} is judged by what it uses.")


@job_app.command("accuracy")
def accuracy(
    days: Annotated[float, typer.Option("--days", min=0.01, max=3660, help="Of jobs that completed in these.")] = 30.0,
    project: Annotated[str | None, typer.Option("--project", "-p", help="Of this project alone.")] = None,
    json: Json = False,
) -> None:
    """Compare how long jobs were expected to run with how long they ran, by project and by how that was told."""
    with connect() as client:
        found = client.get("/v1/runtimes/accuracy", days=days, project=project)
    if json:
        write_json(found)
        return
    overall = found.get("overall")
    if not overall:
        note(
            "Nothing to compare: no job that completed was expected to run for some time. Two alike have to end first."
        )
        return
    rows = [{"of": "all", **overall}]
    rows += [{**one, "of": f"project {one['name']}"} for one in found["projects"]]
    rows += [{**one, "of": f"by {one['name']}"} for one in found["groups"]]
    listing(rows, _COLUMNS, as_json=False, empty="")


def _ratio(name: str) -> Any:
    return lambda row: figure(round(row[name], 3))


_COLUMNS = (
    col("OF"),
    col("JOBS", right=True),
    Column("MEAN RATIO", _ratio("mean_ratio"), right=True),
    Column("MEDIAN RATIO", _ratio("median_ratio"), right=True),
    Column("WITHIN x2", lambda row: f"{row['within_factor_2']:.1%}", right=True),
    Column("MEAN ERROR", lambda row: seconds(row["mean_error_s"]), right=True),
    Column("P90 ERROR", lambda row: seconds(row["p90_error_s"]), right=True),
)


def _until(text: str) -> datetime:
    """Return a time: a day to its end, a time without zone as this machine has it, or so long from now."""
    from dujiang.kit.units import BadQuantity, parse_duration_s

    if text.startswith("+"):
        try:
            return now() + timedelta(seconds=parse_duration_s(text[1:]))
        except BadQuantity as error:
            raise Stop(f"--until {text}: {error.sentence}", Exit.USAGE) from error
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Stop(f'--until: "{text}" is no time; write 2026-12-24, 2026-12-24T18:00 or +3d.', Exit.USAGE) from error
    if "T" not in text and " " not in text:
        at += timedelta(days=1)
    return at if at.tzinfo is not None else at.astimezone()
