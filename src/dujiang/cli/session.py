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
    """Return the id of a job; see `find_work`. A task of an array is written ARRAY[INDEX].

    Raises:
        Stop: none, several, or an array as a whole.
    """
    found = find_work(client, ref, live_only=live_only)
    if not found.startswith("arr_"):
        return found
    raise Stop(f"{found} is an array; name one of its tasks, such as {found}[0]. `dujiang ps --array {found}` lists "
               "them.", Exit.USAGE)  # fmt: skip


def find_work(client: Any, ref: str, *, live_only: bool = False) -> str:
    """Return the id of a job or an array given by id, by a unique beginning or end of it, or by name.

    Several of one name: the one that has not ended, else the newest, which is said on standard error. With live_only
    they must not be told apart by guessing.

    Raises:
        Stop: none, or several.
    """
    from dujiang.kit.ids import is_id

    array, index = split_task(ref)
    if index is not None:
        return _task(client, find_work(client, array, live_only=live_only), index)
    if is_id(ref, "job") or is_id(ref, "arr"):
        return ref
    named = list(client.items("/v1/jobs", name=ref, all=True, arrays=True, most=200))
    named = [work for work in named if work.get("name") == ref]
    if named:
        return _choose(named, ref, live_only=live_only)
    body = ref.removeprefix("job_").removeprefix("arr_")
    if len(body) >= 4:
        jobs = list(client.items("/v1/jobs", all=True, most=20_000))
        ids_of_all = {job["id"] for job in jobs} | {job["array_id"] for job in jobs if job.get("array_id")}
        alike = sorted(ident for ident in ids_of_all if _matches(ident, body))
        if len(alike) == 1:
            return str(alike[0])
        if alike:
            ids = ", ".join(alike[:3])
            raise Stop(
                f'"{ref}" is the beginning or end of {len(alike)} jobs: {ids} ... Write more of it.', Exit.NOT_FOUND
            )
    known = {work["name"] for work in client.items("/v1/jobs", all=True, arrays=True, most=200)}
    raise Stop(
        f'There is no job "{ref}".{did_you_mean(ref, sorted(known))} `dujiang ps --all` lists them.', Exit.NOT_FOUND
    )


def work_path(ident: str) -> str:
    """Return the path of a job or an array."""
    return f"/v1/{'arrays' if ident.startswith('arr_') else 'jobs'}/{ident}"


def split_task(ref: str) -> tuple[str, str | None]:
    """Return the array and the indices of `ARRAY[INDICES]`; None for the indices of anything else."""
    array, bracket, indices = ref.partition("[")
    return (array, indices[:-1]) if bracket and indices.endswith("]") else (ref, None)


def _task(client: Any, array: str, index: str) -> str:
    if not array.startswith("arr_"):
        raise Stop(f"{array} is no array; leave out [{index}].", Exit.USAGE)
    if not index.isdigit():
        raise Stop(f"[{index}] is not one task; write one index.", Exit.USAGE)
    found = list(client.items("/v1/jobs", array=array, index=int(index), all=True, most=1))
    if not found:
        raise Stop(f"{array} has no task {index}; `dujiang show {array}` says which it has.", Exit.NOT_FOUND)
    return str(found[0]["id"])


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
