"""The ledger on the command line: against what clusters account themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cli.conftest import Run
from tests.cli.standin import StandIn

SAME: dict[str, Any] = {
    "cluster": "hpc", "holds": True, "since": "2026-01-30T12:00:00+00:00", "until": "2026-01-31T12:00:00+00:00",
    "tolerance_s": 5.0, "attempts": 3, "differing": 0, "ledger_gpu_s": 21.5, "accounts_gpu_s": 21.0,
    "difference_gpu_s": 0.5, "items": [],
}  # fmt: skip
STRAY: dict[str, Any] = {
    "job_id": "job_x", "attempt": 1, "ledger": None, "accounts": [{"job": "17"}],
    "differences": ["only the cluster has it: 8 s as job 17"],
}  # fmt: skip


def test_what_adds_up_is_said_in_sums(server: StandIn, run: Run) -> None:
    server.on("GET /v1/allocations/reconcile", {"holds": True, "clusters": [SAME]})
    code, out, _ = run("ledger", "reconcile", "--cluster", "hpc", "--since", "2026-01-30T12:00:00Z", "--tolerance", "9")
    assert code == 0
    assert "21.500 by the ledger, 21.000 by the accounts there, difference 0.500" in out
    asked = server.asked[-1].query
    since = datetime.fromisoformat(asked.pop("since")[0])
    assert (asked, since) == ({"cluster": ["hpc"], "tolerance_s": ["9.0"]}, datetime(2026, 1, 30, 12, tzinfo=UTC))


def test_what_does_not_add_up_is_named_and_exits_7(server: StandIn, run: Run) -> None:
    differs = {"holds": False, "clusters": [{**SAME, "holds": False, "differing": 1, "items": [STRAY]}]}
    server.on("GET /v1/allocations/reconcile", differs)
    code, out, _ = run("ledger", "reconcile")
    assert (code, "job_x.1" in out, "only the cluster has it: 8 s as job 17" in out) == (7, True, True)
    code, out, _ = run("ledger", "reconcile", "--json")
    assert (code, json.loads(out)) == (7, differs)


def test_an_export_takes_days_as_people_write_them(server: StandIn, run: Run, tmp_path: Path) -> None:
    nothing = {"items": [], "next_cursor": None}
    server.on("GET /v1/allocations", nothing)
    server.on("GET /v1/jobs", nothing)
    file = str(tmp_path / "march.csv")
    assert run("ledger", "export", file, "--since", "2026-03-01", "--until", "2026-04-01T00:00:00Z")[0] == 0
    asked = next(one.query for one in server.asked if one.path == "/v1/allocations")
    assert datetime.fromisoformat(asked["since"][0]) == datetime(2026, 3, 1).astimezone()
    assert datetime.fromisoformat(asked["until"][0]) == datetime(2026, 4, 1, tzinfo=UTC)
    code, _, err = run("ledger", "export", file, "--since", "last week")
    assert (code, '--since: "last week" is not a time' in err) == (2, True)
