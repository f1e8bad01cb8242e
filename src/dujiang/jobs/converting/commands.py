"""Commands given as words, as Kubernetes has them, to shell text that runs exactly these words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dujiang.jobs.converting.report import names

LONGEST: Final = 262_144
_RESERVED: Final = names(
    "! { } [[ ]] case do done elif else esac fi for function if in select then time until while coproc"
)
_SHELLS: Final[Mapping[str, str]] = {
    "sh": "/bin/sh", "/bin/sh": "/bin/sh", "/usr/bin/sh": "/bin/sh", "bash": "/usr/bin/env bash",
    "/bin/bash": "/bin/bash", "/usr/bin/bash": "/usr/bin/bash",
}  # fmt: skip
_FLAGS: Final = re.compile(r"-[eux]*c[eux]*")
_REFERENCE: Final = re.compile(r"\$(?:\$|\(([^)]*)\)|\(|(.))", re.DOTALL)


class TooLong(Exception):
    """What references stand for is longer than any command may be."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word: text as it is, or a variable that is known only where the job runs."""

    text: str
    is_variable: bool = False


Word = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What runs: shell text, what it needs in its environment that is known only there, who reads it."""

    body: str
    exports: tuple[str, ...] = ()
    """Commands that go before it, such as `export A="$B"`."""
    interpreter: str = ""
    """`/bin/bash`; empty is the platform's shell, which stops at the first command that fails."""
    words: tuple[Word, ...] = field(default=(), compare=False)
    """Where it is one command, its words."""

    def with_exports(self, exports: Sequence[str]) -> Run:
        """Return the same with further commands before it."""
        return replace(self, exports=(*self.exports, *exports))

    def text(self, *, plain: bool = False) -> str:
        """Return it as `run` takes it; plain: without `#!`, as a launcher or `setup` needs it."""
        before = list(self.exports)
        if not self.interpreter:
            return "\n".join([*before, self.body])
        if not plain:
            return "\n".join([f"#!{self.interpreter}", *before, self.body])
        shell = self.interpreter.removeprefix("/usr/bin/env ")
        return "\n".join([*before, f"{shell} -c {shlex.quote(self.body)}"])


def expand(text: str, values: Mapping[str, str | None], longest: int = LONGEST) -> Word:
    """Return a text with its references `$(NAME)` resolved, as Kubernetes does it.

    Args:
        text: `$$` is a dollar sign; a reference to what is not among the values stays as it stands.
        values: of variables; None is one that is known only where the job runs.
        longest: how many characters it may have.

    Raises:
        TooLong: it has more.
    """
    pieces: list[Piece] = []
    size, start = 0, 0

    def add(piece: Piece) -> None:
        nonlocal size
        size += len(piece.text)
        if size > longest:
            raise TooLong
        if piece.text and pieces and not piece.is_variable and not pieces[-1].is_variable:
            pieces[-1] = Piece(pieces[-1].text + piece.text)
        elif piece.text:
            pieces.append(piece)

    for match in _REFERENCE.finditer(text):
        add(Piece(text[start : match.start()]))
        start = match.end()
        name = match[1]
        if name is None:
            add(Piece("$" if match[0] == "$$" else match[0]))
        elif name not in values:
            add(Piece(match[0]))
        else:
            value = values[name]
            add(Piece(name, True) if value is None else Piece(value))
    add(Piece(text[start:]))
    return tuple(pieces)


def expand_all(texts: Iterable[str], values: Mapping[str, str | None]) -> list[Word]:
    """Return words with their references resolved.

    Raises:
        TooLong: they have more than 262,144 characters together.
    """
    words: list[Word] = []
    left = LONGEST
    for text in texts:
        words.append(expand(text, values, left))
        left -= sum(len(piece.text) for piece in words[-1])
    return words


def is_fixed(word: Word) -> bool:
    """Say whether a word is known before the job runs."""
    return not any(piece.is_variable for piece in word)


def fixed(word: Word) -> str:
    """Return the text of a word; its variables as a shell writes them."""
    return "".join(f"${{{piece.text}}}" if piece.is_variable else piece.text for piece in word)


def quoted(word: Word) -> str:
    """Return a word as a shell takes it."""
    return "".join(f'"${{{p.text}}}"' if p.is_variable else shlex.quote(p.text) for p in word) or "''"


def joined(words: Sequence[Word]) -> str:
    """Return one command of these words."""
    if not words:
        return ""
    first = quoted(words[0])
    if first in _RESERVED or re.match(r"[A-Za-z_][A-Za-z0-9_]*\+?=", first):
        first = f"'{first}'"
    return " ".join([first, *map(quoted, words[1:])])


def run_of(words: Sequence[Word], on_dynamic: Callable[[], None] = lambda: None) -> Run:
    """Return what runs these words; `sh -c TEXT` becomes the text itself.

    Args:
        words: the command and its arguments.
        on_dynamic: called when a variable stands inside shell text, where its value is not read as shell text.
    """
    if len(words) == 3 and all(is_fixed(word) for word in words[:2]):
        shell, flags = fixed(words[0]), fixed(words[1])
        if shell in _SHELLS and _FLAGS.fullmatch(flags) and fixed(words[2]).strip():
            if not is_fixed(words[2]):
                on_dynamic()
            body = fixed(words[2])
            flags = "".join(sorted(set(flags) - {"-", "c"}))
            return Run(f"set -{flags}\n{body}" if flags else body, interpreter=_SHELLS[shell])
    return Run(joined(words), words=tuple(words))
