"""Signatures: rows of data files that recognise a line and name its cause; read here, checked row by row.

A row that cannot be trusted (unknown cause, pattern that is wrong or can run away, missing or needless literal, an
example it does not recognise, an identifier used twice) is refused with file and line. What a match means for an
attempt is for `diagnose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dujiang.health.causes import ABOUT, Cause
from dujiang.health.patterns import PatternRefused, check_pattern, uncovered
from dujiang.jobs.diagnosis import Blame
from dujiang.kit.errors import Invalid, did_you_mean

SEVERITIES = ("info", "general", "severe", "critical")
SCOPES = ("job", "user-code", "gpu", "node", "network", "storage", "platform")
LEAST_LITERAL = 4
"""Shorter literals would be found in most lines and save nothing."""


class BadSignature(Invalid):
    """A row of a signature file cannot be used."""

    code, title = "bad_signature", "A signature cannot be used"


class Role(StrEnum):
    """Where a line stands in the chain of causes."""

    ROOT = "root"
    """May be named as the cause."""
    EITHER = "either"
    """Root or follow-on: named when nothing better is there."""
    CASCADE = "cascade"
    """Says that something else failed first."""
    TEARDOWN = "teardown"
    """Cleaning up, summary or advice: never a cause."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One recognisable line and what it means."""

    id: str
    pattern: re.Pattern[str]
    literals: tuple[str, ...]
    """Lower case; a line without any of them cannot match, so the pattern is not tried."""
    cause: Cause
    blame: Blame
    severity: str
    scope: str
    role: Role
    sentence: str
    """May hold `{name}` of the pattern's named groups."""
    advice: str
    source: str
    """Where the line's form was read: owner/name:path or a document."""
    examples: tuple[str, ...]
    retryable: bool | None
    explains: frozenset[int] = frozenset()
    """Signals that this line accounts for (9: the kill was a memory kill that someone reported in text)."""
    family: str = ""


@dataclass(frozen=True, slots=True)
class Library:
    """Signatures in a fixed order, by identifier."""

    signatures: tuple[Signature, ...]
    by_id: Mapping[str, Signature] = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, signatures: Iterable[Signature]) -> Library:
        """Return a library of these.

        Raises:
            BadSignature: an identifier is used twice.
        """
        ordered = tuple(signatures)
        by_id: dict[str, Signature] = {}
        for signature in ordered:
            if signature.id in by_id:
                raise BadSignature(f"The signature identifier {signature.id!r} is used twice.")
            by_id[signature.id] = signature
        return cls(ordered, by_id)


def load_shipped() -> Library:
    """Return the library that comes with the platform."""
    folder = files("dujiang.health") / "signatures"
    texts = sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return load(texts)


def load_folder(folder: Path) -> Library:
    """Return the library of every `*.yaml` of a folder: a site's own signatures.

    Raises:
        BadSignature: there is no such folder, or as `load`.
    """
    if not folder.is_dir():
        raise BadSignature(f"{folder} is no folder; set health.signatures_dir to one, or leave it out.")
    return load([(path.name, path.read_text("utf-8")) for path in sorted(folder.glob("*.yaml"))])


def load(texts: Iterable[tuple[str, str]]) -> Library:
    """Return the library of (file name, YAML text) pairs.

    Raises:
        BadSignature: with file and line; nothing of a bad file is used.
    """
    seen: dict[str, str] = {}
    found: list[Signature] = []
    for name, text in texts:
        for line, signature in _read(name, text):
            place = f"{name}, line {line}"
            if signature.id in seen:
                raise BadSignature(f"{place}: the identifier {signature.id!r} is used already in {seen[signature.id]}.")
            seen[signature.id] = place
            found.append(signature)
    return Library.of(found)


# The keys a row may have; the file's `defaults` may hold the same ones.
_KEYS = frozenset({
    "id", "pattern", "literal", "cause", "blame", "severity", "scope", "role", "sentence", "advice", "source",
    "example", "retryable", "explains",
})  # fmt: skip
_REQUIRED = ("id", "pattern", "literal", "cause", "role", "source", "example")


def _read(name: str, text: str) -> Iterator[tuple[int, Signature]]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where the wheel has it: 8 times as fast
    parser = loader(text)
    try:
        root = parser.get_single_node()
        document = parser.construct_document(root) if root is not None else None
    except (yaml.YAMLError, RecursionError) as error:
        raise BadSignature(f"{name}: not readable as YAML: {' '.join(str(error).split())[:300]}") from error
    finally:
        parser.dispose()
    if not isinstance(document, dict) or not isinstance(document.get("signatures"), list):
        raise BadSignature(f"{name}: expected a mapping with a list named `signatures`.")
    family = str(document.get("family", name.removesuffix(".yaml")))
    defaults = document.get("defaults", {})
    nodes = next(value for key, value in root.value if key.value == "signatures").value
    for node, row in zip(nodes, document["signatures"], strict=True):
        line = node.start_mark.line + 1
        try:
            yield line, _signature({**defaults, **row} if isinstance(row, dict) else {}, family)
        except (BadSignature, PatternRefused, TypeError, ValueError) as error:
            known = row.get("id", "?") if isinstance(row, dict) else "?"
            raise BadSignature(f"{name}, line {line} ({known}): {error}", file=name, line=line) from error


def _signature(row: Mapping[str, Any], family: str) -> Signature:
    for key in row:
        if key not in _KEYS:
            raise BadSignature(f"unknown key {key!r}.{did_you_mean(str(key), _KEYS)}")
    for key in _REQUIRED:
        if row.get(key) in (None, "", []):
            raise BadSignature(f"`{key}` is missing.")
    identifier = _text(row, "id")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{2,63}", identifier):
        raise BadSignature("`id` has lower case letters, digits and hyphens, 3 to 64 of them.")
    cause = _cause(_text(row, "cause"))
    about = ABOUT[cause]
    pattern = check_pattern(_text(row, "pattern"))
    signature = Signature(
        id=identifier, pattern=pattern, literals=_literals(row["literal"]), cause=cause,
        blame=Blame(row["blame"]) if "blame" in row else about.blame,
        severity=_one_of(row.get("severity", "general"), SEVERITIES, "severity"),
        scope=_one_of(row.get("scope", about.scope), SCOPES, "scope"),
        role=Role(row["role"]), sentence=str(row.get("sentence", about.sentence)),
        advice=str(row.get("advice", about.advice)), source=_text(row, "source"),
        examples=_strings(row["example"], "example"), retryable=_flag(row.get("retryable")),
        explains=frozenset(int(number) for number in row.get("explains", ())), family=family,
    )  # fmt: skip
    _check_examples(signature)
    return signature


def _check_examples(signature: Signature) -> None:
    """Refuse a row whose examples do not pass its own pattern, or whose literal is not really required."""
    for example in signature.examples:
        match = signature.pattern.search(example)
        if match is None:
            raise BadSignature(f"the pattern does not match its own example {example!r}.")
        if not any(literal in example.lower() for literal in signature.literals):
            raise BadSignature(f"no literal of the row is in its example {example!r}.")
        try:
            signature.sentence.format_map(match.groupdict(""))
        except (KeyError, IndexError, ValueError) as error:
            raise BadSignature(f"the sentence names a group that the pattern does not have: {error}.") from error
    if (way := uncovered(signature.pattern.pattern, signature.literals)) is not None:
        raise BadSignature(f"a line like {way[:120]!r} matches and holds no literal of the row, so it would be missed.")


def _cause(word: str) -> Cause:
    try:
        return Cause(word)
    except ValueError:
        raise BadSignature(f"unknown cause {word!r}.{_nearest(word)}") from None


def _nearest(word: str) -> str:
    by_lower = {cause.value.casefold(): cause.value for cause in Cause}
    hint = did_you_mean(word, by_lower)
    return next((f' Did you mean "{real}"?' for low, real in by_lower.items() if f'"{low}"' in hint), "")


def _literals(value: Any) -> tuple[str, ...]:
    literals = tuple(literal.lower() for literal in _strings(value, "literal"))
    for literal in literals:
        if len(literal) < LEAST_LITERAL or not literal.isascii():
            raise BadSignature(f"the literal {literal!r} needs {LEAST_LITERAL} or more ASCII characters.")
    return literals


def _strings(value: Any, name: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise BadSignature(f"`{name}` is a text or a list of texts.")
    return tuple(values)


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise BadSignature(f"`{name}` is a text.")
    return str(row[name])


def _one_of(value: Any, allowed: tuple[str, ...], name: str) -> str:
    if value not in allowed:
        raise BadSignature(f"`{name}` is one of {', '.join(allowed)}, not {value!r}.")
    return str(value)


def _flag(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise BadSignature("`retryable` is true or false.")
    return value
