"""What another user may have put where the platform reads: nothing of it is followed, and little of it believed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.slurm import guarded, handed, heard
from dujiang.engines.slurm.archive import archive

ME = os.geteuid()
LAUNCH = {"ranks": [{"node": "n1"}, {"node": "n2"}], "hosts": ["10.0.0.1", "10.0.0.2"], "ports": 1}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "place" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "place" / "1" / "end.json").write_text('{"end": "Exited"}')
    (tmp_path / "private.json").write_text('{"end": "private"}')
    return tmp_path / "runs"


def read(top: Path, uid: int = ME) -> dict[str, Any] | None:
    told = guarded.read_object(str(top), ("place", "1", "end.json"), uid)
    return told[0] if told else None


def test_a_plain_file_is_read_and_that_of_another_is_not(top: Path) -> None:
    assert read(top) == {"end": "Exited"}
    assert read(top, ME + 1) is None


@pytest.mark.parametrize("step", ["runs", "place", "1", "end.json"])
def test_no_link_is_followed_at_any_step(top: Path, step: str) -> None:
    path = next(path for path in (top, *top.rglob("*")) if path.name == step)
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    assert read(top) is None


def test_a_pipe_does_not_make_the_platform_wait(top: Path) -> None:
    file = top / "place" / "1" / "end.json"
    file.unlink()
    os.mkfifo(file)
    assert read(top) is None


@pytest.mark.skipif(ME != 0, reason="only root can give a file to another")
def test_a_second_name_of_a_file_of_the_platform_is_not_read(top: Path) -> None:
    for path in (top / "place", top / "place" / "1"):
        os.chown(path, 1234, -1)
    (top / "place" / "1" / "end.json").unlink()
    os.link(top.parent / "private.json", top / "place" / "1" / "end.json")
    assert read(top, 1234) is None
    os.chown(top.parent / "private.json", 1234, -1)
    assert read(top, 1234) == {"end": "private"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, '{"a": NaN}', '{"a": 1e999}', '{"a": 99999999999999999999}', "[]", "", "\xff",
        '{"a": "' + "x" * (1 << 20) + '"}',
    ],
)  # fmt: skip
def test_what_is_no_small_plain_object_is_not_there(top: Path, text: str) -> None:
    (top / "place" / "1" / "end.json").write_bytes(text.encode("latin-1"))
    assert read(top) is None


def test_strings_are_such_as_a_database_takes(top: Path) -> None:
    (top / "place" / "1" / "end.json").write_text('{"a\\u0000": ["\\ud800\\u0000b"]}')
    assert read(top) == {"a": ["?b"]}


def test_an_end_that_makes_no_sense_is_a_loss_between_two_moments() -> None:
    forged = {
        "end": "Won",
        "exit_code": True,
        "signal": 65,
        "rank": 2,
        "at": 5,
        "evidence": [1, ["a", "b", 7]],
        "facts": 3,
    }
    told = heard.end(forged, LAUNCH, 10, 20)
    assert told == {
        "end": "Lost", "exit_code": None, "signal": None, "rank": None, "at": 10, "facts": {},
        "evidence": [["runner", "1", None], ["a", "b", 7]],
    }  # fmt: skip
    assert heard.end({"at": 99}, LAUNCH, 10, 20)["at"] == 20
    assert heard.end({"at": "x"}, LAUNCH, 10, 20)["at"] == 20


def test_where_it_listens_is_where_it_was_placed() -> None:
    forged = {"at": 15, "node": "db", "host": "db.internal", "ports": [22, 5432, 6000, True, "x"]}
    told = heard.started(forged, LAUNCH, 10, 20)
    assert told == {"at": 15, "node": "n1", "host": "10.0.0.1", "ports": [5432]}


def test_a_claim_names_a_number_or_nothing() -> None:
    assert heard.claim({"job": "17"}) == {"job": "17"}
    assert [heard.claim({"job": bad})["job"] for bad in ("1;x", "-1", "", None, "9" * 20, "١")] == [""] * 6


def test_half_of_a_secret_says_nothing() -> None:
    one, other = handed.split({"TOKEN": "value"})
    assert handed.joined(one, other) == {"TOKEN": "value"}
    assert b"value" not in bytes.fromhex(one) + bytes.fromhex(other)
    with pytest.raises(ValueError, match="zip"):
        handed.joined(one, other[:-2])


def test_a_runner_that_was_kept_from_starting_starts_nothing(tmp_path: Path) -> None:
    """The platform wrote `kept` and saw no claim: then the runner, which claims later, must see `kept`."""
    (tmp_path / "asks").mkdir()
    (tmp_path / "asks" / "kept.json").write_text("{}")
    (tmp_path / "runner.pyz").write_bytes(archive())
    launch = {"key": "job_a.1", "asks": str(tmp_path / "asks"), "ranks": [{"node": "", "rank": 0}]}
    record = {"launch": launch, "half": "", "place": str(tmp_path / "place"), "number": "1"}
    packed = base64.encodebytes(zlib.compress(json.dumps(record).encode()))
    for _ in range(2):  # and once more, as after a requeue
        done = subprocess.run([sys.executable, tmp_path / "runner.pyz", handed.AS_ANOTHER], input=packed, check=False)
        assert done.returncode == 0
    end = json.loads((tmp_path / "place" / "1" / "end.json").read_text())
    assert end["end"] == "Stopped"
    assert not (tmp_path / "place" / "1" / "output-0.log").exists()
