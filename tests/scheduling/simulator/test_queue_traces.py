"""Traces of jobs and of failures: every form, and what is said of a file that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dujiang.scheduling.simulator.faults import Fault, read_faults
from dujiang.scheduling.simulator.jobs_traces import TraceJob, read_jobs
from dujiang.scheduling.simulator.traces import BadTrace

TABLE = "job,submit_s,duration_s,num_gpus,vc\n"
SWF = (
    "; Version: 2.2\n1 10 5 100 4 -1 -1 8 3600 -1 1 7 1 3 2 1 -1 -1\n2 20 -1 -1 4 -1 -1 4 3600 -1 5 7 1 -1 2 1 -1 -1\n"
)


def written(folder: Path, text: str, name: str = "jobs.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.csv.gz"])
def test_tables_are_read_plain_and_compressed(tmp_path: Path, name: str) -> None:
    found = read_jobs(written(tmp_path, TABLE + "b,5,7,2,red\n\na,0,9.0,1,\n", name))
    assert found.jobs == (TraceJob("a", 0, 9, 1), TraceJob("b", 5, 7, 2, vc="red"))
    assert found.form == "table"


def test_tables_with_deadlines(tmp_path: Path) -> None:
    text = "job,submit_s,duration_s,num_gpus,deadline_s,model,batch_size,iterations\n0,10,20,4,40,bert,64,900\n"
    (job,) = read_jobs(written(tmp_path, text)).jobs
    assert (job.deadline_s, job.model, job.batch_size, job.iterations) == (40, "bert", 64, 900)


def test_swf_takes_what_was_asked_for_and_leaves_out_what_never_ran(tmp_path: Path) -> None:
    found = read_jobs(written(tmp_path, SWF, "log.swf.gz"))
    assert found.jobs == (TraceJob("1", 10, 100, 8, vc="2", user="7", name="3"),)
    assert found.left_out == 1
    assert read_jobs(written(tmp_path, SWF, "log.txt")) == found


def test_the_table_of_a_ledger(tmp_path: Path) -> None:
    text = (
        "job,submit,start,end,gpus,project\n"
        "j1,2026-01-01T00:00:00+00:00,2026-01-01T00:01:00Z,2026-01-01T01:01:00Z,2,red\n"
        "j2,2026-01-01T08:00:10+08:00,2026-01-01T00:01:00Z,,1,red\n"
    )
    found = read_jobs(written(tmp_path, text))
    (job,) = found.jobs
    assert (job.job, job.duration_s, job.num_gpus, job.vc) == ("j1", 3600, 2, "red")
    assert (found.form, found.left_out) == ("ledger", 1)


def allocation(job: str, milli: int, start: str, end: str | None, attempt: int = 1) -> dict[str, object]:
    """A row of GET /v1/allocations, with the fields that matter and one that does not."""
    return {"id": "a", "job_id": job, "attempt": attempt, "project_id": "p", "device": "gpu-0", "gpu_milli": milli,
            "started_at": f"2026-01-01T{start}+00:00", "ended_at": end and f"2026-01-01T{end}+00:00"}  # fmt: skip


def test_the_ledger_as_the_api_answers_it(tmp_path: Path) -> None:
    rows = [
        allocation("one", 1000, "00:00:00", "00:10:00"), allocation("one", 1000, "00:00:00", "00:10:00"),
        allocation("one", 0, "00:00:00", "00:10:00"), allocation("half", 500, "00:05:00", "00:06:00"),
        allocation("half", 500, "00:07:00", "00:08:00", attempt=2), allocation("runs", 1000, "00:00:00", None),
        allocation("cpu", 0, "00:00:00", "00:01:00"),
    ]  # fmt: skip
    for value in ({"items": rows, "next_cursor": None}, rows, [{"items": rows[:3]}, {"items": rows[3:]}]):
        found = read_jobs(written(tmp_path, json.dumps(value), "ledger.json"))
        assert [(job.job, job.duration_s, job.num_gpus) for job in found.jobs] == [
            ("one.1", 600, 2), ("half.1", 60, 1), ("half.2", 60, 1),
        ]  # fmt: skip
        assert found.left_out == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("job,submit_s\n", "row 1: there is no column duration_s"),
        (TABLE, "has no job that ran"),
        (TABLE + "a,0,1,1,\nb,x,1,1,\n", "row 3, column submit_s: 'x' is not a number"),
        (TABLE + "a,0,0,1,\n", "row 2, column duration_s: 0 is not from 1"),
        (TABLE + "a,-1,1,1,\n", "row 2, column submit_s: -1 is not from 0"),
        (TABLE + "a,0,1,nan,\n", "row 2, column num_gpus: nan is not a whole number"),
        (TABLE + "a,0,1,inf,\n", "row 2, column num_gpus: inf is not a whole number"),
        (TABLE + "a,0,1\n", "row 2, column num_gpus: 3 cells where the header has 5"),
        (TABLE + ",0,1,1,\n", "row 2, column job: it is empty"),
        (TABLE + "a,0,1,1,\na,5,1,1,\n", "job a is there twice"),
        (TABLE + 'a,0,1,1,"x\n', "row 2: unexpected end of data"),
        ("; c\n1 2 3\n", "row 2, column run time: 3 fields where SWF has 18"),
        (SWF.replace(" 100 ", " ten "), "row 2, column run time: 'ten' is not a number"),
        ("job,submit,start,end,gpus\na,2026-01-01,x,y,1\n", "row 2, column submit: '2026-01-01' is not a time"),
        (
            "job,submit,start,end,gpus\na,2026-01-01T01:00:00Z,2026-01-01T00:00:00Z,2026-01-01T02:00:00Z,1\n",
            "row 2, column start: it is before the time of submission",
        ),
        ("[{]", "is not JSON"),
        ('[{"job_id": "a"}]', "row 1: there is no started_at"),
        (
            '[{"job_id":"a","started_at":"x","ended_at":"x","gpu_milli":5}]',
            "row 1, column started_at: 'x' is not a time",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadTrace) as error:
        read_jobs(written(tmp_path, text))
    assert told in error.value.sentence


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="There is no file"):
        read_jobs(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match="is not text in UTF-8"):
        read_jobs(tmp_path / "bytes.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"job,submit_s\n" * 50)[:20])
    with pytest.raises(BadTrace, match="cannot be read"):
        read_jobs(tmp_path / "cut.csv.gz")


def test_faults_that_overlap_on_a_node_are_one(tmp_path: Path) -> None:
    text = "node,start_day,end_day,level\n1,2,3,x\n0,1,2,x\n0,1.5,4,x\n0,5,5,x\n"
    assert read_faults(written(tmp_path, text), origin_s=100) == (
        Fault(0, 100 + 86_400, 100 + 4 * 86_400),
        Fault(1, 100 + 2 * 86_400, 100 + 3 * 86_400),
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("0,2,1", "row 2, column end_day: it is before start_day"),
        ("0,x,1", "row 2, column start_day: 'x' is not a number of days"),
        ("0,nan,1", "row 2, column start_day: nan is not a number of days"),
        ("-1,0,1", "row 2, column node: -1 is not from 0"),
        ("0,1,1", "has no fault"),
    ],
)
def test_faults_that_are_wrong(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(BadTrace) as error:
        read_faults(written(tmp_path, f"node,start_day,end_day\n{row}\n"))
    assert told in error.value.sentence
