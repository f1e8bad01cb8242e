"""`dujiang plan`: what to buy, reserve or share out, worked out on this machine. Asks no server unless told to."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, figure, note, now, parse_time, say, write_json, write_table
from dujiang.cli.session import Json, Stop, connect

if TYPE_CHECKING:
    from dujiang.scheduling.capacity import Curve, Known, Model, Supply

plan_app = typer.Typer(help="Plan what to buy, reserve or share out, on this machine alone.", no_args_is_help=True)


@plan_app.callback()
def _plan() -> None:
    """A group also while it has one command."""


@plan_app.command()
def capacity(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON; - is standard input.")],
    curve: Annotated[bool, typer.Option("--curve/--no-curve", help="Show how the plan changes with lambda.")] = True,
    points: Annotated[int, typer.Option("--points", min=2, max=10_000, help="Most points of the curve.")] = 50,
    time_limit_s: Annotated[
        float,
        typer.Option(
            "--time-limit-s", min=0.1, max=86_400, help="Of each part of the answer: plan, worth of one more, curve."
        ),
    ] = 120.0,
    from_platform: Annotated[
        bool, typer.Option("--from-platform", help="Flavors are the open devices of the pool, at its list prices.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a report with plots to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Give each service devices at least cost and failure impact, and say what each capacity is worth."""
    from dujiang.scheduling.capacity import Impossible, optimise, relax
    from dujiang.scheduling.capacity.telling import told, told_impossible

    model = _read(file, _known() if from_platform else None)
    with _telling() as tell:
        try:
            plan = optimise(model, time_limit_s=time_limit_s, tell=tell)
            found = told(model, plan, _curve(model, points, time_limit_s, tell) if curve and not plan.gap else None)
        except Impossible:
            found = told_impossible(model, relax(model, time_limit_s=time_limit_s, tell=tell))
    if report is not None:
        from dujiang.scheduling.capacity.report import capacity_report

        report.write_text(capacity_report(found))
        note(f"The report is in {report}.")
    if json:
        write_json(found)
    elif found["feasible"]:
        _write(found)
    if not found["feasible"]:
        if not json:
            _write_impossible(found)
        raise Stop("No plan meets all demands within the capacities and limits.", Exit.REFUSED)


def _read(file: str, known: Known | None) -> Model:
    from dujiang.cli.submitting import show_problems
    from dujiang.kit.spec.problems import SpecInvalid
    from dujiang.scheduling.capacity.reading import MAX_BYTES, read_model

    try:
        if file == "-":
            source = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as handle:
                source = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror or error}.", Exit.USAGE) from error
    try:
        return read_model(source, known)
    except SpecInvalid as error:
        show_problems(file, source, error)
        count = int(error.facts["problem_count"])
        raise Stop(f"Nothing was planned: {count} problem{'s' if count > 1 else ''}.", Exit.USAGE) from error


def _known() -> Known:
    """Return the open devices of the pool by vendor and model, at the list prices that apply now."""
    from dujiang.scheduling.capacity import Known

    with connect() as client:
        kinds = client.get("/v1/pool")["devices"]
        prices = list(client.items("/v1/prices"))
    current = [price for price in prices if (at := parse_time(price["effective_from"])) is not None and at <= now()]
    if not kinds or not current:
        what = "device" if not kinds else "price"
        raise Stop(f"The platform has no {what} to plan with; write the flavors in the file.", Exit.NOT_FOUND)
    supplies = []
    for number, kind in enumerate(kinds):
        twins = [other for other in kinds if other["model"] == kind["model"]]
        supplies.append(_supply(kind, current, f"-{number + 1}" if len(twins) > 1 else ""))
    return Known(str(current[0]["currency"]), tuple(supplies), "hour")


def _supply(kind: Mapping[str, Any], prices: Sequence[Mapping[str, Any]], suffix: str) -> Supply:
    from dujiang.scheduling.capacity import Supply

    device, memory = _price("gpu", kind, prices), _price("gpu_memory", kind, prices)
    if device is None:
        raise Stop(f"{kind['vendor']} {kind['model']} has no price; `dujiang prices set` gives it one.", Exit.NOT_FOUND)
    cost = device + (memory or Decimal(0)) * kind["memory_bytes"] / 2**30
    name = re.sub(r"[^\w./+-]+", "-", f"{kind['model']}{suffix}").strip("-._/+") or f"device{suffix}"
    return Supply(name, cost, capacity=Decimal(kind["devices_open"]), vendor=kind["vendor"], model=kind["model"])


def _price(resource: str, kind: Mapping[str, Any], prices: Sequence[Mapping[str, Any]]) -> Decimal | None:
    """Return what one unit costs now: the most exact price wins, then the newest."""
    matching = [
        price for price in prices
        if price["resource"] == resource and price["vendor"] in {"", kind["vendor"]}
        and price["model"] in {"", kind["model"]}
    ]  # fmt: skip
    if not matching:
        return None
    best = max(
        matching, key=lambda p: (bool(p["model"]), bool(p["vendor"]), str(parse_time(p["effective_from"])), p["id"])
    )
    return Decimal(best["unit_price"])


def _curve(model: Model, points: int, time_limit_s: float, tell: Callable[[str], None] | None) -> Curve | None:
    from dujiang.scheduling.capacity import NotSolved, at_lambdas, trade_off

    try:
        if model.weights:
            return at_lambdas(model, model.weights, time_limit_s=time_limit_s, tell=tell)
        return trade_off(model, most_points=points, time_limit_s=time_limit_s, tell=tell)
    except NotSolved as error:
        note(f"The curve is left out. {error.sentence}")
        return None


@contextmanager
def _telling() -> Iterator[Callable[[str], None] | None]:
    """Show on standard error what is being done, while that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading") as status:
        yield lambda words: status.update(clean(words))


def _write(found: Mapping[str, Any]) -> None:
    unit = found["currency"] + (f" per {found['period']}" if found["period"] else "")
    _write_shares(found["shares"], found)
    say(f"Amounts in {unit}; lambda {found['lambda']}: objective {found['objective']}.")
    if found["unproven_part"]:
        say(f"Time was short: this plan is at most {100 * found['unproven_part']:.2g} % above the best one. "
            "--time-limit-s gives more.")  # fmt: skip
    sys.stdout.write("\n")
    rows = [
        [
            clean(each["flavor"]), "unlimited" if each["capacity"] is None else figure(each["capacity"]),
            figure(each["used"]), "yes" if each["binds"] else "no", each["shadow_price"], each["one_more_saves"] or "-",
        ]
        for each in found["capacities"]
    ]  # fmt: skip
    titles = ["FLAVOR", "CAPACITY", "USED", "BINDS", "SHADOW PRICE", "ONE MORE SAVES"]
    write_table(titles, rows, right=[False, True, True, False, True, True])
    if found["whole_devices"]:
        say(f"Shadow prices, and what one more unit adds, are those of the relaxation with divisible devices "
            f"(objective {found['objective_if_divisible']}); ONE MORE SAVES is exact: solved again.")  # fmt: skip
    others = [each for each in found["binding"] if each["kind"] != "capacity"]
    if others:
        sys.stdout.write("\n")
        shown = [[clean(each["name"]), each["kind"], figure(each["bound"]), each["price"]] for each in others]
        write_table(["CONDITION", "KIND", "AT", "ONE MORE UNIT ADDS"], shown, right=[False, False, True, True])
    if found["curve"]:
        sys.stdout.write("\n")
        _write_curve(found)


def _write_shares(shares: Sequence[Mapping[str, Any]], sums: Mapping[str, Any]) -> None:
    rows = [
        [
            clean(each["service"]), clean(each["flavor"]), figure(each["devices"]), figure(each["serves"]),
            each["cost"], each["failure_impact"],
        ]
        for each in shares
    ]  # fmt: skip
    rows.append(["total", "", "", "", sums["cost"], sums["failure_impact"]])
    titles = ["SERVICE", "FLAVOR", "DEVICES", "SERVES", "COST", "FAILURE IMPACT"]
    write_table(titles, rows, right=[False, False, True, True, True, True])


def _write_curve(found: Mapping[str, Any]) -> None:
    points = found["curve"]
    if all(each["from_lambda"] == each["to_lambda"] for each in points):
        rows = [[each["from_lambda"], each["cost"], each["failure_impact"]] for each in points]
        write_table(["LAMBDA", "COST", "FAILURE IMPACT"], rows, right=[True, True, True])
        return
    rows = [
        [each["from_lambda"], each["to_lambda"] or "on", each["cost"], each["failure_impact"]] for each in points
    ]  # fmt: skip
    write_table(["LAMBDA FROM", "TO", "COST", "FAILURE IMPACT"], rows, right=[True, True, True, True])
    if not found["curve_is_complete"]:
        say(f"The plan changes at further lambdas; --points {2 * len(points)} or more time shows them.")


def _write_impossible(found: Mapping[str, Any]) -> None:
    for number, each in enumerate(found["relaxations"]):
        lead = "It would be possible with" if number == 0 else "or with"
        say(f"{lead} {each['words']}:")
        _write_shares(each["shares"], each)
        if not each["proven"]:
            say("Time was short: a smaller change may be enough. --time-limit-s gives more.")
        sys.stdout.write("\n")
