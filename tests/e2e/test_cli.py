"""Every command against the platform as a real process, in the forms that scripts rely on."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dujiang.jobs.domain import TERMINAL
from dujiang.kit.ids import is_id
from tests.chaos.process import BIN, PlatformProcess, Said, document, until

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {"id", "name", "state", "reason", "exit_code", "signal", "attempts"}
ATTEMPT = {"number", "state", "reason", "exit_code", "signal", "node", "started_at", "finished_at"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """One platform for all tests here; at the end it stops as asked, and nothing of it is left."""
    made = PlatformProcess(tmp_path_factory.mktemp("cli") / "home")
    try:
        made.start()
        until(
            lambda: any(node["state"] == "READY" for node in made.run("nodes", "--json").json), 30, "the node is ready"
        )
        yield made
        live = [job["id"] for job in made.run("ps", "--json").json]
        if live:
            made.run("cancel", *live)
            until(lambda: made.run("ps", "--json").json == [], 60, "everything has ended")
        proven = made.run("verify", "--json")
        assert (proven.code, proven.json["holds"]) == (0, True), proven.out
        assert made.stop() == 0
        assert made.tracebacks() == []
        until(lambda: made.processes() == [], 30, f"nothing is left: {made.processes()}")
    finally:
        made.kill()  # where something failed on the way; else it has stopped


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Write a job's file; return its path."""

    def write(name: str, run: str, **fields: Any) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(document(name, run, **fields)))
        return str(path)

    return write


def submit(platform: PlatformProcess, *files: str) -> list[str]:
    """Submit jobs; return their ids."""
    said = platform.run("submit", *files, "--json")
    assert said.code == 0, said.err
    return [job["id"] for job in said.json]


def show(platform: PlatformProcess, job: str) -> dict[str, Any]:
    return dict(platform.run("show", job, "--json").json)


def ended(platform: PlatformProcess, job: str, within_s: float = 60) -> dict[str, Any]:
    """Wait for a job's end."""

    def look() -> dict[str, Any] | None:
        found = show(platform, job)
        return found if found["state"] in TERMINAL else None

    return dict(until(look, within_s, f"{job} has ended"))


def resources(platform: PlatformProcess) -> dict[str, dict[str, Any]]:
    """Return the rows of the pool by the name of what is counted."""
    return {row["resource"]: row for row in platform.run("pool", "--json").json}


def running(platform: PlatformProcess, job: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = show(platform, job)
        return found if found["state"] == "RUNNING" else None

    return dict(until(look, 60, f"{job} runs"))


def refused(said: Said, code: int, words: str) -> None:
    """Assert that a command ended so, with a sentence and nothing else."""
    assert (said.code, said.out) == (code, ""), said
    assert words in said.err, said.err
    assert "Traceback" not in said.err


# -- finding the server ------------------------------------------------------------------------------------------------


def test_every_command_of_the_account_finds_the_server_and_is_its_first_admin(platform: PlatformProcess) -> None:
    me = platform.run("whoami", "--json").json
    assert (me["user"]["name"], me["user"]["role"]) == ("admin", "admin")
    told = json.loads((platform.home / "server.json").read_text())
    assert told["url"] == f"http://127.0.0.1:{platform.port}"
    assert (platform.home / "admin.token").stat().st_mode & 0o077 == 0
    assert f"listens at {told['url']}" in platform.told()


def test_without_a_server_it_is_said_how_to_get_one(platform: PlatformProcess, tmp_path: Path) -> None:
    elsewhere = PlatformProcess(tmp_path / "empty", port=1)
    refused(elsewhere.run("ps"), 5, "start one with `dujiang up`")
    wrong = PlatformProcess(platform.home, port=1, env={"DUJIANG_TOKEN": "dj_01kdvdna00f9g6fgfz46rzr5x5_x"})
    refused(wrong.run("ps"), 4, "dujiang login")


def test_a_second_platform_does_not_start_in_the_same_home_or_on_the_same_port(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    refused(platform.run("up", "--port", "0"), 6, "runs in")
    refused(PlatformProcess(tmp_path / "other").run("up", "--port", str(platform.port)), 6, str(platform.port))
    assert platform.run("ps", "--json").code == 0


# -- submit, ps, show, logs --------------------------------------------------------------------------------------------


def test_jobs_are_submitted_in_order_and_shown_in_full(platform: PlatformProcess, files: Any) -> None:
    run = 'echo "$DUJIANG_JOB_ID $DUJIANG_ATTEMPT"; echo whoops >&2; exit 3'
    said = platform.run("submit", files("one", run), files("two", "true"), "--json")
    assert (said.code, said.err) == (0, "")
    assert [job["name"] for job in said.json] == ["one", "two"]
    one, two = (job["id"] for job in said.json)
    assert is_id(one, "job")
    failed, done = ended(platform, one), ended(platform, two)
    assert failed.keys() >= SHOWN
    (attempt,) = failed["attempts"]
    assert attempt.keys() >= ATTEMPT
    assert (failed["state"], failed["exit_code"], failed["signal"]) == ("FAILED", 3, None)
    assert (attempt["number"], attempt["state"], attempt["exit_code"]) == (1, "FAILED", 3)
    assert attempt["node"] == platform.run("nodes", "--json").json[0]["name"]
    assert attempt["started_at"] < attempt["finished_at"]
    assert (done["state"], done["exit_code"], done["reason"]) == ("COMPLETED", 0, "Succeeded")
    assert platform.run("logs", one).out.splitlines() == [f"{one} 1", "whoops"]
    assert platform.run("logs", one, "--tail", "1").out == "whoops\n"
    listed = {job["id"]: job for job in platform.run("ps", "--all", "--json").json}
    assert listed[one].keys() >= SHOWN
    assert listed[one]["attempts"][0].keys() >= ATTEMPT
    assert listed[one] == failed
    assert one not in [job["id"] for job in platform.run("ps", "--json").json]
    assert [job["id"] for job in platform.run("ps", "--state", "failed", "--name", "one", "--json").json] == [one]
    for people in (platform.run("ps", "--all").out, platform.run("show", one).out):
        assert one in people
        assert "FAILED" in people


@pytest.mark.parametrize(
    ("run", "fields", "code", "state"),
    [
        ("true", {}, 0, "COMPLETED"),
        ("exit 42", {}, 42, "FAILED"),
        ("kill -9 $$", {"retry": {"limit": 0}}, 137, "FAILED"),
        ("sleep 60", {"time_limit": "1s", "grace": "0.5s"}, 143, "TIMEOUT"),
    ],
)
def test_waiting_ends_as_the_job_did(
    platform: PlatformProcess, files: Any, run: str, fields: dict[str, Any], code: int, state: str
) -> None:
    said = platform.run("submit", files("waited", run, **fields), "--wait")
    assert said.code == code, said
    assert state in said.out


def test_one_key_submits_one_job(platform: PlatformProcess, files: Any) -> None:
    path = files("once", "true")
    twice = [platform.run("submit", path, "--json", "--idempotency-key", "k-once").json[0]["id"] for _ in range(2)]
    assert twice[0] == twice[1]


def test_what_cannot_be_submitted(platform: PlatformProcess, files: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nrun: y\nresources:\n  cpus: 1\n")
    refused(platform.run("submit", str(wrong)), 2, f"{wrong}:4:3: resources.cpus")
    refused(platform.run("submit", str(tmp_path / "absent.yaml")), 2, "absent.yaml")
    refused(platform.run("submit", files("big", "true", resources={"cpu": 9999})), 2, "the largest possible is")
    refused(platform.run("submit", files("nowhere", "true"), "--project", "nobody"), 3, "nobody")
    refused(platform.run("show", "job_" + "0" * 26), 3, "no such job")
    refused(platform.run("logs", "nothing-like-it"), 3, "There is no job")
    said = platform.run("ps", "--sta")
    assert (said.code, "No such option" in said.err) == (2, True)


def test_following_shows_every_attempt_also_through_a_restart(
    platform: PlatformProcess, files: Any, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = (
        f'echo "attempt $DUJIANG_ATTEMPT"; while [ ! -e {go} ]; do sleep 0.1; done; '
        f'[ "$DUJIANG_ATTEMPT" = 2 ] || {{ rm {go}; kill -9 $$; }}; echo over'
    )
    (job,) = submit(platform, files("flaking", run, retry={"limit": 2}))
    with subprocess.Popen(
        [BIN / "dujiang", "logs", "-f", job], env=platform.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as follower:  # fmt: skip
        assert follower.stdout is not None
        assert follower.stdout.readline() == "attempt 1\n"
        go.touch()
        assert follower.stdout.readline() == "attempt 2\n"
        running(platform, job)
        assert platform.stop() == 0
        platform.start()
        go.touch()
        out, err = follower.communicate(timeout=90)
    assert (follower.returncode, out, err) == (0, "over\n", "Attempt 2:\n")
    assert ended(platform, job)["state"] == "COMPLETED"


# -- cancel, explain, queue --------------------------------------------------------------------------------------------


def test_cancel_stops_what_runs_and_what_waits(platform: PlatformProcess, files: Any) -> None:
    cores = resources(platform)["cores"]["total"] / 1000
    blocker, waiting = submit(
        platform, files("blocker", "sleep 300", resources={"cpu": cores, "memory": "32MiB"}),
        files("waiting", "true", resources={"cpu": cores, "memory": "32MiB"}),
    )  # fmt: skip
    running(platform, blocker)

    def queued() -> list[dict[str, Any]]:
        # At first it may be told that the job before it took the room in the same round (Priority).
        return [
            row for row in platform.run("queue", "--json").json if (row["id"], row["reason"]) == (waiting, "Resources")
        ]

    (row,) = until(queued, 30, "it waits and knows why")
    assert (row["position"], bool(row["detail"])) == (1, True)
    why = platform.run("explain", waiting, "--json").json
    assert (why["topic"], why["cause"]) == ("waits", "Resources")
    assert blocker in platform.run("explain", waiting).out
    assert waiting in platform.run("queue").out
    assert platform.run("cancel", waiting).code == 0
    assert show(platform, waiting)["state"] == "CANCELLED"
    said = platform.run("cancel", blocker, "--json")
    assert (said.code, [job["id"] for job in said.json]) == (0, [blocker])
    stopped = ended(platform, blocker)
    assert (stopped["state"], stopped["reason"]) == ("CANCELLED", "Cancelled")
    again = platform.run("cancel", blocker)
    assert (again.code, "CANCELLED already" in again.err) == (6, True)
    refused(platform.run("cancel", "job_" + "0" * 26), 3, "no such job")


def test_explain_says_why_it_failed_with_the_line_that_proves_it(platform: PlatformProcess, files: Any) -> None:
    (job,) = submit(platform, files("typo", "python -c 'import nothing_of_the_kind'"))
    ended(platform, job)
    said = platform.run("explain", job, "--json")
    assert (said.code, said.json["topic"]) == (0, "failed")
    assert said.json["blame"] == "user"
    assert any("nothing_of_the_kind" in exhibit["line"] for exhibit in said.json["evidence"])
    assert "nothing_of_the_kind" in platform.run("explain", job).out


def test_figures_that_a_job_prints(platform: PlatformProcess, files: Any) -> None:
    (job,) = submit(platform, files("figures", "echo step=1 loss=0.5; printf 'step=2 loss=0.25'"))
    ended(platform, job)
    rows = until(
        lambda: [row for row in platform.run("metrics", job, "--json").json if row["step"] == 2], 30, "the last line"
    )
    assert [(row["name"], row["value"]) for row in rows] == [("loss", 0.25)]
    assert "dujiang_" in platform.run("metrics").out


# -- the other listings ------------------------------------------------------------------------------------------------

LISTINGS = {
    "nodes": {"name", "state", "cluster"},
    "queue": {"id", "position", "reason"},
    "models": {"name"},
    "bill": {"project", "billed_cost", "billing_currency", "lines"},
    "pool": {"resource", "unit", "total", "allocated", "free", "simulated"},
    "audit": {"seq", "type", "actor"},
    "ps": SHOWN,
    "users": {"id", "name", "role"},
    "projects": {"id", "name"},
    "tokens": {"id", "name"},
    "prices": {"sku_id", "unit_price"},
    "quotas": {"project", "gpu_milli"},
    "deployments": {"name", "state"},
}


@pytest.mark.parametrize("command", LISTINGS)
def test_a_listing_is_one_array(platform: PlatformProcess, command: str) -> None:
    said = platform.run(command, "--json")
    assert (said.code, said.err) == (0, ""), said
    assert isinstance(said.json, list)
    for row in said.json:
        assert LISTINGS[command] <= row.keys(), row.keys()
    assert platform.run(command).code == 0


def test_the_bill_is_what_was_used(platform: PlatformProcess, files: Any) -> None:
    (job,) = submit(platform, files("billed", "sleep 1", resources={"cpu": 0.5, "memory": "64MiB"}))
    ended(platform, job)
    until(lambda: platform.run("bill", "--json").json, 30, "it is charged")
    (bill,) = [one for one in platform.run("bill", "--json").json if one["project"] == "default"]
    assert float(bill["billed_cost"]) >= 0
    assert {line["resource"] for line in bill["lines"]} >= {"cpu", "memory"}
    csv = platform.run("bill", "--csv").out.splitlines()
    assert "BilledCost" in csv[0]


def test_the_pool_and_this_machine(platform: PlatformProcess) -> None:
    assert {"cores", "memory", "disk"} <= resources(platform).keys()
    assert not any(row["simulated"] for row in resources(platform).values())
    (node,) = platform.run("nodes", "--json").json
    assert node["state"] == "READY"
    told = platform.run("doctor", "--json")
    assert told.code == 0
    assert str(platform.home) in told.out
    assert platform.run("doctor").code == platform.run("pool").code == 0


def test_a_node_is_closed_and_opened(platform: PlatformProcess, files: Any) -> None:
    (node,) = platform.run("nodes", "--json").json
    assert platform.run("nodes", "cordon", node["name"], "--reason", "night").code == 0
    assert platform.run("nodes", "--json").json[0]["state"] == "CORDONED"
    (job,) = submit(platform, files("later", "true"))
    until(lambda: show(platform, job)["reason"] == "NodeUnavailable", 30, "it waits for the node")
    assert platform.run("nodes", "uncordon", node["name"]).code == 0
    assert ended(platform, job)["state"] == "COMPLETED"
    refused(platform.run("nodes", "cordon", "nowhere"), 3, "nowhere")


def test_proofs_and_the_trail(platform: PlatformProcess) -> None:
    said = platform.run("verify", "--json")
    assert (said.code, said.json["holds"]) == (0, True), said.out
    assert [check["name"] for check in said.json["checks"]] == [
        "ledger", "allocations", "jobs", "audit", "charges", "processes",
    ]  # fmt: skip
    assert platform.run("verify").code == 0
    trail = platform.run("audit", "verify", "--json")
    assert trail.code == 0
    assert platform.run("audit", "--type", "JobSubmitted", "--limit", "1", "--json").json[0]["type"] == "JobSubmitted"


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "attempts", "printed"),
    [
        ("hello", 1, r"Hello from job_\w{26}, attempt 1\n"),
        ("flaky", 2, "attempt 2\ndone\n"),
        ("gang", 1, r"rank 0 of 2, local rank 0, rendezvous at 127\.0\.0\.1:\d+\n"),
    ],
)
def test_an_example_runs(platform: PlatformProcess, name: str, attempts: int, printed: str) -> None:
    said = platform.run("submit", str(EXAMPLES / f"{name}.yaml"), "--wait", "--json")
    assert said.code == 0, said
    job = ended(platform, said.json[0]["id"])
    assert (job["state"], len(job["attempts"])) == ("COMPLETED", attempts)
    assert re.fullmatch(printed, platform.run("logs", job["id"]).out)


def test_the_example_with_a_fraction_runs_on_a_gpu_and_is_refused_without(platform: PlatformProcess) -> None:
    said = platform.run("submit", str(EXAMPLES / "fraction.yaml"), "--json")
    if platform.run("nodes", "--json").json[0]["devices"]:
        assert ended(platform, said.json[0]["id"])["state"] == "COMPLETED"
    else:
        refused(said, 2, "There is no device where it may run. Devices here: none.")


def test_the_example_of_a_service_answers_until_it_is_cancelled(platform: PlatformProcess) -> None:
    (job,) = submit(platform, str(EXAMPLES / "service.yaml"))
    (address,) = running(platform, job)["endpoints"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer() -> str | None:
        try:
            with opener.open(address, timeout=5) as page:
                return str(page.read().decode())
        except OSError:
            return None

    assert until(answer, 30, "the service answers") == "<h1>Served by files</h1>\n"
    assert platform.run("cancel", "files").code == 0
    assert ended(platform, job)["state"] == "CANCELLED"
    assert answer() is None


def test_every_example_is_run_somewhere() -> None:
    here = {"hello", "flaky", "gang", "fraction", "service", "chain"}  # the last in test_order
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == here
