"""`dujiang submit --dry-run`: where, when and at what price jobs would start; nothing is submitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dujiang.cli.output import clean, heading, moment, note, seconds, write_facts, write_json

if TYPE_CHECKING:
    from dujiang.jobs.spec import JobSpec

_MOST_RANKS = 8
"""Shown; `--json` has all of them."""
_MOST_DEVICES = 2
"""Of a node, by name."""
_UNKNOWN = {
    "UnknownEnds": "cannot be told: nothing that is known to end makes room for it",
    "Horizon": "cannot be told: more than a month ahead",
    "Steps": "cannot be told: too many others end and start before",
}


def dry_run(client: Any, specs: Sequence[JobSpec], *, as_json: bool) -> None:
    """Ask what would become of each job, alone, and write it."""
    told = [client.post("/v1/jobs/dry-run", {"spec": spec.document(reveal_secrets=True)}) for spec in specs]
    if as_json:
        write_json(told)
        return
    for number, one in enumerate(told):
        if number:
            sys.stdout.write("\n")
        _write(one)
    note("Nothing was submitted." + (" Each job was tried alone." if len(told) > 1 else ""))


def _write(told: dict[str, Any]) -> None:
    waits, expected = told["waits"], told["expected"]
    heading(f"{clean(told['name'])} would " + ("start now." if told["starts_now"] else f"wait: {waits['reason']}."))
    facts: list[tuple[str, Any]] = [("project", told["project"])]
    if waits:
        facts += [
            ("why", waits["detail"]),
            ("position", waits["position"]),
            ("starts", _when(expected) if expected else None),
            ("change", waits["suggestion"]),
            ("advice", waits["advice"]),
        ]
    facts += [
        ("bursts", _burst(told)),
        ("deadline", _deadline(told["deadline"])),
        ("place", _place(told)),
        ("price", _price(told)),
        ("no price for", ", ".join(_unpriced(told))),
    ]
    write_facts(facts, indent=2)


def _when(expected: dict[str, Any]) -> str:
    if expected["at"] is None:
        return _UNKNOWN.get(expected["unknown"], "cannot be told")
    rests = "if all runs to its time limit" if expected["is_certain"] else "by how long work like that before it took"
    when = f"at {moment(expected['at'])}"
    if expected["after"] is not None:
        when = f"between {moment(expected['after'])} and {moment(expected['at'])}"
    return f"{when}, {rests}"


def _burst(told: dict[str, Any]) -> str | None:
    rent, expected = told["rent"], told["expected"]
    if rent is None:
        return None
    begin = f"to {clean(told['place']['cluster'])}, which is rented,"
    if expected and expected["at"] is not None:
        begin += f" {_when(expected)}"
    currency = rent["currency"]
    return f"{begin} at about {rent['per_hour']} {currency} an hour; {rent['total']} {currency} at most"


def _deadline(told: dict[str, Any] | None) -> str | None:
    if told is None:
        return None
    return f"{moment(told['at'])} can be promised" if told["is_kept"] else f"refused: {clean(told['detail'])}"


def _place(told: dict[str, Any]) -> str:
    if told["place"] is None:
        return "nowhere that is open now"
    ranks = [clean(rank["node"]) + _devices(rank["devices"]) for rank in told["place"]["ranks"]]
    more = f" and {len(ranks) - _MOST_RANKS} more" if len(ranks) > _MOST_RANKS else ""
    alone = " if nothing else ran" if told["place_is"] == "alone" else ""
    return f"{told['place']['cluster']}: {', '.join(ranks[:_MOST_RANKS])}{more}{alone}"


def _devices(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if 0 < len(names) <= _MOST_DEVICES else f" ({len(names)} devices)" if names else ""


def _price(told: dict[str, Any]) -> str | None:
    price = told["price"]
    if price is None:
        return None
    whole = "no time limit, so no total"
    if price["total"] is not None:
        whole = f"{price['total']} {price['currency']} to its time limit of {seconds(told['time_limit_s'])}"
    simulated = " (simulated)" if price["simulated"] else ""
    return f"{price['per_hour']} {price['currency']} an hour; {whole}{simulated}"


def _unpriced(told: dict[str, Any]) -> list[str]:
    return list(told["price"]["unpriced"]) if told["price"] else []
