"""`dujiang convert`: work described for Kubernetes, Kubeflow or Slurm, in our words. Asks no server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dujiang.cli.exits import Exit
from dujiang.cli.output import clean, note, write_json
from dujiang.cli.session import Json, Stop

if TYPE_CHECKING:
    from dujiang.jobs.converting import Conversion


def convert(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="A batch script, or objects of Kubernetes; - is standard input."),
    ],
    json: Json = False,
) -> None:
    """Write work of Kubernetes, Kubeflow or Slurm as jobs in YAML, with what was not kept."""
    from dujiang.jobs.converting import to_yaml

    found = _read(files)
    if json:
        write_json([one for conversion in found for one in _as_json(conversion)])
        return
    sys.stdout.write("---\n".join(to_yaml(conversion) for conversion in found))
    lost = sum(not one.kept for conversion in found for item in conversion.items for one in item.notes)
    if lost and sys.stdout.isatty():
        note(f"Not kept: {lost}; the comments say what and why. `dujiang submit` takes the file as it is, too.")


def _read(files: Sequence[str]) -> list[Conversion]:
    from dujiang.cli.submitting import read_source, show_problems
    from dujiang.jobs.spec import SpecInvalid

    found: list[Conversion] = []
    wrong = 0
    for file in files:
        source = read_source(file)
        try:
            found.append(converted(file, source))
        except SpecInvalid as error:
            wrong += int(error.facts["problem_count"])
            show_problems(file, source, error)
    if wrong:
        raise Stop(f"Nothing was converted: {wrong} problem{'s' if wrong > 1 else ''}.", Exit.USAGE)
    return found


def converted(file: str, source: bytes) -> Conversion:
    """Return the jobs of a file in somebody else's words, as they are meant here and now.

    Raises:
        SpecInvalid: it cannot be converted.
    """
    from dujiang.jobs.converting import Around
    from dujiang.jobs.converting import convert as convert_text

    return convert_text(source, Around(str(Path.cwd()), name_of(file), lambda moment: moment.astimezone()))


def name_of(file: str) -> str:
    """Return what a job is called that its file gives no name."""
    from dujiang.jobs.spec import mended_name

    return "job" if file == "-" else mended_name(Path(file).stem) or "job"


def show_lost(file: str, conversion: Conversion) -> None:
    """Write what was not kept on standard error, and how much is kept in another form."""
    shown = "standard input" if file == "-" else file
    sys.stdout.flush()
    for item in conversion.items:
        for one in item.notes:
            if not one.kept:
                place = f":{one.line}" if one.line is not None else ""
                words = " ".join(part for part in (one.what, one.why, one.instead) if part)
                sys.stderr.write(clean(f"{shown}{place}: {one.path}: {words}".replace("\n", " ")) + "\n")
    other = sum(one.kept for item in conversion.items for one in item.notes)
    if other:
        note(f"{shown}: {other} kept in another form; `dujiang convert {shown}` shows how.")


def _as_json(conversion: Conversion) -> list[dict[str, Any]]:
    return [
        {"source": item.source, "line": item.line, "spec": item.document, "notes": [asdict(one) for one in item.notes]}
        for item in conversion.items
    ]
