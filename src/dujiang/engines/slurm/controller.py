"""What the engine asks of Slurm, one method a question. Two can answer: its commands (`by_commands`) and slurmrestd
(`by_rest`), chosen for each cluster by its settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dujiang.engines.contract import Accounted
from dujiang.engines.slurm import words
from dujiang.engines.slurm.asking import Batch
from dujiang.engines.slurm.reading import Reservation, SlurmNode

GONE = re.compile(r"invalid job id|already completed|job/step already completing|not found", re.IGNORECASE)
FORBIDDEN = re.compile(r"access/permission denied|invalid user id|permission|not permitted", re.IGNORECASE)

NOT_ALLOWED = re.compile(
    r"^sudo:|not allowed to (execute|run)|may not run sudo|password is required", re.IGNORECASE | re.MULTILINE
)
"""What `sudo` says where no rule lets this user be another."""


@dataclass(frozen=True, slots=True)
class Job:
    """A batch job as Slurm tells it."""

    number: str
    state: str
    """Empty: Slurm no longer knows it."""
    more: str = ""
    """Reason, exit code and the like, for evidence."""


class Controller(Protocol):
    """Slurm, as its user sees it. Each method raises EngineUnavailable where there is no answer."""

    async def configuration(self) -> Mapping[str, str]:
        """Return Slurm's configuration, as far as it can be asked for."""
        ...

    async def images(self) -> str:
        """Return what runs container images, as far as that can be seen; empty where nothing does."""
        ...

    async def nodes(self) -> list[SlurmNode]:
        """Return every node."""
        ...

    async def switches(self) -> dict[str, str]:
        """Return the lowest switch of each node; none where no topology is told."""
        ...

    async def reservations(self) -> list[Reservation]:
        """Return the reservations, also those to come."""
        ...

    async def jobs(self, mark: str, *, complete: bool = True) -> dict[str, Job]:
        """Return our jobs that Slurm has in memory, the newest of each attempt, by the attempt's printed key.

        Without `complete`, jobs whose number was never learnt may be left out, where that costs less.
        """
        ...

    async def job(self, number: str) -> Job:
        """Return what is known of one job: by the controller, else by the accounting where there is one."""
        ...

    async def keeps_accounts(self) -> bool:
        """Say whether the cluster has slurmdbd, and it can be asked."""
        ...

    async def accounted(self, since: datetime, until: datetime, mark: str, work_dir: str) -> list[Accounted]:
        """Return our jobs of a time as the accounting tells them."""
        ...

    async def submit(self, batch: Batch, script: str, run_as: str = "") -> str:
        """Submit a batch script, without its first line `#!/bin/sh`; return the job's number.

        With `run_as`, here and below, it is a job of that user and not of ours.

        Raises:
            EngineRefused: Slurm will not take it.
            EngineUnavailable: no answer; it may have taken effect.
        """
        ...

    async def cancel(self, number: str, run_as: str = "") -> None:
        """Cancel a job; quiet when it is gone."""
        ...

    async def wake(self, number: str, run_as: str = "") -> None:
        """Send the runner of a job its signal; quiet when it is gone."""
        ...

    async def drain(self, node: str, reason: str) -> bool:
        """Close a node; False when this user may not."""
        ...

    async def resume(self, node: str) -> bool:
        """Open a node; False when this user may not."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


IsOf = Callable[[str, str], bool]
"""Says whether a job of a user of Slurm can be that of an attempt, by its printed key: anyone can write a comment."""


def attempt_of(comment: str, mark: str) -> str:
    """Return the attempt's printed key in a comment of ours, empty in any other."""
    name, _, key = comment.removeprefix("dujiang:").partition(":")
    return key if comment.startswith("dujiang:") and name == mark else ""


def newest(mark: str, listed: Iterable[tuple[str, str, str, str, str]], is_of: IsOf) -> dict[str, Job]:
    """Return our jobs of a listing: of each attempt the newest that is not over.

    Args:
        mark: of this platform.
        listed: number, state, user, reason and comment of each job.
        is_of: says whether a job with this comment and user is ours.
    """
    found: dict[str, Job] = {}
    for number, state, user, reason, comment in listed:
        key = attempt_of(comment, mark)
        before = found.get(key)
        if key and (before is None or _rank(state, number) > _rank(before.state, before.number)) and is_of(key, user):
            found[key] = Job(number, state, "" if reason == "None" else reason)
    return found


def _rank(state: str, number: str) -> tuple[bool, int]:
    """Order the jobs of one attempt: what is not over counts before what is."""
    return not words.is_over(state), int(number)
