"""`dujiang ps`, `show`, `logs`, `cancel`, `queue`, `metrics`: what happens to work."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import (
    Column,
    ago,
    col,
    figure,
    lasted,
    listing,
    milli,
    moment,
    nodes_of,
    note,
    say,
    seconds,
    size,
    stated,
    write_facts,
    write_json,
)
from dujiang.cli.promised import model_of
from dujiang.cli.session import ENDED, Json, Project, Stop, connect, find_job, find_work, split_task, work_path

JobRef = Annotated[str, typer.Argument(metavar="JOB", help="Id, a unique beginning or end of one, or name.")]
_AWAY_FOR_S = 60.0
_LOOK_EVERY_S = 0.3
_MOST_NAMED = 16

_COLUMNS = (
    col("ID"),
    col("NAME"),
    Column("PROJECT", lambda job: job.get("project")),
    col("STATE"),
    col("REASON"),
    Column("ASKS FOR", lambda job: asked(job)),
    Column("NODE", lambda job: nodes_of(_last(job) or {})),
    Column("ATTEMPT", lambda job: (_last(job) or {}).get("number"), right=True),
    Column("SUBMITTED", lambda job: ago(job.get("created_at"))),
    Column("RAN", lambda job: lasted(job.get("started_at"), job.get("finished_at")), right=True),
)
_TASKS = Column("TASKS", lambda job: _counted(job.get("states")) or None)
"""Shown where there is an array."""


def ps(
    all: Annotated[bool, typer.Option("--all", "-a", help="Ended jobs too.")] = False,
    state: Annotated[
        list[str] | None, typer.Option("--state", "-s", help="PENDING, RUNNING ...; may be repeated.")
    ] = None,
    project: Project = None,
    name: Annotated[str | None, typer.Option("--name", help="Jobs of this name.")] = None,
    expand: Annotated[bool, typer.Option("--expand", help="Each task of an array in a line of its own.")] = False,
    array: Annotated[str | None, typer.Option("--array", help="The tasks of this array, ended ones too.")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Those that hold a place on this node now.")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Those of this cluster; or where nodes share a name.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many, the newest first.")
    ] = None,
    json: Json = False,
) -> None:
    """List jobs, the newest first; without --all those not ended. An array is one line, unless a place is named."""
    states = [each.upper() for each in state or []]
    with connect() as client:
        everything = all or bool(states) or array is not None or None
        of_array = None if array is None else find_work(client, array)
        as_one = None if expand or array is not None else True
        jobs = list(
            client.items(
                "/v1/jobs", most=limit, all=everything, state=states or None, project=project, name=name,
                array=of_array, arrays=as_one, node=node, cluster=cluster,
            )
        )  # fmt: skip
    place = node or cluster
    empty = f"Nothing of yours runs on {place}." if place else "There is no such job." if all or states or name else (
        "Nothing runs or waits. `dujiang submit FILE` submits a job; `dujiang ps --all` shows those that have ended."
    )  # fmt: skip
    columns = (*_COLUMNS[:5], _TASKS, *_COLUMNS[5:]) if any(job.get("states") for job in jobs) else _COLUMNS
    listing(jobs, columns, as_json=json, empty=empty)


def _counted(counts: Any) -> str:
    return ", ".join(f"{count} {name}" for name, count in (counts or {}).items())


def show(job: JobRef, json: Json = False) -> None:
    """Show a job with its attempts, or an array."""
    with connect() as client:
        found = client.get(work_path(find_work(client, job)))
        model = None if json else model_of(client, found)
    if json:
        write_json(found)
        return
    if found.get("states"):
        _show_array(found)
        return
    write_facts(
        [
            ("job", found["id"]),
            ("name", found.get("name")),
            ("task", f"{found['array_index']} of {found['array_id']}" if found.get("array_id") else None),
            ("project", found.get("project")),
            ("state", stated(found)),
            ("why", found.get("sentence")),
            ("class", _weighted(found)),
            ("asks for", asked(found)),
            ("submitted", _by(found)),
            ("started", moment(found.get("started_at")) if found.get("started_at") else None),
            ("finished", moment(found.get("finished_at")) if found.get("finished_at") else None),
            ("ran", lasted(found["started_at"], found.get("finished_at")) if found.get("started_at") else None),
            ("exit code", found.get("exit_code")),
            ("signal", found.get("signal")),
            ("nodes", _named(_last(found) or {})),
            ("address", ", ".join(found.get("endpoints") or [])),
            ("use", _used(found.get("use"))),
            ("exempt until", moment(found["exempt_until"]) if found.get("exempt_until") else None),
            ("model", model),
            ("checkpoint", found.get("checkpoint") if isinstance(found.get("checkpoint"), str) else None),
        ]
    )
    attempts = found.get("attempts") or []
    if attempts:
        sys.stdout.write("\n")
        listing(attempts, _ATTEMPTS, as_json=False, empty="")
    if found.get("state") in ENDED and found.get("state") != "COMPLETED":
        note(f"`dujiang explain {found['id']}` says why.")


def _named(attempt: Any) -> str | None:
    """Return the names of the nodes of an attempt on several; of very many the first."""
    names = list(dict.fromkeys(attempt.get("nodes") or []))
    more = f" and {len(names) - _MOST_NAMED} more; --json names all" if len(names) > _MOST_NAMED else ""
    return f"{len(names)}: {', '.join(names[:_MOST_NAMED])}{more}" if names[1:] else None


def _show_array(found: Any) -> None:
    began = found.get("started_at")
    write_facts(
        [
            ("array", found["id"]),
            ("name", found.get("name")),
            ("project", found.get("project")),
            ("state", stated(found)),
            ("tasks", f"{found.get('size')}: {_counted(found['states'])}"),
            ("wait for", _counted(found.get("reasons"))),
            ("indices", (found["spec"].get("array") or {}).get("indices")),
            ("at once", found.get("at_once")),
            ("class", _weighted(found)),
            ("asks for", asked(found)),
            ("submitted", _by(found)),
            ("started", moment(began) if began else None),
            ("finished", moment(found["finished_at"]) if found.get("finished_at") else None),
            ("ran", lasted(began, found.get("finished_at")) if began else None),
        ]
    )
    note(f"`dujiang ps --array {found['id']}` lists its tasks, `dujiang logs {found['id']}[INDEX]` what one wrote.")


_ATTEMPTS = (
    Column("ATTEMPT", lambda one: one.get("number"), right=True),
    col("STATE"),
    col("REASON"),
    Column("EXIT", lambda one: one.get("exit_code"), right=True),
    Column("SIGNAL", lambda one: one.get("signal"), right=True),
    Column("NODE", nodes_of),
    Column("STARTED", lambda one: moment(one.get("started_at"))),
    Column("RAN", lambda one: lasted(one.get("started_at"), one.get("finished_at")), right=True),
)


def logs(
    job: JobRef,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Of this attempt; else the last.")] = None,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Of this process of a job of several nodes.")] = 0,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only so many last lines.")] = None,
) -> None:
    """Write what a job wrote."""
    with connect() as client:
        ident = find_job(client, job)
        path = f"/v1/jobs/{ident}/logs"
        number = attempt or (_latest(client.get(f"/v1/jobs/{ident}")) if follow else None)
        written = 0
        if tail is not None and not (follow and number is None):
            with client.stream(path, attempt=number, rank=rank) as answer:
                lines: deque[bytes] = deque(maxlen=tail)
                part = b""
                for chunk in answer.iter_bytes():
                    written += len(chunk)
                    *whole, part = (part + chunk).split(b"\n")
                    lines.extend(line + b"\n" for line in whole)
                if part:
                    lines.append(part)
            _write(b"".join(lines))
        if follow:
            written = _follow(client, ident, number, rank, written, only=attempt is not None)
        elif tail is None:
            with client.stream(path, attempt=number, rank=rank) as answer:
                for chunk in answer.iter_bytes():
                    written += len(chunk)
                    _write(chunk)
        if not written and sys.stderr.isatty():
            found = client.get(f"/v1/jobs/{ident}")
            note(f"It has written nothing; it is {found.get('state')} ({found.get('reason') or 'no reason given'}).")


def _follow(client: Any, ident: str, number: int | None, rank: int, written: int, *, only: bool) -> int:
    """Write on from a byte offset of an attempt, then what the attempts after it write, until the job has ended.

    With only, until that attempt has ended. A stream ends with its attempt, and also when the server stops: what is
    left is asked for until the job itself says that there is no more. Returns how much the last one had written.
    """
    from dujiang.client import persist

    is_over = number is None
    while True:
        if number is not None and not is_over:
            written = _follow_attempt(client, f"/v1/jobs/{ident}/logs", number, rank, written)
        job = persist(lambda: client.get(f"/v1/jobs/{ident}"), for_s=_AWAY_FOR_S)
        states = {one["number"]: one["state"] for one in job["attempts"]}
        is_over = number is None or states.get(number, job["state"]) in ENDED
        if is_over and only:
            return written
        if is_over and (later := min((one for one in states if one > (number or 0)), default=None)) is not None:
            if number is not None:
                note(f"Attempt {later}:")
            number, written, is_over = later, 0, False
            continue
        if is_over and job["state"] in ENDED:
            return written
        time.sleep(_LOOK_EVERY_S)


def _follow_attempt(client: Any, path: str, number: int, rank: int, written: int) -> int:
    """Write on until the server ends the stream; a broken connection is taken up where it broke."""
    from dujiang.client import Unreachable, persist

    while True:
        try:
            with client.stream(path, attempt=number, rank=rank, follow=True, offset=written) as answer:
                for chunk in answer.iter_bytes():
                    written += len(chunk)
                    _write(chunk)
            return written
        except Unreachable as error:
            if not error.facts.get("started"):
                persist(lambda: client.get("/healthz"), for_s=_AWAY_FOR_S)


def _latest(job: Any) -> int | None:
    return max((one["number"] for one in job["attempts"]), default=None)


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def cancel(
    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB...", help="Ids, unique beginnings or ends of ids, or names; ARRAY[3-7] for some of its tasks."
        ),
    ],
    json: Json = False,
) -> None:
    """Stop jobs: their save signal, grace, then the end. What has ended already stays as it is."""
    from dujiang.client import Problem

    cancelled: list[dict[str, Any]] = []
    refusals: list[Problem] = []
    with connect() as client:
        wanted = [_to_cancel(client, ref) for ref in jobs]
        for ident, body in wanted:
            try:
                cancelled.append(client.post(f"{work_path(ident)}/cancel", body) or {"id": ident})
            except Problem as problem:
                refusals.append(problem)
                note(f"{ident}: {problem.sentence}")
    if json:
        write_json(cancelled)
    else:
        for job in cancelled:
            say(f"{job.get('id')}  {job.get('name', '')}  {job.get('state', '')}  {job.get('reason') or ''}".rstrip())
    if refusals:
        from dujiang.cli.exits import of_status

        raise typer.Exit(int(of_status(refusals[0].status)))


def _to_cancel(client: Any, ref: str) -> tuple[str, dict[str, Any]]:
    """Return what is to be stopped, and which tasks of it."""
    array, indices = split_task(ref)
    ident = find_work(client, array, live_only=True)
    if indices is None:
        return ident, {}
    if not ident.startswith("arr_"):
        raise Stop(f"{ident} is no array; leave out [{indices}].", Exit.USAGE)
    return ident, {"indices": indices}


def queue(project: Project = None, json: Json = False) -> None:
    """Show what waits, in the order in which it is considered, and why."""
    with connect() as client:
        answer = client.get("/v1/queue", project=project, limit=500)
        rows = answer.get("items", []) if isinstance(answer, dict) else answer
        cursor = answer.get("next_cursor") if isinstance(answer, dict) else None
        while cursor:
            answer = client.get("/v1/queue", project=project, limit=500, cursor=cursor)
            rows += answer["items"]
            cursor = answer.get("next_cursor")
    columns = (
        Column("POSITION", lambda job: job.get("position"), right=True),
        Column("ID", lambda job: job.get("id") or job.get("job_id")),
        col("NAME"),
        col("PROJECT"),
        Column("CLASS", _weighted),
        Column("ASKS FOR", lambda job: asked(job)),
        col("REASON"),
        Column("WAITS", lambda job: lasted(job.get("queued_at") or job.get("created_at"), None), right=True),
        Column("EARLIEST START", lambda job: ago(job.get("earliest_start"))),
    )
    listing(rows, columns, as_json=json, empty="Nothing waits. `dujiang ps` shows what runs.")


def metrics(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Id or name; without one, the platform's own.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the newest figures that a job reported; without a job, those of the platform itself."""
    with connect() as client:
        if job is None:
            sys.stdout.write(str(client.get("/metrics")))
            return
        answer = client.get(f"/v1/jobs/{find_job(client, job)}/metrics")
    empty = "It has reported no figures. Lines such as `step=12 loss=0.31` in its output become figures."
    listing(answer["metrics"], _METRICS, as_json=json, empty=empty)


_METRICS = (
    col("NAME"),
    Column("VALUE", lambda one: one["special"] if one.get("special") else figure(one.get("value")), right=True),
    col("STEP", right=True),
    col("ATTEMPT", right=True),
    Column("AT", lambda one: moment(one.get("at"))),
    col("POINTS", right=True),
)


def asked(job: Any) -> str:
    """Return what a job asks for, in a few words: `2 x 1/8 GPU, 4 cores, 16GiB`."""
    spec = job.get("spec") if isinstance(job.get("spec"), dict) else job
    wanted = spec.get("resources") or job.get("resources") or {}
    if not isinstance(wanted, dict) or not wanted:
        return "-"
    parts = []
    gpu = wanted.get("gpu")
    gpu_milli = wanted.get("gpu_milli") or (gpu.get("gpu_milli") if isinstance(gpu, dict) else None)
    if isinstance(gpu, dict) and not gpu_milli:
        model = f" {gpu['model']}" if gpu.get("model") else ""
        parts.append(f"{gpu.get('count') or gpu.get('fraction')}{model} GPU")
    elif gpu_milli:
        parts.append(f"{milli(gpu_milli)} GPU")
    cpu = milli(wanted["cpu_milli"]) if "cpu_milli" in wanted else wanted.get("cpu")
    memory = size(wanted["memory_bytes"]) if "memory_bytes" in wanted else wanted.get("memory")
    parts.append(f"{cpu} core{'' if str(cpu) == '1' else 's'}")
    if memory:
        parts.append(str(memory))
    nodes = spec.get("nodes") or 1
    return (f"{nodes} x " if nodes > 1 else "") + ", ".join(parts)


def _weighted(job: Any) -> str:
    spec = job.get("spec") if isinstance(job.get("spec"), dict) else job
    weight = spec.get("weight")
    if isinstance(job.get("weight_milli"), int):  # as scored by its use; the other is what it was submitted with
        weight = job["weight_milli"] / 1000
    return (
        f"{spec.get('class') or job.get('job_class') or '-'}{f' {weight:g}' if isinstance(weight, int | float) else ''}"
    )


def _used(use: Any) -> str | None:
    """Return what a job did with what it holds: `62% of its devices over 20m`, and a notice that it is idle."""
    if not isinstance(use, dict) or use.get("mean") is None:
        return None
    told = f"{use['mean']:.0%} of its {'devices' if use.get('of') == 'devices' else 'cores'}"
    told += f" over {seconds(use.get('window_s'))}"
    return f"{told}. {use['sentence']}" if use.get("sentence") else told


def _by(job: dict[str, Any]) -> str:
    who = job.get("submitted_by") or job.get("user") or job.get("created_by")
    return moment(job.get("created_at")) + (f" by {who}" if who else "")


def _last(job: Any) -> dict[str, Any] | None:
    attempts = job.get("attempts")
    if attempts:
        return dict(attempts[-1])
    return dict(job["attempt"]) if isinstance(job.get("attempt"), dict) else None
