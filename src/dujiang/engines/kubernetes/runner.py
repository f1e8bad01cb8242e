"""The runner that each Pod of an attempt begins with: `runner.sh`, and what it is told. Pure.

What one rank does in its container is the shell's; here is which file it lies in, how its texts are run, and how it is
asked for something while it runs.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from dujiang.engines.contract import Launch
from dujiang.engines.kubernetes import recording
from dujiang.engines.kubernetes.namespaces import MANAGED_BY, MANAGER
from dujiang.engines.kubernetes.records import KIND

BIN: Final = "/dujiang/bin"
STATE: Final = "/dujiang/state"
ENV: Final = "env"
"""File beside the runner that sets the variables of a rank."""
SHELL: Final = "/bin/sh"
LAST_WORD: Final = "/dev/termination-log"
_LONGEST_ARGUMENT = 100_000
"""Bytes; Linux takes 128 KiB for one argument, longer text is run from its file."""


@cache
def text() -> str:
    """Return the runner."""
    return resources.files("dujiang.engines.kubernetes").joinpath("runner.sh").read_text(encoding="utf-8")


@cache
def name() -> str:
    """Return the name of the ConfigMap that holds it: another for each version, so that what runs keeps its own."""
    content = text() + recording.archive()
    return f"dujiang-runner-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def config_map(namespace: str) -> dict[str, Any]:
    """Return the ConfigMap that holds it in a namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name(), "namespace": namespace, "labels": {MANAGED_BY: MANAGER, KIND: "runner"}},
        "immutable": True,
        "data": {"runner": text()},
        "binaryData": {recording.ARCHIVE: recording.archive()},
    }


def files_of(launch: Launch, *, workdir: str, output_dir: str, go: str) -> dict[str, str]:
    """Return what the runner of each rank finds beside it, by name.

    Args:
        launch: what is asked.
        workdir: where the texts run.
        output_dir: made before they do.
        go: file on a shared folder by which the first rank tells the others that the setup is done; empty where there
            is no such folder, and the platform tells them.
    """
    checkpoint = launch.checkpoint
    told: Mapping[str, object] = {
        "state": STATE,
        "last": LAST_WORD,
        "workdir": workdir,
        "own": "1" if launch.workdir is None else "",
        "output": output_dir,
        "checkpoint": checkpoint.path if checkpoint else "",
        "grace_cs": centiseconds(launch.grace_s),
        "limit_cs": "" if launch.time_limit_s is None else centiseconds(launch.time_limit_s),
        "save": checkpoint.signal or "" if checkpoint else "",
        "setup": _way(launch.setup) if launch.setup.strip() else "",
        "text": _way(launch.run),
        "lineage": "1" if recording.is_wanted(launch) else "",
        "go": go,
    }
    lines = [f"dj_{variable}={shlex.quote(str(value))}" for variable, value in told.items()]
    found = {"launch": "\n".join(lines) + "\n", "run": launch.run}
    if launch.setup.strip():
        found["setup"] = launch.setup
    if recording.is_wanted(launch):
        found[recording.ASKED] = recording.asked_of(launch)
    return found


def begin(rank: int) -> list[str]:
    """Return the command of a rank's container."""
    return [SHELL, f"{BIN}/runner", "run", str(rank)]


def ask(*words: str) -> list[str]:
    """Return the command that asks a runner for something, beside it in its container."""
    return [SHELL, f"{BIN}/runner", "ask", *words]


def stop(cause: str, grace_s: float) -> list[str]:
    """Return the command that asks a runner to stop its rank."""
    return ask("stop", cause, str(centiseconds(grace_s)))


def centiseconds(seconds: float) -> int:
    """Return hundredths of seconds, rounded up: a grace is never shorter than asked."""
    return min(10**12, max(0, math.ceil(round(seconds * 100, 6))))


def _way(script: str) -> str:
    """Say how a text is run: by its own interpreter, as an argument of the shell, or as its file."""
    if script.startswith("#!"):
        return "script"
    return "text" if len(script.encode(errors="replace")) <= _LONGEST_ARGUMENT else "file"
