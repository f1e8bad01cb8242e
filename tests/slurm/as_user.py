"""Does something as another user of this machine, in a process of its own, and brings back what came of it.

The process is forked, not started: the Python that runs the tests may lie where other users cannot read.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import json
import os
import pwd
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio._backends._asyncio

LOADED = (concurrent.futures.thread, anyio._backends._asyncio)
"""What is otherwise loaded when it is first wanted, and cannot be by then."""
WITHIN_S = 120


def as_user(name: str, do: Callable[[], Awaitable[Any]]) -> Any:
    """Return what an async function returned, which must be JSON; what it raised is an AssertionError here."""
    user = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(WITHIN_S)
        try:
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            os.environ.update(HOME=user.pw_dir, USER=name, LOGNAME=name, PATH="/usr/sbin:/usr/bin:/sbin:/bin")
            said = {"value": asyncio.run(do())}  # type: ignore[arg-type]
        except BaseException:
            said = {"raised": traceback.format_exc()}
        with os.fdopen(writing, "w") as file:
            json.dump(said, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    told = json.loads(text or '{"raised": "it said nothing"}')
    assert "raised" not in told, told["raised"]
    return told["value"]
