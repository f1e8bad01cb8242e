"""The training: submitted, followed, killed half way, and what the platform made of that."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checks import NotHeld, hold, moment, seconds_between, until
from dujiang.cli.submitting import read_files
from dujiang.client import Client
from dujiang.kit.units import format_bytes, format_milli
from home import process_running
from screen import Screen

PROGRAM = "train.py"
SPEC = Path(__file__).parents[1] / "examples" / "digits" / "train.yaml"
GPU_FRACTION, GPU_FRACTION_MILLI = "1/8", 125
WAIT_S, SILENCE_S, NOTICE_S, RESUME_S = 60.0, 60.0, 30.0, 60.0
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})
_EPOCH = re.compile(rb"^epoch=(\d+) step=(\d+) loss=(\S+) accuracy=(\S+)", re.MULTILINE)
_FINAL = re.compile(rb"^final accuracy=(\S+)", re.MULTILINE)
_CHECKPOINT = re.compile(r"epoch-(\d+)\.ckpt$")


@dataclass(frozen=True, slots=True)
class Epoch:
    """A line that the program printed after an epoch."""

    number: int
    loss: str
    accuracy: str


@dataclass(slots=True)
class Output:
    """What an attempt printed, as far as the platform has shown it."""

    client: Client
    job_id: str
    attempt: int
    read: bytes = b""
    epochs: list[Epoch] = field(default_factory=list)

    def look(self) -> list[Epoch]:
        """Read on; return the epochs that are new."""
        path = f"/v1/jobs/{self.job_id}/logs"
        with self.client.stream(path, attempt=self.attempt, offset=len(self.read)) as answer:
            self.read += b"".join(answer.iter_bytes())
        whole = self.read[: self.read.rfind(b"\n") + 1]
        found = [Epoch(int(one[1]), one[3].decode(), one[4].decode()) for one in _EPOCH.finditer(whole)]
        new = found[len(self.epochs) :]
        self.epochs = found
        return new


@dataclass(frozen=True, slots=True)
class Fault:
    """What the kill cost, in seconds from the kill."""

    killed_epoch: int
    noticed_s: float
    """Until the platform shows that the attempt has ended."""
    running_s: float
    """Until the next attempt runs."""
    recovered_s: float
    """Until the first new epoch."""
    lost_epochs: int
    trained: tuple[str, str]
    """The epochs of each attempt."""
    accuracy: str
    """On the images held out, at the end, as the program says it."""


class Training:
    """A job of `examples/digits/train.yaml`."""

    def __init__(self, client: Client, screen: Screen, *, epochs: int | None, cluster: str = "") -> None:
        """Read the specification.

        Args:
            client: of the platform.
            screen: where it is told.
            epochs: replaces how long it trains.
            cluster: where it must run, on processors alone; empty lets the platform choose, a slice of a GPU too.
        """
        self._client, self._screen = client, screen
        self.document: dict[str, Any] = read_files([str(SPEC)])[0].document(reveal_secrets=True)
        if epochs is not None:
            self.document["params"]["epochs"] = epochs
        self._cluster = cluster
        if cluster:
            self.document |= {"placement": {"cluster": cluster}}
        self.epochs = int(self.document["params"]["epochs"])
        self.half = self.epochs // 2
        self.job: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """Return the job's identifier."""
        return str(self.job["id"])

    def submit(self) -> float:
        """Submit it, on a slice of a GPU where the pool has one; return how long it waited in the queue, in seconds.

        Raises:
            NotHeld: it does not start.
        """
        gpu = None if self._cluster else _gpu_with_room(self._client.get("/v1/pool"))
        if gpu is not None:
            self.document["resources"]["gpu"] = {"fraction": GPU_FRACTION}
        self.job = self._client.post("/v1/jobs", {"spec": self.document})
        self._screen.say(f"submitted {SPEC.parent.parent.name}/{SPEC.parent.name}/{SPEC.name}: {self.id}")
        self._wait_for("the job to run", lambda job: bool(job["attempts"]) and job["state"] == "RUNNING", for_s=WAIT_S)
        attempt = self.job["attempts"][0]
        waited_s = seconds_between(self.job["created_at"], attempt["started_at"])
        limits = f", limits by {attempt['limits_by']}" if attempt["limits_by"] else ""
        self._screen.say(f"runs on node {attempt['node']} after {waited_s:.2f} s in the queue{limits}")
        for row in self._client.items("/v1/allocations", job=self.id):
            self._screen.say(f"its slice of the pool: {_slice(row)}")
        if gpu is None and not self._cluster:
            self._screen.say("this machine's pool has no GPU: the slice is of CPU and memory")
        return waited_s

    def kill_half_way(self) -> Fault:
        """Follow it to the middle, kill its program with SIGKILL, and follow it to its end.

        Raises:
            NotHeld: not noticed, not resumed, or epochs repeated.
        """
        with self._screen.training(self.epochs) as bar:

            def follow(output: Output, is_enough: Callable[[], bool]) -> None:
                self._follow(output, is_enough, lambda one: bar(output.attempt, one.number, _figures(one)))

            first = Output(self._client, self.id, 1)
            follow(first, lambda: bool(first.epochs) and first.epochs[-1].number >= self.half)
            killed_at, killed_s = self._kill()
            self._wait_for(
                "the platform to notice the kill", lambda job: job["attempts"][0]["state"] in ENDED, for_s=NOTICE_S,
                every_s=0.01,
            )  # fmt: skip
            noticed_s = time.monotonic() - killed_s
            self._tell_fault(killed_at, noticed_s)
            first.look()
            self._wait_for("a second attempt to run", _second_runs, for_s=RESUME_S, every_s=0.02)
            running_s = time.monotonic() - killed_s
            second = Output(self._client, self.id, 2)
            follow(second, lambda: bool(second.epochs))
            recovered_s = time.monotonic() - killed_s
            follow(second, lambda: self._look()["state"] in ENDED)
            second.look()
        lost = self._check_epochs(first, second)
        self._screen.say(
            f"attempt 2 ran {running_s:.2f} s after the kill, its first new epoch came after {recovered_s:.2f} s"
        )
        self._check_end()
        final = _FINAL.search(second.read)
        hold(final is not None, "the program to say its final accuracy", second.read[-500:].decode(errors="replace"))
        assert final is not None
        trained = _span([one.number for one in first.epochs]), _span([one.number for one in second.epochs])
        return Fault(
            first.epochs[-1].number, noticed_s, running_s, recovered_s, lost, trained, final[1].decode()
        )  # fmt: skip

    def _follow(self, output: Output, is_enough: Callable[[], bool], show: Callable[[Epoch], None]) -> None:
        """Show epochs as they come until there are enough of them.

        Raises:
            NotHeld: the job ended before, or has been silent for long.
        """
        heard_s = time.monotonic()
        while True:
            for epoch in output.look():
                heard_s = time.monotonic()
                show(epoch)
            if is_enough():
                return
            if self._look()["state"] in ENDED and self.job["state"] != "COMPLETED":
                raise NotHeld("the training to go on", self._told(), self._explained())
            if time.monotonic() - heard_s > SILENCE_S:
                raise NotHeld(
                    f"an epoch within {SILENCE_S:.0f} s", "nothing", output.read[-2000:].decode("utf-8", "replace")
                )
            time.sleep(0.1)

    def _kill(self) -> tuple[datetime, float]:
        """Kill the program as a fault would; return when, by the wall and in monotonic seconds."""
        pid = process_running(PROGRAM, job_id=self.id, attempt=1)
        hold(pid is not None, f"a process of attempt 1 that runs {PROGRAM}", "none", self._explained())
        assert pid is not None
        killed_at, killed_s = datetime.now(UTC), time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self._screen.say(f"killed process {pid} ({PROGRAM}) with SIGKILL in the middle of the training")
        return killed_at, killed_s

    def _tell_fault(self, killed_at: datetime, noticed_s: float) -> None:
        """Say what the platform found out, while the retry is under way."""
        told = self._client.get(f"/v1/jobs/{self.id}/explain")
        attempt = self.job["attempts"][0]
        ended = [f"exit code {attempt['exit_code']}"] if attempt["exit_code"] is not None else []
        ended += [f"signal {attempt['signal']}"] if attempt["signal"] is not None else []
        after_s = (moment(attempt["finished_at"]) - killed_at).total_seconds()
        hold(attempt["state"] != "COMPLETED", "attempt 1 to have failed", attempt["state"])
        # Kubernetes tells whole seconds, cut off: that may lie before the kill.
        ended_at = f"{after_s:.3f} s after the kill" if after_s >= 0 else "in the second of the kill"
        self._screen.held(
            f"noticed: attempt 1 is {attempt['state']} ({', '.join([attempt['reason'], *ended])}); it ended "
            f"{ended_at}, and the platform showed it after {noticed_s:.3f} s"
        )
        hold(bool(told["evidence"]), "the platform to give its evidence", "none", told["text"])
        self._screen.held("explained, with evidence:")
        self._screen.quote(told["text"])

    def _check_epochs(self, first: Output, second: Output) -> int:
        """Compare both attempts with the checkpoint between them; return how many epochs were lost."""
        resumed_from = self.job["attempts"][1]["resume_from"] or ""
        named = _CHECKPOINT.search(resumed_from)
        hold(named is not None, "attempt 2 to name the checkpoint it went on from", resumed_from or "none")
        assert named is not None
        saved, last = int(named[1]), first.epochs[-1].number
        numbers = [one.number for one in second.epochs]
        wanted = list(range(saved + 1, self.epochs + 1))
        hold(numbers == wanted, f"attempt 2 to train epochs {_span(wanted)}, each once", _span(numbers))
        lost = max(0, last - saved)
        trained = [one.number for one in first.epochs]
        repeated = sorted(set(trained) & set(numbers))
        hold(len(repeated) == lost, "no epoch repeated that the checkpoint held", f"epochs {repeated} in both attempts")
        self._check_metrics(saved)
        self._screen.held(
            f"resumed from the checkpoint of epoch {saved}: attempt 1 trained {_span(trained)}, attempt 2 "
            f"{_span(numbers)}; epochs lost: {lost}"
        )
        return lost

    def _check_metrics(self, saved: int) -> None:
        """The platform's own record of the figures must tell the same."""

        def look() -> list[dict[str, Any]]:
            query = {"name": "epoch", "max_points": 2 * self.epochs + 2}
            series = self._client.get(f"/v1/jobs/{self.id}/metrics", **query)["series"]
            return list(series[0]["points"]) if series else []

        points = until(
            f"the metrics of the job to hold epoch {self.epochs}", look,
            lambda found: bool(found) and found[-1]["value"] == self.epochs, for_s=10,
            tell=lambda found: str(found[-1:]),
        )  # fmt: skip
        again = [p["value"] for p in points if p["attempt"] == 2 and p["value"] <= saved]
        hold(not again, f"no epoch up to {saved} among the metrics of attempt 2", again)

    def _check_end(self) -> None:
        hold(self.job["state"] == "COMPLETED", "the job COMPLETED", self._told(), self._explained())
        took_s = seconds_between(self.job["attempts"][0]["started_at"], self.job["finished_at"])
        self._screen.held(
            f"the job COMPLETED with attempt {len(self.job['attempts'])}, {took_s:.1f} s after it started"
        )

    def _look(self) -> dict[str, Any]:
        self.job = self._client.get(f"/v1/jobs/{self.id}")
        return self.job

    def _wait_for(
        self, expected: str, is_so: Callable[[dict[str, Any]], bool], *, for_s: float, every_s: float = 0.05
    ) -> None:
        def look() -> dict[str, Any]:
            job = self._look()
            if job["state"] in ENDED and not is_so(job):
                raise NotHeld(expected, self._told(), self._explained())
            return job

        until(expected, look, is_so, for_s=for_s, every_s=every_s, tell=lambda _: self._told())

    def _told(self) -> str:
        return f"{self.job['state']} ({self.job['reason']}): {self.job['sentence']}"

    def _explained(self) -> str:
        return str(self._client.get(f"/v1/jobs/{self.id}/explain")["text"])


def _second_runs(job: dict[str, Any]) -> bool:
    return len(job["attempts"]) > 1 and job["attempts"][1]["started_at"] is not None


def _gpu_with_room(pool: dict[str, Any]) -> dict[str, Any] | None:
    """Return a kind of real device of which a slice is free."""
    kinds = [kind for kind in pool["devices"] if not kind["simulated"]]
    return next((kind for kind in kinds if kind["gpu_milli"]["free"] >= GPU_FRACTION_MILLI), None)


def _slice(row: dict[str, Any]) -> str:
    if row["device"] is not None:
        memory = format_bytes(row["device_memory_bytes"])
        return f"{row['gpu_milli']}/1000 of {row['vendor']} {row['model']} {row['device']}, {memory}"
    return f"{format_milli(row['cpu_milli'])} core(s), {format_bytes(row['memory_bytes'])} of memory"


def _figures(epoch: Epoch) -> str:
    return f"loss {epoch.loss}  accuracy {epoch.accuracy}"


def _span(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
