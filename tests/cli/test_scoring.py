"""`dujiang job exempt`, `job accuracy`, `simulate predictions`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.standin import StandIn

JOB = "job_01hzzzzzzzzzzzzzzzzzzzzzzz"
FIGURES = {
    "jobs": 12, "mean_ratio": 1.5, "median_ratio": 0.98765, "within_factor_2": 0.75, "closeness": 0.8,
    "mean_error_s": 61.0, "p90_error_s": 7200.0,
}  # fmt: skip


def exempting(server: StandIn) -> list[dict[str, Any]]:
    """Have the server take exemptions; returns what it was asked."""
    asked: list[dict[str, Any]] = []

    def take(request: Any) -> Any:
        body = request.body
        asked.append(body)
        return {"job_id": JOB, "until": body["until"], "reason": body["reason"]}

    server.on(f"GET /v1/jobs/{JOB}", {"id": JOB, "name": "x", "state": "RUNNING"})
    server.on(f"POST /v1/jobs/{JOB}/exempt", take)
    return asked


def test_a_job_is_exempted_until_the_end_of_a_day_a_time_or_for_so_long(server: StandIn, run: Run) -> None:
    asked = exempting(server)
    for until in ("2099-12-24", "2099-12-24T18:00:00+08:00", "+3d"):
        code, out, err = run("job", "exempt", JOB, "--until", until, "--reason", "debugger")
        assert (code, err) == (0, "")
        assert "counts as busy until" in out
    day, time, span = [datetime.fromisoformat(one["until"]) for one in asked]
    assert day == datetime(2099, 12, 25).astimezone()
    assert time == datetime(2099, 12, 24, 10, tzinfo=UTC)
    assert timedelta(days=2.9) < span - datetime.now(UTC) < timedelta(days=3.1)
    assert {one["reason"] for one in asked} == {"debugger"}


def test_an_exemption_is_taken_back(server: StandIn, run: Run) -> None:
    asked = exempting(server)
    code, out, _ = run("job", "exempt", JOB, "--end")
    assert (code, asked) == (0, [{"until": None, "reason": ""}])
    assert "judged by what it uses" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--until or --end"),
        (("--until", "2099-01-01", "--end"), "--until or --end"),
        (("--until", "2099-01-01"), "--reason"),
        (("--until", "someday", "--reason", "x"), "someday"),
        (("--until", "+soon", "--reason", "x"), "+soon"),
    ],
)
def test_what_cannot_be_meant_is_told(server: StandIn, run: Run, words: tuple[str, ...], says: str) -> None:
    asked = exempting(server)
    code, _, err = run("job", "exempt", JOB, *words)
    assert (code, asked) == (2, [])
    assert says in err


def test_accuracy_is_a_table_json_or_a_sentence(server: StandIn, run: Run) -> None:
    report = {
        "since": "2026-01-01T00:00:00Z", "overall": FIGURES, "projects": [{"name": "vision", **FIGURES}],
        "groups": [{"name": "user, shape", **FIGURES}],
    }  # fmt: skip
    server.on("GET /v1/runtimes/accuracy", report)
    code, out, _ = run("job", "accuracy", "--days", "7")
    assert code == 0
    assert "project vision" in out
    assert "by user, shape" in out
    assert "75.0%" in out
    assert "0.988" in out
    code, out, _ = run("job", "accuracy", "--json")
    assert (code, json.loads(out)) == (0, report)
    server.on("GET /v1/runtimes/accuracy", {**report, "overall": None, "projects": [], "groups": []})
    code, out, err = run("job", "accuracy")
    assert code == 0
    assert "Nothing to compare" in out + err


def test_predictions_on_a_trace(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "jobs.csv"
    rows = [f"j{n},{n * 100},{50 + n % 3},1,vc" for n in range(40)]
    trace.write_text("\n".join(["job,submit_s,duration_s,num_gpus,vc", *rows]) + "\n")
    code, out, _ = run("simulate", "predictions", "--jobs", str(trace))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["ours", "latest-two", "one-for-all"]
    code, out, _ = run("simulate", "predictions", "--jobs", str(trace), "--json")
    found = json.loads(out)
    assert found["of"] == 40
    assert found["results"][0]["within_factor_2"] == 1.0
    trace.write_text("job,submit_s,duration_s,num_gpus\nj0,0,x,1\n")
    code, _, err = run("simulate", "predictions", "--jobs", str(trace))
    assert code == 2
    assert "row 2, column duration_s" in err
