"""From texts to findings: every known line and every traceback of an attempt, and which of them ended it.

The order of trust, decided here: a root line that the program did not survive; an uncaught exception of its own; a line
that may be root or follow-on; a line that only says that something else failed. Within one rank the first in time wins,
because what follows a failure mostly repeats it. Cleaning up is never a cause. What the program went on after did not
end it: a finding followed by more training steps is only a rival.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from dujiang.engines.contract import End
from dujiang.health.causes import ABOUT, Cause
from dujiang.health.scanner import LONGEST_LINE, Hit, Scanner, Text
from dujiang.health.signatures import Role
from dujiang.health.tracebacks import Traceback, find_tracebacks
from dujiang.jobs.diagnosis import AttemptFacts, Blame, Exhibit, Rival

SURVIVED_STEPS = 5
"""So many lines of progress after a finding say that it did not end the program."""
MOST_RANKS = 64
"""Ranks whose output is read, the one that ended the attempt first."""
_FIRST = -(10**6)
"""Orders an uncaught exception with its frame before a signature that knows no more of that line than its class."""
_PROGRESS = re.compile(
    r"\b(?:global_?step|step|epoch|iter|iteration)\b[\s\[\]:=#]{0,3}\d|\d+/\d+ \[|\b\d+(?:\.\d+)?(?:it/s|s/it)\b", re.I
)
_MERELY_SAID = re.compile(r"\b(?:WARNING|WARN|INFO|DEBUG|Warning)\b|^\[?[WI]\d{4}\s|^\[[WI] |UserWarning:")
_NOT_MERELY = re.compile(r"NCCL WARN|\bERROR\b|\berror:|\bfatal\b|\bFATAL\b")


class Tier(IntEnum):
    """How much a finding is trusted to be what ended the attempt; smaller is more."""

    ROOT = 0
    EXCEPTION = 1
    EITHER = 2
    CASCADE = 3
    SURVIVED = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One line that may say why."""

    tier: Tier
    order: tuple[int, int, int]
    """Source, line, and the less specific of two on one line later."""
    cause: Cause
    blame: Blame
    signature: str
    exhibit: Exhibit
    sentence: str
    advice: str
    scope: str
    severity: str
    retryable: bool | None
    explains: frozenset[int]

    def rival(self, why_not: str) -> Rival:
        """Return this as something that was weighed."""
        return Rival(self.cause.value, self.blame, self.signature, self.exhibit.line, why_not)


def gather(facts: AttemptFacts, scanner: Scanner) -> list[Finding]:
    """Return every finding in what the engine, the kernel and the program said, the most trusted first."""
    # A supervisor says how processes ended, which is known from the exit already; only why it could not launch is news.
    launched = facts.observation.end is not End.LAUNCH_FAILED
    said = [
        (one.source, line)
        for one in facts.observation.evidence
        for line in one.line.splitlines()
        if not (launched and one.source == "supervisor")
    ]
    findings = [
        _from_hit(hit, 0, Exhibit(*said[hit.number]), _tier(hit))
        for hit in scanner.scan(Text(tuple(line[:LONGEST_LINE] for _, line in said)))
    ]
    kernel = Text.of("\n".join(facts.kernel))
    findings += [
        _from_hit(hit, 1, Exhibit("kernel", kernel.lines[hit.number]), _tier(hit)) for hit in scanner.scan(kernel)
    ]
    for place, rank in enumerate(_ranks(facts), start=2):
        findings += _from_output(Text.of(facts.output[rank]).lines, rank, place, scanner, alone=len(facts.output) == 1)
    findings = [one for one in findings if one.severity != "info"]
    return sorted(findings, key=lambda one: (one.tier, one.order))


def last_line(facts: AttemptFacts) -> Exhibit | None:
    """Return the last line that is not empty, of the rank that ended the attempt where it said anything."""
    for rank in _ranks(facts):
        lines = Text.of(facts.output[rank]).lines
        for number in range(len(lines) - 1, -1, -1):
            if lines[number].strip():
                return Exhibit("output", lines[number], _where(rank, number, alone=len(facts.output) == 1))
    return None


def _ranks(facts: AttemptFacts) -> list[int]:
    first = facts.observation.rank
    return sorted(facts.output, key=lambda rank: (rank != first, rank))[:MOST_RANKS]


def _from_output(lines: Sequence[str], rank: int, place: int, scanner: Scanner, *, alone: bool) -> list[Finding]:
    hits = scanner.scan(Text(tuple(lines)))
    tracebacks = {one.number: one for one in find_tracebacks(Text(tuple(lines)).plain())}
    progress = [number for number, line in enumerate(lines) if _PROGRESS.search(line)]
    findings = []
    for hit in hits:
        if hit.signature.role is Role.TEARDOWN:
            continue
        trace = tracebacks.get(hit.number)
        where = _where(rank, hit.number, alone=alone) + (f"; {trace.frame}" if trace and trace.frame else "")
        line = lines[hit.number]
        tier = _tier(hit)
        if tier is Tier.ROOT and trace is None and _MERELY_SAID.search(line) and not _NOT_MERELY.search(line):
            tier = Tier.EITHER
        if tier is Tier.EITHER and trace is not None:
            tier = Tier.EXCEPTION  # the program died of it, so it is more than something said in passing
        if len(progress) - bisect_right(progress, hit.number) >= SURVIVED_STEPS:
            tier = Tier.SURVIVED
        findings.append(_from_hit(hit, place, Exhibit("output", line, where), tier))
    known = {hit.number for hit in hits if hit.signature.cause is not Cause.USER_CODE_ERROR}
    for number, trace in tracebacks.items():
        if number not in known:
            tier = Tier.SURVIVED if len(progress) - bisect_right(progress, number) >= SURVIVED_STEPS else Tier.EXCEPTION
            where = _where(rank, number, alone=alone) + (f"; {trace.frame}" if trace.frame else "")
            findings.append(_from_exception(trace, lines[number], (place, number, _FIRST), tier, where))
    return findings


def _from_exception(trace: Traceback, line: str, order: tuple[int, int, int], tier: Tier, where: str) -> Finding:
    about = ABOUT[Cause.USER_CODE_ERROR]
    at = f" at {trace.frame}" if trace.frame else ""
    return Finding(
        tier, order, Cause.USER_CODE_ERROR, about.blame, "uncaught-exception", Exhibit("output", line, where),
        f"The program stopped with an uncaught {trace.name.rpartition('.')[2]}{at}.", about.advice, about.scope,
        "general", None, frozenset(),
    )  # fmt: skip


def _from_hit(hit: Hit, place: int, exhibit: Exhibit, tier: Tier) -> Finding:
    signature = hit.signature
    width = hit.match.end() - hit.match.start()
    return Finding(
        tier, (place, hit.number, -width), signature.cause, signature.blame, signature.id, exhibit,
        signature.sentence.format_map(_Shown(hit.match.groupdict(""))), signature.advice, signature.scope,
        signature.severity, signature.retryable, signature.explains,
    )  # fmt: skip


class _Shown(dict[str, str]):
    """Groups of a match cut to what a sentence can hold."""

    def __getitem__(self, key: str) -> str:
        value = " ".join(super().__getitem__(key).split())
        return value if len(value) <= 120 else value[:117] + "..."


def _tier(hit: Hit) -> Tier:
    return {Role.ROOT: Tier.ROOT, Role.EITHER: Tier.EITHER, Role.CASCADE: Tier.CASCADE}.get(
        hit.signature.role, Tier.SURVIVED
    )


def _where(rank: int, number: int, *, alone: bool) -> str:
    return f"line {number + 1} of what was kept" if alone else f"rank {rank}, line {number + 1} of what was kept"
