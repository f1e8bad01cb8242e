"""A driver without a GPU: the NVML library of our own, what it answers, and an engine in a process that loads it.

The library is found by LD_LIBRARY_PATH, as a real one is, so it takes a process of its own, and this one stays clean.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = Path(__file__).with_name("nvml_stand_in.c")
LIBRARY = "libnvidia-ml.so.1"
GIB = 1 << 30
H100S = (("NVIDIA H100 80GB HBM3", 80), ("NVIDIA H100 80GB HBM3", 80))
_INSTALL_S = 300


def build(folder: Path) -> Path:
    """Compile the library into a folder; returns the folder. Skips where there is no compiler and none can be had."""
    compiler = shutil.which("gcc") or shutil.which("cc") or _install_compiler()
    options = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}"]
    command = [compiler, *options, "-o", str(folder / LIBRARY), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def _install_compiler() -> str:
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("no C compiler here to build the stand-in for NVML with: install gcc")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", f"DPkg::Lock::Timeout={_INSTALL_S}"]  # another worker of the same run may be at it too
    for words in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", "gcc", "libc6-dev"]):
        done = subprocess.run(
            ["apt-get", *wait, *words], env=environment, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    found = shutil.which("gcc")
    if found is None:
        pytest.skip(f"no C compiler here, and gcc could not be installed: {done.stderr.strip()[-300:]}")
    return found


class Driver:
    """What the stand-in answers; every change is seen by the next question."""

    def __init__(self, folder: Path, library: Path, *models: tuple[str, int]) -> None:
        """Make healthy devices of these models and sizes in GiB."""
        self.file, self.library = folder / "nvml-state", library
        self.answers: dict[str, object] = {"driver": "560.35.03", "devices": len(models)}
        for index, (model, gib) in enumerate(models):
            self.answers |= {
                f"{index}.uuid": uuid(index), f"{index}.name": model, f"{index}.memory": gib * GIB,
                f"{index}.utilisation": 0, f"{index}.temperature": 35, f"{index}.ecc": 0, f"{index}.mig": 0,
                f"{index}.rows": "0 0 0 0", f"{index}.pci": f"00000000:{index + 0x3B:02X}:00.0",
            }  # fmt: skip
        self._well = dict(self.answers)
        self._write()

    def heal(self) -> None:
        """Answer again as at first."""
        self.answers = dict(self._well)
        self._write()

    def set(self, answers: dict[str, object]) -> None:
        """Answer so from now on."""
        self.answers |= answers
        self._write()

    def unset(self, *keys: str) -> None:
        """Answer these no more."""
        for key in keys:
            del self.answers[key]
        self._write()

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that is to find this driver; nothing of a platform of this machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DUJIANG_", "CUDA_"))}
        before = [kept["LD_LIBRARY_PATH"]] if "LD_LIBRARY_PATH" in kept else []
        return {
            **kept,
            "LD_LIBRARY_PATH": ":".join([str(self.library), *before]),
            "NVML_STAND_IN": str(self.file),
        }

    def _write(self) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_text("".join(f"{key} {value}\n" for key, value in self.answers.items()))
        draft.replace(self.file)


def uuid(index: int) -> str:
    """Return the UUID of a device of the stand-in."""
    return f"GPU-{index:08x}-1111-2222-3333-444444444444"


class EngineProcess:
    """A local engine in a process of its own (`engine_process`), asked line by line."""

    def __init__(self, home: Path, environment: dict[str, str], **settings: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.local.engine_process", str(home), json.dumps(settings)],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self._process.pid

    def ask(self, what: str, **fields: object) -> Any:
        """Return the answer to one question."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"ask": what, **fields}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, f"the engine's process ended with {process.wait()}"
        return json.loads(line)

    def devices(self) -> list[dict[str, Any]]:
        """Return the devices as they are now."""
        found: list[dict[str, Any]] = self.ask("inventory")["devices"]
        return found

    def run(self, text: str, *ranks: list[dict[str, Any]], job: str = "job_a") -> list[str]:
        """Run a program on devices to its end; returns what each rank printed."""
        assert self.ask("submit", job=job, text=text, ranks=ranks) is None
        ended = self.ask("ended", job=job, ranks=len(ranks))
        assert ended["exit_code"] == 0, ended
        printed: list[str] = ended["printed"]
        return printed

    def close(self) -> None:
        """Let it stop what it runs and end; killed when it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watch = threading.Timer(30, self._process.kill)
        watch.start()
        self._process.stdin.close()
        status = self._process.wait()
        watch.cancel()
        self._process.stdout.close()
        assert status == 0


def share(index: int, gpu_milli: int = 1000, memory_bytes: int = 80 * GIB, *, name: str = "") -> dict[str, Any]:
    """Return a share of a device of the stand-in."""
    return {"name": name or uuid(index), "index": index, "gpu_milli": gpu_milli, "memory_bytes": memory_bytes}
