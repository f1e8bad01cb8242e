"""Logs: one line of JSON each, and no trouble of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.kit.clock import ManualClock
from dujiang.kit.log import Seldom

PROGRAM = """
from pathlib import Path
from dujiang.kit import log
log.configure(file=Path({path!r}))
log.get("t").info("first", n=1)
log.failure(log.get("t"), "second", ValueError("what"))
print("went on")
"""


def run(path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(path=path)], capture_output=True, text=True, check=False
    )


def test_each_line_is_an_object(tmp_path: Path) -> None:
    done = run(str(tmp_path / "log"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert (first["event"], first["n"], first["level"]) == ("first", 1, "info")
    assert second["reason"] == "ValueError: what"


def test_a_log_that_cannot_be_written_troubles_nobody() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = run("/dev/full")
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert "Logging error" not in done.stderr
    assert "second" not in done.stderr


def test_a_trouble_that_stays_is_told_when_it_begins_and_then_seldom() -> None:
    clock = ManualClock()
    seldom, told = Seldom(clock, every_s=300.0), []
    for second in range(0, 1200, 2):
        if seldom.is_due("hpc"):
            told.append(second)
        clock.advance(2.0)
    assert told == [0, 300, 600, 900]
    assert seldom.is_due("other")
    assert (seldom.is_over("hpc"), seldom.is_over("hpc")) == (True, False)
    assert seldom.is_due("hpc"), "it began anew"


def test_troubles_that_never_come_back_are_forgotten() -> None:
    clock = ManualClock()
    seldom = Seldom(clock, every_s=300.0)
    for number in range(5000):
        assert seldom.is_due(number)
        clock.advance(1.0)
    assert len(seldom._said_s) <= 1000
