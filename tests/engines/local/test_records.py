"""The state file of an attempt: what was written whole is read, what is torn is absent, the lock tells who lives."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dujiang.engines.local import records


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "job_a.1")


@pytest.fixture
def fd(path: str) -> Iterator[int]:
    opened = records.create_state(path)
    yield opened
    os.close(opened)


END = {"end": "Exited", "exit_code": 3, "signal": None, "rank": 0, "at": 1, "final": True}


def end(fd: int, **fields: object) -> dict[str, object]:
    records.write_end(fd, {**END, **fields})
    found = records.read_end(fd)
    assert found is not None
    return found


# The file


def test_a_new_file_has_its_whole_room_and_nothing_in_it(fd: int) -> None:
    assert os.fstat(fd).st_size == records.STATE_BYTES
    assert os.fstat(fd).st_blocks * 512 >= records.STATE_BYTES
    assert os.fstat(fd).st_mode & 0o077 == 0
    assert (records.read_started(fd), records.read_end(fd), records.read_stop(fd)) == (None, None, None)
    assert records.read_signals(fd, 0) == (0, [])


def test_making_it_again_keeps_what_it_holds(fd: int, path: str) -> None:
    records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, {"pid": 7})
    again = records.create_state(path)
    assert records.read_started(again) == {"pid": 7}
    os.close(again)


def test_there_is_none(tmp_path: Path) -> None:
    assert records.open_state(str(tmp_path / "none")) is None


def test_a_file_that_was_never_allocated_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "short").touch()
    fd = records.open_state(str(tmp_path / "short"))
    assert fd is not None
    assert (records.read_started(fd), records.read_stop(fd), records.read_signals(fd, 0)) == (None, None, (0, []))
    os.close(fd)


# Records


def test_a_record_is_read_as_written(fd: int) -> None:
    written = {"pid": 7, "boot": "b", "at": 1 << 60, "ports": [20000], "words": '你好 "\n'}
    records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, written)
    assert records.read_started(fd) == written


def test_a_shorter_record_replaces_a_longer_one(fd: int) -> None:
    for written in ({"words": "x" * 1000}, {"words": "y"}):
        records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, written)
    assert records.read_started(fd) == {"words": "y"}


@pytest.mark.parametrize("at", [0, 4, 8, 12, 20])
def test_a_torn_record_is_absent(fd: int, at: int) -> None:
    """One byte of the magic, the length, the checksum or the body is another."""
    records.write_record(fd, records.END_AT, records.END_BYTES, {"words": "x" * 100})
    (byte,) = os.pread(fd, 1, records.END_AT + at)
    os.pwrite(fd, bytes([byte ^ 0x55]), records.END_AT + at)
    assert records.read_end(fd) is None


@pytest.mark.parametrize("body", [b"[1, 2]", b'"text"'])
def test_a_record_of_something_else_is_absent(fd: int, body: bytes) -> None:
    import zlib

    os.pwrite(fd, struct.pack("<4sII", b"DJ1\n", len(body), zlib.crc32(body)) + body, records.END_AT)
    assert records.read_end(fd) is None


def test_what_does_not_fit_is_not_written_at_all(fd: int) -> None:
    records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, {"pid": 7})
    with pytest.raises(ValueError, match="its room is"):
        records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, {"words": "x" * records.STARTED_BYTES})
    assert records.read_started(fd) == {"pid": 7}


def test_records_do_not_touch_each_other(fd: int) -> None:
    room = records.STARTED_BYTES - 12 - len('{"a":""}')
    records.write_record(fd, records.STARTED_AT, records.STARTED_BYTES, {"a": "x" * room})
    records.request_stop(fd, 5.0)
    records.request_signal(fd, 10)
    end(fd, evidence=[["output", "y" * 1000, None]] * 100)
    assert records.read_started(fd) == {"a": "x" * room}
    assert records.read_stop(fd) is not None
    assert records.read_signals(fd, 0) == (1, [10])


# The end


def test_the_end_holds_evidence_and_facts(fd: int) -> None:
    found = end(fd, evidence=[("kernel", "oom", 5)], facts={"cpu_seconds": 1.5})
    assert found == {**END, "evidence": [["kernel", "oom", 5]], "facts": {"cpu_seconds": 1.5}}


def test_long_evidence_is_cut_and_the_last_of_much_is_left_out(fd: int) -> None:
    kept = end(fd, evidence=[("output", f"{nth} " + "x" * 5000, None) for nth in range(50)])["evidence"]
    assert isinstance(kept, list)
    assert 10 <= len(kept) < 50
    assert kept[0][1] == ("0 " + "x" * 5000)[:1000]


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_exit_status_is_never_lost_for_room(fd: int, size: int) -> None:
    found = end(fd, evidence=[("output", "你" * 2000, None)] * 50, facts={"first": "x" * size, "last": "x" * 20_000})
    assert found["exit_code"] == 3
    assert ("first" in found["facts"], "last" in found["facts"]) == (size == 100, False)  # type: ignore[operator]


# The lock


def test_a_lock_is_seen_by_others_and_taken_once(fd: int, path: str) -> None:
    other = records.create_state(path)
    assert not records.is_locked(other)
    assert records.take_lock(fd)
    assert records.is_locked(other)
    assert not records.take_lock(other)
    assert not records.is_locked(fd), "one's own lock is not another's"
    os.close(other)
    assert records.take_lock(fd), "closing another descriptor of the file does not let go"


def test_a_lock_is_kept_over_a_fork_as_long_as_a_copy_is_open(path: str) -> None:
    ours, watch = records.create_state(path), records.create_state(path)
    assert records.take_lock(ours)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)  # until the parent has seen
        os._exit(0)
    os.close(ours)
    assert records.is_locked(watch)
    os.close(write_end)
    os.close(read_end)
    os.waitpid(child, 0)
    assert not records.is_locked(watch)
    os.close(watch)


# Requests


def test_the_first_stop_begins_the_grace_and_later_ones_only_shorten_it(fd: int) -> None:
    records.request_stop(fd, 30.0)
    begun, deadline = records.read_stop(fd) or (0.0, 0.0)
    assert deadline - begun == pytest.approx(30.0)
    records.request_stop(fd, 60.0)
    assert records.read_stop(fd) == (begun, deadline)
    records.request_stop(fd, 0.0)
    again, sooner = records.read_stop(fd) or (0.0, 0.0)
    assert again == begun
    assert begun <= sooner < begun + 5.0


def test_a_torn_stop_is_absent(fd: int) -> None:
    records.request_stop(fd, 30.0)
    os.pwrite(fd, b"\xff", records.STOP_AT + 10)
    assert records.read_stop(fd) is None


def test_signals_are_read_in_order_and_once(fd: int) -> None:
    for number in (10, 12):
        records.request_signal(fd, number)
    assert records.read_signals(fd, 0) == (2, [10, 12])
    records.request_signal(fd, 1)
    assert records.read_signals(fd, 2) == (3, [1])
    assert records.read_signals(fd, 3) == (3, [])


def test_of_many_signals_the_last_64_are_kept(fd: int) -> None:
    for nth in range(100):
        records.request_signal(fd, nth % 64 + 1)
    count, numbers = records.read_signals(fd, 0)
    assert count == 100
    assert numbers == [nth % 64 + 1 for nth in range(36, 100)]


def test_a_boot_has_one_name() -> None:
    assert records.boot_id() == records.boot_id() != ""
