"""TensorBoard's event files, written by its own writer and read on while they grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from dujiang.telemetry.eventfiles import LARGEST_RECORD, PREFIX, WINDOW_BYTES, EventsRead, prefix_of, read_events

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


def read(content: bytes, offset: int = 0, *, window_bytes: int = WINDOW_BYTES, prefix: str = "") -> EventsRead:
    """Read a piece of a file that holds this."""
    return read_events(content[offset : offset + window_bytes], offset, len(content), prefix=prefix)


def only_file(folder: Path) -> bytes:
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    assert path.name.startswith(PREFIX)
    return path.read_bytes()


def test_scalars_of_both_kinds_are_read_with_their_own_time(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path))
    writer.add_event(_event("Loss/train", 1, 0.5))
    writer.add_event(_event("Acc", 2, 0.25, tensor=True))
    writer.add_event(_event("Loss/train", 3, float("nan")))
    writer.close()
    content = only_file(tmp_path)
    found = read(content)
    assert [(one.name, one.step) for one in found.points] == [("Loss/train", 1), ("Acc", 2), ("Loss/train", 3)]
    assert [one.value for one in found.points[:2]] == [0.5, 0.25]
    assert found.points[2].special == "nan"
    assert found.points[0].at is not None
    assert found.points[0].at.isoformat() == "2023-11-14T22:13:21+00:00"
    assert (found.offset, found.more) == (len(content), False)
    assert read(content, found.offset) == EventsRead((), len(content))


def test_a_growing_file_is_read_on_record_by_record() -> None:
    whole = b"".join(_frame(_event("loss", step, step / 2).SerializeToString()) for step in range(20))  # type: ignore[attr-defined]
    seen, offset = [], 0
    for size in range(0, len(whole) + 1, 7):
        found = read(whole[:size], offset, window_bytes=100)
        seen += found.points
        offset = found.offset
        assert not found.more or found.offset + 12 <= size
    while (found := read(whole, offset, window_bytes=100)).offset != offset:
        seen += found.points
        offset = found.offset
    assert [one.step for one in seen] == list(range(20))
    assert (offset, found.more) == (len(whole), False)


def test_a_piece_that_ends_within_a_record_says_that_there_is_more() -> None:
    whole = b"".join(_frame(_event("loss", step, 0.5).SerializeToString()) for step in range(1, 3))  # type: ignore[attr-defined]
    first = read(whole, window_bytes=len(whole) - 1)
    assert ([one.step for one in first.points], first.offset, first.more) == ([1], len(whole) // 2, True)
    assert [one.step for one in read(whole, first.offset).points] == [2]
    assert read(whole[:-1], first.offset) == EventsRead((), first.offset)  # the writer is not done with it


@pytest.mark.parametrize(
    ("content", "broken"),
    [(b"", False), (b"\0" * 11, False), (b"no event file at all", True), (_frame(b"\xff\xff no message"), False)],
)
def test_what_is_no_event_file_gives_nothing(content: bytes, broken: bool) -> None:
    found = read(content)
    assert (found.points, found.broken, found.more) == ((), broken, False)


def test_a_damaged_record_and_a_huge_one_are_passed_over() -> None:
    good = _event("loss", 1, 0.5).SerializeToString()  # type: ignore[attr-defined]
    damaged = bytearray(_frame(good))
    damaged[14] ^= 1
    content = bytes(damaged) + _frame(b"x" * (LARGEST_RECORD + 1)) + _frame(good)
    first = read(content)
    assert (first.points, first.more) == ((), True)
    assert [one.value for one in read(content, first.offset).points] == [0.5]


def test_folders_that_split_the_data_go_before_the_tag(tmp_path: Path) -> None:
    assert [prefix_of(f"{folder}{PREFIX}1") for folder in ("logs/train/", "validation/", "runs/host/", "")] == [
        "train/", "validation/", "", "",
    ]  # fmt: skip
    writer = Writer(str(tmp_path))
    writer.add_event(_event("epoch_loss", 1, 0.5))
    writer.close()
    assert [one.name for one in read(only_file(tmp_path), prefix="train/").points] == ["train/epoch_loss"]
