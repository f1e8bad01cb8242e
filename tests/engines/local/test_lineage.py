"""What an attempt is made from: the same content has the same hash, other content another."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.local.lineage import describe_python, hash_input, record

ENOUGH = 1 << 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(path: Path, limit_bytes: int = ENOUGH) -> str:
    found = hash_input(str(path), limit_bytes)
    assert "error" not in found, found
    return str(found["digest"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two files, one in a folder below, and a folder with nothing in it."""
    root = tmp_path / "tree"
    (root / "below").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "b").write_bytes(b"bb")
    (root / "below" / "a").write_bytes(b"a")
    return root


# Files


@pytest.mark.parametrize("content", [b"", b"123", b"\0" * 3_000_000])
def test_a_file_is_hashed_by_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert hash_input(str(tmp_path / "x"), 1 << 30) == {
        "digest": sha256(content), "bytes": len(content), "method": "sha256", "path": str(tmp_path / "x"),
    }  # fmt: skip


def test_a_file_above_the_limit_is_told_by_name_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"123")
    os.utime(path, ns=(0, 5))
    found = hash_input(str(path), 2)
    assert (found["method"], found["bytes"], found["digest"]) == ("sha256-manifest", 3, sha256(b"x\x003\x005\n"))


@pytest.mark.parametrize("kind", ["none", "pipe", "below a file"])
def test_what_cannot_be_hashed_is_said(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "below a file":
        path.touch()
        path = path / "y"
    found = hash_input(str(path), ENOUGH)
    assert set(found) == {"error", "path"}
    assert str(path) in found["error"]


# Folders


def test_a_folder_is_hashed_by_the_names_and_contents_of_its_files(tree: Path) -> None:
    lines = f"b\0{sha256(b'bb')}\nbelow/a\0{sha256(b'a')}\n"
    assert hash_input(str(tree), ENOUGH) == {
        "digest": sha256(lines.encode()), "bytes": 3, "files": 2, "method": "sha256-tree", "path": str(tree),
    }  # fmt: skip


def test_an_empty_folder_has_a_hash(tmp_path: Path) -> None:
    assert digest(tmp_path) == sha256(b"")


def test_a_name_that_is_no_text_is_hashed_too(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff\n", "wb") as file:
        file.write(b"a")
    assert digest(tmp_path) == sha256(b"\xff\n\0" + sha256(b"a").encode() + b"\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "b").write_bytes(b"bc"),
    "name": lambda tree: (tree / "b").rename(tree / "c"),
    "place": lambda tree: (tree / "b").rename(tree / "below" / "b"),
    "one more": lambda tree: (tree / "empty" / "x").touch(),
    "one less": lambda tree: (tree / "b").unlink(),
    "a link to a folder": lambda tree: (tree / "link").symlink_to("below"),
    "a link to nothing": lambda tree: (tree / "link").symlink_to("nowhere"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_another_folder_has_another_hash(tree: Path, case: str) -> None:
    before = digest(tree)
    CHANGES[case](tree)
    assert digest(tree) != before


def test_times_and_modes_do_not_count(tree: Path) -> None:
    before = digest(tree)
    os.utime(tree / "b", (0, 0))
    (tree / "b").chmod(0o755)
    assert digest(tree) == before


# Links


def test_a_link_to_a_file_counts_as_that_file(tree: Path, tmp_path: Path) -> None:
    """As in caches of models, where every file of a version is a link to its content."""
    before = digest(tree)
    (tree / "b").rename(tmp_path / "blob")
    (tree / "b").symlink_to(tmp_path / "blob")
    assert digest(tree) == before
    (tmp_path / "blob").write_bytes(b"other")
    assert digest(tree) != before


def test_where_a_link_to_a_folder_leads_counts(tree: Path) -> None:
    (tree / "link").symlink_to("below")
    before = digest(tree)
    (tree / "link").unlink()
    (tree / "link").symlink_to("empty")
    assert digest(tree) != before


def test_a_link_to_its_own_folder_comes_to_an_end(tree: Path) -> None:
    (tree / "link").symlink_to(".")
    assert hash_input(str(tree), ENOUGH)["files"] == 3


def test_what_links_lead_to_counts_towards_the_limit(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1000)
    (tree / "link").symlink_to(tmp_path / "large")
    found = hash_input(str(tree), 500)
    assert (found["method"], found["bytes"]) == ("sha256-manifest", 1003)
    (tmp_path / "large").write_bytes(b"x" * 1001)
    assert digest(tree, 500) != found["digest"]


def test_pipes_and_sockets_are_left_out(tree: Path) -> None:
    before = digest(tree)
    os.mkfifo(tree / "pipe")
    assert digest(tree) == before


# The record


def described(tmp_path: Path, **launch: Any) -> dict[str, Any]:
    asked = {"inputs": [], "record_environment": False, "hash_limit_bytes": ENOUGH, **launch}
    record(asked, {"DATA": str(tmp_path), "PATH": os.environ["PATH"]}, str(tmp_path), str(tmp_path / "facts.json"))
    facts: dict[str, Any] = json.loads((tmp_path / "facts.json").read_text())
    return facts


def test_paths_are_of_the_working_folder_and_may_name_variables(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    wanted = [{"name": "here", "path": "x"}, {"name": "there", "path": "$DATA/x"}, {"name": "gone", "path": "none"}]
    inputs = described(tmp_path, inputs=wanted)["inputs"]
    assert inputs["here"]["digest"] == inputs["there"]["digest"] == sha256(b"1")
    assert "none" in inputs["gone"]["error"]


def test_nothing_asked_for_is_nothing_found(tmp_path: Path) -> None:
    assert described(tmp_path) == {}


def test_the_python_of_the_jobs_path_tells_its_packages(tmp_path: Path) -> None:
    found = describe_python({"PATH": str(Path(sys.executable).parent)}, str(tmp_path))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "pytest" in found["packages"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (None, "no python on the job's PATH"),
        ("exit 3", "did not say"),
        ("echo not json", "did not say"),
        ("echo [1]", "said something else"),
    ],
)
def test_a_python_that_does_not_tell_is_said(tmp_path: Path, program: str | None, words: str) -> None:
    if program is not None:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "python").chmod(0o755)
    assert words in describe_python({"PATH": str(tmp_path)}, str(tmp_path))["error"]
