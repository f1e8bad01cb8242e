"""What the routes of models and deployments take and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from dujiang.kit.http import Model as Schema
from dujiang.models.domain import (
    Deployment,
    DeploymentState,
    Lineage,
    ModelVersion,
    Service,
    VersionState,
)
from dujiang.models.store.registry import Listed

NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class ModelOut(Schema):
    """A registered model."""

    id: str
    name: str
    project_id: str
    project: str
    versions: int
    latest_version: str | None
    """The greatest number that is READY."""
    latest_at: datetime | None
    created_at: datetime
    created_by: str


class ModelDetailOut(ModelOut):
    """A registered model with what its aliases name."""

    aliases: dict[str, str]


class VersionOut(Schema):
    """A version of a model."""

    id: str
    model: str
    version: str
    project_id: str
    state: VersionState
    reason: str
    sentence: str
    aliases: list[str]
    metrics: dict[str, float]
    """What the job reported last."""
    digest: str | None
    """Of the file; null until READY."""
    bytes: int | None
    job_id: str
    attempt: int
    created_at: datetime
    created_by: str
    ready_at: datetime | None


class TensorOut(Schema):
    """An input or output of a model, as the Open Inference Protocol describes it."""

    name: str
    datatype: str
    shape: list[int]


class LineageOut(Schema):
    """What a version was made from."""

    job_id: str
    attempt: int
    job_name: str
    path: str
    """Of the file, in the output folder of the job."""
    submitted_by: str
    params: dict[str, str | int | float | bool]
    inputs: dict[str, dict[str, Any]]
    """Name -> digest, bytes, method."""
    metrics: dict[str, float]
    environment: dict[str, Any]
    """`python` and `packages`."""


class VersionDetailOut(VersionOut):
    """A version with all that is known of it."""

    inputs: list[TensorOut]
    outputs: list[TensorOut]
    lineage: LineageOut


class AliasIn(Schema):
    """What an alias is to name."""

    version: Annotated[str, Field(min_length=1, max_length=63, description="Number, alias, or `latest`.")]


class ResourcesIn(Schema):
    """What a service gets, as in a job's specification."""

    cpu: str | int | float | None = None
    memory: str | int | None = None
    disk: str | int | None = None
    gpu: str | int | float | dict[str, Any] | None = None


class DeployIn(Schema):
    """A version to deploy; a deployment of that name is moved to it."""

    model: Annotated[str, Field(min_length=1, max_length=63, description="Name or id.")]
    version: Annotated[str | None, Field(min_length=1, max_length=63)] = None
    """Number, alias, or `latest`, which it is when left out."""
    alias: Annotated[str | None, Field(min_length=1, max_length=63)] = None
    name: Annotated[str | None, Field(pattern=NAME)] = None
    """Of the deployment; the model's when left out."""
    project: Annotated[str | None, Field(min_length=1, max_length=63)] = None
    """Where the model is registered; needed only where several projects have one of the name."""
    resources: ResourcesIn | None = None


class MoveOut(Schema):
    """What a deployment is being moved to."""

    version: str
    job_id: str
    resources: dict[str, Any]


class DeploymentOut(Schema):
    """A name under which a version of a model answers."""

    id: str
    name: str
    project_id: str
    project: str
    model: str
    version: str
    """In use."""
    state: DeploymentState
    reason: str
    sentence: str
    url: str | None
    """Of the model; add `/infer`."""
    job_id: str
    resources: dict[str, Any]
    moving_to: MoveOut | None
    created_at: datetime
    created_by: str
    state_since: datetime
    removed_at: datetime | None


def model_out(one: Listed, projects: Mapping[str, str]) -> ModelOut:
    """Return a model as answered."""
    model = one.model
    return ModelOut(
        id=model.id, name=model.name, project_id=model.project_id, project=projects.get(model.project_id, ""),
        versions=one.versions, latest_version=str(one.latest) if one.latest else None, latest_at=one.latest_at,
        created_at=model.created_at, created_by=model.created_by,
    )  # fmt: skip


def version_out(one: ModelVersion, aliases: Sequence[str]) -> VersionOut:
    """Return a version as answered in a listing."""
    return VersionOut(**_version(one, aliases))


def version_detail_out(one: ModelVersion, aliases: Sequence[str], lineage: Lineage) -> VersionDetailOut:
    """Return a version with all that is known of it."""
    return VersionDetailOut(
        **_version(one, aliases),
        inputs=one.signature.get("inputs", []),
        outputs=one.signature.get("outputs", []),
        lineage=LineageOut(
            job_id=one.job_id, attempt=one.attempt, job_name=lineage.job_name, path=lineage.path,
            submitted_by=one.created_by, params=dict(lineage.params), inputs=dict(lineage.inputs),
            metrics=dict(one.metrics), environment=dict(lineage.environment),
        ),
    )  # fmt: skip


def deployment_out(one: Deployment, projects: Mapping[str, str]) -> DeploymentOut:
    """Return a deployment as answered."""
    return DeploymentOut(
        id=one.id, name=one.name, project_id=one.project_id, project=projects.get(one.project_id, ""),
        model=one.model, version=one.service.version, state=one.state, reason=one.reason, sentence=one.sentence,
        url=one.url or None, job_id=one.service.job_id, resources=dict(one.service.resources),
        moving_to=_move_out(one.next) if one.next else None, created_at=one.created_at, created_by=one.created_by,
        state_since=one.state_since, removed_at=one.removed_at,
    )  # fmt: skip


def _version(one: ModelVersion, aliases: Sequence[str]) -> dict[str, Any]:
    has_file = one.state is VersionState.READY
    return {
        "id": one.id, "model": one.model, "version": str(one.number), "project_id": one.project_id,
        "state": one.state, "reason": one.reason, "sentence": one.sentence, "aliases": list(aliases),
        "metrics": dict(one.metrics), "digest": one.digest if has_file else None,
        "bytes": one.bytes if has_file else None, "job_id": one.job_id, "attempt": one.attempt,
        "created_at": one.created_at, "created_by": one.created_by, "ready_at": one.ready_at,
    }  # fmt: skip


def _move_out(service: Service) -> MoveOut:
    return MoveOut(version=service.version, job_id=service.job_id, resources=dict(service.resources))
