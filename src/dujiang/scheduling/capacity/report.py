"""Writes a plan as one HTML page: tables, and cost against failure impact as plots. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from dujiang.scheduling.simulator.report import line_plot

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c1c1c}"
    "table{border-collapse:collapse}td,th{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}text{font-size:12px;fill:#444}"
)


def capacity_report(plan: Mapping[str, Any]) -> str:
    """Return the page for a plan as `dujiang plan capacity --json` writes it, possible or not."""
    parts = _possible(plan) if plan["feasible"] else _impossible(plan)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Capacity plan</title>'
        f"<style>{_STYLE}</style><h1>Capacity plan</h1>{''.join(parts)}</html>\n"
    )


def _possible(plan: Mapping[str, Any]) -> list[str]:
    per = f" per {plan['period']}" if plan["period"] else ""
    unit = f"{plan['currency']}{per}"
    whole = "; shadow prices are those of the relaxation without whole devices" if plan["whole_devices"] else ""
    sums = (f"Cost {plan['cost']}, failure impact {plan['failure_impact']}, with lambda {plan['lambda']} together "
            f"{plan['objective']} {unit}.")  # fmt: skip
    capacities = [
        [c["flavor"], "unlimited" if c["capacity"] is None else c["capacity"], c["used"], "yes" if c["binds"] else "",
         c["shadow_price"], "-" if c["one_more_saves"] is None else c["one_more_saves"]]
        for c in plan["capacities"]
    ]  # fmt: skip
    parts = [
        f"<p>{escape(sums)}</p>",
        _shares(plan["shares"]),
        f"<h2>What each capacity is worth, {escape(unit)}</h2>",
        _table(["flavor", "capacity", "used", "binds", "shadow price", "one more saves"], capacities),
        f"<p>Of one device more, in cost and weighted failure impact{whole}.</p>",
        "<h2>Conditions met with nothing to spare</h2>",
        _table(["condition", "of", "bound", "one more unit adds"],
               [[b["name"], b["kind"], b["bound"], b["price"]] for b in plan["binding"]]),
    ]  # fmt: skip
    if plan["curve"]:
        parts += _curve(plan["curve"], unit)
    return parts


def _curve(points: Sequence[Mapping[str, Any]], unit: str) -> list[str]:
    rows = [[p["from_lambda"], p["to_lambda"] or "on", p["cost"], p["failure_impact"]] for p in points]
    against = sorted((float(p["failure_impact"]), float(p["cost"])) for p in points)
    last = max((float(p["to_lambda"] or p["from_lambda"]) for p in points), default=0.0)
    end = last * 1.25 or 1.0
    steps: dict[str, list[tuple[float, float]]] = {"cost": [], "failure_impact": []}
    for p in points:
        start, stop = float(p["from_lambda"]), end if p["to_lambda"] is None else float(p["to_lambda"])
        for name, line in steps.items():
            line += [(start, float(p[name])), (stop, float(p[name]))]
    return [
        "<h2>How the plan changes with lambda</h2>",
        _table(["from lambda", "to", "cost", "failure impact"], rows),
        f"<h2>Cost by failure impact, both {escape(unit)}</h2>", line_plot([("best plans", against)]),
        f"<h2>By lambda, {escape(unit)}</h2>",
        line_plot([("cost", steps["cost"]), ("failure impact", steps["failure_impact"])]),
    ]  # fmt: skip


def _impossible(plan: Mapping[str, Any]) -> list[str]:
    parts = ["<p>No plan meets these demands. Any one of these changes would make it possible:</p>"]
    for each in plan["relaxations"]:
        parts.append(f"<h2>{escape(each['words'])}</h2>")
        parts.append(f"<p>Then the cost is {each['cost']} {plan['currency']}.</p>" + _shares(each["shares"]))
    return parts


def _shares(shares: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ["service", "flavor", "devices", "serves", "cost", "failure impact"],
        [[s["service"], s["flavor"], s["devices"], s["serves"], s["cost"], s["failure_impact"]] for s in shares],
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>" + body + "</table>"
