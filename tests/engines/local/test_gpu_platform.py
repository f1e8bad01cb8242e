"""A whole platform on a machine with GPUs, as far as its driver says: `dujiang up` with the stand-in for NVML.

Device 0 is the only one of its model; devices 1 and 2 are for gangs and for what breaks.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dujiang.client import Client, Connection, locate
from tests.engines.local.stand_in import GIB, ROOT, Driver, uuid

COMMAND = Path(sys.executable).with_name("dujiang")
WITHIN_S = 30.0
SMALL, LARGE = "NVIDIA L4", "NVIDIA H100 80GB HBM3"
SETTINGS = {
    "DUJIANG_LOOPS__INVENTORY_S": "0.2", "DUJIANG_LOOPS__START_S": "0.2", "DUJIANG_LOOPS__ATTEMPTS_S": "0.2",
    "DUJIANG_LOOPS__RATING_S": "0.2", "DUJIANG_DATABASE__DURABLE": "false",
    # Eight shares want a core each, and they only wait.
    "DUJIANG_POOL__CPU_OVERCOMMIT_MILLI": "64000", "DUJIANG_POOL__MEMORY_OVERCOMMIT_MILLI": "64000",
}  # fmt: skip


class Platform:
    """A running platform, asked as its administrator asks."""

    def __init__(self, folder: Path, driver: Driver) -> None:
        self.driver, self.gate = driver, folder / "gate"
        home = folder / "home"
        own = {"DUJIANG_HOME": str(home), "DUJIANG_LOCAL__MPS_PIPE_DIR": str(folder / "no-mps")}
        self.environment = {**driver.environment(), **own, **SETTINGS}
        self.process = subprocess.Popen(
            [str(COMMAND), "up", "--port", "0"], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        watch = threading.Timer(WITHIN_S, self.process.kill)
        watch.start()
        assert "listens at http://127.0.0.1:" in self.process.stdout.readline()
        watch.cancel()
        connection = locate(self.environment)
        assert isinstance(connection, Connection)
        self.client = Client(connection)

    def command(self, *words: str) -> Any:
        """Return what a command writes as JSON."""
        asked = [str(COMMAND), *words, "--json"]
        done = subprocess.run(asked, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def submit(self, gpu: dict[str, Any], *, count: int = 1, nodes: int = 1, text: str = "") -> list[str]:
        """Submit jobs that print what they see and then wait for the gate, unless they are to do something else."""
        waits = f'echo "$RANK $CUDA_VISIBLE_DEVICES $DUJIANG_GPU_MILLI"; until [ -e {self.gate} ]; do sleep 0.05; done'
        spec = {
            "name": "holds-a-gpu", "nodes": nodes, "resources": {"gpu": gpu, "cpu": 0.1, "memory": "64MiB"},
            "run": text or waits,
        }  # fmt: skip
        made = self.client.post("/v1/jobs/batch", {"specs": [spec] * count})
        return [job["id"] for job in made["items"]]

    def job(self, job_id: str) -> Any:
        return self.client.get(f"/v1/jobs/{job_id}")

    def until(self, holds: Callable[[], Any], why: Callable[[], Any] = lambda: "") -> Any:
        """Return what holds, once it does."""
        deadline = time.monotonic() + WITHIN_S
        while not (found := holds()):
            assert time.monotonic() < deadline, why()
            time.sleep(0.05)
        return found

    def reach(self, job_id: str, state: str) -> Any:
        """Return a job once it is in a state."""
        return self.until(
            lambda: found if (found := self.job(job_id))["state"] == state else None, lambda: self.job(job_id)
        )

    def waits(self, job_id: str, reason: str) -> Any:
        """Return a pending job once it waits for a reason."""
        return self.until(
            lambda: found if (found := self.job(job_id))["reason"] == reason else None, lambda: self.job(job_id)
        )

    def devices(self) -> dict[str, Any]:
        """Return the devices of the one node by name."""
        (node,) = self.client.items("/v1/nodes")
        return {device["name"]: device for device in node["devices"]}

    def open_gate(self, *jobs: str) -> None:
        """Let what waits end, and wait for its end."""
        self.gate.touch()
        for job_id in jobs:
            self.reach(job_id, "COMPLETED")
        self.gate.unlink()

    def close(self) -> None:
        """Stop it as Ctrl-C does."""
        self.gate.touch()
        self.client.close()
        self.process.send_signal(signal.SIGINT)
        watch = threading.Timer(WITHIN_S, self.process.kill)
        watch.start()
        said, _ = self.process.communicate()
        watch.cancel()
        assert self.process.returncode == 0, said


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, nvml: Path) -> Iterator[Platform]:
    """One platform for all of these."""
    folder = tmp_path_factory.mktemp("platform")
    platform = Platform(folder, Driver(folder, nvml, (SMALL, 24), (LARGE, 80), (LARGE, 80)))
    yield platform
    platform.close()


@pytest.fixture
def platform(running: Platform) -> Iterator[Platform]:
    """The platform, idle before and after, with devices that are well."""
    yield running
    left = [job["id"] for job in running.client.items("/v1/jobs")]
    for job_id in left:
        running.client.post(f"/v1/jobs/{job_id}/cancel")
    for job_id in left:
        running.until(lambda job_id=job_id: running.job(job_id)["state"] not in ("PENDING", "RUNNING"))
    running.driver.heal()
    running.gate.unlink(missing_ok=True)


EIGHTH = {"fraction": "1/8", "memory": "2GiB", "model": "L4"}
WHOLE = {"count": 1, "model": "H100"}


def test_pool_and_nodes_list_the_devices(platform: Platform) -> None:
    (node,) = platform.command("nodes")
    assert [(each["name"], each["model"], each["memory_bytes"], each["state"]) for each in node["devices"]] == [
        (uuid(0), SMALL, 24 * GIB, "READY"), (uuid(1), LARGE, 80 * GIB, "READY"), (uuid(2), LARGE, 80 * GIB, "READY"),
    ]  # fmt: skip
    assert {(each["vendor"], each["isolation"], each["simulated"]) for each in node["devices"]} == {
        ("nvidia", "counted-only", False)
    }
    rows = {row["resource"]: row for row in platform.command("pool")}
    assert (rows[f"nvidia {SMALL}"]["free"], rows[f"nvidia {LARGE}"]["free"]) == (1000, 2000)
    assert rows[f"nvidia {LARGE} memory"]["total"] == 160 * GIB


def test_the_example_of_an_eighth_runs_on_the_smallest_device(platform: Platform) -> None:
    (job,) = platform.command("submit", str(ROOT / "examples" / "fraction.yaml"))
    platform.reach(job["id"], "COMPLETED")
    asked = [str(COMMAND), "logs", job["id"]]
    said = subprocess.run(asked, env=platform.environment, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[0] == f"visible devices: {uuid(0)}, thousandths of a device: 125"
    held = [row for row in platform.client.items("/v1/allocations", job=job["id"]) if row["device"]]
    assert [(row["device"], row["gpu_milli"], row["device_memory_bytes"]) for row in held] == [(uuid(0), 125, 2 * GIB)]


def test_eight_eighths_fill_a_device_and_the_ninth_waits(platform: Platform) -> None:
    *eight, ninth = platform.submit(EIGHTH, count=9)
    for job_id in eight:
        platform.reach(job_id, "RUNNING")
    waiting = platform.waits(ninth, "Resources")["waiting"]
    assert waiting["detail"].startswith("Gpu: needs 0.125 on one node, largest free is 0")
    device = platform.devices()[uuid(0)]
    assert (device["free_gpu_milli"], device["free_memory_bytes"]) == (0, 8 * GIB)
    platform.open_gate(*eight, ninth)
    assert platform.devices()[uuid(0)]["free_gpu_milli"] == 1000


def test_memory_can_run_out_before_the_shares_do(platform: Platform) -> None:
    *two, third = platform.submit({**EIGHTH, "memory": "10GiB"}, count=3)
    for job_id in two:
        platform.reach(job_id, "RUNNING")
    detail = platform.waits(third, "Resources")["waiting"]["detail"]
    assert detail.startswith("Device memory: needs 10GiB on one node, largest free is 4GiB")
    platform.open_gate(*two, third)


def test_a_gang_gets_a_whole_device_for_each_rank(platform: Platform) -> None:
    (gang,) = platform.submit(WHOLE, nodes=2)
    platform.reach(gang, "RUNNING")
    assert {name: device["free_gpu_milli"] for name, device in platform.devices().items()} == {
        uuid(0): 1000, uuid(1): 0, uuid(2): 0,
    }  # fmt: skip
    platform.open_gate(gang)
    rows = [row for row in platform.client.items("/v1/allocations", job=gang) if row["device"]]
    assert sorted((row["rank"], row["gpu_milli"]) for row in rows) == [(0, 1000), (1, 1000)]
    seen = [_printed(platform, gang, rank) for rank in (0, 1)]
    assert sorted(seen) == sorted(f"{row['rank']} {row['device']} 1000\n" for row in rows)
    assert len({row["device"] for row in rows}) == 2


def test_more_than_there_is_is_refused_at_once_with_the_largest_possible(platform: Platform) -> None:
    from dujiang.client import Problem

    with pytest.raises(Problem, match="2"):
        platform.submit({"count": 3, "model": "H100"})


def test_an_unwell_device_takes_no_new_work_and_what_runs_there_goes_on(platform: Platform) -> None:
    gang = platform.submit(WHOLE, count=2)
    running = [platform.reach(job_id, "RUNNING") for job_id in gang]
    assert len(running) == 2
    platform.driver.set({"1.ecc": 2})
    platform.until(lambda: platform.devices()[uuid(1)]["state"] == "UNHEALTHY", platform.devices)
    assert "2 uncorrected memory errors" in platform.devices()[uuid(1)]["labels"]["fault"]
    assert [platform.job(job_id)["state"] for job_id in gang] == ["RUNNING", "RUNNING"]
    platform.open_gate(*gang)

    (waiting,) = platform.submit(WHOLE, nodes=2)
    platform.waits(waiting, "NodeUnavailable")
    (next_to_it,) = platform.submit(WHOLE)
    platform.reach(next_to_it, "RUNNING")
    assert platform.devices()[uuid(2)]["free_gpu_milli"] == 0
    platform.driver.set({"1.ecc": 0})
    platform.open_gate(next_to_it)
    platform.reach(waiting, "RUNNING")
    platform.open_gate(waiting)


def test_a_device_off_the_bus_keeps_its_place_in_the_pool(platform: Platform) -> None:
    before = platform.devices()[uuid(2)]
    platform.driver.set({"2.error": 15})
    platform.until(lambda: platform.devices()[uuid(2)]["state"] == "UNHEALTHY", platform.devices)
    after = platform.devices()[uuid(2)]
    assert (after["id"], after["memory_bytes"]) == (before["id"], before["memory_bytes"])
    platform.driver.unset("2.error")
    platform.until(lambda: platform.devices()[uuid(2)] == before, platform.devices)


def test_the_bill_counts_each_thousandth_of_each_device_for_each_second(platform: Platform) -> None:
    jobs = [*platform.submit(EIGHTH, count=2), *platform.submit(WHOLE)]
    for job_id in jobs:
        platform.reach(job_id, "RUNNING")
    platform.open_gate(*jobs)
    platform.until(lambda: platform.client.get("/v1/bills/verify")["waiting"] == 0)
    held: Counter[str] = Counter()
    for row in platform.client.items("/v1/allocations"):
        if row["device"]:
            held[row["model"]] += row["gpu_milli"] * _micros(row)
    (bill,) = platform.command("bill")
    billed = {line["model"]: int(line["quantity"]) for line in bill["lines"] if line["resource"] == "gpu"}
    assert billed == held
    assert set(held) == {SMALL, LARGE}
    proof = platform.command("verify")
    assert proof["holds"]
    assert {check["name"] for check in proof["checks"]} >= {"ledger", "allocations", "jobs", "audit"}


def test_doctor_tells_of_the_devices_and_of_what_would_enforce_shares(platform: Platform) -> None:
    found = platform.command("doctor")
    assert [(each["name"], each["healthy"]) for each in found["devices"]] == [
        (uuid(0), True), (uuid(1), True), (uuid(2), True),
    ]  # fmt: skip
    assert any("start the NVIDIA MPS daemon" in words for words in found["missing"])


def _printed(platform: Platform, job_id: str, rank: int) -> str:
    asked = [str(COMMAND), "logs", job_id, "--rank", str(rank)]
    return subprocess.run(asked, env=platform.environment, capture_output=True, text=True, check=True).stdout


def _micros(row: dict[str, Any]) -> int:
    began, ended = (datetime.fromisoformat(row[name]) for name in ("started_at", "ended_at"))
    return (ended - began) // timedelta(microseconds=1)
