"""Arrays, what a job waits for, and schedules on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.standin import Answer, Asked, StandIn

JOB, ARRAY, SCHEDULE = (f"{kind}_01k8aaaaaaaaaaaaaaaaaaaaaa" for kind in ("job", "arr", "sch"))


def a_task(index: int = 3) -> dict[str, Any]:
    return {
        "id": JOB, "name": "many", "project": "vision", "state": "PENDING", "reason": "ArrayLimit", "exit_code": None,
        "signal": None, "created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None, "attempts": [],
        "array_id": ARRAY, "array_index": index,
    }  # fmt: skip


def an_array(**changes: Any) -> dict[str, Any]:
    return {
        "id": ARRAY, "name": "many", "project": "vision", "state": "RUNNING", "reason": "ArrayLimit", "size": 10,
        "at_once": 2, "states": {"PENDING": 7, "RUNNING": 2, "COMPLETED": 1}, "reasons": {"ArrayLimit": 7},
        "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z", "finished_at": None,
        "spec": {"array": {"indices": "0-9", "at_once": 2}, "class": "normal", "weight": 0.5, "resources": {"cpu": 1}},
        **changes,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "work.yaml"
    path.write_text("run: echo hello\nafter: [early, prepare]\n")
    return str(path)


def jobs(asked: Asked) -> Any:
    """Answer GET /v1/jobs as the API does."""
    wants = {name: values[0] for name, values in asked.query.items()}
    if wants.get("array") == ARRAY:
        index = wants.get("index")
        items = [a_task(int(index or 3))] if index in (None, "3") else []
    else:
        items = [an_array()] if wants.get("arrays") == "true" else [a_task()]
    return {"items": items, "next_cursor": None}


def test_submit_takes_dependencies_and_tasks(server: StandIn, run: Run, file: str) -> None:
    server.on("POST /v1/jobs", Answer(an_array(), 201))
    code, out, _ = run("submit", file, "--after", "prepare:any", "--after", JOB, "--array", "0-99%10")
    assert code == 0
    assert ARRAY in out
    sent = server.asked[-1].body["spec"]
    assert sent["after"] == ["early", {"job": "prepare", "when": "any"}, JOB]
    assert sent["array"] == {"indices": "0-99", "at_once": 10}
    run("submit", file, "--array", "5")
    assert server.asked[-1].body["spec"]["array"] == {"indices": "0-4"}


@pytest.mark.parametrize(
    "words", [("--after", "a:maybe"), ("--after", "A B"), ("--array", "1..5"), ("--array", "0-9%0")]
)
def test_what_means_nothing_is_said_before_anything_is_sent(
    server: StandIn, run: Run, file: str, words: tuple[str, str]
) -> None:
    code, _, err = run("submit", file, *words)
    assert (code, server.asked) == (2, [])
    assert err.startswith("Error: a")


def test_an_array_is_one_line_and_expands(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", jobs)
    _, out, _ = run("ps")
    assert "7 PENDING, 2 RUNNING, 1 COMPLETED" in out
    assert server.asked[-1].query["arrays"] == ["true"]
    _, out, _ = run("ps", "--expand")
    assert "TASKS" not in out
    assert "arrays" not in server.asked[-1].query
    _, out, _ = run("ps", "--array", "many", "--json")
    assert [job["array_index"] for job in json.loads(out)] == [3]
    assert (server.asked[-1].query["array"], server.asked[-1].query["all"]) == ([ARRAY], ["true"])


@pytest.mark.parametrize("ref", [ARRAY, "many"])
def test_show_counts_the_tasks_of_an_array(server: StandIn, run: Run, ref: str) -> None:
    server.on("GET /v1/jobs", jobs)
    server.on(f"GET /v1/arrays/{ARRAY}", an_array())
    code, out, err = run("show", ref)
    assert code == 0
    for line in ("tasks      10: 7 PENDING, 2 RUNNING, 1 COMPLETED", "wait for   7 ArrayLimit", "at once    2"):
        assert line in out
    assert f"--array {ARRAY}" in err


def test_a_task_is_named_by_its_index(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", jobs)
    server.on(f"GET /v1/jobs/{JOB}", a_task())
    for ref in (f"{ARRAY}[3]", "many[3]"):
        code, out, _ = run("show", ref)
        assert code == 0
        assert f"task       3 of {ARRAY}" in out
    code, _, err = run("show", "many[4]")
    assert (code, "no task 4" in err) == (3, True)
    code, _, err = run("show", f"{JOB}[4]")
    assert (code, "no array" in err) == (2, True)
    code, _, err = run("logs", "many")
    assert (code, f"{ARRAY}[0]" in err) == (2, True)


def test_cancel_stops_an_array_or_some_of_its_tasks(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", jobs)
    server.on(f"POST /v1/arrays/{ARRAY}/cancel", an_array(state="CANCELLED", reason=""))
    server.on(f"POST /v1/jobs/{JOB}/cancel", a_task())
    code, out, _ = run("cancel", ARRAY, f"{ARRAY}[3-7]", "many[1]", JOB)
    assert code == 0
    assert out.count("CANCELLED") == 3
    assert [one.body for one in server.asked_for(f"POST /v1/arrays/{ARRAY}/cancel")] == [
        {}, {"indices": "3-7"}, {"indices": "1"},
    ]  # fmt: skip
    code, _, err = run("cancel", f"{JOB}[1]")
    assert (code, "no array" in err) == (2, True)


def test_waiting_for_an_array_shows_its_tasks(server: StandIn, run: Run, file: str) -> None:
    seen = iter([an_array(), an_array(state="FAILED", states={"COMPLETED": 9, "FAILED": 1}, reasons={}, reason="")])
    last: list[Any] = []

    def look(_asked: Asked) -> Any:
        last.append(next(seen, None) or last[-1])
        return last[-1]

    server.on("POST /v1/jobs", Answer(an_array(), 201))
    server.on(f"GET /v1/arrays/{ARRAY}", look)
    code, out, _ = run("submit", file, "--array", "10", "--wait")
    assert code == 1
    assert "9 COMPLETED, 1 FAILED" in out


# -- schedules ---------------------------------------------------------------------------------------------------------


def a_schedule(**changes: Any) -> dict[str, Any]:
    return {
        "id": SCHEDULE, "name": "nightly", "project": "vision", "project_id": "prj_x", "cron": "0 3 * * *",
        "time_zone": "Asia/Shanghai", "overlap": "skip", "catch_up_s": 3600.0, "created_by": "li",
        "created_at": "2026-01-01T00:00:00Z", "paused_at": None, "next_at": "2036-01-01T19:00:00Z",
        "spec": {"name": "work"}, "runs": [
            {"due_at": "2026-01-01T19:00:00Z", "outcome": "refused", "work_id": "", "by_hand": False,
             "sentence": "Too large."},
        ],
        **changes,
    }  # fmt: skip


def test_a_schedule_is_created_with_its_times_and_its_work(server: StandIn, run: Run, file: str) -> None:
    server.on("POST /v1/schedules", Answer(a_schedule(), 201))
    code, out, _ = run(
        "schedule", "create", "nightly", "--cron", "0 3 * * *", "--time-zone", "Asia/Shanghai", "--overlap", "replace",
        "--catch-up", "2h", "-p", "vision", file,
    )  # fmt: skip
    assert code == 0
    assert out.startswith(f"{SCHEDULE}  nightly  It is due next 2036-01-0")
    (asked,) = server.asked
    spec = asked.body.pop("spec")
    assert asked.body == {
        "name": "nightly", "cron": "0 3 * * *", "time_zone": "Asia/Shanghai", "overlap": "replace",
        "catch_up_s": 7200.0,
    }  # fmt: skip
    assert (spec["run"], spec["project"]) == ("echo hello", "vision")
    assert len(asked.headers["idempotency-key"]) > 20


def test_a_schedule_of_several_jobs_is_refused(server: StandIn, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("run: a\n---\nrun: b\n")
    code, _, err = run("schedule", "create", "x", "--cron", "0 3 * * *", str(path))
    assert (code, "2 jobs" in err, server.asked) == (2, True, [])


def test_schedules_are_listed_shown_and_changed(server: StandIn, run: Run) -> None:
    server.on("GET /v1/schedules", {"items": [a_schedule()], "next_cursor": None})
    server.on("GET /v1/schedules/nightly", a_schedule())
    server.on("POST /v1/schedules/nightly/pause", a_schedule(paused_at="2026-01-01T00:00:00Z", next_at=None))
    server.on("POST /v1/schedules/nightly/resume", a_schedule())
    server.on("POST /v1/schedules/nightly/run", Answer({"work_id": JOB, "outcome": "submitted"}, 201))
    server.on(f"DELETE /v1/schedules/{SCHEDULE}", Answer(None, 204))
    _, out, _ = run("schedule", "list")
    assert "nightly" in out
    assert "refused" in out
    _, out, _ = run("schedule", "show", "nightly")
    assert "0 3 * * *  (Asia/Shanghai)" in out
    assert "Too large." in out
    assert json.loads(run("schedule", "show", "nightly", "--json")[1])["id"] == SCHEDULE
    assert "It is paused." in run("schedule", "pause", "nightly")[1]
    assert "due next" in run("schedule", "resume", "nightly")[1]
    assert run("schedule", "run-now", "nightly")[1] == f"{JOB}\n"
    assert run("schedule", "delete", "nightly")[:2] == (0, "nightly is gone.\n")
    assert server.asked_for(f"DELETE /v1/schedules/{SCHEDULE}")
