"""`make demo` as a stranger runs it, in a folder of its own: whole, cut off by SIGKILL, interrupted, and refused."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.engines.local.stand_in import H100S, Driver, build

ROOT = Path(__file__).parents[2]
EPOCHS = 6
FOREVER = 100_000
"""Epochs of a run that is not to come to its end."""
LOGGED = """
import pathlib, sys
from dujiang.kit import log
log.configure(file=pathlib.Path(sys.argv[1]))
log.get("tests").info("a loop has begun")
log.failure(log.get("tests"), "the loop failed", TypeError("one argument too many"))
"""
WHOLE_S, FIRST_EPOCH_S, GONE_S = 300, 120, 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc"),
]


def command(home: Path, epochs: int) -> list[str]:
    return [sys.executable, str(ROOT / "demo" / "run.py"), "--home", str(home), "--epochs", str(epochs)]


def begin(home: Path, epochs: int, output: Path) -> subprocess.Popen[bytes]:
    """Start a demo, and come back when its training has had an epoch."""
    with output.open("wb") as file:
        demo = subprocess.Popen(command(home, epochs), stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    end = time.monotonic() + FIRST_EPOCH_S
    while b"epoch 1/" not in output.read_bytes():
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.1)
    return demo


def run(home: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, EPOCHS), env=environ, capture_output=True, text=True, timeout=WHOLE_S, check=False,
        start_new_session=True,
    )  # fmt: skip


def of_home(home: Path) -> list[str]:
    """The live processes that have this folder in their environment or their command, without ourselves."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if os.fsencode(home) in text and state not in "ZX":
            found.append(f"{entry.name}: {text[:300]!r}")
    return found


def none_left(home: Path) -> bool:
    end = time.monotonic() + GONE_S
    while left := of_home(home):
        if time.monotonic() > end:
            pytest.fail(f"still there: {left}")
        time.sleep(0.1)
    return True


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for demos; whatever a failed test left running in it is killed."""
    folder = tmp_path / "demo"
    yield folder
    for line in of_home(folder):
        os.kill(int(line.partition(":")[0]), signal.SIGKILL)


def check_whole(done: subprocess.CompletedProcess[str], home: Path) -> None:
    """Look at what a demo that held says."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    told = done.stdout
    assert f"resumed from the checkpoint of epoch {EPOCHS // 2}" in told
    assert f"attempt 2 {EPOCHS // 2 + 1} to {EPOCHS}" in told
    assert "signal 9 (SIGKILL)" in told
    measured = dict(re.findall(r"^ {5}(\S.*?) {3,}(\S.*?)(?: {3,}.*)?$", told.partition("What was measured")[2], re.M))
    assert measured["epochs lost"] == "0"
    assert measured["accuracy trained"] == measured["accuracy served"]
    assert re.fullmatch(r"\d+/360 = 0\.\d+", measured["accuracy served"])
    for name in ("queue wait", "time to notice the fault", "time to recover: running again"):
        assert 0 < float(measured[name].removesuffix(" s")) < 60
    assert re.match(r"[1-9]\d* a second", measured["requests, one caller"])
    assert re.match(r"\d+\.\d\d CNY", measured["cost"])
    assert (home / "dujiang.db").exists(), "there is something to look around in"
    assert not (home / "server.json").exists(), "the platform has stopped in order"
    assert none_left(home)


def test_it_holds_again_after_a_run_that_was_killed(home: Path, tmp_path: Path) -> None:
    cut_off = begin(home, FOREVER, tmp_path / "first.log")
    cut_off.kill()
    cut_off.wait()
    assert len(of_home(home)) >= 3, "platform, supervisor and program go on"
    check_whole(run(home), home)


def test_on_a_machine_with_gpus_it_trains_on_a_slice_of_one(home: Path, tmp_path: Path) -> None:
    driver = Driver(tmp_path, build(tmp_path), *H100S)
    done = run(home, driver.environment())
    check_whole(done, home)
    assert re.search(r"its slice of the pool: 125/1000 of nvidia NVIDIA H100 80GB HBM3 GPU-\S+, 10GiB", done.stdout)
    billed = re.search(r"^ +GPU-seconds +(\S+) +(\S+) +(\S+)$", done.stdout, re.MULTILINE)
    assert billed
    assert float(billed[1]) > 0
    assert billed[1] == billed[2]
    assert billed[3] == "0"


def test_ctrl_c_stops_all_that_it_started(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    demo = begin(home, FOREVER, output)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(GONE_S) == 130
    assert none_left(home)
    assert "Interrupted" in output.read_text()
    assert "Traceback" not in output.read_text()


def test_a_step_that_does_not_hold_says_what_was_seen_and_where_to_look(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    demo = begin(home, FOREVER, output)
    cancel = [str(Path(sys.executable).with_name("dujiang")), "cancel", "train-digits"]
    subprocess.run(cancel, env={**os.environ, "DUJIANG_HOME": str(home)}, stdout=subprocess.DEVNULL, check=True)
    assert demo.wait(GONE_S) == 1
    told = output.read_text()
    assert "Step 3 did not hold." in told
    assert re.search(r"expected +the training to go on\n +saw +CANCELLED", told), told
    assert f"{home}/platform.log" in told
    assert "Traceback" not in told
    assert none_left(home)


def test_what_the_platform_complained_of_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    subprocess.run([sys.executable, "-c", LOGGED, str(tmp_path / "platform.log")], check=True)
    found = importlib.import_module("home").DemoHome(tmp_path).complaints()
    assert found == "the loop failed: TypeError: one argument too many"


def test_a_platform_that_dies_is_told_and_its_job_ends_with_the_demo(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    demo = begin(home, FOREVER, output)
    os.kill(json.loads((home / "server.json").read_text())["pid"], signal.SIGKILL)
    assert demo.wait(GONE_S) == 1
    told = output.read_text()
    assert "Step 3 did not hold." in told
    assert f"{home}/platform.log" in told
    assert "Traceback" not in told
    assert none_left(home)


def test_two_at_once_do_not_share_a_folder(home: Path, tmp_path: Path) -> None:
    demo = begin(home, FOREVER, tmp_path / "output.log")
    refused = run(home)
    assert refused.returncode == 1
    assert "Another demo runs in" in refused.stdout
    assert demo.poll() is None, "the first goes on"
    demo.terminate()
    assert demo.wait(GONE_S) == 130
    assert none_left(home)


def test_it_empties_no_folder_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused = run(tmp_path)
    assert refused.returncode == 1
    assert "holds files that no demo made" in refused.stdout
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_platform_that_a_person_started_there_is_left_alone(home: Path) -> None:
    home.mkdir()
    (home / "demo.lock").touch()  # as a demo before has left it
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
    up = [str(Path(sys.executable).with_name("dujiang")), "up", "--port", "0"]
    platform = subprocess.Popen(up, env=environ | {"DUJIANG_HOME": str(home)}, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + GONE_S
        while not (home / "server.json").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        submit = [up[0], "submit", "--json", "-"]
        spec = "name: mine\nresources: {cpu: 100m, memory: 64MiB}\nrun: exec sleep 600\n"
        ours = environ | {"DUJIANG_HOME": str(home)}
        subprocess.run(submit, env=ours, input=spec.encode(), stdout=subprocess.DEVNULL, check=True)
        while not any("sleep" in line for line in of_home(home)):
            assert time.monotonic() < end
            time.sleep(0.1)
        refused = run(home)
        assert refused.returncode == 1
        assert "A platform that no demo started runs in" in refused.stdout
        assert platform.poll() is None
        assert any("sleep" in line for line in of_home(home)), "its job goes on too"
        assert (home / "dujiang.db").exists()
    finally:
        platform.terminate()
        assert platform.wait(GONE_S) == 0


def test_few_epochs_are_refused_with_a_sentence(home: Path) -> None:
    refused = subprocess.run(command(home, 3), capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "at least 4" in refused.stderr
    assert not home.exists()
