"""What benchmarks share: a platform of their own on a scratch home, figures, tables, and the line about the machine.

A platform that is measured here is started here, on a folder that is new, and stopped by its process number.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
APT_ENV = {"DEBIAN_FRONTEND": "noninteractive"}


class Missing(Exception):
    """Something that is compared with cannot be had here; the sentence says why."""


class Platform:
    """A platform that runs, and one connection to it."""

    def __init__(self, home: Path, process: subprocess.Popen[bytes], ready_s: float) -> None:
        self.home, self.process, self.ready_s = home, process, ready_s
        facts = json.loads((home / "server.json").read_text())
        self.url = str(facts["url"])
        token = (home / "admin.token").read_text().strip()
        self.http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=120, trust_env=False
        )

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET."""
        return self._told(self.http.get(path, params=query))

    def post(self, path: str, body: Any) -> Any:
        """Return the answer to a POST."""
        return self._told(self.http.post(path, json=body))

    def submit(self, **spec: Any) -> str:
        """Submit a job; return its identifier."""
        return str(self.post("/v1/jobs", {"spec": spec})["id"])

    def wait(
        self, job_id: str, is_so: Callable[[dict[str, Any]], bool], *, every_s: float, within_s: float = 60
    ) -> Any:
        """Look at a job until something is so; return it."""
        deadline = time.monotonic() + within_s
        while not is_so(job := self.get(f"/v1/jobs/{job_id}")):
            if time.monotonic() > deadline:
                raise SystemExit(f"Job {job_id} is {job['state']} ({job['reason']}) after {within_s:g} s.")
            time.sleep(every_s)
        return job

    def processes(self) -> list[int]:
        """Return the platform's process and its helpers; not the attempts."""
        return [self.process.pid, *_children(self.process.pid)]

    def _told(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            raise SystemExit(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
        return answer.json()


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """Give a new folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"dujiang-bench-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_platform(home: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Platform]:
    """Start a platform on a home and wait until it is ready; stopped afterwards.

    Its time to ready is from the start of the process to the first good answer of `/readyz`.
    """
    port = free_port()
    command = [str(BIN / "dujiang"), "up", "--port", str(port), *flags]
    given = {**os.environ, "DUJIANG_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.out").open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=given, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        ready_s = _wait_ready(process, port, begun, home)
        yield Platform(home, process, ready_s)
    finally:
        stop(process, signal.SIGINT)


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, patience_s: float = 15) -> None:
    """End a process that was started here."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_programs(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Install Debian packages when a program is missing.

    Raises:
        Missing: it cannot be installed; the sentence says why.
    """
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in programs if shutil.which(name, path=search) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(
            f"{', '.join(missing)} not installed, and only root with apt can: apt install {' '.join(packages)}"
        )
    env = {**os.environ, **APT_ENV}
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"apt-get {words[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of all do not exceed (nearest rank: one that was measured)."""
    ordered = sorted(values)
    return ordered[max(0, int(np.ceil(share * len(ordered))) - 1)]


def say(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def say_machine(command: str) -> None:
    """Print when, with which command and on what was measured."""
    print(f"\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`, {machine()}, load {_load()} at the end")


def machine() -> str:
    """Return the machine in one line."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores = len(os.sched_getaffinity(0))
    name = (
        platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        if hasattr(platform, "freedesktop_os_release")
        else "Linux"
    )
    return (
        f"{cores} cores ({cpu or platform.machine()}), {memory / (1 << 20):.0f} GiB, {name}, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def memory_mb(pid: int) -> tuple[float, float]:
    """Return the resident and the proportional memory of a process in MB (10^6 bytes)."""
    rows = {line.split(":")[0]: line.split()[1] for line in _lines(f"/proc/{pid}/smaps_rollup") if ":" in line}
    return int(rows.get("Rss", 0)) * 1024 / 1e6, int(rows.get("Pss", 0)) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def met(is_met: bool) -> str:
    """Return the word for a target."""
    return "yes" if is_met else "MISSED"


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _lines(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text().splitlines()
    return []


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _wait_ready(process: subprocess.Popen[bytes], port: int, begun: float, home: Path) -> float:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2, trust_env=False) as http:
        while time.perf_counter() - begun < 60:
            if process.poll() is not None:
                raise SystemExit(f"The platform ended at once: {(home / 'up.out').read_text()[-2000:]}")
            with suppress(httpx.TransportError):
                if http.get("/readyz").status_code == 200 and (home / "server.json").exists():
                    return time.perf_counter() - begun
            time.sleep(0.01)
    raise SystemExit(f"The platform is not ready after 60 s: {(home / 'up.out').read_text()[-2000:]}")
