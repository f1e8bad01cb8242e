"""The shipped signatures are sound, and a bad row is refused with file and line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dujiang.health.causes import ABOUT, Cause
from dujiang.health.patterns import PatternRefused, check_pattern, uncovered
from dujiang.health.scanner import LONGEST_LINE, Scanner, Text
from dujiang.health.signatures import BadSignature, Library, load, load_folder

ROW = {
    "id": "a-row", "pattern": "lost (?P<what>\\w+) of node", "literal": "of node", "cause": "NodeLost", "role": "root",
    "source": "made up", "example": "lost contact of node",
}  # fmt: skip


def _file(*rows: dict[str, object]) -> list[tuple[str, str]]:
    return [("site.yaml", json.dumps({"signatures": list(rows)}))]


def test_every_cause_says_what_it_means() -> None:
    assert set(ABOUT) == set(Cause)
    assert all(about.sentence.endswith((".", "!")) for about in ABOUT.values())


def test_every_shipped_example_is_found_by_its_own_signature(library: Library) -> None:
    scanner = Scanner(library)
    assert len(library.signatures) > 150
    missed = [
        (signature.id, example)
        for signature in library.signatures
        for example in signature.examples
        if signature.id not in {hit.signature.id for hit in scanner.scan(Text.of(example))}
    ]
    assert missed == []


def test_a_good_row_is_read() -> None:
    (signature,) = load(_file(ROW)).signatures
    assert (signature.cause, signature.blame.value, signature.literals) == (
        Cause.NODE_LOST,
        "infrastructure",
        ("of node",),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cause": "NodeLots"}, 'Did you mean "NodeLost"'),
        ({"cause": "Whatever"}, "unknown cause"),
        ({"pattern": "lost ("}, "not a regular expression"),
        ({"pattern": "(a+)+ of node"}, "exponential"),
        ({"pattern": "(?:a|aa)* of node"}, "exponential"),
        ({"pattern": r"(\w+) of node \1"}, "back references"),
        ({"pattern": ".*x.*y.*z.* of node"}, "open-ended"),
        ({"pattern": "(?:of node)?"}, "empty line"),
        ({"pattern": "x" * 600}, "600 characters"),
        ({"literal": ""}, "`literal` is missing"),
        ({"literal": "of"}, "4 or more"),
        ({"literal": "of nodes"}, "in its example"),
        ({"pattern": "lost (?:contact of node|power)"}, "holds no literal"),
        ({"example": "found contact"}, "does not match its own example"),
        ({"example": None}, "`example` is missing"),
        ({"severity": "loud"}, "`severity` is one of"),
        ({"scope": "moon"}, "`scope` is one of"),
        ({"blame": "fate"}, "fate"),
        ({"role": "hero"}, "hero"),
        ({"sentence": "Lost {whom}."}, "group"),
        ({"id": "A Row"}, "lower case"),
        ({"colour": "red"}, "unknown key"),
        ({"retryable": "maybe"}, "true or false"),
        ({"pattern": 7}, "is a text"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadSignature) as refused:
        load(_file(ROW, {**ROW, "id": "b-row", **change}))
    assert words in str(refused.value)
    assert str(refused.value).startswith("site.yaml, line 1")


def test_the_line_of_a_bad_row_is_that_of_the_file() -> None:
    text = (
        "# comment\nsignatures:\n- " + "\n  ".join(f"{key}: '{value}'" for key, value in ROW.items()) + "\n- {id: b}\n"
    )
    with pytest.raises(BadSignature, match=r"site.yaml, line 10 \(b\): `pattern` is missing"):
        load([("site.yaml", text)])


def test_an_identifier_used_twice_is_refused_and_says_where_the_first_is() -> None:
    with pytest.raises(BadSignature, match=r"two.yaml, line 1: the identifier 'a-row' is used already in site.yaml"):
        load([*_file(ROW), ("two.yaml", _file(ROW)[0][1])])


@pytest.mark.parametrize("text", ["signatures: [", "[]", "signatures: 3", "", "signatures: [7]", "a: &a [*a]"])
def test_a_file_that_is_no_signature_file_is_refused(text: str) -> None:
    with pytest.raises(BadSignature, match=r"site\.yaml"):
        load([("site.yaml", text)])


@pytest.mark.parametrize("pattern", ["a{1,3}b", "(?:ab){2}c", r"x\d+\.\d+ of \S+", "(?i)a (?:b|c) d"])
def test_harmless_repeats_are_allowed(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(?:a+b?)+c", "(?:(?:a{1,9}){1,9})+b", "(?:.*a){20}"])
def test_runaway_repeats_are_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "literals", "covered"),
    [
        ("foo bar", ["foo "], True),
        ("foo|bar!", ["foo"], False),
        ("foo|bar!", ["foo", "bar!"], True),
        ("(?:foo)? bar", ["foo"], False),
        (r"ERROR \d+ here", ["error "], True),
        (r"[Oo]ut of", ["out of"], True),
        (r"Read(?:Timeout|Error)", ["readtimeout", "readerror"], True),
        (r"a\bb (?=cdef)", ["cdef"], False),
    ],
)
def test_a_literal_must_be_on_every_way_through(pattern: str, literals: list[str], covered: bool) -> None:
    assert (uncovered(pattern, literals) is None) is covered


_HURT = """
import sys, time
from dujiang.health.signatures import load_shipped
from dujiang.health.scanner import LONGEST_LINE
worst = (0.0, "")
for one in load_shipped().signatures:
    for example in one.examples:
        for line in (example[:-1] * 200, example[:-1] + "a" * 4000, example[:-1] + " 1" * 2000, " " * 4000,
                     one.literals[0] * 300, example[: len(example) // 2] + "[(:. " * 800):
            began = time.perf_counter()
            one.pattern.search(line[:LONGEST_LINE])
            worst = max(worst, (time.perf_counter() - began, one.id))
print(worst[0], worst[1])
"""


def test_no_shipped_pattern_takes_long_on_a_line_made_to_hurt_it() -> None:
    # A process of its own with a limit: a pattern that runs away must fail the test, not hang it.
    done = subprocess.run(
        [sys.executable, "-c", _HURT], capture_output=True, text=True, timeout=60, check=True, env=os.environ
    )
    seconds, name = done.stdout.split()
    assert float(seconds) < 0.2, f"{name} took {seconds} s on one line of {LONGEST_LINE} characters"


def test_a_folder_that_is_not_there_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(BadSignature, match="is no folder; set health"):
        load_folder(tmp_path / "none")
    assert load_folder(tmp_path).signatures == ()
