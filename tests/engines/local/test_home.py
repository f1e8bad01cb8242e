"""Files that are there whole or not at all, and the paths of a home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dujiang.engines.local.home import Home, read_whole, remove, write_whole


def test_what_is_written_is_read_and_closed_to_others(tmp_path: Path) -> None:
    path = str(tmp_path / "launch.json")
    write_whole(path, {"run": "echo 你好"})
    assert read_whole(path) == {"run": "echo 你好"}
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["launch.json"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "cordon.json").mkdir()  # nothing can be renamed onto a folder
    with pytest.raises(IsADirectoryError):
        write_whole(str(tmp_path / "cordon.json"), {"reason": "x"})
    assert os.listdir(tmp_path) == ["cordon.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"text"', "\x00\x01"])
def test_nothing_sensible_is_read_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    assert read_whole(str(tmp_path / "x")) is None
    assert read_whole(str(tmp_path / "none")) is None


def test_removing_is_quiet_about_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    remove(str(tmp_path / "x"))
    remove(str(tmp_path / "x"))
    assert os.listdir(tmp_path) == []


def test_a_home_has_one_mark_by_whatever_path_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    assert Home(str(tmp_path / "link")).mark == Home(str(tmp_path / "home")).mark
    assert Home(str(tmp_path / "other")).mark != Home(str(tmp_path / "home")).mark


def test_jobs_have_a_folder_and_attempts_have_theirs(tmp_path: Path) -> None:
    home = Home("/h")
    assert (home.work("job_a.2"), home.work("job_a.3")) == ("/h/work/job_a", "/h/work/job_a")
    assert (home.output("job_a.2", 1), home.output_dir("job_a.2")) == (
        "/h/attempts/job_a/2/output-1.log", "/h/attempts/job_a/2/output",
    )  # fmt: skip
    made = Home(str(tmp_path / "home"))
    made.make()
    made.make()
    assert sorted(os.listdir(made.root)) == ["attempts", "state", "work"]
    assert os.stat(made.root).st_mode & 0o077 == 0
