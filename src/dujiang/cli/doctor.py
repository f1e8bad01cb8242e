"""`dujiang doctor`: what this machine offers, what is missing, and whether a server is up. Works without one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from dujiang.cli.output import clean, heading, size, write_facts, write_json, write_table
from dujiang.cli.session import Json


def doctor(json: Json = False) -> None:
    """Say what this machine and each cluster of the settings offer for work, what is missing, and what to do."""
    facts = _machine()
    facts["server"] = _server()
    if json:
        write_json(facts)
        return
    missing = facts.pop("missing", [])
    facts["clusters"] = [_row(one) for one in facts.get("clusters") or []]
    for part, told in facts.items():
        _write_part(part, told)
    if missing:
        heading("Missing")
        for sentence in missing:
            sys.stdout.write(f"  - {clean(sentence)}\n")


def _row(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster as a row; what it lacks and why it is away stands below, with what to do."""
    engine = " ".join(str(word) for word in (cluster["kind"], cluster["version"]) if word)
    ready = f"{cluster['ready']} of {cluster['nodes']}"
    took_s = cluster["answered_in_s"]
    return {
        "name": cluster["name"], "engine": engine, "state": cluster["state"], "nodes_ready": ready,
        "devices": cluster["devices"], "answered_in": "-" if took_s is None else f"{took_s:.3g} s",
    }  # fmt: skip


def _machine() -> dict[str, Any]:
    from dujiang.bootstrap import examine
    from dujiang.client import home_folder

    return dict(examine(home_folder()))


def _server() -> dict[str, Any]:
    from dujiang.client import Client, Problem, Unreachable, locate

    connection = locate()
    if connection is None:
        return {"state": "none", "advice": "Start one with `dujiang up`."}
    told: dict[str, Any] = {"url": connection.url, "found_in": connection.found_in}
    try:
        with Client(connection, timeout_s=5.0) as client:
            client.get("/readyz")
            told["state"] = "ready"
            told["signed_in_as"] = client.get("/v1/me")["user"]["name"]
    except Unreachable as error:
        told |= {"state": "away", "advice": f"{error.sentence} Start it with `dujiang up`."}
    except Problem as problem:
        told |= {"state": told.get("state", "not ready"), "advice": problem.sentence}
    return told


def _write_part(part: str, told: Any) -> None:
    if isinstance(told, list):
        if told and all(isinstance(each, Mapping) for each in told):
            heading(_words(part))
            titles = list(dict.fromkeys(name for each in told for name in each))
            rows = [[_text(name, each.get(name)) for name in titles] for each in told]
            write_table([_words(name).upper() for name in titles], rows, right=[False] * len(titles))
        else:
            write_facts([(_words(part), ", ".join(clean(each) for each in told) or "none")])
    elif isinstance(told, Mapping):
        heading(_words(part))
        write_facts([(_words(name), _text(name, value)) for name, value in told.items()], indent=2)
    else:
        write_facts([(_words(part), _text(part, told))])


def _words(name: str) -> str:
    text = name.removesuffix("_bytes").removesuffix("_milli").replace("_", " ")
    return text[:1].upper() + text[1:]


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith("_milli") and isinstance(value, int):
        return f"{value / 1000:g}"
    if isinstance(value, list):
        return ", ".join(clean(each) for each in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key).lower()} {_text(key, each)}" for key, each in value.items())
    return clean(value)
