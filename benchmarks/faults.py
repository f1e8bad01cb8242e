"""A training job is killed with SIGKILL: how soon the platform knows, and how soon the next attempt runs.

    python benchmarks/faults.py [--kills 20]

The program counts steps, saves each tenth and says so on its output; the next attempt goes on from what was saved.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from _bench import Platform, machine, met, quantile, running_platform, say, say_machine, scratch

PROGRAM = """\
import os, time, pathlib
folder, witness = pathlib.Path(os.environ["DUJIANG_CHECKPOINT_DIR"]), os.environ["WITNESS"]
step = int(pathlib.Path(resume).read_text()) if (resume := os.environ.get("DUJIANG_RESUME_FROM")) else 0
steps = os.open(f"{witness}.{os.environ['DUJIANG_ATTEMPT']}", os.O_CREAT | os.O_WRONLY)
os.write(steps, b"%010d %010d %010d" % (os.getpid(), step, step))
while True:
    time.sleep(0.01)
    step += 1
    os.pwrite(steps, b"%010d" % step, 22)
    if step % 10 == 0:
        draft = folder / "draft.tmp"
        draft.write_text(str(step))
        draft.replace(folder / f"step-{step:06d}.ckpt")
        print(f"step={step} loss={1 / step:.5f}", flush=True)
"""
"""Its witness holds: process number, the step it began from, the last step done."""
WHAT = {
    "known": ("until the API shows the end, with its cause", 1.0),
    "started": ("until the next attempt's program is started", 5.0),
    "runs": ("until the API shows the next attempt RUNNING", 5.0),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    print(machine())
    with scratch("faults") as folder, running_platform(folder / "home") as platform:
        (folder / "train.py").write_text(PROGRAM)
        found = [_kill_one(platform, folder, number) for number in range(args.kills)]
    rows: list[list[Any]] = []
    for name, (what, limit_s) in WHAT.items():
        values = [one[name] for one in found]
        rows.append([
            what, len(values), f"{quantile(values, 0.5) * 1000:.0f} ms", f"{quantile(values, 0.95) * 1000:.0f} ms",
            f"{max(values) * 1000:.0f} ms", f"<= {limit_s:g} s", met(max(values) <= limit_s),
        ])  # fmt: skip
    lost = [one["lost"] for one in found]
    rows.append([
        "steps done again (a tenth is saved)", len(lost), f"{quantile(lost, 0.5):.0f}", f"{quantile(lost, 0.95):.0f}",
        f"{max(lost):.0f}", "< 10", met(max(lost) < 10),
    ])  # fmt: skip
    say("From the kill of a running program", ["", "n", "p50", "p95", "max", "target", "met"], rows)
    say_machine("make bench B=faults")


def _kill_one(platform: Platform, folder: Path, number: int) -> dict[str, float]:
    witness = folder / f"witness-{number}"
    job_id = platform.submit(
        name="train", run=f"exec python {folder}/train.py", env={"WITNESS": str(witness)}, checkpoint={}
    )
    platform.wait(job_id, lambda job: job["state"] == "RUNNING" and _read(witness, 1) is not None, every_s=0.01)
    time.sleep(0.5 + 0.013 * (number % 7))
    pid = _witnessed(witness, 1)[0]
    wall, begun = time.time(), time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    platform.wait(job_id, lambda job: job["attempts"][0]["finished_at"] is not None, every_s=0.003)
    known_s = time.perf_counter() - begun
    job = platform.wait(
        job_id, lambda job: len(job["attempts"]) == 2 and job["attempts"][1]["state"] == "RUNNING", every_s=0.003
    )
    runs_s = time.perf_counter() - begun
    first, second = job["attempts"]
    assert first["signal"] == signal.SIGKILL, first
    assert first["diagnosis"]["cause"], first
    while _read(witness, 2) is None:
        time.sleep(0.01)
    lost = _witnessed(witness, 1)[2] - _witnessed(witness, 2)[1]
    platform.post(f"/v1/jobs/{job_id}/cancel", {})
    platform.wait(job_id, lambda job: job["finished_at"] is not None, every_s=0.02)
    started_s = datetime.fromisoformat(second["started_at"]).timestamp() - wall
    return {"known": known_s, "started": started_s, "runs": runs_s, "lost": lost}


def _witnessed(witness: Path, attempt: int) -> tuple[int, int, int]:
    found = _read(witness, attempt)
    assert found is not None, "the attempt left no witness"
    return found


def _read(witness: Path, attempt: int) -> tuple[int, int, int] | None:
    path = Path(f"{witness}.{attempt}")
    words = path.read_text().split() if path.exists() else []
    return (int(words[0]), int(words[1]), int(words[2])) if len(words) == 3 else None


if __name__ == "__main__":
    main()
