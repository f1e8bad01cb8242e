"""TensorBoard's event files, written by its own writer and read on while they grow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from dujiang.telemetry.eventfiles import LARGEST_RECORD, PREFIX, find_event_files, prefix_of, read_events
from dujiang.telemetry.service import read_event_files

Writer = EventFileWriter


def _event(tag: str, step: int, value: float, *, tensor: bool = False) -> object:
    one = (
        summary_pb2.Summary.Value(tag=tag, tensor=make_tensor_proto(value))
        if tensor
        else summary_pb2.Summary.Value(tag=tag, simple_value=value)
    )
    return event_pb2.Event(wall_time=1_700_000_000.0 + step, step=step, summary=summary_pb2.Summary(value=[one]))


def _frame(body: bytes) -> bytes:
    header = len(body).to_bytes(8, "little")
    return header + masked_crc32c(header).to_bytes(4, "little") + body + masked_crc32c(body).to_bytes(4, "little")


def test_scalars_of_both_kinds_are_read_with_their_own_time(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path))
    writer.add_event(_event("Loss/train", 1, 0.5))
    writer.add_event(_event("Acc", 2, 0.25, tensor=True))
    writer.add_event(_event("Loss/train", 3, float("nan")))
    writer.close()
    (relative,) = find_event_files(tmp_path)
    read = read_events(tmp_path / relative, 0)
    assert [(one.name, one.step) for one in read.points] == [("Loss/train", 1), ("Acc", 2), ("Loss/train", 3)]
    assert [one.value for one in read.points[:2]] == [0.5, 0.25]
    assert read.points[2].special == "nan"
    assert read.points[0].at is not None
    assert read.points[0].at.isoformat() == "2023-11-14T22:13:21+00:00"
    assert read.offset == (tmp_path / relative).stat().st_size
    assert read_events(tmp_path / relative, read.offset).points == ()


def test_a_growing_file_is_read_on_record_by_record(tmp_path: Path) -> None:
    path = tmp_path / f"{PREFIX}1"
    whole = b"".join(_frame(_event("loss", step, step / 2).SerializeToString()) for step in range(20))  # type: ignore[attr-defined]
    seen, offset = [], 0
    for size in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:size])
        read = read_events(path, offset, most_bytes=100)
        seen += read.points
        offset = read.offset
    path.write_bytes(whole)
    while (read := read_events(path, offset, most_bytes=100)).offset != offset:
        seen += read.points
        offset = read.offset
    assert [one.step for one in seen] == list(range(20))


@pytest.mark.parametrize(
    ("content", "broken"),
    [(b"", False), (b"\0" * 11, False), (b"no event file at all", True), (_frame(b"\xff\xff no message"), False)],
)
def test_what_is_no_event_file_gives_nothing(tmp_path: Path, content: bytes, broken: bool) -> None:
    path = tmp_path / f"{PREFIX}x"
    path.write_bytes(content)
    read = read_events(path, 0)
    assert (read.points, read.broken) == ((), broken)


def test_a_damaged_record_and_a_huge_one_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / f"{PREFIX}x"
    good = _event("loss", 1, 0.5).SerializeToString()  # type: ignore[attr-defined]
    damaged = bytearray(_frame(good))
    damaged[14] ^= 1
    path.write_bytes(bytes(damaged) + _frame(b"x" * (LARGEST_RECORD + 1)) + _frame(good))
    assert [one.value for one in read_events(path, 0).points] == [0.5]


def test_only_regular_files_inside_the_folder_are_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{PREFIX}secret").write_bytes(_frame(_event("loss", 1, 0.5).SerializeToString()))  # type: ignore[attr-defined]
    root = tmp_path / "out"
    root.mkdir()
    os.mkfifo(root / f"{PREFIX}pipe")
    (root / f"{PREFIX}link").symlink_to(outside / f"{PREFIX}secret")
    (root / "folder").symlink_to(outside)
    assert read_event_files(root, {}) == {}
    assert read_event_files(tmp_path / "nowhere", {}) == {}


def test_folders_that_split_the_data_go_before_the_tag(tmp_path: Path) -> None:
    for folder in ("train", "validation"):
        writer = Writer(str(tmp_path / "logs" / folder))
        writer.add_event(_event("epoch_loss", 1, 0.5))
        writer.close()
    read = read_event_files(tmp_path, {})
    assert sorted(one.name for part in read.values() for one in part.points) == [
        "train/epoch_loss",
        "validation/epoch_loss",
    ]
    assert read_event_files(tmp_path, {relative: one.offset for relative, one in read.items()}) == {}
    assert prefix_of(f"runs/host/{PREFIX}1") == ""
