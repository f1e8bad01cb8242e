"""Which regular expressions may be used on hostile text: those whose work stays bounded, told from their structure.

Python's matcher backtracks: `(a+)+b` takes exponential time on a line of a's, and one job could stop the platform by
printing it. Rather than racing a clock, a pattern is refused when it can run away: a repeat without end inside another,
alternatives inside one, back references, or more than `MOST_LOOSE` wide repeats (polynomial time; lines are cut, so
what remains is bounded, and the test suite measures every shipped pattern on lines made to hurt it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import _constants, _parser  # type: ignore[attr-defined]  # the parser has no public door; stable since 3.11
from typing import Any

LONGEST_PATTERN = 500
MOST_LOOSE = 3
"""Wide repeats without end (`.*`, `\\S+`) that one pattern may have on a path through it."""


class PatternRefused(ValueError):
    """The pattern is wrong, or could take unbounded time."""


def check_pattern(text: str) -> re.Pattern[str]:
    """Return the compiled pattern.

    Raises:
        PatternRefused: it does not compile, is too long, matches nothing at all, or can run away.
    """
    if len(text) > LONGEST_PATTERN:
        raise PatternRefused(f"the pattern has {len(text)} characters; {LONGEST_PATTERN} are allowed.")
    try:
        pattern = re.compile(text)
        tree = _parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternRefused(f"the pattern is not a regular expression: {error}.") from error
    if pattern.search("") is not None:
        raise PatternRefused("the pattern matches the empty line, so it would match every line.")
    if _loose(tree, inside=False) > MOST_LOOSE:
        raise PatternRefused(f"more than {MOST_LOOSE} open-ended wide repeats: name what stands between them.")
    return pattern


def uncovered(text: str, literals: Sequence[str]) -> str | None:
    """Return a way through the pattern that needs none of the literals, or None when every match holds one of them.

    Literals are lower case. Shown with a dot where anything may stand.
    """
    for path in _paths(_parser.parse(text)):
        runs = path.lower().split(_BREAK)
        if not any(literal in run for literal in literals for run in runs):
            return path.replace(_BREAK, ".")
    return None


_BREAK = "\0"
MOST_PATHS = 4000
_SMALL_SET = 4


def _paths(tree: Any) -> list[str]:
    """Return the texts along every way through a pattern, `_BREAK` where what stands there is not fixed."""
    paths = [""]
    for kind, value in tree:
        if kind is _constants.AT:  # a boundary takes no text: what stands on its two sides is side by side
            continue
        options = _options(kind, value)
        if len(paths) * len(options) > MOST_PATHS:
            options = [_BREAK]
        paths = [path + option for path in paths for option in options]
    return list(dict.fromkeys(paths))


def _options(kind: Any, value: Any) -> list[str]:
    if kind is _constants.LITERAL:
        return [chr(value)]
    if kind is _constants.SUBPATTERN:
        return _paths(value[3])
    if kind is _constants.BRANCH:
        return [path for branch in value[1] for path in _paths(branch)]
    if kind is _constants.IN and len(value) <= _SMALL_SET and all(part is _constants.LITERAL for part, _ in value):
        return [chr(code) for _, code in value]
    if kind in _REPEATS and value[0] >= 1:
        return [path + _BREAK for path in _paths(value[2])]
    return [_BREAK]


_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
_WIDE_ENOUGH = 256
"""A bounded repeat up to this many is not counted as open-ended."""


def _loose(tree: Any, *, inside: bool) -> int:
    """Count wide open-ended repeats on the worst path, and refuse nesting that backtracks without bound."""
    count = 0
    for kind, value in tree:
        if kind in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise PatternRefused("back references are not allowed.")
        if kind in _REPEATS:
            low, high, body = value
            endless = high is _constants.MAXREPEAT or high > _WIDE_ENOUGH
            if inside and high != low:
                raise PatternRefused("a repeat inside a repeat can take exponential time.")
            below = _loose(body, inside=inside or endless)
            count += below * (min(high, _WIDE_ENOUGH) if not endless else 1) + (endless and _is_wide(body))
        elif kind is _constants.BRANCH:
            if inside:
                raise PatternRefused("alternatives inside an endless repeat can take exponential time.")
            count += max(_loose(branch, inside=inside) for branch in value[1])
        elif kind is _constants.SUBPATTERN:
            count += _loose(value[3], inside=inside)
        elif kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            count += _loose(value[1], inside=inside)
        elif kind is _constants.ATOMIC_GROUP:
            count += _loose(value, inside=inside)
    return count


def _is_wide(body: Any) -> bool:
    """Say whether one turn of a repeat takes nearly any character: `.`, a negated set, `\\S`, `\\W`, `\\D`, `\\w`."""
    if len(body) != 1:
        return True
    kind, value = body[0]
    if kind is not _constants.IN:
        return kind is not _constants.LITERAL
    categories = {item for part, item in value if part is _constants.CATEGORY}
    narrow = {_constants.CATEGORY_DIGIT, _constants.CATEGORY_SPACE}
    return any(part is _constants.NEGATE for part, _ in value) or bool(categories - narrow)
