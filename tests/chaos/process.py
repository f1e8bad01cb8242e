"""The platform as a real process in a scratch folder: started, asked over HTTP and by commands, and ended roughly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dujiang.client import Client, Problem, Unreachable, locate

BIN: Final = Path(sys.executable).parent
READY_S: Final = 60.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return what it printed as a value."""
        return json.loads(self.out)


@dataclass(slots=True)
class PlatformProcess:
    """One platform's home, and the process that runs it now, if any."""

    home: Path
    port: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of the platform and of its commands."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("DUJIANG_")}
        path = f"{BIN}:{own.get('PATH', '/usr/bin:/bin')}"
        return {**own, "PATH": path, "DUJIANG_HOME": str(self.home), "NO_COLOR": "1", **self.env}

    @property
    def spoken(self) -> Path:
        """Return the file in which everything is that its processes printed."""
        return self.home.parent / f"{self.home.name}.out"

    def start(self, *, wait: bool = True) -> None:
        """Start it; wait until it answers."""
        self.starts += 1
        with self.spoken.open("ab") as out:
            self.process = subprocess.Popen(
                [BIN / "dujiang", "up", "--port", str(self.port)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=self.environ, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait_ready()

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the platform ended by itself: {self.told()}"
            try:
                with self.client(timeout_s=2.0) as client:
                    client.get("/healthz")
            except (Unreachable, Problem):
                return False
            return True

        until(answers, within_s, "the platform answers")

    def kill(self) -> None:
        """End it with SIGKILL: it does nothing more."""
        self._end(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it as a person does; return its exit status."""
        return self._end(number)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def client(self, *, timeout_s: float = 60.0) -> Client:
        """Return a connection as the first administrator."""
        connection = locate(self.environ)
        if connection is None or f":{self.port}" not in connection.url:
            raise Unreachable("it has not said where it listens")
        return Client(connection, timeout_s=timeout_s)

    def run(self, *args: str, timeout_s: float = 120.0, text: str | None = None) -> Said:
        """Run a command of the platform."""
        done = subprocess.run(
            [BIN / "dujiang", *args], env=self.environ, capture_output=True, text=True, timeout=timeout_s, input=text,
            check=False,
        )  # fmt: skip
        return Said(done.returncode, done.stdout, done.stderr)

    def jobs(self) -> list[dict[str, Any]]:
        """Return every job."""
        with self.client() as client:
            return list(client.items("/v1/jobs", all=True))

    def told(self) -> str:
        """Return everything that its processes printed."""
        return self.spoken.read_text() if self.spoken.exists() else ""

    def tracebacks(self) -> list[str]:
        """Return what its log and output say of errors that were not foreseen."""
        log = self.home / "platform.log"
        lines = (log.read_text() if log.exists() else "").splitlines()
        found = [line[:3000] for line in lines if "Traceback" in line or '"exception"' in line]
        told = self.told()
        return [*found, told[told.index("Traceback") :][:3000]] if "Traceback" in told else found

    def processes(self) -> list[int]:
        """Return the processes that were started with this home, the platform's own among them."""
        mark = f"DUJIANG_HOME={self.home}".encode()
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                inside = (entry / "environ").read_bytes().split(b"\0")
                is_zombie = b"State:\tZ" in (entry / "status").read_bytes()
            except OSError:
                continue
            if not is_zombie and any(one == mark or str(self.home).encode() in one for one in inside):
                found.append(int(entry.name))
        return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def until(holds: Callable[[], Any], within_s: float, what: str) -> Any:
    """Wait until something holds; return it."""
    end = time.monotonic() + within_s
    while True:
        if found := holds():
            return found
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(_POLL_S)


def document(name: str, run: str, **fields: Any) -> dict[str, Any]:
    """Return the specification of a small job."""
    return {"name": name, "run": run, "resources": {"cpu": 0.05, "memory": "32MiB"}, "grace": "2s", **fields}
