"""Output at exact offsets, from logs that have none: cut anywhere, read again from the last second, thrown away."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.engines.kubernetes import output
from dujiang.engines.kubernetes.output import At, Writer

LINES = [
    ("2026-01-31T12:00:00.000000001Z", b"one\n"),
    ("2026-01-31T12:00:00.500000000Z", b"two \xff\n"),
    ("2026-01-31T12:00:01.000000000Z", b"\n"),
    ("2026-01-31T20:00:01.250000000+08:00", b"2026-01-31T12:00:09Z is no time of ours\n"),
    ("2026-01-31T12:00:02.999999999Z", b"last without an end"),
]
WHOLE = b"".join(text for _, text in LINES)


def told(since: str = "", lines: list[tuple[str, bytes]] = LINES) -> bytes:
    """Return what a kubelet tells from a second on."""
    first = output._nanos(since.encode()) if since else 0
    return b"".join(stamp.encode() + b" " + text for stamp, text in lines if output._nanos(stamp.encode()) >= first)


def read(folder: Path) -> bytes:
    return b"".join((folder / output._name(start)).read_bytes() for start in output._starts(folder))


def at_of(folder: Path) -> At:
    return At(**orjson.loads((folder / "at.json").read_bytes())) if (folder / "at.json").exists() else At()


def pull(folder: Path, data: bytes, cut: int = 7) -> None:
    writer = Writer(folder, at_of(folder))
    for start in range(0, len(data), cut):
        writer.take(data[start : start + cut])
    writer.close(is_whole=False)


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_output_is_what_was_printed_however_it_is_cut(tmp_path: Path, cut: int) -> None:
    pull(tmp_path, told(), cut)
    assert read(tmp_path) == WHOLE
    assert at_of(tmp_path).size == len(WHOLE)


@settings(max_examples=60)
@given(st.integers(0, len(LINES)), st.integers(0, 30), st.integers(1, 40))
def test_reading_on_from_any_moment_adds_what_is_new_alone(
    tmp_path_factory: pytest.TempPathFactory, whole: int, more: int, cut: int
) -> None:
    """As if the node had had so many whole lines at the first look, and so many bytes of the next one."""
    folder = tmp_path_factory.mktemp("log")
    part = [(stamp, text[:more]) for stamp, text in LINES[whole : whole + 1] if text[:more]]
    pull(folder, told(lines=[*LINES[:whole], *part]), cut)
    before = b"".join(text for _, text in [*LINES[:whole], *part])
    assert read(folder) == before
    at = at_of(folder)
    pull(folder, told(output._second(at.last_ns) if at.last_ns else ""), cut)
    assert read(folder) == WHOLE
    pull(folder, told(output._second(at_of(folder).last_ns)), cut)
    assert read(folder) == WHOLE


def test_what_the_node_threw_away_is_missing_and_the_rest_goes_on(tmp_path: Path) -> None:
    pull(tmp_path, told(lines=LINES[:1]))
    pull(tmp_path, told(lines=LINES[3:]))
    assert read(tmp_path) == LINES[0][1] + LINES[3][1] + LINES[4][1]


@pytest.mark.parametrize("known", [0, 2])
def test_what_a_kubelet_says_in_the_place_of_output_is_none(tmp_path: Path, known: int) -> None:
    """Seen on 1.36.3 when a container was just removed: status 200, and this."""
    pull(tmp_path, told(lines=LINES[:known]))
    before = read(tmp_path)
    pull(
        tmp_path, b"unable to retrieve container logs for containerd://181d8124b4f5e5322fe231b29f5c6df1d202c41407b83e66"
    )
    assert read(tmp_path) == before


def test_the_tail_of_a_line_that_began_before_is_known(tmp_path: Path) -> None:
    """A line of several entries is told from the middle on when it began before the second that is asked from."""
    pull(tmp_path, told(lines=[("2026-01-31T12:00:00.9Z", b"a long line\n"), ("2026-01-31T12:00:01.5Z", b"next\n")]))
    pull(tmp_path, b"2026-01-31T12:00:01.1Z line\n2026-01-31T12:00:01.5Z next\n2026-01-31T12:00:01.6Z new\n")
    assert read(tmp_path) == b"a long line\nnext\nnew\n"


def test_no_more_than_the_last_pieces_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIECE_BYTES", 10)
    monkeypatch.setattr(output, "PIECES", 3)
    text = b"".join(b"%03d " % nth for nth in range(25)) + b"\n"
    pull(tmp_path, told(lines=[(LINES[0][0], text)]), 5)
    kept = read(tmp_path)
    assert text.endswith(kept)
    assert 20 < len(kept) <= 30
    assert at_of(tmp_path).size == len(text)


def test_a_time_is_exact_to_the_nanosecond() -> None:
    assert output._nanos(b"2026-01-31T12:00:00.123456789Z") % 10**9 == 123456789
    assert output._nanos(b"2026-01-31T12:00:00.5Z") == output._nanos(b"2026-01-31T20:00:00.500000000+08:00")
    assert output._nanos(b"2026-01-31T12:00:00Z") % 10**9 == 0
    assert output._nanos(b"no time") == 0
