"""The deployment: brought up, asked the held-out images, measured, and taken away again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from checks import hold, until
from dujiang.client import Client
from registry import MODEL, VERSION, trained_right
from screen import Screen
from training import ENDED, Training

READY_S, GONE_S, ANSWER_S = 60.0, 60.0, 10.0
WARM_S, LOAD_S = 0.5, 3.0


@dataclass(frozen=True, slots=True)
class Served:
    """What the service did."""

    ready_s: float
    right: int
    trained: int
    of: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float


class Deployment:
    """Version 1.0.0 as an HTTP service."""

    def __init__(self, client: Client, screen: Screen) -> None:
        """Deploy nothing yet."""
        self._client, self._screen = client, screen
        self.found: dict[str, Any] = {}

    @property
    def job_id(self) -> str:
        """Return the job that serves."""
        return str(self.found["job_id"])

    def bring_up(self, training: Training) -> float:
        """Deploy, wait until it answers, check that it is a job on the same pool; return how long it took, in seconds.

        Raises:
            NotHeld: it does not come up, or is something else.
        """
        began = time.monotonic()
        self.found = self._client.post("/v1/deployments", {"model": MODEL, "version": VERSION})
        name = self.found["name"]
        self.found = until(
            f"the deployment {name} to be READY", lambda: dict(self._client.get(f"/v1/deployments/{name}")),
            lambda one: one["state"] in {"READY", "FAILED", "REMOVED"}, for_s=READY_S, tell=_told,
        )  # fmt: skip
        ready_s = time.monotonic() - began
        if self.found["state"] != "READY":
            why = self._client.get(f"/v1/jobs/{self.job_id}/explain")["text"]
            hold(False, f"the deployment {name} to be READY", _told(self.found), why)
        job = self._client.get(f"/v1/jobs/{self.job_id}")
        hold(job["kind"] == "service", "a job of kind service", job["kind"])
        hold(job["state"] == "RUNNING", "the service RUNNING", f"{job['state']}: {job['sentence']}")
        ours, theirs = (one["attempts"][-1]["cluster"] for one in (job, training.job))
        hold(ours == theirs, f"the service on the pool's cluster {theirs}", ours)
        held = list(self._client.items("/v1/allocations", job=self.job_id, live=True))
        hold(bool(held), "the service to hold a slice in the ledger", "no row")
        self._screen.held(
            f"{MODEL} {VERSION} answers at {self.found['url']} after {ready_s:.2f} s; it is the job {self.job_id} of "
            f"kind service on node {job['attempts'][-1]['node']}, in the same ledger"
        )
        return ready_s

    def ask(self, data: Path, version: dict[str, Any], ready_s: float) -> Served:
        """Ask every held-out image, one a request, then measure; return what came of it.

        Args:
            data: the file that `prepare.py` wrote.

        Raises:
            NotHeld: another accuracy than training measured, or a failed request.
        """
        with np.load(data) as arrays:
            images, labels = arrays["heldout_images"], arrays["heldout_labels"]
        bodies = [_question(image) for image in images.tolist()]
        service = _Asking(self.found["url"])
        answers = [_label(service.ask(body)) for body in bodies]
        right = sum(answer == label for answer, label in zip(answers, labels.tolist(), strict=True))
        trained = trained_right(version, len(labels))
        hold(right == trained, f"the accuracy of the training, {trained}/{len(labels)}", f"{right}/{len(labels)}")
        self._screen.held(
            f"asked {len(labels)} held-out images over HTTP: {right} right, accuracy {right / len(labels):.6f}; "
            f"training measured {trained}/{len(labels)}, the same"
        )
        service.load(bodies, WARM_S)
        times_s = service.load(bodies, LOAD_S)
        service.close()
        p50_ms, p99_ms = (float(value) * 1000 for value in np.percentile(times_s, [50, 99]))
        per_second = len(times_s) / sum(times_s)
        self._screen.say(
            f"one caller on one connection for {LOAD_S:.0f} s: {len(times_s)} requests, {per_second:.0f} a second, "
            f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms"
        )
        return Served(ready_s, right, trained, len(labels), len(times_s), per_second, p50_ms, p99_ms)

    def take_away(self) -> None:
        """Remove it and wait until its job has ended.

        Raises:
            NotHeld: it stays.
        """
        self._client.delete(f"/v1/deployments/{self.found['name']}")
        job = until(
            "the service to end", lambda: dict(self._client.get(f"/v1/jobs/{self.job_id}")),
            lambda one: one["state"] in ENDED, for_s=GONE_S, tell=_told,
        )  # fmt: skip
        self._screen.say(f"the deployment is removed; its job is {job['state']}")


class _Asking:
    """One connection to a service that speaks the Open Inference Protocol V2, kept open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = f"{parts.path}/infer"
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)

    def ask(self, body: bytes) -> bytes:
        """Return the answer to one question.

        Raises:
            NotHeld: another status than 200.
        """
        self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = answer.read()
        hold(answer.status == 200, "an answer of status 200", f"{answer.status} {content[:200]!r}")
        return content

    def load(self, bodies: Sequence[bytes], for_s: float) -> list[float]:
        """Ask without a pause for so long; return the seconds of each request."""
        times_s: list[float] = []
        end = time.perf_counter() + for_s
        while (began := time.perf_counter()) < end:
            self.ask(bodies[len(times_s) % len(bodies)])
            times_s.append(time.perf_counter() - began)
        return times_s

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


def _question(image: list[float]) -> bytes:
    tensor = {"name": "images", "shape": [1, len(image)], "datatype": "FP32", "data": image}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()


def _label(content: bytes) -> int:
    outputs = {one["name"]: one["data"] for one in json.loads(content)["outputs"]}
    return int(outputs["label"][0])


def _told(one: dict[str, Any]) -> str:
    return f"{one['state']} ({one['reason']}): {one['sentence']}"
