"""What an end is called, when which signal is due, and which of the kernel's words are about an attempt."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, End, Evidence, Phase
from dujiang.engines.local.kernel_log import about, read_kernel_log
from dujiang.engines.local.outcome import Death, Outcome, decide, signal_name
from dujiang.engines.local.reading import observation
from dujiang.engines.local.records import monotonic_s
from dujiang.engines.local.stopping import SIBLING_GRACE_S, Cause, Move, begin
from dujiang.kit.clock import from_micros

FINE, THREE, KILLED, SHELL_KILLED = Death(0, None), Death(3, None), Death(None, 9), Death(137, None)
NOTHING = Death(None, None)


# Deaths


@pytest.mark.parametrize(
    ("status", "death"),
    [(0, FINE), (3 << 8, THREE), (9, KILLED), (9 | 0x80, KILLED), (137 << 8, SHELL_KILLED)],
)
def test_a_wait_status_is_read(status: int, death: Death) -> None:
    assert Death.of(status) == death


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (FINE, "exited with 0"),
        (THREE, "exited with 3"),
        (KILLED, "died of signal 9 (SIGKILL)"),
        (SHELL_KILLED, "exited with 137, which a shell says when its command died of signal 9 (SIGKILL)"),
        (Death(128, None), "exited with 128"),
        (Death(255, None), "exited with 255"),
        (Death(None, 35), "died of signal 35"),
    ],
)
def test_a_death_is_told(death: Death, words: str) -> None:
    assert str(death) == words
    assert death.failed is (death is not FINE)


@pytest.mark.parametrize(("number", "name"), [(15, "15 (SIGTERM)"), (64, "64 (SIGRTMAX)"), (40, "40"), (0, "0")])
def test_signals_have_names_where_they_have(number: int, name: str) -> None:
    assert signal_name(number) == name


# Ends


ENDS: dict[str, tuple[dict[str, Any], Outcome]] = {
    "success": ({"deaths": {0: FINE}}, Outcome("Exited", FINE, 0)),
    "exit code": ({"deaths": {0: THREE}, "first_failed": 0}, Outcome("Exited", THREE, 0)),
    "signal": ({"deaths": {0: KILLED}, "first_failed": 0}, Outcome("Signaled", KILLED, 0)),
    "the rank that failed first": (
        {"deaths": {0: KILLED, 1: THREE, 2: FINE}, "first_failed": 1, "stopped_by": Cause.SIBLING},
        Outcome("Exited", THREE, 1),
    ),
    "killed for memory": (
        {"deaths": {0: KILLED}, "first_failed": 0, "oom_kills": 1}, Outcome("OutOfMemory", KILLED, 0),
    ),
    "a child killed for memory": (
        {"deaths": {0: THREE}, "first_failed": 0, "oom_kills": 2}, Outcome("OutOfMemory", THREE, 0),
    ),
    "a child killed for memory, and it went on": (
        {"deaths": {0: FINE}, "oom_kills": 1}, Outcome("Exited", FINE, 0),
    ),
    "stopped, and it saved": ({"deaths": {0: FINE}, "stopped_by": Cause.ASKED}, Outcome("Stopped", FINE, 0)),
    "stopped, and it was killed": ({"deaths": {0: KILLED}, "stopped_by": Cause.ASKED}, Outcome("Stopped", KILLED, 0)),
    "stopped before it started": ({"deaths": {}, "stopped_by": Cause.ASKED}, Outcome("Stopped", NOTHING, None)),
    "stopped, killed for memory while saving": (
        {"deaths": {0: KILLED}, "stopped_by": Cause.ASKED, "oom_kills": 1}, Outcome("Stopped", KILLED, 0),
    ),
    "time": ({"deaths": {0: KILLED}, "stopped_by": Cause.TIME_LIMIT}, Outcome("TimeLimit", KILLED, 0)),
    "the machine shuts down": ({"deaths": {0: FINE}, "stopped_by": Cause.TERMINATED}, Outcome("Lost", FINE, 0)),
    "setup": ({"deaths": {}, "setup": THREE}, Outcome("SetupFailed", THREE, 0)),
    "setup killed for memory": ({"deaths": {}, "setup": KILLED, "oom_kills": 1}, Outcome("OutOfMemory", KILLED, 0)),
    "setup stopped": ({"deaths": {}, "setup": KILLED, "stopped_by": Cause.ASKED}, Outcome("Stopped", KILLED, 0)),
    "setup out of time": (
        {"deaths": {}, "setup": KILLED, "stopped_by": Cause.TIME_LIMIT}, Outcome("TimeLimit", KILLED, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_an_end_has_the_name_of_what_happened_first(case: str) -> None:
    given, outcome = ENDS[case]
    assert decide(**{"first_failed": None, "stopped_by": None, "oom_kills": 0, **given}) == outcome
    assert End(outcome.end)


# Stopping


def moves(stop: Any, *times: float) -> list[tuple[float, list[Move]]]:
    """Return what is due at each of these times, what was done before counted."""
    done = []
    for now in times:
        stop, due = stop.due(now)
        done.append((now, due))
    return done


def test_the_save_signal_comes_at_once_the_end_after_half_and_after_all_of_the_grace() -> None:
    stop = begin(Cause.ASKED, 100.0, 30.0, signal.SIGUSR1)
    assert moves(stop, 100.0, 110.0, 115.0, 120.0, 130.0, 131.0) == [
        (100.0, [Move.SAVE]), (110.0, []), (115.0, [Move.TERMINATE]), (120.0, []), (130.0, [Move.KILL]),
        (131.0, [Move.KILL]),
    ]  # fmt: skip
    assert stop.next_at() == 115.0


@pytest.mark.parametrize("save", [None, signal.SIGTERM, signal.SIGKILL])
def test_without_a_save_signal_of_its_own_it_is_terminated_at_once(save: int | None) -> None:
    stop = begin(Cause.ASKED, 100.0, 30.0, save)
    assert moves(stop, 100.0, 129.0, 130.0) == [(100.0, [Move.TERMINATE]), (129.0, []), (130.0, [Move.KILL])]
    assert stop.due(100.0)[0].next_at() == 130.0


def test_without_grace_it_is_killed() -> None:
    assert moves(begin(Cause.ASKED, 100.0, 0.0, signal.SIGUSR1), 100.0) == [(100.0, [Move.KILL])]


def test_late_both_are_due_together() -> None:
    assert moves(begin(Cause.ASKED, 100.0, 30.0, signal.SIGUSR1), 120.0) == [(120.0, [Move.SAVE, Move.TERMINATE])]


def test_a_shorter_grace_moves_what_is_to_come_and_repeats_nothing() -> None:
    stop, _ = begin(Cause.ASKED, 100.0, 30.0, signal.SIGUSR1).due(100.0)
    assert moves(stop.shortened(110.0), 104.0, 105.0, 110.0) == [
        (104.0, []), (105.0, [Move.TERMINATE]), (110.0, [Move.KILL]),
    ]  # fmt: skip
    assert stop.shortened(200.0) == stop


@pytest.mark.parametrize(("grace_s", "expected"), [(60.0, SIBLING_GRACE_S), (1.0, 1.0)])
def test_who_lost_its_peers_has_nothing_to_save_and_little_time(grace_s: float, expected: float) -> None:
    stop = begin(Cause.SIBLING, 100.0, grace_s, signal.SIGUSR1)
    assert stop.deadline == 100.0 + expected
    assert moves(stop, 100.0) == [(100.0, [Move.TERMINATE])]


# The kernel's log


GROUPS = ["/sys/fs/cgroup/memory/dujiang-0/job_a.1.0"]
LINES = {
    "Memory cgroup out of memory: Killed process 1234 (python3) total-vm:1kB": True,
    "python3[1234]: segfault at 0 ip 0 sp 0 error 4": True,
    "[ 1234] 0 1234 100 100": True,
    "NVRM: Xid (PCI:0000:3b:00): 31, pid=1234, name=python3, Ch 00000008": True,
    "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.": True,
    "oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/dujiang-0/job_a.1.0,task=python3,pid=99": True,
    "amdgpu 0000:03:00.0: amdgpu: GPU reset begin!": True,
    "blk_update_request: I/O error, dev sda, sector 1": True,
    "Killed process 12345 (python3)": False,
    "Killed process 123 (python3)": False,
    "usb 1-1: new device 1234": False,
    "oom_memcg=/dujiang-0/job_b.1.0": False,
    "": False,
}


@pytest.mark.parametrize("line", LINES)
def test_lines_about_the_attempt_or_failing_hardware_are_kept(line: str) -> None:
    assert bool(about([(10.0, line)], {1234, 77}, GROUPS, 5.0)) is LINES[line]


def test_what_was_said_before_it_began_is_not_about_it() -> None:
    line = "Killed process 1234 (python3)"
    assert about([(4.9, line), (5.0, line)], {1234}, GROUPS, 5.0) == [(5.0, line)]


def test_the_last_of_many_lines_are_kept() -> None:
    log = [(float(nth), "NVRM: Xid 79") for nth in range(100)]
    assert about(log, [], [], 0.0) == log[-20:]


def test_without_a_process_or_a_group_only_hardware_is_kept() -> None:
    assert about([(1.0, "anything at all"), (2.0, "NVRM: Xid 79")], [], [], 0.0) == [(2.0, "NVRM: Xid 79")]


def test_the_log_of_this_machine_is_read_line_by_line_or_is_not_there() -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        assert read_kernel_log() == []
    assert all(0 <= at <= monotonic_s() and "\n" not in line for at, line in read_kernel_log())


# Observations


LAUNCH = {"ranks": [{"node": "here"}], "limits": {"by": "rlimits"}, "workdir": "/w"}
STARTED = {"at": 1_000_000, "ports": [20000]}
ENDED = {
    "end": "Exited", "exit_code": 3, "signal": None, "rank": 0, "at": 2_000_000, "facts": {"ran_s": 1.0},
    "evidence": [["kernel", "oom", 1_500_000], ["engine", "gone", None]],
}  # fmt: skip


def test_a_running_attempt_has_no_end_whatever_was_written() -> None:
    seen = observation(AttemptKey("job_a", 1), Phase.RUNNING, LAUNCH, STARTED, ENDED, {}, output_dir="/o")
    assert (seen.end, seen.exit_code, seen.finished_at) == (None, None, None)
    assert (seen.node, seen.limits_by, seen.workdir, seen.output_dir, seen.ports) == (
        "here", "rlimits", "/w", "/o", (20000,),
    )  # fmt: skip


def test_an_ended_attempt_has_its_evidence_and_all_facts() -> None:
    seen = observation(AttemptKey("job_a", 1), Phase.ENDED, LAUNCH, STARTED, ENDED, {"inputs": {}}, output_dir="/o")
    assert (seen.end, seen.exit_code, seen.rank) == (End.EXITED, 3, 0)
    assert (seen.started_at, seen.finished_at) == (from_micros(1_000_000), from_micros(2_000_000))
    assert seen.evidence == (Evidence("kernel", "oom", from_micros(1_500_000)), Evidence("engine", "gone"))
    assert seen.facts == {"ran_s": 1.0, "inputs": {}}


def test_an_attempt_whose_launch_is_gone_is_still_seen() -> None:
    seen = observation(AttemptKey("job_a", 1), Phase.PENDING, {}, {}, None, {}, output_dir="/o")
    assert (seen.phase, seen.node, seen.started_at, seen.ports) == (Phase.PENDING, "", None, ())
