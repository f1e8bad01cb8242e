"""Converted jobs as YAML that our own reader takes, with what was not kept as comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from dujiang.jobs.converting.draft import Converted
from dujiang.jobs.converting.recognising import Conversion
from dujiang.jobs.converting.report import Note

_INNER: Final = r"[-A-Za-z0-9_./=,@+]"
_WORD: Final = rf"{_INNER}+(?::{_INNER}+)*"
_PLAIN: Final = re.compile(rf"(?=[A-Za-z/]){_WORD}(?: {_WORD})*|[1-9][0-9]*[KMGT]iB|([1-9][0-9]*[dhms])+")
"""What every YAML reads as this very text."""
_WORDS: Final = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_WIDTH: Final = 110


def to_yaml(conversion: Conversion) -> str:
    """Return all jobs of a conversion, one document each."""
    beside = _comments(conversion.notes, "Beside the work:")
    parts = [_document(item) for item in conversion.items]
    return "\n".join([*beside, *(["---"] if beside and parts else []), "\n---\n".join(parts)]) + "\n"


def _document(item: Converted) -> str:
    place = f" (line {item.line})" if item.line is not None else ""
    gone = [note for note in item.notes if not note.kept]
    other = [note for note in item.notes if note.kept]
    head = [
        f"# From {_clean(item.source)}{place}.",
        *_comments(gone, "Not kept:"),
        *_comments(other, "Kept in another form:"),
    ]
    return "\n".join([*head, document_yaml(item.document).rstrip("\n")])


def _comments(notes: Sequence[Note], title: str) -> list[str]:
    lines = [f"# {title}"] if notes else []
    for note in notes:
        lines += textwrap.wrap(
            _clean(str(note)), _WIDTH, initial_indent="#   ", subsequent_indent="#     ", break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _clean(text: str) -> str:
    """Return a text as one line that no terminal obeys."""
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def document_yaml(document: Mapping[str, Any]) -> str:
    """Return a specification as YAML that reads to the same."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100_000)


class _Dumper(yaml.SafeDumper):
    """Leaves plain only what every YAML reads as text, and shell text on lines of its own."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Set lists in."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text and _fits_block(text):
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _fits_block(text: str) -> bool:
    """Say whether a literal block holds the text exactly: printable, with nothing that its first line would change."""
    if not text.strip() or text[0] in " \n\t":
        return False
    return all(c in "\n\t" or (c.isprintable() and c not in "\u2028\u2029\x85\ufeff") for c in text)


_Dumper.add_representer(str, _text)
