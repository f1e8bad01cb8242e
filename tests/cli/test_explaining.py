"""`dujiang snapshot` and `dujiang explain --snapshot`: files, and the scheduler's own functions in this process."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dujiang.scheduling.domain import ClusterRow, Snapshot, fleet_of_rows, snapshot_of_rows
from dujiang.scheduling.domain.saved import dump, load
from tests.cli.conftest import Run
from tests.cli.standin import Answer, StandIn
from tests.scheduling.building import NOW, a_fleet, a_job, holding, some_nodes

HEAD, NEXT, HELD, OTHER = "job_aaaa", "job_bbbb", "job_cccc", "job_cddd"


def a_snapshot() -> Snapshot:
    """One node of four devices, held by one job of known end; two more wait."""
    held = [
        holding(HELD, "n0", devices=(0, 1, 2), ends_in_s=600, cpu=30),
        replace(holding(OTHER, "n0", devices=(3,)), ends_at=NOW + timedelta(seconds=60)),
    ]
    waiting = [a_job(HEAD, gpu=4, runs_at_most_s=100, after_s=-120), a_job(NEXT, gpu=2, model="A100")]
    return snapshot_of_rows(a_fleet(1, 4), holdings=held, requests=waiting)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "then.json"
    path.write_bytes(dump(a_snapshot(), NOW))
    return str(path)


def test_why_a_job_waited_is_said_without_a_server(run: Run, file: str) -> None:
    code, out, err = run("explain", HEAD, "--snapshot", file)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "job_aaaa is PENDING for 2m, Resources.",
        "  Gpu: needs 4 on one node, largest free is 0; waits for job_cccc to end.",
        "  It is number 1 of those that wait.",
        "  It is expected to start at 2026-01-01 00:10:00 UTC on c, if all runs to its time limit.",
        "What the platform does",
        "  It starts by itself as soon as there is room.",
        "What you can do",
        "  Wait for running work to end, or ask for less.",
    ]
    told = json.loads(run("explain", "bbb", "--snapshot", file, "--json")[1])
    assert (told["job_id"], told["cause"], told["wait"]["position"]) == (NEXT, "Resources", 2)
    assert told["wait"]["expected_start"] == "2026-01-01T00:11:40Z"


def test_what_ran_and_what_is_not_there(run: Run, file: str) -> None:
    code, out, _ = run("explain", HELD, "--snapshot", file)
    assert (code, out.splitlines()[0]) == (0, "job_cccc was running since 2025-12-31 23:58:20 UTC.")
    assert "It is over by 2026-01-01 00:10:00 UTC." in out
    code, out, err = run("explain", "job_aaab", "--snapshot", file)
    assert (code, out) == (3, "")
    assert 'no job "job_aaab". Did you mean "job_aaaa"? Snapshots know jobs by id, not by name.' in err
    code, _, err = run("explain", "c", "--snapshot", file)
    assert (code, '"c" is the beginning or end of 2 jobs: job_cccc, job_cddd' in err) == (3, True)


def test_all_says_what_else_would_have_started_it(run: Run, tmp_path: Path) -> None:
    nodes = [*some_nodes(1, 4), *some_nodes(1, 2, cluster="d", model="L40S", gpu_gib=48, prefix="m")]
    fleet = fleet_of_rows([ClusterRow("c"), ClusterRow("d")], nodes)
    path = tmp_path / "then.json.gz"
    then = snapshot_of_rows(fleet, holdings=a_snapshot().holdings[:1], requests=[a_job(NEXT, gpu=2, model="A100")])
    path.write_bytes(gzip.compress(dump(then, NOW)))
    other, smaller = "It starts now with nvidia L40S instead of A100, on d.", "It starts now with 1 gpu."
    plain = run("explain", NEXT, "--snapshot", str(path))[1]
    assert (other in plain, smaller in plain) == (False, True)
    code, out, _ = run("explain", NEXT, "--snapshot", str(path), "--all")
    assert code == 0
    assert (out.count(other), out.count(smaller), "1 device a node" in out) == (1, 1, False)


def test_what_a_snapshot_holds_in_short(run: Run, file: str) -> None:
    assert run("snapshot", "show", file)[1].splitlines() == [
        "taken     2026-01-01 00:00:00 UTC",
        "clusters  c",
        "nodes     1, 1 open",
        "devices   4, 0 free",
        "running   2",
        "waiting   2, 0 of them start in the next plan",
    ]
    assert json.loads(run("snapshot", "show", file, "--json")[1])["waiting"] == 2


@pytest.mark.parametrize("name", ["now.json", "now.json.gz"])
def test_a_snapshot_is_saved_as_the_server_gives_it(server: StandIn, run: Run, tmp_path: Path, name: str) -> None:
    body, path = dump(a_snapshot(), NOW), tmp_path / name
    server.on("GET /v1/snapshot", Answer(body))
    code, out, err = run("snapshot", "save", str(path))
    assert (code, out) == (0, "")
    assert f"dujiang explain JOB --snapshot {path}" in err
    written = path.read_bytes()
    assert (gzip.decompress(written) if name.endswith(".gz") else written) == body
    assert load(written)[1] == NOW
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == [name]


def test_a_file_that_cannot_be_written_or_read_is_said(server: StandIn, run: Run, tmp_path: Path) -> None:
    server.on("GET /v1/snapshot", Answer(b"{}"))
    code, out, err = run("snapshot", "save", str(tmp_path / "no" / "file"))
    assert (code, out, "cannot be written: No such file" in err) == (1, "", True)
    for command in (("snapshot", "show"), ("explain", HEAD, "--snapshot")):
        code, out, err = run(*command, str(tmp_path / "none.json"))
        assert (code, out, "cannot be read: No such file" in err) == (2, "", True)
        broken = tmp_path / "broken.json"
        broken.write_bytes(dump(a_snapshot(), NOW).replace(b'"ranks":1', b'"ranks":"x"'))
        code, out, err = run(*command, str(broken))
        assert (code, out) == (2, "")
        assert f'{broken}: $.snapshot.requests[0].ranks: "x" is not a whole number' in err
        assert "Traceback" not in err


def test_a_caller_who_may_not_is_told_so(server: StandIn, run: Run, tmp_path: Path) -> None:
    server.on("GET /v1/snapshot", lambda _: server.problem(403, "forbidden", "Your role does not include it."))
    code, _, err = run("snapshot", "save", str(tmp_path / "now.json"))
    assert (code, "Your role does not include it." in err) == (4, True)
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == []
