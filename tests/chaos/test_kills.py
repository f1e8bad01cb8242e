"""Kills the platform again and again with SIGKILL while real jobs run, and compares what it says with what they did.

Each job writes a line at its begin and at its end into one file, appended whole: that file is the truth. `CHAOS_SEED`
chooses another story.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from dujiang.client import persist
from tests.chaos.process import PlatformProcess, document, until

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SEED: Final = int(os.environ.get("CHAOS_SEED") or 7)
JOBS: Final = 200
KILLS: Final = 30
CALM_S: Final = 180.0
"""How long all jobs may take to end once the killing is over."""
TERMINAL: Final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


@dataclass(frozen=True, slots=True)
class Work:
    """A job, and how it must end."""

    name: str
    document: dict[str, Any]
    states: frozenset[str]
    exit_code: int | None
    signal: int | None = None
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Line:
    """What a job wrote down itself."""

    what: str
    job: str
    attempt: int


def test_two_hundred_jobs_through_thirty_kills_end_once_each_as_they_really_did(
    make_platform: Callable[..., PlatformProcess], tmp_path: Path
) -> None:
    print(f"CHAOS_SEED={SEED}")  # noqa: T201  shown with the failure: the story can be told again
    rng = random.Random(SEED)
    witness = tmp_path / "witness"
    works = [_work(rng, number, witness) for number in range(JOBS)]
    platform = make_platform()
    platform.start()
    ids: dict[str, str] = {}
    calm = threading.Event()
    errors: list[BaseException] = []
    driver = threading.Thread(target=_submit, args=(platform, works, ids, calm, errors, random.Random(SEED + 1)))
    driver.start()
    try:
        _kill_often(platform, rng)
    finally:
        calm.set()
    driver.join(CALM_S)
    assert not errors, errors
    assert len(ids) == JOBS
    until(lambda: all(job["state"] in TERMINAL for job in platform.jobs()), CALM_S, "every job has ended")
    jobs = {job["name"]: job for job in platform.jobs()}
    assert {name: job["id"] for name, job in jobs.items()} == ids, "lost, or taken twice"
    lines = _read(witness)
    _check_overlap(lines)
    for work in works:
        _check(work, jobs[work.name], [line for line in lines if line.job == ids[work.name]])
    _check_platform(platform)


def _work(rng: random.Random, number: int, witness: Path) -> Work:
    name = f"w{number:03}"
    begin = f'echo "begin $DUJIANG_JOB_ID $DUJIANG_ATTEMPT" >> {witness}\n'
    end = f'echo "end $DUJIANG_JOB_ID $DUJIANG_ATTEMPT" >> {witness}\n'
    body = f"{begin}sleep {rng.choice((0, 0.1, 0.3, 0.6, 1.0, 2.0))}\n{end}"
    match rng.randrange(8):
        case 0:
            code = rng.choice((1, 2, 3, 77))
            return Work(name, document(name, f"{body}exit {code}", retry={"limit": 0}), frozenset({"FAILED"}), code)
        case 1:
            retries = rng.choice((0, 1))
            killed = document(name, f"{body}kill -9 $$", retry={"limit": retries})
            return Work(name, killed, frozenset({"FAILED"}), None, 9, attempts=retries + 1)
        case 2:
            broken = document(name, f"{body}kill -SEGV $$", retry={"limit": 0})
            return Work(name, broken, frozenset({"FAILED"}), None, 11)
        case 3:
            limited = document(name, f"{begin}exec sleep 60", time_limit=1, grace="1s", retry={"limit": 0})
            return Work(name, limited, frozenset({"TIMEOUT"}), None, 15)
        case 4:
            gang = document(name, f'[ "$RANK" = 0 ] || exec sleep 0.2\n{body}', nodes=2)
            return Work(name, gang, frozenset({"COMPLETED"}), 0)
        case _:
            return Work(name, document(name, body), frozenset({"COMPLETED"}), 0)


def _submit(
    platform: PlatformProcess, works: list[Work], ids: dict[str, str], calm: threading.Event,
    errors: list[BaseException], rng: random.Random,
) -> None:  # fmt: skip
    """Submit all of them, over as long a time as the killing takes; each with a key, so that it may be sent again."""
    try:
        with platform.client(timeout_s=10.0) as client:
            for work in works:
                if not calm.is_set():
                    calm.wait(rng.uniform(0, 0.8))
                body = {"spec": work.document}
                made = persist(lambda body=body, key=work.name: client.post("/v1/jobs", body, key=key), for_s=120.0)
                ids[work.name] = made["id"]
    except BaseException as error:  # told by the test's own thread
        errors.append(error)


def _kill_often(platform: PlatformProcess, rng: random.Random) -> None:
    """Kill it at random moments, some of them before it is ready."""
    for _ in range(KILLS):
        if rng.random() < 0.7:
            platform.wait_ready()
            time.sleep(rng.uniform(0, 3.0))
        else:
            time.sleep(rng.uniform(0.1, 2.5))
        platform.kill()
        platform.start(wait=False)
    platform.wait_ready()


def _read(witness: Path) -> list[Line]:
    lines = []
    for text in witness.read_text().splitlines():
        what, job, attempt = text.split(" ")
        lines.append(Line(what, job, int(attempt)))
    return lines


def _check_overlap(lines: list[Line]) -> None:
    """No program began twice, and none began while another attempt of its job had not come to its end."""
    begun = [(line.job, line.attempt) for line in lines if line.what == "begin"]
    assert len(begun) == len(set(begun)), "an attempt ran twice"
    open_now: dict[str, int] = {}
    for line in lines:
        if line.what == "begin":
            assert line.job not in open_now, f"attempts {open_now[line.job]} and {line.attempt} of {line.job} overlap"
            open_now[line.job] = line.attempt
        else:
            assert open_now.pop(line.job, None) == line.attempt


def _check(work: Work, job: dict[str, Any], lines: list[Line]) -> None:
    about = (work, job["state"], job["reason"], job["attempts"], lines)
    assert job["state"] in work.states, about
    assert (job["exit_code"], job["signal"]) == (work.exit_code, work.signal), about
    assert len(job["attempts"]) == work.attempts, about
    assert [line.attempt for line in lines if line.what == "begin"] == list(range(1, work.attempts + 1)), about
    for number, attempt in enumerate(job["attempts"], 1):
        assert attempt["number"] == number, about
        assert (attempt["exit_code"], attempt["signal"]) == (work.exit_code, work.signal), about


def _check_platform(platform: PlatformProcess) -> None:
    proof = platform.run("verify", "--json")
    assert proof.code == 0, proof.out
    assert all(check["holds"] for check in proof.json["checks"]), proof.out
    (ledger,) = [check for check in proof.json["checks"] if check["name"] == "ledger"]
    assert ledger["count"] >= JOBS
    assert platform.stop() == 0
    assert until(lambda: not platform.processes(), 10.0, "nothing of it runs")
    assert not platform.tracebacks()
