"""Every command's way of ending: exit codes, sentences instead of tracebacks, arrays instead of tables."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dujiang.cli.app import app
from dujiang.cli.exits import MEANINGS
from tests.cli.conftest import Run
from tests.cli.standin import Answer, StandIn

LISTINGS: list[tuple[tuple[str, ...], str]] = [
    (("ps",), "/v1/jobs"),
    (("queue",), "/v1/queue"),
    (("nodes",), "/v1/nodes"),
    (("reservations",), "/v1/reservations"),
    (("models",), "/v1/models"),
    (("models", "versions", "digits"), "/v1/models/digits/versions"),
    (("deployments",), "/v1/deployments"),
    (("bill",), "/v1/bills"),
    (("prices",), "/v1/prices"),
    (("quotas",), "/v1/quotas"),
    (("audit",), "/v1/audit"),
    (("users",), "/v1/users"),
    (("projects",), "/v1/projects"),
    (("projects", "members", "vision"), "/v1/projects/vision/members"),
    (("tokens",), "/v1/tokens"),
]


@pytest.mark.parametrize(
    ("command", "path"), LISTINGS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_listing_is_one_json_array_or_a_sentence(
    server: StandIn, run: Run, command: tuple[str, ...], path: str
) -> None:
    server.on(f"GET {path}", {"items": [{"name": "x", "lines": []}], "next_cursor": None})
    code, out, err = run(*command, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), list)
    server.on(f"GET {path}", {"items": [], "next_cursor": None})
    assert run(*command, "--json")[:2] == (0, "[]\n")
    code, out, _ = run(*command)
    assert code == 0
    assert len(out.split()) >= 4, "an empty state is a sentence"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 3), (409, 6), (422, 2), (429, 5), (500, 1), (503, 5), (507, 5)],
)
def test_every_refusal_has_its_exit_code_and_its_sentence(server: StandIn, run: Run, status: int, code: int) -> None:
    server.on("GET /v1/pool", lambda _: server.problem(status, "some_code", "That cannot be."))
    got, out, err = run("pool")
    assert (got, out) == (code, "")
    assert "That cannot be." in err


def test_problems_of_a_specification_that_the_server_found(server: StandIn, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("run: x\n")
    found = [{"path": "resources.gpu", "message": "There is no GPU.", "instead": "Leave it out."}]
    server.on("POST /v1/jobs", lambda _: server.problem(422, "invalid_specification", "One problem.", problems=found))
    code, _, err = run("submit", str(tmp_path / "a.yaml"))
    assert code == 2
    assert "resources.gpu: There is no GPU. Leave it out." in err


def test_no_server_says_how_to_start_one(run: Run, home: Path) -> None:
    code, _, err = run("ps")
    assert (code, "dujiang up" in err) == (5, True)
    home.mkdir()
    (home / "server.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1}')
    code, _, err = run("ps")
    assert code == 5
    assert err == "Error: No server answers at http://127.0.0.1:1. Start one with `dujiang up`.\n"


def test_what_is_no_address_is_told_as_that_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUJIANG_URL", "ftp://here")
    code, _, err = run("ps")
    assert (code, '"ftp://here" is no address of a server' in err, "dujiang up" in err) == (5, True, False)


def test_who_is_not_signed_in_is_told_once_what_to_do(server: StandIn, run: Run) -> None:
    server.on("GET /v1/pool", lambda _: server.problem(401, "unauthenticated", "The token has expired. Sign in again."))
    assert run("pool")[2] == (
        "Error: The token has expired. Sign in with `dujiang login`. DUJIANG_TOKEN is what was sent; it wins over what "
        "`dujiang login` keeps.\n"
    )


@pytest.mark.parametrize(
    "args", [("sho",), ("ps", "--nonsense"), ("show",), ("logs", "x", "--rank", "-1"), ("nodes", "fly")]
)
def test_a_wrong_command_line_is_two(run: Run, args: tuple[str, ...]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_a_missing_file_is_a_sentence(server: StandIn, run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        code, _, err = run("submit", str(path))
        assert code == 2
        assert "cannot be read" in err


@pytest.mark.parametrize(
    "body", ["null", "[]", "{}", '{"items": 5}', '{"items": [5]}', '"x"', '{"items": [{"created_at": 5}]}']
)
@pytest.mark.parametrize(
    "command", [("ps",), ("pool",), ("verify",), ("bill",), ("show", "job_01k8aaaaaaaaaaaaaaaaaaaaaa")]
)
def test_an_answer_of_another_shape_gives_no_traceback(
    server: StandIn, run: Run, body: str, command: tuple[str, ...]
) -> None:
    answer = Answer(body, 200, {"Content-Type": "application/json"})
    for path in ("jobs", "pool", "verify", "bills", "jobs/job_01k8aaaaaaaaaaaaaaaaaaaaaa"):
        server.on(f"GET /v1/{path}", answer)
    code, _, err = run(*command)
    assert "Traceback" not in err
    assert code == 0 or err


def test_verify_exits_seven_and_names_the_row(server: StandIn, run: Run) -> None:
    broken = {
        "name": "ledger",
        "holds": False,
        "checked": 9,
        "sentence": "",
        "breaches": [{"row": "alc_1", "why": "too much"}],
    }
    whole = {"name": "audit", "holds": True, "checked": 5, "sentence": "whole", "breaches": []}
    server.on("GET /v1/verify", {"holds": True, "checks": [whole]})
    code, out, _ = run("verify")
    assert (code, "Everything holds." in out) == (0, True)
    server.on("GET /v1/verify", {"holds": False, "checks": [whole, broken]})
    code, out, _ = run("verify")
    assert code == 7
    assert "alc_1: too much" in out
    code, out, _ = run("verify", "--json")
    assert code == 7
    assert json.loads(out)["holds"] is False


def test_verify_exits_eight_where_a_cluster_is_away_and_nothing_is_broken(server: StandIn, run: Run) -> None:
    away = {"row": "hpc", "sentence": "hpc could not be looked at: Slurm does not answer."}
    unseen = {
        "name": "processes", "holds": False, "verdict": "unseen", "count": 2, "sentence": "", "breaches": [],
        "unseen": [away],
    }  # fmt: skip
    broken = {"name": "ledger", "holds": False, "verdict": "broken", "breaches": [{"row": "alc_1", "sentence": "!"}]}
    server.on("GET /v1/verify", {"holds": False, "verdict": "unseen", "checks": [unseen]})
    code, out, _ = run("verify")
    assert (code, out.splitlines()[1].startswith("not seen"), "BROKEN" in out) == (8, True, False)
    assert "hpc could not be looked at: Slurm does not answer." in out
    assert out.endswith("Nothing is broken; not everything could be looked at.\n")
    assert run("verify", "--json")[0] == 8
    server.on("GET /v1/verify", {"holds": False, "verdict": "broken", "checks": [unseen, broken]})
    code, out, _ = run("verify")
    assert (code, "hpc could not" in out, out.endswith("Not everything holds.\n")) == (7, True, True)


def test_audit_verify_exits_seven_when_the_chain_breaks(server: StandIn, run: Run) -> None:
    server.on(
        "GET /v1/audit/verify",
        {"holds": False, "records": 3, "breaks": [{"seq": 2, "why": "changed"}], "seq": 3, "hash": "0"},
    )
    code, out, _ = run("audit", "verify")
    assert (code, out) == (7, "Record 2: changed\n")


def test_a_bill_adds_up_on_the_screen(server: StandIn, run: Run) -> None:
    line = {"sku_id": "cpu", "consumed_quantity": "1.5000000000", "consumed_unit": "core-hour",
            "list_unit_price": "0.0300", "billed_cost": "0.05", "unpriced": False, "simulated": False}  # fmt: skip
    bill = {"project": "vision", "project_id": "prj_1", "billing_period": "2026-01", "billing_currency": "CNY",
            "billed_cost": "0.05", "provisional": True, "lines": [line]}  # fmt: skip
    server.on("GET /v1/bills", {"items": [bill], "next_cursor": None})
    out = run("bill")[1]
    assert "vision, 2026-01 so far" in out
    row = next(part for part in out.split("\n") if part.startswith("cpu"))
    assert row.split() == ["cpu", "1.5", "core-hour", "0.03", "0.05"]
    assert "0.05 CNY" in out
    assert "simulated" not in out
    bill |= {"lines": [line | {"simulated": True}], "billed_cost": "0.00", "simulated_cost": "0.05"}
    rows = [part.split() for part in run("bill")[1].split("\n")]
    assert ["simulated,", "in", "no", "total", "0.05", "CNY"] in rows
    assert ["total", "0.00", "CNY"] in rows


def test_quotas_keep_what_is_not_named(server: StandIn, run: Run) -> None:
    quota = {"project": "vision", "project_id": "prj_1", "gpu_milli": 2000, "cpu_milli": None, "memory_bytes": 5,
             "used_gpu_milli": 0, "used_cpu_milli": 500, "used_memory_bytes": 0}  # fmt: skip
    server.on("GET /v1/quotas", {"items": [quota], "next_cursor": None})
    server.on("PUT /v1/quotas/vision", lambda asked: {**quota, **asked.body})
    code, out, _ = run("quotas", "set", "vision", "--gpu", "1/2", "--memory", "none")
    assert code == 0
    assert server.asked[-1].body == {"gpu_milli": 500, "cpu_milli": None, "memory_bytes": None}
    assert "0 of 0.5" in out
    code, _, err = run("quotas", "set", "vision", "--memory", "64")
    assert (code, "--memory: 64 is 64B; write a unit: 64GiB." in err) == (2, True)
    assert run("quotas", "set", "vision", "--memory", "0")[0] == 0


def test_a_version_that_failed_says_why(server: StandIn, run: Run) -> None:
    good = {"version": "v1.0.0", "state": "READY", "sentence": ""}
    bad = {"version": "v1.0.1", "state": "FAILED", "sentence": "The job left no file model.onnx."}
    server.on("GET /v1/models/digits/versions", {"items": [good, bad], "next_cursor": None})
    titles, first, second = run("models", "versions", "digits")[1].splitlines()
    assert (titles.split()[-1], first.split()[-1]) == ("WHY", "-")
    assert second.endswith("The job left no file model.onnx.")


def test_an_account_without_a_password_is_told_as_that(server: StandIn, run: Run) -> None:
    made = {"name": "ann", "role": "member", "display_name": "", "id": "usr_1", "disabled_at": None, "created_at": None}
    server.on("POST /v1/users", made)
    code, _, err = run("users", "add", "ann")
    assert (code, "ann has no password and cannot sign in: `dujiang users change ann --password-stdin`" in err) == (
        0, True,
    )  # fmt: skip


def test_a_wrong_password_is_no_reason_to_sign_in(server: StandIn, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "The name or the password is wrong."
    server.on("POST /v1/login", lambda _: server.problem(401, "sign_in_refused", refusal))
    monkeypatch.setattr("sys.stdin", io.StringIO("guess\n"))
    code, _, err = run("login", "--url", server.url, "--name", "ann", "--password-stdin")
    assert (code, err) == (4, f"Error: {refusal}\n")


def test_login_keeps_the_token_for_later_commands(
    server: StandIn, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DUJIANG_URL")
    monkeypatch.delenv("DUJIANG_TOKEN")
    me: dict[str, Any] = {"user": {"name": "ann", "role": "member"}, "projects": [], "permissions": []}
    server.on("GET /v1/me", me)
    server.on("POST /v1/logout", Answer(None, 204))
    code, out, _ = run("login", "--url", server.url, "--token", "dj_mine")
    assert code == 0
    assert "as ann (member)" in out
    assert "dj_mine" not in out
    assert (home / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert run("whoami")[0] == 0
    assert server.asked[-1].headers["authorization"] == "Bearer dj_mine"
    assert run("logout")[0] == 0
    assert not (home / "credentials.json").exists()


def test_predict_takes_rows_requests_and_nothing_else(server: StandIn, run: Run, tmp_path: Path) -> None:
    server.on(
        "POST /v1/deployments/digits/predict",
        lambda asked: {"outputs": [{"name": "label", "shape": [2], "datatype": "INT64", "data": [3, 8]}]},
    )
    (tmp_path / "rows.json").write_text('{"images": [[0.5, 1], [2, 3]], "labels": [3, 8]}')
    code, out, _ = run("predict", "digits", str(tmp_path / "rows.json"))
    assert (code, "3, 8" in out) == (0, True)
    tensor = {"name": "images", "shape": [2, 2], "datatype": "FP32", "data": [0.5, 1, 2, 3]}
    assert server.asked[-1].body == {"inputs": [tensor]}
    for bad in ("[[1], [1, 2]]", "{", "[]", "{}", "5"):
        (tmp_path / "bad.json").write_text(bad)
        assert run("predict", "digits", str(tmp_path / "bad.json"))[0] == 2


def test_every_command_has_help_and_every_exit_code_is_in_it(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    words = " ".join(out.split())
    for meaning in MEANINGS.values():
        assert meaning in words
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__
        assert run(command.callback.__name__, "--help")[0] == 0
    for group in app.registered_groups:
        assert run(str(group.name), "--help")[0] == 0


def dujiang(*args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from dujiang.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, timeout=60, **options)


def test_a_reader_that_leaves_gets_no_traceback(server: StandIn, home: Path) -> None:
    server.on(
        "GET /v1/audit", {"items": [{"seq": n, "payload": {"x": "y" * 500}} for n in range(5000)], "next_cursor": None}
    )
    script = f"{sys.executable} -c 'import sys; from dujiang.cli import main; sys.exit(main())' audit -n 5000 | head -1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60)
    assert done.stderr == b""


def test_a_terminal_that_knows_only_ascii(server: StandIn, home: Path) -> None:
    server.on(
        "GET /v1/projects", {"items": [{"name": "都江堰", "created_at": "2026-01-01T00:00:00Z"}], "next_cursor": None}
    )
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for args in (("projects",), ("--help",)):
        done = dujiang(*args, env=environ)
        assert (done.returncode, done.stderr) == (0, b"")


def test_help_is_fast(home: Path) -> None:
    """Importing what only some commands need would show in every one of them."""
    code = "import sys; from dujiang.cli.app import app; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    heavy = {"httpx", "yaml", "sqlalchemy", "fastapi", "pydantic", "numpy", "rich.console", "dujiang.bootstrap"}
    assert not heavy & set(loaded)
