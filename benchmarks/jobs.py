"""Jobs on an idle platform: submit to RUNNING, start to ready, idle memory, 1,000 jobs of `true` against tuned Slurm.

    python benchmarks/jobs.py [--singles 200] [--jobs 1000] [--idle-s 30] [--no-slurm] [--only latency|throughput]

Slurm runs on this machine too, not at the same time: munge, slurmctld and slurmd of a scratch folder, loopback ports,
with one node that claims 64 CPUs, as that is where it is fastest: with as many CPUs as the machine has cores (2) it
completed 2.5 jobs a second. Ours run one a core, which is what a job gets that says nothing, and many at once, which is
what a job gets that asks for little. `one call` is a batch of ours and an array of Slurm's.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from _bench import (
    Missing,
    Platform,
    cpu_seconds,
    machine,
    memory_mb,
    met,
    quantile,
    running_platform,
    say,
    say_machine,
    scratch,
)
from peers.slurm import Slurm

CORES = len(os.sched_getaffinity(0))
WIDE = 16
"""Jobs at once for each core where a job asks for little."""
MEMORY = "64MiB"
SLURM_CPUS = 64
FORMS = ("one call", "one by one")


@dataclass(frozen=True, slots=True)
class Load:
    """A thousand jobs in one form, and how many were done each second."""

    what: str
    at_once: int
    submitted_s: float
    done_s: float
    jobs: int

    @property
    def rate(self) -> float:
        """Return jobs completed per second, from the first submission to the last end known."""
        return self.jobs / self.done_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--no-slurm", action="store_true")
    parser.add_argument("--only", choices=("latency", "throughput"))
    args = parser.parse_args()
    print(machine())
    if args.only != "throughput":
        with scratch("idle") as home, running_platform(home / "h") as platform:
            measure_idle(platform, args.idle_s)
            measure_latency(platform, args.singles)
    if args.only != "latency":
        measure_throughput(args.jobs, slurm=not args.no_slurm)
    say_machine("make bench B=jobs")


def measure_idle(platform: Platform, idle_s: float) -> None:
    """Start to ready, and what a platform with nothing to do needs."""
    time.sleep(5)
    before = cpu_seconds(platform.process.pid)
    time.sleep(idle_s)
    used = (cpu_seconds(platform.process.pid) - before) / idle_s
    platform.wait(platform.submit(name="one", run="true"), lambda job: job["finished_at"] is not None, every_s=0.05)
    memory = [memory_mb(pid) for pid in platform.processes()]
    rss, pss = memory[0][0], sum(one[1] for one in memory)
    say(
        f"The platform at rest (after {idle_s:g} s without work, and one job so that its helper is there)",
        ["figure", "measured", "target", "met"],
        [
            ["start to ready", f"{platform.ready_s:.2f} s", "<= 3 s", met(platform.ready_s <= 3)],
            ["memory of the process (RSS)", f"{rss:.0f} MB", "<= 250 MB", met(rss <= 250)],
            [f"memory with its {len(memory) - 1} helper (PSS)", f"{pss:.0f} MB", "<= 250 MB", met(pss <= 250)],
            ["CPU at rest", f"{used * 100:.1f} % of a core", "", ""],
        ],
    )


def measure_latency(platform: Platform, count: int) -> None:
    """One job after another on an idle machine."""
    started, shown = [], []
    for _ in range(count):
        sent_wall, sent = time.time(), time.perf_counter()
        job_id = platform.submit(name="single", run="sleep 0.1")
        platform.wait(job_id, lambda job: job["state"] != "PENDING", every_s=0.003)
        shown.append(time.perf_counter() - sent)
        job = platform.wait(job_id, lambda job: job["finished_at"] is not None, every_s=0.02)
        assert job["state"] == "COMPLETED", job
        started.append(datetime.fromisoformat(job["attempts"][0]["started_at"]).timestamp() - sent_wall)
        time.sleep(0.05)
    rows: list[list[Any]] = []
    for what, values in (("until the attempt started", started), ("until the API shows RUNNING", shown)):
        middle, late = quantile(values, 0.5), quantile(values, 0.99)
        rows.append([
            what, len(values), f"{middle * 1000:.0f} ms", f"{late * 1000:.0f} ms", f"{max(values) * 1000:.0f} ms",
            met(middle <= 0.5 and late <= 1.5),
        ])  # fmt: skip
    say(
        "Submit to RUNNING, one job at a time, from sending the POST (target p50 <= 500 ms, p99 <= 1500 ms)",
        ["", "n", "p50", "p99", "max", "met"],
        rows,
    )


def measure_throughput(count: int, *, slurm: bool) -> None:
    """A thousand jobs of `true`, ours and Slurm's."""
    wide = {"resources": {"cpu": f"{1000 // WIDE}m", "memory": MEMORY}}
    ours: dict[tuple[int, str], Load] = {}
    theirs: dict[str, Load] = {}
    for at_once, asks in ((CORES, {}), (CORES * WIDE, wide)):
        with scratch("jobs") as home, running_platform(home / "h") as platform:
            for form in FORMS:
                ours[at_once, form] = _ours(platform, count, form, at_once, asks)
    peer = ""
    if slurm:
        try:
            with scratch("slurm") as folder, Slurm(folder, cpus=SLURM_CPUS) as cluster:
                peer = cluster.version
                for form in FORMS:
                    theirs[form] = _theirs(cluster, count, form)
        except Missing as why:
            print(f"\nSlurm is not compared: {why}")
    rows: list[list[Any]] = []
    for (at_once, form), load in ours.items():
        of_theirs = load.rate / theirs[form].rate if theirs else None
        rows.append([
            "Dujiang", at_once, form, *_cells(load), "" if of_theirs is None else f"{of_theirs:.2f}x",
            "" if of_theirs is None else met(of_theirs >= 1),
        ])  # fmt: skip
    rows += [[peer, load.at_once, form, *_cells(load), "", ""] for form, load in theirs.items()]
    say(
        f"{count} jobs of `true` from one client, each way once (floor: Slurm's of the same form; aim: 3x)",
        ["", "at once", "submitted", "last submitted after", "all done after", "jobs/s", "of Slurm's", "floor met"],
        rows,
    )


def _cells(load: Load) -> tuple[str, str, str]:
    return f"{load.submitted_s:.2f} s", f"{load.done_s:.2f} s", f"{load.rate:.1f}"


def _ours(platform: Platform, count: int, form: str, at_once: int, asks: dict[str, Any]) -> Load:
    spec = {"name": f"true-{form.replace(' ', '-')}", "run": "true", **asks}
    begun = time.perf_counter()
    if form == "one call":
        platform.post("/v1/jobs/batch", {"specs": [spec] * count})
    else:
        for _ in range(count):
            platform.submit(**spec)
    submitted_s = time.perf_counter() - begun
    while platform.get("/v1/jobs", limit=1)["items"]:
        time.sleep(0.05)
    done_s = time.perf_counter() - begun
    _check_all_completed(platform, spec["name"], count)
    return _told(Load(form, at_once, submitted_s, done_s, count))


def _check_all_completed(platform: Platform, name: str, count: int) -> None:
    seen, cursor = 0, None
    while True:
        page = platform.get("/v1/jobs", all=True, name=name, limit=500, **({"cursor": cursor} if cursor else {}))
        bad = [job for job in page["items"] if job["state"] != "COMPLETED" or len(job["attempts"]) != 1]
        if bad:
            raise SystemExit(f"{len(bad)} jobs did not complete at once, the first: {bad[0]}")
        seen, cursor = seen + len(page["items"]), page["next_cursor"]
        if cursor is None:
            break
    if seen != count:
        raise SystemExit(f"{seen} of {count} jobs are there.")


def _told(load: Load) -> Load:
    print(f"... {load.what}, {load.at_once} at once: {load.rate:.1f} jobs/s", file=sys.stderr)
    return load


def _theirs(slurm: Slurm, count: int, form: str) -> Load:
    begun = time.perf_counter()
    if form == "one call":
        slurm.submit_array(count)
    else:
        for _ in range(count):
            slurm.submit()
    submitted_s = time.perf_counter() - begun
    while slurm.has_jobs():
        time.sleep(0.05)
    done_s = time.perf_counter() - begun
    slurm.check_all_completed(count)
    return _told(Load(f"Slurm, {form}", SLURM_CPUS, submitted_s, done_s, count))


if __name__ == "__main__":
    main()
