"""TensorBoard's event files, read on from a byte offset.

The library's own loader starts every file at its beginning and keeps its place in memory; a reader that must go on
after a restart needs an offset, so the framing (length, checksums; TFRecord) is read here and the records are decoded
by the library's message types. They are imported when the first file is met: 7 MB of memory (measured: 24 -> 31 MB with
NumPy loaded; the library's loader takes 32), so no worker process is needed. Only scalars are taken.

Source of the framing: tensorflow/tensorflow:tensorflow/core/lib/io/record_writer.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from dujiang.kit.clock import EPOCH
from dujiang.telemetry.domain import Point, clean_name, good_step

PREFIX = "events.out.tfevents."
MOST_FILES = 64
LARGEST_RECORD = 1 << 20
"""Scalars take some hundred bytes; larger records (images, graphs) are passed over."""
_SPLITS = frozenset({"train", "training", "val", "validation", "valid", "eval", "evaluation", "test"})
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
WINDOW_BYTES = _HEADER.size + LARGEST_RECORD + _FOOTER_BYTES
"""Of a file are read at a time."""
_LATEST = EPOCH + timedelta(days=365 * 200)


@dataclass(frozen=True, slots=True)
class EventsRead:
    """What one reading of a file gave."""

    points: tuple[Point, ...]
    offset: int
    """Read on from here."""
    broken: bool = False
    """The file is not what it seems from here on: nothing more will come out of it."""
    more: bool = False
    """What follows the piece is there already."""


def prefix_of(relative: str) -> str:
    """Return what goes before the tags of a file: `validation/` for Keras, which uses the same tags in two folders."""
    folder = PurePosixPath(relative).parent.name
    return f"{folder}/" if folder in _SPLITS else ""


def read_events(data: bytes, offset: int, size_bytes: int, *, prefix: str = "") -> EventsRead:
    """Read the records that are whole, of a piece of a file.

    Args:
        data: the piece; `WINDOW_BYTES` hold at least one record, unless it is one that is passed over.
        offset: where in the file it begins: 0, or what an earlier reading returned.
        size_bytes: of the file.
        prefix: goes before each tag.
    """
    points: list[Point] = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, check = _HEADER.unpack_from(data, at)
        if _masked_crc(data[at : at + 8]) != check:
            return EventsRead(tuple(points), offset + at, broken=True)
        body, following = at + _HEADER.size, at + _HEADER.size + length + _FOOTER_BYTES
        if offset + following > size_bytes:
            return EventsRead(tuple(points), offset + at)  # being written
        if length <= LARGEST_RECORD:
            if following > len(data):
                break
            record = data[body : body + length]
            if int.from_bytes(data[body + length : following], "little") == _masked_crc(record):
                points += _points(record, prefix)
        at = following
    return EventsRead(tuple(points), offset + at, more=offset + at + _HEADER.size <= size_bytes)


def _points(record: bytes, prefix: str) -> Iterator[Point]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto import event_pb2

    event = event_pb2.Event()
    try:
        event.ParseFromString(record)
    except DecodeError:
        return
    at = _time(event.wall_time)
    for value in event.summary.value:
        name, number = clean_name(prefix + value.tag), _number(value)
        if name is not None and number is not None and good_step(event.step):
            yield Point(name, event.step, number, at)


def _number(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    tensor = value.tensor
    for listed in (tensor.float_val, tensor.double_val, tensor.int64_val, tensor.int_val):
        if len(listed) == 1:
            return float(listed[0])
    form = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}.get(tensor.dtype)  # DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64
    if form is None or len(tensor.tensor_content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, tensor.tensor_content)[0])


def _time(wall_time: float) -> datetime | None:
    """Return the program's own time, or None where it is no time."""
    try:
        at = EPOCH + timedelta(seconds=wall_time)
    except (OverflowError, ValueError):
        return None
    return at if EPOCH < at < _LATEST else None


def _masked_crc(data: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return int(masked_crc32c(data))
