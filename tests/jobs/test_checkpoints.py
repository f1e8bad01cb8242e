"""Which checkpoint is the last good one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from dujiang.jobs.checkpoints import find_checkpoint


def put(folder: Path, name: str, *, at: int, content: bytes = b"weights") -> Path:
    """Write an entry as if at that second."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (at, at))
    os.utime(path.parent, (at, at))
    return path


def test_the_newest_file_or_folder_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "epoch-10.pt", at=10)
    put(tmp_path, "epoch-9.pt", at=20)
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "epoch-9.pt")
    put(tmp_path, "step-3/weights.bin", at=30)
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "step-3")


@pytest.mark.parametrize(
    "name", [".hidden", "e.pt.tmp", "e.TEMP", "e.partial", "e.part", "e.incomplete", "e.lock", "e.pt~", ".part/e.pt"]
)
def test_what_is_being_written_is_not_one(tmp_path: Path, name: str) -> None:
    whole = put(tmp_path, "epoch-1.pt", at=10)
    put(tmp_path, name, at=20)
    os.utime(tmp_path / name.partition("/")[0], (20, 20))
    assert find_checkpoint(str(tmp_path)) == str(whole)


def test_what_is_empty_is_not_one(tmp_path: Path) -> None:
    whole = put(tmp_path, "epoch-1.pt", at=10)
    put(tmp_path, "epoch-2.pt", at=20, content=b"")
    (tmp_path / "epoch-3").mkdir()
    assert find_checkpoint(str(tmp_path)) == str(whole)


def test_a_link_to_nowhere_is_passed_over_and_one_to_a_file_is_as_good_as_it(tmp_path: Path) -> None:
    whole = put(tmp_path, "epoch-1.pt", at=10)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert find_checkpoint(str(tmp_path)) == str(whole)
    (tmp_path / "latest").symlink_to(whole)
    assert find_checkpoint(str(tmp_path)) in (str(whole), str(tmp_path / "latest"))


def test_where_nothing_is_there_is_none(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path)) is None
    assert find_checkpoint(str(tmp_path / "missing")) is None
    assert find_checkpoint(str(put(tmp_path, "file", at=1))) is None


def test_two_of_one_moment_are_told_apart_the_same_way_each_time(tmp_path: Path) -> None:
    for name in ("a", "c", "b"):
        put(tmp_path, name, at=10)
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "c")


def test_looking_into_folders_leaves_nothing_open(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, f"step-{number}/weights.bin", at=number)
        put(tmp_path, f"step-{number}/more.bin", at=number)
    before = len(os.listdir("/proc/self/fd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert find_checkpoint(str(tmp_path)) == str(tmp_path / "step-19")
    assert len(os.listdir("/proc/self/fd")) == before
