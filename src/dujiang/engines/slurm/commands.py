"""Runs Slurm's commands, here or on a login node, and tells a controller that is away from one that says no."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.slurm.settings import SlurmSettings

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "SSH_AUTH_SOCK", "SLURM_CONF")
"""What of the platform's environment commands get, and through `sbatch` jobs too. It may hold secrets otherwise."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AWAY = re.compile(
    r"unable to contact slurm controller|connection refused|connection timed out|socket timed out|zero bytes were"
    r"|communication connection failure|unable to establish control machine|could not establish a configuration"
    r"|invalid authentication|protocol authentication|munge|temporarily unable|resource temporarily unavailable"
    r"|controller is not responding|no route to host|network is unreachable|connection reset|in standby mode"
    r"|message (receive|send) failure|transport level error|server .*busy|too many jobs|job violates.*submit limit",
    re.IGNORECASE,
)
_SSH_FAILED = 255


@dataclass(frozen=True, slots=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Return what it complained of, in one line."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return "; ".join(lines)[:500] or f"exit status {self.status}"


class Commands(Protocol):
    """A way to run Slurm's commands as the cluster's user."""

    async def run(
        self, *words: str, env: Mapping[str, str] = MappingProxyType({}), before: Sequence[str] = (), stdin: str = ""
    ) -> Said:  # fmt: skip
        """Run a command, with these variables besides, behind these words, with this to read.

        Raises:
            EngineUnavailable: it does not answer, or says that the controller does not.
        """
        ...


class LocalCommands:
    """The commands of this machine, or of a login node by SSH."""

    def __init__(self, settings: SlurmSettings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        env = {"PATH": DEFAULT_PATH, **{name: environ[name] for name in _PASSED_ON if name in environ}}
        self._env = {**env, **({"SLURM_CONF": settings.conf} if settings.conf else {})}

    async def run(
        self, *words: str, env: Mapping[str, str] = MappingProxyType({}), before: Sequence[str] = (), stdin: str = ""
    ) -> Said:  # fmt: skip
        """Run a command; it is killed when it takes too long."""
        line = command_line(words, self._settings, env, before)
        try:
            process = await asyncio.create_subprocess_exec(
                *line, env={**self._env, **env}, cwd="/", start_new_session=True,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            lacking = "it, or set `run_as_command`" if before else "Slurm's client commands, or set `commands`"
            raise EngineUnavailable(f"{line[0]} cannot be run here ({error.strerror}): install {lacking}") from error
        try:
            out, err = await asyncio.wait_for(
                process.communicate(stdin.encode() or None), self._settings.command_timeout_s
            )
        except TimeoutError as error:
            limit = f"{self._settings.command_timeout_s:g} s"
            raise EngineUnavailable(f"`{words[0]}` did not answer within {limit}") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        said = Said(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))
        if said.status and (AWAY.search(said.err) or (self._settings.ssh and said.status == _SSH_FAILED)):
            raise EngineUnavailable(f"Slurm does not answer: {said.complaint}")
        return said


def command_line(
    words: Sequence[str], settings: SlurmSettings, env: Mapping[str, str] = MappingProxyType({}),
    before: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Return what is to be executed: the command in the folder that is set, by SSH where a login node is.

    Args:
        words: of the command.
        settings: of the cluster.
        env: variables besides.
        before: words that stand before it, such as `sudo`.
    """
    program = f"{settings.commands.rstrip('/')}/{words[0]}" if settings.commands else words[0]
    line = [*before, program, *words[1:]]
    if not settings.ssh:
        return line
    given = {**({"SLURM_CONF": settings.conf} if settings.conf else {}), **env}
    named = [f"{name}={value}" for name, value in given.items()]
    timeout = f"ConnectTimeout={max(1, int(settings.command_timeout_s))}"
    return ["ssh", "-o", "BatchMode=yes", "-o", timeout, "--", settings.ssh, shlex.join(["env", *named, *line])]
