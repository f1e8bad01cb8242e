"""What is said about an attempt that ended: engine facts before text, root before cascade, proof before guess."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import End
from dujiang.health.diagnose import Diagnoser, diagnose
from dujiang.health.evaluate import evaluate, report, same_line
from dujiang.health.signatures import Library, load_shipped
from dujiang.jobs.diagnosis import Blame, Diagnosis
from tests.health.builders import TRACE, facts

DIAGNOSER = Diagnoser(load_shipped())
GIB = 1024**3


def test_exit_zero_is_success_whatever_was_printed(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("CUDA out of memory. Tried to allocate 2.00 GiB", code=0))
    assert (verdict.cause, verdict.retryable) == ("Succeeded", False)


def test_the_limit_group_is_stronger_than_the_text(diagnoser: Diagnoser) -> None:
    seen = facts(
        "ValueError: no such column", "Killed", end=End.OUT_OF_MEMORY, memory_bytes=2 * GIB,
        evidence=(("limit-group", "memory.events oom_kill 0 -> 1"),),
    )  # fmt: skip
    verdict = diagnoser(seen)
    assert (verdict.cause, verdict.blame, verdict.retryable) == ("HostOutOfMemory", Blame.USER, False)
    assert verdict.evidence[0].line == "memory.events oom_kill 0 -> 1"
    assert "2GiB" in verdict.sentence
    assert [rival.cause for rival in verdict.rivals] == ["UserCodeError", "KilledFromOutside"]


@pytest.mark.parametrize(
    "how", [{"signal": 9}, {"code": 137}, {"code": 143}, {"signal": 15}], ids=["9", "137", "143", "15"]
)
@pytest.mark.parametrize("said", [(), ("Killed",), ("epoch 3 loss 0.2",), ("KeyError: 'x'",)])
def test_a_bare_kill_is_no_proof_of_memory(diagnoser: Diagnoser, how: dict[str, int], said: tuple[str, ...]) -> None:
    verdict = diagnoser(facts(*said, **how))  # type: ignore[arg-type]
    assert (verdict.cause, verdict.blame, verdict.retryable) == ("KilledFromOutside", Blame.INFRASTRUCTURE, True)
    assert "memory" not in verdict.sentence or "nothing proves" in verdict.sentence


def test_with_a_limit_group_it_is_known_that_memory_was_not_the_reason(diagnoser: Diagnoser) -> None:
    seen = facts(signal=9, evidence=(("supervisor", "rank 0 died of signal 9 (SIGKILL)"),))
    told = diagnoser(replace(seen, observation=replace(seen.observation, limits_by="cgroup-v2")))
    assert "counted no kill for memory" in told.sentence
    assert told.confidence > diagnoser(seen).confidence
    assert [one.line for one in told.evidence] == ["rank 0 died of signal 9 (SIGKILL)"]


@pytest.mark.parametrize("watcher", ["supervisor", "runner"])
def test_how_it_ended_is_evidence_once_whoever_watched_over_it(diagnoser: Diagnoser, watcher: str) -> None:
    told = diagnoser(facts(code=3, evidence=((watcher, "rank 0 exited with 3"),)))
    assert [(one.source, one.line) for one in told.evidence] == [(watcher, "rank 0 exited with 3")]


def test_the_supervisors_words_about_the_exit_do_not_hide_the_root(diagnoser: Diagnoser) -> None:
    line = "rank 0 exited with 139, which a shell says when its command died of signal 11 (SIGSEGV)"
    seen = facts("double free or corruption (!prev)", code=139, evidence=(("supervisor", line),))
    assert diagnoser(seen).evidence[0].line == "double free or corruption (!prev)"


def test_forks_refused_by_the_limit_group_are_named(diagnoser: Diagnoser) -> None:
    seen = facts(
        "odd",
        evidence=(("supervisor", "rank 0 exited with 1"), ("limit-group", "rank 0: 3 forks refused at 8 processes")),
    )
    assert (diagnoser(seen).cause, diagnoser(seen).evidence[0].source) == ("ResourceLimit", "limit-group")


def test_a_kill_that_the_kernel_explains_is_memory(diagnoser: Diagnoser) -> None:
    line = "Memory cgroup out of memory: Killed process 4711 (python) total-vm:9000000kB"
    verdict = diagnoser(facts("epoch 1", code=137, kernel=("usb 1-1: new device", line)))
    assert (verdict.cause, verdict.blame) == ("HostOutOfMemory", Blame.USER)
    assert (verdict.evidence[0].source, verdict.evidence[0].line) == ("kernel", line)


def test_a_node_that_ran_out_of_memory_is_not_the_users_fault(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts(signal=9, kernel=("Out of memory: Killed process 7 (python3) total-vm:1kB",)))
    assert (verdict.cause, verdict.blame, verdict.scope) == ("HostOutOfMemory", Blame.INFRASTRUCTURE, "node")


@pytest.mark.parametrize(
    ("end", "reason", "cause", "blame"),
    [
        (End.STOPPED, "Cancelled", "Cancelled", Blame.USER),
        (End.STOPPED, "Preempted", "Preempted", Blame.PLATFORM),
        (End.STOPPED, "NodeDrained", "StoppedByPlatform", Blame.PLATFORM),
        (End.TIME_LIMIT, "", "TimeLimit", Blame.USER),
        (End.LOST, "", "SupervisorLost", Blame.INFRASTRUCTURE),
        (End.NODE_LOST, "", "NodeLost", Blame.INFRASTRUCTURE),
        (End.LAUNCH_FAILED, "", "LaunchFailed", Blame.PLATFORM),
        (End.SETUP_FAILED, "", "SetupFailed", Blame.USER),
        (End.REFUSED, "", "Refused", Blame.USER),
        (End.NODE_REFUSED, "", "NodeRefused", Blame.PLATFORM),
    ],
)
def test_what_the_engine_knows_decides(diagnoser: Diagnoser, end: End, reason: str, cause: str, blame: Blame) -> None:
    verdict = diagnoser(facts("loading", end=end, stop_reason=reason, time_limit_s=90))
    assert (verdict.cause, verdict.blame) == (cause, blame)
    assert verdict.confidence >= 0.8


def test_a_refusal_is_told_in_the_engines_own_words_and_never_as_something_that_they_resemble(
    diagnoser: Diagnoser,
) -> None:
    line = "this cluster runs no container images: ImagePullBackOff, no space left on device"
    verdict = diagnoser(facts(end=End.REFUSED, evidence=(("engine", line),)))
    assert (verdict.cause, verdict.retryable) == ("Refused", False)
    assert verdict.sentence == f"Its cluster does not take it: {line}."
    assert verdict.evidence[0].line == line


def test_the_time_limit_is_named(diagnoser: Diagnoser) -> None:
    assert "1m30s" in diagnoser(facts(end=End.TIME_LIMIT, time_limit_s=90)).sentence


def test_setup_that_failed_for_the_network_is_run_again(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("pip install x", "Temporary failure in name resolution", end=End.SETUP_FAILED))
    assert (verdict.cause, verdict.blame, verdict.retryable) == ("NetworkFault", Blame.PLATFORM, True)
    assert verdict.sentence.startswith("A setup command failed: a name")


def test_setup_that_asked_for_the_impossible_is_not(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("ERROR: No matching distribution found for torch==9.9", end=End.SETUP_FAILED))
    assert (verdict.cause, verdict.retryable) == ("DependencyMissing", False)
    assert "torch==9.9" in verdict.sentence


def test_launch_failure_is_read_from_the_engines_own_words(diagnoser: Diagnoser) -> None:
    line = "FileNotFoundError: [Errno 2] No such file or directory: '/home/u/nowhere'"
    verdict = diagnoser(facts(end=End.LAUNCH_FAILED, evidence=(("supervisor", line),)))
    assert (verdict.cause, verdict.blame, verdict.evidence[0].source) == ("FileMissing", Blame.USER, "supervisor")


def test_an_uncaught_exception_names_class_and_the_users_own_frame(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts(*TRACE, "my.pkg.BadLabel: label 11 is not in 0..9"))
    assert (verdict.cause, verdict.blame, verdict.scope) == ("UserCodeError", Blame.USER, "user-code")
    assert verdict.evidence[0].line == "my.pkg.BadLabel: label 11 is not in 0..9"
    assert "BadLabel" in verdict.sentence
    assert "u/train.py line 12 in main" in verdict.sentence


def test_a_known_exception_gets_its_own_cause_and_the_frame(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts(*TRACE, "ModuleNotFoundError: No module named 'torchvision'"))
    assert verdict.cause == "DependencyMissing"
    assert "torchvision" in verdict.sentence
    assert "train.py line 12" in verdict.evidence[0].where


def test_prefixed_tracebacks_of_several_ranks_in_one_output(diagnoser: Diagnoser) -> None:
    lines = [
        "[rank1]: Traceback (most recent call last):",
        "[rank0]: step 7",
        '[rank1]:   File "/home/u/train.py", line 5, in <module>',
        "[rank1]:     x = data['lable']",
        "[rank1]: KeyError: 'lable'",
    ]
    verdict = diagnoser(facts(*lines))
    assert verdict.cause == "UserCodeError"
    assert verdict.evidence[0].line == "[rank1]: KeyError: 'lable'"
    assert "u/train.py line 5" in verdict.evidence[0].where


def test_a_traceback_with_a_time_before_each_line(diagnoser: Diagnoser) -> None:
    lines = [f"2026-01-01T00:00:0{n}.5Z {line}" for n, line in enumerate((*TRACE, "LookupError: no such label"))]
    verdict = diagnoser(facts(*lines))
    assert verdict.evidence[0].line == lines[-1]
    assert "u/train.py line 12 in main" in verdict.sentence


@pytest.mark.parametrize(
    ("number", "cause"), [(-11, "SegmentationFault"), (-7, "BusError"), (-9, "KilledFromOutside"), (-6, "Aborted")]
)
def test_a_launcher_that_only_says_how_its_worker_died(diagnoser: Diagnoser, number: int, cause: str) -> None:
    line = (
        f"ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: {number}) local_rank: 0 (pid: 1) of x"
    )
    assert diagnoser(facts(line)).cause == cause


def test_the_first_root_in_time_wins_over_what_follows(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(
        facts(
            "NVRM: Xid (PCI:0000:05:00): 79, pid=1, GPU has fallen off the bus.",
            *TRACE, "RuntimeError: NCCL error: remote process exited or there was a network error",
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
            "OSError: [Errno 28] No space left on device",
        )
    )  # fmt: skip
    assert (verdict.cause, verdict.severity) == ("GpuFellOffBus", "critical")
    assert [rival.cause for rival in verdict.rivals] == ["DiskFull", "PeerDied"]


def test_the_rank_that_ended_it_is_asked_first_but_a_root_elsewhere_beats_its_cascade(diagnoser: Diagnoser) -> None:
    cascade = "NCCL error: remote process exited or there was a network error"
    root = "CUDA out of memory. Tried to allocate 2.00 GiB"
    verdict = diagnoser(facts(cascade, rank=0, others={1: "step 1\n" + root}))
    assert (verdict.cause, verdict.evidence[0].line) == ("GpuOutOfMemory", root)
    assert verdict.evidence[0].where.startswith("rank 1, line 2")
    both = facts("OSError: [Errno 28] No space left on device", rank=1, others={1: root})
    assert diagnoser(both).cause == "GpuOutOfMemory"


def test_only_a_cascade_gives_a_weak_verdict(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("NCCL error: remote process exited or there was a network error"))
    assert (verdict.cause, verdict.blame, verdict.retryable) == ("PeerDied", Blame.UNKNOWN, None)
    assert verdict.confidence < 0.5


def test_teardown_texts_never_win(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("Sending process 12 closing signal SIGTERM", "mpirun noticed that process rank 3 died"))
    assert verdict.cause == "Unknown"


def test_what_the_program_survived_did_not_end_it(diagnoser: Diagnoser) -> None:
    steps = [f"epoch {n} step {n * 10} loss 0.{n}" for n in range(1, 9)]
    warned = "OSError: [Errno 113] No route to host"
    verdict = diagnoser(facts(warned, *steps, *TRACE, "IndexError: list index out of range"))
    assert (verdict.cause, verdict.blame) == ("UserCodeError", Blame.USER)
    assert ("NetworkFault", "the program went on after it") in [(one.cause, one.why_not) for one in verdict.rivals]
    only = diagnoser(facts(warned, *steps))
    assert (only.cause, only.rivals[0].cause) == ("Unknown", "NetworkFault")


def test_a_mere_warning_is_weaker_than_an_exception(diagnoser: Diagnoser) -> None:
    warned = "WARNING cache: mkdir failed, No space left on device"
    verdict = diagnoser(facts(warned, *TRACE, "IndexError: list index out of range"))
    assert verdict.cause == "UserCodeError"
    assert diagnoser(facts(warned)).cause == "DiskFull"


@pytest.mark.parametrize(
    ("how", "cause", "blame"),
    [
        ({"signal": 11}, "SegmentationFault", Blame.USER),
        ({"code": 139}, "SegmentationFault", Blame.USER),
        ({"signal": 4}, "IllegalInstruction", Blame.USER),
        ({"signal": 7}, "BusError", Blame.UNKNOWN),
        ({"signal": 6}, "Aborted", Blame.USER),
        ({"signal": 25}, "FileTooLarge", Blame.USER),
        ({"signal": 10}, "Signaled", Blame.UNKNOWN),
        ({"code": 127}, "CommandNotFound", Blame.USER),
        ({"code": 126}, "CommandNotExecutable", Blame.USER),
        ({"code": 3}, "Unknown", Blame.UNKNOWN),
    ],
)
def test_exit_status_alone(diagnoser: Diagnoser, how: dict[str, int], cause: str, blame: Blame) -> None:
    verdict = diagnoser(facts("working", **how))  # type: ignore[arg-type]
    assert (verdict.cause, verdict.blame) == (cause, blame)


def test_text_says_more_than_the_signal_of_a_crash(diagnoser: Diagnoser) -> None:
    shm = "ERROR: Unexpected bus error encountered in worker. insufficient shared memory (shm)."
    assert diagnoser(facts(shm, signal=7)).cause == "SharedMemoryExhausted"
    abort = "terminate called after throwing an instance of 'std::bad_alloc'"
    assert diagnoser(facts(abort, signal=6)).cause == "HostOutOfMemory"


def test_nothing_known_quotes_the_last_line_and_says_so(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("starting", "it is over", "", "  ", code=3))
    assert (verdict.cause, verdict.evidence[0].line, verdict.retryable) == ("Unknown", "it is over", None)
    assert "exit code 3" in verdict.sentence
    assert verdict.confidence <= 0.2
    assert "printed nothing" in diagnoser(facts(code=3)).sentence


def test_hardware_news_of_a_lost_node_are_told(diagnoser: Diagnoser) -> None:
    line = "NVRM: GPU 0000:18:00.0: GPU has fallen off the bus."
    verdict = diagnoser(facts(end=End.NODE_LOST, kernel=(line,)))
    assert (verdict.cause, verdict.blame) == ("GpuFellOffBus", Blame.INFRASTRUCTURE)
    assert "node went away" in verdict.sentence


def test_work_that_its_engine_put_off_is_the_platforms_to_run_again(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("Traceback (most recent call last):", "KeyError: 'x'", end=End.PREEMPTED))
    assert (verdict.cause, verdict.blame, verdict.retryable) == ("Preempted", Blame.PLATFORM, True)


def test_the_verdict_survives_its_json(diagnoser: Diagnoser) -> None:
    verdict = diagnoser(facts("OSError: [Errno 28] No space left on device", *TRACE, "KeyError: 'x'"))
    stored = json.loads(json.dumps(verdict.to_json()))
    assert Diagnosis.from_json({**stored, "of_a_later_version": 1}) == verdict


def test_a_library_may_be_given_instead_of_a_diagnoser(library: Library, diagnoser: Diagnoser) -> None:
    seen = facts("OSError: [Errno 28] No space left on device")
    assert diagnose(seen, library) == diagnoser(seen)


LINES = [example for signature in load_shipped().signatures for example in signature.examples]
anything = st.lists(
    st.one_of(st.sampled_from(LINES), st.sampled_from(TRACE), st.text(st.characters(exclude_categories=("Cs",)))),
    max_size=30,
)


@given(
    anything, anything, st.sampled_from([None, *End]), st.none() | st.integers(-5, 300), st.none() | st.integers(-1, 70)
)
def test_always_a_verdict_and_its_text_evidence_occurs_in_the_input(
    printed: list[str], kernel: list[str], end: End | None, code: int | None, signal: int | None
) -> None:
    text, news = "\n".join(printed), tuple(kernel)
    seen = facts(text, end=end or End.EXITED, code=code, signal=signal, kernel=news)
    verdict = DIAGNOSER(seen)
    assert verdict == DIAGNOSER(seen)
    assert 0 <= verdict.confidence <= 1
    assert verdict.sentence
    for exhibit in verdict.evidence:
        if exhibit.source == "output":
            assert exhibit.line in text
        elif exhibit.source == "kernel":
            assert exhibit.line in "\n".join(news)
    if (verdict.blame, verdict.cause) != (Blame.UNKNOWN, "Succeeded"):
        expected = {Blame.USER: False, Blame.INFRASTRUCTURE: True, Blame.PLATFORM: True}.get(verdict.blame)
        assert verdict.retryable is expected


def test_labelled_logs_where_they_are_at_hand(diagnoser: Diagnoser) -> None:
    place = os.environ.get("DUJIANG_FAILURE_CASES", "")
    if not place or not Path(place).is_file():
        pytest.skip("DUJIANG_FAILURE_CASES names no file of labelled logs")
    with Path(place).open(encoding="utf-8") as lines:
        score = evaluate((json.loads(line) for line in lines if line.strip()), diagnoser)
    assert score.blame_right / score.cases >= 0.85, "\n".join([*report(score), *score.wrong])
    assert score.evidence_right / score.failures >= 0.75, "\n".join(score.wrong)


def test_evaluation_counts_what_it_says(diagnoser: Diagnoser) -> None:
    cases = [
        {"log": "x\nOSError: [Errno 28] No space left on device", "blame": "infrastructure", "cause": "disk_full",
         "evidence_line": "No space left on  device"},
        {"log": "KeyError: 'a'", "blame": "infrastructure", "cause": "user_code_bug", "evidence_line": "other"},
        {"log": "all is well", "blame": "none", "cause": "none", "evidence_line": "all is well"},
    ]  # fmt: skip
    score = evaluate(cases, diagnoser)
    assert (score.cases, score.blame_right, score.cause_right, score.evidence_right) == (3, 2, 3, 1)
    assert (score.false_alarms, len(score.wrong)) == (0, 1)
    assert score.confusion["infrastructure", "user"] == 1
    assert "blame right         2/3 = 66.7 %" in list(report(score))
    assert not same_line("", "x")
