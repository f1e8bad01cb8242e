"""What the engine asks of Slurm, by slurmrestd; what that cannot tell is asked by commands where those are here."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dujiang.engines.contract import Accounted, EngineRefused, EngineUnavailable
from dujiang.engines.slurm import rest_words
from dujiang.engines.slurm.asking import Batch
from dujiang.engines.slurm.by_commands import CommandController
from dujiang.engines.slurm.commands import DEFAULT_PATH, Commands, LocalCommands
from dujiang.engines.slurm.controller import FORBIDDEN, GONE, Controller, IsOf, Job, attempt_of, newest
from dujiang.engines.slurm.reading import Reservation, SlurmNode
from dujiang.engines.slurm.refusing import refusal
from dujiang.engines.slurm.rest import Denied, Rest
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.engines.slurm.tokens import Tokens
from dujiang.kit.clock import Clock

_WAKE = "URG"


def controller_of(
    settings: SlurmSettings, clock: Clock, commands: Commands | None = None, is_of: IsOf = lambda _key, _user: True
) -> Controller:  # fmt: skip
    """Return what answers for a cluster: slurmrestd where one is set, else the commands."""
    by_commands = CommandController(commands or LocalCommands(settings), settings, is_of)
    if not settings.rest_url:
        return by_commands
    if settings.sbatch_options:
        raise EngineRefused("`sbatch_options` cannot be said over REST: leave them out, or `rest_url`")
    user = settings.rest_user or getpass.getuser()
    tokens = Tokens(
        user=user, token_file=settings.rest_token_file, key_file=settings.rest_key_file, clock=clock
    )  # fmt: skip
    there = commands is not None or _has_commands(settings)
    is_same = not settings.ssh and user == getpass.getuser()
    return RestController(Rest(settings, tokens), by_commands if there else None, settings, is_of, is_same_user=is_same)


class RestController:
    """Slurm, as the user of a token sees it."""

    def __init__(
        self, rest: Rest, commands: CommandController | None, settings: SlurmSettings, is_of: IsOf, *,
        is_same_user: bool,
    ) -> None:  # fmt: skip
        self._is_of = is_of
        self._rest, self._commands, self._settings, self._is_same_user = rest, commands, settings, is_same_user
        self._comments: dict[str, str] = {}
        """Of our jobs whose number is known: `/jobs/state/` tells numbers and states alone."""

        self._is_complete = False

    async def configuration(self) -> Mapping[str, str]:
        """Return the configuration by command, once REST has answered; that tells the version alone.

        Raises:
            EngineUnavailable: with what REST says where it does not answer: it runs the work, whatever commands say.
        """
        if self._commands:
            await self.nodes()  # a ping is answered for a controller that is away too
            try:
                return await self._commands.configuration()
            except EngineUnavailable as error:
                raise EngineUnavailable(
                    f"slurmrestd answers, but Slurm's commands on this machine do not ({error.sentence}): mend them, or"
                    " set `commands` to a folder without them, and slurmrestd alone is asked"
                ) from error
        release = rest_words.release_of(await self._must("GET", "/ping"))
        return {"SLURM_VERSION": release} if release else {}

    async def images(self) -> str:
        """Return what runs images, by command; without, `images` has to be set."""
        return await self._commands.images() if self._commands else ""

    async def nodes(self) -> list[SlurmNode]:
        """Return every node."""
        told = await self._must("GET", "/nodes")
        return [rest_words.node_of(each) for each in told.get("nodes") or []]

    async def switches(self) -> dict[str, str]:
        """Return the switches by command; REST does not tell them."""
        return await self._commands.switches() if self._commands else {}

    async def reservations(self) -> list[Reservation]:
        """Return the reservations, also those to come; v0.0.36 does not tell them."""
        if not await self._rest.serves("/reservations") and not await self._rest.serves("/reservations/"):
            return []
        told = await self._must("GET", "/reservations")
        return [rest_words.reservation_of(each) for each in told.get("reservations") or []]

    async def jobs(self, mark: str, *, complete: bool = True) -> dict[str, Job]:
        """Return our jobs by what costs least: states alone where numbers are known, `squeue`, or all jobs whole."""
        states = await self._rest.serves("/jobs/state/")
        if not states and self._commands is not None and self._is_same_user:
            return await self._commands.jobs(mark)
        if states and self._is_complete and not complete:
            listed = list(rest_words.jobs_of(await self._must("GET", "/jobs/state/")))
            there = {number for number, *_ in listed}
            self._comments = {number: said for number, said in self._comments.items() if number in there}
            known = ((number, state, "", "", self._comments.get(number, "")) for number, state, *_ in listed)
            return newest(mark, known, lambda _key, _user: True)  # whose they are was looked at before
        listed = list(rest_words.jobs_of(await self._must("GET", "/jobs")))
        self._comments |= {number: said for number, _, user, _, said in listed if self._is_own(said, mark, user)}
        self._is_complete = True
        return newest(mark, listed, self._is_of)

    def _is_own(self, comment: str, mark: str, user: str) -> bool:
        key = attempt_of(comment, mark)
        return bool(key) and self._is_of(key, user)

    async def job(self, number: str) -> Job:
        """Return one job: by the controller, else by the accounting where commands can ask that."""
        try:
            told = await self._rest.call("GET", f"/job/{number}")
        except Denied as denied:
            if not GONE.search(denied.said):
                raise EngineUnavailable(f"Slurm does not say what became of job {number}: {denied.said}") from denied
            return await self._commands.accounted_job(number) if self._commands else Job(number, "")
        for each in told.get("jobs") or []:
            if str(each.get("job_id")) == number:
                return Job(number, rest_words.state_of(each.get("job_state")), rest_words.why_of(each))
        raise EngineUnavailable(f"slurmrestd answered without job {number}, and without saying that it is gone")

    async def keeps_accounts(self) -> bool:
        """Say whether there is slurmdbd, and `sacct` here to ask it."""
        return self._commands is not None and await self._commands.keeps_accounts()

    async def accounted(self, since: datetime, until: datetime, mark: str, work_dir: str) -> list[Accounted]:
        """Return our jobs of a time, by `sacct`."""
        assert self._commands is not None
        return await self._commands.accounted(since, until, mark, work_dir)

    async def submit(self, batch: Batch, script: str, run_as: str = "") -> str:
        """Submit a batch script; return the job's number."""
        conf = {"SLURM_CONF": self._settings.conf} if self._settings.conf else {}
        body = rest_words.submission(
            batch, f"#!/bin/sh\n{script}", {"PATH": DEFAULT_PATH, **conf}, await self._rest.version()
        )
        try:
            told = await self._rest.call("POST", "/job/submit", body=body, user=run_as)
        except Denied as denied:
            raise refusal(denied.said) from denied
        number = str(told.get("job_id") or "")
        if not number.isdigit():
            raise EngineUnavailable("slurmrestd did not say which job it made")
        self._comments[number] = batch.comment
        return number

    async def cancel(self, number: str, run_as: str = "") -> None:
        """Cancel a job; quiet when it is gone."""
        await self._delete(number, run_as)

    async def wake(self, number: str, run_as: str = "") -> None:
        """Send the signal, to the whole job where that is all that can be said: by default it does nothing."""
        old = rest_words.is_old(await self._rest.version())
        await self._delete(number, run_as, {"signal": _WAKE, **({} if old else {"flags": "BATCH_JOB"})})

    async def drain(self, node: str, reason: str) -> bool:
        """Close a node; False when this user may not, or neither REST nor a command can."""
        return await self._update(node, {"state": ["DRAIN"], "reason": reason})

    async def resume(self, node: str) -> bool:
        """Open a node; False when this user may not, or neither REST nor a command can."""
        return await self._update(node, {"state": ["RESUME"]})

    async def close(self) -> None:
        """Let go of the connections."""
        await self._rest.close()

    async def _delete(self, number: str, run_as: str, query: Mapping[str, str] | None = None) -> None:
        try:
            await self._rest.call("DELETE", f"/job/{number}", query=query, user=run_as)
        except Denied as denied:
            if not GONE.search(denied.said):
                raise EngineUnavailable(f"Slurm does not cancel job {number}: {denied.said}") from denied

    async def _update(self, node: str, change: Mapping[str, Any]) -> bool:
        if rest_words.is_old(await self._rest.version()):
            if self._commands is None:
                return False
            reason = change.get("reason")
            return await (self._commands.drain(node, str(reason)) if reason else self._commands.resume(node))
        try:
            await self._rest.call("POST", f"/node/{node}", body=change)
        except Denied as denied:
            if FORBIDDEN.search(denied.said):
                return False
            raise EngineUnavailable(f"Slurm does not change node {node}: {denied.said}") from denied
        return True

    async def _must(self, method: str, path: str) -> dict[str, Any]:
        try:
            return await self._rest.call(method, path)
        except Denied as denied:
            raise EngineUnavailable(f"Slurm does not answer as expected: {denied.said}") from denied


def _has_commands(settings: SlurmSettings) -> bool:
    if settings.ssh:
        return True
    with contextlib.suppress(OSError):
        folder = settings.commands or os.environ.get("PATH", DEFAULT_PATH)
        return shutil.which("scontrol", path=folder) is not None
    return False
