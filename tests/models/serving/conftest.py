"""Real serving processes on loopback, over models made on the spot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from onnx import TensorProto

from tests.models.serving import nets


@dataclass
class Serving:
    """A running process."""

    process: subprocess.Popen[str]
    url: str
    port: int

    def stop(self) -> int:
        """Ask it to stop and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


def start(*arguments: str) -> Serving:
    """Start a process on a free port and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dujiang.models.serving", "--port", "0", "--threads", "1", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            serving = Serving(process, found[0], int(found[1]))
            break
    else:
        raise AssertionError(f"the process ended: {''.join(said)}")
    with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:  # listens a moment after it says so
        assert client.get(f"{serving.url}/v2/health/ready").status_code == 200
    return serving


@pytest.fixture
def launch() -> Iterator[Callable[..., Serving]]:
    """Start processes that the test ends as it likes; what is left is killed."""
    started: list[Serving] = []

    def launcher(*arguments: str) -> Serving:
        started.append(start(*arguments))
        return started[-1]

    yield launcher
    for serving in started:
        serving.process.kill()
        serving.process.communicate()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model of `nets`."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "mlp": nets.mlp(folder / "mlp.onnx"),
        "other": nets.mlp(folder / "other.onnx", sizes=(2, 5), seed=1),
        "fixed": nets.mlp(folder / "fixed.onnx", batch=1),
        "two": nets.two_in_two_out(folder / "two.onnx"),
        "lookup": nets.lookup(folder / "lookup.onnx"),
        "mixes": nets.mixes_rows(folder / "mixes.onnx"),
        "log": nets.logarithm(folder / "log.onnx"),
        "spins": nets.spins(folder / "spins.onnx"),
        "text": nets.identity(folder / "text.onnx", TensorProto.STRING, "n", None),
        "flag": nets.identity(folder / "flag.onnx", TensorProto.BOOL, "n"),
        "half": nets.identity(folder / "half.onnx", TensorProto.FLOAT16, "n"),
        "byte": nets.identity(folder / "byte.onnx", TensorProto.UINT8, "n"),
        "long": nets.identity(folder / "long.onnx", TensorProto.INT64, "n", "k"),
    }


@pytest.fixture(scope="session")
def serving(models: dict[str, Path]) -> Iterator[Serving]:
    """One process with all of them; `mlp` in three versions."""
    arguments = [f"--model={name}={path}" for name, path in models.items() if name != "mlp"]
    arguments += [f"--model=mlp={models['mlp']},version=1.9.0", f"--model=mlp={models['mlp']},version=1.10.0"]
    arguments += ["--max-body-bytes", "100000"]
    running = start(*arguments)
    yield running
    assert running.stop() == 0
    assert running.process.stderr is not None
    assert "Traceback" not in running.process.stderr.read()


@pytest.fixture
def client(serving: Serving) -> Iterator[httpx.Client]:
    """A client of that process."""
    with httpx.Client(base_url=serving.url, timeout=20) as opened:
        yield opened
