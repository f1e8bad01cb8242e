"""The demo's own platform: its folder, its process, and nothing of an earlier run left in either.

The folder belongs to one demo at a time, which a locked file in it says. A run that was cut off leaves its platform and
its jobs running, for jobs outlive the platform; the next run ends them before it starts. They are known by what stands
in their environment, which names this folder. What somebody else started is left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from checks import NotHeld, until
from dujiang.client import Client, Connection, Unreachable, locate

LOCK = "demo.lock"
MARK = "DUJIANG_DEMO"
"""In the environment of the platform and of the clusters that a demo started: the folder."""
MOST_COMPLAINTS, LONGEST_COMPLAINT = 3, 300
START_S, STOP_S, END_S, FREE_S = 30.0, 30.0, 10.0, 3.0


class CannotStart(Exception):
    """The folder cannot be used; the sentence says what to do."""


class DemoHome:
    """The folder, and the platform in it once it was started."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.path = path.absolute()
        self._lock: int | None = None
        self._platform: subprocess.Popen[bytes] | None = None

    @property
    def logs(self) -> list[Path]:
        """Return the files that say what happened, those that there are."""
        return [file for name in ("platform.log", "up.log") if (file := self.path / name).exists()]

    def complaints(self) -> str:
        """Return the last errors in the platform's log, a line each."""
        found: list[str] = []
        with suppress(OSError):
            for line in (self.path / "platform.log").read_text(errors="replace").splitlines():
                with suppress(ValueError):
                    told = json.loads(line)
                    if isinstance(told, dict) and told.get("level") in {"error", "critical"}:
                        found.append(f"{told.get('event')}: {told.get('reason', '')}"[:LONGEST_COMPLAINT])
        return "\n".join(found[-MOST_COMPLAINTS:])

    def take(self) -> None:
        """Take the folder, end what an earlier demo left running, and empty it.

        Raises:
            CannotStart: it is somebody else's, or in use.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.path / LOCK).exists() and any(self.path.iterdir()):
            raise CannotStart(f"{self.path} holds files that no demo made; name an empty folder with --home.")
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locks(lock):
                raise CannotStart(f"Another demo runs in {self.path}; wait for it, or name another folder with --home.")
            _end(self._platforms)
            if not self._gets_free():
                raise CannotStart(
                    f"A platform that no demo started runs in {self.path}; stop it with Ctrl-C where it was started, "
                    "or name another folder with --home."
                )
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        _end(self.leftovers)
        for entry in self.path.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def start(self) -> Connection:
        """Start the platform on a free port; return how to reach it once it answers.

        Raises:
            NotHeld: it does not come up.
        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
        programs = Path(sys.executable).parent  # jobs find the Python of this environment by its name
        environ |= {"DUJIANG_HOME": str(self.path), MARK: str(self.path)}
        environ["PATH"] = f"{programs}{os.pathsep}{environ.get('PATH', os.defpath)}"
        with (self.path / "up.log").open("wb") as output:
            self._platform = subprocess.Popen(
                [str(programs / "dujiang"), "up", "--port", "0"],
                env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.path,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops it in order
            )  # fmt: skip
        found = until(
            "the platform to answer", self._answering, lambda one: one is not None, for_s=START_S,
            tell=lambda _: "no answer",
        )  # fmt: skip
        assert found is not None
        return found

    def stop(self) -> None:
        """Stop the platform as Ctrl-C does.

        Raises:
            NotHeld: it did not stop, or not in order.
        """
        platform, self._platform = self._platform, None
        if platform is None:
            return
        platform.send_signal(signal.SIGTERM)
        try:
            status = platform.wait(STOP_S)
        except subprocess.TimeoutExpired:
            platform.kill()
            platform.wait()
            raise NotHeld(f"the platform to stop within {STOP_S:.0f} s", "that it goes on") from None
        if status != 0:
            raise NotHeld("the platform to stop with exit status 0", f"exit status {status}", self._said())

    def stop_quietly(self) -> None:
        """Stop the platform, whether or not that goes in order."""
        with suppress(NotHeld):
            self.stop()

    def leave(self) -> None:
        """Stop whatever of this demo still runs, in whatever state it is, and let go of the folder."""
        self.stop_quietly()
        if self._lock is not None:
            with suppress(NotHeld):
                _end(self.leftovers)
            os.close(self._lock)
            self._lock = None

    def leftovers(self) -> list[int]:
        """Return the processes of this folder: a demo's platform, supervisors of attempts, and their programs."""
        return sorted({*self._platforms(), *(pid for pid in _pids() if self._is_of_a_job(pid))})

    def _platforms(self) -> list[int]:
        """Return what a demo started here, platform or clusters; jobs do not have the mark."""
        return [pid for pid in _pids() if f"{MARK}={self.path}" in _words(pid, "environ")]

    def _is_of_a_job(self, pid: int) -> bool:
        if any(word.startswith(f"DUJIANG_OUTPUT_DIR={self.path}/") for word in _words(pid, "environ")):
            return True
        words = _words(pid, "cmdline")
        return f"{self.path}/engine" in words and any("dujiang.engines.local" in word for word in words)

    def _gets_free(self) -> bool:
        """Say whether no platform has this folder; a helper of one that was killed may outlive it by a moment."""
        with suppress(NotHeld):
            return until("the folder to be free", self._is_free, bool, for_s=FREE_S)
        return False

    def _is_free(self) -> bool:
        """Say whether no platform has this folder for its home."""
        try:
            with (self.path / "platform.lock").open("rb") as file:
                return _locks(file.fileno())
        except FileNotFoundError:
            return True

    def _answering(self) -> Connection | None:
        assert self._platform is not None
        if (status := self._platform.poll()) is not None:
            raise NotHeld("the platform to start", f"exit status {status}", self._said())
        found = locate({"DUJIANG_HOME": str(self.path)})
        if found is not None:
            with suppress(Unreachable), Client(found) as client:
                client.get("/v1/pool")
                return found
        return None

    def _said(self) -> str:
        with suppress(OSError):
            return (self.path / "up.log").read_text(errors="replace")
        return ""


def process_running(program: str, *, job_id: str, attempt: int) -> int | None:
    """Return the process of an attempt whose command line names a script, None when there is none.

    The attempt's shell and the supervisor are not it: the one whose interpreter runs the script is.
    """
    for pid in _pids():
        words = _words(pid, "cmdline")
        if len(words) < 2 or not Path(words[0]).name.startswith("python") or Path(words[1]).name != program:
            continue
        if {f"DUJIANG_JOB_ID={job_id}", f"DUJIANG_ATTEMPT={attempt}"} <= set(_words(pid, "environ")):
            return pid
    return None


def _end(find: Callable[[], list[int]]) -> None:
    """Kill processes until none is found; meanwhile they may start more.

    Raises:
        NotHeld: some do not end.
    """
    end = time.monotonic() + END_S
    while pids := find():
        if time.monotonic() > end:
            raise NotHeld("what an earlier run left to end when killed", f"processes {pids}")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _locks(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pids() -> Iterator[int]:
    """Yield the live processes without our own."""
    own = os.getpid()
    return (pid for entry in os.listdir("/proc") if entry.isdigit() and (pid := int(entry)) != own and _is_alive(pid))


def _words(pid: int, name: str) -> list[str]:
    """Return the words of a file of a process, none when it is gone or another account's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    """Say whether a process exists and does not only wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
