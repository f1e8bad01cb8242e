"""The platform when what it stands on fails, or is asked for what cannot be: a clear sentence, and nothing lost."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dujiang.client import Problem
from tests.chaos.process import PlatformProcess, Said, document, until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

Maker = Callable[..., PlatformProcess]
UNREACHABLE = 5
SIZE_MIB = 48


def submit(platform: PlatformProcess, name: str, run: str, **fields: Any) -> dict[str, Any]:
    with platform.client() as client:
        job: dict[str, Any] = client.post("/v1/jobs", {"spec": document(name, run, **fields)})
    return job


def state(platform: PlatformProcess, job: dict[str, Any]) -> dict[str, Any]:
    with platform.client() as client:
        found: dict[str, Any] = client.get(f"/v1/jobs/{job['id']}")
    return found


def ended(platform: PlatformProcess, job: dict[str, Any], within_s: float = 60.0) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = state(platform, job)
        return found if found["finished_at"] else None

    found: dict[str, Any] = until(look, within_s, f"{job['name']} has ended")
    return found


def is_sentence(said: Said | str) -> bool:
    """Say whether an answer is words for a person."""
    text = said.err + said.out if isinstance(said, Said) else said
    return "Traceback" not in text and "Error: " in text and len(text) < 2000


def test_ctrl_c_stops_cleanly_and_running_jobs_go_on_and_are_found_again(
    platform: PlatformProcess, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    job = submit(platform, "runner", f"echo begin >> {witness}\nsleep 6\necho end >> {witness}\nexit 4")
    until(lambda: state(platform, job)["state"] == "RUNNING", 30, "it runs")
    until(witness.exists, 10, "it has begun")
    began = time.monotonic()
    assert platform.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 10
    assert "Stopped. What was running goes on" in platform.told()
    assert platform.processes(), "the job goes on"
    platform.start()
    found = ended(platform, job)
    assert (found["state"], found["exit_code"], len(found["attempts"])) == ("FAILED", 4, 1)
    assert witness.read_text() == "begin\nend\n"
    assert platform.run("verify").code == 0
    assert platform.stop(signal.SIGINT) == 0
    until(lambda: not platform.processes(), 10, "nothing of it runs")
    assert not platform.tracebacks()


def test_a_job_that_ends_while_nobody_looks_keeps_its_exit_code(platform: PlatformProcess, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    job = submit(platform, "alone", f"sleep 3\ntouch {gone}\nexit 9", retry={"limit": 0})
    until(lambda: state(platform, job)["state"] == "RUNNING", 30, "it runs")
    platform.kill()
    until(gone.exists, 30, "it ends by itself")
    time.sleep(0.5)
    platform.start()
    found = ended(platform, job)
    assert (found["state"], found["exit_code"]) == ("FAILED", 9)
    assert len(found["attempts"]) == 1


def test_a_second_platform_in_one_home_is_refused(platform: PlatformProcess) -> None:
    said = platform.run("up", "--port", "0")
    assert said.code == 6
    assert is_sentence(said)
    assert f"at http://127.0.0.1:{platform.port}" in said.err
    assert platform.run("ps").code == 0, "the first one is not disturbed"


def test_a_port_in_use_is_said(make_platform: Maker) -> None:
    platform = make_platform()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = platform.run("up", "--port", str(port))
    assert said.code == 6
    assert is_sentence(said)
    assert f"Port {port} of 127.0.0.1 is in use; choose another with --port" in said.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[jobs]\nlost_after = 3\n", 'Did you mean "jobs.lost_after_s"'),
        ("[server]\nlog_level = 'loud'\n", "server.log_level"),
        ("[server\n", "not TOML"),
    ],
)
def test_a_bad_settings_file_is_said_with_its_place(make_platform: Maker, text: str, says: str) -> None:
    platform = make_platform()
    file = platform.home / "dujiang.toml"
    file.write_text(text)
    said = platform.run("up", "--port", "0")
    assert said.code == 2
    assert is_sentence(said)
    assert says in said.err
    assert str(file) in said.err


def test_a_home_that_cannot_be_written_is_said(make_platform: Maker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    platform = make_platform()
    platform.env = {"DUJIANG_HOME": str(tmp_path / "file" / "home")}
    said = platform.run("up", "--port", "0")
    assert said.code == 1
    assert is_sentence(said)
    assert "DUJIANG_HOME" in said.err


def test_a_database_locked_by_another_program_is_said_and_nothing_is_lost(make_platform: Maker) -> None:
    platform = make_platform(env={"DUJIANG_DATABASE__BUSY_TIMEOUT_S": "0.5"})
    platform.start()
    before = submit(platform, "before", "sleep 4")
    until(lambda: state(platform, before)["state"] == "RUNNING", 30, "it runs")
    other = sqlite3.connect(platform.home / "dujiang.db", isolation_level=None, timeout=10)
    other.execute("BEGIN IMMEDIATE")
    file = platform.home / "job.yaml"
    file.write_text(json.dumps(document("locked-out", "true")))
    said = platform.run("submit", str(file))
    assert said.code == UNREACHABLE, said
    assert is_sentence(said)
    assert "locked" in said.err
    assert platform.run("ps").code == 0, "what only reads goes on"
    time.sleep(5)  # the job ends meanwhile, and its end cannot be written
    other.execute("ROLLBACK")
    other.close()
    assert ended(platform, before)["state"] == "COMPLETED"
    assert platform.run("submit", str(file), "--wait").code == 0
    assert platform.run("verify").code == 0
    assert not platform.tracebacks()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mounting, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_full_disk_is_said_and_nothing_is_lost(make_platform: Maker, small_disk: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    platform = make_platform(small_disk / "home", env={"DUJIANG_LOCAL__RESERVE_DISK_BYTES": "0"})
    platform.start()
    before = submit(platform, "before", f"sleep 5\necho done >> {witness}\nexit 3", retry={"limit": 0})
    until(lambda: state(platform, before)["state"] == "RUNNING", 30, "it runs")
    filler = small_disk / "filler"
    fill(filler)
    taken = []
    refusals = []
    for number in range(200):
        try:
            taken.append(submit(platform, f"w{number}", "true"))
        except Problem as problem:
            refusals.append(problem)
            if len(refusals) == 3:
                break
        fill(filler)
    assert [problem.status for problem in refusals] == [507] * 3, refusals
    assert "full" in refusals[0].sentence
    until(witness.exists, 20, "what ran has gone on")
    time.sleep(2)
    assert state(platform, before)["id"] == before["id"], "what only reads goes on"
    filler.unlink()
    found = ended(platform, before)
    assert (found["state"], found["exit_code"], len(found["attempts"])) == ("FAILED", 3, 1)
    after = submit(platform, "after", "true")
    for job in (*taken, after):
        assert ended(platform, job, 90)["state"] == "COMPLETED", job["name"]
    assert witness.read_text() == "done\n"
    said = platform.run("verify", "--json")
    assert said.code == 0, said.out
    assert not platform.tracebacks()
    assert platform.stop() == 0


def fill(file: Path) -> None:
    """Use up what room there is."""
    with file.open("ab", buffering=0) as out:
        for size in (1 << 20, 4096, 512, 1):
            try:
                while True:
                    out.write(b"\0" * size)
            except OSError:
                continue


def test_a_disk_that_is_full_from_the_start_is_said(make_platform: Maker, small_disk: Path) -> None:
    fill(small_disk / "filler")
    platform = make_platform(small_disk.parent / "elsewhere", env={"DUJIANG_HOME": str(small_disk / "home")})
    said = platform.run("up", "--port", "0")
    assert said.code == 1
    assert is_sentence(said)
    assert re.search(r"[Nn]o space|full", said.err)


def test_the_object_store_away_keeps_versions_waiting_and_nothing_else(make_platform: Maker, tmp_path: Path) -> None:
    platform = make_platform(
        env={
            "DUJIANG_OBJECTS__URL": "s3://models/of", "DUJIANG_OBJECTS__ENDPOINT": "http://127.0.0.1:9",
            "DUJIANG_OBJECTS__ACCESS_KEY_ID": "nobody", "DUJIANG_OBJECTS__SECRET_ACCESS_KEY": "nothing",
        }
    )  # fmt: skip
    platform.start()
    net = base64.b64encode(a_net(tmp_path)).decode()
    make = f"mkdir -p $DUJIANG_OUTPUT_DIR\necho {net} | base64 -d > $DUJIANG_OUTPUT_DIR/net.onnx"
    job = submit(platform, "maker", make, outputs={"model": {"name": "net", "path": "net.onnx"}})
    assert ended(platform, job)["state"] == "COMPLETED"

    def version() -> dict[str, Any]:
        with platform.client() as client:
            found: dict[str, Any] = client.get("/v1/models/net/versions/1.0.0")
        return found

    until(lambda: version()["reason"] == "ObjectStoreAway", 90, "it says what it waits for")
    assert version()["state"] == "PENDING"
    assert version()["sentence"]
    other = submit(platform, "other", "true")
    assert ended(platform, other)["state"] == "COMPLETED", "the rest goes on"
    assert platform.run("verify").code == 0
    platform.stop()
    platform.env = {}  # the store is back: a folder this time
    platform.start()
    until(lambda: version()["state"] == "READY", 90, "it is registered")
    assert not platform.tracebacks()


def a_net(folder: Path) -> bytes:
    from tests.models.serving.nets import mlp

    return mlp(folder / "net.onnx").read_bytes()


def test_a_platform_killed_before_it_was_ready_leaves_nothing_in_the_way(make_platform: Maker) -> None:
    platform = make_platform()
    for delay_s in (0.2, 0.6, 1.0, 1.5, 2.0):
        platform.start(wait=False)
        time.sleep(delay_s)
        platform.kill()
    platform.start()
    assert ended(platform, submit(platform, "first", "true"))["state"] == "COMPLETED"
    assert platform.stop() == 0
    assert not platform.tracebacks()


def test_nobody_else_can_read_the_home(platform: PlatformProcess) -> None:
    for name in ("admin.token", "keys/journal.key"):
        assert os.stat(platform.home / name).st_mode & 0o077 == 0, name
