"""The verdict: why an attempt ended, whose doing it was, and what to do.

What the engine measured is stronger than what the program printed: an exit of 0 is success, a memory kill counted by
the limit group is one whatever the text says, and a bare signal 9 or exit 137 is no proof of memory exhaustion. Text
decides where the engine only knows that the program left. Pure: the same facts give the same verdict.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Sequence
from dataclasses import replace

from dujiang.engines.contract import End
from dujiang.health.causes import ABOUT, Cause, retryable
from dujiang.health.findings import Finding, Tier, gather, last_line
from dujiang.health.scanner import Scanner
from dujiang.health.signatures import Library
from dujiang.jobs.diagnosis import AttemptFacts, Blame, Diagnosis, Exhibit, Rival
from dujiang.kit.units import format_bytes, format_duration

MOST_RIVALS = 5
MOST_EVIDENCE = 4
_EVIDENCE_ORDER = {"limit-group": 0, "kernel": 1, "supervisor": 2, "runner": 2}
_WATCHERS = frozenset({"supervisor", "runner"})
"""What watches over programs, on this machine and Slurm, and in a Pod: it has said how they ended."""
_SHELL_SIGNAL = 128
"""A shell leaves with 128 + n when its command died of signal n."""
_SENT_BY_OTHERS = frozenset({1, 2, 3, 9, 15})
"""Signals that somebody sends; a program does not get them for its own mistakes."""
_BY_SIGNAL = {
    4: Cause.ILLEGAL_INSTRUCTION, 6: Cause.ABORTED, 7: Cause.BUS_ERROR, 8: Cause.USER_CODE_ERROR,
    11: Cause.SEGMENTATION_FAULT, 25: Cause.FILE_TOO_LARGE, 31: Cause.USER_CODE_ERROR,
}  # fmt: skip
_BY_EXIT_CODE = {126: Cause.COMMAND_NOT_EXECUTABLE, 127: Cause.COMMAND_NOT_FOUND}
_STOPS = {"Cancelled": Cause.CANCELLED, "Preempted": Cause.PREEMPTED, "TimeLimit": Cause.TIME_LIMIT}
_CONFIDENCE = {Tier.ROOT: 0.9, Tier.EXCEPTION: 0.75, Tier.EITHER: 0.55, Tier.CASCADE: 0.35}


class Diagnoser:
    """A library made ready; bootstrap hands one to `jobs` as its `Diagnose`."""

    def __init__(self, library: Library) -> None:
        self._scanner = Scanner(library)

    def __call__(self, facts: AttemptFacts) -> Diagnosis:
        """Say why the attempt ended."""
        return diagnose(facts, self._scanner)


def diagnose(facts: AttemptFacts, library: Library | Scanner) -> Diagnosis:
    """Say why an attempt ended.

    Args:
        facts: of an attempt that has ended.
        library: the signatures; hand in a `Scanner` where it is called often, it costs some milliseconds to build.

    Returns:
        Always a verdict: `Unknown` with the last line it said, where nothing is known.
    """
    end, code = facts.observation.end, facts.observation.exit_code
    if end is End.EXITED and code == 0:
        return _of_cause(Cause.SUCCEEDED, facts, "exit-zero", 1.0)
    scanner = library if isinstance(library, Scanner) else Scanner(library)
    findings = gather(facts, scanner)
    if end is End.OUT_OF_MEMORY:
        return _weighed(_out_of_memory(facts), findings, "the kernel counted a kill at the memory limit")
    if end is End.TIME_LIMIT:
        return _weighed(_time_limit(facts), findings, "the engine stopped it at its time limit")
    if end is End.STOPPED:
        return _weighed(_stopped(facts), findings, "the platform had asked for the stop")
    if end is End.PREEMPTED:
        return _weighed(_put_off(facts), findings, "the engine took its place for other work")
    if end in (End.LOST, End.NODE_LOST):
        return _lost(facts, findings)
    if end in (End.REFUSED, End.NODE_REFUSED):
        return _refused(facts)
    if end in (End.SETUP_FAILED, End.LAUNCH_FAILED):
        return _never_ran(facts, findings)
    return _left(facts, findings)


def _left(facts: AttemptFacts, findings: Sequence[Finding]) -> Diagnosis:
    """Judge a program that left by itself or died of a signal."""
    number = _signal_of(facts)
    best = findings[0] if findings and findings[0].tier is not Tier.SURVIVED else None
    explaining = next((one for one in findings if number in one.explains), None)
    if explaining is not None and (number in _SENT_BY_OTHERS or best is None or best.tier > Tier.ROOT):
        return _of_finding(explaining, facts, findings)
    if number in _SENT_BY_OTHERS and number is not None:
        hardware = next((one for one in findings if _is_hardware(one)), None)
        if hardware is not None:
            return _of_finding(hardware, facts, findings)
        return _weighed(_killed(facts, number), findings, "a program that is killed cannot print why")
    if number is not None and (best is None or best.tier > Tier.ROOT):
        # An exception printed before a crash of native code is often the crash's own report, but not proof of it.
        return _weighed(_signaled(facts, number), findings, f"it died of {_name(number)} afterwards")
    if best is not None and (best.tier < Tier.CASCADE or facts.observation.exit_code not in _BY_EXIT_CODE):
        return _of_finding(best, facts, findings)
    if facts.observation.exit_code in _BY_EXIT_CODE:
        cause = _BY_EXIT_CODE[facts.observation.exit_code]
        return _weighed(_of_cause(cause, facts, f"exit-{facts.observation.exit_code}", 0.8, tail=True), findings, "")
    return _weighed(_unknown(facts), findings, "the program went on after it")


def _is_hardware(finding: Finding) -> bool:
    return (
        finding.tier is Tier.ROOT
        and finding.blame is Blame.INFRASTRUCTURE
        and finding.exhibit.source != "output"
        and finding.severity in ("severe", "critical")
    )


def _out_of_memory(facts: AttemptFacts) -> Diagnosis:
    verdict = _of_cause(Cause.HOST_OUT_OF_MEMORY, facts, "limit-group-oom", 0.98)
    if facts.memory_bytes is None:
        return verdict
    sentence = f"It needed more than the {format_bytes(facts.memory_bytes)} of main memory it was given, and the kernel"
    return replace(verdict, sentence=sentence + " killed it.")


def _time_limit(facts: AttemptFacts) -> Diagnosis:
    verdict = _of_cause(Cause.TIME_LIMIT, facts, "time-limit", 0.98)
    if facts.time_limit_s is None:
        return verdict
    limit = format_duration(facts.time_limit_s)
    return replace(verdict, sentence=f"It was still running at its time limit of {limit} and was stopped.")


def _stopped(facts: AttemptFacts) -> Diagnosis:
    cause = _STOPS.get(facts.stop_reason, Cause.STOPPED_BY_PLATFORM)
    verdict = _of_cause(cause, facts, "stop-asked", 0.98)
    if facts.stop_sentence:
        return replace(verdict, sentence=f"The platform stopped it. {facts.stop_sentence}")
    if cause is Cause.STOPPED_BY_PLATFORM and facts.stop_reason:
        return replace(verdict, sentence=f"The platform stopped it: {facts.stop_reason}.")
    return verdict


def _put_off(facts: AttemptFacts) -> Diagnosis:
    verdict = _of_cause(Cause.PREEMPTED, facts, "engine-preempted", 0.95)
    return replace(verdict, sentence="Its engine took its place for other work or put it off its node, unasked by us.")


def _lost(facts: AttemptFacts, findings: Sequence[Finding]) -> Diagnosis:
    cause = Cause.NODE_LOST if facts.observation.end is End.NODE_LOST else Cause.SUPERVISOR_LOST
    verdict = _of_cause(cause, facts, "contact-lost", 0.9)
    hardware = next((one for one in findings if _is_hardware(one)), None)
    if hardware is None:
        return _weighed(verdict, findings, "contact with it was lost, whatever it printed before")
    found = _of_finding(hardware, facts, findings)
    return replace(found, sentence=f"{verdict.sentence} Before that: {found.sentence}")


def _never_ran(facts: AttemptFacts, findings: Sequence[Finding]) -> Diagnosis:
    setup = facts.observation.end is End.SETUP_FAILED
    best = findings[0] if findings else None
    if best is not None and best.tier < Tier.CASCADE:
        found = _of_finding(best, facts, findings)
        began = "A setup command failed" if setup else "The engine could not start it"
        return replace(found, sentence=f"{began}: {found.sentence[:1].lower()}{found.sentence[1:]}")
    cause = Cause.SETUP_FAILED if setup else Cause.LAUNCH_FAILED
    rule = "setup-failed" if setup else "launch-failed"
    return _weighed(_of_cause(cause, facts, rule, 0.8, tail=setup), findings, "it only follows")


def _refused(facts: AttemptFacts) -> Diagnosis:
    """Judge what an engine did not take: it says why itself, so no line of it has to be recognised."""
    cause = Cause.REFUSED if facts.observation.end is End.REFUSED else Cause.NODE_REFUSED
    verdict = _of_cause(cause, facts, "refused" if cause is Cause.REFUSED else "node-refused", 0.95)
    said = next((" ".join(one.line.split()).rstrip(".") for one in facts.observation.evidence if one.line.strip()), "")
    return replace(verdict, sentence=f"{verdict.sentence[:-1]}: {said}.") if said else verdict


def _killed(facts: AttemptFacts, number: int) -> Diagnosis:
    verdict = _of_cause(Cause.KILLED_FROM_OUTSIDE, facts, f"signal-{number}", 0.75)
    about = f"It was killed by {_name(number)}, which the platform did not send; "
    if number != signals.SIGKILL:
        return replace(verdict, sentence=f"{about}something outside the program did.")
    if facts.observation.limits_by.startswith("cgroup"):
        return replace(verdict, sentence=f"{about}its limit group counted no kill for memory.", confidence=0.85)
    return replace(verdict, sentence=f"{about}nothing proves that memory ran out.")


def _signaled(facts: AttemptFacts, number: int) -> Diagnosis:
    cause = _BY_SIGNAL.get(number, Cause.SIGNALED)
    verdict = _of_cause(cause, facts, f"signal-{number}", 0.8 if cause is not Cause.SIGNALED else 0.4, tail=True)
    if cause in (Cause.SIGNALED, Cause.USER_CODE_ERROR):
        return replace(verdict, sentence=f"It died of {_name(number)}.")
    return verdict


def _unknown(facts: AttemptFacts) -> Diagnosis:
    verdict = _of_cause(Cause.UNKNOWN, facts, "", 0.1, tail=True)
    said = any(one.source == "output" for one in verdict.evidence)
    code = facts.observation.exit_code
    left = "It failed" if code is None else f"It left with exit code {code}"
    last = "its last line is below" if said else "it printed nothing"
    return replace(verdict, sentence=f"{left}, and nothing that was seen is known as a cause; {last}.")


def _of_cause(cause: Cause, facts: AttemptFacts, rule: str, confidence: float, *, tail: bool = False) -> Diagnosis:
    about = ABOUT[cause]
    evidence = _engine_evidence(facts)
    if tail and (last := last_line(facts)) is not None:
        evidence = (last, *evidence)
    return Diagnosis(
        cause.value, about.blame, about.sentence, evidence[:MOST_EVIDENCE], about.advice, confidence,
        retryable(cause, about.blame), rule, about.scope, "info" if cause is Cause.SUCCEEDED else "general",
    )  # fmt: skip


def _of_finding(finding: Finding, facts: AttemptFacts, findings: Sequence[Finding]) -> Diagnosis:
    others = [one for one in findings if one is not finding]
    disputed = any(one.tier is finding.tier is Tier.ROOT and one.blame is not finding.blame for one in others)
    decided = finding.retryable if finding.retryable is not None else retryable(finding.cause, finding.blame)
    evidence = (finding.exhibit, *(one for one in _engine_evidence(facts) if one.line != finding.exhibit.line))
    why = {Tier.SURVIVED: "the program went on after it", Tier.CASCADE: "it only says that something failed before"}
    rivals = _rivals(others, finding.cause, lambda one: why.get(one.tier, "it is weaker or came later"))
    return Diagnosis(
        finding.cause.value, finding.blame, finding.sentence, evidence[:MOST_EVIDENCE], finding.advice,
        _CONFIDENCE.get(finding.tier, 0.2) - (0.2 if disputed else 0.0), decided, finding.signature, finding.scope,
        finding.severity, rivals,
    )  # fmt: skip


def _weighed(verdict: Diagnosis, findings: Sequence[Finding], why_not: str) -> Diagnosis:
    """Return the verdict with the findings that it outweighed."""
    return replace(verdict, rivals=_rivals(findings, Cause(verdict.cause), lambda _: why_not))


def _rivals(findings: Sequence[Finding], cause: Cause, why: Callable[[Finding], str]) -> tuple[Rival, ...]:
    """Return one rival for each other cause, the most trusted first."""
    seen = {cause}
    rivals: list[Rival] = []
    for one in findings:
        if one.cause not in seen and len(rivals) < MOST_RIVALS:
            seen.add(one.cause)
            rivals.append(one.rival(why(one)))
    return tuple(rivals)


def _engine_evidence(facts: AttemptFacts) -> tuple[Exhibit, ...]:
    """Return what the engine saw, measured facts first; the exit status in our own words where it gave none."""
    seen = sorted(facts.observation.evidence, key=lambda one: _EVIDENCE_ORDER.get(one.source, len(_EVIDENCE_ORDER)))
    given = tuple(Exhibit(one.source, one.line) for one in seen if one.line)
    if any(one.source in _WATCHERS for one in given):
        return given
    if facts.observation.signal is not None:
        status = f"died of signal {facts.observation.signal} ({_name(facts.observation.signal)})"
    elif facts.observation.exit_code is not None:
        status = f"exit code {facts.observation.exit_code}"
    else:
        status = facts.observation.end.value if facts.observation.end else "ended"
    return (*given, Exhibit("exit", status))


def _signal_of(facts: AttemptFacts) -> int | None:
    """Return the signal it died of, also where a shell turned it into an exit code."""
    if facts.observation.signal is not None:
        return facts.observation.signal
    code = facts.observation.exit_code or 0
    return code - _SHELL_SIGNAL if _SHELL_SIGNAL < code <= _SHELL_SIGNAL + 31 else None


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
