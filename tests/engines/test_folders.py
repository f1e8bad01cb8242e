"""What an engine says of a file that it cannot read now, and of one that a job keeps it from reading."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey, EngineUnavailable
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.outputs import OutputOutside, OutputRefused
from dujiang.kit.clock import SystemClock

KEY = AttemptKey("job_a", 1)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    output = tmp_path / "attempts" / "job_a" / "1" / "output"
    output.mkdir(parents=True)
    (output / "model.onnx").write_bytes(b"model")
    return output


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    return LocalEngine(tmp_path, clock=SystemClock())


@pytest.fixture
def broken_leases_are_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def read(engine: LocalEngine, path: str = "model.onnx") -> bytes:
    return b"".join([piece async for piece in engine.output(KEY, path, most_bytes=100)])


async def test_a_machine_without_room_says_that_it_is_for_now(engine: LocalEngine, output: Path) -> None:
    assert await read(engine) == b"model"  # the thread is there
    with no_descriptor_left(), pytest.raises(EngineUnavailable, match=r"onnx cannot be read now: Too many open files"):
        await read(engine)
    assert await read(engine) == b"model"


async def test_a_lease_does_not_make_the_platform_wait_nor_its_cluster_silent(
    engine: LocalEngine, output: Path, broken_leases_are_ignored: None
) -> None:
    with (output / "model.onnx").open("rb+") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(OutputRefused, match="temporarily unavailable"):
            await read(engine)


async def test_sentences_are_for_tenants_and_fit_everywhere(engine: LocalEngine, output: Path, tmp_path: Path) -> None:
    for path in ("a\nb", "\udcff", "x" * 300, "a\0b", "模型"):
        with pytest.raises(OutputRefused) as told:
            await read(engine, path)
        assert told.value.sentence.isprintable()
        assert len(told.value.sentence) < 300
        assert str(tmp_path) not in told.value.sentence
    os.rename(output, f"{output}-moved")
    os.symlink(f"{output}-moved", output)
    with pytest.raises(OutputOutside, match="was exchanged for a link"):
        await engine.outputs(KEY)
