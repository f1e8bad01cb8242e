"""How fast a thousand and more signatures are looked for: `python benchmarks/health_scan.py [SIGNATURES] [LINES]`.

The library is the shipped one filled up with generated rows (literals of two to four words, a pattern with a number);
the text is ordinary training output in which one line in two hundred is a failure's.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from dujiang.engines.contract import AttemptKey, End, Observation, Phase
from dujiang.health.diagnose import diagnose
from dujiang.health.scanner import Scanner, Text
from dujiang.health.signatures import Library, load, load_shipped
from dujiang.jobs.diagnosis import AttemptFacts

WORDS = [
    "device", "driver", "memory", "link", "rank", "step", "node", "queue", "buffer", "socket", "ring", "engine",
    "fabric", "page", "cache", "index", "block", "lock", "token", "model", "shard", "epoch", "layer", "tensor",
    "kernel", "stream", "reset", "fault", "timeout", "failed", "error", "lost", "refused", "aborted",
]  # fmt: skip


def main() -> None:
    """Print the figures."""
    given = [int(word) for word in sys.argv[1:]]
    count, lines = (*given, *(1500, 20000)[len(given) :])
    rng = np.random.default_rng(1)
    shipped = load_shipped()
    began = time.perf_counter()
    made = load([("generated.yaml", json.dumps({"signatures": _rows(rng, count - len(shipped.signatures))}))])
    loading = time.perf_counter() - began
    library = Library.of([*shipped.signatures, *made.signatures])
    began = time.perf_counter()
    scanner = Scanner(library)
    building = time.perf_counter() - began
    text = _text(rng, lines, library)
    parts = [Text(tuple(text[i : i + 2000])) for i in range(0, len(text), 2000)]
    best, hits = min(_timed(scanner, parts) for _ in range(5))
    naive = time.perf_counter()
    for line in text[:200]:
        for signature in library.signatures:
            signature.pattern.search(line)
    naive = (time.perf_counter() - naive) / 200
    seen = Observation(AttemptKey("job_1", 1), Phase.ENDED, end=End.EXITED, exit_code=1)
    facts = AttemptFacts(seen, output={0: "\n".join(text[:2000])})
    began = time.perf_counter()
    for _ in range(10):
        diagnose(facts, scanner)
    verdict = (time.perf_counter() - began) / 10
    size = sum(map(len, text)) / len(text)
    print(f"signatures                 {len(library.signatures)}")
    print(f"read and checked           {loading:.2f} s for {len(made.signatures)} generated rows")
    print(f"scanner built              {building * 1000:.0f} ms")
    print(f"text                       {len(text)} lines of {size:.0f} characters, {hits} matches")
    print(f"scanned                    {len(text) / best:,.0f} lines/s")
    print(f"each pattern on each line  {1 / naive:,.0f} lines/s")
    print(f"one diagnosis, 2,000 lines {verdict * 1000:.0f} ms")


def _timed(scanner: Scanner, parts: list[Text]) -> tuple[float, int]:
    began = time.perf_counter()
    hits = sum(len(scanner.scan(part)) for part in parts)
    return time.perf_counter() - began, hits


def _rows(rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    rows = []
    for number in range(count):
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(2, 5)))) + f" e{number:04d}"
        rows.append({
            "id": f"made-{number}", "pattern": rf"{words}: code (?P<code>\d+) at \S+", "literal": words,
            "cause": "GpuFault", "role": "either", "source": "generated", "example": f"{words}: code 7 at 0x1f",
        })  # fmt: skip
    return rows


def _text(rng: np.random.Generator, count: int, library: Library) -> list[str]:
    examples = [example for signature in library.signatures for example in signature.examples]
    lines = []
    for number in range(count):
        if number % 200 == 199:
            lines.append(str(rng.choice(examples)))
        else:
            lines.append(
                f"[2026-01-01 00:{number // 60 % 60:02d}:{number % 60:02d}] INFO step {number} loss {rng.random():.4f} "
                + " ".join(rng.choice(WORDS, size=8))
            )
    return lines


if __name__ == "__main__":
    main()
