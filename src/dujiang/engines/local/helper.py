"""The engine's end of the zygote: starts it when needed, asks it for supervisors, notices when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.local.home import Home

_LONGEST_ANSWER = 8192
_SOURCES = Path(__file__).parents[3]
_BOOT = "import sys; sys.path.insert(0, {!r}); from dujiang.engines.local.zygote import main; main()"


class Helper:
    """One zygote at a time; a new one when the last was killed. Use from one event loop."""

    def __init__(self, home: Home, lock_fd: int, environment: dict[str, str], timeout_s: float) -> None:
        self._home, self._lock_fd, self._environment, self._timeout_s = home, lock_fd, environment, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: dict[str, asyncio.Future[str]] = {}

    @property
    def pid(self) -> int | None:
        """Return the zygote's process number, None when there is none."""
        return self._process.pid if self._process else None

    def is_asked(self, key: str) -> bool:
        """Say whether a start was asked for and not answered yet."""
        return key in self._asked

    async def start(self, key: str) -> None:
        """Have a supervisor started for an attempt; returns once it holds the attempt's lock.

        Raises:
            EngineUnavailable: not started, or not known whether; ask again.
        """
        for _ in range(2):  # a helper that was killed is replaced; if the next dies too, the caller hears of it
            try:
                answer = await self._ask(key)
            except ConnectionError:
                continue
            if answer in ("ok", "known"):
                return
            raise EngineUnavailable(f"the attempt {key} could not be started now ({answer}); ask again")
        raise EngineUnavailable(f"the helper that starts attempts keeps dying; {self._home.log} may say why")

    async def _ask(self, key: str) -> str:
        if key in self._asked:
            return await asyncio.shield(self._asked[key])
        connection = self._connection()
        answer = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(BlockingIOError):  # full of questions: the answers make room
                connection.send(key.encode())
                return await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
            await asyncio.get_running_loop().sock_sendall(connection, key.encode())
            return await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
        except TimeoutError:
            raise EngineUnavailable(f"no answer from the helper within {self._timeout_s:g} s; ask again") from None
        except BrokenPipeError:
            self._drop()
            raise
        finally:
            self._asked.pop(key, None)
            if not answer.done():
                answer.cancel()
            elif not answer.cancelled():
                answer.exception()  # taken note of, also where nobody waits any more

    def _connection(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        if self._socket is not None and self._loop is loop:
            return self._socket
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(self._home.log, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", "-c", _BOOT.format(str(_SOURCES))),
                        *(self._home.root, str(os.getpid()), str(self._lock_fd)),
                    ],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    pass_fds=(self._lock_fd,),
                    start_new_session=True,
                    cwd="/",
                )
            except OSError as error:
                ours.close()
                raise EngineUnavailable(f"the helper that starts attempts cannot be started: {error}") from error
        ours.setblocking(False)
        loop.add_reader(ours, self._hear)
        self._socket, self._loop = ours, loop
        return ours

    def _hear(self) -> None:
        while self._socket is not None:
            try:
                said = self._socket.recv(_LONGEST_ANSWER)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                self._drop()
                return
            key, _, answer = said.decode(errors="replace").partition("\n")
            waiting = self._asked.get(key)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)

    def _drop(self) -> None:
        """Let go of a helper that is gone; whoever waits for it asks the next one."""
        self.close()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ConnectionResetError())

    def close(self) -> None:
        """Let go of the helper: it ends, what it started goes on."""
        if self._socket is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._process is not None:
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
