"""The route that turns work described for Kubernetes, Kubeflow or Slurm into jobs here; nothing is submitted."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from dujiang.jobs.converting import Around, Conversion, Note, convert, document_yaml, to_yaml
from dujiang.kit.http import Model
from dujiang.kit.spec.yaml import MAX_BYTES
from dujiang.tenancy.access import JOURNALED, Caller, needs
from dujiang.tenancy.domain import Permission

Submitter = Annotated[Caller, Depends(needs(Permission.JOB_SUBMIT))]


class ConvertIn(Model):
    """Work in somebody else's words."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_BYTES)]
    """A batch script of Slurm, or YAML or JSON with objects of Kubernetes: Job, Pod, PyTorchJob, TFJob, JAXJob, MPIJob,
    TrainJob."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)] = "job"
    """What a batch script is called that gives itself no name."""
    workdir: Annotated[str | None, Field(max_length=4096)] = None
    """The folder in which a batch script would be submitted."""


class NoteOut(Model):
    """Something that was not kept, or is kept in another form."""

    path: str
    """The field or option of the original."""
    what: str
    why: str
    instead: str
    """What to do."""
    line: int | None
    column: int | None
    kept: bool
    """It is there in another form."""


class ConvertedOut(Model):
    """One piece of work as a job."""

    source: str
    """What it was: `batch/v1 Job "train"`."""
    line: int | None
    spec: dict[str, Any]
    """As `POST /v1/jobs` takes it; secrets refer to variables of the submitter and are to be filled in."""
    yaml: str
    notes: list[NoteOut]


class ConversionOut(Model):
    """What became of a text."""

    items: list[ConvertedOut]
    """In the order of the text."""
    notes: list[NoteOut]
    """On what stands beside the work."""
    yaml: str
    """All of it as one text, with the notes as comments."""


def router() -> APIRouter:
    """Return the route."""
    routes = APIRouter(prefix="/v1", tags=["jobs"])

    @routes.post("/convert")
    async def convert_work(caller: Submitter, body: ConvertIn) -> ConversionOut:
        """Turn work described for Kubernetes, Kubeflow or Slurm into jobs, and say what was not kept."""
        caller.request.scope[JOURNALED] = True  # it changes nothing
        around = Around(body.workdir, body.name)
        conversion = await asyncio.to_thread(convert, body.text, around)  # a large text takes seconds
        return await asyncio.to_thread(_out, conversion)

    return routes


def _out(conversion: Conversion) -> ConversionOut:
    items = [
        ConvertedOut(
            source=item.source, line=item.line, spec=dict(item.document), yaml=document_yaml(item.document),
            notes=_notes(item.notes),
        )
        for item in conversion.items
    ]  # fmt: skip
    return ConversionOut(items=items, notes=_notes(conversion.notes), yaml=to_yaml(conversion))


def _notes(notes: tuple[Note, ...]) -> list[NoteOut]:
    return [NoteOut.model_validate(note) for note in notes]
