"""Submitting, listing, watching and cancelling jobs."""

from __future__ import annotations

import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dujiang.cli.watching import describe
from tests.cli.conftest import Run
from tests.cli.standin import Answer, Asked, StandIn

A, B = "job_01k8aaaaaaaaaaaaaaaaaaaaaa", "job_01k8bbbbbbbbbbbbbbbbbbbbbb"


def a_job(ident: str = A, **changes: Any) -> dict[str, Any]:
    return {
        "id": ident, "name": "hello", "project": "vision", "state": "RUNNING", "reason": "Started", "exit_code": None,
        "signal": None, "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z", "finished_at": None,
        "attempts": [{"number": 1, "state": "RUNNING", "reason": None, "exit_code": None, "signal": None, "node": "n1",
                      "started_at": "2026-01-01T00:00:01Z", "finished_at": None}],
        **changes,
    }  # fmt: skip


def listing(*jobs: dict[str, Any]) -> Any:
    """Answer GET /v1/jobs as the API does: by name when one is given."""

    def answer(asked: Asked) -> Any:
        name = asked.query.get("name", [None])[0]
        return {"items": [job for job in jobs if name in (None, job["name"])], "next_cursor": None}

    return answer


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "My Job.yaml"
    path.write_text("run: echo hello\nworkdir: sub\nsecrets: {TOKEN: '${A_SECRET}'}\n")
    return path


def test_submit_sends_the_whole_specification_once(
    server: StandIn, run: Run, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "s3cr3t")
    server.on("POST /v1/jobs", Answer(a_job(state="PENDING"), 201))
    code, out, err = run("submit", str(spec), "--json", "--project", "vision")
    assert (code, err) == (0, "")
    assert [job["id"] for job in json.loads(out)] == [A]
    (asked,) = server.asked
    sent = asked.body["spec"]
    assert (sent["name"], sent["project"], sent["workdir"]) == ("my-job", "vision", str(spec.parent / "sub"))
    assert sent["secrets"] == {"TOKEN": {"value": "s3cr3t"}}
    assert len(asked.headers["idempotency-key"]) > 20


def test_several_files_and_documents_are_one_batch_in_order(server: StandIn, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{run: a, name: one}\n---\n{run: b, name: two}\n")
    (tmp_path / "b.json").write_text('[{"run": "c", "name": "three"}]')
    server.on(
        "POST /v1/jobs/batch",
        lambda asked: Answer({"items": [a_job(name=s["name"]) for s in asked.body["specs"]]}, 201),
    )
    code, out, _ = run(
        "submit", str(tmp_path / "a.yaml"), str(tmp_path / "b.json"), "--json", "--idempotency-key", "k1"
    )
    assert code == 0
    assert [job["name"] for job in json.loads(out)] == ["one", "two", "three"]
    assert server.asked[0].headers["idempotency-key"] == "k1"


def test_standard_input(server: StandIn, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"run: x\n")))
    server.on("POST /v1/jobs", Answer(a_job(), 201))
    assert run("submit", "-")[0] == 0
    assert server.asked[0].body["spec"]["name"] == "job"


def test_nothing_is_submitted_when_one_file_is_wrong(server: StandIn, run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("run: x\n")
    (tmp_path / "bad.yaml").write_text("run: x\nresources:\n  gpus: 2\nnodes: many\n")
    (tmp_path / "lost.yaml").write_text("run: x\nsecrets: {A: '${NOT_SET_ANYWHERE}', B: {file: missing}}\n")
    code, out, err = run("submit", *(str(tmp_path / name) for name in ("good.yaml", "bad.yaml", "lost.yaml")))
    assert (code, out, server.asked) == (2, "", [])
    assert 'bad.yaml:3:3: resources.gpus: A resource request has no field "gpus".' in err
    assert "    3 |   gpus: 2\n      |   ^\n" in err
    assert "bad.yaml:4:8: nodes:" in err
    assert "NOT_SET_ANYWHERE is not set" in err
    assert "Nothing was submitted: 4 problems." in err


def test_a_broken_connection_submits_again_with_the_same_key(server: StandIn, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: x\n")
    answers = iter([Answer(a_job(), 201, cut_after=3), Answer({}, 503), Answer(a_job(), 201)])
    server.on("POST /v1/jobs", lambda _: next(answers))
    assert run("submit", str(tmp_path / "a.yaml"))[0] == 0
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"state": "COMPLETED", "exit_code": 0}, 0),
        ({"state": "FAILED", "exit_code": 42}, 42),
        ({"state": "FAILED", "signal": 9}, 137),
        ({"state": "CANCELLED"}, 1),
        ({"state": "TIMEOUT", "signal": 15}, 143),
    ],
)
def test_wait_shows_what_happens_and_exits_as_the_job_did(
    server: StandIn, run: Run, tmp_path: Path, end: dict[str, Any], code: int
) -> None:
    (tmp_path / "a.yaml").write_text("run: x\n")
    states = itertools.chain(
        [Answer(a_job(state="PENDING", reason="WaitsForGpu", attempts=[])), Answer({}, 503), Answer(a_job())],
        itertools.repeat(Answer(a_job(finished_at="2026-01-01T00:01:01Z", **end))),
    )
    server.on("POST /v1/jobs", Answer(a_job(state="PENDING"), 201))
    server.on(f"GET /v1/jobs/{A}", lambda _: next(states))
    got, out, _ = run("submit", str(tmp_path / "a.yaml"), "--wait")
    assert got == code
    lines = out.splitlines()
    assert lines[0] == "hello  PENDING  WaitsForGpu"
    assert lines[1] == "hello  RUNNING  Started  attempt 1  on n1"
    assert lines[2].startswith(f"hello  {end['state']}")


@pytest.mark.parametrize(
    ("cause", "begun", "told"),
    [
        ("Refused", False, "FAILED  it never ran"),
        ("LaunchFailed", True, "FAILED  it never ran"),  # its supervisor had begun
        ("PythonException", True, "FAILED  after 6.0s"),
    ],
)
def test_a_job_that_never_ran_is_not_said_to_have_taken_time(cause: str, begun: bool, told: str) -> None:
    started = "2026-01-01T00:00:01Z" if begun else None
    attempt = {"number": 1, "state": "FAILED", "started_at": started, "diagnosis": {"cause": cause}}
    times = {"started_at": started, "finished_at": "2026-01-01T00:00:07Z"}
    job = a_job(state="FAILED", reason=None, attempts=[attempt], **times)
    assert describe(job).endswith(told)


def test_ps_lists_for_people_and_for_programs(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", listing(a_job(), a_job(B, name="other", state="PENDING", attempts=[], started_at=None)))
    code, out, _ = run("ps")
    assert code == 0
    titles, first, second = out.splitlines()
    assert titles.split()[:4] == ["ID", "NAME", "PROJECT", "STATE"]
    assert first.split()[:4] == [A, "hello", "vision", "RUNNING"]
    assert second.split()[:4] == [B, "other", "vision", "PENDING"]
    code, out, _ = run("ps", "--all", "--json", "--state", "running")
    assert [job["id"] for job in json.loads(out)] == [A, B]
    assert server.asked[-1].query["all"] == ["true"]
    assert server.asked[-1].query["state"] == ["RUNNING"]


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (
            {"state": "FAILED", "reason": "FileMissing", "sentence": "There is no file model.onnx."},
            "digits 1.0.1 could not be registered (FileMissing: There is no file model.onnx.) `dujiang models versions",
        ),
        ({"state": "READY", "reason": "Registered", "sentence": ""}, "digits 1.0.1\n"),
        ({"state": "PENDING", "reason": "ClusterAway", "sentence": ""}, "1.0.1 is not registered yet (ClusterAway). "),
        ({"state": "READY", "reason": "Registered", "sentence": "", "job_id": B}, "digits: no version of this job is"),
        (None, "digits: no version of this job is registered yet."),
    ],
    ids=["failed", "ready", "waits", "of another", "no model"],
)
def test_show_says_what_became_of_the_promised_model(
    server: StandIn, run: Run, version: dict[str, Any] | None, told: str
) -> None:
    outputs = {"spec": {"outputs": {"model": {"name": "digits", "path": "model.onnx"}}}, "project_id": "prj_1"}
    server.on(f"GET /v1/jobs/{A}", a_job(state="COMPLETED", **outputs))
    if version is not None:
        item = {"job_id": A, "version": "1.0.1", **version}
        server.on("GET /v1/models/digits/versions", {"items": [item], "next_cursor": None})
    code, out, _ = run("show", A)
    assert (code, told in out) == (0, True), out
    assert server.asked[-1].query["project"] == ["prj_1"]
    server.on(f"GET /v1/jobs/{A}", a_job(state="RUNNING", **outputs))
    assert "digits" not in run("show", A)[1]


def test_an_empty_listing_says_what_to_do_and_is_an_empty_array(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", listing())
    assert "dujiang submit FILE" in run("ps")[1]
    assert run("ps", "--json")[1] == "[]\n"


@pytest.mark.parametrize("ref", [A, A[:20], "01k8aaaa", "aaaaaaaa", "hello"])
def test_a_job_is_named_by_id_beginning_end_or_name(server: StandIn, run: Run, ref: str) -> None:
    server.on("GET /v1/jobs", listing(a_job(), a_job(B, name="other")))
    server.on(f"GET /v1/jobs/{A}", a_job())
    code, out, _ = run("show", ref, "--json")
    assert code == 0
    assert json.loads(out)["id"] == A


def test_a_name_of_several_jobs_means_the_one_that_lives_for_reading_only(server: StandIn, run: Run) -> None:
    ended, live, other = a_job(B, state="COMPLETED"), a_job(A), a_job("job_01k8cccccccccccccccccccccc")
    server.on("GET /v1/jobs", listing(ended, live))
    server.on(f"GET /v1/jobs/{A}", live)
    code, _, err = run("show", "hello")
    assert code == 0
    assert "2 jobs are called" in err
    server.on("GET /v1/jobs", listing(live, other))
    code, _, err = run("cancel", "hello")
    assert code == 6
    assert "Name them by id" in err


def test_an_unknown_name_is_not_found_and_the_nearest_is_named(server: StandIn, run: Run) -> None:
    server.on("GET /v1/jobs", listing(a_job()))
    code, _, err = run("show", "helo")
    assert code == 3
    assert 'Did you mean "hello"?' in err


def test_show_for_people(server: StandIn, run: Run) -> None:
    job = a_job(name="bad\x1b[2Jname", state="FAILED", reason="NonZeroExit", exit_code=3)
    server.on(f"GET /v1/jobs/{A}", job)
    code, out, err = run("show", A)
    assert code == 0
    assert "FAILED (NonZeroExit)" in out
    assert "\x1b" not in out + err
    assert f"dujiang explain {A}" in err


def test_a_job_on_many_nodes_names_them(server: StandIn, run: Run) -> None:
    nodes = [f"n{number}" for number in range(1, 21)]
    job = a_job(attempts=[{"number": 1, "state": "RUNNING", "node": "n1", "nodes": nodes}])
    server.on(f"GET /v1/jobs/{A}", job)
    server.on("GET /v1/jobs", listing(job))
    out = run("show", A)[1]
    assert f"20: {', '.join(nodes[:16])} and 4 more; --json names all" in out
    assert "n1 +19" in run("ps")[1]


def test_logs_are_written_byte_for_byte(server: StandIn, run: Run) -> None:
    server.on(f"GET /v1/jobs/{A}/logs", lambda asked: Answer("a\nb é\n\x1b[31mc\x1b[0m"))
    assert run("logs", A) == (0, "a\nb é\n\x1b[31mc\x1b[0m", "")
    assert run("logs", A, "--tail", "2")[1] == "b é\n\x1b[31mc\x1b[0m"
    assert run("logs", A, "--tail", "0")[1] == ""
    run("logs", A, "--attempt", "2", "--rank", "1")
    assert (server.asked[-1].query["attempt"], server.asked[-1].query["rank"]) == (["2"], ["1"])


def test_following_goes_on_where_the_connection_broke(server: StandIn, run: Run) -> None:
    whole = b"0123456789" * 3
    cuts = iter([11, 8, None])

    def answer(asked: Asked) -> Answer:
        offset = int(asked.query.get("offset", ["0"])[0])
        return Answer(whole[offset:], cut_after=next(cuts))

    ended = {**an_attempt(1), "state": "COMPLETED"}
    states = iter([a_job(), a_job(attempts=[ended], state="COMPLETED")])
    server.on(f"GET /v1/jobs/{A}", lambda _: next(states))
    server.on(f"GET /v1/jobs/{A}/logs", answer)
    assert run("logs", A, "-f") == (0, whole.decode(), "")
    asked = server.asked_for(f"GET /v1/jobs/{A}/logs")
    assert [one.query.get("offset", ["0"]) for one in asked] == [["0"], ["11"], ["19"]]
    assert {one.query["attempt"][0] for one in asked} == {"1"}


def an_attempt(number: int, state: str = "RUNNING") -> dict[str, Any]:
    return {**a_job()["attempts"][0], "number": number, "state": state}


def test_following_goes_on_with_the_next_attempt_until_the_job_has_ended(server: StandIn, run: Run) -> None:
    first, second = an_attempt(1, "FAILED"), an_attempt(2)
    jobs = [
        a_job(state="PENDING", attempts=[]),  # it has no attempt yet
        a_job(state="PENDING", attempts=[]),
        a_job(attempts=[an_attempt(1)]),
        a_job(attempts=[an_attempt(1)]),  # the stream ended, as the server stopped: the attempt goes on
        a_job(state="PENDING", attempts=[first]),  # it waits for another
        a_job(attempts=[first, second]),
        a_job(state="COMPLETED", attempts=[first, {**second, "state": "COMPLETED"}]),
    ]
    states, outputs = iter(jobs), {"1": iter([b"one ", b"two\n"]), "2": iter([b"three\n"])}
    server.on(f"GET /v1/jobs/{A}", lambda _: next(states))
    server.on(f"GET /v1/jobs/{A}/logs", lambda asked: Answer(next(outputs[asked.query["attempt"][0]])))
    assert run("logs", A, "-f") == (0, "one two\nthree\n", "Attempt 2:\n")
    asked = server.asked_for(f"GET /v1/jobs/{A}/logs")
    assert [(one.query["attempt"], one.query["offset"]) for one in asked] == [
        (["1"], ["0"]), (["1"], ["4"]), (["2"], ["0"]),
    ]  # fmt: skip


def test_following_one_attempt_ends_with_it(server: StandIn, run: Run) -> None:
    server.on(f"GET /v1/jobs/{A}", a_job(attempts=[an_attempt(1, "FAILED"), an_attempt(2)]))
    server.on(f"GET /v1/jobs/{A}/logs", lambda _: Answer(b"one\n"))
    assert run("logs", A, "-f", "--attempt", "1") == (0, "one\n", "")


def test_the_last_lines_and_then_what_follows_are_of_one_attempt(server: StandIn, run: Run) -> None:
    server.on(
        f"GET /v1/jobs/{A}", a_job(state="COMPLETED", attempts=[an_attempt(1, "FAILED"), an_attempt(2, "COMPLETED")])
    )

    def answer(asked: Asked) -> Answer:
        assert asked.query["attempt"] == ["2"]
        return Answer(b"a\nb\nc\nd\n"[int(asked.query.get("offset", ["0"])[0]) :])

    server.on(f"GET /v1/jobs/{A}/logs", answer)
    assert run("logs", A, "-f", "--tail", "2") == (0, "c\nd\n", "")


def test_explain_writes_the_servers_words_without_control_characters(server: StandIn, run: Run) -> None:
    answer = {"job_id": A, "text": "FAILED: it hurt\n  why: \x1b]0;owned\x07\n"}
    server.on(f"GET /v1/jobs/{A}/explain", answer)
    code, out, _ = run("explain", A)
    assert code == 0
    assert out.startswith("FAILED: it hurt\n  why: ")
    assert "\x1b" not in out
    assert json.loads(run("explain", A, "--json")[1]) == answer


def test_cancel_stops_what_can_be_stopped_and_says_what_not(server: StandIn, run: Run) -> None:
    server.on(f"POST /v1/jobs/{A}/cancel", a_job(state="CANCELLED"))
    server.on(f"POST /v1/jobs/{B}/cancel", lambda _: server.problem(409, "ended", "It has ended already."))
    code, out, err = run("cancel", A, B, "--json")
    assert code == 6
    assert [job["id"] for job in json.loads(out)] == [A]
    assert "It has ended already." in err


def test_figures_of_a_job(server: StandIn, run: Run) -> None:
    row = {
        "name": "loss",
        "value": 0.1234567,
        "special": None,
        "step": 9,
        "attempt": 2,
        "at": "2026-01-01T00:00:00Z",
        "points": 3,
    }
    nan = {**row, "name": "grad", "value": None, "special": "nan"}
    server.on(f"GET /v1/jobs/{A}/metrics", {"job_id": A, "metrics": [row, nan], "series": []})
    lines = run("metrics", A)[1].splitlines()
    assert lines[1].split()[:4] == ["loss", "0.123457", "9", "2"]
    assert lines[2].split()[1] == "nan"
    assert json.loads(run("metrics", A, "--json")[1])[0]["name"] == "loss"
