"""Typed settings from flags, environment variables and a TOML file, in that order, over the defaults.

The tree of settings is a pydantic model with one model per branch; what it holds is decided in `bootstrap`. A branch is
a table of the file: `[jobs]`, and in it `lost_after_s = "2m"`; as a variable that is `DUJIANG_JOBS__LOST_AFTER_S=2m`.
Only variables with a double underscore are settings: `DUJIANG_HOME`, `DUJIANG_URL` and such are read by others.
Everything that is wrong is said at once, with where it stands.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from dujiang.kit.errors import Invalid, did_you_mean
from dujiang.kit.units import BadQuantity, parse_bytes, parse_duration_s

PREFIX: Final = "DUJIANG_"
_FOREIGN: Final = "DUJIANG_PARAM_"  # parameters of a job, named by its user
_SECRET_NAME: Final = re.compile(r"secret|password|token|(^|_)key$")
_AMOUNTS: Final = ("_s", "_bytes")
_MAX_SHOWN: Final = 80
_MISSING: Final = frozenset({"missing", "missing_argument"})
_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""Pydantic's types of errors: the first of each pair for its models, the second for dataclasses."""

T = TypeVar("T", bound=BaseModel)
_Key = tuple[str, ...]


class SettingsInvalid(Invalid):
    """Settings that cannot be used; `problems` has one sentence for each thing that is wrong."""

    code: ClassVar[str] = "settings_invalid"
    title: ClassVar[str] = "The settings cannot be used"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), problems=problems)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class _Given:
    """One value and where it was given."""

    value: Any
    where: str
    """`FILE: `, the name of the variable, or the flag; empty when it is a default."""


@dataclass(slots=True)
class _Reading:
    """What was given so far, by key, and what is wrong with it."""

    known: Mapping[_Key, FieldInfo]
    branches: frozenset[_Key]
    given: dict[_Key, _Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def give(self, key: _Key, value: Any, where: str) -> None:
        """Take a value, over one given before."""
        try:
            self.given[key] = _Given(_converted(key[-1], self.known[key], value), where)
        except BadQuantity as error:
            self.given.pop(key, None)
            self.problems.append(f"{where}: {'.'.join(key)}: {error.sentence}")


def load(cls: type[T], *, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> T:
    """Read the settings.

    Args:
        cls: the tree.
        file: a TOML file that must exist, or None for none.
        environ: the environment.
        flags: values by dotted key (`jobs.lost_after_s`); None means that the flag was not given.

    Raises:
        SettingsInvalid: with every problem of every source.
    """
    known = dict(_fields(cls))
    reading = _Reading(known, frozenset(key[:depth] for key in known for depth in range(1, len(key))))
    if file is not None:
        _walk(reading, _read_toml(file), (), str(file))
    _take_environment(reading, environ)
    for name, value in flags.items():
        if value is not None:
            key = tuple(name.split("."))
            if key not in known:
                raise KeyError(f"no setting is called {name}")  # our own mistake: flags are declared, not typed in
            reading.give(key, value, f"flag {name}")
    try:
        settings = cls.model_validate(_tree(reading.given))
    except ValidationError as error:
        reading.problems += [_problem(reading, dict(one)) for one in error.errors(include_url=False)]
    if reading.problems:
        raise SettingsInvalid(reading.problems)
    return settings


def variable(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.replace(".", "__").upper()


def _fields(cls: type[Any], above: _Key = ()) -> Iterator[tuple[_Key, FieldInfo]]:
    for name, info in _own_fields(cls):
        branch = _branch(info)
        if branch is None:
            yield (*above, name), info
        else:
            yield from _fields(branch, (*above, name))


def _own_fields(cls: type[Any]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the fields of a model, or of a dataclass as contexts declare their settings, without pydantic."""
    if issubclass(cls, BaseModel):
        yield from cls.model_fields.items()
    else:
        hints = get_type_hints(cls)
        yield from ((one.name, FieldInfo.from_annotation(hints[one.name])) for one in dataclasses.fields(cls))


def _branch(info: FieldInfo) -> type[Any] | None:
    return next((one for one in _options(info) if isinstance(one, type) and _is_branch(one)), None)


def _is_branch(kind: type[Any]) -> bool:
    return issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)


def _options(info: FieldInfo) -> tuple[Any, ...]:
    """Return the types that the field takes: the members of a union, or the one."""
    kind = info.annotation
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(get_args(one)[0] if get_origin(one) is Annotated else one for one in options)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid([f"{file}: this is not TOML: {error}."]) from error
    except UnicodeDecodeError as error:
        raise SettingsInvalid([f"{file}: this is not UTF-8 text (byte {error.start})."]) from error
    except FileNotFoundError as error:
        raise SettingsInvalid([f"{file}: there is no such settings file; create it or leave it out."]) from error
    except OSError as error:
        raise SettingsInvalid([f"{file}: the settings file cannot be read ({error.strerror})."]) from error


def _walk(reading: _Reading, table: Mapping[str, Any], above: _Key, where: str) -> None:
    for name, value in table.items():
        key = (*above, name)
        dotted = ".".join(key)
        if key in reading.known:
            reading.give(key, value, where)
        elif key not in reading.branches:
            reading.problems.append(f"{where}: {dotted}: there is no such setting.{_hint(reading, key)}")
        elif isinstance(value, dict):
            _walk(reading, value, key, where)
        else:
            keys = ", ".join(one[-1] for one in reading.known if one[:-1] == key)
            reading.problems.append(f"{where}: {dotted} is a group of settings; write a table [{dotted}] with {keys}.")


def _take_environment(reading: _Reading, environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest == name or "__" not in rest.strip("_") or name.startswith(_FOREIGN):
            continue
        key = tuple(rest.lower().split("__"))
        if key in reading.known:
            reading.give(key, environ[name], name)
        else:
            hint = re.sub(r'"(.+)"', lambda near: f'"{variable(near[1])}"', _hint(reading, key))
            reading.problems.append(f"{name}: there is no such setting.{hint}")


def _hint(reading: _Reading, key: _Key) -> str:
    groups = [".".join(branch) for branch in sorted(reading.branches)]
    return did_you_mean(".".join(key), [".".join(one) for one in reading.known] + (groups if len(key) == 1 else []))


def _converted(name: str, info: FieldInfo, value: Any) -> Any:
    """Return the value with its unit read, and text of the environment turned into a list or a table.

    Raises:
        BadQuantity: it cannot be.
    """
    options = _options(info)
    if isinstance(value, bool) and bool not in options and {int, float} & set(options):
        raise BadQuantity(f"{str(value).lower()} is not a number.")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadQuantity(f"{value} is not a finite number.")
    has_bounds = bool(info.metadata)  # then pydantic says which
    if isinstance(value, int | float) and value < 0 and name.endswith(_AMOUNTS) and not has_bounds:
        raise BadQuantity(f"{value} is below 0; neither a time nor a size is.")
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "none" and type(None) in options:
        return None
    if name.endswith("_s") and str not in options:
        return parse_duration_s(value)
    if name.endswith("_bytes") and str not in options:
        return parse_bytes(value)
    kinds = {get_origin(one) or one for one in options}
    if kinds & {list, tuple, set, frozenset, dict, Mapping} and str not in kinds:
        return _read_several(value, is_table=bool(kinds & {dict, Mapping}))
    return value


def _read_several(text: str, *, is_table: bool) -> Any:
    if is_table or text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            example = '{"a": 1}' if is_table else '["a", "b"] or a, b'
            raise BadQuantity(f"{_shown(text)} cannot be read; write {example}.") from error
    return [part.strip() for part in text.split(",") if part.strip()]


def _tree(given: Mapping[_Key, _Given]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, one in given.items():
        table = root
        for name in key[:-1]:
            table = table.setdefault(name, {})
        table[key[-1]] = one.value
    return root


def _problem(reading: _Reading, error: Mapping[str, Any]) -> str:
    """Say what pydantic found, with the key, the value, where it was given and what is wanted."""
    place = tuple(str(part) for part in error["loc"])
    key = next((place[:depth] for depth in range(len(place), 0, -1) if place[:depth] in reading.known), place)
    wanted = re.sub(r"^(Input|Value error,) ?", "", error["msg"]).strip().rstrip(".")
    dotted = ".".join(key)
    if error["type"] in _MISSING and place == key:
        file = "the settings file" if key[:-1] else "the settings"
        return f"{dotted} must be set: in {file}, or as {variable(dotted)}."
    one = reading.given.get(key)
    if one is None:  # a rule over several settings
        return f"{dotted or 'settings'}: {wanted}."
    info = reading.known[key]
    if len(place) > len(key) and (of := _table_of(info)) is not None:  # in a table whose names are free
        return _problem_in_table(one, place, len(key), of, error, wanted)
    hidden = {SecretStr, SecretBytes} & set(_options(info)) or _SECRET_NAME.search(key[-1])
    meaning = f" ({info.description.rstrip('.')})" if info.description else ""
    value = "the value" if hidden else _shown(one.value)
    return f"{one.where}: {dotted} = {value} {wanted}{meaning}."


def _table_of(info: FieldInfo) -> type[BaseModel] | None:
    """Return what a table with free names holds under each, None for other fields."""
    inner = get_args(info.annotation)[1:] if get_origin(info.annotation) is dict else ()
    return next((one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _problem_in_table(
    one: _Given, place: _Key, depth: int, of: type[BaseModel], error: Mapping[str, Any], wanted: str
) -> str:
    dotted, table = ".".join(place), ".".join(place[:-1])
    names = [name for name, _ in _own_fields(_within(of, place[depth + 1 : -1]))]
    if len(place) == depth + 1:
        return f"{one.where}: {dotted} is a group of settings; write a table [{dotted}] with {', '.join(names)}."
    if error["type"] in _UNKNOWN:
        near = did_you_mean(place[-1], names) or f" There are {', '.join(names)}."
        return f"{one.where}: {dotted}: there is no such setting.{near}"
    if error["type"] in _MISSING:
        return f"{one.where}: {dotted} must be set: write {place[-1]} = ... under [{table}]."
    if error["type"] == "value_error":  # a rule over several settings of a table
        return f"{one.where}: {dotted}: {wanted}."
    if error["type"] == "dataclass_type":
        return f"{one.where}: {dotted} is a group of settings; write a table [{dotted}]."
    return f"{one.where}: {dotted} = {_shown(error.get('input'))} {wanted}."


def _within(of: type[Any], names: _Key) -> type[Any]:
    """Return the branch at the end of a path of field names, or the last that there is on the way."""
    for name in names:
        branch = next((_branch(info) for field_name, info in _own_fields(of) if field_name == name), None)
        if branch is None:
            break
        of = branch
    return of


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
