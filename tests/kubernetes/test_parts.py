"""Where the programs of the test cluster come from, and what is said where they cannot be had."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kubernetes import parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the programs shall be; nothing is there yet."""
    folder = tmp_path / "programs"
    monkeypatch.setenv("DUJIANG_TEST_PARTS", str(folder))
    return folder


def test_what_is_there_is_taken(folder: Path) -> None:
    folder.mkdir()

    assert parts.build() == folder


def test_without_go_it_says_what_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(parts.MissingParts, match=r"there is no Go: install Go 1\.21 or newer"):
        parts.build()
    assert not folder.exists()


def test_with_an_old_go_it_says_so(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    with pytest.raises(parts.MissingParts, match=r"Go is too old \(go1\.19\.8\)"):
        parts.build()
    assert not folder.exists()


def test_other_pins_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUJIANG_TEST_PARTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(parts, "MODULES", tmp_path / "parts")
    shutil.copytree(Path(parts.__file__).parent / "parts", tmp_path / "parts")
    before = parts.place()

    with (tmp_path / "parts" / "etcd" / "go.sum").open("a") as pins:
        pins.write("\n")

    assert parts.place() != before
    assert parts.place().parent == before.parent == tmp_path / "dujiang" / "parts"
