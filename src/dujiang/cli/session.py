"""How a command reaches the server, and how what people type becomes an object there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import note
from dujiang.kit.errors import DujiangError, did_you_mean

Json = Annotated[bool, typer.Option("--json", help="Write JSON on standard output, and nothing else.")]
Project = Annotated[str | None, typer.Option("--project", "-p", help="Name or id of a project.")]


class Stop(DujiangError):
    """A command ends here: a sentence for people and an exit code."""

    def __init__(self, sentence: str, exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


@contextmanager
def connect() -> Iterator[Any]:
    """Yield a client of this account's server.

    Raises:
        Stop: nothing tells where a server is.
    """
    from dujiang.client import Client, home_folder, locate

    connection = locate()
    if connection is None:
        where = home_folder()
        raise Stop(f"No server is known under {where}; start one with `dujiang up`, or name one with `dujiang login "
                   f"--url`.", Exit.UNREACHABLE)  # fmt: skip
    with Client(connection) as client:
        yield client


def find_job(client: Any, ref: str, *, live_only: bool = False) -> str:
    """Return the id of a job given by id, by a unique beginning or end of it, or by name.

    Several jobs of one name: the one that has not ended, else the newest, which is said on standard error. With
    live_only they must not be told apart by guessing.

    Raises:
        Stop: none, or several.
    """
    from dujiang.kit.ids import is_id

    if is_id(ref, "job"):
        return ref
    named = list(client.items("/v1/jobs", name=ref, all=True, most=200))
    named = [job for job in named if job.get("name") == ref]
    if named:
        return _choose(named, ref, live_only=live_only)
    body = ref.removeprefix("job_")
    if len(body) >= 4:
        jobs = client.items("/v1/jobs", all=True, most=20_000)
        alike = [job for job in jobs if _matches(job["id"], body)]
        if len(alike) == 1:
            return str(alike[0]["id"])
        if alike:
            ids = ", ".join(job["id"] for job in alike[:3])
            raise Stop(
                f'"{ref}" is the beginning or end of {len(alike)} jobs: {ids} ... Write more of it.', Exit.NOT_FOUND
            )
    known = {job["name"] for job in client.items("/v1/jobs", all=True, most=200)}
    raise Stop(
        f'There is no job "{ref}".{did_you_mean(ref, sorted(known))} `dujiang ps --all` lists them.', Exit.NOT_FOUND
    )


ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})


def _choose(named: list[dict[str, Any]], ref: str, *, live_only: bool) -> str:
    named.sort(key=lambda job: job["id"], reverse=True)
    live = [job for job in named if job.get("state") not in ENDED]
    if live_only and len(live) > 1:
        ids = ", ".join(job["id"] for job in live[:5])
        raise Stop(f'{len(live)} jobs called "{ref}" have not ended: {ids}. Name them by id.', Exit.REFUSED)
    chosen = (live or named)[0]
    if len(named) > 1:
        which = "one that runs or waits" if live else "newest"
        note(f'{len(named)} jobs are called "{ref}"; this is {chosen["id"]}, the {which}.')
    return str(chosen["id"])


def _matches(ident: str, part: str) -> bool:
    body = ident.partition("_")[2]
    return body.startswith(part) or body.endswith(part)


def user_name() -> str:
    """Return the account's name on this machine, for a default."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "admin"


def is_interactive() -> bool:
    """Say whether a person sits at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()
