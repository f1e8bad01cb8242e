"""What the engine asks of Slurm, by its commands; answers are read by `reading`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import datetime

from dujiang.engines.contract import Accounted, EngineRefused, EngineUnavailable
from dujiang.engines.slurm import accounts, reading, users, words
from dujiang.engines.slurm.asking import Batch, options
from dujiang.engines.slurm.commands import Commands
from dujiang.engines.slurm.controller import FORBIDDEN, GONE, NOT_ALLOWED, IsOf, Job, newest
from dujiang.engines.slurm.images import APPTAINER, PYXIS, SINGULARITY
from dujiang.engines.slurm.reading import Reservation, SlurmNode
from dujiang.engines.slurm.refusing import refusal
from dujiang.engines.slurm.runner import WAKE
from dujiang.engines.slurm.settings import SlurmSettings

_ENDING = 229
"""Exit status of `scancel` for a job that is just ending; it prints nothing then (ESLURM_ALREADY_DONE, 2021 modulo 256;
seen in 407 of 1,564 signals to jobs of 0.25 s, with 22.05)."""


class CommandController:
    """Slurm, as the user of its commands sees it."""

    def __init__(self, commands: Commands, settings: SlurmSettings, is_of: IsOf = lambda _key, _user: True) -> None:
        self._commands, self._settings, self._is_of = commands, settings, is_of
        self._accounts: bool | None = None

    async def configuration(self) -> Mapping[str, str]:
        """Return what `scontrol show config` says."""
        said = await self._commands.run("scontrol", "show", "config")
        self._must(said.status, said.complaint)
        pairs = (line.partition("=") for line in said.out.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs if value}

    async def images(self) -> str:
        """Return what runs container images, as far as the machine of the commands shows; empty where nothing does."""
        said = await self._commands.run("srun", "--help")
        if "--container-image" in said.out:
            return PYXIS
        for name in (APPTAINER, SINGULARITY):
            with contextlib.suppress(EngineUnavailable):
                if (await self._commands.run(name, "--version")).status == 0:
                    return name
        return ""

    async def nodes(self) -> list[SlurmNode]:
        """Return every node."""
        said = await self._commands.run("scontrol", "show", "node", "-d", "-o")
        self._must(said.status, said.complaint)
        return reading.nodes_of(said.out)

    async def switches(self) -> dict[str, str]:
        """Return the lowest switch of each node; none where the cluster has no topology."""
        said = await self._commands.run("scontrol", "show", "topology")
        return {} if said.status else reading.switches_of(said.out)

    async def reservations(self) -> list[Reservation]:
        """Return the reservations, also those to come."""
        said = await self._commands.run("scontrol", "show", "reservation", "-o", env=accounts.TIMES)
        self._must(said.status, said.complaint)
        return reading.reservations_of(said.out)

    async def jobs(self, mark: str, *, complete: bool = True) -> dict[str, Job]:
        """Return our jobs that Slurm has in memory: always all of them."""
        whose = ("-u", ",".join(users.names_of(self._settings))) if self._settings.run_as else ("--me",)
        first = f"{os.urandom(8).hex()}|"  # a comment may hold a line break, and what looks like another job behind it
        said = await self._commands.run("squeue", "-h", "-a", "-t", "all", *whose, "-o", f"{first}%i|%T|%u|%r|%k")
        self._must(said.status, said.complaint)
        lines = [line.removeprefix(first) for line in said.out.splitlines() if line.startswith(first)]
        return newest(mark, reading.jobs_of("\n".join(lines)), self._is_of)

    async def job(self, number: str) -> Job:
        """Return what is known of one job: by the controller, else by the accounting where there is one."""
        if self._settings.run_as:  # then name and comment are others', who may write `JobState=` into them
            said = await self._commands.run("squeue", "-h", "-a", "-t", "all", "-j", number, "-o", "%T|%r")
            if not said.status and said.out.strip():
                state, _, reason = said.out.splitlines()[0].partition("|")
                return Job(number, words.base_state(state), f"reason {reason}")
        else:
            said = await self._commands.run("scontrol", "show", "job", number, "-o")
        if not said.status and said.out.strip():
            told = reading.fields_of(said.out.splitlines()[0])
            more = f"reason {told.get('Reason', '')}, exit code {told.get('ExitCode', '')}"
            return Job(number, words.base_state(told.get("JobState", "")), more)
        if said.status and not GONE.search(said.err):
            raise EngineUnavailable(f"Slurm does not say what became of job {number}: {said.complaint}")
        return await self.accounted_job(number)

    async def keeps_accounts(self) -> bool:
        """Say whether the cluster has slurmdbd."""
        if self._accounts is None:
            self._accounts = "slurmdbd" in (await self.configuration()).get("AccountingStorageType", "")
        return self._accounts

    async def accounted(self, since: datetime, until: datetime, mark: str, work_dir: str) -> list[Accounted]:
        """Return our jobs of a time as the accounting tells them."""
        listed = await self._sacct(*accounts.asked(since, until))
        return list(accounts.accounted(listed, mark, work_dir))

    async def accounted_job(self, number: str) -> Job:
        """Return one job as the accounting tells it, without a state where there is none."""
        if not await self.keeps_accounts():
            return Job(number, "")
        told = await self._sacct("-X", "-n", "-P", "-D", "-j", number, "-o", "State,ExitCode,NodeList,Reason")
        lines = [line for line in told.splitlines() if line.strip()]
        if not lines:
            return Job(number, "")
        state, _, more = lines[-1].partition("|")
        return Job(number, words.base_state(state), more)

    async def _sacct(self, *options: str) -> str:
        try:
            said = await self._commands.run("sacct", *options, env=accounts.TIMES)
        except EngineUnavailable as error:
            raise EngineUnavailable(f"Slurm's accounting does not answer: {error.sentence}") from error
        if said.status:
            raise EngineUnavailable(f"Slurm's accounting does not answer: {said.complaint}")
        return said.out

    async def submit(self, batch: Batch, script: str, run_as: str = "") -> str:
        """Submit a batch script; return the job's number. That of another user is nothing for a list of processes."""
        words = ("sbatch", *options(batch, self._settings))
        if run_as:
            said = await self._commands.run(*words, before=self._as(run_as), stdin=f"#!/bin/sh\n{script}")
        else:
            said = await self._commands.run(*words, f"--wrap={script}")
        if said.status and run_as and NOT_ALLOWED.search(said.err):
            raise EngineRefused(
                f"the platform may not submit as user {run_as!r}: {said.complaint}; allow it, in sudoers by a line such"
                f" as `{users.own_name(self._settings)} ALL=({run_as}) NOPASSWD: /usr/bin/sbatch, /usr/bin/scancel`"
            )
        if said.status:
            raise refusal(said.complaint)
        number = said.out.strip().splitlines()[-1].partition(";")[0] if said.out.strip() else ""
        if not number.isdigit():
            raise EngineUnavailable(f"sbatch did not say which job it made: {said.out.strip()[:200]!r}")
        return number

    async def cancel(self, number: str, run_as: str = "") -> None:
        """Cancel a job; quiet when it is gone."""
        await self._scancel(number, run_as)

    async def wake(self, number: str, run_as: str = "") -> None:
        """Send the runner its signal; quiet when it is gone."""
        await self._scancel(number, run_as, "--batch", f"--signal={int(WAKE)}")

    def _as(self, user: str) -> list[str]:
        """Return what has a command run as a user."""
        return [word.replace("{user}", user) for word in self._settings.run_as_command]

    async def _scancel(self, number: str, run_as: str, *how: str) -> None:
        said = await self._commands.run("scancel", *how, number, before=self._as(run_as) if run_as else ())
        if said.status not in (0, _ENDING) and not GONE.search(said.err):
            raise EngineUnavailable(f"Slurm does not cancel job {number}: {said.complaint}")

    async def drain(self, node: str, reason: str) -> bool:
        """Close a node; False when this user may not."""
        return await self._update(node, "State=DRAIN", f"Reason={reason}")

    async def resume(self, node: str) -> bool:
        """Open a node; False when this user may not."""
        return await self._update(node, "State=RESUME")

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _update(self, node: str, *changes: str) -> bool:
        said = await self._commands.run("scontrol", "update", f"NodeName={node}", *changes)
        if not said.status:
            return True
        if FORBIDDEN.search(said.err):
            return False
        raise EngineUnavailable(f"Slurm does not change node {node}: {said.complaint}")

    @staticmethod
    def _must(status: int, complaint: str) -> None:
        if status:
            raise EngineUnavailable(f"Slurm does not answer as expected: {complaint}")
