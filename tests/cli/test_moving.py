"""`dujiang moves`: what is said of moves, and why they are not made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.standin import Answer, StandIn

MOVE: dict[str, Any] = {
    "job_id": "job_1", "job_name": "half", "rank": 0, "cluster": "c",
    "source": {"node": "n1", "devices": ["g0"], "gpu_milli": 500},
    "target": {"node": "n2", "devices": ["g1"], "gpu_milli": 500},
    "whole_devices": 1, "stranded_milli": 667, "cost_device_s": 5.0, "is_stopped": False,
    "why_not": "Nobody waits for whole devices.",
}  # fmt: skip
FOUND: dict[str, Any] = {
    "defragment": "act", "at": "2026-01-01T00:00:00Z", "waiting": 1, "movable": 7, "moved_this_hour": 2,
    "most_moves_hourly": 12, "moves": [MOVE, {**MOVE, "job_id": "job_2", "is_stopped": True, "why_not": ""}],
}  # fmt: skip


def test_each_move_is_told_with_what_it_frees_and_why_it_is_not_made(server: StandIn, run: Run) -> None:
    server.on("GET /v1/moves", Answer(FOUND))
    code, out, err = run("moves")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "JOB"
    assert lines[1].split() == ["job_1", "half", "n1", "g0", "n2", "g1", "0.5", "1", "0.667", "5"]
    assert "job_1: Nobody waits for whole devices." in err
    assert "job_2: Stopped for it; where it goes on is the choice of the plan that starts it again." in err
    assert "1 job waited for whole devices; 2 of 12 moves made within the hour." in err
    assert json.loads(run("moves", "--json")[1]) == FOUND


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"defragment": "off", "at": None}, 'scheduling.defragment is "off"'), ({"at": None}, "Nobody has looked yet"),
        ({}, "Nothing to move, of 7 jobs"),
    ],
)  # fmt: skip
def test_that_there_is_nothing_is_said(server: StandIn, run: Run, changed: dict[str, Any], says: str) -> None:
    server.on("GET /v1/moves", Answer({**FOUND, "moves": [], **changed}))
    code, out, _ = run("moves")
    assert (code, says in out) == (0, True)
