"""Files below a folder that somebody else may change: what is opened, what is listed, and what never is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dujiang.kit import beneath
from dujiang.kit.beneath import LeadsOut, NoRegularFile, NotTheirs, Place

ME = os.geteuid()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    out = tmp_path / "top" / "job" / "out"
    (out / "deep").mkdir(parents=True)
    (out / "a").write_text("A")
    (out / "deep" / "b").write_text("BB")
    (tmp_path / "private").write_text("not theirs")
    return Place(str(tmp_path / "top"), ("job", "out"), ME)


def read(place: Place, path: str) -> bytes:
    with beneath.open_file(place, beneath.steps_of(path)) as file:
        return file.read()


def listed(place: Place, *, prefix: str = "", most: int = 100) -> dict[str, int]:
    return {one.path: one.size_bytes for one in beneath.list_files(place, prefix=prefix, most=most)}


def test_plain_files_are_listed_and_read(place: Place) -> None:
    assert listed(place) == {"a": 1, "deep/b": 2}
    assert (listed(place, prefix="b"), listed(place, most=1)) == ({"deep/b": 2}, {"a": 1})
    assert [read(place, path) for path in ("a", "./a", "deep//b")] == [b"A", b"A", b"BB"]


@pytest.mark.parametrize("step", ["top", "job", "out", "deep", "b"])
def test_no_step_of_the_way_may_be_a_link(place: Place, tmp_path: Path, step: str) -> None:
    path = next(path for path in tmp_path.rglob("*") if path.name == step)
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    with pytest.raises((LeadsOut, NotADirectoryError)):
        read(place, "deep/b")
    if step in ("top", "job", "out"):
        with pytest.raises((LeadsOut, NotADirectoryError)):
            listed(place)
    else:
        assert "deep/b" not in listed(place)


def test_what_is_no_regular_file_is_neither_opened_nor_listed(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "top" / "job" / "out"
    os.mkfifo(out / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(out / "socket"))
    (out / "link").symlink_to(tmp_path / "private")
    for name in ("pipe", "socket", "deep"):
        with pytest.raises(NoRegularFile):
            read(place, name)
    with pytest.raises(LeadsOut):
        read(place, "link")
    assert listed(place) == {"a": 1, "deep/b": 2}


def linked(place: Place, path: str) -> bytes:
    with beneath.open_linked_file(place, beneath.steps_of(path)) as file:
        return file.read()


@pytest.mark.parametrize(
    ("links", "path"),
    [
        ({"best": "deep/b"}, "best"), ({"best": "./deep//b"}, "best"), ({"latest": "deep"}, "latest/b"),
        ({"deep/up": "../best", "best": "latest/b", "latest": "deep"}, "deep/up"),
        ({"x": "deep/../a", "a2": "x"}, "a2"),
    ],
)  # fmt: skip
def test_links_are_followed_within_where_that_is_asked_for(
    place: Place, tmp_path: Path, links: dict[str, str], path: str
) -> None:
    out = tmp_path / "top" / "job" / "out"
    for name, target in links.items():
        (out / name).symlink_to(target)
    assert linked(place, path) == (out / path).read_bytes()
    with pytest.raises(LeadsOut):
        read(place, path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../out/a", "../../../private", "deep/../../out/a", "best", "more"])
def test_links_that_lead_out_or_round_are_not_followed(place: Place, tmp_path: Path, target: str) -> None:
    out = tmp_path / "top" / "job" / "out"
    (out / "best").symlink_to(target)
    (out / "more").symlink_to("best")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LeadsOut):
        linked(place, "best")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_to_a_folder_or_to_nothing_is_told_as_what_it_is(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "top" / "job" / "out"
    for name, target in {"folder": "deep", "itself": ".", "nothing": "gone", "through": "a/b"}.items():
        (out / name).symlink_to(target)
    for name, told in {"folder": NoRegularFile, "itself": NoRegularFile, "nothing": FileNotFoundError}.items():
        with pytest.raises(told):
            linked(place, name)
    with pytest.raises(NotADirectoryError):
        linked(place, "through")
    (out / "deep" / "b").unlink()
    out.rename(out.with_name("moved"))
    out.symlink_to("moved")
    with pytest.raises((LeadsOut, NotADirectoryError)):
        linked(place, "a")


@pytest.mark.skipif(ME != 0, reason="only root can make a device or give a file away")
def test_devices_and_files_of_others_are_not_opened(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "top" / "job" / "out"
    os.mknod(out / "null", 0o20666, os.makedev(1, 3))
    with pytest.raises(NoRegularFile):
        read(place, "null")
    for path in (out.parent, out, out / "a"):
        os.chown(path, 1234, -1)
    theirs = Place(place.top, place.steps, 1234)
    os.link(tmp_path / "private", out / "second-name")
    assert read(theirs, "a") == b"A"
    with pytest.raises(NotTheirs):
        read(theirs, "second-name")
    assert listed(theirs) == {"a": 1}
    assert read(Place(place.top, place.steps), "second-name") == b"not theirs"  # where jobs are the platform's user


@pytest.mark.parametrize("path", ["", "/", ".", "..", "/a", "../out/a", "deep/../a", "deep/.."])
def test_a_path_stays_below(path: str) -> None:
    with pytest.raises(LeadsOut):
        beneath.steps_of(path)


def test_what_is_too_deep_is_left_out(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "top" / "job" / "out"
    for depth in (beneath.DEEPEST, beneath.DEEPEST + 1):
        folder = out.joinpath(*["d"] * depth)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "c").write_text("C")
    assert [path for path in listed(place) if path.endswith("c")] == ["/".join(["d"] * beneath.DEEPEST + ["c"])]


def test_no_descriptor_is_left_open(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("a", "deep/b", "deep", "gone", "gone/x", "a/x"):
        try:
            read(place, path)
        except OSError:
            continue
    listed(place)
    assert len(os.listdir("/proc/self/fd")) == before
