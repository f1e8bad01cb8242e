"""On a machine with an NVIDIA GPU: long work makes room for short work of its class, and goes on where it was saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.process import PlatformProcess, until
from tests.gpu.test_platform import BUSY, WITHIN_S, devices, ended, show, submit
from tests.gpu.test_real_gpu import smi

pytestmark = pytest.mark.gpu
SETTINGS = """\
[scheduling]
turn_device_s = 3.0
min_run_s = 3.0
"""
AGAIN = {"retry": {"limit": 1, "on": ["infrastructure", "preemption"]}}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[PlatformProcess]:
    """A platform on which work takes turns; at the end nothing is left."""
    smi("-L")
    made = PlatformProcess(tmp_path / "home")
    (made.home / "dujiang.toml").write_text(SETTINGS)
    made.start()
    try:
        until(lambda: devices(made), 30, "the platform shows a GPU")
        yield made
        proven = made.run("verify", "--json")
        assert (proven.code, proven.json["holds"]) == (0, True), proven.out
        assert made.stop() == 0
        assert made.tracebacks() == []
    finally:
        made.kill()


def test_short_work_has_its_turn_and_long_work_goes_on(platform: PlatformProcess, tmp_path: Path) -> None:
    count = len([device for device in devices(platform) if device.get("healthy", True)])
    longs = [submit(platform, tmp_path, f"long-{nth}", f"{BUSY} 200", **AGAIN) for nth in range(count)]
    until(lambda: all("step=80 " in platform.run("logs", job).out for job in longs), WITHIN_S, "each has run for long")
    short = submit(platform, tmp_path, "short", f"{BUSY} 5", **AGAIN)
    assert ended(platform, short)["state"] == "COMPLETED"
    stopped = [
        job for job in longs if len(show(platform, job)["attempts"]) > 1 or show(platform, job)["state"] != "RUNNING"
    ]
    assert len(stopped) == 1, "one of them, and no more, made room"
    done = ended(platform, stopped[0])
    assert (done["state"], [one["state"] for one in done["attempts"]]) == ("COMPLETED", ["PREEMPTED", "COMPLETED"])
    printed = platform.run("logs", stopped[0]).out
    (began,) = re.findall(r"starts from step (\d+)", printed)[-1:]
    assert int(began) >= 80
    assert re.findall(r"step=(\d+) ", printed)[-1] == "200"
    for job in longs:
        ended(platform, job)
