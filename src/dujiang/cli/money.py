"""`dujiang bill`, `prices`, `quotas`: what work costs, and how much a project may have."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import (
    Column,
    clean,
    col,
    heading,
    listing,
    milli,
    moment,
    parse_time,
    say,
    size,
    write_json,
    write_table,
)
from dujiang.cli.session import Json, Project, Stop, connect
from dujiang.cli.times import TIME, moment_of

prices_app = typer.Typer(help="The price list.", invoke_without_command=True, no_args_is_help=False)
quotas_app = typer.Typer(help="Quotas of projects.", invoke_without_command=True, no_args_is_help=False)
Month = Annotated[str | None, typer.Option("--month", "-m", help="YYYY-MM; else the current one.")]


def bill(
    project: Project = None,
    month: Month = None,
    csv: Annotated[bool, typer.Option("--csv", help="Write CSV with the column names of FOCUS.")] = False,
    json: Json = False,
) -> None:
    """Show the bills of a month."""
    with connect() as client:
        if csv:
            _write_csv(client, project, month)
            return
        bills = list(client.items("/v1/bills", project=project, month=month))
    if json:
        write_json(bills)
        return
    used = [each for each in bills if each.get("lines")]
    if not used:
        say(
            "Nothing was used in that month. What runs is billed by the second; `dujiang submit FILE` starts something."
        )
    for each in used:
        _write_bill(each)


def _write_bill(found: dict[str, Any]) -> None:
    kept = " so far; it still grows" if found.get("provisional") else ""
    heading(f"{clean(found.get('project') or found['project_id'])}, {found['billing_period']}{kept}")
    rows = [
        [
            clean(line["sku_id"]) + (" (simulated)" if line.get("simulated") else ""),
            f"{_plain(line['consumed_quantity'])} {line['consumed_unit']}",
            "no price" if line.get("unpriced") else _plain(line["list_unit_price"]),
            line["billed_cost"],
        ]
        for line in found["lines"]
    ]
    if any(line.get("simulated") for line in found["lines"]):
        rows.append(["simulated, in no total", "", "", f"{found.get('simulated_cost')} {found['billing_currency']}"])
    rows.append(["total", "", "", f"{found['billed_cost']} {found['billing_currency']}"])
    write_table(["SKU", "USED", "PRICE OF ONE", "COST"], rows, right=[False, True, True, True])
    sys.stdout.write("\n")


def _write_csv(client: Any, project: str | None, month: str | None) -> None:
    cursor, first = None, True
    while first or cursor:
        query = {"project": project, "month": month, "cursor": cursor, "limit": 500, "form": "csv"}
        with client.stream("/v1/bills", accept="text/csv", **query) as answer:
            text = answer.read().decode()
            cursor = answer.headers.get("x-next-cursor")
        sys.stdout.write(text if first else "".join(text.splitlines(keepends=True)[1:]))
        first = False


def _plain(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def _since(text: Any) -> str:
    """Return from when on a price applies; those that came with the platform apply to all that ever was."""
    at = parse_time(text)
    return "always" if at is not None and at.timestamp() <= 0 else moment(text)


_PRICES = (
    col("SKU", "sku_id"),
    col("RESOURCE"),
    Column("OF", lambda price: " ".join(filter(None, (price.get("vendor"), price.get("model")))) or "any"),
    Column("PRICE", lambda price: f"{price.get('unit_price')} {price.get('currency')}", right=True),
    Column("PER", lambda price: price.get("unit")),
    Column("FROM", lambda price: _since(price.get("effective_from"))),
)


@prices_app.callback()
def list_prices(context: typer.Context, json: Json = False) -> None:
    """List prices."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "There are no prices; `dujiang prices set` adds one."
            listing(client.items("/v1/prices"), _PRICES, as_json=json, empty=empty)


@prices_app.command("set")
def set_price(
    sku: Annotated[str, typer.Argument(help="Name of what is sold, such as gpu-h100.")],
    resource: Annotated[str, typer.Argument(help="gpu, cpu, memory ... as `dujiang prices` names them.")],
    price: Annotated[str, typer.Argument(help="Of one gpu-hour, core-hour or GiB-hour.")],
    vendor: Annotated[str, typer.Option("--vendor", help="Of the device; else any.")] = "",
    model: Annotated[str, typer.Option("--model", help="Of the device; else any.")] = "",
    since: Annotated[str | None, typer.Option("--from", help=f"Else now: {TIME}")] = None,
    json: Json = False,
) -> None:
    """Add a price that applies from a time on; what was used before stays as it was charged."""
    body = {"sku_id": sku, "resource": resource, "unit_price": price, "vendor": vendor, "model": model}
    if since:
        body["effective_from"] = moment_of("--from", since).isoformat()
    with connect() as client:
        made = client.post("/v1/prices", body)
    if json:
        write_json(made)
    else:
        listing([made], _PRICES, as_json=False, empty="")


_QUOTAS = (
    col("PROJECT"),
    Column("GPUS", lambda quota: _held(quota, "gpu_milli", milli), right=True),
    Column("CORES", lambda quota: _held(quota, "cpu_milli", milli), right=True),
    Column("MEMORY", lambda quota: _held(quota, "memory_bytes", size), right=True),
)


def _held(quota: Any, field: str, show: Any) -> str:
    limit = "no limit" if quota.get(field) is None else show(quota[field])
    return f"{show(quota.get(f'used_{field}'))} of {limit}"


@quotas_app.callback()
def list_quotas(context: typer.Context, json: Json = False) -> None:
    """List what each project holds, and how much it may hold at one time."""
    if context.invoked_subcommand is None:
        with connect() as client:
            empty = "You are in no project; `dujiang projects` lists them."
            listing(client.items("/v1/quotas"), _QUOTAS, as_json=json, empty=empty)


@quotas_app.command("set")
def set_quota(
    project: Annotated[str, typer.Argument(help="Name or id.")],
    gpu: Annotated[str | None, typer.Option("--gpu", help="2, 0.5, 1/8 ... or none for no limit.")] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", help="Cores, or none.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="64GiB ..., or none.")] = None,
    json: Json = False,
) -> None:
    """Set how much a project may hold at one time; what is left out stays, `none` lifts the limit."""
    from dujiang.client import segment
    from dujiang.kit.units import parse_bytes, parse_milli

    changes: dict[str, Any] = {}
    for field, text, parse in (("gpu_milli", gpu, parse_milli), ("cpu_milli", cpu, parse_milli),
                               ("memory_bytes", memory, parse_bytes)):  # fmt: skip
        if text is not None:
            changes[field] = None if text == "none" else parse(text)
    if memory is not None and 0 < (changes["memory_bytes"] or 0) < 2**20:  # no job may ask for less
        raise Stop(f"--memory: {memory} is {size(changes['memory_bytes'])}; write a unit: 64GiB.", Exit.USAGE)
    with connect() as client:
        before = [one for one in client.items("/v1/quotas") if project in (one["project"], one["project_id"])]
        kept = {field: before[0][field] for field in ("gpu_milli", "cpu_milli", "memory_bytes")} if before else {}
        made = client.put(f"/v1/quotas/{segment(project)}", kept | changes)
    if json:
        write_json(made)
    else:
        listing([made], _QUOTAS, as_json=False, empty="")
