"""The scanner finds exactly what trying every pattern on every line finds, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dujiang.health.scanner import LONGEST_LINE, MOST_BYTES, MOST_TRIES, Scanner, Text
from dujiang.health.signatures import Library, load_shipped

LIBRARY = load_shipped()
SCANNER = Scanner(LIBRARY)
EXAMPLES = [example for signature in LIBRARY.signatures for example in signature.examples]
noise = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
lines = st.lists(st.one_of(st.sampled_from(EXAMPLES), noise, st.tuples(noise, st.sampled_from(EXAMPLES)).map("".join)))


@given(lines.map("\n".join))
@settings(max_examples=60, deadline=None)
def test_same_as_trying_every_pattern_on_every_line(text: str) -> None:
    cut = Text.of(text)
    expected = {
        (number, signature.id)
        for number, (_, line) in enumerate(cut.plain())
        for signature in LIBRARY.signatures
        if signature.pattern.search(line)
    }
    found = {(hit.number, hit.signature.id) for hit in SCANNER.scan(cut)}
    counts: dict[str, int] = {}
    for _, name in expected:
        counts[name] = counts.get(name, 0) + 1
    bounded = {pair for pair in expected if counts[pair[1]] <= MOST_TRIES}
    assert {pair for pair in found if counts.get(pair[1], 0) <= MOST_TRIES} == bounded


@given(st.text(max_size=400))
@settings(max_examples=50, deadline=None)
def test_any_text_is_scanned(text: str) -> None:
    SCANNER.scan(Text.of(text))


def test_input_is_bounded() -> None:
    text = Text.of("x" * 10_000_000 + "\n" + "y" * 9000 + "\nlast")
    assert text.lines[-1] == "last"
    assert max(map(len, text.lines)) <= LONGEST_LINE
    assert sum(map(len, Text.of("ab cd\n" * 1_000_000).lines)) <= MOST_BYTES


def test_one_endless_line_is_cut_and_not_lost() -> None:
    (hit,) = SCANNER.scan(Text.of("x " * MOST_BYTES + "No space left on device" + " y" * 100)) or [None]
    assert hit is None  # beyond what is kept of one line
    (hit,) = SCANNER.scan(Text.of("x " * MOST_BYTES + "No space left on device" + " y" * (MOST_BYTES // 2 - 100)))
    assert hit.signature.id == "disk-full"


def test_colour_does_not_hide_a_message() -> None:
    (hit,) = SCANNER.scan(Text.of("\x1b[31mOSError:\x1b[0m [Errno 28] No space \x1b[1mleft on device\x1b[0m"))
    assert hit.signature.id == "disk-full"


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("[rank0]: KeyError: 1", ("[rank0]: ", "KeyError: 1")),
        ("2025-03-10T13:52:10.316Z   File", ("", "  File")),
        ("[1,0]<stderr>:Traceback", ("[1,0]<stderr>:", "Traceback")),
        ("2025-03-10 13:52:10,316 (Trainer pid=7, ip=10.0.0.1) 3: x", ("(Trainer pid=7, ip=10.0.0.1) 3: ", "x")),
        ("sh: 3: x", ("", "sh: 3: x")),
        ("12:30 x", ("", "12:30 x")),
    ],
)
def test_what_launchers_put_before_a_line_is_taken_off(line: str, plain: tuple[str, str]) -> None:
    assert Text.of(line).plain() == [plain]


def test_a_library_without_rows_finds_nothing() -> None:
    assert Scanner(Library.of([])).scan(Text.of("No space left on device")) == []
