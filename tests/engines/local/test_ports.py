"""Ports are given to one attempt at a time, and never while something listens on them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dujiang.engines.local import ports


@pytest.fixture
def lock_file(tmp_path: Path) -> str:
    return str(tmp_path / "ports.lock")


def test_as_many_as_asked_within_the_range_and_all_different(lock_file: str) -> None:
    fd, taken = ports.take(lock_file, 5, "job_a.1")
    os.close(fd)
    assert len(set(taken)) == 5
    assert all(ports.FIRST <= port <= ports.LAST for port in taken)


def test_the_same_attempt_looks_at_the_same_ports_first(lock_file: str, tmp_path: Path) -> None:
    fd, first = ports.take(lock_file, 1, "job_a.1")
    os.close(fd)
    other, second = ports.take(str(tmp_path / "another"), 1, "job_a.1")
    os.close(other)
    assert first == second


def test_another_process_is_given_others_while_they_are_held(lock_file: str) -> None:
    read_end, write_end = os.pipe()
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:  # a lock is its process's, so it takes another process to see it
        os.close(release)
        _, taken = ports.take(lock_file, 3, "job_a.1")
        os.write(write_end, ",".join(map(str, taken)).encode())
        os.read(hold, 1)
        os._exit(0)
    theirs = {int(port) for port in os.read(read_end, 100).split(b",")}
    fd, ours = ports.take(lock_file, 3, "job_a.1")
    assert not theirs & set(ours)
    os.close(fd)
    os.close(release)
    os.waitpid(child, 0)
    fd, ours = ports.take(lock_file, 3, "job_a.1")
    assert theirs & set(ours), "free again when their process is gone"
    for each in (fd, read_end, write_end, hold):
        os.close(each)


def test_what_is_listened_on_is_passed_over(lock_file: str) -> None:
    fd, (port,) = ports.take(lock_file, 1, "job_a.1")
    os.close(fd)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", port))
        listening.listen()
        fd, (other,) = ports.take(lock_file, 1, "job_a.1")
        os.close(fd)
    assert other != port


def test_more_than_there_are_is_refused_with_the_range(lock_file: str) -> None:
    with pytest.raises(OSError, match=f"between {ports.FIRST} and {ports.LAST}"):
        ports.take(lock_file, ports.LAST - ports.FIRST + 2, "job_a.1")
