"""On a machine with NVIDIA GPUs: the local engine finds what `nvidia-smi` finds, and jobs see their share of it.

`make test-gpu` runs these. Elsewhere they are skipped, and `tests/engines/local/test_nvml.py` asks the same of a
stand-in for the driver.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.local.stand_in import GIB, EngineProcess

pytestmark = pytest.mark.gpu

PROBE = f"exec {sys.executable} {Path(__file__).with_name('probe.py')}"
NO_DEVICE, OUT_OF_MEMORY = 100, 2
WITHIN_S = 20.0
Start = Callable[..., EngineProcess]


def smi(*words: str) -> str:
    """Return what `nvidia-smi` writes; skips where there is none, or no driver under it."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("this machine has no nvidia-smi, so no NVIDIA driver")
    done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        pytest.skip(f"nvidia-smi finds no GPU here: {(done.stdout + done.stderr).strip()[:200]}")
    return done.stdout


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine that looks for an MPS daemon nowhere but where it is told."""
    smi("-L")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DUJIANG_", "CUDA_"))}
    started: list[EngineProcess] = []

    def begin(mps_pipe_dir: str = str(tmp_path / "no-mps")) -> EngineProcess:
        started.append(EngineProcess(tmp_path / "engine", environment, mps_pipe_dir=mps_pipe_dir))
        return started[-1]

    yield begin
    for each in started:
        each.close()


@pytest.fixture
def engine(start: Start) -> EngineProcess:
    return start()


def well(engine: EngineProcess) -> list[dict[str, Any]]:
    """Return the devices that can run work."""
    found = [device for device in engine.devices() if device["healthy"]]
    if not found:
        pytest.skip(f"no GPU of this machine is well: {engine.devices()}")
    return found


def share(device: dict[str, Any], gpu_milli: int = 1000, memory_bytes: int = 0) -> dict[str, Any]:
    given = {"gpu_milli": gpu_milli, "memory_bytes": memory_bytes or device["memory_bytes"]}
    return {"name": device["name"], "index": device["index"], **given}


def seen(engine: EngineProcess, *shares: dict[str, Any], job: str = "job_a", allocate: str = "") -> dict[str, Any]:
    """Return what a job that holds these shares sees."""
    (said,) = engine.run(f"{PROBE} {allocate}", list(shares), job=job)
    found: dict[str, Any] = json.loads(said)
    return found


def plain(uuid: str) -> str:
    """Return the digits of `GPU-...` or `MIG-...`."""
    return uuid.partition("-")[2].replace("-", "")


def test_the_inventory_is_that_of_nvidia_smi(engine: EngineProcess) -> None:
    fields = "index,uuid,name,memory.total,mig.mode.current,driver_version"
    rows = [line.split(", ") for line in smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits").splitlines()]
    found = {device["name"]: device for device in engine.devices()}
    listed = smi("-L")
    for index, uuid, name, mib, mig, driver in rows:
        if mig == "Enabled":
            assert uuid not in found or not found[uuid]["healthy"]
            continue
        device = found.pop(uuid)
        assert (device["index"], device["model"], device["vendor"]) == (int(index), name, "nvidia")
        if mib.isdigit():  # a device that shares the memory of the machine has none of its own
            assert device["memory_bytes"] >> 20 == pytest.approx(int(mib), abs=1)
        assert device["labels"]["driver"] == driver
    assert [name for name in found if name not in listed] == [], "instances are those that nvidia-smi lists"


def test_a_job_sees_exactly_its_device(engine: EngineProcess) -> None:
    for nth, device in enumerate(well(engine)):
        found = seen(engine, share(device), job=f"job_{nth}")
        assert [each["uuid"] for each in found["devices"]] == [plain(device["name"])]


def test_a_job_without_a_device_sees_none(engine: EngineProcess) -> None:
    well(engine)
    assert seen(engine) == {"error": NO_DEVICE, "devices": [], "allocations": []}


def test_two_devices_are_seen_in_the_order_given(engine: EngineProcess) -> None:
    devices = [device for device in well(engine) if device["labels"]["mig"] != "instance"]
    if len(devices) < 2:
        pytest.skip("this machine has one GPU that is not divided")
    found = seen(engine, share(devices[1]), share(devices[0]))
    assert [each["uuid"] for each in found["devices"]] == [plain(device["name"]) for device in (devices[1], devices[0])]


def test_two_jobs_have_one_device_at_the_same_time(engine: EngineProcess, tmp_path: Path) -> None:
    device = well(engine)[0]
    probe = PROBE.removeprefix("exec ")
    for job, other in (("job_a", "job_b"), ("job_b", "job_a")):
        text = f"touch {tmp_path}/{job}; until [ -e {tmp_path}/{other} ]; do sleep 0.02; done; {probe} 64"
        assert engine.ask("submit", job=job, text=text, ranks=[[share(device, 500)]]) is None
    for job in ("job_a", "job_b"):
        ended = engine.ask("ended", job=job, ranks=1)
        assert ended["exit_code"] == 0, ended
        found = json.loads(ended["printed"][0])
        assert [each["uuid"] for each in found["devices"]] == [plain(device["name"])]
        assert found["allocations"] == [{"mib": 64, "error": 0}]


# MPS


@pytest.fixture
def mps() -> Iterator[Path]:
    """The pipe folder of an MPS daemon of the test's own, stopped after it."""
    smi("-L")
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        pytest.skip(
            "nvidia-cuda-mps-control is not installed (Debian: nvidia-cuda-mps; Ubuntu: nvidia-compute-utils-N)"
        )
    folder = Path(tempfile.mkdtemp(prefix="djmps-"))  # short: its sockets' paths may have 107 bytes
    (folder / "pipe").mkdir()
    (folder / "log").mkdir()
    names = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    environment = {**os.environ, **names}
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # the daemon would number the devices anew
    done = subprocess.run([control, "-d"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"the MPS daemon does not start here: {(done.stdout + done.stderr).strip()[:300]}")
    yield folder / "pipe"
    subprocess.run([control], input="quit\n", env=environment, capture_output=True, text=True, check=False, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def first_undivided(engine: EngineProcess, memory_bytes: int) -> dict[str, Any]:
    for device in well(engine):
        if device["labels"]["mig"] != "instance" and device["memory_bytes"] >= memory_bytes:
            return device
    pytest.skip(f"no undivided GPU here has {memory_bytes // GIB} GiB")


def test_a_daemon_is_noticed_when_it_comes_and_when_it_goes(start: Start, mps: Path) -> None:
    engine = start(str(mps))
    well(engine)
    assert engine.ask("capabilities")["device_isolation"] == "enforced"
    environment = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(mps)}
    subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", env=environment, text=True, check=False, timeout=60)
    deadline = time.monotonic() + WITHIN_S
    while engine.ask("capabilities")["device_isolation"] != "counted-only":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_share_has_its_part_of_the_multiprocessors(start: Start, mps: Path) -> None:
    engine = start(str(mps))
    device = first_undivided(engine, 2 * GIB)
    (whole,) = seen(engine, share(device))["devices"]
    (half,) = seen(engine, share(device, 500), job="job_b")["devices"]
    assert half["uuid"] == whole["uuid"] == plain(device["name"])
    assert 0 < half["multiprocessors"] <= whole["multiprocessors"] // 2 + 2


def test_a_share_cannot_take_more_than_its_memory(start: Start, mps: Path) -> None:
    engine = start(str(mps))
    device = first_undivided(engine, 8 * GIB)
    found = seen(engine, share(device, 500, 4 * GIB), allocate="1024 5120")
    assert found["allocations"] == [{"mib": 1024, "error": 0}, {"mib": 5120, "error": OUT_OF_MEMORY}]
    found = seen(engine, share(device), job="job_b", allocate="5120")
    assert found["allocations"] == [{"mib": 5120, "error": 0}], "without a limit there is room"
