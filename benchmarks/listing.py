"""10,000 jobs in the database: list, filter and show over HTTP, on SQLite, while the platform's loops run.

    python benchmarks/listing.py [--jobs 10000] [--calls 200]

The jobs are written through the store, with attempts, in five projects and forty names; most have ended, and 200 wait
for a retry that is hours away, so that nothing starts while it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from _bench import Platform, machine, met, quantile, running_platform, say, say_machine, scratch
from dujiang.engines.contract import RankPlacement
from dujiang.jobs import store
from dujiang.jobs.diagnosis import Blame, Diagnosis
from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.spec import read
from dujiang.kit.clock import SystemClock
from dujiang.kit.db import Database
from dujiang.kit.ids import Ids

NAMES = 40
SHARES = {JobState.COMPLETED: 0.85, JobState.FAILED: 0.10, JobState.CANCELLED: 0.03, JobState.PENDING: 0.02}
TARGET_S = 0.05


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=200)
    args = parser.parse_args()
    print(machine())
    with scratch("listing") as folder, running_platform(folder / "home") as platform:
        projects = [platform.post("/v1/projects", {"name": f"team-{n}"})["id"] for n in range(5)]
        user = platform.get("/v1/me")["user"]["id"]
        ids = asyncio.run(fill(folder / "home" / "dujiang.db", projects, user, args.jobs))
        rows = measure(platform, ids, args.calls)
        size = (folder / "home" / "dujiang.db").stat().st_size / 1e6
    say(
        f"{args.jobs:,} jobs in SQLite ({size:.0f} MB), one client",
        ["", "n", "p50", "p99", "max", "target p99", "met"],
        rows,
    )
    say_machine("make bench B=listing")


def measure(platform: Platform, ids: list[str], calls: int) -> list[list[Any]]:
    """Make each call so often, in turn with the others."""
    rng = np.random.default_rng(5)
    deep = platform.get("/v1/jobs", all=True, limit=500)["next_cursor"]
    assert deep is not None
    questions: dict[str, tuple[str, dict[str, Any]]] = {
        "list, 50 a page": ("/v1/jobs", {"all": True, "limit": 50}),
        "list, 500 a page": ("/v1/jobs", {"all": True, "limit": 500}),
        "list, 50 a page, a later one": ("/v1/jobs", {"all": True, "limit": 50, "cursor": deep}),
        "those that have not ended": ("/v1/jobs", {"limit": 50}),
        "filter by state": ("/v1/jobs", {"state": "FAILED", "limit": 50}),
        "filter by project": ("/v1/jobs", {"all": True, "project": "team-3", "limit": 50}),
        "filter by name": ("/v1/jobs", {"all": True, "name": "train-7", "limit": 50}),
        "filter by project, state and name": (
            "/v1/jobs", {"state": "FAILED", "project": "team-3", "name": "train-7", "limit": 50},
        ),
        "show": ("/v1/jobs/ID", {}),
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in questions}
    for call in range(-5, calls):
        for name, (path, query) in questions.items():
            path = path.replace("ID", ids[int(rng.integers(len(ids)))])
            begun = time.perf_counter()
            answer = platform.http.get(path, params=query)
            taken_s = time.perf_counter() - begun
            assert answer.status_code == 200, answer.text
            if call < 0:
                assert answer.json().get("items", [1]), name
            else:
                taken[name].append(taken_s)
    return [
        [
            name, len(values), *(f"{value * 1000:.1f} ms" for value in (quantile(values, 0.5), late, max(values))),
            "<= 50 ms", met(late <= TARGET_S),
        ]
        for name, values in taken.items()
        for late in (quantile(values, 0.99),)
    ]  # fmt: skip


async def fill(file: Path, projects: list[str], user: str, count: int) -> list[str]:
    """Write the jobs beside the running platform."""
    rng, clock = np.random.default_rng(3), SystemClock()
    db, new = Database(f"sqlite+aiosqlite:///{file}", clock=clock, journal_key=b""), Ids(clock, rng)
    states = rng.choice(list(SHARES), size=count, p=list(SHARES.values()))
    made = []
    for number in range(count):
        spec = read({
            "name": f"train-{number % NAMES}", "run": f"python train.py --seed {number}", "env": {"SEED": str(number)},
            "resources": {"cpu": 2, "memory": "4GiB"}, "labels": {"sweep": str(number // 100)},
        })  # fmt: skip
        project = projects[int(rng.integers(len(projects)))]
        made.append(_job(new.new("job"), spec, project, user, JobState(states[number])))
    for start in range(0, count, 1000):
        part = made[start : start + 1000]
        async with db.transaction() as tx:
            await store.insert_jobs(tx, part, {})
            await store.insert_attempts(tx, [_attempt(job) for job in part if job.attempt])
    await db.close()
    return [job.id for job in made]


def _job(id: str, spec: Any, project: str, user: str, state: JobState) -> Job:
    now = datetime.now(UTC)
    begun, ended = now - timedelta(hours=2), now - timedelta(hours=1)
    job = Job(
        id=id, project_id=project, name=spec.name, spec=spec, state=state, reason="Completed", sentence="",
        submitted_by=user, created_at=begun, queued_at=begun, labels=spec.labels, attempt=1, started_at=begun,
    )  # fmt: skip
    if state is JobState.PENDING:
        return replace(job, reason="Retrying", retries=1, not_before=now + timedelta(hours=9))
    return replace(
        job, waits=False, finished_at=ended, exit_code=0 if state is JobState.COMPLETED else 1,
        reason="Completed" if state is JobState.COMPLETED else "UserError",
    )  # fmt: skip


def _attempt(job: Job) -> Attempt:
    state = JobState.FAILED if job.state is JobState.PENDING else job.state
    found = Diagnosis(
        cause=job.reason, blame=Blame.USER, confidence=0.9, retryable=False,
        sentence="The program ended with exit code 1.", advice="Read its last lines with `dujiang logs`.",
    )  # fmt: skip
    return Attempt(
        job_id=job.id, number=1, project_id=job.project_id, state=state, reason=job.reason, cluster="local",
        ranks=(RankPlacement(0, "node-1", 2000, 4 << 30),), created_at=job.created_at, started_at=job.started_at,
        finished_at=job.finished_at or job.created_at, exit_code=job.exit_code, figures_complete=True,
        diagnosis=None if job.state is JobState.COMPLETED else found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
