"""One platform for all tests of the session, and what they ask of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.process import PlatformProcess, until

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
WITHIN_S = 150.0


@dataclass(slots=True)
class Desk:
    """A platform, and a folder for what is handed in to it."""

    platform: PlatformProcess
    folder: Path

    def submit(self, name: str, run: str, **fields: Any) -> str:
        """Hand a job in; return its id. Each node gets little of the machine unless resources are given."""
        document = {"name": name, "run": run, "resources": {"cpu": 0.25, "memory": "1GiB"}, "grace": "5s", **fields}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        said = self.platform.run("submit", str(path), "--json")
        assert said.code == 0, said.err
        (job,) = [one for one in self.platform.jobs() if one["name"] == name]
        return str(job["id"])

    def job(self, ident: str) -> dict[str, Any]:
        """Return a job as the API shows it."""
        with self.platform.client() as client:
            found: dict[str, Any] = client.get(f"/v1/jobs/{ident}")
            return found

    def ended(self, ident: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait for a job's end; return it as it is then."""
        until(lambda: self.job(ident)["state"] in ENDED, within_s, f"the job ends; {self.job(ident)}")
        return self.job(ident)

    def completed(self, ident: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """Wait for a job's end, which must be a good one."""
        job = self.ended(ident, within_s)
        assert job["state"] == "COMPLETED", (job["reason"], job["sentence"], self.said(ident))
        return job

    def said(self, ident: str, *, rank: int = 0, attempt: int | None = None) -> str:
        """Return what a rank of a job has written."""
        which = ["--attempt", str(attempt)] if attempt else []
        return self.platform.run("logs", ident, "--rank", str(rank), *which).out


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A platform with the local engine."""
    with a_desk(tmp_path_factory.mktemp("desk")) as desk:
        yield desk


@contextmanager
def a_desk(folder: Path, settings: str = "") -> Iterator[Desk]:
    """Start a platform in a folder; leave nothing running behind."""
    platform = PlatformProcess(folder / "home")
    (platform.home / "dujiang.toml").write_text(settings)
    platform.start()
    try:
        yield Desk(platform, folder)
        assert platform.tracebacks() == []
    finally:
        _end_all(platform)
        platform.stop()


def _end_all(platform: PlatformProcess) -> None:
    """Leave nothing running behind, which jobs would be after the platform's end."""
    for job in platform.jobs():
        if job["state"] not in ENDED:
            platform.run("cancel", job["id"])
    until(lambda: all(job["state"] in ENDED for job in platform.jobs()), 30, "all jobs end")


def programs(ident: str, script: str, **variables: str) -> list[int]:
    """Return the processes of a job that run a script themselves, with these values in their environment."""
    wanted = {f"DUJIANG_JOB_ID={ident}", *(f"{name}={value}" for name, value in variables.items())}
    found: list[int] = []
    for entry in os.listdir("/proc"):
        try:
            inside = set(Path(f"/proc/{entry}/environ").read_text(errors="replace").split("\0"))
            words = Path(f"/proc/{entry}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if wanted <= inside and "python" in words[0] and any(word.endswith(script) for word in words[1:2]):
            found.append(int(entry))
    return found
