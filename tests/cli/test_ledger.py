"""The ledger on the command line: against what clusters account themselves."""

from __future__ import annotations

import json
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
    assert asked == {"cluster": ["hpc"], "since": ["2026-01-30T12:00:00Z"], "tolerance_s": ["9.0"]}


def test_what_does_not_add_up_is_named_and_exits_7(server: StandIn, run: Run) -> None:
    differs = {"holds": False, "clusters": [{**SAME, "holds": False, "differing": 1, "items": [STRAY]}]}
    server.on("GET /v1/allocations/reconcile", differs)
    code, out, _ = run("ledger", "reconcile")
    assert (code, "job_x.1" in out, "only the cluster has it: 8 s as job 17" in out) == (7, True, True)
    code, out, _ = run("ledger", "reconcile", "--json")
    assert (code, json.loads(out)) == (7, differs)
