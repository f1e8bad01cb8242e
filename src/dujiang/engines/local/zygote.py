"""The helper from which supervisors are forked: a small process with everything loaded, so that a start costs a fork.

    python -I -S -c BOOT HOME PLATFORM_PID LOCK_FD          (its standard input is the socket to the platform)

It answers one question, "start JOB.NUMBER", with `ok`, `known` or why not, and ends when the platform's end of the
socket is closed. It takes the attempt's lock before it answers, and hands it on over the fork: an attempt that was
answered `ok` is seen as alive from that moment. It forks nothing for a platform that is gone: a request still in the
socket must not start what the next platform has found absent. With it the home's lock stays held, so the next platform
looks only when this helper is gone. Standard library only.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from dujiang.engines.local import records
from dujiang.engines.local.home import Home
from dujiang.engines.local.linux import adopt_orphans, set_name, set_oom_score
from dujiang.engines.local.supervisor import Supervisor

_LONGEST_REQUEST = 4096
_OOM_SCORE = -500
"""The kernel should kill the work that uses up the memory, not what watches over it. Refused to ordinary users."""


def main() -> None:
    """Serve one platform until it is gone."""
    home, platform, lock_fd = Home(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    connection = socket.socket(fileno=0)
    home_fd = os.open(home.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    set_name("dujiang-zygote")
    set_oom_score(_OOM_SCORE)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors need no reaping
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    gc.freeze()
    while request := connection.recv(_LONGEST_REQUEST):
        key = request.decode()
        answer = _start(home, key, home_fd, lock_fd, platform)
        connection.send(f"{key}\n{answer}".encode())


def _start(home: Home, key: str, home_fd: int, lock_fd: int, platform: int) -> str:
    state = records.open_state(home.state(key))
    if state is None:
        return "gone"
    try:
        if not records.take_lock(state) or records.read_started(state) or records.read_end(state):
            return "known"
        if os.getppid() != platform:
            sys.exit(0)
        if os.fork() == 0:
            os.close(lock_fd)
            _supervise(home, key, state, home_fd)
    except OSError as error:
        return f"error: {error.strerror}"
    finally:
        os.close(state)  # the supervisor's copy keeps the lock
    return "ok"


def _supervise(home: Home, key: str, state: int, home_fd: int) -> NoReturn:
    """Be the supervisor of one attempt; never returns."""
    code = 1
    try:
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)  # and so lets go of the platform's socket
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        set_name("dujiang-superv")
        adopt_orphans()
        Supervisor(home, key, state, home_fd).run()
        code = 0
    except (
        BaseException
    ):  # the process ends here whatever it was; the engine finds the attempt lost and says where to look
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)
