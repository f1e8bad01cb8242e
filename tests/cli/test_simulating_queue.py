"""`dujiang simulate queue`, `partition`, `deadlines` and `sharing` on traces of a few rows, made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

JOBS = """job,submit_s,duration_s,num_gpus,vc
a,0,10,1,x
b,1,10,2,x
c,2,1,1,y
"""
SPEEDS = "model,global_batch_size,gpus,iterations_per_s\nm,1,1,1\nm,1,2,1.8\n"
ELASTIC = """job,submit_s,duration_s,num_gpus,deadline_s,model,batch_size,iterations
a,0,100,1,60,m,1,100
b,0,100,1,20,m,1,100
"""


@pytest.fixture
def jobs(tmp_path: Path) -> str:
    path = tmp_path / "jobs.csv"
    path.write_text(JOBS)
    return str(path)


def test_one_policy_is_one_object(run: Run, jobs: str) -> None:
    code, out, err = run("simulate", "queue", "--jobs", jobs, "--nodes", "1", "--gpus-per-node", "2",
                         "--policy", "fifo", "--json")  # fmt: skip
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["queueing_s"] == {"average": 9.0, "p50": 9.0, "p99": 17.82, "max": 18}
    assert told["jct_s"]["average"] == 16.0
    assert told["policy"] == "fifo"


def test_policies_stand_side_by_side(run: Run, jobs: str) -> None:
    words = (
        "simulate",
        "queue",
        "--jobs",
        jobs,
        "--nodes",
        "1",
        "--gpus-per-node",
        "2",
        "--policy",
        "easy",
        "--policy",
        "fifo",
    )
    code, out, _ = run(*words)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["POLICY", "easy", "fifo"]
    assert "knows how long each job will run" in out
    code, out, _ = run(*words, "--json")
    assert [each["queueing_s"]["average"] for each in json.loads(out)["policies"]] == [3.0, 9.0]


def test_the_default_policy_is_ours(run: Run, jobs: str) -> None:
    code, out, _ = run("simulate", "queue", "--jobs", jobs, "--nodes", "1", "--json")
    assert code == 0
    assert json.loads(out)["policy"] == "default"
    assert json.loads(out)["queueing_s"]["max"] == 0


def test_failures_are_told(run: Run, jobs: str, tmp_path: Path) -> None:
    (tmp_path / "faults.csv").write_text(f"node,start_day,end_day\n0,{5 / 86400},{8 / 86400}\n")
    code, out, _ = run("simulate", "queue", "--jobs", jobs, "--nodes", "1", "--gpus-per-node", "2",
                       "--failures", str(tmp_path / "faults.csv"), "--checkpoint-s", "2")  # fmt: skip
    assert code == 0
    assert "1 failures of nodes hit 1 jobs; 0.0 GPU-hours were done twice." in out


def test_the_report_is_one_page_that_needs_nothing_else(run: Run, jobs: str, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    code, _, err = run("simulate", "queue", "--jobs", jobs, "--nodes", "1", "--policy", "srtf", "--policy", "fifo",
                       "--report", str(report))  # fmt: skip
    text = report.read_text()
    assert (code, err) == (0, f"The report is in {report}.\n")
    assert text.count("<svg") == 4
    assert "http" not in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--policy", "lifo"), "There is no queueing policy 'lifo'"),
        (("--gpus-per-node", "1"), "Job b asks for 2 devices at once, and 1 nodes of 1 have 1. Give more nodes."),
        (("--failures", "none.csv"), "There is no file none.csv"),
    ],
)
def test_what_is_wrong_is_one_sentence(run: Run, jobs: str, words: tuple[str, ...], told: str) -> None:
    code, out, err = run("simulate", "queue", "--jobs", jobs, "--nodes", "1", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_trace_that_is_wrong_is_told_with_row_and_column(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(JOBS + "d,x,1,1,y\n")
    code, _, err = run("simulate", "queue", "--jobs", str(tmp_path / "jobs.csv"), "--nodes", "1")
    assert code == 2
    assert "row 5, column submit_s: 'x' is not a number" in err


def test_a_partition_against_a_pool(run: Run, jobs: str, tmp_path: Path) -> None:
    code, out, _ = run("simulate", "partition", "--jobs", jobs, "--gpus-per-node", "2", "--policy", "fifo", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["nodes_of"]["y"], told["policies"][0]["nodes"]) == (1, sum(told["nodes_of"].values()))
    (tmp_path / "m.csv").write_text("vc,minute,total_gpus,running_gpus,pending_gpus\na,0,8,4,2\nb,0,8,8,4\n")
    code, out, _ = run("simulate", "partition", "--minutes", str(tmp_path / "m.csv"))
    assert code == 0
    assert out.startswith("In use: 75.00% as it was, at most 100.00% as one pool")
    assert run("simulate", "partition")[0] == 2


def test_deadlines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(ELASTIC)
    (tmp_path / "speeds.csv").write_text(SPEEDS)
    words = ("simulate", "deadlines", "--jobs", str(tmp_path / "jobs.csv"), "--throughput",
             str(tmp_path / "speeds.csv"), "--nodes", "1", "--gpus-per-node", "2")  # fmt: skip
    code, out, _ = run(*words, "--policy", "elasticflow", "--json")
    assert code == 0
    assert json.loads(out)["deadline_satisfied"] == 0.5
    code, out, _ = run(*words, "--policy", "edf", "--policy", "default")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["edf", "0.0000"], ["default", "0.5000"]]
    code, _, err = run(*words, "--policy", "lifo")
    assert (code, "choose one of edf, elasticflow, default" in err) == (2, True)


def test_sharing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pods.csv").write_text("num_gpu,gpu_milli,creation_time,deletion_time\n1,500,0,3600\n1,500,0,3600\n")
    code, out, _ = run("simulate", "sharing", "--pods", str(tmp_path / "pods.csv"), "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["whole"]["asked_of_held"], told["shared"]["asked_of_held"]) == (0.5, 1.0)
