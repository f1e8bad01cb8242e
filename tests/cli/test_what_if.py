"""`dujiang simulate what-if`, `simulate queue --policy live`, `dujiang ledger export`: small clusters made by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dujiang.scheduling.domain import snapshot_of_rows
from dujiang.scheduling.domain.saved import dump
from tests.cli.conftest import Run
from tests.cli.standin import StandIn
from tests.scheduling.building import NOW, a_fleet, a_job, holding

JOBS = "job,submit_s,duration_s,num_gpus,vc\na,0,10,1,x\nb,1,10,2,x\nc,2,5,1,y\n"
LEDGER = (
    "job,project,class,submit,start,end,ranks,gpu_milli,cpu_milli,memory_bytes\n"
    "a.1,p,normal,2026-01-01T00:00:00+00:00,2026-01-01T00:00:00+00:00,2026-01-01T00:10:00+00:00,1,2000,1000,1\n"
    "b.1,p,low,2026-01-01T00:01:00+00:00,2026-01-01T00:10:00+00:00,2026-01-01T00:20:00+00:00,2,1000,0,0\n"
    "c.1,q,core,2026-01-01T00:02:00+00:00,2026-01-01T00:20:00+00:00,2026-01-01T00:20:30+00:00,1,500,,\n"
)


@pytest.fixture
def jobs(tmp_path: Path) -> str:
    path = tmp_path / "jobs.csv"
    path.write_text(JOBS)
    return str(path)


@pytest.fixture
def then(tmp_path: Path) -> str:
    """Four devices that are held for 600 s, and three jobs of two devices and 300 s that wait."""
    held = [holding("job_held", "n0", devices=(0, 1, 2, 3), ends_in_s=600, may_stop=True)]
    waiting = [a_job(f"job_w{at}", gpu=2, runs_at_most_s=300, after_s=-10 + at) for at in range(3)]
    path = tmp_path / "then.json.gz"
    path.write_bytes(gzip.compress(dump(snapshot_of_rows(a_fleet(1, 4), holdings=held, requests=waiting), NOW)))
    return str(path)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    path = tmp_path / "ledger.csv"
    path.write_text(LEDGER)
    return str(path)


# -- the queue under the live policy


def test_the_live_policy_has_the_fields_of_the_others(run: Run, jobs: str, tmp_path: Path) -> None:
    words = ("simulate", "queue", "--jobs", jobs, "--nodes", "1", "--gpus-per-node", "2")
    page = tmp_path / "page.html"
    policies = ("--policy", "fifo", "--policy", "live", "--policy", "live-limits")
    code, out, err = run(*words, *policies, "--json", "--report", str(page))
    assert (code, err) == (0, f"The report is in {page}.\n")
    fifo, live, limits = json.loads(out)["policies"]
    assert fifo.keys() ^ live.keys() == {"plans", "fragments"}
    assert live["queueing_s"] == fifo["queueing_s"] == {"average": 9.0, "p50": 9.0, "p99": 17.82, "max": 18}
    assert (live["knows_run_times"], limits["knows_run_times"]) == (False, True)
    assert limits["queueing_s"]["average"] == 3.0  # `c` runs beside `a` and is over before `b` can start
    text = page.read_text()
    assert text.count("<svg") >= 5
    assert "could not use" in text
    code, out, _ = run(*words, "--policy", "live", "--limit", "1", "--json")
    assert json.loads(out)["jobs"] == 1


def test_gangs_that_do_not_fit_on_a_node(run: Run, jobs: str) -> None:
    words = ("simulate", "queue", "--jobs", jobs, "--nodes", "2", "--gpus-per-node", "1", "--policy", "live")
    assert run(*words, "--gangs", "any")[0] == 0
    code, _, err = run(*words, "--gangs", "some")
    assert (code, err) == (2, "Error: --gangs some: choose one of node, any.\n")


# -- what if


def test_more_nodes_on_a_snapshot(run: Run, then: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("simulate", "what-if", "--snapshot", then, "--add-nodes", "1:like=n0", "--report", str(page))
    code, out, err = run(*words)
    assert (code, err) == (0, f"The report is in {page}.\n")
    lines = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert lines["all done after, s"] == ["1200", "600", "-600"]
    assert lines["average wait, s"] == ["700", "100", "-600"]
    text = page.read_text()
    assert text.count("<svg") == 6
    assert "http" not in text
    told = json.loads(run(*words, "--json")[1])
    assert (told["before"]["all_done_s"], told["after"]["all_done_s"], told["guessed_run_times"]) == (1200, 600, 0)
    assert told["after"]["by_class"]["normal"]["jobs"] == 3


@pytest.mark.parametrize(("words", "done"), [
    ((), 1200), (("--quota", "p=gpu:3"), 1500), (("--quota", "p=gpu:3", "--quota", "p=gpu:none"), 1200),
    (("--rules", "reservations=0", "--rules", "preempts=false"), 1200), (("--add-nodes", "3:like=c/n0"), 600),
])  # fmt: skip
def test_changes(run: Run, then: str, words: tuple[str, ...], done: int) -> None:
    told = json.loads(run("simulate", "what-if", "--snapshot", then, *words, "--json")[1])
    assert (told["before"]["all_done_s"], told["after"]["all_done_s"]) == (1200, done)


def test_other_queues(run: Run, then: str, tmp_path: Path) -> None:
    """Its project is in no queue, and all devices are given to queues: nothing that waits ever starts."""
    file = tmp_path / "queues.yaml"
    file.write_text(
        "flavors: [{name: all}]\nqueues: [{name: q, projects: [other], quota: {all: {nominal: {gpu: 4}}}}]\n"
    )
    code, out, err = run("simulate", "what-if", "--snapshot", then, "--queues", str(file))
    assert (code, err) == (0, "")
    assert "Changed: 3 of 4 jobs never start" in out
    file.write_text("queues: 3\n")
    code, _, err = run("simulate", "what-if", "--snapshot", then, "--queues", str(file))
    assert code == 2
    assert f"{file}:1:9" in err


def test_time_is_limited(run: Run, then: str) -> None:
    code, out, _ = run("simulate", "what-if", "--snapshot", then, "--hours", "0.1")
    assert code == 0
    assert "As it is: 3 of 4 jobs never start; their waits count until the end of the run." in out


def test_the_ledger_on_nodes_and_on_a_snapshots_cluster(run: Run, ledger: str, then: str) -> None:
    """On two devices `c`, of class core, has `a` stopped for it; without preemption it waits until `a` has ended."""
    words = ("simulate", "what-if", "--ledger", ledger)
    two = (*words, "--nodes", "1", "--gpus-per-node", "2", "--rules", "preempts=false", "--json")
    told = json.loads(run(*two)[1])
    assert {name: each["jobs"] for name, each in told["before"]["by_class"].items()} == {
        "core": 1,
        "low": 1,
        "normal": 1,
    }
    assert [(told[run]["ended"], told[run]["stops"]) for run in ("before", "after")] == [(3, 1), (3, 0)]
    assert [told[run]["by_class"]["core"]["max"] for run in ("before", "after")] == [180 + 30, 480]
    both = json.loads(run(*words, "--snapshot", then, "--add-nodes", "1:like=n0", "--json")[1])
    assert (both["before"]["all_done_s"], both["before"]["stops"]) == (960, 1)  # on four devices `b` is stopped for `c`
    assert (both["after"]["all_done_s"], both["after"]["wait_s"]["max"]) == (660, 0)


@pytest.mark.parametrize(("words", "told"), [
    ((), "Give --snapshot FILE, or --ledger FILE with --nodes N or --snapshot FILE."),
    (("--snapshot", "THEN", "--nodes", "3"), "leave --nodes away"),
    (("--snapshot", "THEN", "--add-nodes", "20"), '"20" is not of the form 20:like=NODE'),
    (("--snapshot", "THEN", "--add-nodes", "2:like=n7"), 'There is no node "n7" here.'),
    (("--snapshot", "THEN", "--remove-nodes", "n0"), "No node would be left; remove fewer."),
    (("--snapshot", "THEN", "--quota", "p=gpu:many"), '"many"'),
    (("--snapshot", "THEN", "--rules", "fast=1"), 'There is no rule "fast"'),
    (("--snapshot", "none.json"), "none.json cannot be read"),
    (("--ledger", "none.csv", "--nodes", "1"), "There is no file none.csv"),
    (("--snapshot", "THEN", "--queues", "none.yaml"), "none.yaml cannot be read"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence(run: Run, then: str, words: tuple[str, ...], told: str) -> None:
    code, out, err = run("simulate", "what-if", *(then if word == "THEN" else word for word in words))
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("old", "new", "told"), [
    ("normal", "urgent", "row 2, column class: 'urgent' is none of core, normal, low."),
    ("2026-01-01T00:20:30+00:00", "2026-01-01T00:20:30", "row 4, column end: '2026-01-01T00:20:30' is not a time"),
    (",2,1000,", ",0,1000,", "row 3, column ranks: 0 is not from 1 to"),
    (",1,2000,", ",1,2500,", "row 2, column gpu_milli: 2.5 devices cannot be given"),
    (",1,2000,", ",1,,", "row 2, column gpu_milli: '' is not a number"),
    ("b.1", "a.1", "row 3, column job: a.1 is there already"),
    ("gpu_milli", "gpus", "row 1: there is no column gpu_milli"), (",500,,", ",500,", "row 4, column memory_bytes"),
    ("00:20:00+00:00,2,", "00:05:00+00:00,2,", "row 3, column end: it is before the start."),
])  # fmt: skip
def test_a_ledger_that_cannot_be_read(run: Run, tmp_path: Path, old: str, new: str, told: str) -> None:
    file = tmp_path / "broken.csv"
    file.write_text(LEDGER.replace(old, new, 1))
    code, out, err = run("simulate", "what-if", "--ledger", str(file), "--nodes", "1")
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


# -- the export


def allocation(job: str, attempt: int, rank: int, device: str | None, start: str, end: str | None) -> dict[str, Any]:
    return {
        "id": f"{job}{attempt}{rank}{device}", "job_id": job, "attempt": attempt, "rank": rank, "project_id": "prj_p",
        "cluster": "c", "node": "n0", "device": device, "gpu_milli": 1000 if device else 0, "device_memory_bytes": 0,
        "cpu_milli": 0 if device else 4000, "memory_bytes": 0 if device else 7, "disk_bytes": 0, "simulated": False,
        "started_at": f"2026-01-01T{start}Z", "ended_at": None if end is None else f"2026-01-01T{end}Z",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.jsonl", "out.jsonl.gz"])
def test_the_ledger_is_exported_and_replayed(run: Run, server: StandIn, tmp_path: Path, name: str) -> None:
    rows = [
        *(
            allocation("job_a", 1, rank, device, "00:01:00", "00:02:00")
            for rank in (0, 1)
            for device in (None, "g0", "g1")
        ),
        allocation("job_a", 2, 0, "g0", "00:05:00", "00:06:00"), allocation("job_b", 1, 0, None, "00:00:00", None),
    ]  # fmt: skip
    server.on("GET /v1/allocations", {"items": rows, "next_cursor": None})
    job = {"id": "job_a", "created_at": "2026-01-01T00:00:30Z", "submitted_by": "ann", "spec": {"class": "core"}}
    server.on("GET /v1/jobs", {"items": [job], "next_cursor": None})
    file = tmp_path / name
    code, out, err = run("ledger", "export", str(file))
    assert (code, out) == (0, "")
    assert f"2 attempts are in {file}" in err
    assert "1 still run and are left out" in err
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    if ".csv" in name:
        day = "2026-01-01T00"
        assert text.splitlines()[1:] == [
            f"job_a.1,prj_p,ann,core,,{day}:00:30+00:00,{day}:01:00+00:00,{day}:02:00+00:00,4,2,2000,4000,7",
            f"job_a.2,prj_p,ann,core,,{day}:02:00+00:00,{day}:05:00+00:00,{day}:06:00+00:00,1,1,1000,0,0",
        ]
        code, out, _ = run("simulate", "queue", "--jobs", str(file), "--nodes", "1", "--policy", "live", "--json")
        assert (code, json.loads(out)["form"]) == (0, "ledger")
    code, out, err = run("simulate", "what-if", "--ledger", str(file), "--nodes", "1", "--json")
    assert code == 0
    assert json.loads(out)["before"]["by_project"]["prj_p"]["jobs"] == 2


def test_an_ending_that_says_no_form(run: Run, server: StandIn, tmp_path: Path) -> None:
    server.on("GET /v1/allocations", {"items": [], "next_cursor": None})
    server.on("GET /v1/jobs", {"items": [], "next_cursor": None})
    code, _, err = run("ledger", "export", str(tmp_path / "out.txt"))
    assert code == 2
    assert "ends in none of .csv, .csv.gz, .jsonl, .jsonl.gz" in err
    assert not list(tmp_path.glob("*out*"))


def test_nodes_that_fail_are_away_in_both_runs(run: Run, tmp_path: Path) -> None:
    """A day's failure of the second node; the one that is taken away in the changed run cannot fail there."""
    held = [holding("job_held", "n1", devices=(0, 1, 2, 3), ends_in_s=50_000, may_stop=True)]
    snapshot, faults = tmp_path / "now.json", tmp_path / "faults.csv"
    snapshot.write_bytes(dump(snapshot_of_rows(a_fleet(3, 4), holdings=held), NOW))
    faults.write_text("node,start_day,end_day\n1,0.1,1.1\n")
    words = (
        "simulate",
        "what-if",
        "--snapshot",
        str(snapshot),
        "--failures",
        str(faults),
        "--checkpoint-s",
        "0",
        "--json",
    )
    code, out, _ = run(*words, "--remove-nodes", "n1")
    told = json.loads(out)
    assert (code, told["failures"]) == (0, str(faults))
    assert [told[side]["node_faults"] for side in ("before", "after")] == [1, 0]
    assert [told[side]["jobs_hit"] for side in ("before", "after")] == [1, 0]
    code, out, _ = run(*words, "--remove-nodes", "n0")  # its place in the changed cluster is another
    assert [json.loads(out)[side]["node_faults"] for side in ("before", "after")] == [1, 1]
    assert [json.loads(out)[side]["jobs_hit"] for side in ("before", "after")] == [1, 1]
    faults.write_text("node,start_day,end_day\n3,0,1\n")
    code, _, err = run(*words)
    assert code == 2
    assert "names node 3; the cluster has 3, and they are counted from 0" in err
