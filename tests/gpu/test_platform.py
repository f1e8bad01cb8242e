"""On a machine with an NVIDIA GPU: jobs on it through the whole platform, measured, killed and resumed, and billed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.process import PlatformProcess, document, until
from tests.gpu.test_real_gpu import smi

pytestmark = pytest.mark.gpu
BUSY = f"exec {sys.executable} {Path(__file__).with_name('busy.py')}"
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
WITHIN_S = 120.0
SETTINGS = """\
[jobs]
least_samples = 3

[loops]
use_s = 0.5
rescore_s = 1.0
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """One platform for all tests here; at the end ledger, jobs and bills agree and nothing is left."""
    smi("-L")
    made = PlatformProcess(tmp_path_factory.mktemp("gpu") / "home")
    (made.home / "dujiang.toml").write_text(SETTINGS)
    made.start()
    try:
        until(lambda: devices(made), 30, "the platform shows a GPU")
        yield made
        until(lambda: made.run("ps", "--json").json == [], 60, "everything has ended")
        proven = made.run("verify", "--json")
        assert (proven.code, proven.json["holds"]) == (0, True), proven.out
        assert made.stop() == 0
        assert made.tracebacks() == []
        until(lambda: made.processes() == [], 30, f"nothing is left: {made.processes()}")
    finally:
        made.kill()


def devices(platform: PlatformProcess) -> list[dict[str, Any]]:
    return [device for node in platform.run("nodes", "--json").json for device in node["devices"]]


def submit(platform: PlatformProcess, tmp_path: Path, name: str, run: str, **fields: Any) -> str:
    file = tmp_path / f"{name}.yaml"
    asked = {"resources": {"cpu": 0.5, "memory": "2GiB", "gpu": 1}, "checkpoint": {}, **fields}
    file.write_text(json.dumps(document(name, run, **asked)))
    said = platform.run("submit", str(file), "--json")
    assert said.code == 0, said.err
    found: str = said.json[0]["id"]
    return found


def show(platform: PlatformProcess, job: str) -> dict[str, Any]:
    return dict(platform.run("show", job, "--json").json)


def ended(platform: PlatformProcess, job: str) -> dict[str, Any]:
    return dict(
        until(lambda: found if (found := show(platform, job))["state"] in ENDS else None, WITHIN_S, f"{job} has ended")
    )


def test_the_pool_holds_what_nvidia_smi_lists(platform: PlatformProcess) -> None:
    names = {line.strip() for line in smi("--query-gpu=name", "--format=csv,noheader").splitlines()}
    assert {device["model"] for device in devices(platform)} <= names | {
        device["model"] for device in devices(platform) if "MIG" in device["model"]
    }


def test_a_killed_job_goes_on_from_its_checkpoint_on_the_gpu(platform: PlatformProcess, tmp_path: Path) -> None:
    job = submit(platform, tmp_path, "resumed", f"{BUSY} 12 5", retry={"limit": 2, "on": ["infrastructure", "unknown"]})
    done = ended(platform, job)
    assert (done["state"], len(done["attempts"])) == ("COMPLETED", 2), done
    printed = platform.run("logs", job).out
    assert "starts from step 5" in printed
    assert re.findall(r"step=(\d+) ", printed)[-1] == "12"
    bill = platform.run("bill", "--json")
    assert bill.code == 0, bill.err


def test_its_use_is_measured_and_told(platform: PlatformProcess, tmp_path: Path) -> None:
    job = submit(platform, tmp_path, "measured", f"{BUSY} 1000")
    use = until(lambda: (show(platform, job)["use"] or {}).get("mean") is not None, WITHIN_S, "its use is told")
    assert use
    until(lambda: show(platform, job)["use"]["mean"] > 0.5, 60, "a busy device is measured as busy")
    assert show(platform, job)["use"]["of"] == "devices"
    platform.run("cancel", job)
    assert ended(platform, job)["state"] == "CANCELLED"


def test_two_halves_run_at_once_and_a_whole_waits_for_them(platform: PlatformProcess, tmp_path: Path) -> None:
    count = len([device for device in devices(platform) if device.get("healthy", True)])
    half = {"resources": {"cpu": 0.5, "memory": "2GiB", "gpu": {"fraction": 0.5}}}
    halves = [submit(platform, tmp_path, f"half-{nth}", f"{BUSY} 1000", **half) for nth in range(2 * count)]
    until(lambda: all(show(platform, job)["state"] == "RUNNING" for job in halves), WITHIN_S, "every half runs at once")
    whole = submit(platform, tmp_path, "whole", f"{BUSY} 3")
    until(lambda: show(platform, whole)["waiting"], 30, "it is told why the whole waits")
    assert show(platform, whole)["state"] == "PENDING"
    used = {re.search(r"device=(\w+)", platform.run("logs", job).out) for job in halves}
    assert None not in used
    platform.run("cancel", *halves)
    assert ended(platform, whole)["state"] == "COMPLETED"
