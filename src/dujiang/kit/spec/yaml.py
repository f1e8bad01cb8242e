"""Text to values that know their line and column, whatever the text.

Decides what of YAML is taken: scalars of the YAML 1.2 core schema (so that `on`, `yes` and `1:30` stay words), aliases
and `<<` merges within limits, several documents; no tags that build objects, no repeated keys. What the values mean is
for `read` to say. JSON is read by the same road, being nearly a part of YAML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from dujiang.kit.spec.problems import Problem, Problems, SpecInvalid, quote

MAX_BYTES: Final = 2**20
"""Of one text."""
MAX_DEPTH: Final = 20
MAX_VALUES: Final = 50_000
"""Of one text, aliases counted as often as they are used: a few lines of aliases can stand for billions of values."""

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A field of a mapping: where its name stands, and its value."""

    line: int | None
    column: int | None
    value: Located

    @property
    def at(self) -> tuple[int | None, int | None]:
        """The place of the name."""
        return self.line, self.column


@dataclass(frozen=True, slots=True)
class Located:
    """A value and the place where it was written; line and column are None for a value that came without text."""

    value: Scalar | tuple[Located, ...] | Mapping[str, Entry]
    text: str = ""
    """A scalar as it was written: `1.10` stays `1.10`."""
    line: int | None = None
    column: int | None = None

    @property
    def at(self) -> tuple[int | None, int | None]:
        """The place of the value."""
        return self.line, self.column


def documents(
    source: str | bytes, problems: Problems, *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES
) -> list[Located]:
    """Return the documents of a YAML or JSON text, noting what can be noted without giving up.

    Raises:
        SpecInvalid: not text, too large, too deep, or not YAML; with the place.
    """
    text = decode(source, max_bytes)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(_Builder(yaml.parse(text, Loader=loader), problems, max_values).documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        said = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise SpecInvalid(
            [Problem("", f"This is not YAML: {said}.", _yaml_advice(said, text, where[0]), *where)]
        ) from error
    except yaml.YAMLError as error:  # the readers' complaint about a character; decode lets none of those pass
        raise SpecInvalid([Problem("", f"This is not YAML: {str(error).splitlines()[0]}.")]) from error


def from_value(value: Any) -> Located:
    """Return a value decoded from JSON in the same form, without places.

    Raises:
        SpecInvalid: too deep, too many values, or not a JSON value.
    """
    return _from_value(value, 0, [0])


def decode(source: str | bytes, max_bytes: int = MAX_BYTES) -> str:
    """Return a text with line feeds alone at its line ends; JSON as YAML takes it.

    Raises:
        SpecInvalid: too large, not UTF-8, or with characters that no text has.
    """
    size = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise SpecInvalid(
            [
                Problem(
                    "", f"The text is too long; a specification has at most {max_bytes} bytes.", "Keep data in files."
                )
            ]
        )
    if isinstance(source, bytes):
        try:
            text = source.decode("utf-8")
        except UnicodeDecodeError as error:
            before = source[: error.start].decode("utf-8")
            line, column = _place(before)
            message = f"Byte 0x{source[error.start]:02x} is not UTF-8."
            raise SpecInvalid([Problem("", message, "Save the file as UTF-8.", line, column)]) from error
    else:
        text = source
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    bad = _UNPRINTABLE.search(text)
    if bad:
        line, column = _place(text[: bad.start()])
        name = f"U+{ord(bad[0]):04X}"
        raise SpecInvalid(
            [Problem("", f"The character {name} cannot stand in a specification.", "Remove it.", line, column)]
        )
    return _json_as_yaml(text) if text.lstrip()[:1] in {"{", "["} else text


# What YAML takes for printable (YAML 1.1, section 5.1), less the surrogates.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)")


def _json_as_yaml(text: str) -> str:
    """Return valid JSON as the YAML reader takes it: blanks for tabs, characters for pairs of surrogates."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text

    def join(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        return chr(0x10000 + ((int(match[1], 16) - 0xD800) << 10) + int(match[2], 16) - 0xDC00)

    return _JSON_ESCAPE.sub(join, text.replace("\t", " "))


def _place(before: str) -> tuple[int, int]:
    lines = before.split("\n")
    return len(lines), len(lines[-1]) + 1


def _yaml_advice(said: str, text: str, line: int | None) -> str:
    lines = text.split("\n")
    there = lines[line - 1] if line is not None and 0 < line <= len(lines) else ""
    if "\t" in there[: len(there) - len(there.lstrip())] or ("\t" in there and "cannot start any token" in said):
        return "Indent with blanks; YAML takes no tabs."
    if "mapping values are not allowed" in said:
        return 'A colon inside a value needs quotes ("..."), or the indentation is off.'
    if "block end" in said or "block mapping" in said:
        return "Lines of one block begin in the same column."
    if "alias" in said:
        return "Put a value that begins with * in quotes."
    return ""


class _Builder:
    """Makes trees of parse events, without recursion into the text's own nesting beyond MAX_DEPTH."""

    def __init__(self, events: Iterator[Any], problems: Problems, max_values: int) -> None:
        self._events, self._problems, self._most = events, problems, max_values
        self._anchors: dict[str, tuple[Located, int]] = {}
        self._count = 0

    def documents(self) -> Iterator[Located]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
            elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
                yield self._value(event, 0)

    def _value(self, event: Any, depth: int) -> Located:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        before = self._count
        self._spend(1, line, column)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                message = f"The alias {quote(f'*{event.anchor}')} names no anchor before it."
                self._problems.add("", message, "Put a value that begins with * in quotes.", at=(line, column))
                return Located(None, "", line, column)
            target, size = self._anchors[event.anchor]
            self._spend(size, line, column)
            if depth + _depth(target) > MAX_DEPTH:
                raise _too_deep(line, column)
            return target
        tag = event.tag
        if tag not in {None, "!", _STR_TAG, _MAP_TAG, _SEQ_TAG}:
            self._problems.add("", f"The tag {quote(tag)} has no meaning here.", "Remove it.", at=(line, column))
        if depth >= MAX_DEPTH and not isinstance(event, yaml.ScalarEvent):
            raise _too_deep(line, column)
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style in {None, ""} and tag is None
            located = Located(_resolve(event.value) if plain else event.value, event.value, line, column)
        elif isinstance(event, yaml.SequenceStartEvent):
            located = Located(tuple(self._items(depth + 1)), "", line, column)
        else:
            located = Located(self._mapping(depth + 1), "", line, column)
        if event.anchor:
            self._anchors[event.anchor] = (located, self._count - before)
        return located

    def _items(self, depth: int) -> Iterator[Located]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._value(event, depth)

    def _mapping(self, depth: int) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise _wrong("The name of a field must be a word.", line, column, "Quote it if it is one.")
            key = event.value
            value = self._value(next(self._events), depth)
            if key == "<<" and event.style in {None, ""}:
                for name, entry in self._merge(value, line, column):
                    merged.setdefault(name, entry)
                continue
            if key in own:
                first = own[key].line
                message = f"The field {quote(key)} stands here again; it was given on line {first}."
                self._problems.add("", message, "Keep one of them.", at=(line, column))
                continue
            own[key] = Entry(line, column, value)
        return {**merged, **own}

    def _merge(self, value: Located, line: int, column: int) -> Iterator[tuple[str, Entry]]:
        for part in value.value if isinstance(value.value, tuple) else (value,):
            if not isinstance(part.value, Mapping):
                raise _wrong('"<<" takes a mapping or a list of mappings.', line, column)
            self._spend(len(part.value), line, column)
            yield from part.value.items()

    def _spend(self, values: int, line: int, column: int) -> None:
        self._count += values
        if self._count > self._most:
            raise _wrong(f"More than {self._most} values, aliases counted each time they are used.", line, column)


_STR_TAG, _MAP_TAG, _SEQ_TAG = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))
_INT = re.compile(r"[-+]?[0-9]{1,4000}")
_OCTAL, _HEX = re.compile(r"0o[0-7]{1,1000}"), re.compile(r"0x[0-9a-fA-F]{1,1000}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}


def _resolve(text: str) -> Scalar:
    """Return what a plain scalar is in the core schema of YAML 1.2 (its section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _from_value(value: Any, depth: int, count: list[int]) -> Located:
    count[0] += 1
    if count[0] > MAX_VALUES:
        raise SpecInvalid([Problem("", f"More than {MAX_VALUES} values.")])
    if depth > MAX_DEPTH:
        raise SpecInvalid([Problem("", f"Nested more than {MAX_DEPTH} deep.")])
    match value:
        case Mapping():
            entries = {
                str(name): Entry(None, None, _from_value(item, depth + 1, count)) for name, item in value.items()
            }
            return Located(entries)
        case list() | tuple():
            return Located(tuple(_from_value(item, depth + 1, count) for item in value))
        case None:
            return Located(None)
        case bool():
            return Located(value, "true" if value else "false")
        case str():
            return Located(value, value)
        case int() if abs(value) >= 10**4000:
            raise SpecInvalid([Problem("", "A number has more than 4000 digits.")])
        case int() | float():
            return Located(value, str(value))
        case _:
            raise SpecInvalid([Problem("", f"A {type(value).__name__} is no value of JSON.")])


def _depth(value: Located) -> int:
    inner = value.value
    if isinstance(inner, tuple):
        return 1 + max(map(_depth, inner), default=0)
    if isinstance(inner, Mapping):
        return 1 + max((_depth(entry.value) for entry in inner.values()), default=0)
    return 0


def _wrong(message: str, line: int, column: int, instead: str = "") -> SpecInvalid:
    return SpecInvalid([Problem("", message, instead, line, column)])


def _too_deep(line: int, column: int) -> SpecInvalid:
    return _wrong(f"Nested more than {MAX_DEPTH} deep.", line, column, "A specification is at most four deep.")
