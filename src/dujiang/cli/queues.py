"""`dujiang queues`: the tree of queues, who borrows from whom, the fair share of each project, and setting it anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, milli, note, say, size, write_json, write_table
from dujiang.cli.session import Json, Stop, connect
from dujiang.cli.submitting import read_source, show_problems

queues_app = typer.Typer(
    help="Queues: what each group of projects has of each kind of device.",
    invoke_without_command=True, no_args_is_help=False,
)  # fmt: skip
_SHOW: Final = {"gpu_milli": milli, "gpu_memory_bytes": size, "cpu_milli": milli, "memory_bytes": size}
_CALLED: Final = {"gpu_milli": "gpu", "gpu_memory_bytes": "gpu memory", "cpu_milli": "cpu", "memory_bytes": "memory"}


@queues_app.callback()
def list_queues(context: typer.Context, json: Json = False) -> None:
    """List the queues as a tree, with what each has, holds, borrows and lends, and the fair share of each project."""
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        found = client.get("/v1/queues")
    if json:
        write_json(found)
        return
    if not found["queues"]:
        say("There are no queues: projects take what there is. `dujiang queues apply FILE` sets them (docs/queues.md).")
    else:
        _write_tree(found["queues"])
    _write_shares(found)
    for one in found["in_no_queue"]:
        note(f"Project {clean(one['project'])} is in no queue: it gets nothing of what the queues limit.")


@queues_app.command("apply")
def apply_queues(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON; - is standard input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only write what would change.")] = False,
    json: Json = False,
) -> None:
    """Put the queues of a file in the place of those before; what runs already goes on."""
    from dujiang.kit.spec.problems import SpecInvalid
    from dujiang.scheduling.domain.queue_document import document_of, parse_queues

    source = read_source(file)
    try:
        tree = parse_queues(source)
    except SpecInvalid as error:
        show_problems(file, source, error)
        count = int(error.facts["problem_count"])
        raise Stop(f"Nothing was changed: {count} problem{'s' if count > 1 else ''}.", Exit.USAGE) from error
    with connect() as client:
        done = client.put("/v1/queues", {"document": document_of(tree)}, dry_run=dry_run)
    if json:
        write_json(done)
        return
    for one in done["differences"]:
        sys.stdout.write(clean(_difference(one)) + "\n")
    for project in done["in_no_queue"]:
        note(f"Project {clean(project)} would be in no queue. A queue called default takes those that no other names.")
    if not done["differences"]:
        say("Nothing differs from the queues as they are.")
    elif dry_run:
        say("Nothing was changed; without --dry-run this is.")


@queues_app.command("export")
def export_queues() -> None:
    """Write the queues as the YAML that `apply` takes."""
    import yaml

    with connect() as client:
        found = client.get("/v1/queues")
    sys.stdout.write(yaml.safe_dump(found["document"], sort_keys=False, allow_unicode=True))


def _difference(one: dict[str, Any]) -> str:
    if one["before"] is None:
        return f"+ {one['what']}: {one['after']}"
    if one["after"] is None:
        return f"- {one['what']}: {one['before']}"
    return f"~ {one['what']}: {one['before']} -> {one['after']}"


def _write_tree(queues: list[dict[str, Any]]) -> None:
    rows = [row for queue in queues for row in _rows(queue)]
    titles = ["QUEUE", "SHARE", "FLAVOR", "OF", "OWN", "HELD", "BORROWED", "LENT", "LEFT"]
    write_table(titles, rows, right=[False, True, False, False, *[True] * 5])
    loans = [line for queue in queues for line in _loans(queue)]
    if loans:
        sys.stdout.write("\n")
    for line in loans:
        say(line)


def _rows(queue: dict[str, Any]) -> Iterator[list[str]]:
    name, share = "  " * queue["depth"] + clean(queue["name"]), f"{queue['share']:.1%}"
    is_first = True
    for quota in queue["quota"]:
        for resource, show in _SHOW.items():
            if quota["available"].get(resource) is None:
                continue  # not limited
            figures = [quota[part].get(resource) for part in ("nominal", "held", "borrowed", "lent", "available")]
            head = [name, share] if is_first else ["", ""]
            yield [*head, clean(quota["flavor"]), _CALLED[resource], *(show(figure) for figure in figures)]
            is_first = False
    if is_first:
        yield [name, share, *["-"] * 7]


def _loans(queue: dict[str, Any]) -> Iterator[str]:
    for quota in queue["quota"]:
        for loan in quota["lenders"]:
            parts = [
                f"{_SHOW[resource](figure)} {_CALLED[resource]}"
                for resource, figure in loan["amounts"].items()
                if figure
            ]
            yield f"{queue['name']} borrows {' and '.join(parts)} of {quota['flavor']} from {loan['lender']}."


def _write_shares(found: dict[str, Any]) -> None:
    if found["fair_share_half_life_s"] is None:
        return
    rows = [
        [clean(one["project"]), clean(queue["name"]), f"{one['share']:.1%}", f"{one['used_part']:.1%}",
         f"{one['factor']:.3f}", clean(one["arithmetic"])]
        for queue in found["queues"] for one in queue["projects"] if one["factor"] is not None
    ]  # fmt: skip
    if rows:
        sys.stdout.write("\n")
        titles = ["PROJECT", "QUEUE", "SHARE", "USED", "FACTOR", "BECAUSE"]
        write_table(titles, rows, right=[False, False, True, True, True, False])
