"""`dujiang explain` and `dujiang snapshot`: why a job waits or failed, live or from a saved snapshot.

With a snapshot no server is asked: the scheduler's own functions run in this process, and say what they said there.
"""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.jobs import JobRef
from dujiang.cli.output import clean, heading, milli, note, size, write_facts, write_json
from dujiang.cli.session import Json, Stop, connect, find_job

if TYPE_CHECKING:
    from dujiang.scheduling.domain.explaining import Explainer

snapshot_app = typer.Typer(help="The scheduler's snapshot as a file, to explain from later.", no_args_is_help=True)
SnapshotFile = Annotated[Path, typer.Argument(metavar="FILE", help="JSON; compressed when it ends in .gz.")]
_MOST_NAMED = 3


def explain(
    job: JobRef,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also what else would start it now: takes longer.")
    ] = False,
    snapshot: Annotated[
        Path | None, typer.Option("--snapshot", metavar="FILE", help="Of this saved snapshot; asks no server.")
    ] = None,
    json: Json = False,
) -> None:
    """Say why a job waits and when it starts, or why it failed and what to do."""
    if snapshot is not None:
        answer = _from_file(snapshot, job, widely=everything)
    else:
        with connect() as client:
            answer = client.get(f"/v1/jobs/{find_job(client, job)}/explain", all=everything or None)
    if json:
        write_json(answer)
        return
    headline, _, rest = clean(answer["text"]).partition("\n")
    heading(headline)
    sys.stdout.write(rest.rstrip("\n") + "\n" if rest else "")


@snapshot_app.command()
def save(file: SnapshotFile) -> None:
    """Save everything that the scheduler looks at, as of now."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with (
            connect() as client,
            client.stream("/v1/snapshot", accept="application/json") as answer,
            gzip.open(partial, "wb", 6) if file.suffix == ".gz" else partial.open("wb") as written,
        ):
            for chunk in answer.iter_bytes():
                written.write(chunk)
        partial.replace(file)
    except OSError as error:
        raise Stop(f"{file} cannot be written: {error.strerror or error}.", Exit.FAILED) from error
    finally:
        partial.unlink(missing_ok=True)
    note(f"Saved in {file} ({size(file.stat().st_size)}). `dujiang explain JOB --snapshot {file}` explains from it.")


@snapshot_app.command()
def show(file: SnapshotFile, json: Json = False) -> None:
    """Say in short what a saved snapshot holds."""
    from dujiang.scheduling.domain.saved import summary

    explainer = read_snapshot(file)
    found = summary(explainer.snapshot, explainer.now)
    if json:
        write_json(found)
        return
    write_facts(
        [
            ("taken", f"{found['at']} UTC"),
            ("clusters", ", ".join(found["clusters"])),
            ("nodes", f"{found['nodes']}, {found['open_nodes']} open"),
            ("devices", f"{found['devices']}, {milli(found['free_gpu_milli'])} free"),
            ("running", found["running"]),
            ("waiting", f"{found['waiting']}, {found['starting']} of them start in the next plan"),
        ]
    )


def read_snapshot(file: Path) -> Explainer:
    """Return what a file holds.

    Raises:
        Stop: it cannot be read, or is no snapshot.
    """
    from dujiang.scheduling.domain.explaining import Explainer
    from dujiang.scheduling.domain.saved import BadSnapshot, load

    try:
        return Explainer(*load(file.read_bytes()))
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror or error}.", Exit.USAGE) from error
    except BadSnapshot as error:
        raise Stop(f"{file}: {error.sentence}", Exit.USAGE) from error


def _from_file(file: Path, ref: str, *, widely: bool) -> Any:
    from dujiang.health.schemas import explanation_out
    from dujiang.health.waits import explain_saved
    from dujiang.kit.errors import NotFound

    explainer = read_snapshot(file)
    try:
        told = explain_saved(explainer, _id_of(explainer, ref), widely=widely)
    except NotFound as error:
        raise Stop(f"{error.sentence} Snapshots know jobs by id, not by name.", Exit.NOT_FOUND) from error
    return explanation_out(told).model_dump(mode="json")


def _id_of(explainer: Explainer, ref: str) -> str:
    """Return the job that is meant by a unique beginning or end of its id; what is not unique, as it is."""
    known = {*explainer.requests, *(holding.job_id for holding in explainer.snapshot.holdings)}
    if ref in known:
        return ref
    body = ref.removeprefix("job_")
    parts = ((job_id, job_id.partition("_")[2] or job_id) for job_id in known)
    alike = sorted(job_id for job_id, part in parts if part.startswith(body) or part.endswith(body))
    if len(alike) > 1:
        ids = ", ".join(alike[:_MOST_NAMED])
        raise Stop(f'"{ref}" is the beginning or end of {len(alike)} jobs: {ids} ... Write more of it.', Exit.NOT_FOUND)
    return alike[0] if alike else ref
