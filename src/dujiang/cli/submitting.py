"""`dujiang submit`: files to specifications, in our words or those of Kubernetes and Slurm, specifications to jobs.

Everything is checked here first, so that nothing is submitted when one of several files is wrong, and so that problems
show the line they are on. The server checks again.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, note, write_json
from dujiang.cli.session import Json, Project, Stop, connect, work_path

if TYPE_CHECKING:
    from dujiang.jobs.spec import JobSpec, SpecInvalid

_AGAIN_FOR_S = 15.0


def submit(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="YAML, JSON or a batch script; - is standard input.")
    ],
    project: Project = None,
    name: Annotated[str | None, typer.Option("--name", help="Call the job this.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", help="Count it in this queue.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Run it in this cluster alone.")] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="When it must be over: a time with its zone, or 2d from now.")
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="JOB[:ok|any|notok]", help="Start once that job has ended; may be repeated."),
    ] = None,
    array: Annotated[
        str | None, typer.Option("--array", metavar="0-9,15%K", help="Many tasks: their indices, and how many at once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and exit as the job did.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the files and write the jobs as understood.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say where, when and at what price it would start.")
    ] = False,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Submitting again with the same key gives the same jobs.")
    ] = None,
    json: Json = False,
) -> None:
    """Submit jobs from specification files, objects of Kubernetes, or batch scripts of Slurm."""
    specs = read_files(files)
    if name is not None:
        specs = [_renamed(spec, name) for spec in specs]
    if project is not None:
        specs = [replace(spec, project=project) for spec in specs]
    if queue is not None or cluster is not None or deadline is not None:
        specs = [_changed(spec, queue, cluster, deadline) for spec in specs]
    if after or array is not None:
        specs = [_ordered(spec, after or [], array) for spec in specs]
    if check:
        write_json([spec.document() for spec in specs])
        return
    with connect() as client:
        if dry_run:
            from dujiang.cli import trying

            trying.dry_run(client, specs, as_json=json)
            return
        jobs = _send(client, specs, idempotency_key or secrets.token_urlsafe(24))
        if wait:
            from dujiang.cli.watching import watch

            code = watch(client, [str(job["id"]) for job in jobs], quiet=json)
            if json:
                write_json([client.get(work_path(job["id"])) for job in jobs])
            raise typer.Exit(code)
        if json:
            write_json(jobs)
            return
        for job in jobs:
            sys.stdout.write(f"{job['id']}  {clean(job.get('name'))}  {job.get('state', '')}\n")
    if sys.stdout.isatty():
        note(f"Follow it with `dujiang logs -f {jobs[0]['id']}`; `dujiang explain` says why it waits or failed.")


def read_files(files: Sequence[str]) -> list[JobSpec]:
    """Return the jobs of files in order, with the submitter's folders and secrets filled in.

    Raises:
        Stop: a file cannot be read or is wrong; every problem of every file has been written on standard error.
    """
    from dujiang.jobs.spec import SpecInvalid

    specs: list[JobSpec] = []
    wrong = 0
    for file in files:
        source = read_source(file)
        try:
            specs += _understand(file, source)
        except SpecInvalid as error:
            wrong += int(error.facts["problem_count"])
            show_problems(file, source, error)
    if wrong:
        raise Stop(f"Nothing was submitted: {wrong} problem{'s' if wrong > 1 else ''}.", Exit.USAGE)
    return specs


def read_source(file: str) -> bytes:
    """Return what a file, or standard input, has; one byte more than is taken shows that it is too much.

    Raises:
        Stop: it cannot be read.
    """
    from dujiang.kit.spec.yaml import MAX_BYTES

    if file == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with Path(file).open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror or error}.", Exit.USAGE) from error


def _understand(file: str, source: bytes) -> list[JobSpec]:
    from dujiang.cli.converting import converted, name_of, show_lost
    from dujiang.jobs.converting import is_foreign
    from dujiang.jobs.spec import parse, resolve_secrets

    folder = Path.cwd() if file == "-" else Path(file).absolute().parent
    if is_foreign(source):
        conversion = converted(file, source)
        show_lost(file, conversion)
        specs = [item.spec for item in conversion.items]
    else:
        specs = parse(source, default_name=name_of(file))
    return [
        _placed(resolve_secrets(spec, os.environ, lambda path: _secret_text(folder, path)), folder) for spec in specs
    ]


def _secret_text(folder: Path, path: str) -> str:
    with (folder / Path(path).expanduser()).open(encoding="utf-8") as handle:
        return handle.read(32_769)


def _placed(spec: JobSpec, folder: Path) -> JobSpec:
    """A working folder written relative is meant from the file's own folder."""
    if spec.workdir is None:
        return spec
    return replace(spec, workdir=os.path.normpath(folder / Path(spec.workdir).expanduser()))


def _renamed(spec: JobSpec, name: str) -> JobSpec:
    from dujiang.jobs.spec import read

    return replace(spec, name=read({"run": "true", "name": name}).name)


def _changed(spec: JobSpec, queue: str | None, cluster: str | None, deadline: str | None) -> JobSpec:
    """Return the job with what flags say instead of its own words.

    Raises:
        SpecInvalid: one means nothing, or does not go with the rest of the job.
    """
    from dujiang.jobs.spec import read

    document = spec.document(reveal_secrets=True)
    said = {"queue": queue, "deadline": deadline}
    document |= {name: value for name, value in said.items() if value is not None}
    if cluster is not None:
        document["placement"] = {**document.get("placement", {}), "cluster": cluster}
    return read(document)


def _ordered(spec: JobSpec, after: Sequence[str], array: str | None) -> JobSpec:
    """Return a specification with what the command line says of what it waits for, and of its tasks."""
    from dujiang.jobs.spec import read

    words: dict[str, Any] = {"after": list(after)} if after else {}
    if array is not None:
        words["array"] = int(array) if array.isdigit() else array
    said = read({"run": "true", "name": spec.name, **words})
    named = {one.job for one in said.after}
    kept = [one for one in spec.after if one.job not in named]
    return replace(spec, after=(*kept, *said.after), array=said.array or spec.array)


def show_problems(file: str, source: bytes, error: SpecInvalid) -> None:
    """Write each problem of a file with the line it is on, on standard error."""
    from dujiang.jobs.spec import excerpt

    text = source.decode("utf-8", "replace")
    shown = "standard input" if file == "-" else file
    sys.stdout.flush()
    for problem in error.problems:
        place = f":{problem.line}:{problem.column}" if problem.line is not None else ""
        path = f" {problem.path}:" if problem.path else ""
        sys.stderr.write(clean(f"{shown}{place}:{path} {problem.message}") + "\n")
        for line in excerpt(problem, text):
            sys.stderr.write(f"{line}\n")
        if problem.instead:
            sys.stderr.write(clean(f"        {problem.instead}") + "\n")
    left = int(error.facts["problem_count"]) - len(error.problems)
    if left > 0:
        sys.stderr.write(f"{shown}: and {left} more\n")


def _send(client: Any, specs: Sequence[JobSpec], key: str) -> list[dict[str, Any]]:
    """Submit all or none; a connection that breaks is tried again with the same key, so nothing is submitted twice."""
    from dujiang.client import persist

    documents = [spec.document(reveal_secrets=True) for spec in specs]
    if len(documents) == 1:
        body = {"spec": documents[0]}
        return [persist(lambda: client.post("/v1/jobs", body, key=key), for_s=_AGAIN_FOR_S, only_if_started=True)]
    batch = {"specs": documents}
    answer = persist(lambda: client.post("/v1/jobs/batch", batch, key=key), for_s=_AGAIN_FOR_S, only_if_started=True)
    items: list[dict[str, Any]] = answer["items"]
    return items
