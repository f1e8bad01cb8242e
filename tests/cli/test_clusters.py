"""`dujiang clusters`: how each stands, since when and why, and how it answers."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Run
from tests.cli.standin import StandIn

WHY = "It was asked what there is at 2026-01-01 10:31:07 UTC and has not answered."
FAR: dict[str, Any] = {
    "id": "clu_1", "name": "far", "kind": "slurm", "version": "23.11.4", "limits": "enforced",
    "limits_by": "cgroup-v2", "isolation": "counted-only", "state": "unreachable", "reachable": False,
    "state_since": "2026-01-01T10:31:17+00:00", "seen_at": "2026-01-01T10:31:05+00:00", "reason": WHY,
    "answer_s": 0.2504, "answer_p95_s": 2.0, "answer_age_s": 12.0,
}  # fmt: skip
NEVER: dict[str, Any] = {
    "id": "clu_2", "name": "new", "kind": "kubernetes", "version": "", "limits": "counted-only", "limits_by": "",
    "isolation": "counted-only", "state": "unreachable", "reachable": False, "state_since": None, "seen_at": None,
    "reason": "no route to host", "answer_s": None, "answer_p95_s": None, "answer_age_s": None,
}  # fmt: skip


def test_each_cluster_says_how_it_stands(server: StandIn, run: Run) -> None:
    server.on("GET /v1/clusters", {"items": [FAR, NEVER], "next_cursor": None})
    code, out, _ = run("clusters")
    assert code == 0
    titles, far, never = out.splitlines()
    assert titles.split("  ")[0] == "NAME"
    for word in ("slurm 23.11.4", "unreachable", "250 ms (95 %: 2 s)", "enforced (cgroup-v2)", WHY):
        assert word in far
    for word in ("kubernetes", "unreachable", "never", "no route to host"):
        assert word in never
    assert "counted-only" not in never, "what it can do is not known"


def test_all_of_it_is_there_for_programs(server: StandIn, run: Run) -> None:
    server.on("GET /v1/clusters", {"items": [FAR], "next_cursor": None})
    code, out, _ = run("clusters", "--json")
    assert (code, json.loads(out)) == (0, [FAR])
