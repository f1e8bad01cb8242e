"""A driver that stands in for NVIDIA's, and an engine in a process that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.local.stand_in import H100S, Driver, EngineProcess, build

Start = Callable[..., EngineProcess]


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in for libnvidia-ml.so.1."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(tmp_path: Path, nvml: Path) -> Driver:
    """Two devices of 80 GiB, both well."""
    return Driver(tmp_path, nvml, *H100S)


@pytest.fixture
def start(tmp_path: Path, driver: Driver) -> Iterator[Start]:
    """Start an engine that finds the driver, closed after the test; without an MPS daemon unless one is named."""
    started: list[EngineProcess] = []

    def begin(**settings: str) -> EngineProcess:
        settings = {"mps_pipe_dir": str(tmp_path / "no-mps"), **settings}
        started.append(EngineProcess(tmp_path / "engine", driver.environment(), **settings))
        return started[-1]

    yield begin
    for each in started:
        each.close()


@pytest.fixture
def engine(start: Start) -> EngineProcess:
    """An engine that finds the driver and no MPS daemon."""
    return start()
