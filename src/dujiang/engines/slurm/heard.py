"""What the runner of another user's job wrote, taken for what it is: that user's word, who may have forged it.

Only what has the right form is kept, and nothing that could reach beyond the user's own job: where it listens is where
it was placed, and when it began and ended lies between its submission and now. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dujiang.engines.contract import End

_MOST_EVIDENCE = 50
_LONGEST = 2000


def claim(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return who says that it runs the attempt."""
    number = str(told.get("job", ""))
    return {"job": number if number.isascii() and number.isdigit() and len(number) < 12 else ""}


def started(told: Mapping[str, Any], launch: Mapping[str, Any], first_us: int, last_us: int) -> dict[str, Any]:
    """Return the beginning of an attempt, between two moments, on the node that it was placed on."""
    ranks = launch.get("ranks") or [{}]
    node = str(ranks[0].get("node", ""))
    asked = told.get("ports")
    ports = [port for port in asked if _whole(port, 1024, 65535)] if isinstance(asked, list) else []
    hosts = launch.get("hosts") or [node]
    return {
        "at": _between(told.get("at"), first_us, last_us), "node": node, "host": str(hosts[0]),
        "ports": ports[: int(launch.get("ports", 0))],
    }  # fmt: skip


def end(told: Mapping[str, Any], launch: Mapping[str, Any], first_us: int, last_us: int) -> dict[str, Any]:
    """Return the end of an attempt, between two moments; a loss where it makes no sense."""
    known = told.get("end") in {str(each) for each in End}
    ranks, facts = len(launch.get("ranks") or []), told.get("facts")
    listed = told.get("evidence")
    return {
        "end": str(told["end"]) if known else str(End.LOST),
        "exit_code": _one(told.get("exit_code"), 0, 255),
        "signal": _one(told.get("signal"), 1, 64),
        "rank": _one(told.get("rank"), 0, max(0, ranks - 1)),
        "at": _between(told.get("at"), first_us, last_us),
        "evidence": [_line(each, last_us) for each in listed[:_MOST_EVIDENCE]] if isinstance(listed, list) else [],
        "facts": facts if isinstance(facts, dict) else {},
    }


def use(told: Mapping[str, Any]) -> dict[str, float] | None:
    """Return a sample of use, None where it is none."""
    found = {name: told.get(name) for name in ("at_s", "cpu_s", "cores")}
    sample = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return sample if len(sample) == len(found) and min(sample.values()) >= 0 else None


def _line(told: Any, last_us: int) -> list[Any]:
    source, line, at = told if isinstance(told, list) and len(told) == 3 else ("runner", str(told), None)
    return [str(source)[:40], str(line)[:_LONGEST], _one(at, 0, last_us)]


def _between(told: Any, first_us: int, last_us: int) -> int:
    last_us = max(first_us, last_us)
    return min(max(told, first_us), last_us) if _whole(told, 0, 1 << 53) else last_us


def _one(told: Any, least: int, most: int) -> int | None:
    return int(told) if _whole(told, least, most) else None


def _whole(told: Any, least: int, most: int) -> bool:
    return isinstance(told, int) and not isinstance(told, bool) and least <= told <= most
