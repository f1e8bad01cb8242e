"""What the local engine refuses, and what a supervisor reads of a launch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, Checkpointing, DeviceShare, EngineRefused, Input, Launch, RankPlacement
from dujiang.engines.local.home import Home
from dujiang.engines.local.launching import describe, refuse_bad_name, refuse_impossible
from dujiang.engines.local.limits import LimitPlan
from dujiang.engines.local.settings import LocalSettings

KIB = 1024


def a_rank(rank: int = 0, *, node: str = "here", devices: tuple[str, ...] = ()) -> RankPlacement:
    shares = tuple(DeviceShare(name, 0, 1000, 1 << 30) for name in devices)
    return RankPlacement(rank, node, 500, 128 << 20, devices=shares)


def a_launch(**fields: Any) -> Launch:
    given = {"key": AttemptKey("job_a", 1), "name": "a-job", "project": "p", "run": "true", "ranks": (a_rank(),)}
    return Launch(**{**given, **fields})


def check(launch: Launch) -> None:
    refuse_impossible(launch, node="here", devices={"GPU-a"})


@pytest.mark.parametrize(
    "launch",
    [
        a_launch(),
        a_launch(ranks=(a_rank(0, devices=("GPU-a",)), a_rank(1, devices=("GPU-a",)))),
        a_launch(ports=64, workdir="/", env={"GREETING": "你好", "EMPTY": ""}),
        a_launch(env={"LONG": "x" * (128 * KIB - 1 - len("LONG") - 2)}),
        a_launch(run="x" * (4 * KIB * KIB)),
    ],
    ids=["small", "devices", "ports", "longest variable", "long program"],
)
def test_what_can_run_is_let_through(launch: Launch) -> None:
    check(launch)


REFUSED: dict[str, tuple[Launch, str]] = {
    "no rank": (a_launch(ranks=()), "numbered from 0"),
    "a gap": (a_launch(ranks=(a_rank(0), a_rank(2))), "numbered from 0"),
    "out of order": (a_launch(ranks=(a_rank(1), a_rank(0))), "numbered from 0"),
    "too many ranks": (a_launch(ranks=tuple(map(a_rank, range(1025)))), "at most 1024 ranks"),
    "too many ports": (a_launch(ports=65), "64 ports"),
    "fewer than no ports": (a_launch(ports=-1), "64 ports"),
    "another node": (a_launch(ranks=(a_rank(node="there"),)), "no node 'there' here, only 'here'"),
    "another device": (a_launch(ranks=(a_rank(devices=("GPU-b",)),)), "no device 'GPU-b'"),
    "NUL in run": (a_launch(run="echo \0"), "`run` holds a NUL"),
    "NUL in setup": (a_launch(setup="echo \0"), "`setup` holds a NUL"),
    "NUL in workdir": (a_launch(workdir="/\0"), "`workdir` holds a NUL"),
    "relative workdir": (a_launch(workdir="data"), "workdir 'data' must be absolute"),
    "no such workdir": (a_launch(workdir="/not/there"), "/not/there .* make it before .* or change `workdir`"),
    "a file as workdir": (a_launch(workdir="/etc/passwd"), "is not there"),
    "empty name": (a_launch(env={"": "x"}), "no environment can carry"),
    "equals in a name": (a_launch(env={"A=B": "x"}), "no environment can carry"),
    "NUL in a value": (a_launch(secrets={"TOKEN": "\0"}), "'TOKEN'"),
    "a long variable": (a_launch(env={"LONG": "x" * 128 * KIB}), "use a file"),
    "many variables": (a_launch(env={f"V{n}": "x" * 100 * KIB for n in range(11)}), "the environment has"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_never_run_is_refused_with_what_to_change(case: str) -> None:
    launch, words = REFUSED[case]
    with pytest.raises(EngineRefused, match=words):
        check(launch)


def test_a_refusal_does_not_tell_a_secret() -> None:
    with pytest.raises(EngineRefused) as refused:
        check(a_launch(secrets={"TOKEN": "s3cret\0"}))
    assert "s3cret" not in refused.value.sentence


@pytest.mark.parametrize("job", ["job_a", "a", "_", "A-1", "x" * 120])
def test_names_that_can_name_files(job: str) -> None:
    refuse_bad_name(AttemptKey(job, 1))


@pytest.mark.parametrize("job", ["", ".", "..", "../../etc", "a/b", "a.b", "-a", "a b", "a\n", "é", "x" * 121])
def test_names_that_cannot(job: str) -> None:
    with pytest.raises(EngineRefused, match="cannot name an attempt"):
        refuse_bad_name(AttemptKey(job, 1))


@pytest.mark.parametrize("number", [0, -1])
def test_attempts_are_numbered_from_one(number: int) -> None:
    with pytest.raises(EngineRefused, match="a number from 1"):
        refuse_bad_name(AttemptKey("job_a", number))


def described(**fields: Any) -> dict[str, Any]:
    plan = LimitPlan("cgroup-v1", {"memory": "/m", "cpu": "/c"})
    launch = a_launch(**fields)
    return describe(launch, home=Home("/home"), plan=plan, mps="/run/mps", settings=LocalSettings(shell="/bin/bash"))


def test_the_record_can_be_written_and_holds_no_secret() -> None:
    record = described(
        secrets={"TOKEN": "s3cret"}, checkpoint=Checkpointing("/save", 10), inputs=(Input("data", "/data"),),
        ranks=(a_rank(devices=("GPU-a",)),), labels={"team": "a"},
    )  # fmt: skip
    text = json.dumps(record)
    assert "s3cret" not in text
    assert "TOKEN" not in text
    assert json.loads(text) == record | {"ranks": json.loads(json.dumps(record["ranks"]))}
    assert record["ranks"][0]["devices"][0]["name"] == "GPU-a"
    assert record["checkpoint"] == {"path": "/save", "signal": 10, "resume_from": None}
    assert record["limits"] == {"by": "cgroup-v1", "parents": {"memory": "/m", "cpu": "/c"}}
    assert (record["shell"], record["mps"]) == ("/bin/bash", "/run/mps")


@pytest.mark.parametrize(("workdir", "expected", "own"), [(None, "/home/work/job_a", True), ("/data", "/data", False)])
def test_a_job_works_in_its_own_folder_unless_it_names_one(workdir: str | None, expected: str, own: bool) -> None:
    record = described(workdir=workdir)
    assert (record["workdir"], record["own_workdir"]) == (expected, own)
