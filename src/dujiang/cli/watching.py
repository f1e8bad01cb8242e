"""Waiting for jobs with what happens to them on the screen, and the exit code that says how they ended.

It looks again and again at the jobs themselves instead of trusting a stream of changes, so a restart of the platform
while one waits is only a pause.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, coloured, figure, lasted, nodes_of, note, paint
from dujiang.cli.session import ENDED, work_path
from dujiang.client import Problem, persist

_LOOK_EVERY_S = (0.1, 1.0)
"""At first, and after a while."""
_AWAY_FOR_S = 300.0
_BATCH = 100


def watch(client: Any, ids: Sequence[str], *, quiet: bool = False) -> int:
    """Wait until all jobs have ended, showing state, reason, attempt and last figures; return the exit code."""
    screen = _Screen(quiet=quiet)
    pause = _LOOK_EVERY_S[0]
    last: dict[str, dict[str, Any]] = {}
    try:
        with screen.live():
            while True:
                for ident in ids:
                    if last.get(ident, {}).get("state") not in ENDED:
                        last[ident] = persist(_getter(client, ident), for_s=_AWAY_FOR_S)
                screen.show([last[ident] for ident in ids], lambda ident: _figures(client, ident))
                if all(last[ident].get("state") in ENDED for ident in ids):
                    break
                time.sleep(pause)
                pause = min(_LOOK_EVERY_S[1], pause * 1.2)
    except KeyboardInterrupt:
        left = [ident for ident in ids if last.get(ident, {}).get("state") not in ENDED]
        note(f"\nNo longer waiting. What was submitted goes on; `dujiang cancel {' '.join(left[:3])}` would stop it.")
        return int(Exit.INTERRUPTED)
    codes = [exit_code_of(last[ident]) for ident in ids]
    return next((code for code in codes if code), 0)


def exit_code_of(job: dict[str, Any]) -> int:
    """Return what `submit --wait` exits with: the job's own exit code, 128 and its signal, or 1."""
    if job.get("state") == "COMPLETED":
        return int(Exit.OK)
    exit_code, signal = job.get("exit_code"), job.get("signal")
    if isinstance(exit_code, int) and 0 < exit_code < 256:
        return exit_code
    if isinstance(signal, int) and 0 < signal < 128:
        return 128 + signal
    return int(Exit.FAILED)


def _getter(client: Any, ident: str) -> Callable[[], dict[str, Any]]:
    return lambda: dict(client.get(work_path(ident)))


def _figures(client: Any, ident: str) -> str:
    """Return the newest figures that a job reported, in one line."""
    try:
        found = client.get(f"/v1/jobs/{ident}/metrics")["metrics"]
    except Problem:
        return ""
    return " ".join(f"{clean(one['name'])}={one.get('special') or figure(one.get('value'))}" for one in found)


class _Screen:
    """Shows jobs while they change: in place on a terminal, a line for each change elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._said = quiet, dict[str, str]()
        self._live: Any = None

    def live(self) -> AbstractContextManager[Any]:
        if self._quiet or not coloured():
            return nullcontext()
        from rich.console import Console
        from rich.live import Live

        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏" if utf8 else "-\\|/"
        self._turn = 0
        self._live = Live(console=Console(highlight=False, markup=False), refresh_per_second=8, transient=True)
        return self._live  # type: ignore[no-any-return]

    def show(self, jobs: Sequence[dict[str, Any]], figures: Callable[[str], str]) -> None:
        for job in jobs:
            line = describe(job)
            if self._said.get(job["id"]) != line and not self._quiet:
                self._said[job["id"]] = line
                self._write(line)
        if self._live is not None:
            running = [job for job in jobs if job.get("state") not in ENDED]
            self._live.update(self._status(jobs, running, figures))

    def _write(self, line: str) -> None:
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(line))
        else:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def _status(
        self, jobs: Sequence[dict[str, Any]], running: Sequence[dict[str, Any]], figures: Callable[[str], str]
    ) -> Any:
        from rich.text import Text

        self._turn += 1
        lines = []
        for job in running[:8]:
            told = figures(job["id"]) if job.get("state") == "RUNNING" else clean(job.get("sentence") or "")
            spin = self._spinner[self._turn % len(self._spinner)]
            began = job.get("started_at") if job.get("state") == "RUNNING" else job.get("created_at")
            lines.append(f"{spin} {clean(job.get('name'))}  {job.get('state')} {lasted(began, None)}  {told}")
        if len(jobs) > 1:
            lines.append(f"{len(jobs) - len(running)} of {len(jobs)} have ended")
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def describe(job: dict[str, Any]) -> str:
    """Return one line about where a job stands."""
    attempts = job.get("attempts") or []
    state = str(job.get("state"))
    parts = [clean(job.get("name")), paint(state)]
    if job.get("reason"):
        parts.append(clean(job["reason"]))
    if attempts and (len(attempts) > 1 or state == "RUNNING"):
        parts.append(f"attempt {attempts[-1].get('number', len(attempts))}")
    if state == "RUNNING" and attempts and attempts[-1].get("node"):
        parts.append(f"on {clean(nodes_of(attempts[-1]))}")
    if job.get("states"):
        parts.append(", ".join(f"{count} {name}" for name, count in job["states"].items()))
    if state in ENDED:
        if isinstance(job.get("exit_code"), int):
            parts.append(f"exit code {job['exit_code']}")
        if isinstance(job.get("signal"), int):
            parts.append(f"signal {job['signal']}")
        if attempts and not any(_ran(attempt) for attempt in attempts):
            parts.append("it never ran")
        elif job.get("started_at"):
            parts.append(f"after {lasted(job['started_at'], job.get('finished_at'))}")
    return "  ".join(parts)


def _ran(attempt: dict[str, Any]) -> bool:
    """Say whether anything of an attempt ran: an engine that could not start it was at work for a while too."""
    cause = (attempt.get("diagnosis") or {}).get("cause")
    return bool(attempt.get("started_at")) and cause not in ("LaunchFailed", "Refused", "NodeRefused")
