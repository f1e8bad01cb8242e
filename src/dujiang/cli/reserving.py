"""`dujiang reservations`: times in which nodes are for some projects only, or for nobody."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import Column, col, listing, moment, note, say, write_facts, write_json
from dujiang.cli.session import Json, Stop, connect
from dujiang.cli.times import TIME, later, moment_of, sent

reservations_app = typer.Typer(help="Reservations and maintenance.", invoke_without_command=True, no_args_is_help=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id.")]
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Why; shown to whoever waits for the nodes.")]


def _nodes(row: Any) -> str:
    nodes = row.get("nodes") or []
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return "all" if row.get("all_nodes") else ", ".join(nodes[:3]) + more


def _whom(row: Any) -> str:
    return (
        "nobody (maintenance)" if row.get("maintenance") else ", ".join(row.get("projects") or []) or "other projects"
    )


_RESERVATIONS = (
    col("NAME"),
    col("STATE"),
    col("CLUSTER"),
    Column("NODES", _nodes),
    Column("FOR", _whom),
    Column("BEGINS", lambda row: moment(row.get("begins_at"))),
    Column("ENDS", lambda row: moment(row.get("ends_at"))),
    Column("REASON", lambda row: row.get("reason") or None),
)


@reservations_app.callback()
def list_reservations(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", "-a", help="Those that ended too.")] = False,
    json: Json = False,
) -> None:
    """List reservations and maintenance that have not ended."""
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        rows = client.items("/v1/reservations", ended=every or None)
        empty = "Nothing is reserved. `dujiang reservations create --help` says how."
        listing(rows, _RESERVATIONS, as_json=json, empty=empty)


@reservations_app.command("show")
def show(name: Name, json: Json = False) -> None:
    """Show a reservation."""
    from dujiang.client import segment

    with connect() as client:
        found = client.get(f"/v1/reservations/{segment(name)}")
    _write(found, as_json=json)


@reservations_app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and dashes.")],
    nodes: Annotated[list[str] | None, typer.Option("--nodes", "-n", help="Names, joined by commas.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All nodes of the cluster.")] = False,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Needed where there are several.")] = None,
    begins: Annotated[str, typer.Option("--from", help=f"When it begins: {TIME}")] = "now",
    ends: Annotated[str | None, typer.Option("--to", help=f"When it ends: {TIME}")] = None,
    lasts: Annotated[str | None, typer.Option("--for", help="How long instead: 4h, 90m.")] = None,
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Whom it is for; none is maintenance.")
    ] = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Keep nodes for projects, or free for maintenance: nothing starts there that could still run then."""
    if (ends is None) == (lasts is None):
        raise Stop("Give either --to or --for.", Exit.USAGE)
    begins_at = moment_of("--from", begins)
    ends_at = moment_of("--to", ends) if ends is not None else later("--for", begins_at, lasts or "")
    named = _split(nodes)
    if every == bool(named):
        raise Stop("Give either --nodes or --all.", Exit.USAGE)
    body = {
        "name": name, "cluster": cluster, "nodes": named, "all_nodes": every,
        "begins_at": None if begins == "now" else begins_at.isoformat(),  # now is by the server's clock
        "ends_at": ends_at.isoformat(), "projects": _split(project), "reason": reason or "",
    }  # fmt: skip
    with connect() as client:
        found = client.post("/v1/reservations", body)
    _write(found, as_json=json)


@reservations_app.command("change")
def change(
    name: Name,
    begins: Annotated[str | None, typer.Option("--from", help=f"When it begins: {TIME}")] = None,
    ends: Annotated[str | None, typer.Option("--to", help=f"When it ends: {TIME}")] = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Give a reservation other times or another reason."""
    from dujiang.client import segment

    body = {
        "begins_at": sent("--from", begins),
        "ends_at": sent("--to", ends),
        "reason": reason,
    }
    if all(value is None for value in body.values()):
        raise Stop("Give --from, --to or --reason.", Exit.USAGE)
    with connect() as client:
        found = client.patch(f"/v1/reservations/{segment(name)}", body)
    _write(found, as_json=json)


@reservations_app.command("delete")
def delete(name: Name) -> None:
    """Take a reservation back: its nodes are for everybody again."""
    from dujiang.client import segment

    with connect() as client:
        client.delete(f"/v1/reservations/{segment(name)}")
    say(f"{name} is taken back.")


def _write(found: Any, *, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    write_facts(
        [
            ("reservation", found.get("name")),
            ("id", found.get("id")),
            ("state", found.get("state")),
            ("cluster", found.get("cluster")),
            ("nodes", "all" if found.get("all_nodes") else ", ".join(found.get("nodes") or [])),
            ("for", _whom(found)),
            ("begins", moment(found.get("begins_at"))),
            ("ends", moment(found.get("ends_at"))),
            ("reason", found.get("reason")),
            ("made by", found.get("made_by")),
        ]
    )
    for warning in found.get("warnings") or []:
        note(f"Note: {warning}")


def _split(texts: list[str] | None) -> list[str]:
    return [part.strip() for text in texts or [] for part in text.split(",") if part.strip()]
