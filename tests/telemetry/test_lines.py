"""The fold over output: cuts, restarts and hostile bytes make no difference."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dujiang.telemetry.domain import LONGEST_NAME, Point
from dujiang.telemetry.forms import LONGEST_LINE
from dujiang.telemetry.lines import MOST_NAMES, LineReader, LineState

LINES = (
    b"epoch=1 loss=0.5\n", b"loss: nan\n", b"{'loss': 0.4, 'epoch': 1.5}\n", b"Epoch 2/3\n", b"loss=\xff\xfe0.1\n",
    b" 10/20 [===>...] - loss: 0.7\r", b" 20/20 [=====] - loss: 0.6\x08\x08\x08", b"hello\n", b"\r\n", b"acc=0.9\n",
    b"\x1b[1m",
)  # fmt: skip
output = st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=20)), max_size=15).map(b"".join)


def _whole(data: bytes) -> list[Point]:
    reader = LineReader()
    return [*reader.feed(data), *reader.finish()]


def _same(a: list[Point], b: list[Point]) -> bool:
    return repr(a) == repr(b)  # NaN is not equal to itself


@given(output, st.lists(st.integers(0, 400)))
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = LineReader()
    found = [point for a, b in pairwise(edges) for point in reader.feed(data[a:b], a)]
    assert _same(found + reader.finish(), _whole(data))


@given(output, st.lists(st.integers(0, 400)))
def test_a_restart_anywhere_counts_nothing_twice(data: bytes, cuts: list[int]) -> None:
    found: list[Point] = []
    state = LineState()
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        reader = LineReader(LineState.from_json(json.loads(json.dumps(state.to_json()))))
        found += reader.feed(data[state.offset : max(cut, state.offset)], state.offset)
        state = reader.state
    reader = LineReader(state)
    found += reader.feed(data[state.offset :], state.offset)
    assert _same(found + reader.finish(), _whole(data))


@given(output, st.integers(0, 100))
def test_bytes_given_again_are_passed_over(data: bytes, back: int) -> None:
    reader = LineReader()
    found = reader.feed(data, 0)
    begin = max(0, len(data) - back)
    found += reader.feed(data[begin:], begin)
    assert _same(found + reader.finish(), _whole(data))


def test_a_gap_leaves_the_cut_line_out() -> None:
    reader = LineReader()
    assert reader.feed(b"loss=1\nloss=", 0) == [Point("loss", 1, 1.0)]
    assert reader.feed(b"9\nloss=3\n", 100) == [Point("loss", 2, 3.0)]
    assert reader.state.offset == 109


def test_a_line_without_end_is_not_kept() -> None:
    reader = LineReader()
    for _ in range(100):
        assert reader.feed(b"loss=1 " * 15_000) == []
        assert len(reader._partial) <= 4 * LONGEST_LINE
    assert reader.state.skipping
    assert LineReader(LineState.from_json(reader.state.to_json())).feed(b"x\nloss=2\n") == [Point("loss", 1, 2.0)]


def test_steps_are_counted_where_none_is_named() -> None:
    assert _whole(b"loss=3\nloss=2\nacc=1\nloss=1") == [
        Point("loss", 1, 3.0), Point("loss", 2, 2.0), Point("acc", 1, 1.0), Point("loss", 3, 1.0),
    ]  # fmt: skip


def test_a_summary_without_a_step_does_not_replace_a_step_before_it() -> None:
    assert [point.step for point in _whole(b"epoch=6 loss=1\nepoch=7 loss=2\nfinal loss=3\n")] == [6, 7, 8]


def test_names_are_bounded() -> None:
    reader = LineReader()
    lines = b"".join(b"step=1 loss_%d=1\n" % number for number in range(MOST_NAMES + 50))
    assert len(reader.feed(lines)) == MOST_NAMES
    assert reader.state.dropped == 50
    assert all(len(point.name) <= LONGEST_NAME for point in _whole(b"step=1 " + b"x" * 500 + b"=1 loss=2\n"))
