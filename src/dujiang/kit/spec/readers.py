"""Small readers of one value each, which also know how to say in JSON Schema what they take.

A reader takes a value with its place and returns what it means, or notes the problem and raises Refused. Because
one object both reads and describes, the published schema cannot promise what the reader refuses; the reader takes
a few more spellings than the schema lists (`16 GiB`, `01:30:00`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar

from dujiang.kit.errors import did_you_mean
from dujiang.kit.spec.problems import Problems, Refused, quote
from dujiang.kit.spec.yaml import Located
from dujiang.kit.units import BadQuantity

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)

Schema = dict[str, Any]
_MISSPELT: Final = 0.8
"""From which likeness on an unknown name counts as another's word for a field, misspelt."""


class Reader(Protocol[T_co]):
    """Reads one value and describes it."""

    def read(self, value: Located, path: str, problems: Problems) -> T_co:
        """Return what the value means.

        Raises:
            Refused: nothing; the problem is noted.
        """
        ...

    def schema(self) -> Schema:
        """Return the JSON Schema of what is taken."""
        ...


@dataclass(frozen=True)
class Text:
    """Text of a given form."""

    what: str
    """For people: `a name`, `shell text`."""
    longest: int
    pattern: str = r"[^\u0000]*"
    """The whole text, in the common part of Python's and ECMA's expressions."""
    advice: str = ""
    mend: Callable[[str], str] | None = None
    """Makes a fitting text of one that does not fit, to suggest; may return nothing."""
    shortest: int = 1

    def read(self, value: Located, path: str, problems: Problems) -> str:
        """Return the text as it is."""
        text = value.value
        if not isinstance(text, str):
            instead = f'Write it in quotes: "{value.text}".' if value.text and isinstance(text, int | float) else ""
            raise problems.refuse(path, f"{_shape(value)} stands where {self.what} belongs.", instead, at=value.at)
        unprintable = _NO_TEXT.search(text)
        if unprintable:
            message = f"The character U+{ord(unprintable[0]):04X} cannot stand in {self.what}."
            raise problems.refuse(path, message, "Remove it.", at=value.at)
        if not self.shortest <= len(text) <= self.longest:
            message = f"{quote(text)} has {len(text)} characters; {self.what} has {self.shortest} to {self.longest}."
            raise problems.refuse(path, message, self._suggest(text), at=value.at)
        if not re.fullmatch(self.pattern, text):
            raise problems.refuse(path, f"{quote(text)} is not {self.what}.", self._suggest(text), at=value.at)
        return text

    def schema(self) -> Schema:
        """Return a string with its form and length."""
        return {"type": "string", "pattern": f"^{self.pattern}$", "minLength": self.shortest, "maxLength": self.longest}

    def _suggest(self, text: str) -> str:
        mended = self.mend(text) if self.mend else ""
        return f'{self.advice} For example "{mended}".'.strip() if mended else self.advice


_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class ShellText:
    """Shell text, or a list of commands that run one after the other."""

    longest: int
    may_be_empty: bool = False

    def read(self, value: Located, path: str, problems: Problems) -> str:
        """Return the commands as one text."""
        text = Text("shell text", self.longest, r"[^\u0000]*" if self.may_be_empty else _NOT_BLANK,
                    "Write at least one command.", shortest=0 if self.may_be_empty else 1)  # fmt: skip
        if not isinstance(value.value, tuple):
            return text.read(value, path, problems)
        lines = Many(text, "commands", 1000).read(value, path, problems)
        joined = "\n".join(lines)
        if len(joined) > self.longest or not (joined.strip() or self.may_be_empty):
            raise problems.refuse(path, f"The commands have {len(joined)} characters; 1 to {self.longest} are taken.",
                                  "Put them in a file and run that.", at=value.at)  # fmt: skip
        return joined

    def schema(self) -> Schema:
        """Return text; a list of texts is also taken."""
        pattern = "^" + (r"[^\u0000]*" if self.may_be_empty else _NOT_BLANK) + "$"
        line = {"type": "string", "pattern": pattern, "maxLength": self.longest}
        short = line | {"maxLength": 1000}
        return {"anyOf": [line, {"type": "array", "items": short, "minItems": 1, "maxItems": self.longest // 2000}]}


_NOT_BLANK = r"[^\u0000]*[!-~][^\u0000]*"


@dataclass(frozen=True)
class Choice(Generic[E]):
    """One of a few words."""

    words: type[E]

    def read(self, value: Located, path: str, problems: Problems) -> E:
        """Return the word."""
        known = [word.value for word in self.words]
        text = value.value if isinstance(value.value, str) else ""
        if text in known:
            return self.words(text)
        near = did_you_mean(text, known).strip() if text else ""
        message = f"{quote(value.text) if isinstance(value.value, str) else _shape(value)} is not one of the words."
        raise problems.refuse(path, message, f"{near} Write one of {', '.join(known)}.".strip(), at=value.at)

    def schema(self) -> Schema:
        """Return the words."""
        return {"type": "string", "enum": [word.value for word in self.words]}


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    least: int
    most: int
    advice: str = ""

    def read(self, value: Located, path: str, problems: Problems) -> int:
        """Return the number."""
        number = value.value
        if isinstance(number, bool) or not isinstance(number, int):
            message = f"{_shape(value)} stands where a whole number belongs."
            raise problems.refuse(path, message, self.advice or f"Write {self.least} to {self.most}.", at=value.at)
        if not self.least <= number <= self.most:
            message = f"{quote(value.text, 20)[1:-1]} is out of range; {self.least} to {self.most} is taken."
            raise problems.refuse(path, message, self.advice, at=value.at)
        return number

    def schema(self) -> Schema:
        """Return an integer between the bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Truth:
    """True or false."""

    def read(self, value: Located, path: str, problems: Problems) -> bool:
        """Return it."""
        if not isinstance(value.value, bool):
            message = f"{_shape(value)} stands where true or false belongs."
            raise problems.refuse(path, message, "Write true or false.", at=value.at)
        return value.value

    def schema(self) -> Schema:
        """Return a boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Quantity(Generic[T]):
    """A share, size or duration, as `kit.units` reads it, between bounds."""

    what: str
    """`a size` ..."""
    parse: Callable[[str], T]
    least: T
    most: T
    show: Callable[[T], str]
    described: Schema
    advice: str = ""

    def read(self, value: Located, path: str, problems: Problems) -> T:
        """Return the quantity in its inner unit."""
        if isinstance(value.value, bool | tuple | Mapping) or value.value is None:
            message = f"{_shape(value)} stands where {self.what} belongs."
            raise problems.refuse(path, message, self.advice, at=value.at)
        try:
            amount = self.parse(value.text)
        except BadQuantity as error:
            sentence = "".join(c if c.isprintable() else "?" for c in error.sentence)
            raise problems.refuse(path, sentence, at=value.at) from error
        if not self.least <= amount <= self.most:  # type: ignore[operator]
            message = (
                f"{quote(value.text, 20)[1:-1]} is {self.show(amount)}; {self.what} here is {self.show(self.least)}"
            )
            raise problems.refuse(path, f"{message} to {self.show(self.most)}.", self.advice, at=value.at)
        return amount

    def schema(self) -> Schema:
        """Return the usual spellings."""
        return self.described


@dataclass(frozen=True)
class AnyScalar:
    """Text, a finite number, or true or false."""

    longest: int

    def read(self, value: Located, path: str, problems: Problems) -> str | int | float | bool:
        """Return the value as it is."""
        scalar = value.value
        if isinstance(scalar, str):
            return Text("text", self.longest, shortest=0).read(value, path, problems)
        if scalar is None or isinstance(scalar, tuple | Mapping):
            raise problems.refuse(path, f"{_shape(value)} stands where text or a number belongs.",
                                  'Write "" for empty text.' if scalar is None else "", at=value.at)  # fmt: skip
        if (isinstance(scalar, float) and not math.isfinite(scalar)) or abs(scalar) > _LARGEST:
            message = f"{quote(value.text, 20)[1:-1]} is not a number that every program can read."
            raise problems.refuse(path, message, "Write it in quotes.", at=value.at)
        return scalar

    def schema(self) -> Schema:
        """Return the three kinds."""
        text = {"type": "string", "maxLength": self.longest, "pattern": r"^[^\u0000]*$"}
        number = {"type": "number", "minimum": -_EXACT, "maximum": _EXACT}
        return {"anyOf": [text, number, {"type": "boolean"}]}


_EXACT = 2**53
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class AsText:
    """Any scalar as the text that was written: `1.10` is "1.10", `yes` is "yes"."""

    longest: int

    def read(self, value: Located, path: str, problems: Problems) -> str:
        """Return the text."""
        if value.value is None:
            raise problems.refuse(path, "There is no value.", 'Write "" for empty text.', at=value.at)
        if isinstance(value.value, tuple | Mapping):
            raise problems.refuse(
                path, f"{_shape(value)} stands where text belongs.", "Write it in quotes.", at=value.at
            )
        text = Located(value.text, value.text, value.line, value.column)
        return Text("text", self.longest, shortest=0).read(text, path, problems)

    def schema(self) -> Schema:
        """Return text, a number, or true or false."""
        return AnyScalar(self.longest).schema()


@dataclass(frozen=True)
class Many(Generic[T]):
    """A list."""

    item: Reader[T]
    what: str
    """In the plural."""
    most: int
    unique_by: Callable[[T], str] | None = None
    unique_items: bool = False
    least: int = 0

    def read(self, value: Located, path: str, problems: Problems) -> tuple[T, ...]:
        """Return the items in order."""
        if not isinstance(value.value, tuple):
            message = f"{_shape(value)} stands where a list of {self.what} belongs."
            raise problems.refuse(path, message, "Write one per line, each after a dash.", at=value.at)
        if not self.least <= len(value.value) <= self.most:
            message = f"{len(value.value)} {self.what} are given; {self.least} to {self.most} are taken."
            raise problems.refuse(path, message, at=value.at)
        before, items = len(problems), []
        seen: set[str] = set()
        for index, element in enumerate(value.value):
            try:
                item = self.item.read(element, f"{path}[{index}]", problems)
            except Refused:
                continue
            items.append(item)
            key = self.unique_by(item) if self.unique_by else str(index)
            if key in seen:
                problems.add(f"{path}[{index}]", f"{quote(key)} is given twice.", "Keep one.", at=element.at)
            seen.add(key)
        if len(problems) > before:
            raise Refused
        return tuple(items)

    def schema(self) -> Schema:
        """Return an array."""
        unique = {"uniqueItems": True} if self.unique_items else {}
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), "maxItems": self.most} | least | unique


@dataclass(frozen=True)
class Table(Generic[T]):
    """A mapping whose names are free."""

    name: Text
    item: Reader[T]
    what: str
    """In the plural."""
    most: int
    reserved: tuple[str, ...] = ()
    """Beginnings that the platform keeps for itself."""
    same: Callable[[str], str] = str
    """Two names that give the same here cannot stand side by side."""
    largest: int | None = None
    """Characters of all names and values together."""

    def read(self, value: Located, path: str, problems: Problems) -> dict[str, T]:
        """Return the values by name, in the order given."""
        if not isinstance(value.value, Mapping):
            message = f"{_shape(value)} stands where a mapping of {self.what} belongs."
            raise problems.refuse(path, message, "Write one per line: NAME: value.", at=value.at)
        if len(value.value) > self.most:
            message = f"{len(value.value)} {self.what} are given; at most {self.most} are taken."
            raise problems.refuse(path, message, at=value.at)
        before, result = len(problems), {}
        seen: dict[str, str] = {}
        for key, entry in value.value.items():
            here = f"{path}.{quote(key)[1:-1]}"
            try:
                self.name.read(Located(key, key, entry.line, entry.column), here, problems)
                self._check(key, seen, here, entry.at, problems)
                result[key] = self.item.read(entry.value, here, problems)
            except Refused:
                continue
        size = sum(len(key) + len(item) for key, item in result.items() if isinstance(item, str))
        if self.largest is not None and size > self.largest:
            problems.add(path, f"The {self.what} have {size} characters; at most {self.largest} are taken.",
                         "Put long values in files.", at=value.at)  # fmt: skip
        if len(problems) > before:
            raise Refused
        return result

    def _check(
        self, key: str, seen: dict[str, str], path: str, at: tuple[int | None, int | None], problems: Problems
    ) -> None:
        for beginning in self.reserved:
            if key.upper().startswith(beginning):
                raise problems.refuse(path, f"Names with {beginning} are the platform's own.", "Choose another.", at=at)
        alike = self.same(key)
        if alike in seen and seen[alike] != key:
            raise problems.refuse(path, f"This is the same to a program as {quote(seen[alike])}.", "Rename one.", at=at)
        seen[alike] = key

    def schema(self) -> Schema:
        """Return an object with free names."""
        names: Schema = {"pattern": self.name.schema()["pattern"], "maxLength": self.name.longest}
        if self.reserved:
            names["not"] = {"pattern": "^(" + "|".join(_any_case(word) for word in self.reserved) + ")"}
        return {
            "type": "object",
            "propertyNames": names,
            "additionalProperties": self.item.schema(),
            "maxProperties": self.most,
        }


def _any_case(word: str) -> str:
    return "".join(f"[{c}{c.lower()}]" if c.isalpha() else c for c in word)


@dataclass(frozen=True)
class Field:
    """One field of a record."""

    name: str
    reader: Reader[Any]
    description: str
    required: bool = False
    default: Any = None
    """As the schema shows it; the record's `build` fills it in."""
    default_note: str = ""
    examples: Sequence[Any] = ()


@dataclass(frozen=True)
class Record(Generic[T]):
    """A mapping with known fields."""

    what: str
    """`a job`, `resources` ..."""
    fields: Sequence[Field]
    build: Callable[[dict[str, Any], Located, str, Problems], T]
    """Makes the value of the fields that are given (and read); may note further problems and raise Refused."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names that people know from elsewhere, and what to write here."""
    extra_schema: Schema = field(default_factory=dict)

    def read(self, value: Located, path: str, problems: Problems) -> T:
        """Return the record built from its fields."""
        if not isinstance(value.value, Mapping):
            known = ", ".join(f.name for f in self.fields[:4])
            message = f"{_shape(value)} stands where {self.what} belongs."
            raise problems.refuse(path, message, f"Write a mapping with the fields {known} ...", at=value.at)
        before, given = len(problems), {}
        readers = {f.name: f for f in self.fields}
        dot = f"{path}." if path and not path.endswith("]") else f"{path}." if path else ""
        for name, entry in value.value.items():
            if name not in readers:
                shown = quote(name)
                problems.add(dot + shown[1:-1], f"{self.what.capitalize()} has no field {shown}.",
                             self._nearest(name), at=entry.at)  # fmt: skip
                continue
            if entry.value.value is None and not readers[name].required:
                continue  # `gpu:` with nothing after it, and null in JSON: as if it were not there
            try:
                given[name] = readers[name].reader.read(entry.value, dot + name, problems)
            except Refused:
                continue
        for missing in (f for f in self.fields if f.required and f.name not in value.value):
            problems.add(dot + missing.name, f"{self.what.capitalize()} needs the field \"{missing.name}\".",
                         missing.description, at=value.at)  # fmt: skip
        if len(problems) > before:
            self._check_what_was_read(given, value, path, problems)
            raise Refused
        return self.build(given, value, path, problems)

    def _check_what_was_read(self, given: dict[str, Any], value: Located, path: str, problems: Problems) -> None:
        """Let the build find its own problems as well, where it has what it needs, so that all are said at once."""
        if all(f.name in given for f in self.fields if f.required):
            with_problems = len(problems)
            try:
                self.build(given, value, path, problems)
            except Refused:
                assert len(problems) > with_problems

    def schema(self) -> Schema:
        """Return an object with exactly these fields."""
        required = [f.name for f in self.fields if f.required]
        return (
            {
                "type": "object",
                "properties": {f.name: _described(f) for f in self.fields},
                "additionalProperties": False,
            }
            | ({"required": required} if required else {})
            | self.extra_schema
        )

    def _nearest(self, name: str) -> str:
        low = name.casefold().replace("-", "_")
        if low in self.aliases:
            return self.aliases[low]
        known = [f.name for f in self.fields]
        if low in known:
            return f'Write "{low}".'
        near = get_close_matches(low, known, n=1) + get_close_matches(low, self.aliases, n=1, cutoff=_MISSPELT)
        match get_close_matches(low, near, n=1):
            case [word] if word in known:
                return f'Did you mean "{word}"?'
            case [word]:  # what others call it, misspelt
                return self.aliases[word]
        return f"The fields are {', '.join(known)}."


@dataclass(frozen=True)
class OneOf(Generic[T]):
    """A value with a long form and short ones, told apart by their shape."""

    long: Reader[T]
    short: Callable[[Located], Reader[T] | None]
    """Returns the reader of a short form, or None when the value is no short form."""
    short_schemas: Sequence[Schema]

    def read(self, value: Located, path: str, problems: Problems) -> T:
        """Read the short form where the value has its shape, else the long form."""
        return (self.short(value) or self.long).read(value, path, problems)

    def schema(self) -> Schema:
        """Return either form."""
        return {"anyOf": [*self.short_schemas, self.long.schema()]}


@dataclass(frozen=True)
class Mapped(Generic[T]):
    """Another reader's value, made into something else."""

    reader: Reader[Any]
    make: Callable[[Any, Located, str, Problems], T]

    def read(self, value: Located, path: str, problems: Problems) -> T:
        """Return what is made of the inner value."""
        return self.make(self.reader.read(value, path, problems), value, path, problems)

    def schema(self) -> Schema:
        """Return the inner schema."""
        return self.reader.schema()


def _described(f: Field) -> Schema:
    note = f" {f.default_note}" if f.default_note else ""
    default = {"default": f.default} if f.default is not None else {}
    examples = {"examples": list(f.examples)} if f.examples else {}
    return {"description": f.description + note} | f.reader.schema() | default | examples


def _shape(value: Located) -> str:
    inner = value.value
    if inner is None:
        return "Nothing"
    if isinstance(inner, bool):
        return f'The truth value "{value.text}"' if value.text else "A truth value"
    if isinstance(inner, int | float):
        return f"The number {quote(value.text, 20)[1:-1]}"
    if isinstance(inner, str):
        return f"The text {quote(inner)}"
    return "A list" if isinstance(inner, tuple) else "A mapping"
