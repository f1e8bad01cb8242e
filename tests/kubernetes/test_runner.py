"""The script that Pods begin with, run by the shells that images have, each as the first process of a namespace."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dujiang.engines.contract import AttemptKey, Checkpointing, Input, Launch, RankPlacement
from dujiang.engines.kubernetes import environment, recording, runner
from dujiang.engines.kubernetes.words import said_by_runner

SHELLS = {"dash": ["dash"], "busybox": ["busybox", "ash"], "bash": ["bash"]}
WITHIN_S = 20.0


def _may_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not _may_unshare(), reason="a process may not become the first of a namespace here")


def a_launch(run: str, **more: Any) -> Launch:
    ranks = (RankPlacement(0, "n1", 500, 1 << 20), RankPlacement(1, "n1", 500, 1 << 20))
    return Launch(AttemptKey("job_a", 1), "a-job", "a-project", run, ranks, **{"grace_s": 5.0, **more})


@dataclass
class Box:
    """One run of the script."""

    folder: Path
    shell: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self, launch: Launch, *, rank: int = 0, go: str = "", env: str = "") -> Box:
        """Begin a rank, with lines that set its variables."""
        (self.folder / "bin").mkdir(parents=True)
        files = runner.files_of(launch, workdir=f"{self.folder}/w", output_dir=f"{self.folder}/o", go=go)
        files["launch"] = files["launch"].replace(runner.STATE, f"{self.folder}/state")
        files["launch"] = files["launch"].replace(runner.LAST_WORD, f"{self.folder}/last")
        for name, text in {**files, "runner": runner.text(), **({runner.ENV: env} if env else {})}.items():
            path = self.folder / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (self.folder / "bin" / recording.ARCHIVE).write_bytes(base64.b64decode(recording.archive()))
        (self.folder / "last").touch()
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *self.shell]
        command += [f"{self.folder}/bin/runner", "run", str(rank)]
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job inherits it ignored
            )  # fmt: skip
        return self

    def said(self, text: str) -> Box:
        """Wait until the program has said something."""
        deadline = time.monotonic() + WITHIN_S
        while text not in self.output():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)
        return self

    def ask(self, *words: str) -> Box:
        """Ask the script for something, from beside it in its namespace."""
        assert self.process is not None
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        inside = ["nsenter", "--pid", "--mount", f"--target={first}", *self.shell]
        asked = [*inside, f"{self.folder}/bin/runner", "ask", *words]
        while subprocess.run(asked, check=False).returncode and self.process.poll() is None:
            pass  # a stop that begins sends its signals to everything
        return self

    def end(self) -> dict[str, str]:
        """Wait for the end, and return the last word."""
        assert self.process is not None
        self.process.wait(WITHIN_S)
        word = said_by_runner((self.folder / "last").read_text())
        assert word is not None
        return word

    def output(self) -> str:
        """Return what was printed."""
        return (self.folder / "out").read_text()


@pytest.fixture(params=SHELLS)
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    shell = SHELLS[request.param]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not on this machine")
    box = Box(tmp_path / "box", shell)
    yield box
    if box.process is not None and box.process.poll() is None:
        box.process.kill()
        box.process.wait()


def how(word: dict[str, str]) -> tuple[str, str, str]:
    return word["end"], word["status"], word["signal"]


@pytest.mark.parametrize("code", [0, 3, 137, 143, 255])
def test_an_exit_code_is_exact(box: Box, code: int) -> None:
    assert how(box.start(a_launch(f"echo hi; exit {code}")).end()) == ("Exited", str(code), "")
    assert box.output() == "hi\n"
    assert box.process is not None
    assert box.process.returncode == code


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1, signal.SIGINT, signal.SIGPIPE]
)
def test_a_signal_is_exact(box: Box, number: int) -> None:
    end = box.start(a_launch(f"kill -{int(number)} $$")).end()
    assert how(end) == ("Exited", str(128 + number), str(int(number)))
    assert box.output() == ""


HOSTILE = 'a\'b "$HOME" `id` \\n $(exit 7)\n\ttwo lines; exit 9 # é中 '


def test_variables_come_to_setup_and_run_as_they_are(box: Box) -> None:
    lines, rest = environment.exports({"A": HOSTILE, "RANK": "3", "EMPTY": "", "long": "x" * 90_000})
    assert not rest
    show = 'printf "%s|%s|%s|%s" "$A" "$RANK" "${EMPTY-unset}" "${#long}"'
    end = box.start(a_launch(show, setup=f"{show}; A=changed"), env=lines).end()
    assert how(end) == ("Exited", "0", "")
    assert box.output() == f"{HOSTILE}|3||90000" * 2


def test_no_variable_disturbs_the_runner(box: Box) -> None:
    given = dict.fromkeys(("IFS", "PATH", "dj_state", "UID", "PPID", "OPTIND", "ENV", "LC_ALL", "a-b", "1a", "é"), "x")
    lines, rest = environment.exports({**given, "status": "5", "i": "6"})
    assert rest == given
    assert how(box.start(a_launch('exit "$status"'), env=lines).end()) == ("Exited", "5", "")


def test_a_text_names_its_interpreter_or_is_the_shells_and_may_be_long(box: Box) -> None:
    launch = a_launch("#! /usr/bin/env cat\nthis text\n", setup="echo $0 " + "x" * 200_000)
    assert how(box.start(launch).end()) == ("Exited", "0", "")
    first, _, rest = box.output().partition(" ")
    assert first.endswith("/bin/setup")
    assert rest == "x" * 200_000 + "\n#! /usr/bin/env cat\nthis text\n"


def test_an_interpreter_that_is_not_there_is_a_failed_launch(box: Box) -> None:
    end = box.start(a_launch("#!/no/such/interpreter\n")).end()
    assert end["end"] == "LaunchFailed"
    assert "run commands cannot be started" in end["why"]


def test_a_folder_that_is_not_there_is_a_failed_launch(box: Box) -> None:
    launch = a_launch("true", checkpoint=Checkpointing(path="/proc/no/such"))
    end = box.start(launch).end()
    assert end["end"] == "LaunchFailed"
    assert "/proc/no/such" in end["why"]


def test_a_setup_that_fails_starts_nothing(box: Box) -> None:
    assert how(box.start(a_launch("echo run", setup="echo setup; exit 9")).end()) == ("SetupFailed", "9", "")
    assert box.output() == "setup\n"


def test_the_users_path_is_the_programs_and_not_the_scripts(box: Box) -> None:
    end = box.start(replace(a_launch("echo $PATH"), setup="")).end()
    assert how(end) == ("Exited", "0", "")
    assert box.output().strip() == os.environ["PATH"]


def test_the_time_limit_is_kept_to_the_fraction_of_a_second(box: Box) -> None:
    end = box.start(a_launch("sleep 100", time_limit_s=0.35)).end()
    assert (end["cause"], end["signal"]) == ("limit", "15")
    assert 35 <= int(end["ran_cs"]) < 400


def test_a_stop_saves_and_what_still_saves_has_its_grace(box: Box) -> None:
    text = "trap 'echo saved; exit 0' USR1; echo ready; sleep 1000 & wait"
    box.start(a_launch(text, checkpoint=Checkpointing(path="/tmp", signal=signal.SIGUSR1))).said("ready")
    end = box.ask("stop", "asked", "200").end()
    assert (*how(end), end["cause"]) == ("Exited", "0", "", "asked")
    assert box.output() == "ready\nsaved\n"
    assert 100 <= int(end["ran_cs"]) < 500  # SIGTERM to the sleep at half of the grace


def test_a_stop_kills_at_the_end_of_the_shortest_grace(box: Box) -> None:
    """Also when one asks while the other is obeyed: once in some twenty runs, that woke nobody for ten seconds."""
    box.start(
        a_launch("trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo ready; while :; do sleep 1; done")
    )
    box.said("ready").ask("stop", "asked", "60000").ask("stop", "asked", "40").ask("stop", "asked", "50000")
    end = box.end()
    assert (end["cause"], end["signal"]) == ("asked", "9")
    assert int(end["ran_cs"]) < 600


def test_a_rank_beside_one_that_failed_is_not_saved(box: Box) -> None:
    text = "trap 'echo saved' USR1; echo ready; while :; do sleep 0.1; done"
    box.start(a_launch(text, checkpoint=Checkpointing(path="/tmp", signal=signal.SIGUSR1))).said("ready")
    end = box.ask("stop", "sibling", "9000").end()
    assert (end["cause"], end["signal"]) == ("sibling", "15")
    assert box.output() == "ready\n"


def test_the_kubelets_word_saves_too(box: Box) -> None:
    text = "trap 'echo saved; exit 5' USR1; echo ready; while :; do sleep 0.1; done"
    box.start(a_launch(text, checkpoint=Checkpointing(path="/tmp", signal=signal.SIGUSR1))).said("ready")
    end = box.ask("term").end()
    assert (*how(end), end["cause"]) == ("Exited", "5", "", "term")


def test_a_signal_goes_to_whoever_has_a_handler_for_it(box: Box) -> None:
    text = "sh -c 'trap \"echo inner; exit 5\" USR2; echo ready; while :; do sleep 0.1; done'; exit $?"
    end = box.start(a_launch(text)).said("ready").ask("signal", "12").end()
    assert how(end) == ("Exited", "5", "")
    assert box.output() == "ready\ninner\n"


def test_a_signal_that_nobody_handles_ends_the_program(box: Box) -> None:
    end = box.start(a_launch("echo ready; exec sleep 100")).said("ready").ask("signal", "10").end()
    assert (end["signal"], end["cause"]) == ("10", "")


def test_what_is_left_running_is_named(box: Box) -> None:
    end = box.start(a_launch("sleep 1000 & exit 4")).end()
    assert how(end) == ("Exited", "4", "")
    assert end["left"].partition(":")[0] in ("sleep", "sh")


@pytest.mark.parametrize("by_file", [False, True])
def test_the_other_ranks_wait_for_the_setup(box: Box, by_file: bool) -> None:
    go = f"{box.folder}/went" if by_file else ""
    box.start(a_launch("echo run", setup="echo setup"), rank=1, go=go)
    time.sleep(0.3)
    assert box.output() == ""
    if by_file:
        Path(go).touch()
    else:
        box.ask("go")
    assert how(box.end()) == ("Exited", "0", "")
    assert box.output() == "run\n"


def test_a_rank_that_is_stopped_while_it_waits_never_begins(box: Box) -> None:
    box.start(a_launch("echo run", setup="echo setup"), rank=1)
    time.sleep(0.3)
    end = box.ask("stop", "asked", "100").end()
    assert (end["unstarted"], end["cause"]) == ("1", "asked")
    assert box.output() == ""


def test_what_it_is_made_from_fits_into_the_last_word(box: Box) -> None:
    inputs = (Input("made", "made.txt"), Input("gone", "no-such-file"))
    launch = a_launch("true", setup="printf 123 > made.txt", inputs=inputs, record_environment=True)
    box.start(launch).end()
    word = (box.folder / "last").read_bytes()
    assert len(word) < 4096
    facts = recording.unpack((said_by_runner(word.decode()) or {})["facts"])
    assert facts["inputs"]["made"]["digest"] == hashlib.sha256(b"123").hexdigest()
    assert "no-such-file" in facts["inputs"]["gone"]["error"]
    assert facts["environment"]["python"].startswith("3.")


def test_a_text_that_is_no_finding_says_nothing() -> None:
    assert [recording.unpack(text) for text in ("", "x", "aGk=", "eJyLrgUAAb0A9g==")] == [{}] * 4
