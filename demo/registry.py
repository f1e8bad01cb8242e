"""The model that the training became: its version and what it was made from, checked against the source."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from checks import hold, until
from dujiang.client import Client, Problem
from dujiang.kit.units import format_bytes
from screen import Screen
from training import SPEC, Training

MODEL, VERSION = "digits", "v1.0.0"
WAIT_S = 60.0


def registered(client: Client, screen: Screen, training: Training, data: Path) -> dict[str, Any]:
    """Wait until the version is there, show its lineage, and check it; return the version.

    Args:
        data: where to write the data anew, to compare it with what the model was trained on.

    Raises:
        NotHeld: no version, or another lineage.
    """
    path = f"/v1/models/{MODEL}/versions/{VERSION}"

    def look() -> dict[str, Any]:
        try:
            return dict(client.get(path))
        except Problem as problem:
            if problem.status != 404:
                raise
            return {"state": "not there", "sentence": problem.sentence}

    version = until(
        f"{MODEL} {VERSION} to be READY", look, lambda one: one["state"] in {"READY", "FAILED"}, for_s=WAIT_S,
        tell=lambda one: f"{one['state']}: {one['sentence']}",
    )  # fmt: skip
    hold(version["state"] == "READY", f"{MODEL} {VERSION} to be READY", f"{version['state']}: {version['sentence']}")
    _check_origin(version, training)
    _check_data(version, data)
    _check_file(client, version, path)
    lineage = version["lineage"]
    screen.held(f"{MODEL} {VERSION} is registered, with its lineage:")
    screen.table(["", ""], _facts(version, lineage))
    screen.held("the file is the one of that digest, and the data made anew has the digest of the data trained on")
    return version


def trained_right(version: dict[str, Any], held_out: int) -> int:
    """Return how many held-out images the training says it got right: its accuracy as a fraction of them.

    Raises:
        NotHeld: the figure, which has six decimal places, is no such fraction.
    """
    accuracy = float(version["lineage"]["metrics"]["accuracy"])
    right = round(accuracy * held_out)
    hold(abs(accuracy - right / held_out) <= 5.1e-7, f"the trained accuracy to be a count of {held_out}", accuracy)
    return right


def _check_origin(version: dict[str, Any], training: Training) -> None:
    lineage = version["lineage"]
    attempts = len(training.job["attempts"])
    hold(lineage["job_id"] == training.id, f"lineage to name {training.id}", lineage["job_id"])
    hold(lineage["attempt"] == attempts, f"lineage to name attempt {attempts}", lineage["attempt"])
    wanted = training.document["params"]
    hold(lineage["params"] == wanted, f"the parameters {wanted}", lineage["params"])
    hold("accuracy" in lineage["metrics"], "the metrics of the training", lineage["metrics"])
    hold(bool(lineage["environment"].get("packages")), "the environment with its packages", lineage["environment"])


def _check_data(version: dict[str, Any], data: Path) -> None:
    prepare = [sys.executable, str(SPEC.with_name("prepare.py")), "--data", str(data)]
    subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    told = version["lineage"]["inputs"].get("digits", {})
    hold(told.get("digest") == digest, f"the data's digest to be {digest}", told)


def _check_file(client: Client, version: dict[str, Any], path: str) -> None:
    with client.stream(f"{path}/artifact", accept="application/octet-stream") as answer:
        digest = hashlib.sha256(answer.read()).hexdigest()
    hold(version["digest"] == f"sha256:{digest}", f"a file of digest {version['digest']}", digest)


def _facts(version: dict[str, Any], lineage: dict[str, Any]) -> list[list[str]]:
    data = lineage["inputs"]["digits"]
    tensors = [
        f"{one['name']} {one['datatype']}{list(one['shape'])}" for one in (*version["inputs"], *version["outputs"])
    ]
    environment = lineage["environment"]
    return [
        ["job", f"{lineage['job_id']} ({lineage['job_name']}), attempt {lineage['attempt']}"],
        ["data", f"digits, {data['method']} {data['digest']}, {format_bytes(data['bytes'])}"],
        ["parameters", ", ".join(f"{name}={value}" for name, value in lineage["params"].items())],
        ["metrics", ", ".join(f"{name}={value:g}" for name, value in sorted(lineage["metrics"].items()))],
        ["environment", f"Python {environment.get('python')}, {len(environment['packages'])} packages"],
        ["file", f"ONNX, {format_bytes(version['bytes'])}, {version['digest']}"],
        ["tensors", ", ".join(tensors)],
    ]
