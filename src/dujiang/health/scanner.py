"""Finding which signatures match which lines, fast enough for a thousand of them on every failed attempt.

Each signature names a literal that its lines must hold. Of each literal one group of four bytes, the one that the
fewest other literals share, goes into a table of a million bits; the text's own four-byte groups are looked up there
all at once (NumPy), so a line without any literal costs nothing further. Only where a group is known the literal itself
and then the pattern are tried. Case is ignored for literals; the pattern decides about case itself.

Input is bounded: the last `MOST_BYTES` of a text, lines cut at `LONGEST_LINE`, the last `MOST_TRIES` candidate lines of
each signature.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dujiang.health.signatures import Library, Signature

MOST_BYTES = 256 * 1024
LONGEST_LINE = 2000
MOST_TRIES = 32
_GRAM = 4
_BITS = 20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_TIME = re.compile(
    r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?:? "  # put there by a log shipper
)
_TAG = re.compile(
    r"\[(?:rank|default)\d{1,5}\]: ?|\[\d{1,3},\d{1,5}\]<std(?:out|err)>: ?|\d{1,5}: "  # torchrun, mpirun, srun -l
    r"|\((?:\w{1,60} )?pid=\d{1,10}(?:, ip=[\d.]{7,15})?\) "  # Ray
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A signature found on a line."""

    signature: Signature
    number: int
    """Of the line, from 0."""
    match: re.Match[str]


@dataclass(frozen=True, slots=True)
class Text:
    """A text cut to size, as lines exactly as they were written (beyond `LONGEST_LINE` cut off)."""

    lines: tuple[str, ...]

    def plain(self) -> list[tuple[str, str]]:
        """Return each line as (tag of the process it came from, what is left), without colour and shipper's time."""
        return [_plain(line) for line in self.lines]

    @classmethod
    def of(cls, text: str) -> Text:
        """Return the last lines of a text; a first line that was cut in two by the limit is dropped."""
        if len(text) > MOST_BYTES:
            text = text[-MOST_BYTES:]
            text = text.partition("\n")[2] or text
        # A progress bar rewrites its line with \r: what it showed last is the line, and each piece is one of its own.
        return cls(tuple(line[:LONGEST_LINE] for line in re.split(r"\r\n|\n|\r", text)))


def _plain(line: str) -> tuple[str, str]:
    if "\x1b" in line:
        line = _ESCAPES.sub("", line)
    tag = ""
    for _ in range(3):
        if match := _TIME.match(line):
            line = line[match.end() :]
        elif match := _TAG.match(line):
            tag += match[0]
            line = line[match.end() :]
        else:
            break
    return tag, line


class Scanner:
    """A library made ready for searching. Building takes milliseconds; it is kept and shared."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._order = {signature.id: index for index, signature in enumerate(library.signatures)}
        keys: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for rarest, index, literal in _placed(library.signatures):
            keys[rarest].append((index, literal))
        self._keys = np.array(sorted(keys), dtype=np.uint32)
        self._entries = [keys[int(key)] for key in self._keys]
        self._table = np.zeros(1 << _BITS, dtype=np.bool_)
        if len(self._keys):
            self._table[_hash(self._keys)] = True

    def scan(self, text: Text) -> list[Hit]:
        """Return every match, by line and then by the library's order."""
        if not len(self._keys):
            return []
        cleaned = [line for _, line in text.plain()]
        raw = [line.encode("utf-8", "replace") for line in cleaned]
        joined = b"\n".join(raw).lower()
        ends = np.cumsum(np.fromiter((len(line) + 1 for line in raw), dtype=np.int64, count=len(raw)))
        hits: list[Hit] = []
        for index, numbers in self._candidates(joined, ends).items():
            signature = self.library.signatures[index]
            for number in sorted(numbers)[-MOST_TRIES:]:
                match = signature.pattern.search(cleaned[number])
                if match is not None:
                    hits.append(Hit(signature, number, match))
        return sorted(hits, key=lambda hit: (hit.number, self._order[hit.signature.id]))

    def _candidates(self, joined: bytes, ends: NDArray[np.int64]) -> dict[int, set[int]]:
        """Return for each signature (by index) the lines that hold one of its literals."""
        grams = _grams(joined)
        places = np.flatnonzero(self._table[_hash(grams)])
        slots = np.searchsorted(self._keys, grams[places])
        known = slots < len(self._keys)
        places, slots = places[known], slots[known]
        exact = self._keys[slots] == grams[places]
        found: dict[int, set[int]] = defaultdict(set)
        places, slots = places[exact], slots[exact]
        numbers = np.searchsorted(ends, places, side="right")
        for pair in np.unique(slots * len(ends) + numbers).tolist():
            slot, number = divmod(pair, len(ends))
            start = int(ends[number - 1]) if number else 0
            line = joined[start : int(ends[number]) - 1]
            for index, literal in self._entries[slot]:
                if literal in line:
                    found[index].add(number)
        return found


def _placed(signatures: Sequence[Signature]) -> list[tuple[int, int, bytes]]:
    """Return (four-byte key, signature index, literal) with the key shared by the fewest literals."""
    literals = [(index, word.encode()) for index, one in enumerate(signatures) for word in one.literals]
    shared: dict[int, int] = defaultdict(int)
    for _, literal in literals:
        for gram in set(_grams(literal).tolist()):
            shared[gram] += 1
    return [
        (min(_grams(literal).tolist(), key=lambda gram: (shared[gram], _plainness(gram), gram)), index, literal)
        for index, literal in literals
    ]


def _plainness(gram: int) -> int:
    """Count the letters that are common in any text; a key of rarer ones gives fewer false alarms."""
    return sum(chr((gram >> shift) & 255) in "etaoinsr 0" for shift in (0, 8, 16, 24))


def _grams(text: bytes) -> NDArray[np.uint32]:
    """Return every group of four bytes of a text as one number, shape (len(text) - 3,); empty for shorter texts."""
    if len(text) < _GRAM:
        return np.zeros(0, dtype=np.uint32)
    b = np.frombuffer(text, dtype=np.uint8).astype(np.uint32)
    grams: NDArray[np.uint32] = b[:-3] | (b[1:-2] << np.uint32(8)) | (b[2:-1] << np.uint32(16))
    grams |= b[3:] << np.uint32(24)
    return grams


def _hash(grams: NDArray[np.uint32]) -> NDArray[np.uint32]:
    mixed: NDArray[np.uint32] = (grams * np.uint32(2654435761)) >> np.uint32(32 - _BITS)
    return mixed
