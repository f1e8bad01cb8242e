"""The devices of a machine as NVML reports them, their health, and what becomes of them while things go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.local.stand_in import GIB, H100S, LIBRARY, Driver, EngineProcess, share, uuid

ECHO_DEVICES = 'echo "$CUDA_VISIBLE_DEVICES $DUJIANG_GPU_MILLI"'
MPS = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
ECHO_MPS = "\n".join(f'echo "${{{name}-none}}"' for name in MPS)
INSTANCES = {
    "1.mig": 1,
    "1.0.uuid": "MIG-a", "1.0.name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1.0.memory": 10 * GIB,
    "1.2.uuid": "MIG-b", "1.2.name": "NVIDIA H100 80GB HBM3 MIG 2g.20gb", "1.2.memory": 20 * GIB,
}  # fmt: skip
Start = Callable[..., EngineProcess]


def names(devices: list[dict[str, Any]]) -> list[str]:
    return [device["name"] for device in devices]


def states(devices: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    return [(device["name"], device["healthy"]) for device in devices]


# What there is


def test_the_stand_in_answers_what_the_bindings_ask(driver: Driver) -> None:
    driver.set({"1.utilisation": 37, "1.temperature": 61, "1.used": GIB})
    code = (
        "from pynvml import *; nvmlInit(); device = nvmlDeviceGetHandleByIndex(1); "
        "print(nvmlDeviceGetUtilizationRates(device).gpu, nvmlDeviceGetTemperature(device, NVML_TEMPERATURE_GPU), "
        "nvmlDeviceGetMemoryInfo(device).free, nvmlDeviceGetRemappedRows(device))"
    )
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, env=driver.environment(), capture_output=True, text=True, check=True)
    assert done.stdout == f"37 61 {79 * GIB} (0, 0, 0, 0)\n"


def test_this_process_has_not_loaded_it(engine: EngineProcess) -> None:
    assert len(engine.devices()) == 2
    assert LIBRARY not in Path("/proc/self/maps").read_text()
    assert LIBRARY in Path(f"/proc/{engine.pid}/maps").read_text()


def test_each_device_is_told_with_who_made_it_what_it_is_and_how_large(engine: EngineProcess) -> None:
    first, second = engine.devices()
    assert first == {
        "name": uuid(0), "index": 0, "vendor": "nvidia", "model": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * GIB,
        "healthy": True, "isolation": "counted-only",
        "labels": {"driver": "560.35.03", "mig": "disabled", "pci": "00000000:3B:00.0"},
    }  # fmt: skip
    assert (second["name"], second["index"]) == (uuid(1), 1)


def test_a_device_that_tells_little_is_well(engine: EngineProcess, driver: Driver) -> None:
    driver.unset("0.ecc", "0.mig", "0.rows", "0.pci", "0.name", "0.memory")
    first = engine.devices()[0]
    assert (first["name"], first["model"], first["memory_bytes"], first["healthy"]) == (uuid(0), "unknown", 0, True)
    assert first["labels"] == {"driver": "560.35.03", "mig": "unsupported"}


def test_a_machine_without_the_library_says_so(start: Start, driver: Driver, tmp_path: Path) -> None:
    driver.library = tmp_path  # where there is none
    engine = start()
    if engine.devices() or "shared library" not in (missing := engine.ask("capabilities")["missing"])[-1].lower():
        pytest.skip("this machine has a driver of its own")
    assert missing[-1] == "no NVIDIA devices: NVML Shared Library Not Found"


# Health


FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "memory errors": ({"1.ecc": 3}, "3 uncorrected memory errors since the driver was loaded"),
    "a row to be remapped": ({"1.rows": "2 1 1 0"}, "a memory row waits for the next reset to be remapped"),
    "a row not remapped": ({"1.rows": "2 1 1 1"}, "remapping a memory row failed"),
    "pages to be retired": ({"1.retired": 1}, "memory pages wait for the next restart to be retired"),
    "off the bus": ({"1.error": 15}, "GPU is lost"),
    "a reset is due": ({"1.error": 16}, "GPU requires restart"),
    "no handle": ({"1.handle.error": 15}, "GPU is lost"),
    "no name": ({"1.uuid.error": 999}, "Unknown Error"),
    "no memory": ({"1.memory.error": 999}, "Unknown Error"),
    "lost between two questions": ({"1.mig.error": 15}, "GPU is lost"),
}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, nvml: Path) -> Iterator[tuple[EngineProcess, Driver]]:
    """One engine for all the faults, each of which has passed when the next comes."""
    folder = tmp_path_factory.mktemp("lasting")
    driver = Driver(folder, nvml, *H100S)
    engine = EngineProcess(folder / "engine", driver.environment(), mps_pipe_dir=str(folder / "no-mps"))
    yield engine, driver
    engine.close()


@pytest.mark.parametrize("case", FAULTS)
def test_an_unfit_device_is_told_so_under_its_name(lasting: tuple[EngineProcess, Driver], case: str) -> None:
    (engine, driver), (answers, fault) = lasting, FAULTS[case]
    well = engine.devices()
    driver.set(answers)
    first, second = engine.devices()
    assert first == well[0]
    assert second["labels"].pop("fault").endswith(fault)
    assert second == {**well[1], "healthy": False}
    driver.unset(*(key for key in answers if key not in ("1.ecc", "1.rows")))
    driver.set({"1.ecc": 0, "1.rows": "0 0 0 0"})
    assert engine.devices() == well


def test_several_faults_are_all_told(engine: EngineProcess, driver: Driver) -> None:
    driver.set({"0.ecc": 1, "0.rows": "0 1 1 0"})
    assert engine.devices()[0]["labels"]["fault"] == (
        "1 uncorrected memory errors since the driver was loaded; a memory row waits for the next reset to be remapped"
    )


def test_a_device_lost_before_the_first_look_has_no_name_and_takes_no_work(start: Start, driver: Driver) -> None:
    driver.set({"1.error": 15})
    engine = start()
    assert states(engine.devices()) == [(uuid(0), True), ("nvidia-1", False)]
    driver.unset("1.error")
    assert states(engine.devices()) == [(uuid(0), True), (uuid(1), True)]


def test_no_name_is_told_twice_when_a_reload_moves_the_devices(engine: EngineProcess, driver: Driver) -> None:
    """The first device is gone, so the second took its place; what is now in the second's place does not answer."""
    assert names(engine.devices()) == [uuid(0), uuid(1)]
    driver.set({"0.uuid": uuid(1), "1.error": 15})
    assert states(engine.devices()) == [(uuid(1), True), ("nvidia-1", False)]


# MIG


def test_instances_stand_in_for_their_device(engine: EngineProcess, driver: Driver) -> None:
    driver.set(INSTANCES)
    whole, first, second = engine.devices()
    assert whole["name"] == uuid(0)
    assert (first["name"], first["model"], first["memory_bytes"], first["index"]) == (
        "MIG-a", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB, 100,
    )  # fmt: skip
    assert (second["name"], second["memory_bytes"], second["index"]) == ("MIG-b", 20 * GIB, 102)
    assert second["labels"]["mig"] == "instance"
    assert second["labels"]["mig_parent"] == uuid(1)


def test_instances_are_as_well_as_their_device(engine: EngineProcess, driver: Driver) -> None:
    driver.set({**INSTANCES, "1.ecc": 1})
    assert states(engine.devices()) == [(uuid(0), True), ("MIG-a", False), ("MIG-b", False)]


def test_instances_of_a_lost_device_keep_their_names(engine: EngineProcess, driver: Driver) -> None:
    driver.set(INSTANCES)
    engine.devices()
    driver.set({"1.error": 15})
    assert states(engine.devices()) == [(uuid(0), True), ("MIG-a", False), ("MIG-b", False)]


def test_mig_without_an_instance_takes_no_work(engine: EngineProcess, driver: Driver) -> None:
    driver.set({"1.mig": 1})
    second = engine.devices()[1]
    assert (second["name"], second["healthy"]) == (uuid(1), False)
    assert "nvidia-smi mig -cgi" in second["labels"]["fault"]


def test_a_job_sees_its_instance_alone(engine: EngineProcess, driver: Driver) -> None:
    driver.set(INSTANCES)
    assert engine.run(ECHO_DEVICES, [share(102, memory_bytes=20 * GIB, name="MIG-b")]) == ["MIG-b 1000\n"]


# The driver


def test_a_driver_that_goes_takes_its_devices_and_brings_them_back(engine: EngineProcess, driver: Driver) -> None:
    well = engine.devices()
    driver.set({"error": 9})
    assert engine.devices() == []
    assert "no NVIDIA devices: Driver Not Loaded" in engine.ask("capabilities")["missing"]
    driver.unset("error")
    assert engine.devices() == well
    assert not [words for words in engine.ask("capabilities")["missing"] if "NVIDIA devices" in words]


def test_a_driver_without_a_device_is_told_apart(start: Start, driver: Driver) -> None:
    driver.set({"devices": 0})
    assert "the NVIDIA driver reports no device" in start().ask("capabilities")["missing"]


def test_what_needs_a_device_waits_while_the_driver_is_away(engine: EngineProcess, driver: Driver) -> None:
    engine.devices()
    driver.set({"error": 9})
    refused = engine.ask("submit", job="job_a", text=ECHO_DEVICES, ranks=[[share(0)]])
    assert refused["error"] == "engine_unavailable"
    assert "Driver Not Loaded" in refused["sentence"]
    assert engine.run("echo none", [], job="job_b") == ["none\n"]
    driver.unset("error")
    assert engine.run(ECHO_DEVICES, [share(0)]) == [f"{uuid(0)} 1000\n"]


def test_a_device_that_never_was_is_refused_for_its_node(engine: EngineProcess) -> None:
    refused = engine.ask("submit", job="job_a", text="true", ranks=[[share(7)]])
    assert refused == {"error": "node_refused", "sentence": f"node 'here' has no device '{uuid(7)}'"}


def test_what_runs_already_is_not_refused_for_a_device_that_has_gone(engine: EngineProcess, driver: Driver) -> None:
    asked = {"job": "job_a", "text": "exec sleep 1000", "ranks": [[share(1)]]}
    assert engine.ask("submit", **asked) is None
    driver.set({"devices": 1})
    assert names(engine.devices()) == [uuid(0)]
    assert engine.ask("submit", **asked) is None


# What jobs see


def test_a_job_without_devices_sees_none(engine: EngineProcess) -> None:
    assert engine.run(ECHO_DEVICES, []) == [" 0\n"]


def test_a_job_sees_its_devices_in_order_and_no_other(engine: EngineProcess) -> None:
    assert engine.run(ECHO_DEVICES, [share(1), share(0)]) == [f"{uuid(1)},{uuid(0)} 2000\n"]


def test_each_rank_sees_its_own(engine: EngineProcess) -> None:
    text = f'{ECHO_DEVICES}; echo "$RANK $LOCAL_RANK"'
    assert engine.run(text, [share(1)], [share(0)]) == [f"{uuid(1)} 1000\n0 0\n", f"{uuid(0)} 1000\n1 0\n"]


def test_two_jobs_share_a_device_by_halves(engine: EngineProcess, tmp_path: Path) -> None:
    """Each waits until the other runs, so both have the device at the same time."""
    text = f'{ECHO_DEVICES}; touch "{tmp_path}/$DUJIANG_JOB_ID"'
    for job, other in (("job_a", "job_b"), ("job_b", "job_a")):
        waits = f'{text}; until [ -e "{tmp_path}/{other}" ]; do sleep 0.02; done'
        assert engine.ask("submit", job=job, text=waits, ranks=[[share(0, 500, 40 * GIB)]]) is None
    for job in ("job_a", "job_b"):
        assert engine.ask("ended", job=job, ranks=1)["printed"] == [f"{uuid(0)} 500\n"]


# MPS


@pytest.fixture
def mps(tmp_path: Path) -> Path:
    """The folder that a running MPS daemon would have: its number, which is that of a live process, and its pipe."""
    folder = tmp_path / "mps"
    folder.mkdir()
    (folder / "nvidia-cuda-mps-control.pid").write_text(f"{os.getpid()}\n")
    os.mkfifo(folder / "control")
    return folder


def test_without_an_mps_daemon_shares_are_only_counted(engine: EngineProcess) -> None:
    capabilities = engine.ask("capabilities")
    assert capabilities["device_isolation"] == "counted-only"
    assert any("start the NVIDIA MPS daemon" in words for words in capabilities["missing"])
    assert engine.run(ECHO_MPS, [share(0, 125, 10 * GIB)]) == ["none\nnone\nnone\n"]


def test_with_an_mps_daemon_shares_are_enforced(start: Start, mps: Path) -> None:
    engine = start(mps_pipe_dir=str(mps))
    capabilities = engine.ask("capabilities")
    assert capabilities["device_isolation"] == "enforced"
    assert not any("MPS" in words for words in capabilities["missing"])
    assert {device["isolation"] for device in engine.devices()} == {"enforced"}
    assert engine.run(ECHO_MPS, [share(0, 125, 10 * GIB)]) == [f"{mps}\n12\n0=10240M\n"]
    assert engine.run(ECHO_MPS, [share(0)], job="job_b") == ["none\nnone\nnone\n"]


def test_limits_are_numbered_as_the_job_sees_its_devices(start: Start, mps: Path) -> None:
    shares = [share(1, 500, 40 * GIB), share(0, 250, 20 * GIB)]
    assert start(mps_pipe_dir=str(mps)).run(ECHO_MPS, shares) == [f"{mps}\n25\n0=40960M,1=20480M\n"]


def test_the_daemon_is_found_where_cuda_looks(
    start: Start, driver: Driver, mps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**driver.environment(), "CUDA_MPS_PIPE_DIRECTORY": str(mps)}
    monkeypatch.setattr(driver, "environment", lambda: environment)
    engine = start(mps_pipe_dir="")
    assert engine.run(ECHO_MPS, [share(0, 500, 40 * GIB)]) == [f"{mps}\n50\n0=40960M\n"]


@pytest.mark.parametrize("gone", ["process", "pipe", "number"])
def test_a_daemon_that_is_gone_enforces_nothing(start: Start, mps: Path, gone: str) -> None:
    if gone == "pipe":
        (mps / "control").unlink()
    else:
        ended = subprocess.Popen(["true"])
        ended.wait()
        number = str(ended.pid) if gone == "process" else "not a number"
        (mps / "nvidia-cuda-mps-control.pid").write_text(number)
    engine = start(mps_pipe_dir=str(mps))
    assert engine.ask("capabilities")["device_isolation"] == "counted-only"
    assert engine.run(ECHO_MPS, [share(0, 500)]) == ["none\nnone\nnone\n"]


# What is used


WAIT = "echo $$; sleep 600"


def test_the_use_of_whole_devices_is_that_of_the_devices(engine: EngineProcess, driver: Driver) -> None:
    driver.set({"0.utilisation": 90, "1.utilisation": 40})
    assert engine.ask("submit", text=WAIT, ranks=[[share(0), share(1)]]) is None
    engine.ask("said")
    assert engine.ask("usage") == {"devices": 0.65}
    driver.set({"0.utilisation": 0, "1.utilisation": 0})
    assert engine.ask("usage") == {"devices": 0.0}
    driver.unset("1.utilisation")
    assert engine.ask("usage") == {"devices": None}, "what one device does not tell is not idle"


def test_the_use_of_a_share_is_that_of_its_own_processes(engine: EngineProcess, driver: Driver) -> None:
    driver.set({"0.utilisation": 95, "0.processes": "-"})
    assert engine.ask("submit", text=WAIT, ranks=[[share(0, 500, 40 * GIB)]]) is None
    pid = int(engine.ask("said"))
    assert engine.ask("usage") == {"devices": 0.0}, "the device is busy with others"
    driver.set({"0.processes": f"{pid}:30 {os.getpid()}:60"})
    assert engine.ask("usage") == {"devices": 0.6}
    driver.set({"0.processes": f"{pid}:80"})
    assert engine.ask("usage") == {"devices": 1.0}, "it takes more than its share"


def test_processes_of_unknown_numbers_leave_the_use_of_a_share_unknown(engine: EngineProcess, driver: Driver) -> None:
    driver.set({"0.processes": "999999999:80"})  # as in a container with numbers of its own
    assert engine.ask("submit", text=WAIT, ranks=[[share(0, 500, 40 * GIB)]]) is None
    engine.ask("said")
    assert engine.ask("usage") == {"devices": None}
    driver.unset("0.processes")
    assert engine.ask("usage") == {"devices": None}


def test_under_mps_the_use_of_a_share_is_unknown(start: Start, driver: Driver, mps: Path) -> None:
    engine = start(mps_pipe_dir=str(mps))
    driver.set({"0.processes": f"{os.getpid()}:80"})  # the daemon computes for its clients
    assert engine.ask("submit", text=WAIT, ranks=[[share(0, 500, 40 * GIB)]]) is None
    engine.ask("said")
    assert engine.ask("usage") == {"devices": None}


def test_an_instance_of_a_device_tells_no_use(engine: EngineProcess, driver: Driver) -> None:
    driver.set(INSTANCES)
    instance = share(100, memory_bytes=10 * GIB, name="MIG-a")
    assert engine.ask("submit", text=WAIT, ranks=[[instance]]) is None
    engine.ask("said")
    assert engine.ask("usage") == {"devices": None}
