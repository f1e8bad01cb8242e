"""Processes: whose they are, who gets a signal, what was left behind, and how a program is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.local import procfs, strays
from dujiang.engines.local.limits import Group, LimitPlan, Share
from dujiang.engines.local.ranks import LaunchFailure, command, start, started

WITHIN_S = 10.0
HOME, OTHER = f"a{os.getpid():07x}", f"b{os.getpid():07x}"  # another worker of the same run has others
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start shell text that says `ready`; returns once it has. What still runs after the test is killed."""
    begun: list[subprocess.Popen[str]] = []

    def run(text: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["/bin/sh", "-c", text], env={"PATH": os.environ["PATH"], **environment}, stdout=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(holds: Callable[[], Any]) -> Any:
    """Return what holds, once it does."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


# Who is whose


def test_children_and_those_below_them_are_found_parents_first(begin: Begin) -> None:
    process = begin("sh -c 'sleep 1000 & echo ready; wait' & wait")
    (child,) = procfs.children(process.pid)
    (below,) = procfs.children(child)
    assert procfs.descendants(process.pid) == [child, below]
    assert (procfs.parent(below), procfs.parent(child)) == (child, process.pid)
    assert until(lambda: procfs.name(below) == "sleep")


def test_what_is_gone_has_no_children_no_parent_and_no_name() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert (procfs.children(gone.pid), procfs.parent(gone.pid), procfs.name(gone.pid)) == ([], 0, "")
    assert not procfs.is_alive(gone.pid)
    assert procfs.status(gone.pid) == {}


def test_what_waits_to_be_reaped_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: not procfs.is_alive(process.pid))
    assert procfs.status(process.pid)["State"].startswith("Z")
    assert process.pid in procfs.children(os.getpid())
    process.wait()


def test_handlers_are_seen(begin: Begin) -> None:
    process = begin("trap 'echo saved' USR1; trap '' USR2; echo ready; while :; do sleep 1000; done")
    assert procfs.catches(process.pid, signal.SIGUSR1)
    assert not procfs.catches(process.pid, signal.SIGUSR2), "to ignore is not to catch"
    assert not procfs.catches(process.pid, signal.SIGHUP)


# Who gets a signal


def test_a_shell_that_only_waits_does_not_get_it_but_the_program_below(begin: Begin) -> None:
    program = "trap 'echo saved' USR1; echo ready; while :; do sleep 1000; done"
    process = begin(f'sh -c "{program}" & wait')
    assert procfs.receivers(process.pid, signal.SIGUSR1) == procfs.children(process.pid)


def test_a_program_with_a_handler_gets_it_and_nobody_below(begin: Begin) -> None:
    inner = "trap 'echo inner' USR1; echo ready; while :; do sleep 1000; done"
    process = begin(f"trap 'echo outer' USR1; sh -c \"{inner}\" & while :; do sleep 1000; done")
    assert procfs.receivers(process.pid, signal.SIGUSR1) == [process.pid]


def test_each_branch_is_looked_at(begin: Begin) -> None:
    inner = "trap : USR1; while :; do sleep 1000; done"
    process = begin(f"sh -c '{inner}' & sh -c '{inner}' & echo ready; wait")
    until(lambda: len(procfs.receivers(process.pid, signal.SIGUSR1)) == 2)
    assert procfs.receivers(process.pid, signal.SIGUSR1) == procfs.children(process.pid)


def test_without_a_handler_the_first_process_gets_it(begin: Begin) -> None:
    process = begin("sleep 1000 & echo ready; wait")
    assert procfs.receivers(process.pid, signal.SIGUSR1) == [process.pid]


# Marks and strays


def test_marks_are_those_of_the_home(begin: Begin) -> None:
    mine = begin("echo ready; read nothing; sleep 1000", **{procfs.MARK: f"{HOME}/job_a.1"})
    begin("echo ready; sleep 1000", **{procfs.MARK: f"{OTHER}/job_a.1"})
    begin("echo ready; sleep 1000", X=f"{procfs.MARK}={HOME}/job_x.1")
    found = dict(procfs.marked(HOME))
    assert found[mine.pid] == "job_a.1"
    assert set(found.values()) == {"job_a.1"}


def test_a_stray_is_what_nobody_watches_over(begin: Begin) -> None:
    pids = {}
    for key in ("job_a.1", "job_b.1"):
        pids[key] = begin("echo ready; exec sleep 1000", **{procfs.MARK: f"{HOME}/{key}"}).pid
    until(lambda: procfs.name(pids["job_a.1"]) == "sleep")
    assert strays.find(HOME, [], lambda key: key == "job_b.1") == [strays.Stray(pids["job_a.1"], "job_a.1", "sleep")]
    assert strays.find(HOME, [], lambda key: True) == []


def test_a_sweep_kills_strays_with_all_they_started_and_nobody_else(begin: Begin) -> None:
    left = begin("sleep 1000 & echo ready; wait", **{procfs.MARK: f"{HOME}/job_a.1"})
    watched = begin("echo ready; exec sleep 1000", **{procfs.MARK: f"{HOME}/job_b.1"})
    other = begin("echo ready; exec sleep 1000", **{procfs.MARK: f"{OTHER}/job_a.1"})
    below = procfs.children(left.pid)
    killed, all_gone = strays.sweep(HOME, [], lambda key: key == "job_b.1")
    assert all_gone
    assert {stray.pid for stray in killed} == {left.pid, *below}
    assert left.wait() == -signal.SIGKILL
    assert procfs.is_alive(watched.pid)
    assert procfs.is_alive(other.pid)
    assert strays.sweep(HOME, [], lambda key: key == "job_b.1") == ([], True)


def test_who_wiped_its_mark_is_found_by_its_group(begin: Begin, tmp_path: Path) -> None:
    process = begin("echo ready; exec env -i sleep 1000")
    for name in ("job_a.1.0", "job_b.1.0", "dujiang-platform", "job_c.1", "job_d.1.x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{process.pid}\n" if name != "job_b.1.0" else "")
    found = strays.find(HOME, [str(tmp_path), str(tmp_path / "none")], lambda key: key == "job_b.1")
    assert [(stray.pid, stray.key) for stray in found] == [(process.pid, "job_a.1")]


# How a program is started


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo x", ["/bin/sh", "-e", "-c", "echo x", "run"]),
        ("", ["/bin/sh", "-e", "-c", "", "run"]),
        ("echo '\udcff'", ["/bin/sh", "-e", "-c", "echo '\udcff'", "run"]),
    ],
)
def test_short_text_goes_to_the_shell(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert command(text, shell="/bin/sh", name="run", folder=str(tmp_path)) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["#!/usr/bin/env python3\nprint(1)\n", "# 你好\n" * 20_000])
def test_other_languages_and_long_text_go_through_a_file(tmp_path: Path, text: str) -> None:
    script = tmp_path / "run.script"
    found = command(text, shell="/bin/sh", name="run", folder=str(tmp_path))
    assert found == ([str(script)] if text.startswith("#!") else ["/bin/sh", "-e", str(script)])
    assert script.read_text() == text
    assert os.access(script, os.X_OK)


def test_a_file_that_cannot_be_written_is_a_failed_launch(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailure, match=r"the setup commands cannot be written to .*: No such file"):
        command("#!/bin/sh\n", shell="/bin/sh", name="setup", folder=str(tmp_path / "none"))


def launch(folder: Path, *arguments: str, workdir: str = "/") -> tuple[int, str]:
    """Start a program without limits; returns its wait status and what it wrote."""
    output, group = folder / "output", Group(LimitPlan("rlimits"), "job_a.1.0", Share(0, 0, 0))
    pid, errors = start(list(arguments), {"WHO": "me"}, workdir=workdir, output=str(output), group=group)
    try:
        started(errors)
    finally:
        _, status = os.waitpid(pid, 0)
    return status, output.read_text()


def test_a_program_runs_with_its_environment_alone_in_a_session_of_its_own(tmp_path: Path) -> None:
    code = "import os; print(sorted(os.environ), os.getsid(0) == os.getpid(), os.getcwd(), os.read(0, 1))"
    status, said = launch(tmp_path, sys.executable, "-I", "-c", code, workdir=str(tmp_path))
    names, *_ = said.split("] ")
    assert (status, "WHO" in names, "PATH" in names) == (0, True, False)
    assert said.endswith(f"True {tmp_path} b''\n")


def test_output_and_errors_are_kept_together_and_added_to(tmp_path: Path) -> None:
    for _ in range(2):
        status, said = launch(tmp_path, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (os.waitstatus_to_exitcode(status), said) == (3, "out\nerr\nout\nerr\n")
    assert os.stat(tmp_path / "output").st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "workdir", "words"),
    [
        (["/no/such/shell"], "/", "/no/such/shell in /: .*No such file or directory"),
        (["/"], "/", "Permission denied"),
        (["/bin/sh"], "/no/such/folder", "/no/such/folder: No such file or directory"),
        (["/bin/sh", "nul\0"], "/", "embedded null byte"),
        (["/bin/sh", "-c", ":" * 200_000], "/", "Argument list too long"),
    ],
)
def test_what_cannot_be_started_is_said(tmp_path: Path, arguments: list[str], workdir: str, words: str) -> None:
    with pytest.raises(LaunchFailure, match=words):
        launch(tmp_path, *arguments, workdir=workdir)
