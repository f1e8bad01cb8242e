"""Starts a process of an attempt: in a session of its own, under its limits, bound to die with its supervisor.

Standard library only: the supervisor's process imports this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from dujiang.engines.local.limits import Group
from dujiang.engines.local.linux import die_with_parent, set_oom_score

_LONGEST_ARGUMENT = 100_000
"""Linux takes 128 KiB for one argument; longer text goes through a file."""


class LaunchFailure(Exception):
    """The attempt cannot be started; the sentence says why."""


def command(text: str, *, shell: str, name: str, folder: str) -> list[str]:
    """Return how to run a piece of shell text, or of any language where it names its interpreter by `#!`.

    Short text is handed over on the command line, where the shell replaces itself by the last command: then signals and
    the exit status are the program's own.
    """
    if not text.startswith("#!") and len(text.encode(errors="surrogateescape")) <= _LONGEST_ARGUMENT:
        return [shell, "-e", "-c", text, name]
    path = f"{folder}/{name}.script"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o700), "wb") as file:
            file.write(text.encode(errors="surrogateescape"))
    except OSError as error:
        raise LaunchFailure(f"the {name} commands cannot be written to {path}: {error.strerror}") from error
    return [path] if text.startswith("#!") else [shell, "-e", path]


def start(
    arguments: list[str], environment: Mapping[str, str], *, workdir: str, output: str, group: Group,
    enter: Callable[[], None] | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Start a program, inside what `enter` enters; returns its process number and a descriptor for `started`.

    Raises:
        LaunchFailure: no process or no output file can be had.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    def become() -> None:
        if enter is not None:
            enter()
        os.chdir(workdir)
        os.execve(arguments[0], arguments, dict(environment))

    try:
        pid = fork(become, output=output, group=group, errors=write_end, aim=f"{arguments[0]} in {workdir}")
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return pid, read_end


def started(errors: int) -> None:
    """Wait until the program has replaced the helper that starts it; closes the descriptor.

    Raises:
        LaunchFailure: it could not.
    """
    try:
        said = os.read(errors, 4096)
    finally:
        os.close(errors)
    if said:
        raise LaunchFailure(said.decode(errors="replace"))


def fork(body: Callable[[], None], *, output: str, group: Group, errors: int = -1, aim: str = "") -> int:
    """Run a function in a new process under the limits of a rank; returns its number.

    Raises:
        LaunchFailure: no process can be had.
    """
    supervisor = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise LaunchFailure(f"no process could be started: {error.strerror}") from error
    if pid:
        return pid
    code = 127
    try:
        _enter(supervisor, output, group)
        body()
        code = 0
    except OSError as error:
        if errors >= 0:
            what = f"{error.filename}: " if error.filename else ""
            os.write(errors, f"{aim}: {what}{error.strerror}".encode(errors="replace")[:4000])
    except BaseException as error:  # the process ends here whatever it was; its supervisor is told
        if errors >= 0:
            os.write(errors, f"{aim}: {error}".encode(errors="replace")[:4000])
    os._exit(code)


def _enter(supervisor: int, output: str, group: Group) -> None:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the line above
        os._exit(127)
    os.setsid()
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    set_oom_score(0)
    group.join()
