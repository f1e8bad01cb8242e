"""The examples are what they say they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.jobs.spec import Kind, parse

EXAMPLES = Path(__file__).parents[3] / "examples"
# What of the examples is no job; each is tested where it is read.
NO_JOBS = {"capacity", "foreign", "queues"}
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if path.parent.name not in NO_JOBS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_example_is_a_valid_specification(path: Path) -> None:
    for job in parse(path.read_bytes()):
        assert job.name != "job", "an example has a name"
    assert path.name in (EXAMPLES / "README.md").read_text()


def test_what_the_examples_show() -> None:
    jobs = {path.stem: parse(path.read_bytes())[0] for path in FILES}
    assert jobs["service"].kind is Kind.SERVICE
    assert jobs["gang"].nodes == 2
    assert jobs["fraction"].resources.gpu_milli == 125
    assert jobs["train"].outputs.model
    assert jobs["train"].param_env["DUJIANG_PARAM_HIDDEN"] == "1024 512"


def test_training_goes_on_after_a_kill_and_ends_with_the_same_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("skl2onnx")
    command = [
        *(sys.executable, str(EXAMPLES / "digits" / "train.py"), "--epochs", "4", "--hidden", "32"),
        *("--data", str(tmp_path / "digits.npz"), "--tensorboard", "events"),
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for folder in (whole, broken):
        folder.mkdir()
    subprocess.run(command, cwd=whole, env=environment, check=True, capture_output=True)

    with subprocess.Popen(command, cwd=broken, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch=2 "):
                process.send_signal(signal.SIGKILL)
                break
    (broken / "checkpoints" / "epoch-00099.ckpt").write_bytes(b"cut short")
    again = subprocess.run(command, cwd=broken, env=environment, check=True, capture_output=True, text=True)

    assert "damaged" in again.stdout
    assert "epoch=2 " not in again.stdout, "an epoch that was saved is not repeated"
    assert (whole / "output" / "model.onnx").read_bytes() == (broken / "output" / "model.onnx").read_bytes()
    assert list((whole / "events").glob("events.out.tfevents.*"))
