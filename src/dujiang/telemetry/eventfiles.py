"""TensorBoard's event files, read on from a byte offset.

The library's own loader starts every file at its beginning and keeps its place in memory; a reader that must go on
after a restart needs an offset, so the framing (length, checksums; TFRecord) is read here and the records are decoded
by the library's message types. They are imported when the first file is met: 7 MB of memory (measured: 24 -> 31 MB with
NumPy loaded; the library's loader takes 32), so no worker process is needed. Only scalars are taken.

Source of the framing: tensorflow/tensorflow:tensorflow/core/lib/io/record_writer.cc.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from dujiang.kit.clock import EPOCH
from dujiang.telemetry.domain import Point, clean_name, good_step

PREFIX = "events.out.tfevents."
MOST_FILES = 64
DEEPEST = 6
MOST_ENTRIES = 20_000
"""Directory entries that are looked at in one search: an output folder may hold a data set."""
LARGEST_RECORD = 1 << 20
"""Scalars take some hundred bytes; larger records (images, graphs) are passed over."""
_SPLITS = frozenset({"train", "training", "val", "validation", "valid", "eval", "evaluation", "test"})
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_LATEST = EPOCH + timedelta(days=365 * 200)


@dataclass(frozen=True, slots=True)
class EventsRead:
    """What one reading of a file gave."""

    points: tuple[Point, ...]
    offset: int
    """Read on from here."""
    broken: bool = False
    """The file is not what it seems from here on: nothing more will come out of it."""


def find_event_files(root: Path) -> list[str]:
    """Return the event files under a folder, as sorted paths relative to it; links are not followed."""
    found: list[str] = []
    entries = 0
    for folder, names, files in os.walk(root, followlinks=False):
        depth = len(Path(folder).relative_to(root).parts)
        entries += len(names) + len(files)
        if depth >= DEEPEST or entries > MOST_ENTRIES:
            names.clear()
        found += [str(Path(folder, name).relative_to(root).as_posix()) for name in files if name.startswith(PREFIX)]
        if len(found) >= MOST_FILES:
            break
    return sorted(found)[:MOST_FILES]


def prefix_of(relative: str) -> str:
    """Return what goes before the tags of a file: `validation/` for Keras, which uses the same tags in two folders."""
    folder = PurePosixPath(relative).parent.name
    return f"{folder}/" if folder in _SPLITS else ""


def read_events(path: Path, offset: int, *, prefix: str = "", most_bytes: int = 4 << 20) -> EventsRead:
    """Read the records that are whole, from an offset.

    Args:
        path: of a regular file; a link, a pipe or a device is not opened.
        offset: of a record: 0, or what an earlier reading returned.
        prefix: goes before each tag.
        most_bytes: of this reading; what follows is for the next.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return EventsRead((), offset, broken=True)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            return EventsRead((), offset, broken=True)
        return _read_from(file, offset, status.st_size, prefix, most_bytes)


def _read_from(file: Any, offset: int, size: int, prefix: str, most_bytes: int) -> EventsRead:
    points: list[Point] = []
    end = min(size, offset + most_bytes)
    while offset < end:
        file.seek(offset)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            break
        length, check = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != check:
            return EventsRead(tuple(points), offset, broken=True)
        following = offset + _HEADER.size + length + _FOOTER_BYTES
        if following > size:
            break  # being written
        if length <= LARGEST_RECORD:
            body = file.read(length)
            footer = file.read(_FOOTER_BYTES)
            if len(footer) < _FOOTER_BYTES:
                break
            if int.from_bytes(footer, "little") == _masked_crc(body):
                points += _points(body, prefix)
        offset = following
    return EventsRead(tuple(points), offset)


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
