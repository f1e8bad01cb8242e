"""What people do with a platform that is a real process: submit, look, wait for an end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dujiang.jobs.domain import TERMINAL
from tests.chaos.process import PlatformProcess, until

WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Acting:
    """A person at a platform."""

    platform: PlatformProcess
    folder: Path
    """Where the files of jobs are."""
    usual: Mapping[str, Any]
    """Fields of every job that says nothing else."""

    def submit(self, name: str, run: str, **fields: Any) -> str:
        """Submit a job by the command; return its id."""
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({**self.usual, "name": name, "run": run, **fields}))
        said = self.platform.run("submit", str(path), "--json")
        assert said.code == 0, said.err
        return str(said.json[0]["id"])

    def show(self, job: str) -> dict[str, Any]:
        """Return a job as it is now."""
        with self.platform.client() as client:
            return dict(client.get(f"/v1/jobs/{job}"))

    def when(self, job: str, *states: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait until a job is in one of these states, any that is its end when none is named; return it."""
        wanted = states or tuple(TERMINAL)

        def look() -> dict[str, Any] | None:
            found = self.show(job)
            assert found["state"] in wanted or found["state"] not in TERMINAL, found
            return found if found["state"] in wanted else None

        return dict(until(look, within_s, f"{job} is {' or '.join(wanted)}"))

    def printed(self, job: str, *more: str) -> list[str]:
        """Return the lines that a job has written."""
        return self.platform.run("logs", job, *more).out.splitlines()

    def says(self, job: str, line: str) -> None:
        """Wait until a job has written a line."""
        until(lambda: line in self.printed(job), WITHIN_S, f"{job} writes {line!r}")

    def clusters(self) -> dict[str, dict[str, Any]]:
        """Return how each cluster stands."""
        return {one["name"]: one for one in self.platform.run("clusters", "--json").json}

    def away(self) -> dict[str, str]:
        """Return the clusters that do not answer, and why."""
        return {name: one["reason"] for name, one in self.clusters().items() if not one["reachable"]}
